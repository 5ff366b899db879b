"""What is special to the PostgreSQL store: its server, which may hang, die, fill up or give way to another."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import missing
import postgres
import pytest
from ledgers import BINDING, Store, needs_postgres, payment, postgres_server, program, said, tell

from mpp_authz.ledger import LedgerUnavailable, Payment, State, stores, table
from mpp_authz.ledger.postgres import QUERIES, PostgresLedger, clock, connections, schema

pytestmark = pytest.mark.store

#: What one request of the store may take here: its own limit, and a busy machine.
IN_TIME = connections.SECONDS + 5


@pytest.fixture
def server() -> postgres.Server:
    """The session's: for tests that leave it running."""
    return postgres_server()


@pytest.fixture
def url(server: postgres.Server) -> str:
    return server.database()


@pytest.fixture(scope="module")
def own() -> Iterator[postgres.Server]:
    """A server that the tests of this module may kill and stop; it runs before and after each."""
    needs_postgres()
    with postgres.running() as started:
        yield started


@pytest.fixture
def pair() -> Iterator[postgres.Pair]:
    needs_postgres()
    with postgres.pair() as started:
        yield started


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresLedger]:
    ledger = await PostgresLedger.open(url, **options)
    try:
        yield ledger
    finally:
        await ledger.close()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection beside the ledger's, in its schema."""
    connection = await asyncpg.connect(url, server_settings={"search_path": schema.SCHEMA})
    try:
        yield connection
    finally:
        await connection.close()


async def eventually(question: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """The first answer that is true; an unavailable ledger is asked again."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(LedgerUnavailable):
                if answer := await question():
                    return answer
            await asyncio.sleep(0.01)


async def refusal(question: Callable[[], Awaitable[Any]], seconds: float = 30) -> str:
    """Ask until the ledger is unavailable; its words."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await question()
            except LedgerUnavailable as error:
                return str(error)


# --- schema ----------------------------------------------------------------------------------------------


async def test_the_columns_are_the_fields_of_a_payment(url: str) -> None:
    async with opened(url), connected(url) as connection:
        rows = await connection.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'payments'"
        )

    fields = {field.name for field in dataclasses.fields(Payment)} - {"binding"}
    fields |= {field.name for field in dataclasses.fields(BINDING)}
    assert {row[0] for row in rows} == fields | {"arrival"} == {*table.COLUMNS, "arrival"}


async def fill(connection: Any) -> None:
    """A big ledger: 20,000 finished rows, and piles that wait for a later time."""
    names = [
        name for name in table.COLUMNS if name not in ("id", "state", "reference", "created_at", "settled_at")
    ]
    row = dict(zip(table.COLUMNS, table.row_of(payment("x", lease_until=10**12, life_until=10**12)), strict=True))
    await connection.execute(
        f"INSERT INTO payments (id, state, reference, created_at, settled_at, {', '.join(names)}) "
        "SELECT 'p' || n, CASE n % 10 WHEN 0 THEN 'SETTLING' WHEN 1 THEN 'UNKNOWN' WHEN 2 THEN 'DELIVERING' "
        f"WHEN 3 THEN 'CREDIT' ELSE 'DELIVERED' END, '0x' || n, n, n, "
        f"{', '.join(f'${at}' for at in range(1, len(names) + 1))} FROM generate_series(1, 20000) AS n",
        *(row[name] for name in names),
    )
    await connection.execute("VACUUM ANALYZE payments")


