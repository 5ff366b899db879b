"""Close payments: news from Envoy, the outcome files, the ends of leases and lives. Knows no HTTP, no protobuf.

Two witnesses say what was delivered. The gRPC access log is fast and may lose news; Envoy's outcome file
(one per Envoy, named by its instance id) is slower and loses only what Envoy itself lost. A delivery without
news is undelivered only once its Envoy's file was read to the end: by us where the file is beside us, else by
another process, which says so in the store.
"""

import asyncio
import contextlib
import glob
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mpp_authz import delivery, wire
from mpp_authz.delivery import Entry
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, transitions
from mpp_authz.ledger.transitions import Whereabouts
from mpp_authz.metrics import Metrics
from mpp_authz.patience import Times
from mpp_authz.unwritten import Unwritten, advance

log = logging.getLogger(__name__)

#: Entries remembered as recorded: what came by gRPC is not recorded again when it is found in the file.
_RECORDED: Final = 8192


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


#: Requests remembered by `_Calls`, each way: Envoy tells of an end within milliseconds. Also attempts that are
#: under way: of one that is forgotten a parallel call has to wait for news.
_REMEMBERED: Final = 8192


@dataclass(slots=True)
class _Calls:
    """Requests that were let through, and requests that ended without an answer, by Envoy's request id: what is
    heard of first waits here for the other. A hint that saves the time of a lease, no witness."""

    through: OrderedDict[str, Begun] = field(default_factory=OrderedDict)
    unanswered: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def let_through(self, request: str, begun: Begun) -> bool:
        if request in self.unanswered:
            return False
        self.through[request] = begun
        if len(self.through) > _REMEMBERED:
            self.through.popitem(last=False)
        return True

    def ended(self, request: str) -> Begun | None:
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
    times: Times = field(default_factory=Times)
    owner: str = ""  # "<slot>/<boot id>": this process
    unwritten: Unwritten = field(init=False)  # attempts to take back
    _calls: _Calls = field(default_factory=_Calls)
    _readers: dict[int, _Reader] = field(default_factory=dict)  # by inode: files are renamed while we read
    _recorded: OrderedDict[Entry, None] = field(default_factory=OrderedDict)
    _told: tuple[frozenset[str], int] | None = None  # the Envoys we last called alive, and when
    _listening_since: int = 0  # when we began to hear of other machines' Envoys, without a gap since
    _out: OrderedDict[tuple[str, int], None] = field(default_factory=OrderedDict)  # attempts that are under way
    _delivers_until: int = 0  # the last lease of the attempts that this process began

    def __post_init__(self) -> None:
        self.unwritten = Unwritten(self.ledger)

    # --- news -------------------------------------------------------------------------------------------

    async def record(self, entry: Entry) -> None:
        """Take one entry of an access log.

        Raises:
            LedgerUnavailable: the news is in the outcome file still, which `catch_up` reads.
        """
        await self._record(entry)
        self._recorded[_gist(entry)] = None
        if len(self._recorded) > _RECORDED:
            self._recorded.popitem(last=False)

    async def _record(self, entry: Entry) -> None:
        row = await self.ledger.get(entry.payment)
        if row is None:
            log.warning("outcome of an unknown payment", extra={"payment": entry.payment})
            return
        if not entry.ended:
            now = await self.ledger.now()
            until = now + round(self.times.renewal * 1000)
            # Whoever let it through may have died since: who hears of it can speak for it.
            heard = await advance(
                self.ledger, row, lambda r: transitions.renewed(r, entry.attempt, until, self.owner)
            )
            if heard is not None and heard.lease_owner == self.owner:
                self._note_out(heard.id, heard.attempt)
                self._delivers_until = max(self._delivers_until, heard.lease_until)
            return
        self._out.pop((entry.payment, entry.attempt), None)
        outcome = delivery.judge(entry, streaming=row.streaming)
        now = await self.ledger.now()
        written = await advance(self.ledger, row, lambda r: transitions.ended(r, outcome, now))
        if written is not None:
            self._count(written, "delivered" if outcome.delivered else "undelivered")

    # --- attempts ---------------------------------------------------------------------------------------

    @property
    def delivers(self) -> bool:
        """Whether an attempt that this process began may still be under way."""
        return self.ledger.clock() < self._delivers_until

    async def begin(self, row: Payment, following: Payment, also: Payment | None = None) -> bool:
        """Write that an attempt begins, by compare-and-set. False: somebody else was first.

        Raises:
            LedgerUnavailable: nobody may be let through. Where it was written all the same, it is taken back.
        """
        self._delivers_until = max(self._delivers_until, following.lease_until)
        try:
            return await self.ledger.replace(row, following, also=also)
        except LedgerUnavailable:
            attempt, owner, until = following.attempt, following.lease_owner, following.lease_until
            await self.unwritten.soon(
                row.id, lambda r, _: transitions.not_sent(r, attempt, owner, until), uncertain=True
            )
            raise

    def let_through(self, request: str, begun: Begun) -> bool:
        """Note that a Check lets this request through. False: the request has ended already, without an answer."""
        if request and not self._calls.let_through(request, begun):
            return False
        self._note_out(begun.payment, begun.attempt)
        return True

    def is_out(self, row: Payment) -> bool:
        """Whether Envoy was told by us to deliver this attempt, or told us that it does."""
        return (row.id, row.attempt) in self._out

    def _note_out(self, payment: str, attempt: int) -> None:
        self._out[payment, attempt] = None
        if len(self._out) > _REMEMBERED:
            self._out.popitem(last=False)

    async def unanswered(self, request: str) -> None:
        """A request ended before its Check's answer came, as far as Envoy knows: it had no payment. Where that
        answer let it through, nothing reached the upstream all the same."""
        found = self._calls.ended(request)
        if found is not None:
            await self.not_sent(found)

    async def not_sent(self, begun: Begun) -> None:
        """Take an attempt back of which nothing reached the upstream; where the store is away, once it is back."""
        until: int | None = None
        try:
            row = await self.ledger.get(begun.payment)
            if row is not None:
                until = row.lease_until  # an attempt that is taken back gives its number to the next one
                await advance(
                    self.ledger, row, lambda r: transitions.not_sent(r, begun.attempt, begun.owner, until)
                )
        except LedgerUnavailable:
            self.unwritten.later(
                begun.payment, lambda r, _: transitions.not_sent(r, begun.attempt, begun.owner, until)
            )

    # --- Envoys -----------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Tell the store now and then that the Envoys beside us live, for processes that cannot see it."""
        now, beside = self.ledger.clock(), self._beside()
        if self._told is not None:
            told, at = self._told
            if told == beside and abs(now - at) < self.times.beat * 1000:
                return
        if beside:
            await self.ledger.beat(beside)
        else:
            await self.ledger.data_plane(self.owner)  # whether the store can be reached
        if self._told is None or now - self._told[1] > self.times.silence * 1000 / 2:
            # The store was away, or we stood still: nobody's word can have come meanwhile.
            self._listening_since = self.ledger.clock()
        self._told = beside, now

    def _beside(self) -> frozenset[str]:
        """The Envoys whose outcome files are here and may grow."""
        if self.outcomes is None:
            return frozenset()
        names = (file.name for file in self.outcomes.glob(f"*{wire.OUTCOME_LIVE_SUFFIX}"))
        return frozenset(
            name.removesuffix(wire.OUTCOME_LIVE_SUFFIX).partition(wire.OUTCOME_PART)[0] for name in names
        )

    async def catch_up(self) -> None:
        """Read what the Envoys beside us wrote and gRPC did not tell: it was lost, or told while nobody listened,
        or while the store took no news.

        Raises:
            LedgerUnavailable: the store takes no news still.
        """
        for data_plane in sorted(self._beside()):
            await self.read(data_plane)

    async def heard_out(self, seen: Payment) -> Payment:
        """A DELIVERING row after all that can be known of its delivery: no news ends its lease where no more can
        come, or where nobody hears of its Envoy any more."""
        # The time before the file is read: what comes between is in no file that we read, and the store
        # may be slower than a lease.
        now = await self.ledger.now()
        envoy, seen_at = await self._envoy(seen.data_plane)
        row = await self.ledger.get(seen.id) or seen
        if row.attempt != seen.attempt:
            return row  # another attempt has begun, with a lease of its own
        silence = round(self.times.silence * 1000)
        if transitions.may_end(row, now, envoy, seen_at, silence):
            row = await self.end_lease(row) or await self.ledger.get(row.id) or row
        return row

    async def _envoy(self, data_plane: str) -> tuple[Whereabouts, int]:
        """Where an Envoy is, once all it wrote here was read; and of one that is away, since when it is silent:
        the store heard nothing, and we would have seen it if it had."""
        where = await self.read(data_plane)
        if where is not Whereabouts.AWAY or not data_plane:
            return where, 0
        listening = self._listening_since or self.ledger.clock()
        known = await self.ledger.data_plane(data_plane)
        if known is None:
            return where, listening
        return (Whereabouts.GONE if known.ended else where), max(known.seen_at, listening)

    async def read(self, data_plane: str) -> Whereabouts:
        """Read what one Envoy wrote here, as far as it goes. A file that is not here says nothing: its Envoy may
        be beside another process, or have written none yet."""
        if self.outcomes is None or not data_plane:
            return Whereabouts.AWAY
        ended = self.outcomes / f"{data_plane}{wire.OUTCOME_ENDED_SUFFIX}"
        live = self.outcomes / f"{data_plane}{wire.OUTCOME_LIVE_SUFFIX}"
        # Asked before reading: what it wrote last is in the file by the time it is called ended.
        gone = ended.exists()
        parts = self._parts(data_plane)
        try:
            for part in parts:
                await self._news(part)
        except FileNotFoundError:
            return await self.read(data_plane)  # renamed since we looked
        try:
            await self._news(ended if gone else live)
        except FileNotFoundError:
            if gone:
                return Whereabouts.GONE  # `bury` read it to its end and took it away
            if ended.exists() or self._parts(data_plane) != parts:
                return await self.read(data_plane)  # renamed since we looked
            aside = any(part.suffix == wire.OUTCOME_LIVE_SUFFIX for part in parts)  # and a new one begins
            return Whereabouts.BESIDE if aside else Whereabouts.AWAY
        return Whereabouts.GONE if gone else Whereabouts.BESIDE

    def _parts(self, data_plane: str) -> list[Path]:
        assert self.outcomes is not None  # noqa: S101 - its callers asked
        return sorted(self.outcomes.glob(f"{glob.escape(data_plane)}{wire.OUTCOME_PART}*"))

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
                    if entry is not None and _gist(entry) not in self._recorded:
                        await self.record(entry)
                reader.offset += len(complete)

    # --- ends -------------------------------------------------------------------------------------------

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
            if wire.OUTCOME_PART not in data_plane:
                # Before its file goes: afterwards this is all that anybody knows of it.
                await self.ledger.end_data_plane(data_plane)
            for row in await self.ledger.delivering_at(data_plane):
                await self.end_lease(row)
            with contextlib.suppress(FileNotFoundError):
                self._readers.pop(file.stat().st_ino, None)
                file.unlink()


def _gist(entry: Entry) -> Entry:
    """What both witnesses say of one end in the same words."""
    return replace(entry, details="", upstream_began=True)
