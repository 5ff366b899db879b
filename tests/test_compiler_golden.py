"""What becomes of a folder of YAML, shown as files. `pytest --update-golden` writes them anew."""

import json
from pathlib import Path

import pytest
import yaml

from mpp_operator import artifacts, compiler, gateway, paidservice

FOLDER = Path(__file__).parent / "testdata" / "compiled-services"
#: Envoy's files have goldens of their own: see test_routes_golden.
SHOWN = ("conditions.json", "pricing.json")


@pytest.mark.parametrize("name", SHOWN)
def test_a_folder_of_services_compiles_to_prices_and_conditions(name: str, request: pytest.FixtureRequest) -> None:
    services = [paidservice.parse(raw) for raw in yaml.safe_load_all((FOLDER / "services.yaml").read_text())]
    config = gateway.parse(yaml.safe_load((FOLDER / "gateway.yaml").read_text()))

    compilation = compiler.compile(services, config)

    texts = {"pricing.json": compilation.artifacts["pricing.json"], "conditions.json": _told(compilation)}
    if request.config.getoption("--update-golden"):
        (FOLDER / name).write_text(_readable(texts[name]))
    assert (FOLDER / name).read_text() == _readable(texts[name])


def _told(compilation: compiler.Compilation) -> str:
    return artifacts.canonical_json(
        {
            "/".join(key): [f"{c.type}={c.status} {c.reason} @{c.observed_generation} {c.message}" for c in told]
            for key, told in compilation.conditions.items()
        }
    )


def _readable(text: str) -> str:
    """JSON, indented."""
    document = json.loads(text)
    document.pop("revision", None)  # it follows every artifact, and is tested by itself
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
