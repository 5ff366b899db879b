"""What durability and credits cost per paid request: SQLite, PostgreSQL, and a ledger in memory beside them.

    .venv/bin/python bench/ledger_cost.py --json bench/results/ledger_cost.json

Needs PostgreSQL's initdb, and two cores that nobody else uses: it says how busy others kept the machine before and
after. Takes about five minutes. TMPDIR chooses the disk; the figure "fdatasync" says what kind of disk that is.

Every system is the real Envoy and authz. Payments are of the method `cheap` (tests/support/cheap), which costs
little itself, are signed before the clock starts, and every one is checked to have been served. The systems take
turns in every round; a ratio is formed within a round, because a machine's speed drifts. The ledger in memory
lasts no longer than its process and is for this comparison only.

Figures: medians over rounds, and the least and the most. CPU is the kernel's, per process. "commits" are those
that wrote something: of SQLite's writer, and by PostgreSQL's transaction ids. "transactions" are PostgreSQL's own
count, reads too; "flushes" are of its log, and in SQLite one a commit. What authz asks for by itself is taken off.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "support")]

import barrage  # noqa: E402 - the folders of the test support come first
import cheap_wallet  # noqa: E402
import in_memory  # noqa: E402
import one_machine  # noqa: E402
import postgres  # noqa: E402
import yaml  # noqa: E402

from mpp_authz.ledger import Binding, Ledger, Payment, State, stores  # noqa: E402
from mpp_operator import bootstrap, compiler, directory, envoy, gateway, paidservice  # noqa: E402

MEMORY, SQLITE, POSTGRES = "memory", "SQLite", "PostgreSQL"
CALLERS = (1, 32)
PRICE = 7


@dataclass(frozen=True)
class Turn:
    """One system's payments in one round by so many callers at a time. Times are µs, all per paid request but p50
    and p99."""

    p50: float
    p99: float
    rps: float
    authz: float
    envoy: float
    store: float  # CPU of PostgreSQL's processes
    counts: tuple[float, float, float]  # commits, transactions, flushes


@dataclass(frozen=True)
class System:
    """A gateway and how its store is counted."""

    name: str
    url: str
    authz: "subprocess.Popen[bytes]"
    envoy: "subprocess.Popen[bytes]"
    store_pid: int  # 0: it has no process
    count: Callable[[], tuple[int, int, int]]  # commits, transactions and flushes until now
    lag: float  # seconds until they are counted


def cpu_of(pids: list[int]) -> float:
    """Seconds."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / one_machine.TICKS
    return total


def family(pid: int) -> list[int]:
    """A process and its children; none for 0."""
    if not pid:
        return []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@contextlib.contextmanager
def gateway_on(
    name: str, home: Path, artifacts: dict[str, str], url: str, store_pid: int, count: Any, lag: float
) -> Iterator[System]:
    """Envoy, and authz on a ledger."""
    home.mkdir()
    (home / "outcomes").mkdir()
    counter = home / "commits"
    counter.write_bytes(bytes(8))
    port, http = one_machine.free_port(), one_machine.free_port()
    settings = bootstrap.BootstrapSettings("bench", port=port, outcomes_file="outcomes/bench.log")
    (home / "envoy.json").write_text(bootstrap.render(settings))
    directory.publish(home / "config", artifacts)
    directory.publish(home / "secrets", {"authz.json": one_machine.KEYS}, mode=0o600)
    (home / "ledger.url").write_text(url)
    authz_argv = [
        *("env", f"PYTHONPATH={cheap_wallet.FOLDER}", sys.executable, str(HERE / "in_memory.py"), name, "commits"),
        *("--config-dir", "config", "--secrets-dir", "secrets", "--socket", "authz.sock"),
        *("--ledger", "file:ledger.url", "--outcomes-dir", "outcomes", "--http", f"127.0.0.1:{http}"),
        *("--log-level", "warning"),
    ]
    base = f"http://127.0.0.1:{port}"
    with (
        one_machine.process(
            authz_argv, home, lambda: one_machine.answers(f"http://127.0.0.1:{http}/readyz") == 200, home / "a.txt"
        ) as authz,
        one_machine.process(
            list(envoy.argv("envoy.json", concurrency=1)),
            home,
            lambda: one_machine.answers(f"{base}/shop/free") == 200,
            home / "e.txt",
        ) as front,
    ):
        own = count or (lambda: (struct.unpack("q", counter.read_bytes())[0],) * 3)
        yield System(name, base, authz, front, store_pid, own, lag)


# --- paying --------------------------------------------------------------------------------------------


async def credentials(client: barrage.Client, count: int, payer: Any) -> list[str]:
    """Signed and not presented."""
    made: list[str] = []

    async def one() -> None:
        answer = await client.get("/shop/thing?case=1")
        if answer.status != 402:
            raise SystemExit(f"bench: expected 402, got {answer!r}")
        made.append(cheap_wallet.sign(answer.headers["www-authenticate"], payer, valid_for=cheap_wallet.LONG))

    await barrage.all_of([one] * count, 16)
    return made


