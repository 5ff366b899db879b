"""One gateway through all that can happen to it, with the debug log on: nothing it wrote, answered or left behind
holds a credential, a key or a signature. Everything real."""

import asyncio
import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import gateway_process
import held_rpc
import httpx
import moody
import pytest
import secret_scan
import traffic
import wallets
from chain import Chain

from mpp_authz import challenge
from mpp_authz.methods import proof

pytestmark = [pytest.mark.payments, pytest.mark.timeout(240)]

PRICE = 1000
UPSTREAM_KEY = "sk-upstream-5b1f0e7d9c3a48e2/+quoted"
RPC_KEY = "rpc-key-77aa90c1e4d24b6f"
IDEMPOTENCY_KEY = "an-idempotency-key-of-a-payer"
SECRET_KEY = "a signing key of this test, e07e5f3d"

_SERVICE = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}, namespace: tests}}
spec:
  upstream:
    url: "http://127.0.0.1:{upstream}"
    auth: {{bearer: {{secretRef: {{name: upstream, key: key}}}}}}
    timeouts: {{request: 3s, upload: 3s}}
    retries: {{attempts: 0}}
  payment:
    expiresIn: 20s
    offers:
      - {{method: tempo, network: devnet, currency: pathUSD, recipient: "{recipient}"{offer}}}
  routes:
    - {{name: thing, match: {{path: /thing}}, price: {{baseUnits: "{price}"}}}}
    - {{name: body, match: {{path: /body}}, price: {{baseUnits: "{price}"}}, digest: {{maxBytes: 1000}}}}
    - {{name: other, match: {{path: /other}}, price: {{baseUnits: "{price}"}}, idempotent: true}}
"""
_SPONSORED = ", modes: [pull], feePayer: {secretRef: {name: sponsor, key: key}, minBalance: '0.000001'}"


@dataclass
class Scene:
    """A gateway with the debug log on, and what was heard of it from outside."""

    gateway: gateway_process.GatewayProcess
    chain: Chain
    node: held_rpc.Node
    upstream: moody.Upstream
    key: str
    heard: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.gateway.url + "/shop/thing"

    async def sign(self, url: str = "") -> str:
        return await traffic.credential(url or self.url, self.chain, self.key)

    async def ask(self, what: str, authorization: str | None = None, url: str = "", **headers: str) -> int:
        """Send one request and keep all of the answer."""
        given = ({} if authorization is None else {"Authorization": authorization}) | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        limit = aiohttp.ClientTimeout(20)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as http,
                http.get(url or self.url, headers=given) as answer,
            ):
                self.heard[what] = f"{answer.status} {answer.headers} {await answer.text()}"
                return answer.status
        except aiohttp.ClientError as error:
            self.heard[what] = repr(error)
            return 0


@pytest.fixture
def core_files_wanted() -> Iterator[None]:
    """As on a machine that keeps core files: what we start would write them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # root may
        soft, hard = 0, resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture
async def scene(
    start_gateway: gateway_process.Start, chain: Chain, tmp_path: Path, core_files_wanted: None
) -> AsyncIterator[Scene]:
    secrets = tmp_path / "secrets" / "tests"
    for name, value in (("upstream", UPSTREAM_KEY), ("sponsor", chain.sponsor_key)):
        (secrets / name).mkdir(parents=True)
        (secrets / name / "key").write_text(value)
    for kind, value in (
        (secret_scan.RPC_KEY, RPC_KEY),
        (secret_scan.CONFIGURED, IDEMPOTENCY_KEY),
        (secret_scan.CONFIGURED, UPSTREAM_KEY),
    ):
        secret_scan.know(kind, value)
    _, key = wallets.funded(chain, "secrets")
    async with held_rpc.serve(chain.rpc_url) as node:
        with moody.serving() as upstream:
            payee = wallets.payee("secrets")
            services = {
                f"{name}.yaml": _SERVICE.format(
                    name=name, upstream=upstream.port, recipient=payee, price=price, offer=offer
                )
                for name, price, offer in (
                    ("shop", PRICE, ""),
                    ("sponsored", PRICE, _SPONSORED),
                    ("proved", 0, ""),
                )
            }
            gateway = await asyncio.to_thread(
                start_gateway,
                services,
                config=traffic.network(f"{node.url}/v3/{RPC_KEY}") + "settleWait: 2s\n",
                environ={"MPP_SECRET_KEY": SECRET_KEY},
                arguments=("--secrets-dir", str(tmp_path / "secrets"), "--log-level", "debug"),
            )
            yield Scene(gateway, chain, node, upstream, key)


