"""The bootstrap is built of Envoy's own messages, where a misspelt field cannot pass; routes and clusters are held
against them. Only who renders a bootstrap loads them."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from typing import Any

import irs
import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from google.protobuf import json_format

from mpp_authz import wire
from mpp_operator import bootstrap
from mpp_operator.artifacts import clusters, routes
from mpp_operator.bootstrap import messages

EVERYTHING = bootstrap.BootstrapSettings(
    "dp",
    tls=bootstrap.Certificate("cert.pem", "key.pem"),
    terminated_by=("10.0.0.0/8", "fd00::/8"),
    authz_sockets=("one.sock", "two.sock"),
)


def test_a_misspelt_field_cannot_pass() -> None:
    with pytest.raises(ValueError, match="supress_envoy_headers"):
        router.Router(supress_envoy_headers=True)  # type: ignore[call-arg]  # the point


def test_a_value_of_another_type_cannot_pass() -> None:
    with pytest.raises(ValueError, match="suppress_envoy_headers"):
        router.Router(suppress_envoy_headers="surely")  # type: ignore[arg-type]  # the point


def strictly(text: str, message: Any) -> Any:
    """`text` as the message. An unknown field is an error, also inside an Any."""
    for name in set(re.findall(r'"@type":"type\.googleapis\.com/([a-zA-Z0-9_.]+)\.\w+"', text)):
        package = importlib.import_module(name)  # json_format knows the messages of loaded modules only
        for module in pkgutil.iter_modules(package.__path__, f"{name}."):
            if module.name.endswith("_pb2"):
                importlib.import_module(module.name)
    return json_format.Parse(text, message)


def test_the_bootstrap_has_only_fields_that_envoy_knows() -> None:
    message = strictly(bootstrap.render(EVERYTHING), bootstrap_pb2.Bootstrap())

    (listener,) = message.static_resources.listeners
    assert [chain.name for chain in listener.filter_chains] == ["terminated", "direct"]
    ranges = listener.filter_chains[0].filter_chain_match.direct_source_prefix_ranges
    assert [(each.address_prefix, each.prefix_len.value) for each in ranges] == [("10.0.0.0", 8), ("fd00::", 8)]


@pytest.mark.parametrize("name", irs.examples())
def test_routes_and_clusters_have_only_fields_that_envoy_knows(name: str) -> None:
    gateway = irs.examples()[name]

    for text in (*routes.render(gateway).values(), *clusters.render(gateway).values()):
        assert strictly(text, discovery_pb2.DiscoveryResponse()).version_info


def test_an_unknown_field_of_a_route_would_be_found() -> None:
    (text,) = routes.render(irs.examples()["priced-and-free-routes"]).values()

    with pytest.raises(json_format.ParseError, match="contxt_extensions"):
        strictly(text.replace("context_extensions", "contxt_extensions"), discovery_pb2.DiscoveryResponse())


def test_a_heading_that_comes_out_empty_is_not_said() -> None:
    mutation = messages.as_json(messages.put("x", "%REQ(y)%"))

    assert mutation == {
        "append": {"header": {"key": "x", "value": "%REQ(y)%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    }


def test_authz_and_light_commands_do_not_load_envoys_messages() -> None:
    script = "import sys; from mpp_operator import bootstrap, envoy; from mpp_authz import server; "
    script += "print([name for name in sys.modules if name.startswith('envoy_data_plane')])"

    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert found.stdout == "[]\n"


def test_both_lanes_and_all_answers_of_authz_can_be_switched_off_by_one_name() -> None:
    document = json.loads(bootstrap.render(bootstrap.BootstrapSettings("dp")))
    (manager,) = bootstrap._managers(document)

    asked = [json.dumps(f) for f in manager["http_filters"] if "ExtAuthz" in json.dumps(f)]
    assert len(asked) == 2
    assert all(json.loads(text)["name"] == wire.PRICED_FILTERS for text in asked)
    # Nothing is off by default: a route that says nothing is asked about.
    assert [f["name"] for f in manager["http_filters"] if f.get("disabled")] == []
