"""Challenges on the wire: the vectors of the specification, pympp as a second reader, credentials of strangers."""

import base64
import json
from dataclasses import replace
from typing import Any

import mpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import challenge
from mpp_authz.challenge import Bound, Challenge, Keyring, MalformedCredential

KEY = b"test-vector-secret-minimum-32-byte-secret"
RING = Keyring((KEY,))
REQUEST = challenge.canonical({"amount": "1000000"})
EXPIRES = "2030-01-01T00:00:00.000Z"


def vector(**more: str) -> Challenge:
    return replace(Challenge("", "api.example.com", "tempo", "charge", REQUEST), **more)


@pytest.mark.parametrize(
    ("unsigned", "expected"),
    [
        (vector(), "6QDs0BmhrI_v67iWeCMvGqQJEFQ6ErWKlk7zi5xL6t0"),
        (vector(header="Payment-Authorization"), "re8MIMJYpIJ0r_aiizscg6ghtipQM8IpOa_NtpwIU8E"),
        (
            vector(header="Payment-Authorization", digest="sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE"),
            None,
        ),
        (
            vector(digest="sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE"),
            "vwnOtW2kwdujK9_uC_taI2e6Jwq86Jwogvq9m--i8eQ",
        ),
    ],
    ids=["plain", "header", "header and digest", "digest"],
)
def test_the_id_is_that_of_the_conformance_vectors(unsigned: Challenge, expected: str | None) -> None:
    if expected is None:  # not among the vectors: pympp is the reference
        expected = mpp.generate_challenge_id(
            secret_key=KEY.decode(),
            realm=unsigned.realm,
            method=unsigned.method,
            intent=unsigned.intent,
            request={"amount": "1000000"},
            digest=unsigned.digest,
            header=unsigned.header,
        )

    assert RING.ours(replace(unsigned, id=expected))
    assert not RING.ours(replace(unsigned, id=expected[:-1] + ("A" if expected[-1] != "A" else "B")))


def bound(**changes: Any) -> Bound:
    return replace(Bound("n", 1, "GET", "shop/llm/x", "q", "moderato", "usd"), **changes)


def minted(**changes: Any) -> Challenge:
    given_: dict[str, Any] = {
        "realm": "shop.example",
        "method": "tempo",
        "intent": "charge",
        "request": REQUEST,
        "expires": EXPIRES,
        "opaque": bound().encode(),
    }
    return RING.mint(**(given_ | changes))


#: Unicode without lone surrogates: those are no text.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="|"), max_size=40)


@given(
    realm=VISIBLE.filter(bool),
    amount=st.integers(0, 10**30),
    memo=TEXT,
    digest=st.none() | st.just("sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE"),
    header=st.none() | st.just("Payment-Authorization"),
    description=st.none() | TEXT,
)
def test_pympp_reads_what_we_mint_and_verifies_it_with_the_same_key(
    realm: str, amount: int, memo: str, digest: str | None, header: str | None, description: str | None
) -> None:
    asked = {"amount": str(amount), "memo": memo}
    ours = minted(realm=realm, request=challenge.canonical(asked), digest=digest, header=header)

    theirs = mpp.Challenge.from_www_authenticate(challenge.www_authenticate(ours, description))

    assert theirs.verify(KEY.decode(), realm)
    assert (theirs.id, theirs.realm, theirs.method, theirs.intent) == (ours.id, realm, "tempo", "charge")
    assert (theirs.request, theirs.digest, theirs.header) == (asked, digest, header)
    assert theirs.expires == EXPIRES


@given(
    realm=VISIBLE.filter(bool),
    meta=st.dictionaries(VISIBLE, VISIBLE, max_size=4),
    header=st.none() | st.just("Payment-Authorization"),
)
def test_we_verify_what_pympp_mints_with_the_same_key(
    realm: str, meta: dict[str, str], header: str | None
) -> None:
    theirs = mpp.Challenge.create(
        secret_key=KEY.decode(),
        realm=realm,
        method="tempo",
        intent="charge",
        request={"amount": "1"},
        expires=EXPIRES,
        meta=meta or None,
        header=header,
    )
    credential = mpp.Credential(challenge=theirs.to_echo(), payload={"type": "proof"})

    presented = challenge.read_credential(credential.to_authorization().removeprefix("Payment "))

    assert RING.ours(presented.challenge)


