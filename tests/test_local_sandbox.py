"""`mpp-gateway run --sandbox`: a chain, test money, real payments."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import gateway_process
import httpx
import pytest

pytestmark = [pytest.mark.payments, pytest.mark.timeout(240)]

#: The sample API is not needed: the route's price is what is asked; /open tells whether the gateway forwards.
SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: shop, namespace: tests}}
spec:
  upstream: {{url: "{upstream}"}}
  payment:
    expiresIn: 10m
    offers:
      - method: tempo
        network: mainnet
        currency: USDC.e
        recipientFrom: {{secretRef: {{name: nobody, key: has-it}}}}
        feePayer: {{secretRef: {{name: nobody, key: has-this}}}}
  routes:
    - {{name: thing, match: {{method: GET, path: /v1/quotes/ACME}}, price: {{amount: "{price}"}}}}
"""


@pytest.fixture
def upstream() -> Iterator[str]:
    command = [sys.executable, "examples/sample_api.py", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as api:
        assert api.stdout is not None
        yield api.stdout.readline().strip()
        api.terminate()


def pay(gateway: gateway_process.GatewayProcess, url: str) -> subprocess.CompletedProcess[str]:
    money = gateway.ready["sandbox"]
    environ = {**os.environ, "MPP_PRIVATE_KEY": money["buyerKey"], "MPP_RPC_URL": money["rpcUrl"]}
    return subprocess.run(
        [sys.executable, "-m", "mpp_operator.cli", "pay", url],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_offer_is_on_the_sandboxs_chain_and_can_be_paid_there_also_after_an_edit(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway(
        {"shop.yaml": SERVICE.format(upstream=upstream, price="0.05")}, arguments=("--sandbox",)
    )
    url = f"{gateway.url}/shop/v1/quotes/ACME"
    gateway.said("sandbox: every offer is on the development chain localnet")

    first = pay(gateway, url)
    gateway.edit("shop.yaml", SERVICE.format(upstream=upstream, price="0.08"))
    gateway.printed("0.08 pathUSD", since=1)
    second = pay(gateway, url)

    for paid in (first, second):
        assert paid.returncode == 0, paid.stderr
        assert json.loads(paid.stdout)["symbol"] == "ACME"
        assert "receipt: " in paid.stderr
    ledger = subprocess.run(
        [sys.executable, "-m", "mpp_operator.cli", "payments", "--json", "--state-dir", str(gateway.state_dir)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows = json.loads(ledger.stdout)["payments"]
    assert [(row["state"], row["amount"], row["network"]) for row in rows] == [
        ("DELIVERED", "80000", "localnet"),
        ("DELIVERED", "50000", "localnet"),
    ]
    assert {row["recipient"].lower() for row in rows} == {gateway.ready["sandbox"]["payee"].lower()}


def test_a_challenge_lives_as_long_as_the_chain_allows(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway(
        {"shop.yaml": SERVICE.format(upstream=upstream, price="0.05")}, arguments=("--sandbox",)
    )

    answer = httpx.get(f"{gateway.url}/shop/v1/quotes/ACME", trust_env=False)

    expires = datetime.fromisoformat(answer.headers["www-authenticate"].split('expires="')[1].split('"')[0])
    assert 0 < (expires - datetime.now(UTC)).total_seconds() <= 25


def test_the_sandbox_ends_with_the_gateway(start_gateway: gateway_process.Start, upstream: str) -> None:
    gateway = start_gateway(
        {"shop.yaml": SERVICE.format(upstream=upstream, price="0.05")}, arguments=("--sandbox",)
    )

    assert gateway.stop() == 0

    with pytest.raises(httpx.ConnectError):
        httpx.post(gateway.ready["sandbox"]["rpcUrl"], json={}, trust_env=False)


def test_without_npm_and_anvil_the_sandbox_says_what_to_install(
    start_gateway: gateway_process.Start, upstream: str
) -> None:
    gateway = start_gateway(
        {"shop.yaml": SERVICE.format(upstream=upstream, price="0.05")},
        arguments=("--sandbox",),
        environ={"MPP_GATEWAY_ANVIL": "/nowhere/anvil"},
        wait=False,
    )

    gateway.said("MPP_GATEWAY_ANVIL: expected an executable file")
    assert gateway.process.wait(20) == 3
