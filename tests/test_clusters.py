"""Rules of the clusters that the golden files do not make plain."""

import json
from typing import Any

import irs
import pytest

from mpp_operator import ir
from mpp_operator.artifacts import clusters


def only(cluster: ir.Cluster, **options: str) -> dict[str, Any]:
    (found,) = json.loads(clusters.render(irs.gateway(clusters=(cluster,)), **options)["cds.json"])["resources"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("host", "kind", "address"),
    [
        ("api.example.com", "STRICT_DNS", "api.example.com"),
        ("localhost", "STRICT_DNS", "localhost"),
        ("10.1.2.3", "STATIC", "10.1.2.3"),
        ("::1", "STATIC", "::1"),
        ("[::1]", "STATIC", "::1"),
    ],
)
def test_a_name_is_resolved_and_an_address_is_taken_as_it_is(host: str, kind: str, address: str) -> None:
    found = only(irs.cluster(host))

    (endpoint,) = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert (found["type"], endpoint["endpoint"]["address"]["socket_address"]["address"]) == (kind, address)


def test_tls_is_always_verified_against_roots_and_name() -> None:
    found = only(irs.cluster("api.example.com", 443, tls_server_name="api.example.com"))

    context = found["transport_socket"]["typed_config"]
    common = context["common_tls_context"]
    assert context["sni"] == "api.example.com"
    assert common["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}
    assert common["validation_context"] == {
        "trusted_ca": {"filename": clusters.SYSTEM_ROOTS},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "api.example.com"}}],
    }


def test_an_address_is_verified_as_an_address_and_is_no_sni() -> None:
    context = only(irs.cluster("10.0.0.1", 443, tls_server_name="10.0.0.1"))["transport_socket"]["typed_config"]

    names = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert "sni" not in context
    assert names[0]["san_type"] == "IP_ADDRESS"


def test_plain_http_has_no_transport_socket() -> None:
    assert "transport_socket" not in only(irs.cluster())


def test_paths_of_secrets_and_roots_can_be_elsewhere() -> None:
    cluster = irs.cluster(tls_server_name="a", injected=ir.Injected("x-api-key", "key"))

    text = json.dumps(only(cluster, secrets_dir="elsewhere", system_roots="roots.pem"))

    assert '"path": "elsewhere/key.json"' in text
    assert '"filename": "roots.pem"' in text


@pytest.mark.parametrize(("value", "text"), [(2, "2s"), (0.25, "0.25s"), (60.0, "60s"), (0.0001, "0s")])
def test_seconds_are_a_protobuf_duration(value: float, text: str) -> None:
    assert clusters.seconds(value) == text
