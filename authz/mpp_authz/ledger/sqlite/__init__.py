"""The ledger in one SQLite file: the store of one machine. Knows rows and SQL, no rule of payments.

Several processes of one machine may share the file. Writes of one process meet in one thread that commits
them in groups: whatever arrives while the disk flushes shares the next flush. Reads have a connection of
their own (WAL: they never wait for a writer), and the long ones of reports have another.

`schema` and `rows` are what is stored, `lanes` the threads, `files` opens, `faults` explains.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self, TypeVar

from mpp_authz.ledger import Binding, DataPlane, LedgerUnavailable, Payment, RefusedTransfer, State, table
from mpp_authz.ledger.sqlite import files, rows
from mpp_authz.ledger.sqlite.lanes import Lane, answer, commit

T = TypeVar("T")


def wall_clock() -> int:
    """Unix milliseconds. All processes of one machine read the same."""
    return time.time_ns() // 1_000_000


class SQLiteLedger:
    """`Ledger` on one file. Made by `open`, used on the event loop that opened it.

    A write whose caller is cancelled is still carried out. After LedgerUnavailable from a write the row may be
    there or not (the commit itself may have failed half way): ask again before acting.
    """

    def __init__(
        self, path: Path, clock: Callable[[], int], writer: Lane | None, reader: Lane, reports: Lane
    ) -> None:
        self._path = path
        self._clock = clock
        self._writer = writer
        self._reader = reader
        self._reports = reports

    @classmethod
    async def open(
        cls, path: str | Path, *, clock: Callable[[], int] | None = None, read_only: bool = False
    ) -> Self:
        """Open the file; make it (mode 0600) and bring its schema up to date unless `read_only`. A file has no
        clock: its time is the machine's unless `clock` gives one.

        Raises:
            LedgerUnavailable: it cannot be opened, or its schema is newer than this program's.
        """
        clock = clock or wall_clock
        file = Path(path).absolute()  # noqa: ASYNC240 -- asks for the current folder, no disk
        loop = asyncio.get_running_loop()
        connections = await asyncio.to_thread(files.open_all, file, clock, read_only)
        reader = Lane("ledger-reads", file, connections[0], loop, answer)
        reports = Lane("ledger-reports", file, connections[1], loop, answer)
        writer = None if read_only else Lane("ledger-writes", file, connections[2], loop, commit)
        return cls(file, clock, writer, reader, reports)

    async def now(self) -> int:
        return self._clock()

    def clock(self) -> int:
        return self._clock()

    async def get(self, payment_id: str) -> Payment | None:
        return await self._one("get", (payment_id,))

    async def insert(self, payment: Payment) -> bool:
        row = table.row_of(payment)
        return await self._write(lambda connection: rows.insert(connection, row))

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        update = table.replacement(old, new)
        if also is None:
            return await self._write(lambda connection: rows.update(connection, update))
        other = table.row_of(also)
        return await self._write(lambda connection: rows.update_with(connection, update, other))

    async def by_reference(self, reference: str) -> Payment | None:
        return await self._one("by_reference", (reference,))

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        return await self._many(self._reader, "unfinished", (payer, *table.binding_of(binding), currency))

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        return await self._many(self._reader, "due", (now, limit))

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]:
        return await self._many(self._reader, "delivering_at", (data_plane,))

    async def settled_since(self, moment: int, after: str, limit: int) -> tuple[Payment, ...]:
        return await self._many(self._reports, "settled_since", (moment, after, limit))

    async def beat(self, data_planes: Collection[str]) -> None:
        seen = [(name, self._clock()) for name in data_planes]
        await self._write(lambda connection: connection.executemany(table.BEAT, seen).rowcount)

    async def end_data_plane(self, data_plane: str) -> None:
        await self._change(table.END_DATA_PLANE, (data_plane, self._clock()))

    async def data_plane(self, data_plane: str) -> DataPlane | None:
        found = await _all(self._reader, table.DATA_PLANE, (data_plane,))
        return DataPlane(found[0][0], bool(found[0][1])) if found else None

    async def living(self, prefix: str, since: int) -> tuple[str, ...]:
        return tuple(name for (name,) in await _all(self._reader, table.LIVING, (prefix, since)))

    async def forget_data_planes(self, before: int, limit: int) -> int:
        return await self._change(table.FORGET_DATA_PLANES, (before, limit))

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        if not states:
            return await self._many(self._reports, "listing", (limit,))
        wanted = "[" + ",".join(f'"{state.value}"' for state in sorted(states)) + "]"
        return await self._many(self._reports, "listing_of", (wanted, limit))

    async def counts(self) -> dict[State, int]:
        found = await _all(self._reports, rows.QUERIES["counts"])
        return {State(state): count for state, count in found}

    async def born_at(self) -> int:
        return int((await _all(self._reader, table.BORN_AT))[0][0])

    async def forget_failed(self, before: int, limit: int) -> int:
        return await self._change(table.FORGET_FAILED, (before, limit))

    async def refuse(self, transfer: RefusedTransfer) -> None:
        """As the protocol says; `at` 0 becomes the store's time."""
        await self._change(table.REFUSE, table.refusal_of(transfer, self._clock()))

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]:
        """Newest first."""
        return tuple(RefusedTransfer(*row) for row in await _all(self._reports, rows.REFUSED, (limit,)))

    async def remember_network(self, name: str, document: str) -> None:
        await self._change(table.REMEMBER_NETWORK, (name, document))

    async def networks(self) -> dict[str, str]:
        return dict(await _all(self._reports, table.NETWORKS))

    async def close(self) -> None:
        """Carry out what is waiting, then let go of the file. A second time does nothing."""
        # The writer last: whoever closes last folds the log into the file, and readers may not.
        for lane in (self._reader, self._reports, self._writer):
            if lane is not None:
                await lane.close()

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise LedgerUnavailable(f"ledger {self._path}: it was opened read-only, and a write was asked of it")
        return await self._writer.submit(work)

    async def _change(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """How many rows it changed."""
        return await self._write(lambda connection: connection.execute(statement, parameters).rowcount)

    async def _one(self, query: str, parameters: tuple[Any, ...]) -> Payment | None:
        found = await self._many(self._reader, query, parameters)
        return found[0] if found else None

    async def _many(self, lane: Lane, query: str, parameters: tuple[Any, ...]) -> tuple[Payment, ...]:
        return tuple(map(table.payment_of, await _all(lane, rows.QUERIES[query], parameters)))


async def _all(lane: Lane, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    return await lane.submit(lambda connection: connection.execute(query, parameters).fetchall())
