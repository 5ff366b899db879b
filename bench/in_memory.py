"""A ledger that forgets everything when its process ends, to measure the others against. Only for benchmarks.

    python bench/in_memory.py LEDGER COUNTER AUTHZ-ARGUMENTS…

is authz on the ledger `memory`, or on the one its arguments name, with the commits of a SQLite file counted in the
8 bytes of the file COUNTER.
"""

import dataclasses
import mmap
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from mpp_authz import server
from mpp_authz.ledger import Binding, DataPlane, Ledger, Payment, RefusedTransfer, State, stores
from mpp_authz.ledger import sqlite as sqlite_store

_OPEN = frozenset({State.SETTLING, State.UNKNOWN, State.DELIVERING, State.CREDIT})


class InMemoryLedger:
    """`ledger.Ledger` in dicts, with an index where the stores have one. Nothing waits, nothing lasts."""

    def __init__(self) -> None:
        self._born = self.clock()
        self._rows: dict[str, Payment] = {}
        self._references: dict[str, str] = {}
        self._open: dict[str, Payment] = {}
        self._open_of: dict[str | None, dict[str, Payment]] = defaultdict(dict)
        self._planes: dict[str, DataPlane] = {}
        self._refused: list[RefusedTransfer] = []
        self._networks: dict[str, str] = {}

    async def now(self) -> int:
        return self.clock()

    def clock(self) -> int:
        return time.time_ns() // 1_000_000

    async def get(self, payment_id: str) -> Payment | None:
        return self._rows.get(payment_id)

    async def insert(self, payment: Payment) -> bool:
        if payment.id in self._rows or not self._free(payment):
            return False
        self._put(payment)
        return True

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        held = self._rows.get(old.id)
        if held is None or held.version != old.version or not self._free(new):
            return False
        if also is not None and (also.id in self._rows or not self._free(also)):
            return False
        self._put(dataclasses.replace(new, version=old.version + 1))
        if also is not None:
            self._put(also)
        return True

    def _free(self, row: Payment) -> bool:
        return row.reference is None or self._references.get(row.reference, row.id) == row.id

    def _put(self, row: Payment) -> None:
        before = self._rows.get(row.id)
        if before is not None:
            self._open.pop(row.id, None)
            self._open_of[before.payer].pop(row.id, None)
            if before.reference is not None:
                self._references.pop(before.reference, None)
        self._rows[row.id] = row
        if row.reference is not None and row.state is not State.FAILED:
            self._references[row.reference] = row.id
        if row.state in _OPEN:
            self._open[row.id] = self._open_of[row.payer][row.id] = row

    async def by_reference(self, reference: str) -> Payment | None:
        return self._rows.get(self._references.get(reference, ""))

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        mine = self._open_of.get(payer, {}).values()
        return _by_age(row for row in mine if (row.binding, row.currency) == (binding, currency))

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        return _by_age(row for row in self._open.values() if _moment(row) <= now)[:limit]

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]:
        return _by_age(
            row for row in self._open.values() if (row.state, row.data_plane) == (State.DELIVERING, data_plane)
        )

    async def settled_since(self, moment: int, after: str, limit: int) -> tuple[Payment, ...]:
        found = [row for row in self._rows.values() if row.settled_at is not None and row.state is not State.SPENT]
        found.sort(key=lambda row: (row.settled_at, row.id))
        return tuple(row for row in found if (row.settled_at or 0, row.id) > (moment, after))[:limit]

    async def beat(self, data_planes: Collection[str]) -> None:
        for name in data_planes:
            ended = name in self._planes and self._planes[name].ended
            self._planes[name] = DataPlane(self.clock(), ended)

    async def end_data_plane(self, data_plane: str) -> None:
        self._planes[data_plane] = DataPlane(self.clock(), True)

    async def data_plane(self, data_plane: str) -> DataPlane | None:
        return self._planes.get(data_plane)

    async def forget_data_planes(self, before: int, limit: int) -> int:
        return 0

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        return _by_age(row for row in self._rows.values() if not states or row.state in states)[:limit]

    async def counts(self) -> dict[State, int]:
        return dict(Counter(row.state for row in self._rows.values()))

    async def born_at(self) -> int:
        return self._born

    async def forget_failed(self, before: int, limit: int) -> int:
        return 0

    async def refuse(self, transfer: RefusedTransfer) -> None:
        self._refused.append(transfer)

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]:
        return tuple(self._refused[-limit:])

    async def remember_network(self, name: str, document: str) -> None:
        self._networks[name] = document

    async def networks(self) -> dict[str, str]:
        return dict(self._networks)

    async def close(self) -> None:
        pass


def _by_age(rows: Iterable[Payment]) -> tuple[Payment, ...]:
    return tuple(sorted(rows, key=lambda row: row.created_at))


def _moment(row: Payment) -> int:
    return row.life_until if row.state is State.CREDIT else row.lease_until


def _counted(counter: Path) -> Callable[..., Any]:
    """SQLite's commits of a group, counted where the benchmark can read it."""
    with counter.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    done, commit = 0, sqlite_store.commit

    def counting(connection: Any, jobs: Sequence[Any]) -> Any:
        nonlocal done
        outcomes = commit(connection, jobs)
        done += 1
        shared[:] = struct.pack("q", done)
        return outcomes

    return counting


async def _in_memory(url: str, **_: Any) -> Ledger:
    return InMemoryLedger()


def main() -> int:
    ledger, counter, *arguments = sys.argv[1:]
    if ledger == "memory":
        stores.open_ledger = _in_memory
    else:
        sqlite_store.commit = _counted(Path(counter))
    return server.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