async def test_every_query_has_an_index_and_reads_through_no_pile(url: str) -> None:
    parameters: dict[str, tuple[Any, ...]] = {
        "get": ("p1",),
        "by_reference": ("0x1",),
        "unfinished": ("0xnobody", "r", "GET", "", "", "0xc0"),
        "due": (1_000, 50),
        "delivering_at": ("envoy-1",),
        "settled_since": (19_000, "", 50),
        "listing": (50,),
        "listing_of": (["OWED"], 50),
        "counts": (),
    }
    assert parameters.keys() == QUERIES.keys()
    async with opened(url), connected(url) as connection:
        await fill(connection)
        await connection.execute(
            "SET plan_cache_mode = force_generic_plan"
        )  # as many uses of one statement get it
        for name, query in QUERIES.items():
            rows = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *parameters[name])
            (plan,) = json.loads(rows[0][0])
            read = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") == "payments"]
            assert read, name
            if name != "counts":  # which is about all rows
                assert [node["Node Type"] for node in read if "Index" not in node["Node Type"]] == [], name
                passed = sum(
                    (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                    for node in read
                )
                assert passed <= 200, (name, plan)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def test_six_processes_that_start_at_once_migrate_once(url: str) -> None:
    body = """
async def main(url):
    print("ready", flush=True)
    sys.stdin.readline()
    ledger = await stores.open_ledger(url)
    print("open", flush=True)
    await ledger.close()
asyncio.run(main(sys.argv[1]))
"""
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(program(body, url)) for _ in range(6)]
        assert [await said(process) for process in processes] == ["ready"] * 6
        for process in processes:
            await tell(process)
        assert [await said(process) for process in processes] == ["open"] * 6

    async with connected(url) as connection:
        applied = [row[0] for row in await connection.fetch("SELECT version FROM migrations ORDER BY version")]
    assert applied == list(range(1, len(schema.MIGRATIONS) + 1))


async def test_an_older_database_gets_the_migrations_it_lacks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as ledger:
        await ledger.insert(payment())
    more = (*schema.MIGRATIONS, ("CREATE TABLE later (x BIGINT)",))
    monkeypatch.setattr(schema, "MIGRATIONS", more)

    with pytest.raises(LedgerUnavailable, match=f"got {len(more) - 1}; start the gateway once"):
        await PostgresLedger.open(url, read_only=True)
    async with opened(url):
        pass

    async with opened(url, read_only=True) as ledger:
        assert await ledger.get("p1") == payment()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url):
        pass
    with monkeypatch.context() as patch:
        broken = ("CREATE TABLE later (x BIGINT)", "CREATE TABLE later (x BIGINT)")
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(LedgerUnavailable, match="42P07"):
            await PostgresLedger.open(url)

    async with opened(url) as ledger, connected(url) as connection:
        assert await connection.fetchval("SELECT to_regclass('later')") is None
        assert await ledger.insert(payment())


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_schema_is_refused(url: str, read_only: bool) -> None:
    async with opened(url), connected(url) as connection:
        await connection.execute("INSERT INTO migrations VALUES (99, 0)")

    with pytest.raises(LedgerUnavailable, match="got 99; a newer mpp-gateway wrote it: upgrade"):
        await PostgresLedger.open(url, read_only=read_only)


async def test_read_only_makes_nothing(url: str) -> None:
    with pytest.raises(LedgerUnavailable, match=f"expected schema {len(schema.MIGRATIONS)}, got 0"):
        await PostgresLedger.open(url, read_only=True)

    async with connected(url) as connection:
        assert await connection.fetchval("SELECT to_regnamespace($1)", schema.SCHEMA) is None


async def test_a_read_only_ledger_reads_beside_a_writer_and_writes_nothing(url: str) -> None:
    async with opened(url) as writer, opened(url, read_only=True) as reader:
        await writer.insert(payment())

        assert await reader.get("p1") == payment()
        with pytest.raises(LedgerUnavailable, match="opened read-only"):
            await reader.insert(payment("p2"))
        with pytest.raises(LedgerUnavailable, match="25006"):
            await reader._connections.run(lambda connection: connection.execute("CREATE TABLE x ()"))


async def test_a_table_that_somebody_dropped_is_named_as_what_it_is(url: str) -> None:
    async with opened(url) as ledger, connected(url) as connection:
        await connection.execute("DROP TABLE payments CASCADE")

        with pytest.raises(LedgerUnavailable, match=r"a table is not there.*restore a copy \(42P01\)"):
            await ledger.get("p1")


# --- sessions --------------------------------------------------------------------------------------------


async def settings_of(ledger: PostgresLedger, *names: str) -> list[str]:
    async def show(connection: Any) -> list[str]:
        return [await connection.fetchval("SELECT current_setting($1)", name) for name in names]

    return await ledger._connections.run(show)


