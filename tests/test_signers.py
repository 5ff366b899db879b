"""Gateways of one ledger that share no signing key: the second one does not start."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from ledgers import Store
from promises import Clock

from mpp_authz import signers
from mpp_authz.challenge import Keyring
from mpp_authz.ledger import Ledger
from mpp_authz.patience import Times
from mpp_authz.signers import OtherKeys, Signers

OLD, NEW, FOREIGN = (name * 32 for name in (b"o", b"n", b"f"))
QUICK = Times(settle_wait=0.05)
LIMIT = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def kept(store: Store, clock: Clock) -> AsyncIterator[Ledger]:
    """A ledger whose clock the test moves."""
    ledger = await store.open(clock=clock)
    yield ledger
    await ledger.close()


def gateway(ledger: Ledger, slot: str, *keys: bytes, times: Times | None = None) -> Signers:
    return Signers(ledger, lambda: Keyring(keys), f"{slot}/boot", times or Times())


async def test_gateways_with_one_key_in_common_join_each_other(kept: Ledger) -> None:
    for slot, keys in (("a", (OLD,)), ("b", (NEW, OLD)), ("a", (NEW, OLD)), ("c", (OLD, NEW))):
        await gateway(kept, slot, *keys).join()


async def test_a_gateway_whose_keys_no_other_has_is_refused_with_the_fix(kept: Ledger) -> None:
    await gateway(kept, "a", OLD).join()

    with pytest.raises(OtherKeys) as refused:
        await gateway(kept, "b", FOREIGN).join()

    assert str(refused.value) == (
        "signing keys: expected one that a on this ledger has, too, got none of them; give all gateways of a "
        "ledger the same MPP_SECRET_KEY (or challengeKeys in gateway.yaml), or stop that one and wait 30 s"
    )


async def test_who_was_refused_keeps_nobody_else_out(kept: Ledger) -> None:
    await gateway(kept, "a", OLD).join()
    with pytest.raises(OtherKeys):
        await gateway(kept, "b", FOREIGN).join()

    await gateway(kept, "c", OLD).join()


async def test_of_two_strangers_that_start_at_once_not_both_join(kept: Ledger) -> None:
    both = gateway(kept, "a", OLD).join(), gateway(kept, "b", FOREIGN).join()

    found = await asyncio.gather(*both, return_exceptions=True)

    assert any(isinstance(result, OtherKeys) for result in found)


async def test_a_rotation_that_is_taken_back_is_still_told(kept: Ledger) -> None:
    keys: list[bytes] = [OLD]
    rotating = Signers(kept, lambda: Keyring(tuple(keys)), "a/boot", QUICK)
    await rotating.join()
    told = asyncio.create_task(rotating.run())
    for now in ([OLD, NEW], [OLD]):
        keys[:] = now
        want = ",".join(signers.key_id(key) for key in now)
        async with asyncio.timeout(LIMIT):
            while not any(name.endswith(f"/{want}") for name in await kept.living("keys/a/", 0)):  # noqa: ASYNC110 - a row tells
                await asyncio.sleep(0)
    told.cancel()
    await asyncio.gather(told, return_exceptions=True)

    with pytest.raises(OtherKeys):
        await gateway(kept, "b", FOREIGN).join()


async def test_one_gateway_may_get_new_keys_by_a_restart(kept: Ledger) -> None:
    await gateway(kept, "a", OLD).join()

    await gateway(kept, "a", FOREIGN).join()


async def test_a_gateway_that_left_keeps_nobody_out(kept: Ledger) -> None:
    left = gateway(kept, "a", OLD)
    await left.join()
    await left.leave()

    await gateway(kept, "b", FOREIGN).join()


async def test_a_gateway_that_is_silent_keeps_nobody_out(kept: Ledger, clock: Clock) -> None:
    await gateway(kept, "a", OLD).join()
    clock.later(Times().silence + 0.001)

    await gateway(kept, "b", FOREIGN).join()


@contextlib.asynccontextmanager
async def running(one: Signers) -> AsyncIterator[None]:
    task = asyncio.create_task(one.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_keys_that_are_changed_under_a_running_gateway_are_logged_once(
    kept: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [OLD]
    changed = Signers(kept, lambda: Keyring(tuple(keys)), "b/boot", QUICK)
    await gateway(kept, "a", OLD, times=QUICK).join()
    await changed.join()
    looked, often = [], asyncio.Event()
    living = kept.living

    async def counted(prefix: str, since: int) -> tuple[str, ...]:
        looked.append(await living(prefix, since))
        if len(looked) == 3:
            often.set()
        return looked[-1]

    kept.living = counted  # type: ignore[method-assign]  # to see it look
    with caplog.at_level(logging.ERROR):
        async with running(changed):
            keys[:] = [FOREIGN]
            await asyncio.wait_for(often.wait(), LIMIT)

    (said,) = [record for record in caplog.records if "share no signing key" in record.message]
    assert vars(said)["gateways"] == ("a",)
    assert [name for name in looked[-1] if name.startswith("keys/b/")] == [
        f"keys/b/boot.2/{signers.key_id(FOREIGN)}"
    ]


def test_a_key_id_is_short_and_its_own() -> None:
    ids = {signers.key_id(key) for key in (OLD, NEW, FOREIGN)}

    assert {len(one) for one in ids} == {16}
    assert len(ids) == 3
