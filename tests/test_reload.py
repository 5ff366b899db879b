"""Pricing and keys in force: swaps, bad files, grace, and who notices what."""

# ruff: noqa: ASYNC240 - the tests write files; nobody else runs on their loops

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mpp_authz import challenge, keys, pricing, reload
from mpp_authz.metrics import Metrics
from mpp_authz.pricing import Network, Offer, Pricing, RoutePrice
from mpp_authz.reload import Watched

ROUTE = RoutePrice((Offer("usdc", "tempo", "moderato", "0xc0", "0xaa", "50000"),), expires_in=300, lease=90)
OLD = Pricing(
    pricing.VERSION,
    "r1",
    {"shop/llm/a": ROUTE, "shop/llm/b": ROUTE},
    {"moderato": Network("moderato", "tempo", 42431, ("http://127.0.0.1:1",))},
)
CHEAP = dataclasses.replace(ROUTE, offers=(dataclasses.replace(ROUTE.offers[0], amount="1"),))
NEW = Pricing(pricing.VERSION, "r2", {"shop/llm/a": CHEAP}, {})
KEYS = keys.Keys(challenge.Keyring((b"k" * 32,)), {})


class Folders:
    """A folder of artifacts and one of secrets, each filled as kubelet does it: `..data` is swapped."""

    def __init__(self, root: Path) -> None:
        self.config = root / "config"
        self.secrets = root / "secrets"
        self._swaps = 0
        self.publish(self.config, pricing.FILE_NAME, pricing.dump(OLD))
        self.publish(self.secrets, keys.FILE_NAME, keys.dump(KEYS))

    def publish(self, folder: Path, name: str, text: str) -> None:
        folder.mkdir(exist_ok=True)
        self._swaps += 1
        version = folder / f"..{self._swaps}"
        version.mkdir()
        (version / name).write_text(text)
        link = folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(folder / "..data")
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")

    def price(self, text: str) -> None:
        self.publish(self.config, pricing.FILE_NAME, text)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def watched(folders: Folders, metrics: Metrics, clock: Clock) -> Watched:
    return await Watched.start(folders.config, folders.secrets, metrics, clock=clock)


