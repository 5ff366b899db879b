"""The discovery documents in the artifact set: which files there are, and what Envoy says of their routes."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import irs

from mpp_operator import discovery, envoy, ir
from mpp_operator.artifacts import clusters, routes

LISTING = ir.Listing(title="Words", description="Sells words.", categories=("ai",))


def shop(**fields: object) -> ir.Service:
    """A listed service."""
    return irs.service(irs.priced("all", irs.ANYTHING), **{"listing": LISTING, **fields})


def artifacts(*services: ir.Service) -> dict[str, str]:
    gateway = irs.gateway(*services)
    return {**routes.render(gateway), **clusters.render(gateway)}


def test_the_real_envoy_accepts_documents_of_any_length() -> None:
    assert (
        envoy.validate(
            artifacts(
                shop(listing=replace(LISTING, description="words " * 500_000)), shop(name="root", base_path="/")
            )
        )
        == ()
    )


def test_validation_says_that_a_document_is_missing() -> None:
    files = {name: text for name, text in artifacts(shop()).items() if "/" not in name}

    complaints = envoy.validate(files)

    assert len(complaints) == 1
    assert "does not exist" in complaints[0]


def test_hosts_that_share_a_service_share_its_files() -> None:
    one, other = shop(hosts=("a.example", "b.example")), shop(hosts=("c.example",))

    assert set(artifacts(one)) == set(artifacts(one, other))


def test_a_document_is_named_by_its_text_and_a_host_by_neither() -> None:
    for name, text in artifacts(shop(), shop(name="root", base_path="/")).items():
        if "/" in name:
            assert name.partition("/")[2].partition(".")[0] == hashlib.sha256(text.encode()).hexdigest()[:16]
            assert "127.0.0.1" not in text


def documents(node: object) -> list[dict[str, Any]]:
    """Every route of a document, anywhere in a configuration."""
    if isinstance(node, dict):
        own = [node] if "filename" in node.get("direct_response", {}).get("body", {}) else []
        return own + [route for value in node.values() for route in documents(value)]
    if isinstance(node, list):
        return [route for value in node for route in documents(value)]
    return []


def test_a_document_is_one_route_that_asks_nobody_and_its_file_is_there() -> None:
    files = artifacts(shop())

    found = documents(json.loads(files["rds.json"]))

    text = discovery.of_host((shop(),))["/llms.txt"].text
    tag = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert next(route for route in found if route["name"] == "-/llms.txt") == {
        "name": "-/llms.txt",
        "match": {"prefix": ""},
        "direct_response": {"status": 200, "body": {"filename": f"config/discovery/{tag}.txt"}},
        "metadata": {
            "filter_metadata": {
                "mpp.document": {"etag": f'"{tag}"', "type": "text/plain; charset=utf-8", "https_only": True}
            }
        },
        "typed_per_filter_config": {
            "mpp.priced": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "disabled": True,
            }
        },
    }
    for route in found:
        assert route["typed_per_filter_config"]["mpp.priced"]["disabled"] is True
        assert route["direct_response"]["body"]["filename"].removeprefix("config/") in files


def test_without_a_listing_there_is_no_document_and_no_path_of_ours() -> None:
    files = artifacts(shop(listing=None))

    assert set(files) == {"rds.json", "cds.json"}
    assert "/openapi.json" not in files["rds.json"]
    assert "/discover" not in files["rds.json"]


def test_the_longest_body_that_envoy_takes_is_the_longest_document() -> None:
    long = artifacts(shop(listing=replace(LISTING, description="words " * 500_000)))
    longest = max(len(text) for name, text in long.items() if "/" in name)

    limits = [
        json.loads(files["rds.json"])["resources"][0]["max_direct_response_body_size_bytes"]
        for files in (artifacts(shop()), long)
    ]

    assert limits == [1024 * 1024, longest]


def test_a_changed_document_is_another_version_of_the_routes() -> None:
    before = artifacts(shop())
    after = artifacts(shop(listing=replace(LISTING, title="Other words")))

    assert json.loads(before["rds.json"])["version_info"] != json.loads(after["rds.json"])["version_info"]
