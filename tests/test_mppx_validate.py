"""mppx's own validation of MPP servers (`mppx validate`) against our gateway, with real payments."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import chain as chains
import gateway_process
import moody
import places
import pytest
import wallets
from chain import Chain

from mpp_operator import networks

pytestmark = [pytest.mark.payments, pytest.mark.timeout(180)]

ROUTES: Final = """
    - {name: look, match: {method: GET, path: "/items/{id}"}, price: {amount: "0.0015"}}
    - name: ask
      match: {method: POST, path: /ask}
      price: {amount: "0.002"}
      openapi:
        requestBody:
          content:
            application/json:
              schema: {type: object, required: [question], properties: {question: {type: string}}}
    - {name: open, match: {path: /open}, free: true}
"""


@pytest.fixture(scope="module")
def public_chain() -> Iterator[Chain]:
    """A chain that mppx takes for the public test network: it provisions wallets there, and nowhere else."""
    chains.needs_npm()
    with chains.running(networks.CHAIN_IDS[networks.MODERATO]) as started:
        yield started


@pytest.fixture(scope="module")
def payee() -> str:
    return wallets.payee("mppx validate")


@pytest.fixture(scope="module")
def upstream() -> Iterator[moody.Upstream]:
    with moody.serving() as serving:
        serving.moods("/shop", *[moody.Says(200, b"{}", (("content-type", "application/json"),))] * 10)
        yield serving


@pytest.fixture(scope="module")
def found(
    upstream: moody.Upstream, public_chain: Chain, payee: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Any]]:
    """All that mppx found."""
    service = places.service("shop", upstream.port, [places.offer(payee)], routes=ROUTES)
    gateway = gateway_process.launch(
        tmp_path_factory.mktemp("validate"),
        {"shop.yaml": service},
        config=places.gateway_yaml(public_chain),
        environ={"MPP_SECRET_KEY": places.SIGNING_KEY},
    )
    try:
        gateway_process.wait_until_ready(gateway)
        yield wallets.node("validate.mjs", {"url": gateway.url, "rpcUrl": public_chain.rpc_url}, limit=150)
    finally:
        gateway.stop()


@pytest.mark.row("C01", "C03", "D01", "H10")
def test_mppx_finds_nothing_wrong_with_the_gateway(found: Mapping[str, Any]) -> None:
    """Four checks of the documents, and 22 of each of the two operations, the payment included."""
    checks = [*found["discovery"]["checks"]]
    for endpoint in found["endpoints"]:
        checks += [*endpoint["challenge"], *endpoint["errorHandling"], *endpoint["payment"]]
    unhappy = [check for check in checks if check["severity"] != "pass"]

    assert unhappy == []
    assert found["summary"] == {"passed": 48, "failed": 0, "warnings": 0, "suggested": 0, "skipped": 0}


def test_it_found_all_that_costs_something_by_the_documents(found: Mapping[str, Any]) -> None:
    endpoints = {(endpoint["method"], endpoint["path"]) for endpoint in found["endpoints"]}

    assert endpoints == {("GET", "/shop/items/{id}"), ("POST", "/shop/ask")}


def test_it_paid_for_each_of_them(
    found: Mapping[str, Any], upstream: moody.Upstream, public_chain: Chain, payee: str
) -> None:
    assert found["chainWasAsked"] > 0
    assert [hit.body for hit in upstream.hits("/shop")] == [b"", b'{"question":"test"}']
    assert wallets.balance(public_chain, payee) == 1500 + 2000