async def idle(system: System) -> tuple[float, ...]:
    """What is counted in a second in which nobody pays."""
    first, begun = system.count(), time.monotonic()
    await asyncio.sleep(2 * system.lag)
    taken = time.monotonic() - begun
    return tuple((now - then) / taken for now, then in zip(system.count(), first, strict=True))


async def turn(
    system: System, client: barrage.Client, callers: int, payments: int, by_itself: tuple[float, ...]
) -> Turn:
    # A payer of its own for each turn, as there are many payers: the credit lookup is by payer.
    ready = await credentials(client, payments, cheap_wallet.key(f"{time.monotonic_ns()}"))
    answers: list[barrage.Answer] = []

    async def pay(credential: str) -> None:
        answers.append(await client.get("/shop/thing?case=1", credential))

    await asyncio.sleep(0.2)  # what the quotes left to do
    counted = system.count()
    groups = ([system.authz.pid], [system.envoy.pid], family(system.store_pid))
    before, begun = [cpu_of(pids) for pids in groups], time.monotonic()
    await barrage.all_of([partial(pay, credential) for credential in ready], callers)
    taken = time.monotonic() - begun
    await asyncio.sleep(0.5)  # news of the last deliveries
    spent = [(cpu_of(pids) - first) / payments * 1e6 for pids, first in zip(groups, before, strict=True)]
    await asyncio.sleep(system.lag)
    elapsed = time.monotonic() - begun
    if any((answer.status, answer.receipt) != (200, True) for answer in answers):
        raise SystemExit(f"bench: {system.name}: a payment was not served: {answers}")
    waits = sorted((answer.got - answer.sent) * 1e6 for answer in answers)
    commits, transactions, flushes = (
        (now - then - idle * elapsed) / payments
        for now, then, idle in zip(system.count(), counted, by_itself, strict=True)
    )
    return Turn(
        p50=waits[len(waits) // 2],
        p99=waits[len(waits) * 99 // 100],
        rps=payments / taken,
        authz=spent[0],
        envoy=spent[1],
        store=spent[2],
        counts=(commits, transactions, flushes),
    )


async def rounds(systems: list[System], count: int, payments: dict[int, int]) -> dict[tuple[str, int], list[Turn]]:
    found: dict[tuple[str, int], list[Turn]] = {}
    async with contextlib.AsyncExitStack() as stack:
        clients = {s.name: await stack.enter_async_context(barrage.Client(s.url)) for s in systems}
        alone = {system.name: await idle(system) for system in systems}
        for number in range(count + 1):
            for callers in CALLERS:
                # Another one begins in each round.
                for system in systems[number % len(systems) :] + systems[: number % len(systems)]:
                    name = system.name
                    result = await turn(system, clients[name], callers, payments[callers], alone[name])
                    if number:  # the first is a warm-up
                        found.setdefault((name, callers), []).append(result)
            print(f"round {number} of {count}", file=sys.stderr)
    return found


# --- the credit lookup alone ---------------------------------------------------------------------------


BINDING = Binding("bench/shop/thing", "GET", "q", "")


def row(number: int) -> Payment:
    """Of 5,000 payers; one in a hundred is owed something."""
    state = State.DELIVERED if number % 100 else State.CREDIT
    return Payment(
        f"p{number}", state, BINDING, "cheap", "charge", "cheapnet", "0xc0", "0xaa", "7", "pull", "h" * 64,
        payer=f"0x{number % 5000:040x}", reference=f"0x{number:064x}", created_at=number, settled_at=number,
        life_until=1 << 52,
    )  # fmt: skip


async def lookups(ledger: Ledger, rows: int, count: int) -> dict[str, float]:
    """µs of one `unfinished`, asked one at a time: until it is there, and CPU of this process and its threads."""
    for start in range(0, rows, 200):
        await asyncio.gather(*(ledger.insert(row(number)) for number in range(start, start + 200)))
    chosen = random.Random(4)
    waits, cpu = [], time.process_time()
    for _ in range(count):
        payer, begun = f"0x{chosen.randrange(5000):040x}", time.perf_counter()
        await ledger.unfinished(payer, BINDING, "0xc0")
        waits.append((time.perf_counter() - begun) * 1e6)
    return {
        "p50 µs": round(statistics.median(waits), 1),
        "CPU µs": round((time.process_time() - cpu) / count * 1e6, 1),
    }


async def lookup_alone(home: Path, url: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    ledgers: dict[str, Ledger] = {
        MEMORY: in_memory.InMemoryLedger(),
        SQLITE: await stores.open_ledger(f"sqlite:{home / 'lookups.db'}"),
        POSTGRES: await stores.open_ledger(url),
    }
    for name, ledger in ledgers.items():
        found[name] = await lookups(ledger, 10_000, 3_000)
        await ledger.close()
    return found


# --- the machine ---------------------------------------------------------------------------------------


def busy_elsewhere(seconds: float = 2.0) -> float:
    """Cores in use while we do nothing."""

    def spent() -> float:
        fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
        return (sum(fields) - fields[3] - fields[4]) / one_machine.TICKS

    first, begun = spent(), time.monotonic()
    time.sleep(seconds)
    return round((spent() - first) / (time.monotonic() - begun), 2)


def fdatasync(home: Path) -> float:
    """Median µs of making 4 KiB durable on this disk."""
    waits = []
    with (home / "disk").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            waits.append((time.perf_counter() - begun) * 1e6)
    return round(statistics.median(waits))


# --- the report ----------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 0) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) if digits else round(value) for name, value in figures.items()}


def report(found: dict[tuple[str, int], list[Turn]]) -> dict[str, Any]:
    ratios: dict[str, Any] = {}
    added: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for callers in CALLERS:
        base = found[MEMORY, callers]
        who = "1 caller" if callers == 1 else f"{callers} callers"
        for name in (SQLITE, POSTGRES):
            turns = found[name, callers]
            pairs = list(zip(turns, base, strict=True))
            ratios[f"{name}/memory, {who}"] = {
                "latency p50": spread([a.p50 / b.p50 for a, b in pairs], 2),
                "authz CPU": spread([a.authz / b.authz for a, b in pairs], 2),
                "paid requests a second": spread([a.rps / b.rps for a, b in pairs], 2),
            }
            added[f"{name}, {who}"] = {
                "latency p50 µs": spread([a.p50 - b.p50 for a, b in pairs]),
                "authz CPU µs": spread([a.authz - b.authz for a, b in pairs]),
                "store's own CPU µs": spread([a.store for a in turns]),
                "commits": spread([a.counts[0] for a in turns], 2),
                "transactions": spread([a.counts[1] for a in turns], 2),
                "flushes": spread([a.counts[2] for a in turns], 2),
            }
        for name in (MEMORY, SQLITE, POSTGRES):
            turns = found[name, callers]
            rows[f"{name}, {who}"] = {
                "p50 µs": spread([a.p50 for a in turns]),
                "p99 µs": spread([a.p99 for a in turns]),
                "paid requests a second": spread([a.rps for a in turns]),
                "authz CPU µs": spread([a.authz for a in turns]),
                "Envoy CPU µs": spread([a.envoy for a in turns]),
            }
    return {"ratios": ratios, "added per paid request": added, "rows": rows}


def measure(count: int, payments: dict[int, int]) -> dict[str, Any]:
    # Not in a folder that only root can walk: PostgreSQL's user is another.
    with tempfile.TemporaryDirectory(prefix="mpp-bench-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        bank = cheap_wallet.bank(home)
        up = stack.enter_context(one_machine.upstream(home / "up"))
        config = gateway.parse(yaml.safe_load(cheap_wallet.network(bank)))
        port = int(up.rpartition(":")[2])
        text = cheap_wallet.service(port, cheap_wallet.address("payee"), PRICE)
        artifacts = dict(compiler.compile([paidservice.parse(yaml.safe_load(text))], config).artifacts)
        server = stack.enter_context(postgres.running())
        (durable,) = server.admin("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        url = server.database()
        name = url.rpartition("/")[2]

        def counted() -> tuple[int, int, int]:
            (found,) = server.admin(
                "SELECT (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint), "
                f"(SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'), "
                "(SELECT wal_sync FROM pg_stat_wal)"
            )
            return int(found[0]), int(found[1]), int(found[2])

        assert server._process is not None
        # An idle session of PostgreSQL 15 reports what it did up to 10 s later (PGSTAT_IDLE_INTERVAL).
        pid, late = server._process.pid, 11.0
        started = [
            gateway_on(MEMORY, home / "m", artifacts, "sqlite:unused.db", 0, None, 0.5),
            gateway_on(SQLITE, home / "s", artifacts, "sqlite:ledger.db", 0, None, 0.5),
            gateway_on(POSTGRES, home / "p", artifacts, url, pid, counted, late),
        ]
        systems = [stack.enter_context(one) for one in started]
        noise = {"before": busy_elsewhere()}
        found = asyncio.run(rounds(systems, count, payments))
        noise["after"] = busy_elsewhere()
        paid = len(os.listdir(bank.folder))
        expected = (count + 1) * len(systems) * sum(payments.values())
        if paid != expected:
            raise SystemExit(f"bench: expected {expected} transfers, found {paid}")
        return report(found) | {
            "credit lookup alone": asyncio.run(lookup_alone(home, server.database())),
            "fdatasync of 4 KiB, µs": fdatasync(home),
            "PostgreSQL": {"fsync": durable[0], "synchronous_commit": durable[1]},
            "rounds": count,
            "payments a turn": {str(callers): number for callers, number in payments.items()},
            "cores": os.cpu_count(),
            "cores busy elsewhere": noise,
            "load average at the end": round(os.getloadavg()[0], 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after a warm-up (default: 5)")
    parser.add_argument("--one", type=int, default=300, help="payments of one caller a turn (default: 300)")
    parser.add_argument("--many", type=int, default=960, help="of 32 callers (default: 960)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    try:
        postgres.find("initdb")
    except postgres.MissingPostgres as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 3
    # So that what was started ends with us, however we are asked to.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result = measure(options.rounds, {1: options.one, 32: options.many})
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