@contextlib.asynccontextmanager
async def watching(watched: Watched) -> AsyncIterator[None]:
    task = asyncio.create_task(watched.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not happened():  # noqa: ASYNC110 - a file system has no event to wait for
            await asyncio.sleep(0.005)  # between two looks, with the limit above


def reloads(metrics: Metrics, file: str, result: str) -> float:
    return metrics.registry.get_sample_value("mpp_reloads_total", {"file": file, "result": result}) or 0.0


async def test_start_reads_both_files(watched: Watched, metrics: Metrics) -> None:
    assert watched.pricing == OLD
    assert watched.keys == KEYS
    assert watched.route("shop/llm/a") == ROUTE
    assert watched.network("moderato") == OLD.networks["moderato"]
    assert metrics.registry.get_sample_value("mpp_pricing_info", {"revision": "r1"}) == 1


async def test_a_missing_pricing_file_is_an_error_with_its_fix(folders: Folders, metrics: Metrics) -> None:
    (folders.config / "pricing.json").unlink()
    with pytest.raises(reload.StartError, match=r"config/pricing\.json: not found; the operator publishes it"):
        await Watched.start(folders.config, folders.secrets, metrics)


async def test_missing_keys_are_an_error_with_its_fix(folders: Folders, metrics: Metrics) -> None:
    with pytest.raises(reload.StartError, match=r"authz\.json: not found; it holds the signing keys: mount"):
        await Watched.start(folders.config, folders.config, metrics)


async def test_a_file_that_cannot_be_read_is_an_error(folders: Folders, metrics: Metrics) -> None:
    (folders.config / "pricing.json").unlink()
    (folders.config / "pricing.json").mkdir()
    with pytest.raises(reload.StartError, match=r"pricing\.json: cannot be read: Is a directory"):
        await Watched.start(folders.config, folders.secrets, metrics)


async def test_a_bad_file_at_start_is_an_error_that_names_the_field(folders: Folders, metrics: Metrics) -> None:
    folders.price('{"version": 7}')
    with pytest.raises(reload.StartError, match=r"pricing: version: expected 1, got 7"):
        await Watched.start(folders.config, folders.secrets, metrics)


async def test_reload_now_swaps_and_says_so(folders: Folders, watched: Watched) -> None:
    changes: list[str] = []
    watched.on_change(lambda: changes.append(watched.pricing.revision))
    assert not await watched.reload_now()

    folders.price(pricing.dump(NEW))

    assert await watched.reload_now()
    assert watched.pricing == NEW
    assert changes == ["r2"]


async def test_a_bad_file_is_counted_and_logged_once_and_the_last_good_one_stays(
    folders: Folders, watched: Watched, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    folders.price("{")

    for _ in range(3):
        assert not await watched.reload_now()

    assert watched.pricing == OLD
    assert reloads(metrics, "pricing.json", "refused") == 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.message for record in errors] == ["file refused, the last good one stays"]


async def test_bad_keys_leave_a_new_pricing_alone(
    folders: Folders, watched: Watched, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    folders.publish(folders.secrets, keys.FILE_NAME, '{"version": 1, "challengeKeys": ["hunter2"]}')
    folders.price(pricing.dump(NEW))

    await watched.reload_now()

    assert (watched.pricing, watched.keys) == (NEW, KEYS)
    assert reloads(metrics, "authz.json", "refused") == 1
    assert "hunter2" not in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("damage", [b"\xff\xfe", None], ids=["not UTF-8", "gone"])
async def test_a_file_that_is_put_right_again_is_no_change(
    folders: Folders, watched: Watched, metrics: Metrics, damage: bytes | None
) -> None:
    file = folders.config / "..data" / "pricing.json"
    text = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    assert not await watched.reload_now()
    file.write_bytes(text)

    assert not await watched.reload_now()

    assert watched.pricing == OLD
    assert reloads(metrics, "pricing.json", "refused") == 1
    assert reloads(metrics, "pricing.json", "loaded") == 2


async def test_a_key_rotation_is_a_new_file(folders: Folders, watched: Watched) -> None:
    both = keys.Keys(challenge.Keyring((b"n" * 32, b"k" * 32)), {})
    folders.publish(folders.secrets, keys.FILE_NAME, keys.dump(both))

    assert await watched.reload_now()

    assert watched.keys == both


async def test_a_route_that_is_gone_keeps_its_price_for_the_grace(
    folders: Folders, watched: Watched, clock: Clock
) -> None:
    folders.price(pricing.dump(NEW))
    await watched.reload_now()

    assert watched.route("shop/llm/a") == CHEAP
    assert watched.route("shop/llm/b") == ROUTE
    assert watched.network("moderato") is not None
    assert watched.route("shop/llm/never") is None
    clock.seconds = reload.GRACE_SECONDS
    assert watched.route("shop/llm/b") is None
    assert watched.network("moderato") is None


async def test_two_swaps_in_a_row_keep_the_first_grace(folders: Folders, watched: Watched, clock: Clock) -> None:
    folders.price(pricing.dump(NEW))
    await watched.reload_now()
    clock.seconds = 6
    folders.price(pricing.dump(dataclasses.replace(NEW, revision="r3")))
    await watched.reload_now()

    clock.seconds = 9.9
    assert watched.route("shop/llm/b") == ROUTE
    clock.seconds = 10
    assert watched.route("shop/llm/b") is None
    folders.price(pricing.dump(dataclasses.replace(NEW, revision="r4")))
    await watched.reload_now()
    assert len(watched._retired) == 2  # the first is forgotten


async def test_calls_that_wait_share_a_read_that_began_after_them(folders: Folders, watched: Watched) -> None:
    first = asyncio.create_task(watched.reload_now())
    await asyncio.sleep(0)  # it has begun, and may have read the old file
    folders.price(pricing.dump(NEW))
    others = [asyncio.create_task(watched.reload_now()) for _ in range(20)]

    await asyncio.gather(first, *others)

    assert watched.pricing == NEW
    assert watched._begun == 2


async def test_a_swapped_link_is_noticed(folders: Folders, watched: Watched) -> None:
    async with watching(watched):
        folders.price(pricing.dump(NEW))
        await until(lambda: watched.pricing == NEW)


async def test_swapped_keys_are_noticed(folders: Folders, watched: Watched) -> None:
    other = keys.Keys(challenge.Keyring((b"n" * 32,)), {})
    async with watching(watched):
        folders.publish(folders.secrets, keys.FILE_NAME, keys.dump(other))
        await until(lambda: watched.keys == other)


async def test_a_request_makes_watch_read_at_once(
    folders: Folders, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: object, **__: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(reload, "awatch", deaf)  # a file system that sends no events
    async with watching(watched):
        folders.price(pricing.dump(NEW))
        watched.request()
        await until(lambda: watched.pricing == NEW)


async def test_without_events_the_files_are_looked_at_all_the_same(
    folders: Folders, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_POLL_SECONDS", 0.1)
    async with watching(watched):
        # Behind the watched folder's back: the file that the link leads to changes.
        target = Path(os.path.realpath(folders.config / "pricing.json"))
        target.write_text(pricing.dump(NEW))
        await until(lambda: watched.pricing == NEW)
