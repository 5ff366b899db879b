"""The authz process itself: it starts on real files, serves, reads them again, is taken over, and stops."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import envoys
import grpc
import httpx
import mpp
import pytest
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from gateway_process import clean_environ
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mpp_authz import challenge, handover, keys, pricing, server, wire
from mpp_authz.challenge import Keyring
from mpp_authz.keys import Keys
from mpp_authz.pricing import Network, Offer, Pricing, RoutePrice

KEY = b"a key of the server tests, 32 bytes long"
FEE_PAYER = "0x" + "5e" * 32
LIMIT = 60.0
PROGRAM = "import sys; from mpp_authz import server; sys.exit(server.main(sys.argv[1:]))"
#: Keeps an authz as `mpp-gateway run` does, and says its pid.
KEEPER = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {PROGRAM!r}, *sys.argv[1:]])
print("pid", child.pid, file=sys.stderr, flush=True)
sys.exit(child.wait())
"""
OFFER = Offer("usdc", "tempo", "devnet", "0x20c0000000000000000000000000000000000000", "0x" + "ab" * 20, "1500")


@dataclass(slots=True)
class Process:
    """An authz process, and all it said on stderr."""

    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    reader: asyncio.Task[None] | None = None

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self.news:
                self.said.append(line.decode().rstrip())
                self.news.notify_all()
        async with self.news:
            self.said.append("(end)")
            self.news.notify_all()

    async def says(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(LIMIT), self.news:
            await self.news.wait_for(lambda: sum(text in s for s in self.said) >= times or "(end)" in self.said)
        assert sum(text in s for s in self.said) >= times, "\n".join(self.said)

    async def ends(self) -> int:
        async with asyncio.timeout(LIMIT):
            code = await self.process.wait()
            assert self.reader is not None
            await self.reader
        return code

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@dataclass(slots=True)
class Home:
    """The folders of one authz."""

    folder: Path
    rpc: str = "http://127.0.0.1:9"
    running: list[Process] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "authz.sock"

    def price(self, revision: str = "r1", **changes: Any) -> None:
        network = Network("devnet", "tempo", 1337, (self.rpc,))
        offer = replace(OFFER, **changes)
        price = RoutePrice((offer,), expires_in=300, lease=60, realm="shop.example")
        document = Pricing(pricing.VERSION, revision, {"shop/llm/x": price}, {"devnet": network})
        fresh = self.folder / "config" / ".new"
        fresh.write_text(pricing.dump(document))
        fresh.rename(self.folder / "config" / "pricing.json")

    def arguments(self, **changes: str) -> list[str]:
        given = {
            "config-dir": str(self.folder / "config"),
            "secrets-dir": str(self.folder / "secrets"),
            "socket": str(self.socket),
            "ledger": f"sqlite:{self.folder / 'ledger.db'}",
            "outcomes-dir": str(self.folder),
            "log-level": "debug",
        }
        return [part for name, value in (given | changes).items() for part in (f"--{name}", value)]

    async def start(self, *, wait: bool = True, program: str = PROGRAM, **changes: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            *self.arguments(**{name.replace("_", "-"): value for name, value in changes.items()}),
            stderr=asyncio.subprocess.PIPE,
            env=clean_environ(),
            cwd=self.folder,
        )
        made = Process(process)
        made.reader = asyncio.create_task(made.read())
        self.running.append(made)
        if wait:
            await made.says("serving")
        return made

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"unix:{self.socket}") as channel:
            yield channel

    async def ask(self, channel: grpc.aio.Channel, authorization: str | None = None) -> Any:
        message = external_auth_pb2.CheckRequest()
        message.attributes.context_extensions[wire.ROUTE_CONTEXT] = "shop/llm/x"
        http = message.attributes.request.http
        http.method, http.host, http.scheme, http.path = "GET", "shop.example", "https", "/x"
        if authorization is not None:
            http.headers["authorization"] = authorization
        stub = external_auth_pb2_grpc.AuthorizationStub(channel)
        return await stub.Check(message, timeout=LIMIT, wait_for_ready=True)


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="mpp-"))
    made = Home(folder)
    for name in ("config", "secrets"):
        (folder / name).mkdir()
    made.price()
    text = keys.dump(Keys(Keyring((KEY,)), {"sponsor": FEE_PAYER}))
    (folder / "secrets" / "authz.json").write_text(text)
    yield made
    for one in made.running:
        if one.process.returncode is None:
            one.process.kill()
        await one.ends()
    shutil.rmtree(folder)


def asked(response: Any) -> mpp.Challenge:
    (line,) = (h.header.value for h in response.denied_response.headers if h.header.key == "www-authenticate")
    return mpp.Challenge.from_www_authenticate(line)


