"""Which spellings of a path are refused, and which are not: the regular expressions, and that Envoy takes them."""

import re
from dataclasses import replace

import irs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpp_operator import envoy, ir
from mpp_operator.artifacts import clusters, lookalikes, routes

EVERYTHING = ir.DEFAULT_METHODS
#: A segment that a server keeps whole: what RFC 3986 calls unreserved, and encoded text.
ORDINARY = st.from_regex(r"([A-Za-z0-9_~-]|%[C-D][4-9A]%[8-9A][0-9A-F]|%20[a-z]){1,12}", fullmatch=True)


def refused(
    service: ir.Service, path: str, method: str = "GET", below: tuple[lookalikes.Priced, ...] = ()
) -> bool:
    guards = [guard for found in lookalikes.guards(service, below).values() for guard in found]
    return any(method in guard.methods and re.fullmatch(guard.regex, path) for guard in guards)


def shop(*routes: ir.Route, base: str = "/b") -> ir.Service:
    return irs.service(*routes, irs.free("rest", irs.ANYTHING, EVERYTHING), base_path=base)


# --- what has two meanings on every path ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/a/..;/x",
        "/a/..;",
        "/a/..%20/x",
        "/a/%252e%252e/x",
        "/a/.%252E/x",
        "/a/..%252fx",
        "/a%252f..%252fx",
        "/a/..%255cx",
        "/a/..%25252fx",
        "/a/..%253bx/y",
        "/a/%c0%ae%c0%ae/x",
        "/a/%E0%80%AFx",
        "/a/%ef%bc%8e%ef%bc%8e/x",
        "/a/%uff0e%uff0e/x",
        "/a/..%0d",
        "/a/..;?q=1",
    ],
)
def test_a_parent_segment_in_disguise_is_ambiguous(path: str) -> None:
    assert re.fullmatch(lookalikes.AMBIGUOUS, path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a/..b/x",
        "/a/b../x",
        "/a/...",
        "/a/.;x/y",
        "/a;x=..;y/b",
        "/a/%252fb",
        "/a/100%25",
        "/a/https%253A%252F%252Fb.example%252Fc",
        "/a/%E6%97%A5",
        "/a?x=/..;/y",
        "/a?x=%252e%252e%252f&y=%c0%ae",
        "/a?/../%252e%252e/",
    ],
)
def test_what_every_server_reads_alike_is_not_ambiguous(path: str) -> None:
    assert not re.fullmatch(lookalikes.AMBIGUOUS, path)


@given(st.lists(ORDINARY, max_size=6).map("/".join), st.text(st.characters(codec="ascii"), max_size=20))
def test_no_ordinary_path_is_ambiguous_whatever_its_query(path: str, query: str) -> None:
    assert not re.fullmatch(lookalikes.AMBIGUOUS, f"/{path}")
    assert not re.fullmatch(lookalikes.AMBIGUOUS, f"/{path}?{query}".replace("\n", ""))


# --- beside a wildcard ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/b/THING",
        "/b/thing/",
        "/b/thing;x",
        "/b/thing;x/",
        "/b/thing%3Bx",
        "/b/;x/thing",
        "/b/.;x/thing",
        "/b/thing.json",
        "/b/thing.",
        "/b/thing%20",
        "/b/thing%0a",
        "/b/thing%3fx/y",
        "/b/thing%23/y",
        "/b/thing::$DATA",
        "/b/%2574hing",
        "/b/%u0074hing",
    ],
)
def test_a_free_wildcard_does_not_take_a_lookalike(path: str) -> None:
    assert refused(shop(irs.priced("thing", irs.literal("/thing"))), path)


@pytest.mark.parametrize(
    "path",
    ["/b/things", "/b/thing/x", "/b/thing-2", "/b/thing.2", "/b/athing", "/b/x/thing", "/b/thing:x", "/b/100%25"],
)
def test_a_free_wildcard_takes_what_only_begins_alike(path: str) -> None:
    assert not refused(shop(irs.priced("thing", irs.literal("/thing"))), path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (ir.PathPattern(("users", None, "report")), "/b/USERS/1/report"),
        (ir.PathPattern(("users", None, "report")), "/b/users;x/1/Report/"),
        (ir.PathPattern(("users", None)), "/b/users/1/"),
        (ir.PathPattern(("vault",), rest=True), "/b/Vault/x/y"),
        (ir.PathPattern(("vault",), rest=True), "/b/vault;x/y"),
        (ir.PathPattern(("vault",), rest=True), "/b/vault.json"),
        (ir.PathPattern(("a", "@me:run")), "/b/a/%40me%3Arun"),
        (irs.literal("/v1/tokens"), "/b/v1/to%E2%84%AAens"),  # the Kelvin sign
        (irs.literal("/v1/tokens"), "/b/v1/token%C5%BF"),  # the long s
        (irs.literal("/thing"), "/b/th%C4%B1ng"),  # the Turkish i, without its dot and with it
        (irs.literal("/thing"), "/b/TH%C4%B0NG"),
        (irs.literal("/thing/"), "/b/thing"),
        (irs.ROOT, "/b/;x"),
    ],
)
def test_every_kind_of_pattern_has_lookalikes(pattern: ir.PathPattern, path: str) -> None:
    assert refused(shop(irs.priced("p", pattern)), path)


