"""What is special to the SQLite store: its file, its threads, its errors."""

# ruff: noqa: ASYNC240 - the tests look at files; nobody else runs on their loops

import asyncio
import contextlib
import dataclasses
import re
import sqlite3
import threading
from pathlib import Path

import pytest
from ledgers import BINDING, payment

from mpp_authz.ledger import LedgerUnavailable, Payment, State, stores, table
from mpp_authz.ledger.sqlite import SQLiteLedger, faults, files, lanes, rows, schema


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_the_columns_are_the_fields_of_a_payment() -> None:
    connection = sqlite3.connect(":memory:")
    for statements in schema.MIGRATIONS:
        for statement in statements:
            connection.execute(statement)

    columns = {row[1] for row in connection.execute("PRAGMA table_info(payments)")}
    connection.close()

    fields = {field.name for field in dataclasses.fields(Payment)} - {"binding"}
    assert columns == fields | {field.name for field in dataclasses.fields(BINDING)} == set(table.COLUMNS)


@pytest.mark.parametrize("name", rows.QUERIES)
async def test_every_query_has_an_index(file: Path, name: str) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.close()
    connection = sqlite3.connect(file)
    query = rows.QUERIES[name]
    parameters = ("[]",) * len(set(re.findall(r"\?\d", query)))

    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query, parameters)]
    connection.close()

    steps = [step for step in plan if re.search(r"\bpayments\b", step)]
    assert steps
    assert [step for step in steps if " INDEX " not in step] == []


async def test_file_and_companions_are_the_owner_s_alone(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.insert(payment())

    modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    await ledger.close()

    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}


