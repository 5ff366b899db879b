"""Rules of the route configuration that no single golden file shows."""

import json
import random
import time
from dataclasses import replace
from typing import Any

import irs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import wire
from mpp_operator import ir
from mpp_operator.artifacts import routes


def rendered(gateway: ir.Gateway) -> list[dict[str, Any]]:
    hosts: list[dict[str, Any]] = json.loads(routes.render(gateway)["rds.json"])["resources"][0]["virtual_hosts"]
    return hosts


def every_route(node: object) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        own = [node] if "match" in node and ("route" in node or "direct_response" in node) else []
        return own + [route for value in node.values() for route in every_route(value)]
    if isinstance(node, list):
        return [route for value in node for route in every_route(value)]
    return []


def served(gateway: ir.Gateway) -> dict[str, Any]:
    """The first route that is forwarded under its own key."""
    return next(route for route in every_route(rendered(gateway)) if "-/" not in route["name"])


def many(count: int, per_service: int = 10) -> ir.Gateway:
    services = tuple(
        irs.service(
            *(
                irs.priced(f"r{index}", irs.literal(f"/v1/r{index}"), irs.POST, description=f"{number}")
                for index in range(per_service)
            ),
            name=f"s{number}",
            base_path=f"/s{number}",
        )
        for number in range(count)
    )
    return irs.gateway(*services)


def test_every_route_says_what_both_lanes_do() -> None:
    for name, gateway in irs.examples().items():
        for route in every_route(rendered(gateway)):
            assert wire.PRICED_FILTERS in route["typed_per_filter_config"], name


def test_only_a_priced_route_has_a_check_and_its_context_is_its_key() -> None:
    gateway = irs.examples()["priced-and-free-routes"]

    found = {
        route["name"]: route["typed_per_filter_config"][wire.PRICED_FILTERS].get("check_settings")
        for route in every_route(rendered(gateway))
    }

    assert {name: check for name, check in found.items() if check} == {
        "shop/llm/complete": {
            "context_extensions": {"route": "shop/llm/complete"},
            "disable_request_body_buffering": True,
        }
    }


def test_every_list_ends_with_an_answer_of_our_own() -> None:
    for gateway in irs.examples().values():
        for host in rendered(gateway):
            assert_ends(host)


def assert_ends(node: object) -> None:
    if isinstance(node, dict):
        if isinstance(listed := node.get("routes"), list):
            assert listed[-1]["match"] == {"prefix": ""}
            assert listed[-1]["direct_response"]["status"] in (400, 404)
        for value in node.values():
            assert_ends(value)
    if isinstance(node, list):
        for value in node:
            assert_ends(value)


def test_a_paid_stream_ends_before_its_lease() -> None:
    route = irs.priced("r", irs.ANYTHING, lease=110)

    found = served(irs.gateway(irs.service(route)))

    assert found["route"]["max_stream_duration"] == {"max_stream_duration": "105s"}


def test_a_free_stream_is_bounded_by_request_and_upload() -> None:
    found = served(irs.gateway(irs.service(irs.free("r", irs.ANYTHING))))

    assert found["route"]["max_stream_duration"] == {"max_stream_duration": "90s"}


def test_a_streaming_route_has_an_idle_timeout_only() -> None:
    route = irs.priced("r", irs.ANYTHING, streaming=True)

    retries = replace(irs.RETRIES, attempts=1)

    found = served(irs.gateway(irs.service(route, retries=retries)))

    assert (found["route"]["timeout"], found["route"]["idle_timeout"]) == ("0s", "300s")
    assert "max_stream_duration" not in found["route"]
    assert "per_try_timeout" not in found["route"]["retry_policy"]


def test_the_usual_retries_are_said_once_by_the_virtual_host() -> None:
    usual = replace(irs.RETRIES, per_try=None)

    gateway = irs.gateway(irs.service(irs.free("r", irs.ANYTHING), retries=usual))

    assert "retry_policy" not in served(gateway)["route"]
    assert rendered(gateway)[0]["retry_policy"]["num_retries"] == 2