@pytest.mark.parametrize(
    ("given", "kept"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
async def test_commits_wait_for_disk_and_standby_whatever_the_defaults(
    server: postgres.Server, url: str, given: str, kept: str
) -> None:
    name = url.rpartition("/")[2]
    server.admin(
        f"ALTER DATABASE {name} SET synchronous_commit = {given}",
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
        f"ALTER DATABASE {name} SET search_path = pg_catalog",
        f"ALTER DATABASE {name} SET statement_timeout = 0",
    )

    async with opened(url) as ledger:
        found = await settings_of(
            ledger,
            "synchronous_commit",
            "default_transaction_isolation",
            "search_path",
            "statement_timeout",
            "lock_timeout",
            "application_name",
        )

    assert found == [kept, "read committed", "mpp_gateway", "4s", "3s", "mpp-gateway"]


async def test_a_server_that_does_not_wait_for_its_disk_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with postgres.running("fsync=off") as fast:
        async with opened(fast.database()):
            pass

    assert "may forget payments in a power cut" in caplog.text


async def test_a_server_that_does_not_tell_its_timeline_is_used(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_TIMELINE", "SELECT no_such_function()")

    async with opened(url) as ledger:
        assert await ledger.insert(payment())


async def test_a_connection_that_is_let_go_late_does_not_wait_for_a_server_that_hangs(
    server: postgres.Server, url: str
) -> None:
    with postgres.Proxy(server.port) as proxy:
        async with opened(proxy.through(url)) as ledger:

            async def slow(connection: Any) -> int:
                found = await connection.fetchval("SELECT 7")
                await ledger._connections._pool.expire_connections()
                proxy.hold_answers()
                return int(found)

            asked = time.monotonic()
            assert await ledger._connections.run(slow) == 7
            assert time.monotonic() - asked < IN_TIME
            proxy.let_go()

            assert await eventually(lambda: ledger.insert(payment()))


async def test_work_that_ends_with_its_loop_leaves_no_connection(server: postgres.Server, url: str) -> None:
    async with opened(url) as ledger:
        started = asyncio.Event()

        async def forever(_: Any) -> None:
            started.set()
            await asyncio.Event().wait()

        ask = asyncio.ensure_future(ledger._connections.run(forever))
        await asyncio.sleep(0)  # let it ask
        (task,) = ledger._connections._tasks
        await eventually(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ask

        async def gone() -> bool:
            return not server.connections(url)

        await eventually(gone)


async def test_rows_that_cannot_be_stored_fail_alone_and_are_not_shown(url: str) -> None:
    async with opened(url) as ledger:
        results = await asyncio.gather(
            ledger.insert(payment("a")),
            ledger.insert(payment("huge", valid_before=2**70)),
            ledger.insert(payment("surrogate", reason="hush\ud800")),
            ledger.insert(payment("nul", reason="hush\0")),
            ledger.insert(payment("orphan", paid_by="hush")),
            ledger.insert(payment("b")),
            return_exceptions=True,
        )
        rows = await ledger.listing(frozenset(), 10)

    assert [type(result) for result in results] == [bool, *[LedgerUnavailable] * 4, bool]
    assert sorted(row.id for row in rows) == ["a", "b"]
    told = "".join(shown(result) for result in results if isinstance(result, LedgerUnavailable))
    assert told.count("the row could not be read or written") == 4
    assert "hush" not in told
    assert str(2**70) not in told


def shown(error: BaseException) -> str:
    """What a log would show of it, from traceback to message, without our own lines of source."""
    return "".join(line for line in traceback.format_exception(error) if not line.lstrip().startswith("File"))


async def test_cancelled_callers_leave_the_pool_whole(url: str) -> None:
    async with opened(url) as ledger:
        for n in range(60):
            asks = [
                asyncio.ensure_future(ledger.insert(payment(f"p{n}"))),
                asyncio.ensure_future(ledger.get("p0")),
            ]
            for _ in range(1 + n % 6):  # let them ask, and more
                await asyncio.sleep(0)
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)

        await eventually(lambda: everything(ledger, 60))
        assert len(await asyncio.gather(*(ledger.get(f"p{n}") for n in range(60)))) == 60


async def everything(ledger: PostgresLedger, number: int) -> bool:
    return len(await ledger.listing(frozenset(), 1000)) == number


async def test_a_closed_ledger_says_so_and_closes_twice(url: str) -> None:
    ledger = await PostgresLedger.open(url)
    await ledger.close()
    await ledger.close()

    with pytest.raises(LedgerUnavailable, match="it is closed"):
        await ledger.get("p1")


async def test_close_carries_out_what_waits(url: str) -> None:
    ledger = await PostgresLedger.open(url)
    writes = [asyncio.ensure_future(ledger.insert(payment(f"p{n}"))) for n in range(40)]
    await asyncio.sleep(0)  # let them ask

    await ledger.close()

    assert all(await asyncio.gather(*writes))


async def test_too_many_waiting_requests_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as ledger:
        monkeypatch.setattr(connections, "PENDING", 0)
        with pytest.raises(LedgerUnavailable, match="wait for the server"):
            await ledger.insert(payment())


async def test_a_pool_that_is_exhausted_answers_in_bounded_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(url) as ledger, connected(url) as other:
        monkeypatch.setattr(connections, "SECONDS", 1.0)
        async with other.transaction():
            await other.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
            asks = [asyncio.ensure_future(ledger.get("p1")) for _ in range(connections.CONNECTIONS + 1)]
            results = await asyncio.gather(*asks, return_exceptions=True)

        words = [str(result) for result in results]
        assert sum("none of 10 connections was free for 1 s" in word for word in words) == 1
        assert sum("did not answer in time" in word for word in words) == connections.CONNECTIONS
        assert await eventually(lambda: ledger.insert(payment()))


# --- the clock -------------------------------------------------------------------------------------------


async def server_time(url: str) -> float:
    async with connected(url) as connection:
        return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000"))


async def test_now_is_the_server_s_time_and_asks_it_once_a_second(url: str) -> None:
    async with opened(url) as ledger:
        samples = 0

        async def count(connection: Any) -> None:
            nonlocal samples
            samples += 1
            await sample(connection)

        sample = ledger._connections._sample
        ledger._connections._sample = count  # type: ignore[method-assign]
        before = await server_time(url)
        times = [await ledger.now() for _ in range(1000)]
        after = await server_time(url)

        assert before - 50 <= min(times) <= max(times) <= after + 50
        assert samples <= 2
        assert abs(ledger.clock() - times[-1]) < 1_000


async def test_a_clock_that_cannot_be_asked_is_not_believed_for_long(
    own: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(own.database()) as ledger:
        monkeypatch.setattr(clock, "REFRESH_SECONDS", 0.05)
        monkeypatch.setattr(clock, "STALE_SECONDS", 0.5)
        own.kill()
        try:
            assert await ledger.now() <= ledger.clock() + 1
            while "no connection" not in await refusal(ledger.now):
                pass  # a connection that broke just now
            assert ledger.clock() > 0  # what is minted is still checked by those who know
        finally:
            own.start()
        await eventually(ledger.now)


async def test_a_paused_process_does_not_see_an_old_clock_afterwards(url: str) -> None:
    body = """
async def main(url):
    ledger = await begin(url)
    print(await ledger.now(), ledger.clock(), flush=True)
asyncio.run(main(sys.argv[1]))
"""
    async with program(body, url) as process:
        assert await said(process) == "ready"
        os.kill(process.pid, signal.SIGSTOP)
        start = await server_time(url)

        async def later() -> bool:
            return await server_time(url) > start + 1_500

        await eventually(later)
        before = await server_time(url)
        os.kill(process.pid, signal.SIGCONT)
        await tell(process)
        now, known = map(int, (await said(process)).split())
        after = await server_time(url)

    assert before - 100 <= now <= after + 100
    assert before - 100 <= known <= after + 100


async def test_a_clock_that_is_given_is_used_for_everything(url: str) -> None:
    async with opened(url, clock=lambda: 42) as ledger:
        await ledger.beat(["envoy-1"])
        seen = await ledger.data_plane("envoy-1")
        assert seen is not None
        assert (await ledger.now(), ledger.clock(), await ledger.born_at(), seen.seen_at) == (42, 42, 42, 42)


# --- faults of the server --------------------------------------------------------------------------------


async def test_a_connection_lost_after_the_commit_is_told_and_the_row_is_there(
    server: postgres.Server, url: str
) -> None:
    with postgres.Proxy(server.port) as proxy:
        async with opened(proxy.through(url)) as ledger, connected(url) as witness:
            await ledger.insert(payment("before"))  # from now on an insert is one message
            proxy.hold_answers()
            write = asyncio.ensure_future(ledger.insert(payment()))

            async def committed() -> Any:
                return await witness.fetchval("SELECT count(*) FROM payments WHERE id = 'p1'")

            await eventually(committed)
            proxy.cut()
            with pytest.raises(LedgerUnavailable, match=r"connection"):
                await write
            proxy.let_go()

            assert await eventually(lambda: ledger.get("p1")) == payment()
            assert not await ledger.insert(payment())


async def test_a_connection_that_the_server_ends_in_the_middle_of_a_write(
    server: postgres.Server, url: str
) -> None:
    async with opened(url) as ledger:
        await ledger.insert(payment())
        async with connected(url) as other:
            held = other.transaction()
            await held.start()
            await other.execute("SELECT * FROM payments FOR UPDATE")
            write = asyncio.ensure_future(ledger.replace(payment(), payment(state=State.CREDIT)))

            async def waits() -> bool:
                return any(row["wait_event"] == "transactionid" for row in server.connections(url))

            await eventually(waits)
            server.terminate_connections(url)
            with pytest.raises(LedgerUnavailable, match=r"the server was stopped|the connection broke"):
                await write

        assert await ledger.get("p1") == payment()
        assert await ledger.replace(payment(), payment(state=State.CREDIT))


async def load(ledger: PostgresLedger, acknowledged: set[str], failures: list[float]) -> None:
    """Rows, one after another in eight lanes, until the store fails each lane."""

    async def lane(name: str) -> None:
        n = 0
        while True:
            asked = time.monotonic()
            try:
                if await ledger.insert(payment(f"{name}-{n}")):
                    acknowledged.add(f"{name}-{n}")
            except LedgerUnavailable:
                failures.append(time.monotonic() - asked)
                return
            n += 1

    await asyncio.gather(*(lane(str(number)) for number in range(8)))


async def grown(acknowledged: set[str], number: int) -> None:
    async def enough() -> bool:
        return len(acknowledged) >= number

    await eventually(enough)


async def test_a_server_that_is_killed_and_comes_back_has_all_it_acknowledged(own: postgres.Server) -> None:
    async with opened(own.database()) as ledger:
        acknowledged: set[str] = set()
        failures: list[float] = []
        running = asyncio.ensure_future(load(ledger, acknowledged, failures))
        await grown(acknowledged, 100)
        own.kill()
        try:
            await running
            with pytest.raises(LedgerUnavailable, match=r"no connection \("):
                await ledger.get("0-0")
        finally:
            own.start()

        assert max(failures) < IN_TIME
        rows = await eventually(lambda: ledger.listing(frozenset(), 1_000_000))
        assert acknowledged - {row.id for row in rows} == set()
        assert await ledger.insert(payment("after"))


async def test_a_server_that_hangs_is_unavailable_in_bounded_time_and_used_again(
    own: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS", 1.5)
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 1.0)
    async with opened(own.database()) as ledger:
        own.pause()
        try:
            for _ in range(2):  # on a connection there was, and on one to be made
                asked = time.monotonic()
                with pytest.raises(LedgerUnavailable, match="did not answer in time"):
                    await ledger.insert(payment())
                assert time.monotonic() - asked < 1.5 + 5
        finally:
            own.resume()

        assert await eventually(lambda: ledger.insert(payment("after")))


async def test_a_lock_that_is_not_given_back_is_an_error_with_its_fix(url: str) -> None:
    async with opened(url) as ledger, connected(url) as other:
        await ledger.insert(payment())
        async with other.transaction():
            await other.execute("SELECT * FROM payments FOR UPDATE")
            asked = time.monotonic()
            with pytest.raises(LedgerUnavailable, match=r"another transaction has held a lock .*55P03"):
                await ledger.replace(payment(), payment(state=State.CREDIT))
            assert time.monotonic() - asked < IN_TIME
            assert await ledger.get("p1") == payment()  # reads do not wait for it

        assert await ledger.replace(payment(), payment(state=State.CREDIT))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 48 MB; only root can make one."""
    needs_postgres()
    folder = Path(tempfile.mkdtemp(prefix="mpp-small-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m,mode=0777", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        missing.error_or_skip(f"a full disk needs a small file system: run as root ({mounted.stderr.strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


async def test_a_disk_that_is_full_fails_closed_and_is_named_and_forgiven(
    server: postgres.Server, small_disk: Path
) -> None:
    place = small_disk / "data"
    place.mkdir()
    postgres.give(place)
    server.admin(f"CREATE TABLESPACE small LOCATION '{place}'")
    url = server.url("small")
    try:
        server.admin(f"CREATE DATABASE small OWNER {postgres.USER} TABLESPACE small")
        async with opened(url) as ledger:
            await ledger.insert(payment("before"))
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 65_536):
                    pass

            numbers = itertools.count()
            words = await refusal(
                lambda: ledger.insert(payment(f"p{next(numbers)}", reason=os.urandom(30_000).hex()))
            )
            assert "the server's disk is full; free some space there (53100)" in words
            assert await ledger.get("before") == payment("before")
            ballast.unlink()

            assert await ledger.insert(payment("after", reason=os.urandom(30_000).hex()))
    finally:
        server.drop(url)
        server.admin("DROP TABLESPACE small")


# --- standbys --------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
async def test_a_failover_loses_no_acknowledged_row(pair: postgres.Pair) -> None:
    async with opened(pair.database()) as ledger:
        acknowledged: set[str] = set()
        running = asyncio.ensure_future(load(ledger, acknowledged, []))
        await grown(acknowledged, 100)
        await asyncio.to_thread(pair.fail_over)
        await running

        assert await eventually(lambda: ledger.insert(payment("after")))
        rows = await ledger.listing(frozenset(), 1_000_000)
        assert acknowledged - {row.id for row in rows} == set()
        assert pair.standby.connections(ledger._connections._address.urls[1])

        # The old primary comes back and knows nothing of it: nobody may write there.
        pair.primary.options = ("synchronous_standby_names=",)
        pair.primary.start()
        pair.standby.kill()
        words = await refusal(lambda: ledger.get("after"))
        while "timeline" not in words:  # a connection to the standby that ended just now
            words = await refusal(lambda: ledger.get("after"))
        assert "on timeline 1, and a server on timeline 2 has taken over" in words


@pytest.mark.timeout(240)
async def test_a_commit_that_waits_for_its_standby_is_unavailable_in_bounded_time(pair: postgres.Pair) -> None:
    url = pair.primary.database()
    async with opened(url) as ledger:
        pair.standby.pause()
        try:
            asked = time.monotonic()
            with pytest.raises(LedgerUnavailable, match="did not answer in time"):
                await ledger.insert(payment())
            assert time.monotonic() - asked < IN_TIME

            # Cancelled by somebody else, the commit ends with a warning: it is not what we were promised.
            write = asyncio.ensure_future(ledger.insert(payment("p2")))

            async def cancelled() -> bool:
                pair.primary.admin(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
                    "AND query LIKE 'INSERT INTO payments%'"
                )
                await asyncio.sleep(0)
                return write.done()

            await eventually(cancelled)
            with pytest.raises(LedgerUnavailable, match="may not be safe on its standby"):
                await write
        finally:
            pair.standby.resume()

        assert await eventually(lambda: ledger.insert(payment("after")))

        async def calm() -> bool:
            return not any(row["wait_event"] == "SyncRep" for row in pair.primary.connections(url))

        await eventually(calm)


@pytest.mark.timeout(240)
async def test_a_standby_alone_is_refused_for_writing_and_may_be_read(pair: postgres.Pair) -> None:
    url = pair.primary.database()
    async with opened(url) as ledger:
        await ledger.insert(payment())
    standby = url.replace(f":{pair.primary.port}/", f":{pair.standby.port}/")

    async def read() -> Payment | None:
        async with opened(standby, read_only=True) as reader:
            assert abs(await reader.now() - time.time() * 1000) < 60_000
            return await reader.get("p1")

    # First, because the standby knows the database when it has replayed its making.
    assert await eventually(read) == payment()
    with pytest.raises(LedgerUnavailable, match="the server is read-only, a standby perhaps; name the primary"):
        await PostgresLedger.open(standby)


async def test_a_host_that_hangs_does_not_hide_the_next(
    server: postgres.Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.Proxy(server.port) as hanging:
        hanging.hold_answers()
        both = url.replace(f":{server.port}/", f":{hanging.port},127.0.0.1:{server.port}/")
        asked = time.monotonic()
        async with opened(both) as ledger:
            assert await ledger.insert(payment())
        assert time.monotonic() - asked < IN_TIME


# --- several processes -----------------------------------------------------------------------------------


async def test_of_two_processes_one_gets_each_reference(url: str) -> None:
    body = """
async def main(url, name):
    ledger = await begin(url)
    won = await asyncio.gather(*(
        ledger.insert(ledgers.payment(f"{name}-{n}", reference=f"0x{n}")) for n in range(200)
    ))
    await ledger.close()
    print(sum(won), flush=True)
asyncio.run(main(*sys.argv[1:]))
"""
    async with opened(url) as ledger:
        async with program(body, url, "a") as one, program(body, url, "b") as two:
            for process in (one, two):
                assert await said(process) == "ready"
            for process in (one, two):
                await tell(process)
            wins = [int(await said(process)) for process in (one, two)]
        rows = await ledger.listing(frozenset(), 1000)

    assert sum(wins) == 200
    assert sorted(row.reference or "" for row in rows) == sorted(f"0x{n}" for n in range(200))


# --- what is told ----------------------------------------------------------------------------------------


async def test_no_error_and_no_log_holds_a_password(
    server: postgres.Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = url.replace(f"{postgres.USER}:", f"{postgres.USER}:hunter2")
    host = f"127.0.0.1:{server.port}"
    addresses = {
        wrong: "refused user or password",
        wrong.replace(postgres.USER, "nobody"): "refused user or password",
        wrong.replace(host, f"127.0.0.1:{postgres.free_port()}"): "no connection",
        wrong.replace(host, "nowhere.invalid"): "name is not known",
        url.replace(f"{postgres.USER}:", f"{postgres.USER}:") + "x": "database does not exist",
        f"{url}?hunter2=1": "option that the server does not know",
        f"{wrong}?sslmode=require": "",
        f"{wrong}?sslmode=hunter2": "",
    }
    password = postgres.PASSWORD.partition("/")[2]
    for address, words in addresses.items():
        with pytest.raises(LedgerUnavailable) as caught:
            await stores.open_ledger(address)
        told = shown(caught.value) + repr(caught.value)
        assert words in told
        assert "hunter2" not in told
        assert password not in told
    async with opened(url) as ledger:
        assert password not in repr(ledger._connections._address)
    assert "hunter2" not in caplog.text
    assert password not in caplog.text


async def test_a_server_without_a_free_connection_is_named(own: postgres.Server) -> None:
    url = own.database()
    own.admin(f"ALTER ROLE {postgres.USER} CONNECTION LIMIT 0")
    try:
        with pytest.raises(LedgerUnavailable, match=r"no connection left; raise its max_connections.*53300"):
            await PostgresLedger.open(url)
    finally:
        own.admin(f"ALTER ROLE {postgres.USER} CONNECTION LIMIT -1")


async def test_a_user_who_may_not_make_tables_is_told_so(server: postgres.Server) -> None:
    url = server.database()
    server.admin(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO {postgres.ADMIN}')

    with pytest.raises(LedgerUnavailable, match=r"the user may not do this; make it the owner.*42501"):
        await PostgresLedger.open(url)


async def test_a_file_may_hold_the_address(url: str, tmp_path: Path) -> None:
    secret = tmp_path / "ledger-url"
    secret.write_text(f"  {url}\n")

    ledger = await stores.open_ledger(f"file:{secret}")
    assert await ledger.insert(payment())
    await ledger.close()

    async with Store(url).opened() as again:
        assert await again.get("p1") == payment()
