"""What discovery documents say, and that it is true: rules over single services, laws over generated ones."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import irs
import openapi_rules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paidservices import document

from mpp_authz.pricing import Offer
from mpp_operator import compiler, discovery, gateway, ir, paidservice
from mpp_operator.discovery import listed as listing_of
from mpp_operator.discovery import llms as documents_llms
from mpp_operator.discovery import openapi as documents_openapi

PATH_USD = ir.Currency("moderato", "0x20c0", "pathUSD", 6)
LISTING = ir.Listing("Language model", currencies=(PATH_USD,))


def listed(*routes: ir.Route, **fields: object) -> ir.Service:
    return irs.service(*routes, **{"listing": LISTING, **fields})


def openapi(*services: ir.Service, path: str = "/openapi.json") -> dict[str, Any]:
    return openapi_rules.hold(discovery.of_host(services)[path].text)


def llms(*services: ir.Service, path: str = "/llms.txt") -> str:
    return discovery.of_host(services)[path].text


def found(*services: ir.Service) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): operation for path, method, operation in openapi_rules.operations(openapi(*services))}


def pattern(text: str) -> ir.PathPattern:
    return paidservice.Match(path=text).pattern


# --- Which documents there are


@pytest.mark.row("D01")
def test_a_host_and_each_of_its_services_have_documents() -> None:
    one = listed(irs.priced("a", pattern("/a")))
    other = replace(one, name="other", base_path="/other")

    documents = discovery.of_host([one, other])

    assert {path: found.content_type for path, found in documents.items()} == {
        "/llm/llms.txt": "text/plain; charset=utf-8",
        "/llm/openapi.json": "application/json",
        "/llms.txt": "text/plain; charset=utf-8",
        "/openapi.json": "application/json",
        "/other/llms.txt": "text/plain; charset=utf-8",
        "/other/openapi.json": "application/json",
        "/services": "application/json",
        "/services/shop.llm": "application/json",
        "/services/shop.other": "application/json",
    }


def test_a_service_that_is_not_listed_is_nowhere() -> None:
    shown = listed(irs.priced("a", pattern("/a")))
    hidden = replace(shown, name="secret", base_path="/secret", listing=None)

    documents = discovery.of_host([shown, hidden])

    assert not [path for path, found in documents.items() if "secret" in path + found.text]


def test_a_host_whose_services_are_all_unlisted_has_no_documents() -> None:
    assert discovery.of_host([irs.service(irs.free("a", pattern("/a")))]) == {}
    assert discovery.of_host([]) == {}


def test_a_service_without_discovery_at_the_root_keeps_the_hosts_paths_to_itself() -> None:
    root = irs.service(irs.free("a", pattern("/openapi.json")), name="root", base_path="/")
    other = listed(irs.priced("a", pattern("/a")))

    assert set(discovery.of_host([root, other])) == {"/llm/llms.txt", "/llm/openapi.json"}


def test_a_service_at_the_root_has_the_hosts_own_documents() -> None:
    root = listed(irs.priced("a", pattern("/a")), base_path="/")

    assert openapi(root)["info"]["title"] == "Language model"
    assert list(openapi(root)["paths"]) == ["/a"]
    assert json.loads(discovery.of_host([root])["/services"].text)["services"][0]["openapi"] == "/openapi.json"


def test_no_document_names_a_host() -> None:
    service = listed(irs.priced("a", pattern("/a")), hosts=("secret.example.com",))

    texts = [found.text for found in discovery.of_host([service]).values()]

    assert not [text for text in texts if "secret.example.com" in text or "servers" in text]


# --- What is listed: the first match, and the longest basePath


def test_a_get_route_is_listed_once_and_its_head_is_understood() -> None:
    assert set(found(listed(irs.priced("a", pattern("/a"))))) == {("GET", "/llm/a")}


def test_a_head_route_of_its_own_is_listed() -> None:
    assert set(found(listed(irs.free("a", pattern("/a"), ("HEAD",))))) == {("HEAD", "/llm/a")}


def test_a_route_without_a_method_is_listed_by_each() -> None:
    service = listed(irs.free("a", pattern("/a"), ir.DEFAULT_METHODS))

    assert [method for method, _ in found(service)] == ["GET", "POST", "PUT", "PATCH", "DELETE"]


def test_the_root_of_a_service_is_its_base_path() -> None:
    assert set(found(listed(irs.priced("home", irs.ROOT)))) == {("GET", "/llm")}
    assert set(found(listed(irs.priced("home", irs.ROOT), base_path="/"))) == {("GET", "/")}


def test_a_last_slash_stays() -> None:
    assert set(found(listed(irs.priced("a", pattern("/a/"))))) == {("GET", "/llm/a/")}


def test_a_route_that_an_earlier_one_hides_is_not_listed() -> None:
    service = listed(irs.free("all", irs.ANYTHING), irs.priced("a", pattern("/a")))

    assert "x-payment-info" not in str(openapi(service))
    assert set(found(service)) == {("GET", "/llm/{path}")}


def test_the_rest_of_a_path_is_a_parameter_that_may_hold_slashes() -> None:
    (operation,) = openapi(listed(irs.priced("files", pattern("/files/**"))))["paths"].values()

    assert operation["parameters"][0]["description"] == "All that follows in the path; it may hold slashes"


def test_what_an_earlier_route_leaves_of_a_rest_is_listed_below_it() -> None:
    service = listed(irs.free("one", pattern("/files/{id}")), irs.priced("files", pattern("/files/**")))

    assert set(found(service)) == {("GET", "/llm/files/{segment}"), ("GET", "/llm/files/{segment}/{path}")}


def test_paths_of_one_shape_are_one_path_whatever_their_parameters_are_called() -> None:
    first = replace(irs.priced("a", pattern("/pets/{id}")), names=("id",))
    second = replace(irs.free("b", pattern("/pets/{name}"), irs.POST), names=("name",))

    (item,) = openapi(listed(first, second))["paths"].values()

    assert {"get", "post"} <= set(item)
    assert [p["name"] for p in item["parameters"]] == ["id"]


def test_a_name_that_is_there_twice_is_numbered() -> None:
    route = replace(irs.priced("a", pattern("/{id}/of/{id}")), names=("id", "id"))

    assert set(found(listed(route))) == {("GET", "/llm/{id}/of/{id2}")}


def test_what_a_longer_base_path_takes_is_not_listed_above_it() -> None:
    outer = listed(irs.free("in", pattern("/inner/x")), irs.free("out", pattern("/outer")), base_path="/a")
    inner = irs.service(irs.priced("x", pattern("/x")), name="inner", base_path="/a/inner")

    assert set(found(outer, inner)) == {("GET", "/a/outer")}


def test_a_service_of_which_nothing_is_left_is_not_listed() -> None:
    outer = listed(irs.free("in", pattern("/inner/x")), base_path="/a")
    inner = irs.service(irs.free("x", pattern("/x")), name="inner", base_path="/a/inner")

    assert discovery.of_host([outer, inner]) == {}


# --- What is said of an operation


@pytest.mark.row("D03", "D04", "D05", "D06")
def test_a_paid_operation_has_the_offers_of_its_price_in_their_order() -> None:
    dear = Offer("dear", "tempo", "mainnet", "0x20c1", "0xabc", "7")
    route = irs.priced("a", pattern("/a"), offers=(irs.PRICE.offers[0], dear))

    (operation,) = found(listed(route)).values()

    assert operation["x-payment-info"] == {
        "offers": [
            {
                "intent": "charge",
                "method": "tempo",
                "amount": "50000",
                "currency": "0x20c0",
                "description": "0.05 pathUSD on moderato",
            },
            {
                "intent": "charge",
                "method": "tempo",
                "amount": "7",
                "currency": "0x20c1",
                "description": "7 base units of 0x20c1 on mainnet",
            },
        ]
    }
    assert operation["responses"]["402"] == {"$ref": "#/components/responses/PaymentRequired"}


def test_a_free_operation_says_nothing_of_payment() -> None:
    said = ir.Operation(responses='{"200":{"description":"fine"},"402":{"description":"not ours"}}')
    route = replace(irs.free("a", pattern("/a")), operation=said)

    (operation,) = found(listed(route)).values()

    assert set(operation) == {"operationId", "responses"}
    assert "402" not in operation["responses"]


def test_an_upstreams_402_is_never_shown() -> None:
    said = ir.Operation(responses='{"402":{"description":"pay me instead"}}')

    text = str(openapi(listed(replace(irs.priced("a", pattern("/a")), operation=said))))

    assert "pay me instead" not in text


def test_a_zero_price_is_told_as_a_proof() -> None:
    free_of_charge = replace(irs.PRICE.offers[0], amount="0")

    (operation,) = found(listed(irs.priced("a", pattern("/a"), offers=(free_of_charge,)))).values()

    assert operation["x-payment-info"]["offers"][0]["amount"] == "0"
    assert "proof" in operation["x-payment-info"]["offers"][0]["description"]


def test_a_bound_body_is_told() -> None:
    route = irs.priced("a", pattern("/a"), irs.POST, digest_max_bytes=4096)

    (operation,) = found(listed(route)).values()

    assert "4096 bytes" in operation["description"]
    assert operation["responses"]["402"]


def test_a_bound_bodys_413_stands_beside_the_authors_answers() -> None:
    said = ir.Operation(responses='{"200":{"description":"fine"},"403":{"description":"my own"}}')
    route = replace(irs.priced("a", pattern("/a"), irs.POST, digest_max_bytes=1), operation=said)

    (operation,) = found(listed(route)).values()

    assert {"200", "402", "403", "413"} <= set(operation["responses"])
    assert operation["responses"]["403"] == {"description": "my own"}


@pytest.mark.row("D07")
def test_a_request_body_is_shown() -> None:
    said = ir.Operation(request_body='{"content":{"application/json":{"schema":{"type":"object"}}}}')

    (operation,) = found(listed(replace(irs.priced("a", pattern("/a"), irs.POST), operation=said))).values()

    assert operation["requestBody"] == {"content": {"application/json": {"schema": {"type": "object"}}}}


def test_no_security_scheme_is_claimed() -> None:
    assert "security" not in str(openapi(listed(irs.priced("a", pattern("/a")))))


def test_operation_ids_are_unique_in_a_document() -> None:
    said = ir.Operation(operation_id="same")
    routes = [replace(irs.free(name, pattern(f"/{name}"), ir.DEFAULT_METHODS), operation=said) for name in "abc"]
    one = listed(*routes)
    other = replace(one, name="other", base_path="/other")

    ids = [operation["operationId"] for operation in found(one, other).values()]
    alone = [operation["operationId"] for operation in found(one).values()]

    assert len(set(ids)) == len(ids) == 30
    assert len(set(alone)) == len(alone) == 15
    assert (ids[0], alone[0]) == ("shop.llm.same.get", "same.get")


def test_the_description_of_a_host_names_a_few_of_many_services() -> None:
    services = [
        listed(irs.free("a", pattern("/a")), name=f"s{n}", base_path=f"/s{n}", listing=ir.Listing(f"T{n}"))
        for n in range(7)
    ]

    assert openapi(*services)["info"]["description"] == "Priced per request: T0, T1, T2, T3, T4 and 2 more"


def test_operations_of_several_services_are_tagged_with_their_titles() -> None:
    one = listed(irs.free("a", pattern("/a")))
    own = replace(irs.free("b", pattern("/b")), operation=ir.Operation(tags=("mine",)))
    other = listed(own, name="other", base_path="/other")

    tags = {path: operation["tags"] for (_, path), operation in found(one, other).items()}

    assert tags == {"/llm/a": ["Language model"], "/other/b": ["mine"]}


@pytest.mark.row("D02", "D09", "D10")
def test_a_service_says_what_it_is_about() -> None:
    about = replace(
        LISTING,
        version="2.0",
        description="Chat",
        categories=("compute", "developer-tools"),
        docs=(("homepage", "https://llm.example.com/"),),
    )

    said = openapi(listed(irs.free("a", pattern("/a")), listing=about))

    assert said["info"] == {"title": "Language model", "version": "2.0", "description": "Chat"}
    assert said["x-service-info"] == {
        "categories": ["compute", "developer-tools"],
        "docs": {"homepage": "https://llm.example.com/"},
    }


@pytest.mark.row("D09")
def test_a_host_of_many_services_names_five_categories_at_most() -> None:
    services = [
        listed(
            irs.free("a", pattern("/a")),
            name=f"s{n}",
            base_path=f"/s{n}",
            listing=replace(LISTING, categories=(f"c{n}", "all")),
        )
        for n in range(7)
    ]

    assert openapi(*services)["x-service-info"]["categories"] == ["c0", "all", "c1", "c2", "c3"]


# --- /services and /llms.txt


def test_the_catalogue_tells_each_price_in_units_and_in_words() -> None:
    service = listed(irs.priced("a", pattern("/a")), irs.free("b", pattern("/b"), irs.POST))

    said = json.loads(discovery.of_host([service])["/services/shop.llm"].text)

    assert json.loads(discovery.of_host([service])["/services"].text) == {"services": [said]}
    assert said["routes"] == [
        {
            "method": "GET",
            "path": "/llm/a",
            "payment": {
                "offers": [
                    {
                        "intent": "charge",
                        "method": "tempo",
                        "network": "moderato",
                        "amount": "50000",
                        "currency": "0x20c0",
                        "symbol": "pathUSD",
                        "decimals": 6,
                        "description": "0.05 pathUSD on moderato",
                    }
                ]
            },
        },
        {"method": "POST", "path": "/llm/b", "payment": None},
    ]


def test_llms_txt_tells_each_price_in_words_and_units_and_how_to_pay() -> None:
    text = llms(listed(irs.priced("a", pattern("/a")), irs.free("b", pattern("/b"), irs.POST)))

    assert "- `GET /llm/a`: Price: 0.05 pathUSD on moderato (tempo charge, 50000 base units of 0x20c0)." in text
    assert "- `POST /llm/b`: Free." in text
    assert "Payment methods: tempo (charge) on moderato." in text


def test_llms_txt_of_free_services_says_nothing_of_payment() -> None:
    assert "pay" not in llms(listed(irs.free("a", pattern("/a")))).lower()


# --- Laws

NAMES = st.sampled_from(["a", "b", "c", "id"])
SEGMENTS = st.lists(st.one_of(st.none(), NAMES), max_size=3).map(tuple)
PATHS = st.builds(
    lambda segments, rest, slash: ir.PathPattern(segments, rest, not rest and slash and bool(segments)),
    SEGMENTS,
    st.booleans(),
    st.booleans(),
)
METHODS = st.sampled_from([("GET", "HEAD"), ("POST",), ("DELETE",), ("HEAD",), ir.DEFAULT_METHODS])


@st.composite
def routes(draw: st.DrawFn) -> tuple[ir.Route, ...]:
    made = []
    for index in range(draw(st.integers(1, 6))):
        amount = draw(st.none() | st.integers(0, 10**9))
        price = amount is not None and replace(
            irs.PRICE, offers=(replace(irs.PRICE.offers[0], amount=str(amount)),)
        )
        names = tuple(draw(st.lists(st.sampled_from(["", "id", "path", "x-y"]), max_size=3)))
        made.append(ir.Route(f"r{index}", draw(METHODS), draw(PATHS), price or None, names=names))
    return tuple(made)


@st.composite
def hosts(draw: st.DrawFn) -> tuple[ir.Service, ...]:
    bases = draw(st.lists(st.sampled_from(["/", "/a", "/a/b", "/x"]), min_size=1, max_size=3, unique=True))
    return tuple(
        listed(
            *draw(routes()), name=f"s{n}", base_path=base, listing=draw(st.sampled_from([LISTING, LISTING, None]))
        )
        for n, base in enumerate(bases)
    )


def winner(services: tuple[ir.Service, ...], method: str, path: str) -> ir.Route | None:
    """The route that answers: the longest basePath, and in it the first route, as the reference has it."""
    inside = [s for s in services if s.base_path == "/" or f"{path}/".startswith(f"{s.base_path}/")]
    if not inside:
        return None
    service = max(inside, key=lambda s: len(s.base_path.rstrip("/")))
    below = path.removeprefix("" if service.base_path == "/" else service.base_path)
    parts = tuple(part for part in below.split("/") if part)
    asked = ir.PathPattern(parts, trailing_slash=bool(parts) and below.endswith("/"))
    return next((r for r in service.routes if method in r.methods and r.path.covers(asked)), None)


def concrete(path: str) -> str:
    """A request for a template, with a value that no literal is."""
    return "/".join("zzz" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.row("D03", "D05", "D06")
@settings(max_examples=60, deadline=None)
@given(hosts())
def test_every_document_is_valid_and_names_the_price_of_the_route_that_answers(
    services: tuple[ir.Service, ...],
) -> None:
    documents = discovery.of_host(services)

    for path, text in documents.items():
        if path.endswith("/openapi.json"):
            for template, method, operation in openapi_rules.operations(openapi_rules.hold(text.text)):
                route = winner(services, method, concrete(template))
                assert route is not None
                offers = operation.get("x-payment-info", {"offers": []})["offers"]
                assert [offer["amount"] for offer in offers] == [
                    offer.amount for offer in (route.price.offers if route.price else ())
                ]


@settings(max_examples=150, deadline=None)
@given(hosts())
def test_every_route_is_listed_once_by_each_method_that_reaches_it(services: tuple[ir.Service, ...]) -> None:
    documents = discovery.of_host(services)
    entries = [
        (route["method"], route["path"])
        for path, text in documents.items()
        if path.startswith("/services/")
        for route in json.loads(text.text)["routes"]
    ]
    shown = [
        (service.name, route.key, method)
        for service in services
        for route in service.routes
        for method in route.methods
        if service.listing and "/services" in documents and _is_reached(services, service, route, method)
    ]

    assert len(entries) == len(set(entries)) == len(shown)


WORDS = st.text(st.sampled_from('aé"\\#<\U0001f600 '), min_size=1, max_size=9)
TITLES = st.builds(lambda words, times: (words * times)[:120], WORDS, st.sampled_from([1, 120]))
DOCS = st.sampled_from([(), (("apiReference", "https://a.example"), ("homepage", "https://h.example"))])
OPERATIONS = st.builds(
    ir.Operation,
    summary=st.none() | TITLES,
    operation_id=st.sampled_from([None, "r0", "s1.r1", "one"]),
    tags=st.sampled_from([(), ("own",)]),
)


@st.composite
def talking_hosts(draw: st.DrawFn) -> tuple[ir.Service, ...]:
    """Hosts whose services say what is long as JSON, as Markdown or in their names."""
    said = []
    all_free = draw(st.booleans())  # how to pay is said once for all: that would hide what is too little
    for service in draw(hosts()):
        listing = replace(LISTING, title=draw(TITLES), docs=draw(DOCS), description=draw(st.none() | TITLES))
        own = tuple(
            replace(route, operation=draw(OPERATIONS), price=None if all_free else route.price)
            for route in service.routes
        )
        namespace = draw(st.integers(1, 63)) * "n"
        said.append(replace(service, namespace=namespace, routes=own, listing=service.listing and listing))
    return tuple(said)


@settings(max_examples=150, deadline=None)
@given(talking_hosts())
def test_no_document_of_a_host_is_larger_than_it_is_said_to_be_at_most(services: tuple[ir.Service, ...]) -> None:
    documents = discovery.of_host(services)

    sizes = [documents[path].size for path in (discovery.OPENAPI, discovery.LLMS) if path in documents]
    assert max(sizes, default=0) <= discovery.most_bytes(services)


@settings(max_examples=150, deadline=None)
@given(talking_hosts())
def test_no_service_adds_more_to_a_shared_document_than_it_is_said_to_at_most(
    services: tuple[ir.Service, ...],
) -> None:
    found = [listing_of.listed(service, below) for service, below in listing_of.services(services)]

    for one in filter(None, found):
        alone, shared = (documents_openapi.part(one, shared=shared).paths for shared in (False, True))
        assert len(shared) <= len(alone) + documents_openapi.added_bytes(one)


@settings(max_examples=100, deadline=None)
@given(talking_hosts())
def test_llms_txt_of_a_host_is_no_larger_than_its_services_are_said_to_make_it(
    services: tuple[ir.Service, ...],
) -> None:
    found = tuple(filter(None, (listing_of.listed(*one) for one in listing_of.services(services))))
    words = tuple(map(documents_llms.part, found))
    alone = [documents_llms.render((o,), (w,), o.base_path) for o, w in zip(found, words, strict=True)]

    if len(found) > 1:
        whole = documents_llms.render(found, words, "")
        most = sum(map(documents_llms.added_bytes, found)) + sum(len(text.encode()) for text in alone)
        assert len(whole.encode()) <= most


def _is_reached(services: tuple[ir.Service, ...], service: ir.Service, route: ir.Route, method: str) -> bool:
    """Whether some request for words of our own reaches a route; asked of the reference, over many requests."""
    if method == "HEAD" and "GET" in route.methods:
        return False  # understood
    base = "" if service.base_path == "/" else service.base_path
    path = "".join(f"/{segment or 'zzz'}" for segment in route.path.segments)
    slash = "/" if route.path.trailing_slash else ""
    # A rest takes any number of segments: more than any other route names tells it from all of these.
    asked = [f"{base}{path}{'/zzz' * n}{slash}" for n in (range(1, 8) if route.path.rest else (0,))]
    return any(winner(services, method, one or "/") is route for one in asked)


# --- From PaidServices


def compiled(spec: Mapping[str, Any] | None = None, **config: Any) -> compiler.Compilation:
    return compiler.compile([paidservice.parse(document(**(spec or {})))], gateway.parse(config))


def test_a_paidservice_without_a_word_about_itself_is_listed_by_its_name() -> None:
    (service,) = compiled().gateway.services

    assert service.listing == ir.Listing(
        "llm", currencies=(ir.Currency("moderato", gateway.PATH_USD, "pathUSD", 6),)
    )


def test_discovery_that_is_off_lists_nothing() -> None:
    (service,) = compiled({"discovery": {"enabled": False}}).gateway.services

    assert service.listing is None


def test_a_currency_by_its_address_has_the_networks_symbol() -> None:
    offer = {"method": "tempo", "network": "moderato", "recipient": "0x" + "ab" * 20}
    payment = {"offers": [{**offer, "currency": gateway.PATH_USD}]}

    (service,) = compiled({"payment": payment}).gateway.services

    assert service.listing is not None
    assert [currency.symbol for currency in service.listing.currencies] == ["pathUSD"]


def test_a_currency_nobody_named_is_its_address() -> None:
    address = "0x20c0000000000000000000000000000000000099"
    offer = {"method": "tempo", "network": "moderato", "recipient": "0x" + "ab" * 20, "currency": address}

    (service,) = compiled({"payment": {"offers": [offer]}}).gateway.services

    assert service.listing is not None
    assert [currency.symbol for currency in service.listing.currencies] == [address]


@pytest.mark.row("D13")
def test_a_document_larger_than_registries_read_is_told_and_served_all_the_same() -> None:
    long = [
        {"name": f"r{n}", "match": {"path": f"/{n}"}, "free": True, "description": "long " * 100}
        for n in range(60)
    ]

    compilation = compiled({"routes": long})

    accepted, described = compilation.conditions["shop", "llm"]
    assert (accepted.status, described.status, described.reason) == (True, False, "DocumentTooLarge")
    assert "expected at most 65536 bytes in /llm/openapi.json" in described.message
    assert len(compilation.gateway.services) == 1


@pytest.mark.row("D13")
def test_a_hosts_document_larger_than_registries_read_is_told() -> None:
    long = [{"match": {"path": f"/{n}"}, "free": True, "description": "long " * 100} for n in range(10)]
    services = [paidservice.parse(document(name=f"s{n}", routes=long)) for n in range(8)]

    compilation = compiler.compile(services, gateway.parse({"hosts": ["b.example.com", "a.example.com"]}))

    assert all(len(conditions) == 1 for conditions in compilation.conditions.values())
    assert [line.partition(", which")[0] for line in compilation.warnings] == [
        "a.example.com, b.example.com: expected at most 65536 bytes in /openapi.json"
    ]


@pytest.mark.row("D13")
def test_a_hosts_document_that_is_large_only_where_services_share_it_is_told() -> None:
    short = [{"match": {"method": "GET", "path": f"/{n}"}, "free": True} for n in range(60)]
    services = [
        paidservice.parse(document(name=f"s{n}", namespace="n" * 63, title="é" * 120, routes=short))
        for n in range(3)
    ]

    compilation = compiler.compile(services, gateway.parse({"hosts": ["a.example.com"]}))

    assert all(len(conditions) == 1 for conditions in compilation.conditions.values())
    assert [line.partition(", which")[0] for line in compilation.warnings] == [
        "a.example.com: expected at most 65536 bytes in /openapi.json"
    ]


@pytest.mark.row("D13")
def test_documents_that_registries_can_read_are_not_told() -> None:
    services = [paidservice.parse(document(name=f"s{n}")) for n in range(8)]

    compilation = compiler.compile(services, gateway.parse({}))

    assert compilation.warnings == ()
    assert all(len(conditions) == 1 for conditions in compilation.conditions.values())
