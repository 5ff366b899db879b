"""Connections to the server: a bounded pool, each step with a time limit, and the server's clock."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import asyncpg

from mpp_authz.ledger import LedgerUnavailable
from mpp_authz.ledger.postgres import addresses, clock, faults, schema

#: Connections of one process. Replicas times this must fit into the server's max_connections.
CONNECTIONS: Final = 10
#: Requests that may wait. A server that hangs must not fill the memory.
PENDING: Final = 10_000
#: What one request of the store may take in all, from its connection to its commit.
SECONDS: Final = 5.0
#: What all hosts together may take to give a connection; each has its share.
CONNECT_SECONDS: Final = 4.0
#: How long a statement that was given up may take to be cancelled before its connection is cut.
_FAREWELL_SECONDS: Final = 1.0

#: One round trip. Whatever the database's or the user's defaults are, this is what a session has.
_SESSION: Final = f"""
SET application_name = 'mpp-gateway';
SET search_path = {schema.SCHEMA};
SET default_transaction_isolation = 'read committed';
SET default_transaction_deferrable = off;
SET lock_timeout = '{faults.LOCK_SECONDS}s';
SET statement_timeout = '{faults.STATEMENT_SECONDS}s';
SET idle_in_transaction_session_timeout = '{schema.MIGRATION_SECONDS}s';
SET client_min_messages = warning;
SET jit = off;
SELECT set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false);
"""
_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::float8, pg_postmaster_start_time()::text"
#: How often this server's history was branched by a failover.
_TIMELINE: Final = (
    "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int "
    "WHERE NOT pg_is_in_recovery()"
)

T = TypeVar("T")


class _Unreachable(Exception):
    """No host gave a connection; the message is fit to be shown."""


class Connections:
    """Runs work on connections. Made by `open`, used on the event loop that opened it."""

    def __init__(self, address: addresses.Address, read_only: bool) -> None:
        self.name = address.name
        self._address = address
        self._read_only = read_only
        self._first = 0  # the host to try first: the last that was good
        self._timeline = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=CONNECTIONS,
            max_inactive_connection_lifetime=60,
            connect=self._connect,
            reset=_keep,
        )
        self._time: clock.Sample | None = None
        self._sampled_at = float("-inf")
        self._asked_at = float("-inf")
        self._sampling: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: addresses.Address, read_only: bool) -> "Connections":
        """With one connection made, so that the time is known.

        Raises:
            LedgerUnavailable: no host gives one.
        """
        connections = cls(address, read_only)
        await connections._pool
        try:
            await connections.run(_nothing)
        except BaseException:
            await connections.close()
            raise
        return connections

    async def run(self, work: Callable[[Any], Awaitable[T]], seconds: float | None = None) -> T:
        """What `work` gives, on a connection of its own, within `seconds` (None: SECONDS). It goes on where the
        caller is cancelled.

        Raises:
            LedgerUnavailable: what was asked may have been done or not.
            asyncpg.UniqueViolationError: nothing was done.
        """
        if self._closed:
            raise LedgerUnavailable(f"ledger {self.name}: it is closed")
        if len(self._tasks) >= PENDING:
            raise LedgerUnavailable(
                f"ledger {self.name}: {PENDING} requests wait for the server; check its health and its load"
            )
        return await asyncio.shield(self._spawn(self._run(work, SECONDS if seconds is None else seconds)))

    async def now(self) -> int:
        """The server's Unix milliseconds, wrong by half a round trip at most. Asks the server about once a second,
        and waits for its answer only when the last one is too old to go by.

        Raises:
            LedgerUnavailable: for clock.STALE_SECONDS it did not say.
        """
        now = clock.since_boot()
        stale = now - self._sampled_at >= clock.STALE_SECONDS
        if stale or now - max(self._sampled_at, self._asked_at) >= clock.REFRESH_SECONDS:
            if self._sampling is None or self._sampling.done():
                self._asked_at = now
                self._sampling = self._spawn(self.run(self._sample))
            if stale:
                await asyncio.shield(self._sampling)
        return self.last_known()

    def last_known(self) -> int:
        """As `now`, without asking."""
        if self._time is None:
            raise LedgerUnavailable(f"ledger {self.name}: the server's time is not known yet")
        return clock.milliseconds(self._time, clock.since_boot())

    async def close(self) -> None:
        """Let what runs end, each within its time limit. A second time does nothing."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._pool.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen: whoever asked may be gone

    async def _run(self, work: Callable[[Any], Awaitable[T]], seconds: float) -> T:
        connection: Any = None
        unsure: list[Any] = []
        problem: Exception
        try:
            async with asyncio.timeout(seconds):
                connection = await self._pool.acquire()
                # A commit that stops waiting for its standby, because somebody cancelled it, succeeds with a
                # warning: such a row would be lost in a failover.
                listener = _listener(unsure)
                connection.add_log_listener(listener)
                try:
                    result = await work(connection)
                finally:
                    with contextlib.suppress(asyncpg.InterfaceError):  # it broke
                        connection.remove_log_listener(listener)
        except asyncpg.UniqueViolationError:
            await self._release(connection)
            raise
        except LedgerUnavailable:
            _cut(connection)
            raise
        except Exception as error:
            problem = error
        except BaseException:
            _cut(connection)
            raise
        else:
            if not unsure:
                await self._release(connection)
                return result
            _cut(connection)
            raise LedgerUnavailable(
                f"ledger {self.name}: the server warned that a commit may not be safe on its standby; see its log"
            )
        words = self._words(problem, connection is not None, seconds)
        await self._give_up(connection, problem)
        # Not from `problem`: the words of the server's errors may be a row.
        raise LedgerUnavailable(f"ledger {self.name}: {words}")

    def _words(self, problem: Exception, connected: bool, seconds: float) -> str:
        if isinstance(problem, _Unreachable):
            return str(problem)
        if isinstance(problem, TimeoutError) and not connected:
            return (
                f"none of {CONNECTIONS} connections was free for {seconds:g} s; check the server's health and load"
            )
        return faults.explain(problem)

    async def _give_up(self, connection: Any, problem: Exception) -> None:
        if connection is not None and faults.is_harmless(problem):
            await self._release(connection)
            return
        if connection is not None:
            if isinstance(problem, TimeoutError):
                self._spawn(_discard(connection))
            else:
                _cut(connection)
        if connection is not None and isinstance(problem, TimeoutError | asyncpg.ReadOnlySQLTransactionError):
            # The server hangs, or became a standby: the other connections to it are no better.
            self._first = (self._first + 1) % len(self._address.urls)
            await self._pool.expire_connections()

    async def _release(self, connection: Any) -> None:
        """Back to the pool. One that is expired is closed instead, which must not wait for a server that hangs."""
        with contextlib.suppress(Exception):
            await self._pool.release(connection, timeout=_FAREWELL_SECONDS)

    async def _connect(self, *_: Any, **options: Any) -> Any:
        """A connection to the first host that gives a good one."""
        share = CONNECT_SECONDS / len(self._address.urls)
        problems: list[str] = []
        first = self._first
        for step in range(len(self._address.urls)):
            at = (first + step) % len(self._address.urls)
            try:
                async with asyncio.timeout(share):
                    connection = await self._connect_to(at, options)
            except _Unreachable as error:
                problems.append(f"{self._address.hosts[at]}: {error}")
            except Exception as error:
                problems.append(f"{self._address.hosts[at]}: {faults.explain(error)}")
            else:
                self._first = at
                return connection
        raise _Unreachable("; ".join(problems))

    async def _connect_to(self, at: int, options: dict[str, Any]) -> Any:
        wanted = None if self._read_only else "read-write"
        connection = await asyncpg.connect(self._address.urls[at], target_session_attrs=wanted, **options)
        try:
            await connection.execute(_SESSION)
            if self._read_only:
                await connection.execute("SET default_transaction_read_only = on")
            else:
                await self._refuse_older(connection)
            await connection.fetchrow(_TIME)  # prepares it, so that the sample is one round trip
            await self._sample(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _refuse_older(self, connection: Any) -> None:
        """An old primary that came back after its standby took over would accept writes that nobody else sees."""
        try:
            timeline = await connection.fetchval(_TIMELINE)
        except asyncpg.PostgresError:  # some hosted servers do not tell
            timeline = None
        if timeline is None:
            return
        if timeline < self._timeline:
            raise _Unreachable(
                f"it is on timeline {timeline}, and a server on timeline {self._timeline} has taken over since; "
                "end the old primary, or start the gateway again where this one is meant"
            )
        self._timeline = timeline

    async def _sample(self, connection: Any) -> None:
        asked_at = clock.since_boot()
        server_time, server = await connection.fetchrow(_TIME)
        taken = clock.sample(server, asked_at, clock.since_boot(), server_time)
        self._time = clock.better(self._time, taken)
        self._sampled_at = taken.taken_at


async def _nothing(_: Any) -> None: ...


async def _keep(_: Any) -> None:
    """Instead of a reset between uses: no work of ours leaves anything in a session."""


def _listener(unsure: list[Any]) -> Callable[[Any, Any], None]:
    return lambda _, message: unsure.append(message.sqlstate) if message.severity_en == "WARNING" else None


async def _discard(connection: Any) -> None:
    """Close once the server has cancelled what was given up; cut where it does not."""
    with contextlib.suppress(Exception):
        await connection.close(timeout=_FAREWELL_SECONDS)
    _cut(connection)


def _cut(connection: Any) -> None:
    """End it without a word; None and one that has ended are left as they are."""
    if connection is not None:
        with contextlib.suppress(asyncpg.InterfaceError):
            connection.terminate()