@given(b=st.builds(Bound, TEXT, st.integers(0, 2**50), TEXT, TEXT, TEXT, TEXT, TEXT))
def test_the_binding_is_canonical_and_comes_back(b: Bound) -> None:
    encoded = b.encode()

    assert Bound.decode(encoded) == b
    document = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert challenge.canonical(document) == encoded
    assert all(isinstance(value, str) for value in document.values())


ECHO_CHANGES = {
    "id": "A" * 43,
    "realm": "other.example",
    "method": "stripe",
    "intent": "session",
    "request": challenge.canonical({"amount": "1"}),
    "expires": "2031-01-01T00:00:00.000Z",
    "digest": "sha-256=AAAA",
    "header": "Payment-Authorization",
    "opaque": bound(route="shop/llm/cheap").encode(),
}


@pytest.mark.parametrize("name", ECHO_CHANGES)
def test_a_challenge_with_one_parameter_changed_is_not_ours(name: str) -> None:
    ours = minted()
    changed: dict[str, Any] = {name: ECHO_CHANGES[name]}

    assert RING.ours(ours)
    assert not RING.ours(replace(ours, **changed))


@pytest.mark.parametrize("name", ["expires", "opaque", "digest", "header"])
def test_a_challenge_with_one_parameter_left_out_is_not_ours(name: str) -> None:
    ours = minted(digest="sha-256=AAAA", header="Payment-Authorization")
    left_out: dict[str, Any] = {name: None}

    assert not RING.ours(replace(ours, **left_out))


def test_parameters_cannot_be_moved_over_the_bars_between_them() -> None:
    ours = minted(header="Payment-Authorization")

    moved = replace(ours, header=None, expires=f"{ours.expires}|", digest="Payment-Authorization")

    assert not RING.ours(moved)


def test_the_first_key_signs_and_all_verify() -> None:
    old, new = Keyring((KEY,)), Keyring((b"a newer key, of 32 bytes at the least", KEY))
    ours = minted()

    assert new.ours(ours)
    assert not Keyring(new.keys[:1]).ours(ours)
    assert old.target_hash("a=1") in new.target_hashes("a=1")
    assert new.target_hash("a=1") == new.target_hashes("a=1")[0] != old.target_hash("a=1")


def test_a_keyring_refuses_short_keys_and_shows_none() -> None:
    with pytest.raises(ValueError, match=r"challenge keys\[1\]: expected at least 32 bytes, got 5"):
        Keyring((KEY, b"short"))
    with pytest.raises(ValueError, match="expected at least one"):
        Keyring(())
    assert KEY.decode() not in repr(RING)


def test_a_description_is_escaped_and_cannot_add_a_header_line() -> None:
    line = challenge.www_authenticate(minted(), 'say "hi" \\ \r\nX-Evil: 1 \u00e9\u4e2d')

    assert "\r" not in line
    assert "\n" not in line
    assert line.isascii()
    assert mpp.Challenge.from_www_authenticate(line).description == 'say "hi" \\   X-Evil: 1 ??'


def test_times_are_rfc_3339_with_milliseconds() -> None:
    assert challenge.timestamp(1_893_456_000_007) == "2030-01-01T00:00:00.007Z"


# --- credentials of strangers --------------------------------------------------------------------------


def echo(ours: Challenge | None = None, **changes: Any) -> dict[str, Any]:
    ours = ours or minted()
    document = {
        name: getattr(ours, name) for name in ("id", "realm", "method", "intent", "request", "expires", "opaque")
    }
    return document | changes


def token(document: Any) -> str:
    return challenge.b64url(document if isinstance(document, bytes) else json.dumps(document).encode())


