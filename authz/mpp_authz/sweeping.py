"""What time has to say, in a loop: leases and lives that end, open outcomes, Envoys that are gone.

Bounded work in each round. Several processes may sweep one ledger: every step is a compare-and-set, and a delivery
is ended only by whoever may know that nothing more is heard of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from mpp_authz.closing import Closer
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, State
from mpp_authz.settlement import Settler

log = logging.getLogger(__name__)

_ROWS_A_ROUND: Final = 100
#: A FAILED row outlives its challenge by far; after that its absence says the same. Milliseconds.
_FAILED_KEPT_MS: Final = 86_400_000
#: A data plane is spoken of while a row may name it; after that its absence says the same. Milliseconds.
_DATA_PLANES_KEPT_MS: Final = 86_400_000
#: Rows whose chain is asked at the same time.
_AT_ONCE: Final = 8


@dataclass(slots=True)
class Sweeper:
    """Closes what nobody comes back for."""

    ledger: Ledger
    settler: Settler
    closer: Closer
    interval_seconds: float = 1.0

    async def run(self) -> None:
        """Sweep until cancelled. A store that is down is said once, and waited for."""
        # Apart: a round that waits for a slow chain must not make our Envoys look dead to others.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._for_ever(self.round, "sweeping"))
            tasks.create_task(self._for_ever(self._beat, "telling who lives"))

    async def leave(self) -> None:
        """Our last word: every Check was answered, and what it let through is on its way. Not where a write of
        ours is open still, or may be: the end of its lease tells of that one."""
        with contextlib.suppress(LedgerUnavailable):
            await self.settler.write()
            await self.closer.unwritten.write()
            if not (self.settler.busy or self.settler.unwritten or self.closer.unwritten):
                await self.ledger.end_data_plane(self.settler.owner)

    async def _for_ever(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        down = False
        while True:
            try:
                await work()
                if down:
                    log.warning("%s goes on: the ledger is there again", name)
                down = False
            except LedgerUnavailable as error:
                if not down:
                    log.error("%s waits for the ledger", name, extra={"error": str(error)})
                down = True
            except Exception:
                log.exception("%s failed", name)
            await asyncio.sleep(self.interval_seconds)

    async def _beat(self) -> None:
        await self.closer.beat()
        await self.closer.catch_up()  # before our own word: who reads it believes that we have nothing else to say
        if not self.closer.unwritten:
            await self.settler.beat(self.closer.delivers)

    async def round(self) -> None:
        """One look at everything that is due."""
        await self._beat()
        await self.settler.write()
        await self.closer.unwritten.write()
        await self.closer.bury()
        now = await self.ledger.now()
        await self.ledger.forget_failed(now - _FAILED_KEPT_MS, _ROWS_A_ROUND)
        await self.ledger.forget_data_planes(now - _DATA_PLANES_KEPT_MS, _ROWS_A_ROUND)
        rows = await self.ledger.due(now, _ROWS_A_ROUND)
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Payment) -> None:
            async with free:
                try:
                    await self._close(row)
                except LedgerUnavailable:
                    raise
                except Exception:  # one row that cannot be closed keeps no other open
                    log.exception("row not closed", extra={"payment": row.id})

        await asyncio.gather(*(one(row) for row in rows))

    async def _close(self, row: Payment) -> None:
        match row.state:
            case State.SETTLING | State.UNKNOWN:
                await self.settler.resolve(row)
            case State.DELIVERING:
                await self.closer.heard_out(row)
            case State.CREDIT:
                await self.closer.end_life(row)
