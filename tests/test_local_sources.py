"""What the files say together: the development chain of a sandbox, and where payments are kept."""

from pathlib import Path

import pytest

from mpp_operator import console, ir, local_secrets, sources

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


DATABASE = ir.SecretSource("ops", "db", "url")
POSTGRES = "namespace: ops\nstore: {postgres: {urlFrom: {name: db, key: url}}}\n"


def with_config(folder: Path, text: str) -> sources.Sources:
    (folder / "gateway.yaml").write_text(text)
    return sources.load([ROOT / "examples" / "demo.yaml"], folder / "gateway.yaml")


def test_a_database_s_address_is_a_secret_of_the_gateway_s_own_namespace(tmp_path: Path) -> None:
    found = with_config(tmp_path, POSTGRES)

    environ = {"DB_URL": "postgresql://me:pw@db:5432/x?a=b\n", "RECIPIENT_ADDRESS": PAYEE}
    values = sources.secrets(found, local_secrets.Folder(None, environ))

    assert DATABASE in sources.secret_sources(found)
    assert sources.ledger_address(found, values, Path("/s/ledger.db")) == "postgresql://me:pw@db:5432/x?a=b"


def test_a_database_without_an_address_is_missed_by_name(tmp_path: Path) -> None:
    with pytest.raises(console.Failure) as caught:
        sources.secrets(with_config(tmp_path, POSTGRES), local_secrets.Folder(None, {}))

    assert caught.value.code == console.WRONG_ENVIRONMENT
    assert "secret ops/db key url: expected a value in" in str(caught.value)
    assert "as DB_URL" in str(caught.value)


@pytest.mark.parametrize(
    "address", ["postgres://db", "postgresql:///x?host=/run/postgresql", "postgresql://[::1]/x"]
)
def test_addresses_of_other_tools_are_taken(tmp_path: Path, address: str) -> None:
    found = with_config(tmp_path, POSTGRES)

    assert sources.ledger_address(found, {DATABASE: address}, Path("/s/ledger.db")) == address


@pytest.mark.parametrize(
    "text",
    ["hunter2", "mysql://me:hunter2@db/x", "postgresql://", "postgresql://me:hun ter2@db/x", "postgresql:x"],
)
def test_another_address_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    found = with_config(tmp_path, POSTGRES)

    with pytest.raises(console.Failure) as caught:
        sources.ledger_address(found, {DATABASE: text}, Path("/s/ledger.db"))

    assert caught.value.code == console.WRONG_ENVIRONMENT
    assert str(caught.value).startswith(
        "secret ops/db key url: store.postgres.urlFrom: expected one line like postgresql://"
    )
    assert "hunter2" not in str(caught.value)
    assert "hun ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{}", "sqlite:/s/ledger.db"),
        ("store: {sqlite: own.db}", "sqlite:/s/own.db"),
        ("store: {sqlite: /var/own.db}", "sqlite:/var/own.db"),
    ],
)
def test_without_a_database_payments_are_in_a_file(tmp_path: Path, config: str, expected: str) -> None:
    found = with_config(tmp_path, config)

    assert sources.ledger_address(found, {}, Path("/s/ledger.db")) == expected