@pytest.mark.row("C20", "C21")
async def test_nothing_that_a_gateway_leaves_behind_holds_a_secret(scene: Scene) -> None:
    first = await _payments(scene)
    await _refusals(scene, first)
    await _failures(scene)
    await asyncio.to_thread(_pages, scene)
    await asyncio.to_thread(_commands, scene)
    await _mistakes(scene)
    await _crashes(scene)

    scene.gateway.signal(signal.SIGKILL)
    await asyncio.to_thread(scene.gateway.process.wait)
    scene.gateway.stop()  # its children end with it; this reads what they left

    assert secret_scan.KNOWN.kinds_in(first.encode()) >= {"credential", "signed payment"}
    assert list(map(str, secret_scan.leaks(scene.heard))) == []
    assert list(map(str, secret_scan.left_by(scene.gateway))) == []
    assert secret_scan.open_to_others(scene.gateway.state_dir) == []
    planted = scene.gateway.state_dir / "outcomes" / "planted.ended"
    planted.write_text(json.dumps({"details": first}))
    assert "outcomes/planted.ended of the state folder holds a credential" in map(
        str, secret_scan.left_by(scene.gateway)
    )
    planted.unlink()
    assert " DEBUG " in "\n".join(scene.gateway.stderr)


async def _payments(scene: Scene) -> str:
    """Paid, sponsored, proved, delivered at the second try, with a bound body."""
    first = await scene.sign()
    assert await scene.ask("paid", first) == 200
    assert scene.upstream.hits("/thing")[0].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    sponsored = scene.gateway.url + "/sponsored/thing"
    assert await scene.ask("sponsored", await scene.sign(sponsored), sponsored) == 200
    proved = scene.gateway.url + "/proved/thing"
    asked = wallets.challenge_of(await traffic.quote(proved))
    signature, source = proof.sign(
        scene.key, challenge_id=asked.id, realm=asked.realm, chain_id=scene.chain.chain_id
    )
    shown = wallets.authorization(asked, {"type": "proof", "signature": signature}, source)
    assert await scene.ask("proved", shown, proved) == 200
    other = scene.gateway.url + "/shop/other"
    again = await scene.sign(other)
    for what in ("idempotent", "idempotent again"):
        assert await scene.ask(what, again, other, Idempotency_Key=IDEMPOTENCY_KEY) == 200
    return first


async def _refusals(scene: Scene, used: str) -> None:
    """Every way in which a credential is turned away."""
    fresh, token = await scene.sign(), used.removeprefix("Payment ")
    asked = wallets.challenge_of(await traffic.quote(scene.url))
    unsigned = wallets.transfer(
        scene.chain, memo=wallets.memo(asked), recipient=wallets.payee("secrets"), amount=PRICE - 1
    )
    signature = "0x" + unsigned.sign(scene.key).encode().hex()
    poor = wallets.authorization(asked, {"type": "transaction", "signature": signature})
    foreign = _changed(fresh, "id", "A" * 43)
    for authorization in (
        foreign,
        _changed(fresh, "realm", "elsewhere"),
        _changed(fresh, "expires", "2020-01-01T00:00:00Z"),
    ):
        secret_scan.know_authorization(authorization)
    other = scene.gateway.url + "/shop/other"
    expected = {
        "asked": (402, None, ""),
        "used": (403, used, ""),
        "of less": (402, poor, ""),
        "foreign": (402, foreign, ""),
        "realm": (402, _changed(fresh, "realm", "elsewhere"), ""),
        "expired": (402, _changed(fresh, "expires", "2020-01-01T00:00:00Z"), ""),
        "another route": (402, fresh, other),
        "another query": (402, fresh, f"{scene.url}?a=b"),
        "cut off": (402, f"Payment {token[:-9]}", ""),
        "not base64": (402, f"Payment {token}!", ""),
        "two": (400, f"{fresh}, {used}", ""),
        "beside another": (400, f"Bearer {UPSTREAM_KEY}, {fresh}", ""),
        "nowhere": (404, fresh, scene.gateway.url + "/nowhere"),
    }
    found = {what: await scene.ask(what, token, url) for what, (_, token, url) in expected.items()}
    assert found == {what: status for what, (status, _, _) in expected.items()}


def _changed(authorization: str, name: str, value: str) -> str:
    """The credential with one parameter of its challenge changed."""
    document = json.loads(base64.urlsafe_b64decode(authorization.removeprefix("Payment ") + "==="))
    document["challenge"][name] = value
    return f"Payment {challenge.b64url(json.dumps(document).encode())}"


