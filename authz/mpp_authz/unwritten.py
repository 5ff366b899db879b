"""What the store could not take while it was away, written once it is back. Knows no rule of payments.

Bounded: so many payments, and whatever is beyond them is found by the ends of their leases.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment

log = logging.getLogger(__name__)

#: Payments with something unwritten. A Check that cannot read the ledger adds nothing, so these are the ones that
#: were under way when the store went.
_REMEMBERED: Final = 4096
#: Steps of one payment.
_STEPS: Final = 16
#: A write whose answer was lost may still be carried out. Seconds in which a step that does not follow is kept.
_LATE_WRITE_SECONDS: Final = 5.0

Step = Callable[[Payment], Payment | None]
#: A step that depends on the store's time, in milliseconds.
TimedStep = Callable[[Payment, int], Payment | None]


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


@dataclass(frozen=True, slots=True)
class _Note:
    step: TimedStep
    until: float  # loop time until which it is kept though it does not follow


@dataclass(slots=True)
class _Notes:
    """What is unwritten of one payment."""

    steps: list[_Note] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # who asks finds everything written, not half of it


@dataclass(slots=True)
class Unwritten:
    """Steps that wait for the store, by payment. Each is a compare-and-set that finds out itself whether it still
    follows, so the order of one payment's steps does not matter."""

    ledger: Ledger
    _notes: OrderedDict[str, _Notes] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._notes)

    def __contains__(self, payment_id: str) -> bool:
        return payment_id in self._notes

    def later(self, payment_id: str, step: TimedStep, *, uncertain: bool = False) -> None:
        """Write this when the store is back. `uncertain`: it answers a write that may still be carried out."""
        keep = _LATE_WRITE_SECONDS if uncertain else 0.0
        notes = self._notes.setdefault(payment_id, _Notes())
        notes.steps.append(_Note(step, asyncio.get_running_loop().time() + keep))
        del notes.steps[:-_STEPS]
        if len(self._notes) > _REMEMBERED:
            forgotten, _ = self._notes.popitem(last=False)
            log.warning("too much is unwritten: left to the end of a lease", extra={"payment": forgotten})

    async def soon(self, payment_id: str, step: TimedStep, *, uncertain: bool = False) -> None:
        """Try it now, for a store that failed once; else `later`."""
        self.later(payment_id, step, uncertain=uncertain)
        with contextlib.suppress(LedgerUnavailable):
            await self.of(payment_id)

    async def of(self, payment_id: str) -> None:
        """Write what is known of one payment.

        Raises:
            LedgerUnavailable: the store is still away, and it is kept.
        """
        notes = self._notes.get(payment_id)
        if notes is None:
            return
        async with notes.lock:
            for note in tuple(notes.steps):
                follows = await self._follows(payment_id, note.step)
                if (follows or note.until <= asyncio.get_running_loop().time()) and note in notes.steps:
                    notes.steps.remove(note)
            if not notes.steps and self._notes.get(payment_id) is notes:
                del self._notes[payment_id]

    async def write(self) -> None:
        """Write everything, as far as the store takes it.

        Raises:
            LedgerUnavailable: the store is still away; all is kept.
        """
        for payment_id in list(self._notes):
            await self.of(payment_id)

    async def _follows(self, payment_id: str, step: TimedStep) -> bool:
        row = await self.ledger.get(payment_id)
        if row is None:
            return False
        now = await self.ledger.now()
        written = await advance(self.ledger, row, lambda r: step(r, now))
        if written is not None:
            log.info("written late", extra={"payment": payment_id, "state": written.state.value})
        return written is not None
