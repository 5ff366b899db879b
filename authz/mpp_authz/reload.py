"""The pricing and the keys that are in force, read again whenever their files change. Decides nothing.

A file that cannot be read or understood is counted and logged once; the last good one stays. Each file is
swapped as a whole value: whoever asks sees the old one or the new one, never a mixture.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from watchfiles import awatch

from mpp_authz import keys as keys_file
from mpp_authz import pricing as pricing_file
from mpp_authz.keys import Keys
from mpp_authz.metrics import Metrics
from mpp_authz.pricing import Network, Pricing, RoutePrice

T = TypeVar("T")
V = TypeVar("V", RoutePrice, Network)

log = logging.getLogger(__name__)

#: How long routes of the pricing before still have a price. Envoy may have sent a Check just before the swap.
GRACE_SECONDS: Final = 10.0
#: Without any news from the system the files are looked at this often: some file systems send none.
_POLL_SECONDS: Final = 5.0
#: Changes within this time are one.
_SETTLE_SECONDS: Final = 0.02


class StartError(Exception):
    """authz cannot start with the files it was given. The message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class _Retired:
    pricing: Pricing
    until: float  # of the clock


class Watched:
    """What is for sale and the keys, always the last good ones. Made by `start`; `watch` keeps them fresh."""

    def __init__(
        self,
        pricing: "_File[Pricing]",
        keys: "_File[Keys]",
        metrics: Metrics,
        clock: Callable[[], float],
        grace_seconds: float,
    ) -> None:
        self._pricing = pricing
        self._keys = keys
        self._metrics = metrics
        self._clock = clock
        self._grace = grace_seconds
        self._retired: tuple[_Retired, ...] = ()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()
        self._begun = 0  # reloads begun
        self._asked = asyncio.Event()

    @classmethod
    async def start(
        cls,
        config_dir: Path,
        secrets_dir: Path,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Self:
        """Read `<config_dir>/pricing.json` and `<secrets_dir>/authz.json`.

        Raises:
            StartError: one is missing, unreadable or wrong.
        """
        pricing = await asyncio.to_thread(
            _first,
            config_dir / pricing_file.FILE_NAME,
            pricing_file.load,
            "the operator publishes it: wait for it, or make it with mpp-gateway compile -o",
        )
        keys = await asyncio.to_thread(
            _first,
            secrets_dir / keys_file.FILE_NAME,
            keys_file.load,
            "it holds the signing keys: mount the Secret there, or let mpp-gateway run make it",
        )
        watched = cls(pricing, keys, metrics, clock, grace_seconds)
        for file in (pricing, keys):
            metrics.reload(file.path.name, "loaded")
        metrics.pricing(watched.pricing.revision, len(watched.pricing.routes))
        log.info(
            "pricing loaded",
            extra={"revision": watched.pricing.revision, "routes": len(watched.pricing.routes)},
        )
        return watched

    @property
    def pricing(self) -> Pricing:
        return self._pricing.value

    @property
    def keys(self) -> Keys:
        return self._keys.value

    def route(self, key: str) -> RoutePrice | None:
        """What a route costs; for a few seconds after a swap also one that the new pricing no longer has."""
        return self._find(key, lambda pricing: pricing.routes)

    def network(self, name: str) -> Network | None:
        """A network that offers name, with the same grace as `route`."""
        return self._find(name, lambda pricing: pricing.networks)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call it after each swap, of either file. It must not raise and not block."""
        self._callbacks.append(callback)

    def request(self) -> None:
        """Make `watch` read the files soon: for signal handlers (SIGHUP)."""
        self._asked.set()

    async def reload_now(self) -> bool:
        """Read both files; True when something was swapped since this call began.

        Callers that wait at the same time share one read, but only one that began after they came.
        """
        arrived = self._begun
        before = (self._pricing.value, self._keys.value)
        async with self._lock:
            if self._begun == arrived:  # else one has begun, and ended, while this call waited
                self._begun += 1
                await self._reload()
        return (self._pricing.value, self._keys.value) != before

    async def watch(self) -> None:
        """Read the files again whenever their folders change. Runs until it is cancelled."""
        self.request()  # what changed between the first look and this one
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._on_request())
            for folder in {self._pricing.path.parent, self._keys.path.parent}:
                tasks.create_task(self._on_events(folder))

    async def _on_request(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload_now()

    async def _on_events(self, folder: Path) -> None:
        # Not the file: kubelet and `mpp-gateway` swap the link `..data` beside it, and the file itself never
        # changes. No filter: the usual one hides names that begin with a dot.
        changes = awatch(
            folder,
            watch_filter=None,
            step=int(_SETTLE_SECONDS * 1000),
            rust_timeout=int(_POLL_SECONDS * 1000),
            yield_on_timeout=True,
            recursive=False,
        )
        async for _ in changes:
            await self.reload_now()

    async def _reload(self) -> None:
        pricing, keys = await asyncio.gather(
            asyncio.to_thread(self._pricing.read), asyncio.to_thread(self._keys.read)
        )
        old = self._pricing.value
        new_pricing = self._took(self._pricing, pricing)
        if new_pricing:
            now = self._clock()
            kept = tuple(retired for retired in self._retired if retired.until > now)
            self._retired = (_Retired(old, now + self._grace), *kept)
            served = self._pricing.value
            self._metrics.pricing(served.revision, len(served.routes))
            log.info("pricing loaded", extra={"revision": served.revision, "routes": len(served.routes)})
        new_keys = self._took(self._keys, keys)
        if new_keys:
            log.info("keys loaded", extra={"challenge_keys": len(self._keys.value.challenge.keys)})
        if new_pricing or new_keys:
            for callback in self._callbacks:
                callback()

    def _took(self, file: "_File[T]", seen: "_Seen[T]") -> bool:
        """Put what was read in force, if it is new and good; report it, if it is new and bad."""
        if seen.digest == file.digest:
            return False
        file.digest = seen.digest
        if seen.value is None:
            self._metrics.reload(file.path.name, "refused")
            log.error("file refused, the last good one stays", extra={"file": str(file.path), "why": seen.why})
            return False
        self._metrics.reload(file.path.name, "loaded")
        changed = seen.value != file.value  # a bad file that was put right again is no news
        file.value = seen.value
        return changed

    def _find(self, key: str, where: Callable[[Pricing], Mapping[str, V]]) -> V | None:
        found = where(self._pricing.value).get(key)
        if found is not None or not self._retired:
            return found
        now = self._clock()
        values = (where(retired.pricing).get(key) for retired in self._retired if retired.until > now)
        return next((value for value in values if value is not None), None)


@dataclass(frozen=True, slots=True)
class _Seen(Generic[T]):
    """What one look at a file gave. `value` None: it is bad, and `why` says it without its contents."""

    digest: str
    value: T | None
    why: str = ""


@dataclass(slots=True)
class _File(Generic[T]):
    """A file, the last good value of it, and the digest of what was seen last, good or bad."""

    path: Path
    load: Callable[[str], T]
    value: T
    digest: str

    def read(self) -> _Seen[T]:
        """Look at the file. Blocks; unchanged text is not parsed again."""
        return _look(self.path, self.load, self.digest)


def _first(path: Path, load: Callable[[str], T], fix: str) -> _File[T]:
    seen = _look(path, load, "")
    if seen.value is None:
        raise StartError(f"{path}: {seen.why}; {fix}")
    return _File(path, load, seen.value, seen.digest)


def _look(path: Path, load: Callable[[str], T], known: str) -> _Seen[T]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        why = "not found" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return _Seen(f"error {error.errno}", None, why)
    digest = hashlib.sha256(raw).hexdigest()
    if digest == known:
        return _Seen(digest, None)
    try:
        return _Seen(digest, load(raw.decode("utf-8")))
    except UnicodeDecodeError:
        return _Seen(digest, None, "expected UTF-8 text, got something else")
    except ValueError as error:  # PricingError, KeysError
        return _Seen(digest, None, str(error))
