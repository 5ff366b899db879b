"""`mpp-gateway run` as a process, with a real Envoy and a real authz."""

import base64
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gateway_process
import http_servers
import httpx
import pytest

from mpp_operator import envoy

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(180)]

NETWORKS = """
networks:
  devnet: {method: tempo, chainId: 31337, rpcUrl: "http://127.0.0.1:9"}
"""

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: shop, namespace: tests}}
spec:
  upstream: {{url: "{upstream}"{auth}}}
  payment:
    offers:
      - {{method: tempo, network: devnet, currency: pathUSD, recipient: "0x{recipient}"}}
  routes:
    - {{name: thing, match: {{method: GET, path: /thing}}, price: {{amount: "{price}"}}}}
    - {{name: open, match: {{path: /open}}, free: true}}
"""


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers everything with what it was told, slowly where the path says so."""

    release = threading.Event()

    def do_GET(self) -> None:
        if "slow" in self.path:
            self.release.wait(20)
        body = json.dumps({"path": self.path, "authorization": self.headers.get("Authorization")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    with http_servers.serving(Upstream) as port:
        yield f"http://127.0.0.1:{port}"


def service(upstream: str, price: str = "0.05", auth: str = "") -> str:
    return SERVICE.format(upstream=upstream, price=price, recipient="70" * 20, auth=auth)


def amount(url: str) -> str:
    """Base units that the challenge at `url` asks for."""
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 402, answer.text
    request = re.search(r'request="([^"]+)"', answer.headers["www-authenticate"])
    assert request is not None
    decoded = json.loads(base64.urlsafe_b64decode(request[1] + "=" * (-len(request[1]) % 4)))
    return str(decoded["amount"])


def until_amount(url: str, wanted: str, limit: float = 15) -> float:
    """Wait for a price; how long it took."""
    began = time.monotonic()
    while (found := amount(url)) != wanted:
        assert time.monotonic() - began < limit, f"still {found}"
        time.sleep(0.02)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " not in stat.read_text()


def until_gone(*pids: int, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if alive(pid)]
        time.sleep(0.02)


def test_one_command_puts_a_price_on_an_api(start_gateway: gateway_process.Start, upstream: str) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)

    assert amount(f"{gateway.url}/shop/thing") == "50000"
    assert httpx.get(f"{gateway.url}/shop/open", trust_env=False).json()["path"] == "/open"
    assert httpx.get(f"{gateway.url}/shop/other", trust_env=False).status_code == 404
    assert gateway.ready["services"] == [
        {
            "namespace": "tests",
            "name": "shop",
            "url": f"{gateway.url}/shop",
            "routes": [
                {
                    "key": "tests/shop/thing",
                    "methods": ["GET", "HEAD"],
                    "url": f"{gateway.url}/shop/thing",
                    "price": ["0.05 pathUSD"],
                },
                {
                    "key": "tests/shop/open",
                    "methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
                    "url": f"{gateway.url}/shop/open",
                    "price": None,
                },
            ],
        }
    ]
    assert httpx.get(f"{gateway.metrics_url}/readyz", trust_env=False).status_code == 200


def test_an_edited_price_is_asked_at_once_and_the_banner_says_it(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    url = f"{gateway.url}/shop/thing"

    gateway.edit("shop.yaml", service(upstream, price="0.07"))

    assert until_amount(url, "70000") < 5
    assert "0.07 pathUSD" in gateway.printed("ready", since=1)


def test_a_bad_edit_is_said_and_what_was_good_goes_on(start_gateway: gateway_process.Start, upstream: str) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    url = f"{gateway.url}/shop/thing"

    gateway.edit("shop.yaml", service(upstream, price="0.0000001"))

    line = gateway.said("tests/shop: spec.routes[0]")
    assert line.startswith(
        f"error: {gateway.folder / 'shop.yaml'}: tests/shop: spec.routes[0].price.amount: expected"
    )
    gateway.said("still serving revision")
    assert amount(url) == "50000"

    gateway.edit("shop.yaml", service(upstream, price="0.09"))
    until_amount(url, "90000")


def test_sighup_reads_a_secret_again(start_gateway: gateway_process.Start, upstream: str, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    key = secrets / "tests" / "upstream" / "key"
    key.parent.mkdir(parents=True)
    key.write_text("first\n")
    auth = ", auth: {bearer: {secretRef: {name: upstream, key: key}}}"
    gateway = start_gateway(
        {"shop.yaml": service(upstream, auth=auth)}, config=NETWORKS, arguments=("--secrets-dir", str(secrets))
    )
    url = f"{gateway.url}/shop/open"
    assert httpx.get(url, trust_env=False).json()["authorization"] == "Bearer first"

    key.write_text("second\n")
    gateway.signal(signal.SIGHUP)

    deadline = time.monotonic() + 10
    while httpx.get(url, trust_env=False).json()["authorization"] != "Bearer second":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    everything = "\n".join(gateway.stdout + gateway.stderr)
    assert "first" not in everything
    assert "second" not in everything


@pytest.mark.parametrize("victim", ["authzPid", "envoyPid"])
def test_a_child_that_dies_is_replaced(start_gateway: gateway_process.Start, upstream: str, victim: str) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)

    os.kill(gateway.ready[victim], signal.SIGKILL)
    gateway.said("died (SIGKILL); starting it again now")
    gateway.said("serves again")

    deadline = time.monotonic() + 10
    while httpx.get(f"{gateway.url}/shop/thing", trust_env=False).status_code != 402:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_envoy_that_died_leaves_an_outcome_file_that_is_marked_as_ended(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    outcomes = gateway.state_dir / "outcomes"
    (first,) = outcomes.glob("*.log")

    os.kill(gateway.ready["envoyPid"], signal.SIGKILL)
    gateway.said("envoy serves again")

    (second,) = outcomes.glob("*.log")
    assert second.name != first.name
    assert not first.exists()  # renamed to .ended, and gone once authz has read it


def test_stopping_waits_for_requests_in_flight(start_gateway: gateway_process.Start, upstream: str) -> None:
    slow = service(upstream) + "    - {name: slow, match: {path: /slow}, free: true}\n"
    gateway = start_gateway({"shop.yaml": slow}, config=NETWORKS)
    Upstream.release.clear()
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            httpx.get(f"{gateway.url}/shop/slow", trust_env=False, timeout=30).status_code
        )
    )
    asking.start()
    deadline = time.monotonic() + 10
    while envoy.Admin(gateway.admin_socket).stats("downstream_rq_active$") != {"http.mpp.downstream_rq_active": 1}:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    gateway.process.terminate()
    gateway.said("stopping")
    assert alive(gateway.ready["envoyPid"])
    Upstream.release.set()
    code = gateway.stop()
    asking.join()

    assert (code, answers) == (0, [200])
    until_gone(gateway.ready["envoyPid"], gateway.ready["authzPid"])


def test_a_request_that_does_not_end_is_cut_at_the_end_of_the_drain_and_that_is_said(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    text = service(upstream).replace("path: /open", "path: /slow")
    gateway = start_gateway({"shop.yaml": text}, config=NETWORKS, arguments=("--drain", "0.5"))
    Upstream.release.clear()
    with socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0)) as asking:
        asking.sendall(b"GET /shop/slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 10
        active = {"http.mpp.downstream_rq_active": 1}
        while envoy.Admin(gateway.admin_socket).stats("downstream_rq_active$") != active:
            assert time.monotonic() < deadline
            time.sleep(0.02)

        code = gateway.stop()
        Upstream.release.set()

    assert code == 0
    assert "warning: some requests did not end within 0.5 s" in gateway.stderr
    until_gone(gateway.ready["envoyPid"], gateway.ready["authzPid"])


def test_nothing_is_orphaned_when_the_gateway_is_killed(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)

    gateway.process.kill()

    until_gone(gateway.ready["envoyPid"], gateway.ready["authzPid"])


def test_a_second_gateway_in_the_same_state_folder_is_an_error(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    first = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)

    second = start_gateway(
        {"shop.yaml": service(upstream)}, config=NETWORKS, state_dir=first.state_dir, wait=False
    )

    second.said("another gateway runs there; stop it, or choose another with --state-dir", limit=40)
    assert second.process.wait(20) == 3


def test_a_port_that_is_taken_is_an_error_with_the_way_out(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        gateway = start_gateway(
            {"shop.yaml": service(upstream)}, config=NETWORKS, arguments=("--port", str(port)), wait=False
        )

        gateway.said(
            f"listen: expected 127.0.0.1:{port} to be free, got: Address already in use; stop what listens"
        )
        assert gateway.process.wait(20) == 3


def test_all_missing_secrets_are_said_in_one_go_before_anything_starts(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    auth = ", auth: {bearer: {secretRef: {name: openai, key: api-key}}}, tls: {caSecretRef: {name: ca, key: pem}}"
    text = service(upstream.replace("http:", "https:"), auth=auth)

    gateway = start_gateway({"shop.yaml": text}, config=NETWORKS, wait=False)

    gateway.said("secret tests/openai key api-key: expected a value")
    gateway.said("in the environment as CA_PEM")
    assert gateway.process.wait(20) == 3
    assert not list((gateway.state_dir / "config").iterdir())


def test_a_rejected_configuration_is_said_in_envoys_words_and_the_last_good_one_goes_on(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    data = gateway.state_dir / "config"
    broken = data / "..999"
    broken.mkdir()
    for file in (data / "..data").iterdir():
        (broken / file.name).write_text(file.read_text())
    (broken / "rds.json").write_text('{"resources": [{"no": "route"}], "version_info": "broken"}')
    (data / "..new").symlink_to("..999")

    (data / "..new").rename(data / "..data")

    gateway.said("envoy refused the configuration:", limit=5)
    assert amount(f"{gateway.url}/shop/thing") == "50000"


def test_a_state_folder_is_used_again_with_its_key(start_gateway: gateway_process.Start, upstream: str) -> None:
    first = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    assert any("made a signing key" in line for line in first.stderr)
    key = (first.state_dir / "signing.key").read_text()
    assert first.stop() == 0

    second = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS, state_dir=first.state_dir)

    assert not any("made a signing key" in line for line in second.stderr)
    assert (second.state_dir / "signing.key").read_text() == key


def test_an_envoy_that_is_slow_to_take_a_configuration_is_said_and_takes_it_later(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)
    os.kill(gateway.ready["envoyPid"], signal.SIGSTOP)
    try:
        gateway.edit("shop.yaml", service(upstream, price="0.07"))
        gateway.said("envoy has not taken the new configuration within 2 s")
    finally:
        os.kill(gateway.ready["envoyPid"], signal.SIGCONT)

    assert until_amount(f"{gateway.url}/shop/thing", "70000") < 10
    assert not any("still serving" in line for line in gateway.stderr)  # slow is not refused


def certificate(folder: Path) -> None:
    """A certificate for localhost that nobody trusts, next to its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-days", "1", "-keyout", str(folder / "key.pem")),
            *("-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


def test_a_certificate_beside_gateway_yaml_makes_the_listener_https(
    start_gateway: gateway_process.Start, upstream: str, tmp_path: Path
) -> None:
    certificate(tmp_path)
    tls = f"{NETWORKS}\ntls: {{certificate: ../cert.pem, key: ../key.pem}}\n"

    gateway = start_gateway({"shop.yaml": service(upstream)}, config=tls)

    assert gateway.url.startswith("https://127.0.0.1:")
    answer = httpx.get(f"{gateway.url}/shop/thing", trust_env=False, verify=False)
    assert answer.status_code == 402


def test_a_certificate_that_is_not_there_is_said_before_anything_starts(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    tls = f"{NETWORKS}\ntls: {{certificate: cert.pem, key: key.pem}}\n"

    gateway = start_gateway({"shop.yaml": service(upstream)}, config=tls, wait=False)

    gateway.said("tls.certificate: expected a file we can read")
    assert gateway.process.wait(20) == 3


def test_a_certificate_that_envoy_cannot_use_is_said_and_nothing_is_left_running(
    start_gateway: gateway_process.Start, upstream: str, tmp_path: Path
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no certificate")
    tls = f"{NETWORKS}\ntls: {{certificate: {tmp_path / 'cert.pem'}, key: {tmp_path / 'key.pem'}}}\n"

    gateway = start_gateway({"shop.yaml": service(upstream)}, config=tls, wait=False)

    gateway.said("error: envoy ended at start (exit code 1)")
    assert gateway.process.wait(20) == 3
    free = subprocess.run(["flock", "--nonblock", gateway.state_dir / "lock", "true"], check=False)
    assert free.returncode == 0


def test_signing_keys_that_gateway_yaml_names_are_used_and_short_ones_refused(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    keys = f"{NETWORKS}\nchallengeKeys: [{{name: gw, key: current}}, {{name: gw, key: previous}}]\n"

    gateway = start_gateway(
        {"shop.yaml": service(upstream)}, config=keys, environ={"GW_CURRENT": "c" * 32, "GW_PREVIOUS": "p" * 40}
    )

    assert amount(f"{gateway.url}/shop/thing") == "50000"
    authz = json.loads((gateway.state_dir / "secrets" / "authz.json").read_text())
    assert authz["challengeKeys"] == ["c" * 32, "p" * 40]
    assert not (gateway.state_dir / "signing.key").exists()

    short = start_gateway(
        {"shop.yaml": service(upstream)},
        config=keys,
        environ={"GW_CURRENT": "short", "GW_PREVIOUS": "p" * 40},
        wait=False,
    )
    short.said("secret default/gw key current: expected at least 32 bytes, got 5")
    assert short.process.wait(20) == 3


def test_a_changed_listener_is_said_to_wait_for_the_next_start(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway({"shop.yaml": service(upstream)}, config=NETWORKS)

    gateway.edit("gateway.yaml", f"{NETWORKS}\ncheckTimeout: 20s\n")

    gateway.said("take effect at the next start")
    assert amount(f"{gateway.url}/shop/thing") == "50000"