def test_a_credential_is_read_and_the_rest_of_it_ignored() -> None:
    document = {"challenge": echo(extra=1), "payload": {"a": [1, {}]}, "source": "did:x", "more": {}}

    presented = challenge.read_credential(token(document) + "==")

    assert RING.ours(presented.challenge)
    assert (presented.payload, presented.source) == ({"a": [1, {}]}, "did:x")


def test_authorization_as_the_header_is_the_default_and_not_part_of_the_id() -> None:
    document = {"challenge": echo(header="authorization"), "payload": {}}

    assert RING.ours(challenge.read_credential(token(document)).challenge)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "base64url"),
        ("!!!!", "base64url"),
        ("a", "base64url"),
        ("e30+", "base64url"),
        ("\u4e2d", "base64url"),
        ("\udc80", "base64url"),
        (token(b"this is garbage"), "base64url"),
        (token(b"\xff\xfe{}"), "base64url"),
        (token([]), "base64url"),
        (token(7), "base64url"),
        (token(b"{}" + b" " * 50_000), "longer than"),
        (token(b"[" * 40_000), "base64url"),
        (token(b'{"a":' * 9_000 + b"1" + b"}" * 2), "base64url"),
        (token('{"a":'.encode("utf-16")), "base64url"),
        (token(b'{"payload": {"n": ' + b"9" * 5_000 + b"}}"), "base64url"),
        (token({}), "`challenge` is not an object"),
        (token({"challenge": "x", "payload": {}}), "`challenge` is not an object"),
        (token({"challenge": echo()}), "`payload` is not an object"),
        (token({"challenge": echo(), "payload": []}), "`payload` is not an object"),
        (token({"challenge": echo(), "payload": {}, "source": 1}), "`source` is not a string"),
        (token({"challenge": echo(id=None), "payload": {}}), "missing or not a string"),
        (token({"challenge": echo(request={"a": 1}), "payload": {}}), "missing or not a string"),
        (token({"challenge": echo(realm=1), "payload": {}}), "missing or not a string"),
        (token({"challenge": echo(expires=1), "payload": {}}), "is not a string"),
        (token({"challenge": echo(opaque={"a": "b"}), "payload": {}}), "is not a string"),
        (token({"challenge": echo(header=[1]), "payload": {}}), "is not a string"),
        (token({"challenge": echo(), "payload": {"n": 2**60}}), "not canonical JSON"),
        (token({"challenge": echo(), "payload": {"n": float("nan")}}), "base64url of a JSON object"),
        (token({"challenge": echo(), "payload": {}, "ignored": float("-inf")}), "base64url of a JSON object"),
        (
            token(json.dumps({"challenge": echo(), "payload": {"n": 0}}).replace("0}", "1e999}").encode()),
            "not canon",
        ),
        (token({"challenge": echo(), "payload": {"s": "\ud800"}}), "not canonical JSON"),
        (token({"challenge": echo(), "payload": {}, "source": "\ud800"}), "not canonical JSON"),
        (token({"challenge": echo(id="\ud800"), "payload": {}}), "not canonical JSON"),
    ],
)
def test_a_credential_that_cannot_be_read_says_why_without_its_words(text: str, says: str) -> None:
    with pytest.raises(MalformedCredential, match=says) as raised:
        challenge.read_credential(text)

    assert raised.value.__cause__ is None
    assert len(text) < 2 or text not in str(raised.value)


@given(st.text(max_size=200) | st.binary(max_size=300).map(challenge.b64url))
def test_anything_else_is_malformed_too(text: str) -> None:
    with pytest.raises(MalformedCredential):
        challenge.read_credential(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON, JSON, JSON)
def test_any_json_in_any_field_is_read_or_malformed(changed: Any, payload: Any, source: Any) -> None:
    document = {"challenge": echo(opaque=changed), "payload": payload, "source": source}

    try:
        presented = challenge.read_credential(token(document))
    except MalformedCredential:
        return

    assert len(presented.fingerprint) == 64
    assert RING.ours(presented.challenge) in (True, False)


