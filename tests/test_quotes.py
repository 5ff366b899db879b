"""Requests and their credentials, and where challenges may be issued."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import quotes, wire
from mpp_authz.pricing import Transport
from mpp_authz.quotes import BadCredentials, Request


def request(**fields: object) -> Request:
    given_: dict[str, object] = {
        "route": "a/b/c",
        "http_method": "GET",
        "host": "h",
        "scheme": "http",
        "peer": "203.0.113.9",
        "path": "/",
        "query": "",
    }
    return Request(**(given_ | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("authorization", "payment", "expected"),
    [
        (None, None, None),
        ("", "", None),
        ("Bearer x", None, None),
        ("Bearer Payment", None, None),
        ("PaymentX abc", None, None),
        ("Payment", None, None),
        ("\xa0Payment abc", None, None),
        ("Bearer x,\u2003Payment abc", None, None),
        ("Payment abc", None, "abc"),
        ("pAyMeNt\t  abc ", None, "abc"),
        (",Payment abc,", None, "abc"),
        ("Bearer x", "Payment abc", "abc"),
        (None, "payment abc", "abc"),
        (None, "abc", ""),
    ],
)
def test_the_one_credential_is_found(authorization: str | None, payment: str | None, expected: str | None) -> None:
    asked = request(authorization=authorization, payment_authorization=payment)

    assert quotes.token(asked) == expected


@pytest.mark.parametrize(
    ("authorization", "payment"),
    [
        ("Payment a, Payment b", None),
        ("Payment a,payment\tb", None),
        ("Payment a", "Payment b"),
        ("Payment a", "b"),
        (None, "Payment a, Payment b"),
        ("Bearer x, Payment a", None),
        ('Payment a, Digest realm="x"', None),
    ],
)
def test_more_than_one_credential_is_refused_without_its_words(
    authorization: str | None, payment: str | None
) -> None:
    with pytest.raises(BadCredentials) as raised:
        quotes.token(request(authorization=authorization, payment_authorization=payment))

    assert "realm" not in str(raised.value)


@given(st.text(alphabet="Paymentpy \t,x=\xa0\x85\u2003", max_size=30))
def test_whatever_takes_the_paying_lane_is_read_as_a_credential_and_nothing_else_is(value: str) -> None:
    lane = re.fullmatch(wire.CREDENTIAL_PATTERN, value) is not None
    try:
        found = quotes.token(request(authorization=value)) is not None
    except BadCredentials:
        found = True

    assert found <= lane  # "Payment " with nothing behind it takes the lane and carries nothing


def test_a_digest_is_written_as_the_sdks_write_it() -> None:
    assert request(body=b"").digest == "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert request().digest is None


@pytest.mark.parametrize(
    ("fields", "transport", "expected"),
    [
        ({"scheme": "https"}, Transport(), True),
        ({}, Transport(), False),
        ({}, Transport(insecure_http=True), True),
        ({"peer": "127.0.0.1"}, Transport(), True),
        ({"peer": "::1"}, Transport(), True),
        ({"peer": ""}, Transport(), False),
        ({"peer": "@pipe"}, Transport(terminated_by=("0.0.0.0/0",)), False),
        ({"forwarded_proto": "https"}, Transport(), False),
        ({"forwarded_proto": "HTTPS"}, Transport(terminated_by=("203.0.113.0/24",)), True),
        ({"forwarded_proto": "http"}, Transport(terminated_by=("203.0.113.0/24",)), False),
        ({}, Transport(terminated_by=("203.0.113.0/24",)), False),
        ({"forwarded_proto": "https"}, Transport(terminated_by=("10.0.0.0/8", "::/0")), False),
        ({"peer": "fd00::2", "forwarded_proto": "https"}, Transport(terminated_by=("fd00::/8",)), True),
    ],
    ids=str,
)
def test_challenges_are_issued_over_https_only(
    fields: dict[str, object], transport: Transport, expected: bool
) -> None:
    assert quotes.secure(request(**fields), transport) is expected


def test_a_request_shows_no_credential_in_its_repr() -> None:
    shown = repr(request(authorization="Payment s3cret", payment_authorization="s3cret", idempotency_key="s3cret"))

    assert "s3cret" not in shown
