"""pricing.json is authz's own contract, filled in."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import pricing as contract
from mpp_operator import artifacts, ir
from mpp_operator.artifacts import pricing

NETWORKS = st.builds(
    contract.Network,
    st.text(min_size=1, max_size=8),
    st.just("tempo"),
    st.integers(1, 2**53),
    st.lists(st.text(max_size=8), max_size=2).map(tuple),
)
AMOUNTS = st.integers(0, 10**38 - 1).map(str)
OFFERS = st.builds(
    contract.Offer,
    name=st.text(min_size=1, max_size=8),
    method=st.just("tempo"),
    network=st.text(min_size=1, max_size=8),
    currency=st.text(max_size=8),
    recipient=st.text(max_size=8),
    amount=AMOUNTS,
    modes=st.sampled_from([("pull",), ("push",), ("pull", "push")]),
    fee_payer=st.none()
    | st.builds(contract.FeePayer, st.text(max_size=8), st.integers(1), st.integers(1), AMOUNTS),
)
PRICES = st.builds(
    contract.RoutePrice,
    offers=st.lists(OFFERS, min_size=1, max_size=3).map(tuple),
    expires_in=st.integers(15, 3600),
    lease=st.integers(1, 10_000),
    realm=st.none() | st.text(max_size=8),
    credential_header=st.sampled_from(["Authorization", "Payment-Authorization"]),
    not_before=st.none() | st.integers(0, 2**40),
    bind_query=st.booleans(),
    digest_max_bytes=st.none() | st.integers(1, 2**20),
    streaming=st.booleans(),
    idempotent=st.booleans(),
    credit_attempts=st.integers(1, 10),
    credit_life=st.integers(60, 10**6),
    description=st.none() | st.text(max_size=8),
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), PRICES, max_size=4),
    st.lists(NETWORKS, max_size=3, unique_by=lambda n: n.name),
    st.booleans(),
)
def test_what_is_written_is_what_is_read(
    prices: dict[str, contract.RoutePrice], networks: list[contract.Network], insecure: bool
) -> None:
    written = contract.Pricing(
        contract.VERSION, "r", prices, {n.name: n for n in networks}, contract.Transport(insecure, ("10.0.0.0/8",))
    )

    assert contract.load(contract.dump(written)) == written


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.none() | PRICES, max_size=4))
def test_the_file_holds_the_priced_routes_of_the_gateway(routes: dict[str, contract.RoutePrice | None]) -> None:
    gateway = ir.Gateway((_service(routes),), (), (), contract.Transport())

    found = contract.load(pricing.render(gateway, "revision")[contract.FILE_NAME])

    assert found.routes == {key: price for key, price in routes.items() if price}
    assert found.revision == "revision"


def test_a_gateway_without_services_has_a_valid_file() -> None:
    found = contract.load(pricing.render(ir.Gateway((), (), (), contract.Transport()))["pricing.json"])

    assert (found.routes, found.networks) == ({}, {})


def test_canonical_json_is_the_same_for_equal_values() -> None:
    text = artifacts.canonical_json({"b": [1, True, None], "a": "\u00e9"})

    assert text == '{"a":"\\u00e9","b":[1,true,null]}\n'
    assert json.loads(text) == {"b": [1, True, None], "a": "\u00e9"}


def _service(routes: dict[str, contract.RoutePrice | None]) -> ir.Service:
    return ir.Service(
        namespace="shop",
        name="llm",
        hosts=("localhost",),
        base_path="/llm",
        cluster="c",
        upstream_host="api.example.com",
        upstream_path="",
        headers_set=(),
        headers_remove=(),
        timeouts=ir.Timeouts(1, 1, 1, 1),
        retries=ir.Retries(0, (), None),
        cors_origins=("*",),
        routes=tuple(ir.Route(key, ("GET",), ir.PathPattern(()), price) for key, price in routes.items()),
    )