def pushed(ours: mpp.Challenge) -> str:
    echo = {name: value for name, value in vars_of(ours.to_echo()).items() if value is not None}
    payload = {"type": "hash", "hash": "0x" + "77" * 32}
    return "Payment " + challenge.b64url(json.dumps({"challenge": echo, "payload": payload}).encode())


def vars_of(echo: Any) -> dict[str, Any]:
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "opaque", "header")
    return {name: getattr(echo, name) for name in names}


@dataclass(slots=True)
class SlowChain:
    """A JSON-RPC endpoint that accepts questions and answers none until it is told to."""

    url: str
    asked: asyncio.Event
    answer: asyncio.Event


@pytest.fixture
async def slow_chain() -> AsyncIterator[SlowChain]:
    was_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        was_asked.set()
        await may_answer.wait()
        writer.close()

    listening = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    yield SlowChain(f"http://127.0.0.1:{port}", was_asked, may_answer)
    may_answer.set()
    listening.close()
    await listening.wait_closed()


async def test_it_serves_health_and_metrics_and_stops_when_it_is_told(home: Home) -> None:
    authz = await home.start(http="127.0.0.1:0")
    async with home.channel() as channel:
        response = await home.ask(channel)
        healthy = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT)

    mode = os.stat(home.socket).st_mode & 0o777
    authz.signal(signal.SIGTERM)

    assert asked(response).verify(KEY.decode(), "shop.example")
    assert healthy.status == health_pb2.HealthCheckResponse.SERVING
    assert mode == 0o600
    assert await authz.ends() == 0
    assert not home.socket.exists()


async def test_it_is_ready_once_it_serves(home: Home) -> None:
    port = await free_port()
    await home.start(http=f"127.0.0.1:{port}")

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        ready, metrics = await client.get("/readyz"), await client.get("/metrics")

    assert (ready.status_code, ready.text) == (200, "ok\n")
    assert 'mpp_pricing_info{revision="r1"} 1.0' in metrics.text
    assert "mpp_ledger_rows" in metrics.text


async def free_port() -> int:
    listening = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port: int = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    return port


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "its keeper died"])
async def test_it_says_that_all_was_answered_only_where_no_check_was_cut(home: Home, kept: bool) -> None:
    keeper = await home.start(program=KEEPER, handover="0.01")
    authz = int(next(line for line in keeper.said if line.startswith("pid ")).removeprefix("pid "))
    try:
        if not kept:
            keeper.process.kill()
            # Not `process.wait()`: it waits for the pipe, which authz has, too.
            await envoys.until(lambda: parent(authz) != keeper.process.pid)
        os.kill(authz, signal.SIGTERM)
        await keeper.ends()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(authz, signal.SIGKILL)

    assert "stopped" in keeper.said[-2]
    with contextlib.closing(sqlite3.connect(home.folder / "ledger.db")) as ledger:
        last_words = ledger.execute("SELECT id FROM data_planes WHERE ended AND id LIKE 'authz-0/%'").fetchall()
    assert len(last_words) == kept


