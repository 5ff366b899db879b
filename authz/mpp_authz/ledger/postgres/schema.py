"""The schema of the PostgreSQL ledger and its history. All tables are in a schema of their own, SCHEMA."""

from collections.abc import Callable
from typing import Any, Final

from mpp_authz.ledger import LedgerUnavailable

SCHEMA: Final = "mpp_gateway"
#: Names the lock under which one of several processes migrates: "mpp ledg" in ASCII.
_LOCK: Final = 0x6D7070_206C656467
#: How long to wait for another process's migration, and how long our own may take.
MIGRATION_SECONDS: Final = 600

#: Numbered from 1, never edited once released: a change is a new entry.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE payments (
            id TEXT COLLATE "C" PRIMARY KEY,
            arrival BIGINT GENERATED ALWAYS AS IDENTITY,
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
            valid_before BIGINT,
            chain_id BIGINT NOT NULL,
            envelope TEXT,
            minted_at BIGINT NOT NULL,
            expires_at BIGINT NOT NULL,
            created_at BIGINT NOT NULL,
            settled_at BIGINT,
            answered_at BIGINT,
            delivered_at BIGINT,
            lease_until BIGINT NOT NULL,
            lease_owner TEXT NOT NULL,
            check_ended BOOLEAN NOT NULL,
            data_plane TEXT NOT NULL,
            request_id TEXT NOT NULL,
            attempt BIGINT NOT NULL,
            attempts_allowed BIGINT NOT NULL,
            credit_life BIGINT NOT NULL,
            life_until BIGINT NOT NULL,
            streaming BOOLEAN NOT NULL,
            faults BIGINT NOT NULL,
            last_status BIGINT,
            last_flags TEXT NOT NULL,
            idempotency_hash TEXT NOT NULL,
            paid_by TEXT COLLATE "C" REFERENCES payments (id),
            reason TEXT NOT NULL,
            version BIGINT NOT NULL
        )
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
        "CREATE INDEX payments_newest ON payments (created_at, arrival)",
        "CREATE INDEX payments_state ON payments (state, created_at, arrival)",
        "CREATE INDEX payments_settled ON payments (settled_at, id) "
        "WHERE settled_at IS NOT NULL AND state <> 'SPENT'",
        """
        CREATE TABLE refused_transfers (
            challenge_id TEXT NOT NULL,
            reference TEXT NOT NULL,
            arrival BIGINT GENERATED ALWAYS AS IDENTITY,
            route TEXT NOT NULL,
            network TEXT NOT NULL,
            reason TEXT NOT NULL,
            at BIGINT NOT NULL,
            PRIMARY KEY (challenge_id, reference)
        )
        """,
        "CREATE INDEX refused_newest ON refused_transfers (at, arrival)",
        "CREATE INDEX refused_reference ON refused_transfers (reference)",
        "CREATE TABLE networks (name TEXT PRIMARY KEY, document TEXT NOT NULL)",
        "CREATE TABLE data_planes (id TEXT PRIMARY KEY, seen_at BIGINT NOT NULL, ended BOOLEAN NOT NULL)",
        "CREATE INDEX data_planes_seen ON data_planes (seen_at)",
    ),
    ("ALTER TABLE payments RENAME COLUMN query_hash TO target_hash",),
)


async def migrate(name: str, connection: Any, clock: Callable[[], int]) -> None:
    """Bring the schema up to date, in one transaction under a lock: of several processes that start at once one
    migrates and the others wait. `connection` is asyncpg's.

    Raises:
        LedgerUnavailable: a newer program wrote it.
    """
    found = await _version(connection)
    _refuse_newer(name, found)
    if found == len(MIGRATIONS):
        return
    async with connection.transaction():
        for setting in ("statement_timeout", "lock_timeout"):
            await connection.execute(f"SET LOCAL {setting} = '{MIGRATION_SECONDS}s'")
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = await _version(connection)
        _refuse_newer(name, found)
        if found == 0:
            # Asked first: IF NOT EXISTS alone wants the right to create it although it is there.
            if not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", SCHEMA
            ):
                await connection.execute(f"CREATE SCHEMA {SCHEMA}")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)"
            )
        for version, statements in enumerate(MIGRATIONS, start=1):
            if version > found:
                for statement in statements:
                    await connection.execute(statement)
                await connection.execute("INSERT INTO migrations VALUES ($1, $2)", version, clock())


async def check(name: str, connection: Any) -> None:
    """See that the schema is this program's, and change nothing.

    Raises:
        LedgerUnavailable: it is older, newer, or not there.
    """
    found = await _version(connection)
    _refuse_newer(name, found)
    if found < len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {name}: expected schema {len(MIGRATIONS)}, got {found}; "
            "start the gateway once: it brings the database up to date"
        )


async def _version(connection: Any) -> int:
    """The number of the last migration this database has had; 0 for a new one."""
    # A query of the catalog, not to_regclass: that one believes what this session looked up before it waited.
    there = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'migrations')"
    if not await connection.fetchval(there, SCHEMA):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM migrations"))


def _refuse_newer(name: str, found: int) -> None:
    if found > len(MIGRATIONS):
        raise LedgerUnavailable(
            f"ledger {name}: expected schema {len(MIGRATIONS)} or older, got {found}; "
            "a newer mpp-gateway wrote it: upgrade this one, or restore the copy from before its upgrade"
        )