def test_a_service_without_retries_hides_the_virtual_hosts() -> None:
    found = served(irs.gateway(irs.service(irs.free("r", irs.ANYTHING), retries=irs.NO_RETRIES)))

    assert found["route"]["retry_policy"] == {}


def test_two_services_at_one_base_path_of_a_host_are_refused() -> None:
    one = irs.service(irs.free("r", irs.ANYTHING), name="one")
    two = irs.service(irs.free("r", irs.ANYTHING), name="two")

    with pytest.raises(ValueError, match=r"shop/two: host 127\.0\.0\.1: expected one service at /llm"):
        routes.render(irs.gateway(one, two))


@pytest.mark.parametrize("base", ["/", "/llm"])
def test_a_base_path_given_twice_is_refused_whatever_it_answers(base: str) -> None:
    one = irs.service(irs.free("r", irs.literal("/x")), name="one", base_path=base)
    two = irs.service(irs.free("r", irs.literal("/y")), name="two", base_path=base)

    with pytest.raises(ValueError, match="got two"):
        routes.render(irs.gateway(one, two))


def test_hosts_with_the_same_services_share_a_virtual_host() -> None:
    hosts = rendered(irs.gateway(irs.service(irs.free("r", irs.ANYTHING), hosts=("b.example", "a.example"))))

    assert [host["domains"] for host in hosts] == [["a.example", "b.example"], ["*"]]


def test_a_literal_path_that_a_pattern_covers_allows_both_methods() -> None:
    paths = (
        irs.free("one", irs.literal("/a/b"), irs.POST),
        irs.free("two", ir.PathPattern(("a", None)), ("GET",)),
        irs.free("rest", ir.PathPattern(("a",), rest=True), ("DELETE",)),
    )

    guards = [route for route in every_route(rendered(irs.gateway(irs.service(*paths)))) if is_405(route)]

    allowed = [
        (next(iter(guard["match"].values())), guard["response_headers_to_add"][1]["header"]["value"])
        for guard in guards
        if guard["name"].startswith("shop/")
    ]
    assert allowed == [
        ("/llm/a/b", "GET, POST, DELETE"),
        ({"regex": "/llm/a/[^/]+"}, "GET, DELETE"),
        ("/llm/a", "DELETE"),
    ]


def test_paths_with_equal_methods_share_one_guard() -> None:
    guards = [
        route for route in every_route(rendered(many(1))) if is_405(route) and route["name"].startswith("shop/")
    ]

    assert len(guards) == 1


def is_405(route: dict[str, Any]) -> bool:
    return bool(route.get("direct_response", {}).get("status") == 405)


@given(st.randoms(use_true_random=False))
def test_the_order_of_services_changes_nothing_within_a_host(shuffler: random.Random) -> None:
    services = list(irs.examples()["nested-base-paths-and-root"].services)
    expected = rendered(irs.gateway(*services))

    shuffler.shuffle(services)

    assert rendered(irs.gateway(*services)) == expected


def test_the_version_is_the_contents() -> None:
    gateway = irs.examples()["priced-and-free-routes"]
    changed = irs.gateway(replace(gateway.services[0], upstream_host="other.example.com"))

    versions = [json.loads(routes.render(g)["rds.json"])["version_info"] for g in (gateway, gateway, changed)]

    assert versions[0] == versions[1] != versions[2]


def test_one_changed_service_among_two_thousand_is_rendered_in_a_second() -> None:
    gateway = many(2_000)
    routes.render(gateway)
    services = list(gateway.services)
    services[1_000] = replace(services[1_000], upstream_host="other.example.com")

    start = time.process_time()
    text = routes.render(irs.gateway(*services))["rds.json"]
    taken = time.process_time() - start

    assert "other.example.com" in text
    assert taken < 1.0


def test_a_streaming_route_that_binds_bodies_takes_no_upgrade() -> None:
    bound = irs.priced("r", irs.ANYTHING, streaming=True, digest_max_bytes=1024)
    plain = irs.priced("r", irs.ANYTHING, streaming=True)

    assert "upgrade_configs" not in str(routes.render(irs.gateway(irs.service(bound))))
    assert "upgrade_configs" in str(routes.render(irs.gateway(irs.service(plain))))
