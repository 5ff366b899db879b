"""What is taken over of an upstream's OpenAPI document and of an author's parts: what is sound, and no more."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import irs
import openapi_rules
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mpp_operator import discovery, ir, paidservice
from mpp_operator.discovery import descriptions, fragments, merge

LISTING = ir.Listing("Pets")


def document(paths: Mapping[str, Any], version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    return {"openapi": version, "info": {"title": "x", "version": "1"}, "paths": paths, **more}


def route(method: Literal["GET", "POST"], path: str, **said: Any) -> ir.Route:
    match = paidservice.Match(method=method, path=path)
    return ir.Route("r", match.methods, match.pattern, None, names=match.names, operation=ir.Operation(**said))


def merged(theirs: Mapping[str, Any] | None, *routes: ir.Route, upstream_path: str = "") -> merge.Merged:
    return merge.merge(routes, theirs, prefix="shop.pets.", upstream_path=upstream_path, field="from")


def shown(result: merge.Merged) -> dict[str, Any]:
    """The OpenAPI document of the merged routes, which keeps all the rules."""
    listing = replace(LISTING, components=result.components)
    numbered = [replace(one, key=f"r{n}") for n, one in enumerate(result.routes)]
    service = irs.service(*numbered, name="pets", base_path="/pets", listing=listing)
    return openapi_rules.hold(discovery.of_host([service])["/pets/openapi.json"].text)


def operation(theirs: Mapping[str, Any] | None, one: ir.Route, **more: Any) -> dict[str, Any]:
    ((_, _, found),) = openapi_rules.operations(shown(merged(theirs, one, **more)))
    return found


def schema(theirs: Any, version: str = "3.1.0", **components: Any) -> Any:
    """What becomes of a schema in the answer of GET /a."""
    answer = {"description": "", "content": {"application/json": {"schema": theirs}}}
    paths = {"/a": {"get": {"responses": {"200": answer}}}}
    found = operation(document(paths, version, components=components), route("GET", "/a"))
    return found["responses"]["200"]["content"]["application/json"].get("schema")


def notes(result: merge.Merged) -> list[str]:
    return [f"{note.field}: {note.message}" for note in result.notes]


SUMMARY = {"get": {"summary": "theirs", "responses": {"200": {"description": ""}}}}


# --- Reading


@pytest.mark.parametrize(
    "text",
    ['{"openapi": "3.1.0"}', "openapi: 3.0.1", "\ufeffopenapi: '3.1.0'", ' \n{"openapi": "3.0.0"}'],
    ids=["JSON", "YAML", "a byte order mark", "white space"],
)
def test_json_and_yaml_are_read(text: str) -> None:
    assert descriptions.read(text)["openapi"].startswith("3.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected an object, got null"),
        ("[]", "expected an object, got a list"),
        ("swagger: '2.0'", 'expected openapi: "3.0.…" or "3.1.…", got swagger 2.0'),
        ("openapi: 3.1", 'expected openapi: "3.0.…" or "3.1.…", got openapi the number 3.1'),
        ("info: {}", 'expected openapi: "3.0.…" or "3.1.…", got openapi nothing'),
        ("a: b: c", "expected JSON or YAML, got line 1, column 5"),
        ('{"openapi": ', "expected JSON or YAML"),
        ("[" * 100_000, "expected JSON or YAML"),
        ("- " * 100_000, "more than 200 levels"),
        ("a: &a 1\nb: [" + "*a," * 1100 + "]", "more than 200 levels or 1000 aliases"),
        ("x: !!python/object:os.system y", "expected JSON or YAML"),
        ("x: *nowhere", "expected JSON or YAML"),
        ("x: " + "1" * 5000, "expected JSON or YAML"),
        ("? [a]\n: b", "expected JSON or YAML"),
        ("x" * (descriptions.MAX_DOCUMENT + 1), "expected at most 4194304 characters, got 4194305"),
    ],
)
def test_what_is_no_openapi_document_is_told(text: str, told: str) -> None:
    with pytest.raises(descriptions.DocumentError, match=re.escape(told)):
        descriptions.read(text)


def test_a_yaml_bomb_stays_small() -> None:
    lines = ["openapi: 3.1.0", "a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    lines += ["paths: {/a: {get: {requestBody: {content: {a/b: {example: *a29}}}}}}"]

    result = merged(descriptions.read("\n".join(lines)), route("GET", "/a"))

    assert sum(len(one.operation.request_body or "") for one in result.routes) < 100_000
    assert "at most" in notes(result)[0]


def test_a_yaml_merge_key_means_nothing() -> None:
    lines = ["openapi: 3.1.0", "a0: &a0 {x: y}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]

    assert descriptions.read("\n".join(lines))["a1"].keys() == {"<<"}


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet="{}[]:,-&*!?'\"|> \n\tabopenapi3.1", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(descriptions.DocumentError):
        assert descriptions.read(text)["openapi"].startswith("3.")


# --- Joining


@pytest.mark.parametrize(
    ("servers", "described", "upstream_path", "path"),
    [
        ([], "/v1/pets", "", "/v1/pets"),
        ([{"url": "https://api.example.com/v1"}], "/pets", "/v1", "/pets"),
        ([{"url": "https://api.example.com/v1"}], "/pets", "", "/v1/pets"),
        ([{"url": "/v1/"}], "/pets", "/v1", "/pets"),
        ([{"url": "https://{host}/{v}", "variables": {"v": {"default": "v1"}}}], "/pets", "/v1", "/pets"),
        ([{"url": "https://a.b/v1/{v}", "variables": {"v": {"default": ""}}}], "/pets", "/v1", "/pets"),
        ([{"url": "https://elsewhere.example.com/old"}], "/pets", "/v1", "/pets"),
        ([], "/v1/pets", "/v1", "/pets"),
        ([{"url": "https://[bad"}], "/pets", "", "/pets"),
        ([{"url": 7}], "/pets", "", "/pets"),
    ],
)
def test_an_operation_is_found_by_its_method_and_path(
    servers: list[Any], described: str, upstream_path: str, path: str
) -> None:
    theirs = document({described: SUMMARY}, servers=servers)

    assert operation(theirs, route("GET", path), upstream_path=upstream_path)["summary"] == "theirs"


@pytest.mark.parametrize("path", ["/pets/", "/pets/x", "/**", "/other"])
def test_an_operation_of_another_path_is_not_taken(path: str) -> None:
    result = merged(document({"/pets": SUMMARY}), route("GET", path))

    assert result.routes[0].operation.summary is None
    assert notes(result) == [
        "from: paths: expected an operation with the method and path of a route, got none: see its servers[0].url"
    ]


def test_what_an_author_says_goes_before_what_the_document_says() -> None:
    theirs = document({"/a": {"get": {"summary": "theirs", "description": "theirs", "operationId": "theirs"}}})

    found = operation(theirs, route("GET", "/a", summary="mine", description="mine"))

    assert (found["summary"], found["description"], found["operationId"]) == ("mine", "mine", "theirs")


def test_each_method_of_a_route_has_the_words_of_its_own_operation() -> None:
    paths = {"/a": {"get": {"summary": "read"}, "post": {"summary": "write"}, "parameters": []}}
    every = replace(route("GET", "/a"), methods=ir.DEFAULT_METHODS)

    said = {m: o.get("summary") for _, m, o in openapi_rules.operations(shown(merged(document(paths), every)))}

    assert said == {"GET": "read", "POST": "write", "PUT": None, "PATCH": None, "DELETE": None}


def test_path_parameters_have_the_names_of_the_route() -> None:
    parameter = {"name": "petId", "in": "path", "required": True, "description": "which", "schema": {}}
    theirs = document({"/pets/{petId}": {"parameters": [parameter], "get": {}}})

    result = shown(merged(theirs, route("GET", "/pets/{id}")))

    assert list(result["paths"]) == ["/pets/pets/{id}"]
    assert result["paths"]["/pets/pets/{id}"]["get"]["parameters"][0]["description"] == "which"


def test_a_segment_without_a_name_has_the_documents() -> None:
    theirs = document({"/pets/{pet id}": SUMMARY})

    assert list(shown(merged(theirs, route("GET", "/pets/*")))["paths"]) == ["/pets/pets/{pet_id}"]


def test_an_operations_parameter_goes_before_its_paths() -> None:
    shared, own = [
        dict[str, Any]({"name": "q", "in": "query", "description": d, "schema": {}}) for d in ("path's", "own")
    ]
    theirs = document({"/a": {"parameters": [shared], "get": {"parameters": [own]}}})

    assert [p["description"] for p in operation(theirs, route("GET", "/a"))["parameters"]] == ["own"]


def test_what_is_too_long_for_a_line_is_cut() -> None:
    theirs = document({"/a": {"get": {"summary": "s" * 200, "description": "d" * 3000, "tags": ["t" * 200, 7]}}})

    found = operation(theirs, route("GET", "/a"))

    assert (len(found["summary"]), len(found["description"]), [len(t) for t in found["tags"]]) == (
        120,
        2000,
        [120],
    )


def test_an_operation_id_that_is_none_is_left_out() -> None:
    theirs = document({"/a": {"get": {"operationId": "a b/c"}}})

    assert operation(theirs, route("GET", "/a"))["operationId"] == "pets.r0"


def test_securities_servers_callbacks_and_links_are_not_taken_over() -> None:
    get = {
        "security": [{"key": []}],
        "servers": [{"url": "https://evil.example.com"}],
        "callbacks": {"x": {}},
        "x-payment-info": {"offers": []},
        "responses": {"200": {"description": "", "links": {"next": {"operationId": "b"}}}},
    }

    text = json.dumps(shown(merged(document({"/a": {"get": get}}), route("GET", "/a"))))

    assert not [word for word in ("security", "evil", "callbacks", "links", "x-payment-info") if word in text]


def test_a_payment_of_the_upstreams_is_not_taken_over() -> None:
    headers: dict[str, Any] = {
        "WWW-Authenticate": {"schema": {}},
        "Payment-Receipt": {"schema": {}},
        "X-Left": {"schema": {}},
    }
    get = {
        "parameters": [{"name": "Authorization", "in": "header", "schema": {}}],
        "responses": {"200": {"description": "", "headers": headers}},
    }

    found = operation(document({"/a": {"get": get}}), route("GET", "/a"))

    assert "parameters" not in found
    assert list(found["responses"]["200"]["headers"]) == ["X-Left"]


# --- References


def test_what_a_reference_leads_to_is_carried_with_all_it_needs_and_nothing_else() -> None:
    schemas = {"A": {"properties": {"b": {"$ref": "#/components/schemas/B"}}}, "B": {"type": "string"}, "C": {}}

    theirs = document(
        {"/a": {"get": {"responses": {"200": {"$ref": "#/components/responses/R"}}}}},
        components={
            "schemas": schemas,
            "responses": {
                "R": {"description": "r", "content": {"a/b": {"schema": {"$ref": "#/components/schemas/A"}}}}
            },
        },
    )
    result = shown(merged(theirs, route("GET", "/a")))

    assert result["components"]["responses"]["shop.pets.R"]["description"] == "r"
    assert {name for name in result["components"]["schemas"] if name.startswith("shop.")} == {
        "shop.pets.A",
        "shop.pets.B",
    }


def test_every_part_may_be_a_reference() -> None:
    parts = {
        "parameters": {"P": {"name": "q", "in": "query", "examples": {"e": {"$ref": "#/components/examples/E"}}}},
        "requestBodies": {"B": {"content": {"a/b": {"examples": {"e": {"$ref": "#/components/examples/E"}}}}}},
        "headers": {"H": {"description": "h", "schema": {"type": "string"}}},
        "examples": {"E": {"summary": "an example", "value": [1]}},
        "responses": {"R": {"description": "r", "headers": {"X-H": {"$ref": "#/components/headers/H"}}}},
    }
    post = {
        "parameters": [{"$ref": "#/components/parameters/P"}],
        "requestBody": {"$ref": "#/components/requestBodies/B"},
        "responses": {"200": {"$ref": "#/components/responses/R"}},
    }

    result = shown(merged(document({"/a": {"post": post}}, components=parts), route("POST", "/a")))

    carried = {of: [name for name in found if "." in name] for of, found in result["components"].items()}
    assert {of: names for of, names in carried.items() if names} == {
        "examples": ["shop.pets.E"],
        "headers": ["shop.pets.H"],
        "requestBodies": ["shop.pets.B"],
        "responses": ["shop.pets.R"],
    }


@pytest.mark.parametrize("of", ["requestBodies", "responses", "headers", "examples", "schemas"])
def test_a_part_that_is_nothing_when_it_is_reached_is_empty(of: str) -> None:
    uses = {
        "requestBodies": {"requestBody": {"$ref": "#/components/requestBodies/X"}},
        "responses": {"responses": {"200": {"$ref": "#/components/responses/X"}}},
        "headers": {"responses": {"200": {"headers": {"x": {"$ref": "#/components/headers/X"}}}}},
        "examples": {
            "requestBody": {"content": {"a/b": {"examples": {"x": {"$ref": "#/components/examples/X"}}}}}
        },
        "schemas": {"requestBody": {"content": {"a/b": {"schema": {"$ref": "#/components/schemas/X"}}}}},
    }

    result = merged(document({"/a": {"post": uses[of]}}, components={of: {"X": 7}}), route("POST", "/a"))

    assert "shop.pets.X" in shown(result)["components"][of]
    assert "expected an object, got a number" in notes(result)[0]


@pytest.mark.parametrize(
    "circle",
    [
        {"A": {"$ref": "#/components/schemas/A"}},
        {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}},
    ],
)
def test_references_in_a_circle_lead_nowhere(circle: dict[str, Any]) -> None:
    assert schema({"$ref": "#/components/schemas/A"}, schemas=circle) is None


def test_a_schema_may_hold_itself() -> None:
    tree = {"properties": {"left": {"$ref": "#/components/schemas/A"}}}

    assert schema({"$ref": "#/components/schemas/A"}, schemas={"A": tree}) == {
        "$ref": "#/components/schemas/shop.pets.A"
    }


@pytest.mark.parametrize(
    "reference",
    [
        "other.yaml#/A",
        "https://evil.example.com/x",
        "#/components/schemas/Nobody",
        "#A",
        "",
        7,
        None,
        "#/info/title/0",
    ],
)
def test_a_reference_out_of_the_document_leads_nowhere(reference: Any) -> None:
    assert schema({"$ref": reference}) is None


def test_a_reference_may_lead_anywhere_in_the_document() -> None:
    theirs = document(
        {
            "/a": {"get": {"requestBody": {"content": {"a/b": {"schema": {"$ref": "#/paths/~1b/x-s/0"}}}}}},
            "/b": {"x-s": [{"type": "string"}]},
        }
    )

    result = shown(merged(theirs, route("GET", "/a")))

    ((name, carried),) = ((n, s) for n, s in result["components"]["schemas"].items() if n.startswith("shop."))
    assert (carried, name.startswith("shop.pets.0.")) == ({"type": "string"}, True)


def test_names_that_look_alike_when_mended_stay_apart() -> None:
    both = {"a b": {"type": "string"}, "a_b": {"type": "number"}}

    found = schema(
        {"anyOf": [{"$ref": "#/components/schemas/a b"}, {"$ref": "#/components/schemas/a_b"}]}, schemas=both
    )

    assert len({one["$ref"] for one in found["anyOf"]}) == 2


def test_a_path_that_is_a_reference_is_followed() -> None:
    theirs = document({"/a": {"$ref": "#/components/pathItems/A"}}, components={"pathItems": {"A": SUMMARY}})

    assert operation(theirs, route("GET", "/a"))["summary"] == "theirs"


def test_an_authors_reference_leads_into_the_document() -> None:
    body = '{"content":{"a/b":{"schema":{"$ref":"#/components/schemas/A"}}}}'
    theirs = document({"/a": SUMMARY}, components={"schemas": {"A": {"type": "string"}}})

    result = shown(merged(theirs, route("GET", "/a", request_body=body)))

    assert result["components"]["schemas"]["shop.pets.A"] == {"type": "string"}


def test_an_authors_reference_to_nothing_is_told() -> None:
    body = '{"content":{"a/b":{"schema":{"$ref":"#/components/schemas/A"}}}}'

    result = merged(None, route("GET", "/a", request_body=body))

    assert notes(result) == [
        "spec.routes[0].openapi.requestBody.content.a/b.schema.$ref: expected a $ref to something in the document "
        "(#/…), got '#/components/schemas/A': left out"
    ]


# --- Schemas


def test_a_schema_of_3_0_is_one_of_3_1() -> None:
    old = {
        "type": "number",
        "nullable": True,
        "minimum": 1,
        "exclusiveMinimum": True,
        "maximum": 9,
        "exclusiveMaximum": False,
    }

    assert schema(old, "3.0.3") == {"type": ["number", "null"], "exclusiveMinimum": 1, "maximum": 9}


def test_beside_a_reference_3_0_says_nothing() -> None:
    theirs = {"$ref": "#/components/schemas/A", "description": "ignored"}

    assert schema(theirs, "3.0.3", schemas={"A": {}}) == {"$ref": "#/components/schemas/shop.pets.A"}
    assert schema(theirs, "3.1.0", schemas={"A": {}})["description"] == "ignored"


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        (True, True),
        ({"type": "text"}, {}),
        ({"type": ["string", "string", 7]}, {"type": "string"}),
        ({"minLength": -1, "maxLength": 2.0, "minItems": "3", "maxItems": 1.5}, {"maxLength": 2}),
        ({"multipleOf": 0, "minimum": float("inf"), "maximum": float("nan")}, {}),
        ({"required": ["a", "a", 7]}, {"required": ["a"]}),
        ({"enum": []}, {}),
        ({"enum": [1, None, "a"]}, {"enum": [1, None, "a"]}),
        ({"properties": {"a": {"type": 7}, "b": 7}}, {"properties": {"a": {}}}),
        ({"properties": 7}, {}),
        ({"example": object()}, None),
        ({"anyOf": [{}, 7]}, {"anyOf": [{}, {}]}),
        ({"anyOf": []}, {}),
        ({"items": [{"type": "string"}]}, {}),
        ({"$defs": {"a": {}}, "$id": "https://evil.example.com", "$dynamicRef": "#a", "xml": {}}, {}),
        ({"discriminator": {"propertyName": "a"}}, {}),
        ({"default": {"a": [1, 10**400]}}, {"default": {"a": [1, None]}}),
        ({"uniqueItems": "yes", "readOnly": True}, {"readOnly": True}),
        ("a string", None),
    ],
)
def test_of_a_schema_what_is_sound_stays(theirs: Any, kept: Any) -> None:
    assert schema(theirs) == kept


def test_a_schema_without_end_is_cut() -> None:
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"not": deep}

    assert 0 < str(schema(deep)).count("not") <= fragments.MAX_DEPTH


def test_an_example_without_end_is_left_out() -> None:
    deep: Any = 1
    for _ in range(150):
        deep = [deep]

    assert schema({"properties": {"a": {"example": deep}, "b": {"type": "array"}}}) == {
        "properties": {"b": {"type": "array"}}
    }


def test_a_document_gives_no_more_than_a_bounded_size() -> None:
    long = {f"p{n}": {"description": "d" * 4000} for n in range(2000)}

    theirs = document({"/a": {"get": {"requestBody": {"content": {"a/b": {"schema": {"properties": long}}}}}}})
    result = merged(theirs, route("GET", "/a"))

    assert len(result.routes[0].operation.request_body or "") < 2 * fragments.MAX_SIZE
    assert "expected at most 1000000 characters in all" in notes(result)[0]


def test_no_more_than_twenty_things_are_told() -> None:
    bad = [{"name": "", "in": "query"}] * 60

    result = merged(None, route("GET", "/a", parameters=json.dumps(bad)))

    assert len(result.notes) == fragments.MAX_NOTES


def test_what_is_told_is_on_one_line_and_short() -> None:
    name = "a\nb\u2028" + "x" * 500

    result = merged(
        document({"/a": {"get": {"responses": {"200": {"description": "", "headers": {name: 7}}}}}}),
        route("GET", "/a"),
    )

    assert [note for note in notes(result) if not note.isprintable() or len(note) > 400] == []


@pytest.mark.parametrize(
    ("parameter", "kept"),
    [
        ({"name": "q", "in": "query"}, {"schema": {}}),
        ({"name": "q", "in": "query", "style": "deepObject", "explode": True}, {"style": "deepObject"}),
        ({"name": "q", "in": "query", "style": "matrix"}, {"schema": {}}),
        ({"name": "q", "in": "query", "content": {"a/b": {}}}, {"content": {"a/b": {}}}),
        ({"name": "q", "in": "query", "content": {"a/b": {}, "c/d": {}}}, {"schema": {}}),
        ({"name": "q", "in": "query", "example": 1, "examples": {"a": {"value": 2}}}, {"example": 1}),
        ({"name": "q", "in": "query", "examples": {"a": {"value": 2, "summary": "s"}}}, {"schema": {}}),
        ({"name": "q", "in": "query", "required": "yes", "allowReserved": True}, {"allowReserved": True}),
        ({"name": "q", "in": "body"}, None),
        ({"in": "query"}, None),
        (7, None),
        ({"$ref": "#/nowhere"}, None),
    ],
)
def test_of_a_parameter_what_is_sound_stays(parameter: Any, kept: Mapping[str, Any] | None) -> None:
    found = operation(None, route("GET", "/a", parameters=json.dumps([parameter])))

    if kept is None:
        assert "parameters" not in found
    else:
        assert kept.items() <= found["parameters"][0].items()


@pytest.mark.parametrize(
    ("responses", "kept"),
    [
        ({"200": {}}, {"200": {"description": ""}}),
        ({"2XX": {"description": "fine"}, "x-a": {}, "600": {}, "ok": {}}, {"2XX": {"description": "fine"}}),
        ({"200": 7}, {"200": {"description": ""}}),
        ({"200": {"content": {"a/b": 7}}}, {"200": {"description": "", "content": {}}}),
        ({"200": {"$ref": "#/nowhere"}}, {"200": {"description": ""}}),
        ({"200": {"headers": {"x": {"$ref": "#/nowhere"}}}}, {"200": {"description": ""}}),
        ({"200": {"headers": 7}}, {"200": {"description": ""}}),
    ],
)
def test_of_responses_what_is_sound_stays(responses: Any, kept: Mapping[str, Any]) -> None:
    found = operation(None, route("GET", "/a", responses=json.dumps(responses)))

    assert kept.items() <= found["responses"].items()


@pytest.mark.parametrize("responses", [{}, {"600": {}}, {"x-a": 1}])
def test_responses_of_which_nothing_is_sound_are_as_if_not_there(responses: Any) -> None:
    found = operation(None, route("GET", "/a", responses=json.dumps(responses)))

    assert found == operation(None, route("GET", "/a"))


# --- Laws

WORDS = st.sampled_from(
    [
        *("$ref", "type", "properties", "items", "allOf", "anyOf", "enum", "required", "nullable", "default"),
        *("get", "post", "parameters", "requestBody", "responses", "content", "schema", "example", "examples"),
        *("headers", "description", "summary", "name", "in", "style", "explode", "200", "402", "default", "links"),
        *("minimum", "exclusiveMinimum", "additionalProperties", "tags", "operationId", "value", "text/plain"),
        *("application/json", "x-payment-info", "security", "deprecated", "servers"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=4),
    WORDS,
    st.sampled_from(
        ["#/components/schemas/A", "#/components/responses/A", "#/paths/~1a/get", "query", "path", "object", "id"]
    ),
)
JSON = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(WORDS, below, max_size=4), max_leaves=20
)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    item=OBJECTS,
    get=OBJECTS,
    components=st.dictionaries(
        st.sampled_from(["schemas", "responses", "examples", "headers", "parameters"]),
        st.dictionaries(st.sampled_from(["A", "B"]), JSON, max_size=2),
        max_size=3,
    ),
    own=OBJECTS,
    version=st.sampled_from(["3.0.3", "3.1.0"]),
)
@example(item={}, get={"responses": {"200": {"$ref": "#/paths/~1a/get"}}}, components={}, own={}, version="3.1.0")
def test_whatever_is_said_the_document_is_valid(
    item: Any, get: Any, components: Any, own: Any, version: str
) -> None:
    theirs = document(
        {"/a": {**item, "get": get}, "/b/{id}": {**item, "get": get}}, version, components=components
    )
    said = {
        name: json.dumps(_finite(own[key]))
        for name, key in (("request_body", "requestBody"), ("responses", "responses"))
        if isinstance(own.get(key), dict)
    }

    result = merged(theirs, route("GET", "/a", **said), route("GET", "/b/{x}"), route("POST", "/a"))

    shown(result)
    assert all("\n" not in note for note in notes(result))


def _finite(value: Any) -> Any:
    """As PaidServices are parsed: no NaN."""
    match value:
        case float():
            return 1.5
        case dict():
            return {key: _finite(below) for key, below in value.items()}
        case list():
            return [_finite(below) for below in value]
        case _:
            return value


def test_a_document_in_yaml_says_what_the_same_in_json_says() -> None:
    theirs = document({"/a": {"get": {"responses": {"200": {"description": "d"}}}}})

    in_yaml, in_json = descriptions.read(yaml.safe_dump(theirs)), descriptions.read(json.dumps(theirs))

    assert merged(in_yaml, route("GET", "/a")) == merged(in_json, route("GET", "/a"))


def test_statuses_that_yaml_reads_as_numbers_are_statuses() -> None:
    theirs = descriptions.read("openapi: 3.1.0\npaths: {/a: {get: {responses: {200: {description: fine}}}}}")

    assert operation(theirs, route("GET", "/a"))["responses"]["200"] == {"description": "fine"}
