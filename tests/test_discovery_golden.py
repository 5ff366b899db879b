"""The discovery documents of a folder of PaidServices, as files. `pytest --update-golden` writes them anew."""

import json
from pathlib import Path

import openapi_rules
import pytest
import yaml

from mpp_operator import compiler, discovery, gateway, paidservice

FOLDER = Path(__file__).parent / "testdata" / "discovery-documents"
DOCUMENTS = {
    "openapi.json": "/openapi.json",
    "llms.txt": "/llms.txt",
    "services.json": "/services",
    "pets.openapi.json": "/pets/openapi.json",
    "pets.llms.txt": "/pets/llms.txt",
}


def compiled() -> compiler.Compilation:
    services = [paidservice.parse(raw) for raw in yaml.safe_load_all((FOLDER / "services.yaml").read_text())]
    config = gateway.parse(yaml.safe_load((FOLDER / "gateway.yaml").read_text()))
    theirs = {("shop", "pets"): (FOLDER / "upstream.yaml").read_text()}
    return compiler.compile(services, config, documents=theirs)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_services_are_described_as_the_files_show(name: str, request: pytest.FixtureRequest) -> None:
    documents = discovery.of_host(compiled().gateway.services)

    text = documents[DOCUMENTS[name]].text
    if name.endswith(".json"):
        text = json.dumps(json.loads(text), indent=1) + "\n"
    if request.config.getoption("--update-golden"):
        (FOLDER / name).write_text(text)
    assert (FOLDER / name).read_text() == text


@pytest.mark.row("D01", "D02", "D04", "D05", "D06")
@pytest.mark.parametrize("path", ["/openapi.json", "/pets/openapi.json", "/files/openapi.json"])
def test_the_documents_keep_the_rules_of_openapi_and_of_the_draft(path: str) -> None:
    openapi_rules.hold(discovery.of_host(compiled().gateway.services)[path].text)


def test_nothing_is_wrong_with_what_they_were_made_of() -> None:
    told = {key: [c.message for c in said] for key, said in compiled().conditions.items()}

    assert told == {("shop", name): [""] for name in ("files", "hidden", "pets")}


def test_documents_are_the_same_however_services_are_ordered() -> None:
    services = compiled().gateway.services

    assert discovery.of_host(services) == discovery.of_host(services[::-1])
