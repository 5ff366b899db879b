"""Limits of paying others' network fees: rates, fees in flight, and what is left in the purse. Knows no chain.

Sponsorship can be drained by transactions that fail, and payers are free to create. Limits are kept by each
authz process for itself: with n replicas n times as much can be spent.
"""

import asyncio
import collections
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mpp_authz.pricing import FeePayer

log = logging.getLogger(__name__)

WINDOW: Final = 60.0
#: Sponsored transactions under way at once, for each key.
IN_FLIGHT: Final = 16
#: Seconds after which a balance is asked again, and after which a balance nobody could refresh is worth nothing.
REFRESH_AFTER: Final = 10.0
STALE_AFTER: Final = 60.0
#: Seconds the very first question may take; later ones are answered from what is known.
FIRST_ANSWER: Final = 2.0


class LimitReached(Exception):
    """A sponsor's limit is used up for now. The message names the limit."""


@dataclass(slots=True)
class _Use:
    in_flight: int = 0
    taken: collections.deque[tuple[float, str]] = field(default_factory=collections.deque)  # (when, payer)


class Limits:
    """Counts what each sponsor's key pays for."""

    def __init__(self, clock: Callable[[], float], in_flight: int = IN_FLIGHT) -> None:
        self._clock = clock
        self._in_flight = in_flight
        self._uses: dict[str, _Use] = collections.defaultdict(_Use)

    @contextlib.contextmanager
    def sponsoring(self, terms: FeePayer, payer: str) -> Iterator[None]:
        """Count one sponsored transaction from here to the end of the block.

        Raises:
            LimitReached: one of the limits leaves no room; nothing was counted.
        """
        use = self._uses[terms.key]
        now = self._clock()
        while use.taken and use.taken[0][0] <= now - WINDOW:
            use.taken.popleft()
        if use.in_flight >= self._in_flight:
            raise LimitReached(f"{self._in_flight} sponsored payments are under way")
        if len(use.taken) >= terms.max_per_minute:
            raise LimitReached(f"{terms.max_per_minute} sponsored payments a minute")
        if sum(1 for _, who in use.taken if who == payer) >= terms.max_per_payer_per_minute:
            raise LimitReached(f"{terms.max_per_payer_per_minute} sponsored payments a minute and payer")
        use.taken.append((now, payer))
        use.in_flight += 1
        try:
            yield
        finally:
            use.in_flight -= 1


@dataclass(slots=True)
class _Known:
    amount: int | None = None
    at: float = float("-inf")
    refreshing: asyncio.Task[None] | None = None


class Purses:
    """What sponsors hold, remembered. Asks again in the background, so that offers are made without waiting."""

    def __init__(self, ask: Callable[[str, str], Awaitable[int]], clock: Callable[[], float]) -> None:
        """`ask(network, address)` gives the balance; it may raise anything."""
        self._ask = ask
        self._clock = clock
        self._known: dict[tuple[str, str], _Known] = collections.defaultdict(_Known)

    async def holds(self, network: str, address: str, least: int) -> bool:
        """Whether a sponsor holds at least this much. Unknown, or known too long ago: no."""
        known = self._known[network, address]
        age = self._clock() - known.at
        if age > REFRESH_AFTER and known.refreshing is None:
            known.refreshing = asyncio.create_task(self._refresh(network, address, known))
        if age > STALE_AFTER and known.refreshing is not None:
            await asyncio.wait({known.refreshing}, timeout=FIRST_ANSWER)
        return known.amount is not None and self._clock() - known.at <= STALE_AFTER and known.amount >= least

    async def aclose(self) -> None:
        tasks = [known.refreshing for known in self._known.values() if known.refreshing is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self, network: str, address: str, known: _Known) -> None:
        try:
            known.amount = await self._ask(network, address)
            known.at = self._clock()
        except Exception as error:  # whatever the chain did: the old balance grows old
            log.warning("sponsor balance unknown", extra={"network": network, "reason": type(error).__name__})
        finally:
            known.refreshing = None