async def _failures(scene: Scene) -> None:
    """The upstream fails in several ways, then the chain."""
    credential = await scene.sign()
    scene.upstream.moods("/thing", moody.Says(500), moody.Resets(), moody.Says(402))
    statuses = [await scene.ask(f"upstream fails {n}", credential) for n in range(3)]
    assert all(status >= 500 for status in statuses), statuses
    lost = await scene.sign()
    scene.node.lose_answer = True
    assert await scene.ask("the chain's answer is lost", lost) == 503
    assert await scene.ask("the chain is deaf", await scene.sign()) in (409, 503)  # the lost one may be his
    scene.node.lose_answer = scene.node.deaf = False


def _pages(scene: Scene) -> None:
    """What it says of itself, and what the system says of its processes."""
    scene.heard["metrics"] = httpx.get(scene.gateway.metrics_url + "/metrics").text
    transport = httpx.HTTPTransport(uds=str(scene.gateway.admin_socket))
    with httpx.Client(transport=transport, base_url="http://envoy") as admin:
        for page in ("/config_dump", "/certs", "/clusters", "/listeners", "/stats", "/server_info"):
            scene.heard[f"Envoy's {page}"] = admin.get(page).text  # those it does not show are 403
    assert "mpp_checks_total" in scene.heard["metrics"]
    assert "downstream_rq" in scene.heard["Envoy's /stats"]
    for name in ("authzPid", "envoyPid"):
        process = Path("/proc", str(scene.gateway.ready[name]))
        scene.heard[f"arguments of {name}"] = (process / "cmdline").read_text()
        scene.heard[f"environment of {name}"] = (process / "environ").read_text()


def _commands(scene: Scene) -> None:
    """Commands beside a gateway that runs; one of them has a payer's key, one a mistake in it."""
    state = ("--state-dir", str(scene.gateway.state_dir))
    files = ("-f", str(scene.gateway.folder / "shop.yaml"), "--config", str(scene.gateway.folder / "gateway.yaml"))
    wrong = scene.gateway.folder / "wrong.yaml"
    wrong.write_text(
        (scene.gateway.folder / "shop.yaml").read_text().replace("{name: upstream, key: key}", UPSTREAM_KEY)
    )
    commands = {
        "payments": ("payments", *state),
        "payments --json": ("payments", "--json", *state),
        "payments reconcile": ("payments", "reconcile", *state),
        "compile": ("compile", *files, "--check"),
        "compile of a mistake": ("compile", "-f", str(wrong), "-o", str(scene.gateway.folder / "out")),
        "pay": ("pay", scene.url, "--rpc-url", scene.chain.rpc_url),
        "pay with a key for its name": ("pay", scene.url, "--key", scene.key),
    }
    environ = gateway_process.clean_environ({"MPP_PRIVATE_KEY": scene.key, "MPP_SECRET_KEY": SECRET_KEY})
    for what, arguments in commands.items():
        done = subprocess.run(
            [sys.executable, "-m", "mpp_operator.cli", *arguments],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        scene.heard[what] = done.stdout + done.stderr
    assert "DELIVERED" in scene.heard["payments"]
    assert "error: " in scene.heard["compile of a mistake"]


async def _mistakes(scene: Scene) -> None:
    """Files are edited while it runs, with a secret where none belongs."""
    good = (scene.gateway.folder / "shop.yaml").read_text()
    for bad in (
        good.replace("{name: upstream, key: key}", UPSTREAM_KEY),
        good.replace('url: "http', f'url: "{UPSTREAM_KEY}http'),
        good + f"  - {UPSTREAM_KEY}: [",
    ):
        since = len(scene.gateway.stderr)
        scene.gateway.edit("shop.yaml", bad)
        await asyncio.to_thread(scene.gateway.said, "shop.yaml", since=since)
    since = len(scene.gateway.stdout)
    scene.gateway.edit("shop.yaml", good.replace("request: 3s", "request: 4s"))
    await asyncio.to_thread(scene.gateway.printed, "ready", since=since)


def _core_size(pid: int) -> str:
    """The longest core file that the system would write of a process."""
    limits = Path("/proc", str(pid), "limits").read_text().splitlines()
    (line,) = [line for line in limits if line.startswith("Max core file size")]
    return line.split()[4]


async def _crashes(scene: Scene) -> None:
    """authz and Envoy crash, as if by a bug, and come back."""
    for name in ("authzPid", "envoyPid"):
        pid = int(scene.gateway.ready[name])
        assert _core_size(pid) == "0"
        since = len(scene.gateway.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)
        await traffic.until_gone(pid)
        await asyncio.to_thread(scene.gateway.said, "serves again", since=since)
    assert await scene.ask("after crashes", await scene.sign()) == 200