async def test_a_ledger_that_takes_long_to_open_is_said_and_then_served(home: Home) -> None:
    with contextlib.closing(sqlite3.connect(home.folder / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # as another process's migration
        authz = await home.start(wait=False)
        await authz.says(handover.OPENING)
        other.execute("ROLLBACK")

    await authz.says("serving")


async def test_it_reads_its_files_again_when_told(home: Home) -> None:
    authz = await home.start()
    home.price("r2", amount="9000")
    authz.signal(signal.SIGHUP)
    await authz.says("pricing loaded", times=2)

    async with home.channel() as channel:
        assert asked(await home.ask(channel)).request["amount"] == "9000"


async def test_a_check_in_flight_is_answered_before_it_stops(home: Home, slow_chain: SlowChain) -> None:
    home.rpc = slow_chain.url
    home.price()
    authz = await home.start()
    async with home.channel() as channel:
        authorization = pushed(asked(await home.ask(channel)))
        check = asyncio.create_task(home.ask(channel, authorization))
        async with asyncio.timeout(LIMIT):
            await slow_chain.asked.wait()

        authz.signal(signal.SIGTERM)
        slow_chain.answer.set()
        response = await check

    assert response.denied_response.status.code == 503
    assert "www-authenticate" not in [h.header.key for h in response.denied_response.headers]
    assert await authz.ends() == 0


async def test_a_second_process_takes_the_socket_over_and_the_first_leaves_it_alone(
    home: Home, slow_chain: SlowChain
) -> None:
    home.rpc = slow_chain.url
    home.price()
    first = await home.start()
    async with home.channel() as channel:
        authorization = pushed(asked(await home.ask(channel)))
        check = asyncio.create_task(home.ask(channel, authorization))
        async with asyncio.timeout(LIMIT):
            await slow_chain.asked.wait()

        await home.start()
        first.signal(signal.SIGTERM)
        slow_chain.answer.set()
        drained = await check
        code = await first.ends()

    async with home.channel() as channel:
        served = await home.ask(channel)
    assert drained.denied_response.status.code == 503
    assert code == 0
    assert served.denied_response.status.code == 402


async def test_a_process_that_cannot_start_leaves_the_socket_to_the_one_that_serves(home: Home) -> None:
    taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    await home.start()
    inode = home.socket.stat().st_ino

    second = await home.start(wait=False, http=f"127.0.0.1:{port}")
    code = await second.ends()
    taken.close()
    await taken.wait_closed()

    assert code == 3
    assert f"--http 127.0.0.1:{port}: " in second.said[-2]
    assert home.socket.stat().st_ino == inode
    async with home.channel() as channel:
        assert (await home.ask(channel)).denied_response.status.code == 402


async def test_a_gateway_with_other_keys_does_not_start_beside_one_on_its_ledger(home: Home) -> None:
    await home.start(slot="authz-one")
    other = home.folder / "other"
    other.mkdir()
    (other / "authz.json").write_text(keys.dump(Keys(Keyring((b"k" * 32,)))))

    second = await home.start(wait=False, slot="authz-two", secrets_dir=str(other), socket=str(other / "a.sock"))

    assert await second.ends() == 3
    (line,) = [line for line in second.said if line.startswith("mpp-gateway authz: ")]
    assert line.startswith("mpp-gateway authz: signing keys: expected one that authz-one on this ledger has, too")


async def test_nothing_secret_is_in_the_logs(home: Home) -> None:
    authz = await home.start()
    async with home.channel() as channel:
        ours = asked(await home.ask(channel))
        sent = [pushed(ours), "Payment " + challenge.b64url(secrets.token_bytes(40)), f"Payment {'x' * 50}"]
        for authorization in sent:
            await home.ask(channel, authorization)
    authz.signal(signal.SIGTERM)
    await authz.ends()

    said = "\n".join(authz.said)
    for secret in (KEY.decode(), FEE_PAYER, FEE_PAYER[2:], "77" * 32, *(s.removeprefix("Payment ") for s in sent)):
        assert secret not in said
    assert re.search(r"INFO mpp_authz.server serving socket='.*' slot='authz-0'", said)
    assert authz.said[-2].endswith("INFO mpp_authz.server stopped")


# --- what it needs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config-dir": "{}/nowhere"}, "pricing.json: not found"),
        ({"secrets-dir": "{}/nowhere"}, "authz.json: not found"),
        ({"ledger": "redis://:s3cret@h"}, "ledger: expected sqlite:"),
        ({"ledger": "sqlite:/dev/null/ledger.db"}, "ledger /dev/null/ledger.db"),
        ({"socket": "{}/nowhere/a.sock"}, "its folder must exist"),
        ({"socket": "{}/" + "x" * 120}, "under 100 bytes"),
        ({"http": "nonsense"}, "expected an address such as 127.0.0.1:9464"),
    ],
    ids=str,
)
async def test_wrong_settings_end_with_3_and_a_message(home: Home, changes: dict[str, str], says: str) -> None:
    given = {name.replace("-", "_"): value.format(home.folder) for name, value in changes.items()}

    authz = await home.start(wait=False, **given)

    assert await authz.ends() == 3
    (line,) = [line for line in authz.said if line.startswith("mpp-gateway authz: ")]
    assert says in line
    assert "s3cret" not in line
    assert "Traceback" not in "\n".join(authz.said)


async def test_broken_files_end_with_3_and_name_the_field(home: Home) -> None:
    (home.folder / "secrets" / "authz.json").write_text('{"version": 1, "challengeKeys": ["tooshort"]}')

    authz = await home.start(wait=False)

    assert await authz.ends() == 3
    assert "challenge keys[0]: expected at least 32 bytes, got 8" in "\n".join(authz.said)
    assert "tooshort" not in "\n".join(authz.said)


def test_settings_that_are_missing_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        server.main([])

    assert ended.value.code == 2
    assert "--config-dir" in capsys.readouterr().err


async def test_background_work_that_ends_stops_the_process_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()

    async def fails() -> None:
        raise OSError("the folder is gone")

    task = asyncio.create_task(fails(), name="watching")
    task.add_done_callback(lambda ended: server._ended(ended, stop))
    await asyncio.wait([task])
    async with asyncio.timeout(LIMIT):
        await stop.wait()

    assert [record.message for record in caplog.records] == ["background work ended"]
