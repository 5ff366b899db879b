"""The systems under test: gateways that share a store and a key, or mppx's own proxy; real processes, kept by the
harness as a supervisor would.

    async with system.gateways(shape, chain, node, upstream, points_socket, folder) as shop:
        shop.url(1) + "/shop/thing?case=…"
        await shop.kill("authz", 0)
        await shop.heal()

A part of a system is named by what it is ("authz", "envoy", "run", "store"; "proxy" of mppx's) and by its replica.
All processes are ended by pid, and only those that were started here.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import gateway_process
import httpx
import postgres
import pytest
import wallets
import witnesses
from chain import Chain

from mpp_operator import sandbox

ROOT: Final = Path(__file__).parent.parent.parent
INSTRUMENT: Final = Path(__file__).parent / "instrument"
SIGNING_KEY: Final = "fault runs sign their challenges with this key, 32 bytes and more"
PREFIX: Final = "/shop"
#: Base units of every route, as the services below say them.
PRICE: Final = 1500
#: Until a part that was hurt serves again. Seconds.
HEAL_LIMIT: Final = 60.0

#: Times are scaled down together: Checks, settlements, requests, and with them leases. Credits outlive a run.
_TIMES: Final = "checkTimeout: 5s\nsettleWait: 3s\nchallengeTimeout: 2s\nmaxChallengeLife: 25s\n"
_ROUTES: Final = """
    - {name: thing, match: {method: GET, path: /thing}, price: {amount: "0.0015"}}
    - {name: sealed, match: {method: POST, path: /sealed}, price: {amount: "0.0015"}, digest: {maxBytes: 65536}}
    - {name: live, match: {method: GET, path: /live}, price: {amount: "0.0015"}, streaming: true}
    - {name: once, match: {method: POST, path: /once}, price: {amount: "0.0015"}, idempotent: true}
"""
_SERVICE: Final = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}}}
spec:
  upstream:
    url: "http://127.0.0.1:{port}/{name}"
    timeouts: {{request: 1500ms, upload: 1s, idle: 6s}}
    headers: {{set: {{X-Replica: "{replica}"}}}}
  payment:
    expiresIn: 25s
    credit: {{attempts: {attempts}, life: 10m}}
    offers: [{{method: tempo, network: localnet, currency: pathUSD, recipient: "{recipient}"{offer}}}]
  routes:{routes}"""
