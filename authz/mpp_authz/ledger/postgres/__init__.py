"""The ledger in a PostgreSQL database: the store of several gateways. Knows rows and SQL, no rule of payments.

Unique constraints claim ids and references, a row's version claims its next change. Every write is one statement,
so there is no transaction that a lost connection could leave half way.

`schema` is what is stored, `addresses` reads where, `connections` keeps the sessions and the server's clock,
`faults` explains. A pooler between must keep sessions (PgBouncer: session mode).
"""

import logging
from collections.abc import Callable, Collection
from typing import Any, Final, Self

import asyncpg

from mpp_authz.ledger import Binding, DataPlane, LedgerUnavailable, Payment, RefusedTransfer, State, table
from mpp_authz.ledger.postgres import addresses, schema
from mpp_authz.ledger.postgres.connections import Connections

log = logging.getLogger(__name__)


def _statement(shared: str) -> str:
    """PostgreSQL marks parameters with a dollar."""
    return shared.replace("?", "$")


#: What is asked of payments. A test holds each against its index.
QUERIES: Final = {name: _statement(query) for name, query in table.queries("arrival", "= ANY(?1::text[])").items()}
_REFUSED: Final = _statement(table.refused("arrival"))
_INSERT: Final = _statement(table.INSERT) + " ON CONFLICT DO NOTHING"
_UPDATE: Final = _statement(table.UPDATE)
_PAIR_AT: Final = len(table.COLUMNS) + 2
#: Both or neither. The update goes first, because the insert reads from it: the other row may take the reference
#: that it lets go.
_UPDATE_WITH: Final = (
    f"WITH updated AS ({_UPDATE} RETURNING id) INSERT INTO payments ({', '.join(table.COLUMNS)}) "  # noqa: S608
    f"SELECT {', '.join(f'${at}' for at in range(_PAIR_AT, _PAIR_AT + len(table.COLUMNS)))} FROM updated"
)


class PostgresLedger:
    """`Ledger` on one database. Made by `open`, used on the event loop that opened it.

    A write whose caller is cancelled is still carried out. Every method answers, or raises LedgerUnavailable,
    within about five seconds. After LedgerUnavailable from a write the row may be there or not (the commit may
    wait for a disk or a standby, or the answer was lost): ask again before acting.
    """

    def __init__(self, connections: Connections, clock: Callable[[], int] | None, read_only: bool) -> None:
        self._connections = connections
        self._clock = clock
        self._read_only = read_only

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], int] | None = None, read_only: bool = False) -> Self:
        """Open the database; bring its schema up to date unless `read_only`. `clock` gives Unix milliseconds in
        place of the server's clock.

        Raises:
            ValueError: not an address; the message shows nothing of it.
            LedgerUnavailable: no server is there, or its schema is newer than this program's.
        """
        connections = await Connections.open(addresses.parse(url), read_only)
        ledger = cls(connections, clock, read_only)
        try:
            if read_only:
                await connections.run(lambda connection: schema.check(connections.name, connection))
            else:
                await connections.run(
                    lambda connection: schema.migrate(connections.name, connection, ledger.clock),
                    schema.MIGRATION_SECONDS,
                )
            if await connections.run(lambda connection: connection.fetchval("SHOW fsync")) == "off":
                log.warning("the ledger's server may forget payments in a power cut", extra={"fsync": "off"})
        except BaseException:
            await connections.close()
            raise
        return ledger

    async def now(self) -> int:
        return await self._connections.now() if self._clock is None else self._clock()

    def clock(self) -> int:
        return self._connections.last_known() if self._clock is None else self._clock()

    async def get(self, payment_id: str) -> Payment | None:
        return await self._one("get", payment_id)

    async def insert(self, payment: Payment) -> bool:
        return await self._change(_INSERT, *table.row_of(payment)) == 1

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        update = table.replacement(old, new)
        try:
            if also is None:
                return await self._change(_UPDATE, *update) == 1
            return await self._change(_UPDATE_WITH, *update, *table.row_of(also)) == 1
        except asyncpg.UniqueViolationError:
            return False

    async def by_reference(self, reference: str) -> Payment | None:
        return await self._one("by_reference", reference)

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        return await self._many("unfinished", payer, *table.binding_of(binding), currency)

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        return await self._many("due", now, limit)

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]:
        return await self._many("delivering_at", data_plane)

    async def settled_since(self, moment: int, after: str, limit: int) -> tuple[Payment, ...]:
        return await self._many("settled_since", moment, after, limit)

    async def beat(self, data_planes: Collection[str]) -> None:
        now = await self.now()
        for name in data_planes:
            await self._change(_statement(table.BEAT), name, now)

    async def end_data_plane(self, data_plane: str) -> None:
        await self._change(_statement(table.END_DATA_PLANE), data_plane, await self.now())

    async def data_plane(self, data_plane: str) -> DataPlane | None:
        found = await self._all(_statement(table.DATA_PLANE), data_plane)
        return DataPlane(found[0][0], found[0][1]) if found else None

    async def living(self, prefix: str, since: int) -> tuple[str, ...]:
        return tuple(row[0] for row in await self._all(_statement(table.LIVING), prefix, since))

    async def forget_data_planes(self, before: int, limit: int) -> int:
        return await self._change(_statement(table.FORGET_DATA_PLANES), before, limit)

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        if not states:
            return await self._many("listing", limit)
        return await self._many("listing_of", [state.value for state in sorted(states)], limit)

    async def counts(self) -> dict[State, int]:
        return {State(state): count for state, count in await self._all(QUERIES["counts"])}

    async def born_at(self) -> int:
        return int((await self._all(table.BORN_AT))[0][0])

    async def forget_failed(self, before: int, limit: int) -> int:
        return await self._change(_statement(table.FORGET_FAILED), before, limit)

    async def refuse(self, transfer: RefusedTransfer) -> None:
        """As the protocol says; `at` 0 becomes the store's time. Processes that note one transfer at the very same
        time may together note it a few times more than MAX_REFUSALS."""
        await self._change(_statement(table.REFUSE), *table.refusal_of(transfer, await self.now()))

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]:
        """Newest first."""
        return tuple(RefusedTransfer(*row) for row in await self._all(_REFUSED, limit))

    async def remember_network(self, name: str, document: str) -> None:
        await self._change(_statement(table.REMEMBER_NETWORK), name, document)

    async def networks(self) -> dict[str, str]:
        return dict(await self._all(table.NETWORKS))

    async def close(self) -> None:
        """Let what runs end, then let go of the server. A second time does nothing."""
        await self._connections.close()

    async def _change(self, statement: str, *parameters: Any) -> int:
        """How many rows it changed (with `also`: how many it added)."""
        if self._read_only:
            raise LedgerUnavailable(
                f"ledger {self._connections.name}: it was opened read-only, and a write was asked of it"
            )
        status = await self._connections.run(lambda connection: connection.execute(statement, *parameters))
        return int(str(status).rpartition(" ")[2])

    async def _one(self, query: str, *parameters: Any) -> Payment | None:
        found = await self._many(query, *parameters)
        return found[0] if found else None

    async def _many(self, query: str, *parameters: Any) -> tuple[Payment, ...]:
        return tuple(map(table.payment_of, await self._all(QUERIES[query], *parameters)))

    async def _all(self, query: str, *parameters: Any) -> list[Any]:
        found: list[Any] = await self._connections.run(lambda connection: connection.fetch(query, *parameters))
        return found
