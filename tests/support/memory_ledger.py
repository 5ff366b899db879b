"""A ledger in a dict, for searches that need many thousand stores: it keeps every promise of `ledger.Ledger` but
durability. test_model_ledger.py holds it against a real store.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from mpp_authz.ledger import MAX_REFUSALS, Binding, DataPlane, Payment, RefusedTransfer, State

_UNFINISHED = frozenset({State.SETTLING, State.UNKNOWN, State.DELIVERING, State.CREDIT})
_LEASED = frozenset({State.SETTLING, State.UNKNOWN, State.DELIVERING})


class MemoryLedger:
    """`Ledger`. No method waits for anything, so each is one step."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._born = clock()
        self._order = itertools.count()
        self._inserted: dict[str, int] = {}
        self.rows: dict[str, Payment] = {}
        self.planes: dict[str, DataPlane] = {}
        self._refused: dict[tuple[str, str], RefusedTransfer] = {}
        self._networks: dict[str, str] = {}

    def key(self) -> tuple[Any, ...]:
        """All it holds, to be compared."""
        return (
            tuple(sorted(self.rows.items())),
            tuple(sorted((name, plane.seen_at, plane.ended) for name, plane in self.planes.items())),
            tuple(self._refused),
        )

    async def now(self) -> int:
        return self._clock()

    def clock(self) -> int:
        return self._clock()

    async def get(self, payment_id: str) -> Payment | None:
        return self.rows.get(payment_id)

    async def insert(self, payment: Payment) -> bool:
        if not self._free(payment):
            return False
        self._put(payment)
        return True

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        if new.id != old.id:
            raise ValueError(f"replace: expected a row with the same id, got {new.id!r} for {old.id!r}")
        held = self.rows.get(old.id)
        if held is None or held.version != old.version or not self._free(new, instead_of=held):
            return False
        self.rows[old.id] = dataclasses.replace(new, version=old.version + 1)
        if also is not None:
            if not self._free(also):
                self.rows[old.id] = held
                return False
            self._put(also)
        return True

    async def by_reference(self, reference: str) -> Payment | None:
        held = (row for row in self.rows.values() if row.reference == reference and row.state is not State.FAILED)
        return next(held, None)

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        return self._sorted(
            lambda row: (row.created_at,),
            lambda row: (
                (row.payer, row.binding, row.currency) == (payer, binding, currency) and row.state in _UNFINISHED
            ),
        )

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        return self._sorted(
            lambda row: (row.lease_until, row.id),
            lambda row: (
                (row.state in _LEASED and row.lease_until <= now)
                or (row.state is State.CREDIT and row.life_until <= now)
            ),
        )[:limit]

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]:
        return self._sorted(
            lambda row: (row.created_at,),
            lambda row: row.state is State.DELIVERING and row.data_plane == data_plane,
        )

    async def settled_since(self, moment: int, after: str, limit: int) -> tuple[Payment, ...]:
        return self._sorted(
            lambda row: (row.settled_at, row.id),
            lambda row: (
                row.settled_at is not None
                and row.state is not State.SPENT
                and (row.settled_at, row.id) > (moment, after)
            ),
        )[:limit]

    async def beat(self, data_planes: Collection[str]) -> None:
        for name in data_planes:
            before = self.planes.get(name)
            self.planes[name] = DataPlane(self._clock(), before is not None and before.ended)

    async def end_data_plane(self, data_plane: str) -> None:
        self.planes[data_plane] = DataPlane(self._clock(), True)

    async def data_plane(self, data_plane: str) -> DataPlane | None:
        return self.planes.get(data_plane)

    async def living(self, prefix: str, since: int) -> tuple[str, ...]:
        found = ((name, seen) for name, seen in self.planes.items() if name.startswith(prefix) and not seen.ended)
        return tuple(sorted(name for name, seen in found if seen.seen_at >= since))

    async def forget_data_planes(self, before: int, limit: int) -> int:
        old = [name for name, plane in self.planes.items() if plane.seen_at < before][:limit]
        for name in old:
            del self.planes[name]
        return len(old)

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        found = self._sorted(
            lambda row: (-row.created_at, -self._inserted[row.id]), lambda row: not states or row.state in states
        )
        return found[:limit]

    async def counts(self) -> dict[State, int]:
        return dict(Counter(row.state for row in self.rows.values()))

    async def born_at(self) -> int:
        return self._born

    async def forget_failed(self, before: int, limit: int) -> int:
        old = self._sorted(
            lambda row: (row.created_at,), lambda row: row.state is State.FAILED and row.created_at < before
        )[:limit]
        for row in old:
            del self.rows[row.id]
        return len(old)

    async def refuse(self, transfer: RefusedTransfer) -> None:
        noted = [each for each in self._refused.values() if each.reference == transfer.reference]
        key = (transfer.challenge_id, transfer.reference)
        if len(noted) < MAX_REFUSALS and key not in self._refused:
            self._refused[key] = dataclasses.replace(transfer, at=transfer.at or self._clock())

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]:
        noted = reversed(self._refused.values())
        newest = sorted(noted, key=lambda each: -each.at)
        return tuple(newest[:limit])

    async def remember_network(self, name: str, document: str) -> None:
        self._networks[name] = document

    async def networks(self) -> dict[str, str]:
        return dict(sorted(self._networks.items()))

    async def close(self) -> None:
        pass

    # --- inside ---

    def _put(self, payment: Payment) -> None:
        self._inserted[payment.id] = next(self._order)
        self.rows[payment.id] = payment

    def _free(self, row: Payment, instead_of: Payment | None = None) -> bool:
        """Whether its id is free (or its own), and its reference held by no other row that is not FAILED."""
        if instead_of is None and row.id in self.rows:
            return False
        if row.reference is None or row.state is State.FAILED:
            return True
        return all(
            other.id == row.id or other.reference != row.reference or other.state is State.FAILED
            for other in self.rows.values()
        )

    def _sorted(
        self, key: Callable[[Payment], tuple[Any, ...]], which: Callable[[Payment], bool]
    ) -> tuple[Payment, ...]:
        found = [row for row in self.rows.values() if which(row)]
        return tuple(sorted(found, key=lambda row: (*key(row), self._inserted[row.id])))