_SPONSORED: Final = (
    ", modes: [pull], feePayer: {secretRef: {name: sponsor, key: key}, maxPerMinute: 6000, "
    "maxPerPayerPerMinute: 600, minBalance: '0.000001'}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a batch runs on."""

    system: str = "gateway"  # or "mppx"
    store: str = "sqlite"  # or "postgres", "standby" (PostgreSQL with a synchronous standby)
    replicas: int = 1

    def __str__(self) -> str:
        return self.system if self.system == "mppx" else f"{self.store} x {self.replicas}"


class Store(Protocol):
    """Where the gateways' ledger is, and what can happen to it."""

    config: str  # of gateway.yaml

    @property
    def secrets(self) -> Mapping[str, str]:
        """File in the secrets folder: its text."""
        ...

    def address(self) -> str | None:
        """For `mpp-gateway payments --ledger`."""
        ...

    async def act(self, action: str) -> bool:
        """Let it happen. False: it cannot, as the store is now."""
        ...

    async def heal(self) -> None: ...


class SystemProtocol(Protocol):
    """What the matrix asks of a system."""

    shape: Shape
    recipient: str
    envoy_died: bool

    def url(self, number: int) -> str: ...

    def pids(self, what: str, replica: int) -> list[int]: ...

    async def kill(self, what: str, replica: int) -> bool: ...

    def pause(self, what: str, replica: int) -> bool: ...

    def resume(self) -> None: ...

    async def revive(self, replica: int) -> None: ...

    async def heal(self) -> None: ...

    async def listed(self) -> tuple[witnesses.Listed, ...]: ...

    def logs(self) -> str: ...


# --- processes -----------------------------------------------------------------------------------------


def children(pid: int) -> dict[int, list[str]]:
    """Command lines of a process's children, by pid."""
    found: dict[int, list[str]] = {}
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{child}/cmdline").read_bytes().decode("utf-8", "replace")
                    found[int(child)] = line.split("\0")
    return found


@dataclass(slots=True)
class Signals:
    """Who was stopped, so that nobody stays so."""

    stopped: set[int] = field(default_factory=set)

    def send(self, pid: int, number: signal.Signals) -> bool:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        if number is signal.SIGSTOP:
            self.stopped.add(pid)
        return True

    def each(self, pids: Sequence[int], number: signal.Signals) -> bool:
        """Send it to all of them; whether it reached one."""
        return True in [self.send(pid, number) for pid in pids]

    def resume(self) -> None:
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped.clear()


async def until(condition: Callable[[], Any], limit: float, what: str) -> None:
    """Wait for something that nobody tells of.

    Raises:
        TimeoutError: it did not come; says what.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {what} within {limit:g} s")
        await asyncio.sleep(0.02)


# --- gateways ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Replica:
    """One `mpp-gateway run` with a state folder of its own."""

    number: int
    folder: Path
    launch: Callable[[], gateway_process.GatewayProcess]
    gateway: gateway_process.GatewayProcess
    said: list[str] = field(default_factory=list)  # by those before it
    reviving: "asyncio.Task[None] | None" = None

    def pids(self, what: str) -> list[int]:
        """Of this part as it is now; none where it is between two lives."""
        if what == "run":
            return [self.gateway.process.pid] if self.gateway.process.poll() is None else []
        return [
            pid
            for pid, line in children(self.gateway.process.pid).items()
            if (what == "authz" and "authz" in line) or (what == "envoy" and line[0].endswith("envoy"))
        ]


@dataclass(slots=True)
class Gateways:
    """`SystemProtocol` of ours."""

    shape: Shape
    recipient: str
    store: Store
    replicas: list[Replica]
    http: httpx.AsyncClient
    signals: Signals = field(default_factory=Signals)
    envoy_died: bool = False

    def url(self, number: int) -> str:
        """The base of a replica as it listens now; numbers go round, as a balancer's turns do."""
        return self.replicas[number % len(self.replicas)].gateway.url

    def pids(self, what: str, replica: int) -> list[int]:
        return self.replicas[replica % len(self.replicas)].pids(what)

    async def kill(self, what: str, replica: int) -> bool:
        pids = self.pids(what, replica)
        if what in ("envoy", "run") and pids:
            self.envoy_died = True
        return self.signals.each(pids, signal.SIGKILL)

    def pause(self, what: str, replica: int) -> bool:
        return self.signals.each(self.pids(what, replica), signal.SIGSTOP)

    def resume(self) -> None:
        self.signals.resume()

    async def revive(self, replica: int) -> None:
        """Start a gateway that is gone again, as whoever looks after it would."""
        one = self.replicas[replica % len(self.replicas)]
        if one.reviving is None or one.reviving.done():
            one.reviving = asyncio.create_task(self._revived(one))
        # A start that has begun goes on, whoever waits for it: nobody else would stop what it started.
        await asyncio.shield(one.reviving)

    async def _revived(self, one: Replica) -> None:
        if one.gateway.process.poll() is None:
            return
        one.said += one.gateway.stderr
        await asyncio.to_thread(one.gateway.stop)
        deadline = time.monotonic() + HEAL_LIMIT
        while True:
            try:
                one.gateway = await asyncio.to_thread(one.launch)
            except RuntimeError as error:  # it did not come up: whoever looks after it would not give up
                one.said.append(f"revived in vain: {error}")
                if time.monotonic() > deadline:
                    raise
            else:
                return

    async def heal(self) -> None:
        """Everything runs and serves again."""
        self.resume()
        await self.store.heal()
        await asyncio.gather(*(self._heal(replica) for replica in self.replicas))

    async def _heal(self, replica: Replica) -> None:
        deadline = time.monotonic() + HEAL_LIMIT
        while True:
            await self.revive(replica.number)  # again: one that was killed just now may not be gone yet
            if await self._serves(replica):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"gateway {replica.number} does not serve again:\n{self.logs()[-4000:]}")
            await asyncio.sleep(0.05)

    async def _serves(self, replica: Replica) -> bool:
        """Whether this replica's own authz and Envoy answer, ready to be paid."""
        try:
            ready = await self.http.get(replica.gateway.metrics_url + "/readyz")
            asked = await self.http.get(f"{replica.gateway.url}{PREFIX}/thing?case=healing")
        except httpx.HTTPError:
            return False
        return ready.status_code == 200 and asked.status_code == 402

    async def listed(self) -> tuple[witnesses.Listed, ...]:
        """What `mpp-gateway payments` says is owed."""
        command = [sys.executable, "-m", "mpp_operator.cli", "payments", "list", "--json"]
        command += ["--limit", "1000", "--state", "OWED", "--state", "LAPSED"]
        address = self.store.address()
        where = ["--ledger", address] if address else ["--state-dir", str(self.replicas[0].gateway.state_dir)]
        process = await asyncio.create_subprocess_exec(
            *command,
            *where,
            env=gateway_process.clean_environ(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"mpp-gateway payments failed: {err.decode()[-1000:]}")
        document = json.loads(out)
        listed = [
            witnesses.Listed(one["id"], (one["reference"] or "").lower() or None, one["state"])
            for one in document["payments"]
        ]
        listed += [
            witnesses.Listed(one["challenge_id"], (one["reference"] or "").lower() or None, "REFUSED")
            for one in document["refusedTransfers"]
        ]
        return tuple(listed)

    def logs(self) -> str:
        return "\n".join(
            f"[{replica.number}] {line}"
            for replica in self.replicas
            for line in [*replica.said, *replica.gateway.stderr]
        )


class SQLite:
    """One file in the state folder of the one gateway. Its faults: another process holds the write lock."""

    config = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: sqlite3.Connection | None = None

    @property
    def secrets(self) -> Mapping[str, str]:
        return {}

    def address(self) -> str | None:
        return None

    async def act(self, action: str) -> bool:
        if action != "pause" or self._lock is not None:
            return False
        self._lock = await asyncio.to_thread(_locked, self._path)
        return self._lock is not None

    async def heal(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.rollback()
            lock.close()


def _locked(path: Path) -> sqlite3.Connection | None:
    connection = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        connection.close()
        return None
    return connection


@dataclass(slots=True)
class Postgres:
    """A real server that all gateways share, with a synchronous standby or without."""

    server: postgres.Server
    standby: postgres.Server | None
    url: str
    file: Path  # holds the address
    config: str = "store: {postgres: {urlFrom: {name: ledger, key: url}}}\n"
    _hurt: str = ""
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def secrets(self) -> Mapping[str, str]:
        one_of_two = "?target_session_attrs=read-write" if self.standby else ""
        return {"default/ledger/url": self.url + one_of_two}

    def address(self) -> str | None:
        return f"file:{self.file}"

    async def act(self, action: str) -> bool:
        async with self._busy:
            if self._hurt or (action == "failover" and self.standby is None):
                return False
            match action:
                case "cut":
                    await asyncio.to_thread(self.server.terminate_connections, self.url)
                case "failover":
                    assert self.standby is not None
                    await asyncio.to_thread(self.server.kill)
                    await asyncio.to_thread(self.standby.promote)
                    # The old primary is never started again: it would not know what happened since.
                    self.server, self.standby = self.standby, None
                case "kill":
                    self._hurt = action
                    await asyncio.to_thread(self.server.kill)
                case "pause":
                    self._hurt = action
                    await asyncio.to_thread(self.server.pause)
            return True

    async def heal(self) -> None:
        async with self._busy:
            hurt, self._hurt = self._hurt, ""
            if hurt == "kill":
                await asyncio.to_thread(self.server.start)
            elif hurt == "pause":
                await asyncio.to_thread(self.server.resume)


@contextlib.asynccontextmanager
async def store(shape: Shape, folder: Path) -> AsyncIterator[Store]:
    """What a shape keeps its payments in."""
    if shape.store == "sqlite":
        yield SQLite(folder / "gateway-0" / "state" / "ledger.db")
        return
    with contextlib.ExitStack() as stack:
        if shape.store == "standby":
            pair = await asyncio.to_thread(stack.enter_context, postgres.pair())
            server, standby, url = pair.primary, pair.standby, await asyncio.to_thread(pair.database)
        else:
            server = await asyncio.to_thread(stack.enter_context, postgres.running())
            standby, url = None, await asyncio.to_thread(server.database)
        made = Postgres(server, standby, url, folder / "ledger.url")
        made.file.write_text(made.secrets["default/ledger/url"])
        yield made


def stranger(name: str) -> tuple[str, str]:
    """Address and key of somebody who has no money."""
    return sandbox.account(f"stranger {name}")


def _yaml(chain: Chain, node_url: str) -> str:
    settings = json.dumps(chain.settings() | {"rpcUrl": node_url})
    return f"networks:\n  localnet: {settings}\n"


@contextlib.asynccontextmanager
async def gateways(
    shape: Shape,
    chain: Chain,
    node_url: str,
    upstream_port: int,
    points_socket: Path,
    folder: Path,
    store: Store,
    *,
    tag: str = "",
    attempts: int = 3,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Gateways]:
    """So many gateways on one store, all serving."""
    recipient = wallets.payee(f"faults {tag}")
    secrets_dir = folder / "secrets"
    for name, text in {"default/sponsor/key": chain.sponsor_key, **store.secrets}.items():
        file = secrets_dir / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def services(number: int) -> dict[str, str]:
        # Upstream and node can tell the replicas apart, so that a fault there hits the one that it is about.
        common = {
            "port": upstream_port,
            "recipient": recipient,
            "routes": _ROUTES,
            "attempts": attempts,
            "replica": number,
        }
        return {
            "shop.yaml": _SERVICE.format(name="shop", offer="", **common),
            "gift.yaml": _SERVICE.format(name="gift", offer=_SPONSORED, **common),
        }

    def launch(number: int) -> gateway_process.GatewayProcess:
        place = folder / f"gateway-{number}"
        place.mkdir(exist_ok=True)
        gateway = gateway_process.launch(
            place,
            services(number),
            config=_yaml(chain, f"{node_url}/{number}") + _TIMES + store.config,
            arguments=("--drain", "1", "--log-level", "info", "--secrets-dir", str(secrets_dir)),
            environ={
                "MPP_SECRET_KEY": SIGNING_KEY,
                "PYTHONPATH": str(INSTRUMENT),
                "PYTHON_FAULTS_SOCKET": str(points_socket),
                "PYTHON_FAULTS_REPLICA": str(number),
                "PYTHON_FAULTS_MUTANTS": str(Path(__file__).parent / "mutants.py"),
            }
            | dict(environ or {}),
        )
        try:
            gateway_process.wait_until_ready(gateway)
        except pytest.fail.Exception as error:
            raise RuntimeError(str(error)) from error
        return gateway

    started: list[Replica] = []
    signals = Signals()
    try:
        results = await asyncio.gather(
            *(asyncio.to_thread(launch, number) for number in range(shape.replicas)), return_exceptions=True
        )
        for number, result in enumerate(results):
            if isinstance(result, gateway_process.GatewayProcess):
                place = folder / f"gateway-{number}"
                started.append(Replica(number, place, lambda number=number: launch(number), result))  # type: ignore[misc]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            yield Gateways(shape, recipient, store, started, http, signals)
    finally:
        signals.resume()
        await store.heal()
        starting = [replica.reviving for replica in started if replica.reviving is not None]
        await asyncio.gather(*starting, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(replica.gateway.stop) for replica in started))


# --- mppx's own proxy ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Proxy:
    """`SystemProtocol` of mppx's proxy: one Node process, which a supervisor starts again."""

    shape: Shape
    recipient: str
    start: Callable[[], "subprocess.Popen[str]"]
    process: "subprocess.Popen[str]"
    port: int
    http: httpx.AsyncClient
    log: Path
    reviving: "asyncio.Task[None] | None" = None
    signals: Signals = field(default_factory=Signals)
    envoy_died: bool = False

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pids(self, what: str, replica: int) -> list[int]:
        """Whatever dies of a gateway, here it is all of it."""
        return [self.process.pid] if what != "store" and self.process.poll() is None else []

    async def kill(self, what: str, replica: int) -> bool:
        killed = self.signals.each(self.pids(what, replica), signal.SIGKILL)
        if killed:
            await asyncio.to_thread(self.process.wait)
            self.envoy_died = True
            await self.revive(replica)
        return killed

    def pause(self, what: str, replica: int) -> bool:
        return self.signals.each(self.pids(what, replica), signal.SIGSTOP)

    def resume(self) -> None:
        self.signals.resume()

    async def revive(self, replica: int) -> None:
        """As the supervisor that every such process has."""
        if self.reviving is None or self.reviving.done():
            self.reviving = asyncio.create_task(self._revived())
        # A start that has begun goes on, whoever waits for it: nobody else would stop what it started.
        await asyncio.shield(self.reviving)

    async def _revived(self) -> None:
        if self.process.poll() is not None:
            self.process = await asyncio.to_thread(self.start)

    async def heal(self) -> None:
        self.resume()
        await self.revive(0)
        deadline = time.monotonic() + HEAL_LIMIT
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await self.http.get(self.url(0) + f"{PREFIX}/thing?case=healing")).status_code == 402:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"mppx's proxy does not serve again:\n{self.logs()[-4000:]}")
            await asyncio.sleep(0.05)

    async def listed(self) -> tuple[witnesses.Listed, ...]:
        return ()  # it keeps no list

    def logs(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.asynccontextmanager
async def mppx(
    chain: Chain, node_url: str, upstream_url: str, folder: Path, *, tag: str = ""
) -> AsyncIterator[Proxy]:
    """mppx's proxy on the same chain, recipient and upstream; its store is a file, so that it forgets nothing."""
    where = ROOT / "bench" / "js"
    node = shutil.which("node")
    assert node is not None, "mppx's proxy needs Node.js 20 or newer, with npm"
    if not (where / "node_modules" / "mppx").is_dir():
        arguments = ["--legacy-peer-deps", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        await asyncio.to_thread(subprocess.run, ["npm", "install", *arguments], cwd=where, check=True, timeout=300)
    recipient = wallets.payee(f"faults {tag}")
    question: dict[str, Any] = {
        "upstream": upstream_url,
        "rpcUrl": node_url,
        "chainId": chain.chain_id,
        "recipient": recipient,
        "secretKey": SIGNING_KEY,
        "store": str(folder / "store.json"),
        "sponsorKey": chain.sponsor_key,
        "port": 0,
    }
    log = folder / "proxy.log"

    def start() -> "subprocess.Popen[str]":
        with log.open("a") as file:
            process = subprocess.Popen(
                [node, str(where / "metered.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(question))
        process.stdin.close()
        line = process.stdout.readline()
        process.stdout.close()
        if not line:
            raise RuntimeError(f"mppx's proxy did not start:\n{log.read_text()[-2000:]}")
        question["port"] = int(line)
        return process

    process = await asyncio.to_thread(start)
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        proxy = Proxy(Shape("mppx", "file", 1), recipient, start, process, question["port"], http, log)
        try:
            yield proxy
        finally:
            proxy.signals.resume()
            if proxy.reviving is not None:
                await asyncio.gather(proxy.reviving, return_exceptions=True)
            proxy.process.kill()
            await asyncio.to_thread(proxy.process.wait)
