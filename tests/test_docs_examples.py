"""Every example compiles, and the real Envoy takes it."""

from pathlib import Path

import openapi_rules
import pytest

from mpp_operator import discovery, envoy, local_secrets, sources

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SERVICES = sorted(path for path in EXAMPLES.glob("*.yaml") if not path.name.startswith("gateway"))

ENVIRON = {
    "RECIPIENT_ADDRESS": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "OPENAI_API_KEY": "k",
    "ANTHROPIC_API_KEY": "k",
    "MAPS_API_KEY": "k",
    "WORDS_PASSWORD": "k",
}


def test_there_are_examples() -> None:
    assert {path.name for path in SERVICES} >= {
        "anthropic.yaml",
        "demo.yaml",
        "openai.yaml",
        "own-api.yaml",
        "several-services.yaml",
    }


@pytest.mark.data_plane
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_an_example_is_accepted_by_the_compiler_and_by_envoy(path: Path) -> None:
    config = EXAMPLES / "gateway.yaml" if path.stem in ("several-services", "openai") else None
    found = sources.load([path], config)

    values = sources.secrets(found, local_secrets.Folder(None, ENVIRON))
    compiled = sources.build(found, values)

    assert compiled.compilation.gateway.services
    assert envoy.validate(compiled.compilation.artifacts) == ()


def test_a_gateway_on_postgres_needs_its_address_and_says_where_to_put_it() -> None:
    config = EXAMPLES / "gateway-postgres.yaml"

    needed = sources.secret_sources(sources.load([EXAMPLES / "demo.yaml"], config))

    assert {local_secrets.variable(source) for source in needed} == {"RECIPIENT_ADDRESS", "LEDGER_URL"}
    assert "LEDGER_URL" in config.read_text()


def test_examples_need_no_secret_but_those_they_name() -> None:
    needed = {
        local_secrets.variable(source)
        for path in SERVICES
        for source in sources.secret_sources(sources.load([path], EXAMPLES / "gateway.yaml"))
    }

    assert needed == set(ENVIRON)
    for path in SERVICES:
        text = path.read_text()
        for source in sources.secret_sources(sources.load([path], None)):
            preset = "preset" in text and source.name in ("openai", "anthropic")
            assert preset or local_secrets.variable(source) in text, (
                f"{path.name} does not say where {source} is put"
            )


def test_an_example_with_a_description_of_its_upstream_tells_agents_what_operations_take_and_give() -> None:
    found = sources.load([EXAMPLES / "own-api.yaml"], None)
    compiled = sources.build(found, sources.secrets(found, local_secrets.Folder(None, ENVIRON)))

    text = discovery.of_host(compiled.compilation.gateway.services)["/openapi.json"].text

    summaries = [operation["summary"] for _, _, operation in openapi_rules.operations(openapi_rules.hold(text))]
    assert summaries == [
        "The price of a share",
        "The first words of a text, and how many there are",
        "All symbols",
    ]
    assert compiled.warnings == ()