def test_surrogates_in_an_echo_are_answered_not_crashed_on() -> None:
    document = {"challenge": echo(realm="\ud800"), "payload": {}}

    assert not RING.ours(challenge.read_credential(token(document)).challenge)


def test_of_two_equal_names_one_is_read_and_the_id_still_decides() -> None:
    raw = json.dumps({"challenge": echo(), "payload": {}}).replace('"realm"', '"realm": "evil", "realm"')

    assert RING.ours(challenge.read_credential(token(raw.encode())).challenge)


def test_a_credential_of_16_kib_is_read() -> None:
    document = {"challenge": echo(), "payload": {"pad": "x" * 16_384}}

    assert len(challenge.read_credential(token(document)).payload["pad"]) == 16_384


def test_a_fingerprint_knows_the_same_credential_however_it_is_written() -> None:
    one = {"challenge": echo(), "payload": {"a": 1, "b": 2}}
    two = {"payload": {"b": 2.0, "a": 1}, "challenge": echo(note="x")}
    other = {"challenge": echo(), "payload": {"a": 1, "b": 3}}

    prints = [challenge.read_credential(token(d)).fingerprint for d in (one, two, other)]

    assert prints[0] == prints[1] != prints[2]


def test_a_presented_credential_shows_no_payload_in_its_repr() -> None:
    presented = challenge.read_credential(
        token({"challenge": echo(), "payload": {"k": "s3cret"}, "source": "d1d"})
    )

    assert "s3cret" not in repr(presented)
    assert "d1d" not in repr(presented)


# --- Accept-Payment ------------------------------------------------------------------------------------

KINDS = (("tempo", "charge"), ("stripe", "charge"), ("tempo", "session"), ("evm", "charge"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 1, 2, 3)),
        ("", (0, 1, 2, 3)),
        ("*/*", (0, 1, 2, 3)),
        ("tempo/charge", (0,)),
        ("tempo/*", (0, 2)),
        ("*/session", (2,)),
        ("stripe/charge, tempo/charge;q=0.5", (1, 0)),
        ("tempo/charge;q=0.5, stripe/charge;q=0.5", (0, 1)),
        ("*/*;q=0.1, evm/charge", (3, 0, 1, 2)),
        ("tempo/*;q=0.9, tempo/charge;q=0.1, */*;q=0.5", (2, 1, 3, 0)),
        ("*/*, tempo/charge;q=0", (1, 2, 3)),
        ("*/charge;q=0.2, stripe/*;q=0.9", (1, 0, 3)),
        ("tempo/charge ; q=0.500 ,, ", (0,)),
        ("tempo/charge;q=1.000", (0,)),
        ("stripe/charge;Q=0.9, tempo/charge;Q=0.1", (1, 0)),
        ("evm/charge, tempo/Subscription, tempo/2FA-charge", (3,)),
        ("lightning/charge", (0, 1, 2, 3)),
        ("tempo/charge;q=0", (0, 1, 2, 3)),
        ("tempo", (0, 1, 2, 3)),
        ("tempo/charge;q=1.5", (0, 1, 2, 3)),
        ("tempo/charge;q=-1", (0, 1, 2, 3)),
        ("tempo/charge;q=0.1234", (0, 1, 2, 3)),
        ("stripe/charge, TEMPO/charge", (0, 1, 2, 3)),
        ("stripe/charge, ???", (0, 1, 2, 3)),
    ],
)
def test_offers_are_chosen_and_ordered_by_accept_payment(header: str | None, expected: tuple[int, ...]) -> None:
    assert challenge.accepted(KINDS, header) == expected


@given(st.text(alphabet="tempo/charge*;q=01.5, \t", max_size=60))
def test_whatever_accept_payment_says_something_is_offered_once_each(header: str) -> None:
    chosen = challenge.accepted(KINDS, header)

    assert chosen
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {0, 1, 2, 3}
