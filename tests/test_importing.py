"""From somebody's OpenAPI description to a PaidService: what is served, in which order, and what is said of the
rest. The expected files are in tests/testdata/imported; `pytest --update-golden` writes them anew."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mpp_operator import compiler, discovery, gateway, importing, ir, local_secrets, paidservice, sources
from mpp_operator.importing import Terms, text
from mpp_operator.paidservice import routes as paid_routes

FOLDER = Path(__file__).parent / "testdata" / "imported"
RECIPIENT = "0x7070707070707070707070707070707070707070"
TERMS = Terms(price="0.05", recipient=RECIPIENT, upstream="https://api.example.com")
CASES = {
    "petstore/openapi.yaml": Terms(price="0.05", free=("GET /store/inventory", "/pet/findByStatus")),
    "corners/openapi.json": Terms(
        price="1.5", currency="OUSD", network="mainnet", recipient=RECIPIENT, upstream="https://corners.example.com/v1/",
        name="corners", namespace="tests", hosts=("a.example.com", "b.example.com"), free=("/{id}",),
    ),
}  # fmt: skip


def description(paths: Mapping[str, Any], **more: Any) -> str:
    return json.dumps({"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": paths, **more})


def operation(**more: Any) -> dict[str, Any]:
    return {"responses": {"200": {"description": "ok"}}, **more}


def imported(paths: Mapping[str, Any], terms: Terms = TERMS, **more: Any) -> importing.Imported:
    return importing.service(description(paths, **more), terms, "openapi.yaml")


def routes(found: importing.Imported) -> list[tuple[str, str]]:
    return [(route["match"]["method"], route["match"]["path"]) for route in found.document["spec"]["routes"]]


def refused(paths: Mapping[str, Any], terms: Terms = TERMS, **more: Any) -> tuple[str, ...]:
    with pytest.raises(importing.ImportingError) as error:
        imported(paths, terms, **more)
    return error.value.problems


# --- whole descriptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_description_becomes_the_file_that_is_expected(case: str, request: pytest.FixtureRequest) -> None:
    path = FOLDER / case

    found = importing.service(path.read_text(), CASES[case], path.name)

    written = text.render(found, path.name)
    expected = path.with_name("service.yaml")
    if request.config.getoption("--update-golden"):
        expected.write_text(written)
    assert expected.read_text() == written


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_compiles_and_serves_what_it_says(case: str) -> None:
    file = (FOLDER / case).with_name("service.yaml")

    read = sources.load([file], None)
    values = sources.recipients_only(read, local_secrets.Folder(None, {"RECIPIENT_ADDRESS": RECIPIENT}))
    (served,) = sources.build(read, values).compilation.gateway.services

    written = yaml.safe_load(file.read_text())["spec"]["routes"]
    assert [(set(route.methods) - {"HEAD"}, route.price is None) for route in served.routes] == [
        ({route["match"]["method"]}, "free" in route) for route in written
    ]


def test_descriptions_that_refer_to_their_own_parts_are_named_and_others_are_written_down() -> None:
    schema = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S"}}}, "description": ""}
    refers = {"/a": {"get": {"responses": {"200": schema}}}}

    file = imported(refers, components={"schemas": {"S": {"type": "string"}}})
    inline = imported({"/a": {"get": operation(summary="A")}})

    assert file.document["spec"]["discovery"] == {"openapiFrom": {"file": "openapi.yaml"}}
    assert "openapi" not in file.document["spec"]["routes"][0]
    assert "discovery" not in inline.document["spec"]
    assert inline.document["spec"]["routes"][0]["openapi"]["summary"] == "A"


def test_a_long_description_is_named_and_not_written_down() -> None:
    long = {f"/p{n}": {"get": operation(summary="S", parameters=[
        {"name": "q", "in": "query", "description": "d" * 500, "schema": {"type": "string"}}
    ])} for n in range(40)}  # fmt: skip

    found = imported(long)

    assert found.document["spec"]["discovery"] == {"openapiFrom": {"file": "openapi.yaml"}}


# --- what is served --------------------------------------------------------------------------------------


def test_words_come_before_the_templates_that_would_take_them() -> None:
    paths = ["/{a}/{b}", "/x/{b}", "/{a}/y", "/x/y", "/x", "/{a}", "/x/"]

    found = imported({path: {"get": operation()} for path in paths})

    served = [path for _, path in routes(found)]
    assert sorted(served) == sorted(paths)
    for narrow, wide in [("/x/y", "/x/{b}"), ("/x/y", "/{a}/y"), ("/x/{b}", "/{a}/{b}"), ("/x", "/{a}")]:
        assert served.index(narrow) < served.index(wide)


@settings(deadline=None, max_examples=50)
@given(st.permutations(["/{a}/{b}/c", "/x/{b}/c", "/{a}/y/c", "/x/y/c", "/{a}/{b}/{c}", "/x/{b}/{c}", "/x/y/{c}"]))
def test_in_any_order_of_the_description_no_route_hides_a_narrower_one(paths: list[str]) -> None:
    served = [
        paid_routes.path_pattern(path) for _, path in routes(imported({p: {"get": operation()} for p in paths}))
    ]

    for at, pattern in enumerate(served):
        assert not any(earlier.covers(pattern) for earlier in served[:at])


def test_head_goes_with_get_and_stands_alone_where_there_is_no_get() -> None:
    found = imported({"/a": {"get": operation(), "head": operation()}, "/b": {"head": operation()}})

    assert routes(found) == [("GET", "/a"), ("HEAD", "/b")]
    assert any("GET's route answers HEAD" in note for note in found.notes)


def test_options_and_trace_are_left_out_with_one_note_each() -> None:
    found = imported({f"/{n}": {"get": operation(), "options": operation(), "trace": operation()} for n in "abc"})

    assert len(routes(found)) == 3
    assert [note for note in found.notes if "options" in note] == [
        "paths./a.options and 2 more: left out: the gateway answers preflights itself, and nothing else"
    ]
    assert len(found.notes) == 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("no-slash", "a path that begins with /"),
        ("/a//b", "no empty segment"),
        ("/a/./b", "no '.' or '..' segment"),
        ("/a/..", "no '.' or '..' segment"),
        ("/a{b}c", "braces around a whole segment"),
        ("/{}", "braces around a whole segment"),
        ("/:id", "no segment that is a pattern"),
        ("/a/**", "no segment that is a pattern"),
        ("/a%2Fb", "letters, digits"),
        ("/a?b=c", "letters, digits"),
        ("/a b", "letters, digits"),
        ("/" + "a" * 600, "at most 512 characters"),
        ("/services/{id}", "a path that is not the gateway's own"),
        ("/-/healthz", "a path that is not the gateway's own"),
    ],
)
def test_a_path_that_no_route_can_serve_alone_is_left_out_and_said(path: str, expected: str) -> None:
    found = imported({"/fine": {"get": operation()}, path: {"get": operation()}})

    assert routes(found) == [("GET", "/fine")]
    (note,) = found.notes
    assert note.startswith("paths.")
    assert f"expected {expected}" in note
    assert "got '" in note


def test_an_operation_with_a_server_of_its_own_is_left_out() -> None:
    servers = [{"url": "https://other.example.com"}]
    found = imported({"/a": {"get": operation(servers=servers), "post": operation()}})

    assert routes(found) == [("POST", "/a")]
    assert found.notes == (
        "paths./a.get: expected no servers of its own, got some: left out; import it by itself",
    )


def test_routes_whose_derived_names_meet_have_names_that_hang_on_their_own_paths() -> None:
    paths = {"/a-b": {"get": operation()}, "/a/b": {"get": operation()}, "/c": {"get": operation()}}

    found, turned = imported(paths), imported(dict(reversed(paths.items())))

    def names(one: importing.Imported) -> dict[str, str | None]:
        return {route["match"]["path"]: route.get("name") for route in one.document["spec"]["routes"]}

    assert names(found) == names(turned)
    assert names(found)["/c"] is None
    assert len({names(found)["/a-b"], names(found)["/a/b"]}) == 2


def test_server_sent_events_make_a_route_streaming_also_behind_a_reference() -> None:
    events = {"description": "", "content": {"Text/Event-Stream; charset=utf-8": {}}}
    paths = {
        "/a": {"get": {"responses": {200: events}}},
        "/b": {"get": {"responses": {"200": {"$ref": "#/components/responses/E"}}}},
        "/c": {"get": {"responses": {"400": events}}},
    }

    found = imported(paths, components={"responses": {"E": events}})

    streaming = {r["match"]["path"]: r.get("streaming", False) for r in found.document["spec"]["routes"]}
    assert streaming == {"/a": True, "/b": True, "/c": False}


def test_a_path_item_may_be_elsewhere_in_the_description_and_nowhere_else() -> None:
    item = {"get": operation()}
    paths = {
        "/a": {"$ref": "#/components/pathItems/A"},
        "/b": {"$ref": "other.yaml"},
        "/c": {"$ref": "#/paths/~1c"},
    }

    found = imported(paths, components={"pathItems": {"A": item}})

    assert routes(found) == [("GET", "/a")]
    assert len([note for note in found.notes if "$ref" in note]) == 2


# --- what the author says --------------------------------------------------------------------------------


def test_free_operations_are_named_by_path_by_method_and_by_tag() -> None:
    paths = {
        "/a": {"get": operation(), "post": operation()},
        "/b/{id}": {"get": operation()},
        "/b/{id}/c": {"get": operation()},
        "/d": {"get": operation(tags=["docs"])},
    }

    found = imported(
        paths, Terms(price="1", upstream="https://x.example.com", free=("GET /a", "/b/{name}", "tag:docs"))
    )

    free = {(r["match"]["method"], r["match"]["path"]) for r in found.document["spec"]["routes"] if "free" in r}
    assert free == {("GET", "/a"), ("GET", "/b/{id}"), ("GET", "/d")}
    assert (found.paid, found.free) == (2, 3)


def test_a_word_does_not_make_a_template_free_that_takes_more() -> None:
    problems = refused(
        {"/b/{id}": {"get": operation()}}, Terms(price="1", upstream="https://x.example.com", free=("/b/1",))
    )

    assert problems == ("--free: expected a pattern that takes an operation of the description, got '/b/1'",)


def test_a_template_of_the_description_means_itself_and_a_star_means_every_segment() -> None:
    paths = {path: {"get": operation()} for path in ("/{id}", "/words", "/{id}/x", "/words/x", "/", "/words/")}

    def free(*patterns: str) -> set[str]:
        terms = Terms(price="1", upstream="https://x.example.com", free=patterns)
        return {r["match"]["path"] for r in imported(paths, terms).document["spec"]["routes"] if "free" in r}

    assert free("/{any name}") == {"/{id}"}
    assert free("/:id") == {"/{id}"}
    assert free("/*") == {"/{id}", "/words"}
    assert free("/*/x") == {"/{id}/x", "/words/x"}
    assert free("/words/**") == {"/words", "/words/x", "/words/"}
    assert free("/**") == set(paths)
    assert free("/words/") == {"/words/"}
    assert free("/") == {"/"}


def test_of_two_that_take_the_same_request_the_priced_one_comes_first() -> None:
    paths = {"/{x}/b": {"get": operation()}, "/a/{x}": {"get": operation()}}

    def ordered(free: str) -> list[str]:
        terms = Terms(price="1", upstream="https://x.example.com", free=(free,))
        found = imported(paths, terms)
        assert found.notes == ()
        return [path for _, path in routes(found)]

    assert ordered("/{x}/b") == ["/a/{x}", "/{x}/b"]
    assert ordered("/a/{x}") == ["/{x}/b", "/a/{x}"]


def test_a_free_route_that_must_stand_above_a_priced_one_it_meets_is_said() -> None:
    paths = {path: {"get": operation()} for path in ("/{a}/y/{c}", "/x/{b}/z", "/{a}/y/z")}

    found = imported(paths, Terms(price="1", upstream="https://x.example.com", free=("/{a}/y/z",)))

    assert [path for _, path in routes(found)] == ["/{a}/y/z", "/{a}/y/{c}", "/x/{b}/z"]
    assert found.notes == (
        "paths./{a}/y/z.get: free, also for what paths./x/{b}/z.get would take: order these yourself",
    )


def test_only_some_operations_are_served_where_it_is_said() -> None:
    paths = {"/a/x": {"get": operation()}, "/a": {"get": operation()}, "/b": {"get": operation(tags=["b"])}}

    assert routes(imported(paths, Terms(price="1", upstream="https://x.example.com", only=("/a/**",)))) == [
        ("GET", "/a/x"),
        ("GET", "/a"),
    ]
    assert routes(imported(paths, Terms(price="1", upstream="https://x.example.com", only=("tag:b",)))) == [
        ("GET", "/b")
    ]


@pytest.mark.parametrize("pattern", ["a", "", "tag:", "FETCH /a", "/a b", "GET", "get /a", "/a{b}"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    problems = refused({"/a": {"get": operation()}}, Terms(price="1", free=(pattern,)))

    assert len(problems) == 1
    assert problems[0].startswith("--free: expected a path such as /pets/{id}")
    assert repr(pattern) in problems[0]


def test_more_operations_than_a_service_may_have_are_refused_with_ways_to_split_them() -> None:
    tagged = {f"/p{n}": {"get": operation(tags=["even" if n % 2 == 0 else "odd"])} for n in range(201)}
    plain = {f"/part{n % 3}/p{n}": {"get": operation()} for n in range(201)}
    templates = {f"/{{x}}/p{n}": {"get": operation()} for n in range(201)}

    (by_tag,), (by_path,), (by_hand,) = refused(tagged), refused(plain), refused(templates)

    assert by_tag == (
        "paths: expected at most 200 operations for one PaidService, got 201; write several, each with --name and "
        "--only: --only 'tag:even' (101), --only 'tag:odd' (100)"
    )
    assert "--only '/part0/**' (67)" in by_path
    assert by_hand.endswith("--only '/first/**'")
    assert (
        len(
            imported(tagged, Terms(price="1", upstream="https://x.example.com", only=("tag:even",))).document[
                "spec"
            ]["routes"]
        )
        == 101
    )


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"price": "0.05 USD"}, "--price: expected a decimal string"),
        ({"price": "-1"}, "--price: expected a decimal string"),
        ({"price": "0.0000001"}, "--price: expected at most 6 decimal places"),
        ({"network": "ropsten", "currency": "not a currency"}, "--currency: expected a currency"),
        ({"currency": "EUR"}, "--currency: "),
        ({"recipient": "me"}, "--recipient: expected an 0x address"),
        ({"upstream": "api.example.com"}, "--upstream: expected a URL"),
        ({"name": "A B"}, "--name: expected a name"),
        ({"name": "services"}, "--name: expected"),
        ({"namespace": "a/b"}, "--namespace: expected a name"),
        ({"hosts": ("*.example.com",)}, "--host: expected a host name"),
    ],
)  # fmt: skip
def test_what_the_author_says_wrongly_is_told_by_its_option(terms: Mapping[str, Any], expected: str) -> None:
    given_ = {"price": "1", "upstream": "https://x.example.com", **terms}

    problems = refused({"/a": {"get": operation()}}, Terms(**given_))

    assert problems[0].startswith(expected), problems


def test_a_network_of_the_authors_own_is_left_to_compile() -> None:
    found = imported(
        {"/a": {"get": operation()}}, Terms(price="1", network="ours", upstream="https://x.example.com")
    )

    assert found.document["spec"]["payment"]["offers"][0]["network"] == "ours"


# --- what the description says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"swagger": "2.0", "paths": {}}', "got swagger 2.0; convert it first, with `npx swagger2openapi`"),
        ('{"openapi": "3.2.0", "paths": {}}', "openapi: expected \"3.0.…\" or \"3.1.…\", got '3.2.0'"),
        ('{"openapi": 3.1, "paths": {}}', "expected openapi"),
        ("{", "expected JSON or YAML"),
        ("a: [", "expected JSON or YAML"),
        ("- 1", "expected an object, got a list"),
        ('{"openapi": "3.1.0"}', "paths: expected at least one operation"),
        ('{"openapi": "3.1.0", "paths": {"/a": {}}}', "paths: expected at least one operation"),
    ],
)  # fmt: skip
def test_what_is_no_description_is_refused(written: str, expected: str) -> None:
    with pytest.raises(importing.ImportingError) as error:
        importing.service(written, TERMS, "x.yaml")

    assert expected in error.value.problems[0]


def test_where_nothing_can_be_served_every_reason_is_told() -> None:
    problems = refused({"/a{b}": {"get": operation()}, "c": {"get": operation()}})

    assert problems[0] == "paths: expected at least one operation that a route can serve, got none"
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (None, "got nothing: say it with --upstream https://"),
        ([], "got nothing: say it with --upstream https://"),
        ([{"url": "/v1"}], "got '/v1': say where the API is with --upstream, as in --upstream https://api.example.com/v1"),
        ([{"url": "http://api.example.com"}], "expected an https URL"),
        ([{"url": "https://{host}/v1"}], "expected an https URL"),
        ([{"url": "https://a.example.com/v1?key=1"}], "expected an https URL without query"),
        ([{"url": 7}], "got nothing"),
    ],
)  # fmt: skip
def test_an_upstream_that_the_description_does_not_say_is_asked_for(servers: Any, expected: str) -> None:
    more = {} if servers is None else {"servers": servers}

    (problem,) = refused({"/a": {"get": operation()}}, Terms(price="1"), **more)

    assert problem.startswith("servers[0].url: ")
    assert expected in problem


def test_a_servers_variable_whose_default_is_empty_adds_nothing() -> None:
    servers = [{"url": "https://a.example.com/{v}", "variables": {"v": {"default": ""}}}]

    found = imported({"/a": {"get": operation()}}, Terms(price="1"), servers=servers)

    assert found.document["spec"]["upstream"] == {"url": "https://a.example.com/"}


def test_the_upstream_is_the_first_server_with_its_variables_defaults_unless_the_author_says_another() -> None:
    servers = [
        {"url": "https://{a}.example.com/{b}", "variables": {"a": {"default": "eu"}, "b": {"default": "v1"}}},
        {"url": "https://other.example.com"},
    ]

    first = imported({"/a": {"get": operation()}}, Terms(price="1"), servers=servers)
    said = imported({"/a": {"get": operation()}}, TERMS, servers=servers)

    assert first.document["spec"]["upstream"] == {"url": "https://eu.example.com/v1"}
    assert any("2 of them" in note for note in first.notes)
    assert said.document["spec"]["upstream"] == {"url": "https://api.example.com"}


def test_title_version_description_and_link_are_taken_as_far_as_they_fit() -> None:
    info = {"title": "A title\nof two lines " + "x" * 200, "version": "one two", "description": "d" * 3000}

    found = imported({"/a": {"get": operation()}}, info=info, externalDocs={"url": "https://docs.example.com"})

    spec = found.document["spec"]
    assert spec["title"].startswith("A title of two lines xxx")
    assert len(spec["title"]) == 120
    assert "version" not in spec
    assert len(spec["description"]) == 2000
    assert spec["docs"] == {"homepage": "https://docs.example.com"}
    assert {note.split(":")[0] for note in found.notes} == {"info.description", "info.version"}


def test_a_title_without_a_letter_still_names_a_service() -> None:
    found = imported({"/a": {"get": operation()}}, info={"title": "価格", "version": "1"})

    assert found.document["metadata"]["name"] == "api"


def test_keys_of_the_api_are_hinted_at() -> None:
    schemes = {
        "b": {"type": "http", "scheme": "bearer"},
        "k": {"type": "apiKey", "in": "header", "name": "X-Key"},
        "u": {"type": "http", "scheme": "basic"},
        "q": {"type": "apiKey", "in": "query", "name": "key"},
        "o": {"type": "openIdConnect"},
        "no": "scheme",
    }

    found = imported({"/a": {"get": operation()}}, components={"securitySchemes": schemes})

    told = "\n".join(found.hints)
    assert "auth: {bearer: {secretRef: {name: upstream, key: api-key}}}" in told
    assert "auth: {apiKey: {header: X-Key, secretRef:" in told
    assert "auth: {basic: {username: …, secretRef:" in told
    assert told.count("cannot put it in") == 3
    assert "credentialHeader: Payment-Authorization" in told
    assert imported({"/a": {"get": operation()}}).hints == ()


def test_nothing_in_a_description_ends_a_comment_of_the_file() -> None:
    evil = "/x\nspec: {evil: true}\u2028routes: []\x85more"

    found = imported({"/a": {"get": operation()}, evil: {"get": operation()}})
    written = text.render(found, "evil\nname.yaml")

    assert yaml.safe_load(written) == found.document
    head = written.split("apiVersion:")[0]
    assert all(line.startswith("#") for line in re.split(r"[\n\x85\u2028\u2029]", head) if line)


def test_what_is_shared_is_written_out_and_no_anchor_is_left_in_the_file() -> None:
    shared = {"parameters": [{"name": "q", "in": "query", "schema": {"type": "string"}}]}

    found = imported({"/a": {**shared, "get": operation(), "post": operation()}})

    assert not re.search(r"[&*]id\d", text.render(found, "x"))


def test_a_bomb_of_aliases_is_bounded() -> None:
    lines = ["openapi: 3.1.0", "info: {title: T, version: '1'}", "x-0: &a0 [1, 2]"]
    lines += [f"x-{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    lines += ["paths: {/a: {get: {responses: {200: {description: x, content: {a/b: {schema: {enum: *a59}}}}}}}}"]

    found = importing.service("\n".join(lines), TERMS, "x.yaml")

    assert routes(found) == [("GET", "/a")]
    assert len(text.render(found, "x")) < 100_000


# --- laws ------------------------------------------------------------------------------------------------

_WORD = st.from_regex(r"[a-z0-9_-]{1,5}", fullmatch=True)
_SEGMENT = st.one_of(_WORD, _WORD.map(lambda name: f"{{{name}}}"))
_PATH = st.lists(_SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
_METHODS = st.sets(st.sampled_from(["get", "head", "post", "put", "patch", "delete"]), min_size=1)


@settings(deadline=None)
@given(st.dictionaries(_PATH, _METHODS, min_size=1, max_size=8))
def test_every_described_operation_has_a_route_and_no_other_does(paths: Mapping[str, set[str]]) -> None:
    reserved = {path for path in paths if re.fullmatch(r"/(services|discover)(/.*)?|/-(/.*)?", path)}
    described = {
        (method.upper(), paid_routes.path_pattern(path))
        for path, methods in paths.items()
        for method in methods
        if path not in reserved
    }
    if not described:
        return

    found = imported({path: {method: operation() for method in methods} for path, methods in paths.items()})
    service = paidservice.parse(found.document)

    served = {(method, route.match.pattern) for route in service.spec.routes for method in route.match.methods}
    implied = {("HEAD", pattern) for method, pattern in described if method == "GET"}
    assert served == described | implied


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.just("#/paths"),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["$ref", "get", "200", "in", "name"]), below, max_size=3
        )
    ),
    max_leaves=6,
)
_WHOLE = yaml.safe_load((FOLDER / "petstore" / "openapi.yaml").read_text())


def _with_one_change(draw: st.DrawFn) -> Any:
    """The petstore's description with something else in one place."""
    whole = json.loads(json.dumps(_WHOLE))
    place = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        below = place[key]
        if not isinstance(below, dict | list) or not below or draw(st.integers(0, 4)) == 0:
            place[key] = draw(_ANYTHING)
            return whole
        place = below