@given(st.lists(ORDINARY, min_size=1, max_size=5))
@example(["thing"])
def test_a_priced_path_is_its_own_lookalike_in_any_case(segments: list[str]) -> None:
    literal = [re.sub("%..", "x", segment) for segment in segments]
    service = shop(irs.priced("p", irs.literal("/" + "/".join(literal))), base="/")

    assert refused(service, "/" + "/".join(literal).upper())
    assert refused(service, "/" + "/".join(literal) + "/")


def test_only_the_methods_that_cost_are_guarded() -> None:
    service = shop(irs.priced("p", irs.literal("/items"), irs.POST))

    assert refused(service, "/b/ITEMS", "POST")
    assert not refused(service, "/b/ITEMS", "GET")


def test_a_wildcard_that_costs_as_much_takes_lookalikes() -> None:
    dear = irs.priced("p", irs.literal("/thing"))
    as_much = irs.service(dear, irs.priced("rest", irs.ANYTHING), base_path="/b")
    offer = replace(irs.PRICE.offers[0], amount="1")
    cheaper = irs.service(dear, irs.priced("rest", irs.ANYTHING, offers=(offer,)), base_path="/b")

    assert not refused(as_much, "/b/THING")
    assert refused(cheaper, "/b/THING")


def test_a_wildcard_with_other_offers_takes_no_lookalikes() -> None:
    offer = replace(irs.PRICE.offers[0], name="another")
    service = irs.service(
        irs.priced("p", irs.literal("/thing")), irs.priced("rest", irs.ANYTHING, offers=(offer,)), base_path="/b"
    )

    assert refused(service, "/b/THING")


def test_what_the_author_wrote_stands() -> None:
    explicit = irs.service(
        irs.priced("p", irs.literal("/thing")),
        irs.free("slash", irs.literal("/thing/")),
        irs.free("shouted", ir.PathPattern(("THING",), rest=True)),
        base_path="/b",
    )

    assert lookalikes.guards(explicit, ()) == {}


def test_a_wildcard_elsewhere_is_left_alone() -> None:
    service = irs.service(
        irs.priced("p", irs.literal("/thing")),
        irs.free("free", ir.PathPattern(("free",), rest=True)),
        irs.free("below", ir.PathPattern(("thing", "x"), rest=True)),
        base_path="/b",
    )

    assert lookalikes.guards(service, ()) == {}


def test_each_lookalike_is_guarded_once_before_the_first_wildcard() -> None:
    service = irs.service(
        irs.priced("p", irs.literal("/thing")),
        irs.free("one", ir.PathPattern((None,)), EVERYTHING),
        irs.free("rest", irs.ANYTHING, EVERYTHING),
        base_path="/b",
    )

    assert [*lookalikes.guards(service, ())] == [1]


def test_a_priced_service_below_a_free_one_has_lookalikes_there() -> None:
    outer = shop(base="/b")
    inner = irs.service(irs.priced("all", irs.ANYTHING), name="inner", base_path="/b/inner")
    unpriced = irs.service(irs.free("all", irs.ANYTHING), name="other", base_path="/b/other")

    below = lookalikes.nested([outer, inner, unpriced])

    assert set(below) == {"/b"}
    assert refused(outer, "/b/INNER/x", below=below["/b"])
    assert refused(outer, "/b/inner;x", below=below["/b"])
    assert not refused(outer, "/b/OTHER/x", below=below["/b"])


def test_a_service_at_the_root_knows_what_costs_below_it() -> None:
    root = shop(base="/")
    inner = irs.service(irs.priced("all", irs.ANYTHING), name="inner", base_path="/x/y")

    below = lookalikes.nested([root, inner])

    assert refused(root, "/X/y/z", below=below["/"])


# --- Envoy ---------------------------------------------------------------------------------------------


@pytest.mark.data_plane
def test_envoy_takes_the_longest_patterns_and_guards_there_can_be() -> None:
    paths = [f"/{'segment-of-a-long-path/' * 20}{number:030}" for number in range(199)]
    long = ir.PathPattern((*("segment",) * 55, None))
    service = shop(
        *(irs.priced(f"r{n}", irs.literal(path)) for n, path in enumerate(paths)), irs.priced("l", long)
    )
    gateway = irs.gateway(service)

    assert envoy.validate({**routes.render(gateway), **clusters.render(gateway)}) == ()
