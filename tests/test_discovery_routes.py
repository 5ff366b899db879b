"""The discovery documents in the artifact set: which files there are, and what Envoy says of their routes."""

import hashlib
from dataclasses import replace

import irs

from mpp_operator import envoy, ir
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
