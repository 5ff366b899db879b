"""The ledger in one SQLite file: the store of one machine. Knows rows and SQL, no rule of payments.

Several processes of one machine may share the file. Writes of one process meet in one thread that commits
them in groups: whatever arrives while the disk flushes shares the next flush. Reads have a connection of
their own (WAL: they never wait for a writer), and the long ones of reports have another.
"""

import asyncio
import contextlib
import dataclasses
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from mpp_authz.ledger import Binding, LedgerUnavailable, Payment, RefusedTransfer, State

T = TypeVar("T")

#: How long a write waits for another process's write before it is given up.
BUSY_SECONDS: Final = 5.0
#: STRICT tables came with 3.37.
MIN_SQLITE: Final = (3, 37, 0)
#: Writes of one transaction. More would only make the first of them wait.
_GROUP: Final = 256
#: Writes that may wait. A disk that hangs must not fill the memory.
_PENDING: Final = 10_000

#: Numbered from 1, never edited once released: a change is a new entry.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE payments (
            id TEXT PRIMARY KEY NOT NULL,
            state TEXT NOT NULL,
            route TEXT NOT NULL,
            http_method TEXT NOT NULL,
            query_hash TEXT NOT NULL,
            digest TEXT NOT NULL,
            method TEXT NOT NULL,
            intent TEXT NOT NULL,
            network TEXT NOT NULL,
            currency TEXT NOT NULL,
            recipient TEXT NOT NULL,
            amount TEXT NOT NULL,
            mode TEXT NOT NULL,
            credential_hash TEXT NOT NULL,
            payer TEXT,
            reference TEXT,
            valid_before INTEGER,
            envelope TEXT,
            minted_at INTEGER NOT NULL,
            expires_at INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            settled_at INTEGER,
            answered_at INTEGER,
            delivered_at INTEGER,
            lease_until INTEGER NOT NULL,
            lease_owner TEXT NOT NULL,
            check_ended INTEGER NOT NULL,
            data_plane TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            attempts_allowed INTEGER NOT NULL,
            credit_life INTEGER NOT NULL,
            life_until INTEGER NOT NULL,
            streaming INTEGER NOT NULL,
            faults INTEGER NOT NULL,
            last_status INTEGER,
            last_flags TEXT NOT NULL,
            idempotency_hash TEXT NOT NULL,
            paid_by TEXT REFERENCES payments (id),
            reason TEXT NOT NULL,
            version INTEGER NOT NULL
        ) STRICT
        """,
        # A transaction pays once. A FAILED row moved no money and holds nothing.
        "CREATE UNIQUE INDEX payments_reference ON payments (reference) "
        "WHERE reference IS NOT NULL AND state <> 'FAILED'",
        "CREATE INDEX payments_unfinished ON payments (payer, route) "
        "WHERE state IN ('SETTLING', 'UNKNOWN', 'DELIVERING', 'CREDIT')",
        "CREATE INDEX payments_lease ON payments (state, lease_until, id) "
        "WHERE state IN ('SETTLING', 'UNKNOWN', 'DELIVERING')",
        "CREATE INDEX payments_life ON payments (life_until) WHERE state = 'CREDIT'",
        "CREATE INDEX payments_data_plane ON payments (data_plane) WHERE state = 'DELIVERING'",
        "CREATE INDEX payments_paid_by ON payments (paid_by) WHERE paid_by IS NOT NULL",
        "CREATE INDEX payments_newest ON payments (created_at)",
        "CREATE INDEX payments_state ON payments (state, created_at)",
        """
        CREATE TABLE refused_transfers (
            challenge_id TEXT NOT NULL,
            reference TEXT NOT NULL,
            route TEXT NOT NULL,
            network TEXT NOT NULL,
            reason TEXT NOT NULL,
            at INTEGER NOT NULL,
            PRIMARY KEY (challenge_id, reference)
        ) STRICT
        """,
        "CREATE INDEX refused_newest ON refused_transfers (at)",
        "CREATE TABLE networks (name TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) STRICT",
    ),
)

_BINDING: Final = tuple(field.name for field in dataclasses.fields(Binding))
_REST: Final = tuple(
    field.name for field in dataclasses.fields(Payment) if field.name not in ("id", "state", "binding")
)
#: The columns in the order in which rows are read and written.
COLUMNS: Final = ("id", "state", *_BINDING, *_REST)
_FLAGS: Final = tuple(COLUMNS.index(name) for name in ("check_ended", "streaming"))
_binding_of: Final = attrgetter(*_BINDING)
_rest_of: Final = attrgetter(*_REST)

# Column and table names are ours, from the dataclasses above; every value is a parameter.
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM payments "  # noqa: S608
_INSERT: Final = f"INSERT INTO payments ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_UPDATE: Final = (
    f"UPDATE payments SET {', '.join(f'{name} = ?' for name in COLUMNS[1:])} WHERE id = ? AND version = ?"  # noqa: S608
)
#: What is asked of payments. A test holds each against its index.
QUERIES: Final = {
    "get": _SELECT + "WHERE id = ?",
    "by_reference": _SELECT + "WHERE reference = ? AND state <> 'FAILED'",
    "unfinished": _SELECT
    + "WHERE payer = ? AND route = ? AND http_method = ? AND query_hash = ? AND digest = ? AND currency = ? "
    "AND state IN ('SETTLING', 'UNKNOWN', 'DELIVERING', 'CREDIT') ORDER BY created_at, rowid",
    # One branch an index, each cut to the limit, so that a pile of waiting rows is never read through.
    "due": " UNION ALL ".join(  # noqa: S608
        f"SELECT * FROM ({_SELECT}{where} LIMIT :limit)"  # noqa: S608
        for where in (
            "WHERE state = 'SETTLING' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'DELIVERING' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'UNKNOWN' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'CREDIT' AND life_until <= :now ORDER BY lease_until, id",
        )
    )
    + " ORDER BY lease_until, id LIMIT :limit",
    "delivering_at": _SELECT + "WHERE state = 'DELIVERING' AND data_plane = ? ORDER BY created_at, rowid",
    "listing": _SELECT + "ORDER BY created_at DESC, rowid DESC LIMIT ?",
    "listing_of": _SELECT  # noqa: S608
    + "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY created_at DESC, rowid DESC LIMIT ?",
    "counts": "SELECT state, count(*) FROM payments GROUP BY state",
}


def wall_clock() -> int:
    """Unix milliseconds. All processes of one machine read the same."""
    return time.time_ns() // 1_000_000


class SQLiteLedger:
    """`Ledger` on one file. Made by `open`, used on the event loop that opened it.

    A write whose caller is cancelled is still carried out. After LedgerUnavailable from a write the row may be
    there or not (the commit itself may have failed half way): ask again before acting.
    """

    def __init__(
        self, path: Path, clock: Callable[[], int], writer: "_Lane | None", reader: "_Lane", reports: "_Lane"
    ) -> None:
        self._path = path
        self._clock = clock
        self._writer = writer
        self._reader = reader
        self._reports = reports

    @classmethod
    async def open(
        cls, path: str | Path, *, clock: Callable[[], int] = wall_clock, read_only: bool = False
    ) -> Self:
        """Open the file; make it (mode 0600) and bring its schema up to date unless `read_only`.

        Raises:
            LedgerUnavailable: it cannot be opened, or its schema is newer than this program's.
        """
        file = _absolute(path)
        loop = asyncio.get_running_loop()
        connections = await asyncio.to_thread(_connect_all, file, clock, read_only)
        reader = _Lane("ledger-reads", file, connections[0], loop, _answer)
        reports = _Lane("ledger-reports", file, connections[1], loop, _answer)
        writer = None if read_only else _Lane("ledger-writes", file, connections[2], loop, _commit)
        return cls(file, clock, writer, reader, reports)

    async def now(self) -> int:
        return self._clock()

    async def get(self, payment_id: str) -> Payment | None:
        return await self._one("get", (payment_id,))

    async def insert(self, payment: Payment) -> bool:
        row = _row(payment)
        return await self._write(lambda connection: _inserted(connection, row))

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        if new.id != old.id:
            raise ValueError(f"replace: expected a row with the same id, got {new.id!r} for {old.id!r}")
        row = _row(dataclasses.replace(new, version=old.version + 1))
        update = (*row[1:], old.id, old.version)
        if also is None:
            return await self._write(lambda connection: _updated(connection, update))
        other = _row(also)
        return await self._write(lambda connection: _updated_with(connection, update, other))

    async def by_reference(self, reference: str) -> Payment | None:
        return await self._one("by_reference", (reference,))

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        return await self._many(self._reader, "unfinished", (payer, *_binding_of(binding), currency))

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        return await self._many(self._reader, "due", {"now": now, "limit": limit})

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]:
        return await self._many(self._reader, "delivering_at", (data_plane,))

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        if not states:
            return await self._many(self._reports, "listing", (limit,))
        wanted = "[" + ",".join(f'"{state.value}"' for state in sorted(states)) + "]"
        return await self._many(self._reports, "listing_of", (wanted, limit))

    async def counts(self) -> dict[State, int]:
        rows = await self._reports.submit(lambda connection: connection.execute(QUERIES["counts"]).fetchall())
        return {State(state): count for state, count in rows}

    async def refuse(self, transfer: RefusedTransfer) -> None:
        """As the protocol says; `at` 0 becomes the store's time."""
        row = (
            transfer.challenge_id,
            transfer.reference,
            transfer.route,
            transfer.network,
            transfer.reason,
            transfer.at or self._clock(),
        )
        await self._write(
            lambda connection: (
                connection.execute(
                    "INSERT INTO refused_transfers (challenge_id, reference, route, network, reason, at) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    row,
                ).rowcount
            )
        )

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]:
        """Newest first."""
        rows = await self._reports.submit(
            lambda connection: connection.execute(
                "SELECT challenge_id, reference, route, network, reason, at FROM refused_transfers "
                "ORDER BY at DESC, rowid DESC LIMIT ?",
                (limit,),
            ).fetchall()
        )
        return tuple(RefusedTransfer(*row) for row in rows)

    async def remember_network(self, name: str, document: str) -> None:
        await self._write(
            lambda connection: (
                connection.execute(
                    "INSERT INTO networks (name, document) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                    (name, document),
                ).rowcount
            )
        )

    async def networks(self) -> dict[str, str]:
        rows = await self._reports.submit(
            lambda connection: connection.execute("SELECT name, document FROM networks ORDER BY name").fetchall()
        )
        return dict(rows)

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

    async def _one(self, query: str, parameters: tuple[Any, ...]) -> Payment | None:
        row = await self._reader.submit(
            lambda connection: connection.execute(QUERIES[query], parameters).fetchone()
        )
        return None if row is None else _payment(row)

    async def _many(
        self, lane: "_Lane", query: str, parameters: tuple[Any, ...] | dict[str, Any]
    ) -> tuple[Payment, ...]:
        rows = await lane.submit(lambda connection: connection.execute(QUERIES[query], parameters).fetchall())
        return tuple(map(_payment, rows))


