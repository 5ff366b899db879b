"""What goes wrong around a gateway that runs or is about to: a full disk, a node of another chain."""

import http.server
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import gateway_process
import http_servers
import httpx
import pytest
import small_disks
from bad_input import edited

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(180)]

small_disk = small_disks.small_disk

DEVNET = edited("network: moderato", "network: devnet")


def config(url: str) -> str:
    return f'networks:\n  devnet: {{method: tempo, chainId: 31337, rpcUrl: "{url}"}}\n'


def asked(gateway: gateway_process.GatewayProcess) -> int:
    return httpx.get(f"{gateway.url}/shop/thing", trust_env=False).status_code


def test_a_disk_that_is_full_at_a_reload_changes_nothing_until_there_is_space(
    start_gateway: gateway_process.Start, small_disk: Path
) -> None:
    gateway = start_gateway(
        {"shop.yaml": DEVNET}, config=config("http://127.0.0.1:9"), state_dir=small_disk / "state"
    )
    gateway.said("networks.devnet.rpcUrl: expected a node that answers, got ConnectError")
    before = {path.name: path.read_text() for path in (small_disk / "state/config").glob("*.json")}
    filler = small_disks.fill(small_disk)

    gateway.edit("shop.yaml", DEVNET + '    - {name: new, match: {path: /new}, price: {amount: "1"}}\n')
    line = gateway.said("No space left on device")
    gateway.said("still serving revision")

    assert line.startswith(
        f"error: state folder {small_disk}/state: expected a folder we can write, got: No space"
    )
    assert "free some space" in line
    assert "send SIGHUP" in line
    assert {path.name: path.read_text() for path in (small_disk / "state/config").glob("*.json")} == before
    assert asked(gateway) == 402

    filler.unlink()
    announced = len(gateway.stdout)
    gateway.process.send_signal(1)
    gateway.printed('"ready": true', since=announced)

    assert httpx.get(f"{gateway.url}/shop/new", trust_env=False).status_code == 402
    assert gateway.stop() == 0


class OtherChain(http.server.BaseHTTPRequestHandler):
    """A double of a node of chain 1: a real one would be a chain of its own for one answer."""

    answers: ClassVar[dict[str, object]] = {"eth_chainId": "0x1", "eth_getBlockByNumber": {"timestamp": "0x0"}}

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": self.answers[question["method"]]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other_chain() -> Iterator[str]:
    with http_servers.serving(OtherChain) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_node_of_another_chain_ends_the_start(start_gateway: gateway_process.Start, other_chain: str) -> None:
    gateway = start_gateway({"shop.yaml": DEVNET}, config=config(other_chain), wait=False)

    assert gateway.process.wait(90) == 3
    assert gateway.stdout == []
    gateway.said("networks.devnet.rpcUrl: expected a node of chain 31337, got one of chain 1; correct the URL")
