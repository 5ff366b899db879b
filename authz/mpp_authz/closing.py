"""Close payments: news from Envoy, the outcome files, the ends of leases and lives. Knows no HTTP, no protobuf.

Two witnesses say what was delivered. The gRPC access log is fast and may lose news; Envoy's outcome file
(one per Envoy, named by its instance id) is slower and loses only what Envoy itself lost. A delivery without
news is undelivered only once its Envoy's file was read to the end.
"""

import asyncio
import contextlib
import glob
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mpp_authz import delivery, wire
from mpp_authz.delivery import Entry
from mpp_authz.ledger import Ledger, Payment, transitions
from mpp_authz.metrics import Metrics

log = logging.getLogger(__name__)

#: A streaming lease is renewed by periodic access log entries; this much past the last of them.
_RENEWAL_MS: Final = 60_000

Step = Callable[[Payment], Payment | None]


async def advance(ledger: Ledger, row: Payment, step: Step) -> Payment | None:
    """Apply a transition to a row as it is in the store by now.

    Returns the row as written, or None when nothing follows any more (somebody else was there first).
    """
    current: Payment | None = row
    while current is not None:
        following = step(current)
        if following is None:
            return None
        if await ledger.replace(current, following):
            return replace(following, version=current.version + 1)
        current = await ledger.get(row.id)
    return None