# --- rows ----------------------------------------------------------------------------------------------


def _row(payment: Payment) -> tuple[Any, ...]:
    return (payment.id, payment.state.value, *_binding_of(payment.binding), *_rest_of(payment))


def _payment(row: Sequence[Any]) -> Payment:
    values = list(row)
    for at in _FLAGS:
        values[at] = bool(values[at])
    return Payment(values[0], State(values[1]), Binding(*values[2:6]), *values[6:])


#: What an insert or an update says when an id or a reference is taken. Other constraints are our bugs.
_TAKEN: Final = frozenset({"SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"})


def _inserted(connection: sqlite3.Connection, row: tuple[Any, ...]) -> bool:
    try:
        connection.execute(_INSERT, row)
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname not in _TAKEN:
            raise
        return False
    return True


def _updated(connection: sqlite3.Connection, update: tuple[Any, ...]) -> bool:
    try:
        return connection.execute(_UPDATE, update).rowcount == 1
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname not in _TAKEN:
            raise
        return False


def _updated_with(connection: sqlite3.Connection, update: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Both or neither. The update goes first: the other row may take the reference that it lets go."""
    connection.execute("SAVEPOINT pair")
    done = False
    try:
        done = _updated(connection, update) and _inserted(connection, other)
    finally:
        if connection.in_transaction:  # else SQLite itself has rolled the whole group back
            if not done:
                connection.execute("ROLLBACK TO pair")
            connection.execute("RELEASE pair")
    return done


# --- threads -------------------------------------------------------------------------------------------

_Outcome = tuple[Any, Exception | None]


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class _Lane:
    """One thread with one connection. Takes whatever jobs wait, runs them together, answers them together."""

    def __init__(
        self,
        name: str,
        path: Path,
        connection: sqlite3.Connection,
        loop: asyncio.AbstractEventLoop,
        run: Callable[[sqlite3.Connection, Sequence[_Job]], list[_Outcome]],
    ) -> None:
        self._path = path
        self._connection = connection
        self._loop = loop
        self._run = run
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon: a program that dies without `close` must not hang on it. What returned is on the disk.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise LedgerUnavailable(f"ledger {self._path}: it is closed")
        if self._jobs.qsize() >= _PENDING:
            raise LedgerUnavailable(
                f"ledger {self._path}: {_PENDING} requests wait for the disk; check its health and its load"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, future))
        return await future

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._gather()
            if not jobs:
                continue
            outcomes = self._run(self._connection, jobs)
            try:
                self._loop.call_soon_threadsafe(self._resolve, jobs, outcomes)
            except RuntimeError:  # the loop is gone, and everybody who waited with it
                open_ = False
        self._connection.close()

    def _gather(self) -> tuple[list[_Job], bool]:
        """All jobs that wait, at least one; False with them when there will be no more."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == _GROUP:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _resolve(self, jobs: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
        for job, (value, error) in zip(jobs, outcomes, strict=True):
            if job.future.done():  # its caller was cancelled; the work is done all the same
                continue
            if error is None:
                job.future.set_result(value)
            else:
                unavailable = LedgerUnavailable(_explain(self._path, error))
                unavailable.__cause__ = error
                job.future.set_exception(unavailable)


def _answer(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    """Reads: each for itself."""
    return [_outcome(connection, job) for job in jobs]


def _commit(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
    """Writes: one transaction for all. A job that fails by itself leaves its neighbours in; when the store fails,
    nothing of the group is kept and all are told."""
    try:
        if connection.in_transaction:  # the last rollback failed, too
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_outcome(connection, job) for job in jobs]
        sick = next((error for _, error in outcomes if _sick(error)), None)
        if sick is not None:
            raise sick
        connection.execute("COMMIT")
    except Exception as error:  # the thread must live: the next group may find the disk freed
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return [(None, error)] * len(jobs)
    return outcomes


def _outcome(connection: sqlite3.Connection, job: _Job) -> _Outcome:
    try:
        return job.work(connection), None
    except Exception as error:  # one job's fault is one caller's error, never the end of the thread
        return None, error


def _sick(error: Exception | None) -> bool:
    """Whether it is the store that failed, rather than the values of one job."""
    single = sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError | sqlite3.DataError
    return isinstance(error, sqlite3.Error) and not isinstance(error, single)


# --- opening -------------------------------------------------------------------------------------------


def _absolute(path: str | Path) -> Path:
    return Path(path).absolute()


def _connect_all(
    path: Path, clock: Callable[[], int], read_only: bool
) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
    """For reads, for reports, for writes (read-only, too, when asked)."""
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        wanted = ".".join(map(str, MIN_SQLITE))
        raise LedgerUnavailable(
            f"ledger {path}: expected SQLite {wanted} or newer, got {sqlite3.sqlite_version}; use another Python"
        )
    opened: list[sqlite3.Connection] = []
    try:
        if not read_only:
            _create(path)
        first = _connect(path, read_only)
        opened.append(first)
        if read_only:
            _check_schema(path, first)
        else:
            _use_wal(path, first)
            _migrate(path, first, clock)
        opened += [_connect(path, True), _connect(path, True)]
    except (sqlite3.Error, OSError) as error:
        _close(opened)
        raise LedgerUnavailable(_explain(path, error)) from error
    except LedgerUnavailable:
        _close(opened)
        raise
    return opened[1], opened[2], first


def _close(connections: Sequence[sqlite3.Connection]) -> None:
    for connection in connections:
        connection.close()


def _create(path: Path) -> None:
    """Make the file for its owner only; SQLite gives its companions (-wal, -shm) the same mode."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        # Never opened here: closing any descriptor of a file drops this process's locks on it (POSIX).
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name itself must survive a power cut
    finally:
        os.close(folder)


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.as_uri() + ("?mode=ro" if read_only else "?mode=rw"),
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        # macOS: fsync alone leaves the data in the drive's cache. Elsewhere these say nothing.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _use_wal(path: Path, connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # The switch does not wait for a lock: several processes that start at once take turns here.
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise LedgerUnavailable(
            f"ledger {path}: expected a file system that can do write-ahead logging, got journal mode {mode!r}; "
            "put it on a local disk"
        )


def _schema(connection: sqlite3.Connection) -> int:
    """The number of the last migration this file has had; 0 for a new one."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
    if known is None:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    return int(version)


def _migrate(path: Path, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
    """Under the write lock, so that of several processes that start at once one migrates and the others wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _schema(connection)
        _refuse_newer(path, found)
        if found == 0:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations "
                "(version INTEGER PRIMARY KEY NOT NULL, applied_at INTEGER NOT NULL) STRICT"
            )
        for version, statements in enumerate(MIGRATIONS, start=1):
            if version > found:
                for statement in statements:
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migrations (version, applied_at) VALUES (?, ?)", (version, clock())
                )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    found = _schema(connection)
    _refuse_newer(path, found)
    if found < len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {path}: expected schema {len(MIGRATIONS)}, got {found}; "
            "start the gateway once: it brings the file up to date"
        )


def _refuse_newer(path: Path, found: int) -> None:
    if found > len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {path}: expected schema {len(MIGRATIONS)} or older, got {found}; "
            "a newer mpp-gateway wrote it: upgrade this one, or restore the copy from before its upgrade"
        )


#: By SQLite's primary error name: what is wrong, and what to do.
_FIXES: Final = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_READONLY": "it is read-only; make the file and its folder writable for this user",
    "SQLITE_BUSY": f"another process has held it for more than {BUSY_SECONDS:g} s; end that one",
    "SQLITE_LOCKED": f"another process has held it for more than {BUSY_SECONDS:g} s; end that one",
    "SQLITE_CANTOPEN": "it cannot be opened; its folder must exist and be writable for this user",
    "SQLITE_NOTADB": "it is not a SQLite file; name another path, or restore a copy",
    "SQLITE_CORRUPT": "it is damaged; restore a copy",
    "SQLITE_IOERR": "the disk failed to read or write; check its health and its free space",
}


def _explain(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"ledger {path}: {error.strerror or error}; its folder must exist and be writable for this user"
    name = getattr(error, "sqlite_errorname", None) or ""
    if name == "SQLITE_ERROR":  # about our SQL or the schema; values are parameters and not part of it
        return f"ledger {path}: {error}; the file's schema is not what this program made: restore a copy"
    fix = next((fix for code, fix in _FIXES.items() if name.startswith(code)), None)
    if fix is None:
        # The words of a value that could not be stored may be the value: only the kind of error is told.
        return f"ledger {path}: {name or type(error).__name__}; the row could not be read or written"
    return f"ledger {path}: {fix} ({name})"
