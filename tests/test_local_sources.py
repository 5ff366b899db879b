"""Moving every offer to a development chain."""

from pathlib import Path

import pytest

from mpp_operator import sources

ROOT = Path(__file__).resolve().parent.parent
PAYEE = "0x" + "31" * 20


@pytest.mark.parametrize("name", ["openai", "several-services", "own-api"])
def test_on_a_sandbox_every_offer_is_on_its_chain_and_nobody_sponsors(name: str) -> None:
    found = sources.load(
        [ROOT / "examples" / f"{name}.yaml"],
        ROOT / "examples" / "gateway.yaml",
        {"networks": {"localnet": {"method": "tempo", "chainId": 31337, "rpcUrl": "http://127.0.0.1:9"}}},
    )

    moved = sources.on_network(found, "localnet", ("pathUSD", "AlphaUSD"), PAYEE)
    compiled = sources.build(moved, {})

    offers = [
        offer
        for service in compiled.compilation.gateway.services
        for route in service.routes
        if route.price is not None
        for offer in route.price.offers
    ]
    assert offers
    assert {(offer.network, offer.recipient.lower(), offer.fee_payer) for offer in offers} == {
        ("localnet", PAYEE, None)
    }


def test_without_any_offer_a_sandbox_makes_one(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "demo.yaml").read_text()
    bare = text[: text.index("  payment:\n")] + text[text.index("  routes:\n") :]
    (tmp_path / "bare.yaml").write_text(bare)
    networks = {"localnet": {"method": "tempo", "chainId": 31337, "rpcUrl": "http://127.0.0.1:9"}}

    moved = sources.on_network(
        sources.load([tmp_path / "bare.yaml"], None, {"networks": networks}), "localnet", ("pathUSD",), PAYEE
    )

    (price, *_) = [r.price for r in sources.build(moved, {}).compilation.gateway.services[0].routes if r.price]
    assert [(offer.network, offer.recipient.lower()) for offer in price.offers] == [("localnet", PAYEE)]
