"""One document in, one PaidService or every mistake out."""

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from paidservices import ABSENT, RECIPIENT, changed, document

from mpp_operator import fields, ir, paidservice, presets
from mpp_operator.status import Problem, Reason

REF = {"name": "openai", "key": "api-key"}


def parsed(changes: Mapping[str, Any]) -> paidservice.Spec:
    return paidservice.parse(changed(document(), changes)).spec


def problems(changes: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(paidservice.SpecError) as caught:
        paidservice.parse(changed(document(), changes))
    assert {problem.reason for problem in caught.value.problems} == {Reason.INVALID_SPEC}
    return {problem.field: problem.message for problem in caught.value.problems}


def test_the_least_document_gets_every_default() -> None:
    service = paidservice.parse(changed(document(), {"metadata.namespace": ABSENT, "spec.payment": ABSENT}))

    assert (service.namespace, service.name, service.generation, service.created) == ("default", "llm", 0, None)
    spec = service.spec
    assert (spec.title, spec.version, spec.base_path, spec.hosts) == ("llm", "1.0.0", "/llm", ())
    assert spec.payment == paidservice.Payment(
        realm=None,
        credential_header="Authorization",
        expires_in=None,
        offers=None,
        credit=paidservice.Credit(attempts=3, life=86_400),
        not_before=None,
    )
    assert spec.upstream.timeouts == paidservice.Timeouts(connect=2, request=60, upload=60, idle=300)
    assert spec.upstream.retries.on == ("connect-failure", "refused-stream", "reset-before-request")
    assert spec.upstream.limits == paidservice.Limits(connections=1024, requests=1024, pending=256)
    assert spec.cors.origins == ("*",)
    assert spec.discovery.enabled
    assert spec.routes[0].bind_query


def test_the_api_servers_metadata_is_read() -> None:
    service = paidservice.parse(
        changed(document(), {"metadata.generation": 7, "metadata.creationTimestamp": "2026-01-01T00:00:00Z"})
    )

    assert (service.generation, service.created) == (7, 1_767_225_600)


def test_an_unknown_field_is_an_error_with_its_path() -> None:
    assert problems({"spec.routes[1].match.verb": "GET"}) == {"spec.routes[1].match.verb": "unknown field"}


def test_every_mistake_is_told_at_once() -> None:
    found = problems(
        {
            "kind": "FreeService",
            "metadata.name": "LLM",
            "spec.routes[0].price.amount": 0.05,
            "spec.routes[1].free": ABSENT,
            "spec.upstream.service": {"name": "a", "port": 1},
        }
    )

    assert found == {
        "kind": "expected PaidService, got 'FreeService'",
        "metadata.name": "expected a name of lower-case letters, digits and hyphens, at most 63, got 'LLM'",
        "spec.routes[0].price.amount": (
            'expected a decimal string such as "0.05" (in quotes), got the number 0.05'
        ),
        "spec.routes[1]": "expected exactly one of price, prices, free, got none",
        "spec.upstream": "expected exactly one of url, service, got both",
    }


def test_the_error_is_one_readable_line() -> None:
    error = paidservice.SpecError([Problem(Reason.INVALID_SPEC, "spec.title", "expected this")])

    assert str(error) == "spec.title: expected this"


@pytest.mark.parametrize("raw", [None, [], "text", 3])
def test_what_is_no_object_is_refused(raw: Any) -> None:
    with pytest.raises(paidservice.SpecError, match="expected an object"):
        paidservice.parse(raw)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"spec.upstream.auth": {"bearer": "sk-live-123"}}, "spec.upstream.auth.bearer"),
        ({"spec.upstream.auth": "sk-live-123"}, "spec.upstream.auth"),
        ({"spec.upstream.url": "https://me:sk-live-123@a.example.com"}, "spec.upstream.url"),
        ({"spec.upstream.headers": {"set": {"x-key": "sk-live-123\n"}}}, "spec.upstream.headers.set.x-key"),
        ({"spec.upstream.apiKey": "sk-live-123"}, "spec.upstream.apiKey"),
        ({"spec.payment.offers[0].recipient": "sk-live-123"}, "spec.payment.offers[0].recipient"),
        (
            {"spec.payment.offers[0].feePayer": {"secretRef": "sk-live-123"}},
            "spec.payment.offers[0].feePayer.secretRef",
        ),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(changes: Mapping[str, Any], field: str) -> None:
    found = problems(changes)

    assert field in found
    assert "sk-live" not in str(found)


def test_a_long_value_is_shortened_in_a_message() -> None:
    assert problems({"spec.title": "a" * 5000})["spec.title"].endswith("...'")


