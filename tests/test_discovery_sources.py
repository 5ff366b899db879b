"""Where an upstream's own description comes from: a ConfigMap, or a file beside the PaidService."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from paidservices import document

from mpp_operator import cli, compiler, console, discovery, gateway, paidservice, sources

THEIRS = {"openapi": "3.0.3", "paths": {"/chat": {"post": {"summary": "Say something"}}}}
ROUTES = [{"match": {"method": "POST", "path": "/chat"}, "price": {"amount": "0.05"}}]


def service(source: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    upstream = {"url": "https://api.example.com"}
    return document(routes=ROUTES, upstream=upstream, discovery={"openapiFrom": source}, **spec)


def config_map(data: Any, **metadata: Any) -> dict[str, Any]:
    named = {"name": "docs", "namespace": "shop", **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": data}


FROM_FILE = {"file": "theirs/openapi.json"}
FROM_CONFIG_MAP = {"configMap": {"name": "docs", "key": "openapi.json"}}


def built(folder: Path, *documents: Any) -> sources.Compiled:
    (folder / "psvc.yaml").write_text(yaml.safe_dump_all(documents))
    return sources.build(sources.load([folder / "psvc.yaml"], None), {})


def summary(compiled: sources.Compiled) -> str | None:
    (found,) = compiled.compilation.gateway.services
    text = discovery.of_host([found])["/llm/openapi.json"].text
    said: str | None = json.loads(text)["paths"]["/llm/chat"]["post"].get("summary")
    return said


def test_a_file_is_found_from_the_paidservices_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "openapi.json").write_text(json.dumps(THEIRS))
    monkeypatch.chdir("/")

    compiled = built(tmp_path, service(FROM_FILE))

    assert (summary(compiled), compiled.warnings) == ("Say something", ())


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_config_map_is_a_document_beside_the_paidservice(tmp_path: Path, first: bool) -> None:
    documents = [config_map({"openapi.json": json.dumps(THEIRS)}), service(FROM_CONFIG_MAP)]

    compiled = built(tmp_path, *(documents if first else documents[::-1]))

    assert (summary(compiled), compiled.warnings) == ("Say something", ())


def test_a_config_map_of_another_namespace_is_not_taken(tmp_path: Path) -> None:
    other = config_map({"openapi.json": json.dumps(THEIRS)}, namespace="other")

    compiled = built(tmp_path, other, service(FROM_CONFIG_MAP))

    assert summary(compiled) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "expected file 'theirs/openapi.json' to be readable, got nothing"),
        (b"\xff\xfe", "expected file 'theirs/openapi.json' to be readable, got something else than UTF-8 text"),
        (b"{", "file 'theirs/openapi.json': expected JSON or YAML, got"),
        (b"swagger: '2.0'", 'file \'theirs/openapi.json\': expected openapi: "3.0.…" or "3.1.…", got swagger 2.0'),
        (b"x" * 4_200_000, "expected at most 4194304 characters, got 4194305"),
    ],
    ids=["absent", "no UTF-8", "broken", "another version", "4 MB"],
)
def test_a_broken_description_is_told_and_the_service_is_served(
    tmp_path: Path, text: bytes | None, told: str
) -> None:
    (tmp_path / "theirs").mkdir()
    if text is not None:
        (tmp_path / "theirs" / "openapi.json").write_bytes(text)

    compiled = built(tmp_path, service(FROM_FILE))

    (line,) = compiled.warnings
    assert line.startswith(f"{tmp_path / 'psvc.yaml'}: shop/llm: spec.discovery.openapiFrom.file: ")
    assert told in line
    assert summary(compiled) is None
    assert [route.price is not None for s in compiled.compilation.gateway.services for route in s.routes] == [True]


def test_a_folder_where_a_file_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "openapi.json").mkdir(parents=True)

    (line,) = built(tmp_path, service(FROM_FILE)).warnings

    assert "got Is a directory" in line


def test_a_pipe_where_a_file_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.mkfifo(tmp_path / "theirs" / "openapi.json")

    (line,) = built(tmp_path, service(FROM_FILE)).warnings

    assert "got something that is no file" in line


def test_a_key_that_a_config_map_does_not_have_is_told(tmp_path: Path) -> None:
    (line,) = built(tmp_path, config_map({"other": ""}), service(FROM_CONFIG_MAP)).warnings

    assert line.endswith(
        "spec.discovery.openapiFrom.configMap: expected key 'openapi.json' in ConfigMap shop/docs to be readable, "
        "got nothing"
    )


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (config_map({"a": 1}), "ConfigMap shop/docs: data: expected texts by key"),
        (config_map([]), "ConfigMap shop/docs: data: expected texts by key"),
        ({"kind": "ConfigMap"}, "ConfigMap: metadata.name: expected a name, got nothing"),
    ],
)
def test_a_broken_config_map_is_refused(tmp_path: Path, broken: Any, told: str) -> None:
    with pytest.raises(console.Failure) as failure:
        built(tmp_path, broken, service(FROM_CONFIG_MAP))

    assert told in failure.value.problems[0]


def test_a_config_map_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(console.Failure) as failure:
        built(tmp_path, config_map({}), config_map({}), service(FROM_CONFIG_MAP))

    assert "expected each ConfigMap once" in failure.value.problems[0]


def test_a_description_in_a_folder_of_paidservices_is_no_paidservice(tmp_path: Path) -> None:
    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(THEIRS))
    (tmp_path / "psvc.yaml").write_text(yaml.safe_dump(service({"file": "openapi.yaml"})))

    found = sources.load(sources.expand([tmp_path]), None)

    assert summary(sources.build(found, {})) == "Say something"


def test_a_description_alone_is_no_paidservice(tmp_path: Path) -> None:
    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(THEIRS))

    with pytest.raises(console.Failure, match="expected at least one PaidService"):
        sources.load([tmp_path / "openapi.yaml"], None)


def test_a_service_that_is_not_listed_reads_no_description(tmp_path: Path) -> None:
    hidden = service(FROM_FILE)
    hidden["spec"]["discovery"]["enabled"] = False

    assert built(tmp_path, hidden).warnings == ()


def test_in_a_cluster_a_file_is_refused() -> None:
    parsed = paidservice.parse(service(FROM_FILE))

    (conditions,) = compiler.lower([parsed], gateway.parse({"cluster": {}})).conditions.values()

    assert (conditions[0].status, conditions[0].reason) == (False, "InvalidSpec")
    assert conditions[0].message.startswith("spec.discovery.openapiFrom.file: expected configMap")


def test_what_is_wrong_with_a_part_names_its_field(tmp_path: Path) -> None:
    theirs = {"openapi": "3.1.0", "paths": {"/chat": {"post": {"responses": {"700": {}}}}}}
    own = service(FROM_CONFIG_MAP)
    own["spec"]["routes"] = [{**ROUTES[0], "openapi": {"requestBody": {"content": "text"}}}]

    compiled = built(tmp_path, config_map({"openapi.json": json.dumps(theirs)}), own)

    told = [line.partition("shop/llm: ")[2] for line in compiled.warnings]
    assert told == [
        "spec.routes[0].openapi.requestBody.content: expected an object, got 'text': left out",
        "spec.discovery.openapiFrom: paths./chat.post.responses.700: "
        "expected a status such as 200, 4XX or default, got '700': left out",
    ]


def test_compile_tells_warnings_and_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "psvc.yaml").write_text(yaml.safe_dump(service(FROM_FILE)))

    code = cli.main(["compile", "-f", str(tmp_path / "psvc.yaml"), "-o", str(tmp_path / "out")])

    said = capsys.readouterr()
    assert code == 0
    assert f"warning: {tmp_path / 'psvc.yaml'}: shop/llm: spec.discovery" in said.out + said.err
