"""Opening the file: made for its owner only, write-ahead log, every commit on the disk."""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from mpp_authz.ledger import LedgerUnavailable
from mpp_authz.ledger.sqlite import faults, schema

#: STRICT tables came with 3.37.
MIN_SQLITE: Final = (3, 37, 0)


def open_all(
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
            schema.check(path, first)
        else:
            schema.recognise(path, first)  # before anything is written into a file that is not ours
            _use_wal(path, first)
            schema.migrate(path, first, clock)
        opened += [_connect(path, True), _connect(path, True)]
    except (sqlite3.Error, OSError) as error:
        _close(opened)
        raise LedgerUnavailable(faults.explain(path, error)) from error
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
        timeout=faults.BUSY_SECONDS,
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
    deadline = time.monotonic() + faults.BUSY_SECONDS
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