def test_a_null_is_named_and_not_taken_for_absent() -> None:
    found = problems({"spec.payment.realm": None, "spec.routes[0].openapi": {"summary": None}})

    assert set(found) == {"spec.payment.realm", "spec.routes[0].openapi.summary"}
    assert found["spec.payment.realm"] == "expected a value or no field at all, got null"


def test_a_null_inside_a_schema_is_the_authors_own() -> None:
    body = {"content": {"application/json": {"example": None}}}

    route = parsed({"spec.routes[0].openapi": {"requestBody": body}}).routes[0]

    assert route.openapi
    assert route.openapi.request_body
    assert route.openapi.request_body.value == body


def test_a_schema_with_a_date_is_refused_as_json_has_none() -> None:
    body = {"example": datetime.date(2026, 1, 1)}

    assert "quote dates" in str(problems({"spec.routes[0].openapi": {"responses": body}}))


def test_an_unquoted_on_is_explained() -> None:
    found = problems({"spec.upstream.retries": yaml.safe_load("on: [5xx]")})

    assert found["spec.upstream.retries.true"] == (
        "expected a field name in quotes, got a boolean: "
        'YAML reads an unquoted on, off, yes or no as one; write "on" with its quotes'
    )


def test_a_number_as_a_field_name_is_refused() -> None:
    assert problems({"spec.upstream.headers": {"set": {1: "a"}}}) == {
        "spec.upstream.headers.set.1": "expected a field name in quotes, got a number"
    }


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("5m", 300), ("24h", 86_400), ("500ms", 0.5), ("1h30m", 5400)]
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert fields.milliseconds(text) == seconds * 1000


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "1.5h", "5M", "5m\n", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert "spec.payment.expiresIn" in problems({"spec.payment.expiresIn": text})


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", ir.PathPattern(())),
        ("/a", ir.PathPattern(("a",))),
        ("/a/", ir.PathPattern(("a",), trailing_slash=True)),
        ("/a/{id}/b", ir.PathPattern(("a", None, "b"))),
        ("/a/:id", ir.PathPattern(("a", None))),
        ("/a/*", ir.PathPattern(("a", None))),
        ("/a/**", ir.PathPattern(("a",), rest=True)),
        ("/**", ir.PathPattern((), rest=True)),
        ("/*/", ir.PathPattern((None,), trailing_slash=True)),
        ("/v1/gpt:predict", ir.PathPattern(("v1", "gpt:predict"))),
    ],
)
def test_a_path_is_read_as_segments(path: str, pattern: ir.PathPattern) -> None:
    assert parsed({"spec.routes[0].match.path": path}).routes[0].match.pattern == pattern


@given(
    st.lists(st.sampled_from(["a", "v1", "{id}", ":id", "*", "a.b", "x:y"]), max_size=5),
    st.sampled_from(["", "/", "/**"]),
)
def test_every_path_in_the_grammar_is_read(segments: list[str], end: str) -> None:
    path = "".join(f"/{segment}" for segment in segments) + end or "/"

    pattern = parsed({"spec.routes[0].match.path": path}).routes[0].match.pattern

    assert [segment is None for segment in pattern.segments] == [segment[0] in "{:*" for segment in segments]
    assert (pattern.rest, pattern.trailing_slash) == (end == "/**", end == "/" and bool(segments))


@pytest.mark.parametrize(
    ("match", "name"),
    [
        ({"path": "/v1/models"}, "any-v1-models"),
        ({"path": "/v1/models/{id}", "method": "GET"}, "get-v1-models-id"),
        ({"path": "/files/*/**", "method": "PUT"}, "put-files-any-rest"),
        ({"path": "/", "method": "POST"}, "post"),
        ({"path": "/" + "long/" * 20}, "any-long-long-long-long-long-long-long-long-long-long-07308870"),
    ],
)
def test_a_route_is_named_after_method_and_path(match: dict[str, str], name: str) -> None:
    derived = parsed({"spec.routes[0].match": match}).routes[0].name

    assert (derived, len(derived) <= 63) == (name, True)


def test_get_also_takes_head_and_no_method_takes_all_but_options() -> None:
    spec = parsed({"spec.routes[0].match.method": "GET"})

    assert [route.match.methods for route in spec.routes] == [("GET", "HEAD"), ir.DEFAULT_METHODS]


FREE_FOR_ALL: dict[str, Any] = {"match": {"path": "/v1/**"}, "free": True}


def test_a_price_below_a_free_route_that_takes_all_of_it_is_an_error() -> None:
    priced = {"match": {"method": "GET", "path": "/v1/{id}"}, "price": {"amount": "1"}}

    assert problems({"spec.routes": [FREE_FOR_ALL, priced]}) == {
        "spec.routes[1].match": "expected it above routes[0], which takes all of it for nothing"
    }


