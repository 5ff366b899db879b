"""The schema of the SQLite ledger and its history."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpp_authz.ledger import LedgerUnavailable

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
            request_id TEXT NOT NULL,
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
        "CREATE INDEX refused_reference ON refused_transfers (reference)",
        "CREATE TABLE networks (name TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL) STRICT",
    ),
    (
        "ALTER TABLE payments ADD COLUMN chain_id INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX payments_settled ON payments (settled_at, id) "
        "WHERE settled_at IS NOT NULL AND state <> 'SPENT'",
        "CREATE TABLE data_planes "
        "(id TEXT PRIMARY KEY NOT NULL, seen_at INTEGER NOT NULL, ended INTEGER NOT NULL) STRICT",
        "CREATE INDEX data_planes_seen ON data_planes (seen_at)",
    ),
    ("ALTER TABLE payments RENAME COLUMN query_hash TO target_hash",),
)


def migrate(path: Path, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
    """Under the write lock, so that of several processes that start at once one migrates and the others wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _version(connection)
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


def recognise(path: Path, connection: sqlite3.Connection) -> None:
    """See that the file is empty or a ledger that this program can bring up to date, and change nothing.

    Raises:
        LedgerUnavailable: it is another program's, or a newer program wrote it.
    """
    connection.execute("BEGIN")  # both answers are of one moment: another process may be making it
    try:
        found = _version(connection)
        filled = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    finally:
        connection.execute("ROLLBACK")
    _refuse_newer(path, found)
    if found == 0 and filled:
        raise LedgerUnavailable(
            f"ledger {path}: expected a ledger or an empty file, got another program's database; name another path"
        )


def check(path: Path, connection: sqlite3.Connection) -> None:
    recognise(path, connection)
    found = _version(connection)
    if found < len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {path}: expected schema {len(MIGRATIONS)}, got {found}; "
            "start the gateway once: it brings the file up to date"
        )


def _version(connection: sqlite3.Connection) -> int:
    """The number of the last migration this file has had; 0 for a new one."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone()
    if known is None:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    return int(version)


def _refuse_newer(path: Path, found: int) -> None:
    if found > len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {path}: expected schema {len(MIGRATIONS)} or older, got {found}; "
            "a newer mpp-gateway wrote it: upgrade this one, or restore the copy from before its upgrade"
        )