@dataclass(slots=True)
class _Reader:
    """How far one outcome file was read. One reader at a time: who waited finds everything recorded."""

    offset: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that a Check let through, and the process whose answer that is."""

    payment: str
    attempt: int
    owner: str


#: Requests remembered by `_Calls`, each way. Envoy tells of an end within milliseconds.
_REMEMBERED: Final = 8192


@dataclass(slots=True)
class _Calls:
    """Requests that were let through, and requests that ended without an answer, by Envoy's request id: what is
    heard of first waits here for the other. A hint that saves the time of a lease, no witness."""

    through: OrderedDict[str, "Begun"] = field(default_factory=OrderedDict)
    unanswered: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def let_through(self, request: str, begun: "Begun") -> bool:
        if request in self.unanswered:
            return False
        self.through[request] = begun
        if len(self.through) > _REMEMBERED:
            self.through.popitem(last=False)
        return True

    def ended(self, request: str) -> "Begun | None":
        found = self.through.pop(request, None)
        if found is None:
            self.unanswered[request] = None
            if len(self.unanswered) > _REMEMBERED:
                self.unanswered.popitem(last=False)
        return found


@dataclass(slots=True)
class Closer:
    """Turns news into states."""

    ledger: Ledger
    outcomes: Path | None  # folder of outcome files; None: there is no second witness here
    metrics: Metrics
    _calls: _Calls = field(default_factory=_Calls)
    _readers: dict[int, _Reader] = field(default_factory=dict)  # by inode: files are renamed while we read

    async def record(self, entry: Entry) -> None:
        """Take one entry of an access log.

        Raises:
            LedgerUnavailable: the news is in the outcome file still, and is read at the end of the lease.
        """
        row = await self.ledger.get(entry.payment)
        if row is None:
            log.warning("outcome of an unknown payment", extra={"payment": entry.payment})
            return
        if not entry.ended:
            now = await self.ledger.now()
            await advance(self.ledger, row, lambda r: transitions.renewed(r, entry.attempt, now + _RENEWAL_MS))
            return
        outcome = delivery.judge(entry, streaming=row.streaming)
        now = await self.ledger.now()
        written = await advance(self.ledger, row, lambda r: transitions.ended(r, outcome, now))
        if written is not None:
            self._count(written, "delivered" if outcome.delivered else "undelivered")

    def let_through(self, request: str, begun: Begun) -> bool:
        """Note that a Check lets this request through. False: the request has ended already, without an answer."""
        return not request or self._calls.let_through(request, begun)

    async def unanswered(self, request: str) -> None:
        """A request ended before its Check's answer came, as far as Envoy knows: it had no payment. Where that
        answer let it through, nothing reached the upstream all the same."""
        found = self._calls.ended(request)
        if found is not None:
            await self.not_sent(found)

    async def not_sent(self, begun: Begun) -> None:
        """Take an attempt back of which nothing reached the upstream."""
        row = await self.ledger.get(begun.payment)
        if row is not None:
            await advance(self.ledger, row, lambda r: transitions.not_sent(r, begun.attempt, begun.owner))

    async def read(self, data_plane: str) -> bool:
        """Read what one Envoy wrote to its end. True: that Envoy is gone and will write no more."""
        if self.outcomes is None or not data_plane:
            return False
        ended = self.outcomes / f"{data_plane}{wire.OUTCOME_ENDED_SUFFIX}"
        live = self.outcomes / f"{data_plane}{wire.OUTCOME_LIVE_SUFFIX}"
        # Asked before reading: what it wrote last is in the file by the time it is called ended.
        gone = ended.exists()
        parts = sorted(self.outcomes.glob(f"{glob.escape(data_plane)}{wire.OUTCOME_PART}*"))
        try:
            for part in parts:
                await self._news(part)
        except FileNotFoundError:
            return await self.read(data_plane)  # renamed since we looked
        try:
            await self._news(ended if gone else live)
        except FileNotFoundError:
            if not gone and ended.exists():
                return await self.read(data_plane)  # renamed since we looked
            # It is being put aside and a new one begins; or `bury` read it to its end and took it away.
            return gone or not parts
        return gone

    async def _news(self, path: Path) -> None:
        """Record what one file says beyond what was read of it.

        Raises:
            FileNotFoundError: it is not there (any more).
        """
        with path.open("rb") as file:
            reader = self._readers.setdefault(os.fstat(file.fileno()).st_ino, _Reader())
            async with reader.lock:
                if file.seek(0, os.SEEK_END) < reader.offset:
                    reader.offset = 0  # another file, with the number of one that was taken away
                file.seek(reader.offset)
                news = file.read()
                complete = news[: news.rfind(b"\n") + 1]
                # Not splitlines: a detail may hold what Unicode calls a line's end.
                for line in complete.decode("utf-8", "replace").split("\n"):
                    entry = delivery.read_line(line)
                    if entry is not None:
                        await self.record(entry)
                reader.offset += len(complete)

    async def end_lease(self, row: Payment) -> Payment | None:
        """No news came by the end of a lease, or its Envoy is gone: the payer is owed the request.

        Only the lease that `row` has: one that was renewed meanwhile, or another attempt's, goes on.
        """
        now = await self.ledger.now()
        seen = (row.attempt, row.lease_until)
        written = await advance(
            self.ledger,
            row,
            lambda r: transitions.lease_over(r, now) if (r.attempt, r.lease_until) == seen else None,
        )
        if written is not None:
            log.warning("delivery without news", extra={"payment": row.id, "attempt": row.attempt})
            self._count(written, "no-news")
        return written

    async def end_life(self, row: Payment) -> None:
        """A credit nobody used in its life."""
        now = await self.ledger.now()
        await advance(self.ledger, row, lambda r: transitions.life_over(r, now))

    def _count(self, row: Payment, outcome: str) -> None:
        self.metrics.delivery(row.binding.route, outcome)
        self.metrics.payment(row.binding.route, row.method, row.state)

    async def bury(self) -> None:
        """Close what Envoys that are gone left open, then take their files away."""
        if self.outcomes is None:
            return
        for file in sorted(self.outcomes.glob(f"*{wire.OUTCOME_ENDED_SUFFIX}")):
            data_plane = file.name.removesuffix(wire.OUTCOME_ENDED_SUFFIX)
            await self.read(data_plane)
            for row in await self.ledger.delivering_at(data_plane):
                await self.end_lease(row)
            with contextlib.suppress(FileNotFoundError):
                self._readers.pop(file.stat().st_ino, None)
                file.unlink()
