"""The documents of a gateway that runs, as unmodified mppx sees them: `mppx validate`, but for paying."""

from collections.abc import Iterator

import described
import gateway_process
import pytest
import wallets

pytestmark = [pytest.mark.payments, pytest.mark.timeout(180)]


@pytest.fixture
def upstream() -> Iterator[int]:
    """Its port."""
    with described.upstream() as port:
        yield port


@pytest.mark.row("D01", "D03", "D04", "D06", "D07")
def test_mppx_finds_nothing_wrong_with_a_gateway_by_its_documents(
    start_gateway: gateway_process.Start, upstream: int
) -> None:
    gateway = start_gateway({"words.yaml": described.words(upstream)}, config=described.NETWORKS)

    said = wallets.node("discovery.mjs", {"url": gateway.url})

    labels = {check["label"] for check in said["checks"]}
    assert said["valid"]
    assert [check for check in said["checks"] if check["severity"] == "fail"] == []
    assert {"llms.txt found and nonempty", "Valid OpenAPI structure", "Paid endpoints found"} <= labels
    # A route that takes every method of every path says nothing of its bodies.
    warned = {(check["label"], check["detail"]) for check in said["checks"] if check["severity"] == "warn"}
    no_body = "Operation with x-payment-info has no requestBody"
    assert warned == {(no_body, f"paths./words/v1/files/{{path}}.{method}") for method in ("patch", "post", "put")}