async def test_a_file_that_others_may_read_is_closed_to_them(file: Path) -> None:
    sqlite3.connect(file).close()
    file.touch(0o644)
    file.chmod(0o644)

    await (await SQLiteLedger.open(file)).close()

    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_clean_end_leaves_one_file(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.insert(payment())

    await ledger.close()

    assert [path.name for path in file.parent.iterdir()] == ["ledger.db"]


async def test_commits_wait_for_the_disk(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    assert ledger._writer is not None

    settings = await ledger._writer.submit(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    )
    await ledger.close()

    assert settings == ["wal", 2, 1, 5000]


async def test_writes_that_wait_share_a_commit(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    assert ledger._writer is not None
    statements: list[str] = []
    await ledger._writer.submit(lambda connection: connection.set_trace_callback(statements.append))
    held = threading.Event()
    waiting = asyncio.ensure_future(ledger._writer.submit(lambda _: held.wait(30)))
    writes = [asyncio.ensure_future(ledger.insert(payment(f"p{n}"))) for n in range(64)]
    await asyncio.sleep(0)  # let them ask

    held.set()
    await waiting
    assert all(await asyncio.gather(*writes))
    await ledger.close()

    commits = statements.count("COMMIT")
    assert sum("INSERT INTO payments" in statement for statement in statements) == 64
    assert commits <= 4


async def test_a_row_that_cannot_be_stored_fails_alone(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)

    results = await asyncio.gather(
        ledger.insert(payment("a")),
        ledger.insert(payment("huge", valid_before=2**70)),
        ledger.insert(payment("surrogate", reason="\ud800")),
        ledger.insert(payment("orphan", paid_by="nobody")),
        ledger.replace(payment("a"), payment("a"), also=payment("worse", reason="\ud800")),
        ledger.insert(payment("b")),
        return_exceptions=True,
    )
    rows = await ledger.listing(frozenset(), 10)
    await ledger.close()

    assert [type(result) for result in results] == [bool, *[LedgerUnavailable] * 4, bool]
    assert sorted((row.id, row.version) for row in rows) == [("a", 0), ("b", 0)]
    assert "OverflowError; the row could not be read or written" in str(results[1])


async def test_a_disk_that_is_full_fails_the_group_and_is_named_and_forgiven(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.insert(payment("before"))
    assert ledger._writer is not None
    # SQLite's own limit on pages behaves as a disk that is full.
    await ledger._writer.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())

    results = await asyncio.gather(
        *(ledger.insert(payment(f"p{n}", reason="x" * 60_000)) for n in range(3)), return_exceptions=True
    )
    await ledger._writer.submit(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
    again = await ledger.insert(payment("after"))
    rows = await ledger.listing(frozenset(), 10)
    await ledger.close()

    assert {str(result) for result in results} == {
        f"ledger {file}: the disk is full; free some space (SQLITE_FULL)"
    }
    assert again
    assert {row.id for row in rows} == {"before", "after"}


async def test_a_lock_that_is_not_given_back_is_an_error_with_its_fix(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "BUSY_SECONDS", 0.05)
    ledger = await SQLiteLedger.open(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerUnavailable, match=r"ledger\.db: another process has held it .*SQLITE_BUSY"):
        await ledger.insert(payment())
    assert await ledger.get("p1") is None  # reads do not wait for it
    other.execute("ROLLBACK")
    assert await ledger.insert(payment())

    other.close()
    await ledger.close()


async def test_a_closed_ledger_says_so_and_closes_twice(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.close()
    await ledger.close()

    with pytest.raises(LedgerUnavailable, match="it is closed"):
        await ledger.get("p1")


async def test_close_carries_out_what_waits(file: Path) -> None:
    ledger = await SQLiteLedger.open(file)
    writes = [asyncio.ensure_future(ledger.insert(payment(f"p{n}"))) for n in range(20)]
    await asyncio.sleep(0)  # let them ask

    await ledger.close()

    assert all(await asyncio.gather(*writes))


async def test_too_many_waiting_writes_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PENDING", 0)
    ledger = await SQLiteLedger.open(file)

    with pytest.raises(LedgerUnavailable, match="wait for the disk"):
        await ledger.insert(payment())

    await ledger.close()


def test_a_loop_that_ended_without_close_ends_the_thread(file: Path) -> None:
    async def leave() -> SQLiteLedger:
        ledger = await SQLiteLedger.open(file)
        assert ledger._writer is not None
        ledger._writer._jobs.put(lanes.Job(lambda _: left.wait(30), asyncio.get_running_loop().create_future()))
        return ledger

    left = threading.Event()
    ledger = asyncio.run(leave())
    left.set()

    assert ledger._writer is not None
    ledger._writer._thread.join(30)
    assert not ledger._writer._thread.is_alive()
    asyncio.run(ledger.close())


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_lost_its_name_takes_and_tells_nothing_more(
    file: Path, tmp_path: Path, replaced: bool
) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.insert(payment())
    file.rename(tmp_path / "moved")
    if replaced:
        await (await SQLiteLedger.open(file)).close()

    for question in (ledger.insert(payment("p2")), ledger.get("p1"), ledger.counts()):
        with pytest.raises(
            LedgerUnavailable, match=r"ledger\.db: the file was removed or replaced while it was in use"
        ):
            await question

    if not replaced:
        (tmp_path / "moved").rename(file)
        assert await ledger.insert(payment("p2"))
    await ledger.close()


# --- opening -------------------------------------------------------------------------------------------


async def test_processes_that_start_at_once_migrate_once(file: Path) -> None:
    ledgers = await asyncio.gather(*(SQLiteLedger.open(file, clock=lambda: 7) for _ in range(6)))
    for ledger in ledgers:
        await ledger.close()

    connection = sqlite3.connect(file)
    applied = connection.execute("SELECT version, applied_at FROM migrations").fetchall()
    connection.close()
    assert applied == [(version + 1, 7) for version in range(len(schema.MIGRATIONS))]


async def test_an_older_file_gets_the_migrations_it_lacks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = await SQLiteLedger.open(file)
    await ledger.insert(payment())
    await ledger.close()
    more = (*schema.MIGRATIONS, ("CREATE TABLE later (x INTEGER) STRICT",))
    monkeypatch.setattr(schema, "MIGRATIONS", more)

    with pytest.raises(LedgerUnavailable, match=f"got {len(more) - 1}; start the gateway once"):
        await SQLiteLedger.open(file, read_only=True)
    ledger = await SQLiteLedger.open(file)
    await ledger.close()
    ledger = await SQLiteLedger.open(file, read_only=True)

    assert await ledger.get("p1") == payment()
    await ledger.close()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await SQLiteLedger.open(file)).close()
    with monkeypatch.context() as patch:
        broken = ("CREATE TABLE later (x INTEGER) STRICT", "CREATE TABLE later (x INTEGER) STRICT")
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(LedgerUnavailable, match="table later already exists"):
            await SQLiteLedger.open(file)

    ledger = await SQLiteLedger.open(file)
    assert await ledger.insert(payment())
    await ledger.close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_schema_is_refused(file: Path, read_only: bool) -> None:
    await (await SQLiteLedger.open(file)).close()
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO migrations VALUES (99, 0)")
    connection.commit()
    connection.close()

    with pytest.raises(LedgerUnavailable, match="got 99; a newer mpp-gateway wrote it: upgrade"):
        await SQLiteLedger.open(file, read_only=read_only)


async def test_a_read_only_ledger_reads_beside_a_writer_and_writes_nothing(file: Path) -> None:
    writer = await SQLiteLedger.open(file)
    reader = await SQLiteLedger.open(file, read_only=True)
    await writer.insert(payment())

    assert await reader.get("p1") == payment()
    with pytest.raises(LedgerUnavailable, match="opened read-only"):
        await reader.insert(payment("p2"))

    await reader.close()
    await writer.close()


async def test_read_only_does_not_make_a_file(file: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        await SQLiteLedger.open(file, read_only=True)
    assert not file.exists()


async def test_a_file_that_is_something_else_is_refused(file: Path) -> None:
    file.write_text("not a database, but long enough to have a header of its own" * 20)

    with pytest.raises(LedgerUnavailable, match="it is not a SQLite file"):
        await SQLiteLedger.open(file)


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        LedgerUnavailable, match=r"none/ledger\.db: No such file or directory; its folder must exist"
    ):
        await SQLiteLedger.open(tmp_path / "none" / "ledger.db")


async def test_an_old_sqlite_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MIN_SQLITE", (99, 0, 0))

    with pytest.raises(LedgerUnavailable, match=r"expected SQLite 99\.0\.0 or newer"):
        await SQLiteLedger.open(file)


async def test_the_store_s_clock_is_the_one_it_was_given(file: Path) -> None:
    ledger = await SQLiteLedger.open(file, clock=lambda: 42)
    assert await ledger.now() == 42
    await ledger.close()


# --- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["sqlite:", "sqlite://"])
async def test_an_address_names_the_file_as_it_is(tmp_path: Path, prefix: str) -> None:
    file = tmp_path / "odd %20 name?#.db"

    ledger = await stores.open_ledger(f"{prefix}{file}")
    await ledger.insert(payment(state=State.CREDIT))
    await ledger.close()

    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("url", ["mysql://user:hunter2@host/db", "/var/hunter2.db", "sqlite:"])
async def test_an_unknown_address_is_an_error_that_shows_no_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected sqlite:/path/to/ledger\.db") as caught:
        await stores.open_ledger(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("statement", ["CREATE TABLE albums (title TEXT)", "CREATE TABLE payments (id TEXT)"])
async def test_another_programs_database_is_refused_and_not_changed(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "music.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    before = path.read_bytes()

    with pytest.raises(LedgerUnavailable, match="got another program's database; name another path"):
        await SQLiteLedger.open(path)

    assert path.read_bytes() == before