@settings(deadline=None, max_examples=60)
@given(st.composite(_with_one_change)())
def test_whatever_stands_in_one_place_of_a_description_is_imported_or_refused(changed: Any) -> None:
    found: importing.Imported | None = None
    told: tuple[str, ...] = ()
    try:
        found = importing.service(json.dumps(changed), TERMS, "openapi.yaml")
    except importing.ImportingError as error:
        told = error.problems

    assert found or told
    assert all(line.isprintable() for line in (found.notes if found else told))
    assert found is None or yaml.safe_load(text.render(found, "openapi.yaml")) == found.document


_ROUTE = st.tuples(_PATH, st.sampled_from([None, "GET", "HEAD", "POST", "DELETE"]), st.booleans())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(_ROUTE, min_size=1, max_size=5), min_size=1, max_size=3))
def test_the_discovery_document_of_services_becomes_routes_with_their_methods_and_paths(
    written: list[list[tuple[str, str | None, bool]]],
) -> None:
    parsed = [served(f"s{number}", routes_) for number, routes_ in enumerate(written)]
    lowered = compiler.lower(parsed, gateway.GatewayConfig()).gateway.services
    answered = {
        (method, ir.PathPattern((service.name, *route.path.segments), trailing_slash=route.path.trailing_slash))
        for service in lowered
        for at, route in enumerate(service.routes)
        for method in route.methods
        if not any(method in r.methods and r.path.covers(route.path) for r in service.routes[:at])
    }

    document = discovery.of_host(lowered)[discovery.OPENAPI].text
    found = importing.service(document, TERMS, "openapi.json")
    again = paidservice.parse(found.document)

    implied = {("HEAD", pattern) for method, pattern in answered if method == "GET"}
    assert {
        (method, r.match.pattern) for r in again.spec.routes for method in r.match.methods
    } == answered | implied


def served(name: str, written: list[tuple[str, str | None, bool]]) -> paidservice.PaidService:
    """A PaidService with these routes: path, method, whether it is free. What costs comes first: a price below a
    free route that takes all of it is refused."""
    return paidservice.parse(
        {
            "apiVersion": paidservice.API_VERSION,
            "kind": paidservice.KIND,
            "metadata": {"name": name},
            "spec": {
                "upstream": {"url": "https://x.example.com"},
                "discovery": {"enabled": True},
                "payment": {
                    "offers": [
                        {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}
                    ]
                },
                "routes": [
                    {
                        "name": f"r{number}",
                        "match": {"path": f"/x{path}"} | ({} if method is None else {"method": method}),
                        **({"free": True} if free else {"price": {"amount": "0.01"}}),
                    }
                    for number, (path, method, free) in enumerate(sorted(written, key=lambda route: route[2]))
                ],
            },
        }
    )