@pytest.mark.parametrize(
    "priced",
    [{"path": "/v1"}, {"path": "/v1/{id}"}, {"path": "/v2/{id}"}, {"method": "POST", "path": "/v1/x"}],
)
def test_a_price_that_can_be_asked_is_none(priced: dict[str, str]) -> None:
    only_get = {"match": {"method": "GET", "path": "/v1/**"}, "free": True}
    route = {"match": priced, "price": {"amount": "1"}}

    assert len(parsed({"spec.routes": [only_get, route]}).routes) == 2
    assert len(parsed({"spec.routes": [route, FREE_FOR_ALL]}).routes) == 2


def test_post_is_post_only() -> None:
    assert parsed({}).routes[0].match.methods == ("POST",)


@pytest.mark.parametrize(
    ("name", "url", "header", "kind"),
    [
        ("openai", "https://api.openai.com", "authorization", "bearer"),
        ("anthropic", "https://api.anthropic.com", "x-api-key", "api_key"),
        ("stripe", "https://api.stripe.com", "authorization", "basic"),
    ],
)
def test_a_preset_is_an_upstream_by_itself(name: str, url: str, header: str, kind: str) -> None:
    upstream = parsed({"spec.upstream": {"preset": name}}).upstream

    assert (upstream.effective_url, upstream.auth_header) == (url, header)
    assert getattr(upstream.effective_auth, kind) is not None


@pytest.mark.parametrize(
    ("name", "variable"),
    [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("stripe", "STRIPE_SECRET_KEY")],
)
def test_a_presets_key_has_the_name_everybody_uses(name: str, variable: str) -> None:
    preset = presets.PRESETS[name]

    assert presets.environment_name(preset.secret, preset.key) == variable


def test_what_the_author_says_goes_before_the_preset() -> None:
    upstream = parsed(
        {
            "spec.upstream": {
                "preset": "openai",
                "url": "http://127.0.0.1:9000",
                "auth": {"apiKey": {"header": "X-Key", "secretRef": REF}},
            }
        }
    ).upstream

    assert (upstream.effective_url, upstream.auth_header) == ("http://127.0.0.1:9000", "x-key")


def test_an_upstream_without_auth_has_no_header_of_ours() -> None:
    assert parsed({}).upstream.auth_header is None


def test_an_address_on_one_machine_is_fine_and_a_broken_one_is_not() -> None:
    assert parsed({"spec.upstream.url": "http://[::1]:8080"}).upstream.url == "http://[::1]:8080"
    assert "spec.upstream.url" in problems({"spec.upstream.url": "http://[:::1]"})


def test_a_moment_that_yaml_has_read_is_a_moment() -> None:
    moment = yaml.safe_load("2026-01-01T00:00:00Z")

    assert parsed({"spec.payment.notBefore": moment}).payment.not_before == 1_767_225_600


def test_a_moment_without_a_zone_is_utc_as_yaml_reads_it() -> None:
    moment = datetime.datetime(2026, 1, 1)

    assert parsed({"spec.payment.notBefore": moment}).payment.not_before == 1_767_225_600


def test_an_offer_is_named_after_its_method() -> None:
    offers = parsed({}).payment.offers

    assert offers
    assert (offers[0].name, offers[0].modes, offers[0].recipient) == ("tempo", ("pull", "push"), RECIPIENT)


def test_a_sponsor_has_limits_without_being_told() -> None:
    offers = parsed({"spec.payment.offers[0].feePayer": {"secretRef": REF}}).payment.offers

    assert offers
    assert offers[0].fee_payer == paidservice.FeePayer(
        secret_ref=paidservice.KeyRef(**REF), max_per_minute=60, max_per_payer_per_minute=6, min_balance="1"
    )


def test_a_service_is_a_value() -> None:
    raw = changed(document(), {"spec.routes[0].openapi": {"responses": {"200": {}}}})

    assert {paidservice.parse(raw)} == {paidservice.parse(raw)}


def test_parsing_leaves_the_document_as_it_was() -> None:
    raw = document()

    paidservice.parse(raw)

    assert raw == document()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(
        [
            "metadata",
            "spec",
            "spec.upstream",
            "spec.upstream.auth",
            "spec.payment",
            "spec.payment.offers",
            "spec.routes",
            "spec.routes[0]",
            "spec.routes[0].match",
            "spec.routes[0].openapi",
            "spec.cors",
        ]
    ),
)
def test_nonsense_is_refused_and_never_with_another_error(value: Any, where: str) -> None:
    with contextlib.suppress(paidservice.SpecError):
        paidservice.parse(changed(document(), {where: value}))
