"""authz.json: what is read, what is refused, and that nothing of it is ever shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import challenge, keys

SECRET = "s3cret-" * 6
PRIVATE = "0x" + "5e" * 32


def document(**fields: Any) -> str:
    given: dict[str, Any] = {"version": 1, "challengeKeys": [SECRET], "feePayers": {"sponsor": PRIVATE}}
    return json.dumps({name: value for name, value in (given | fields).items() if value is not ...})


def test_keys_are_read_in_their_order() -> None:
    loaded = keys.load(document(challengeKeys=[SECRET, SECRET + "2"]))

    assert loaded.challenge.keys == (SECRET.encode(), SECRET.encode() + b"2")
    assert loaded.fee_payers == {"sponsor": PRIVATE}


def test_fee_payers_may_be_left_out() -> None:
    assert keys.load(document(feePayers=...)).fee_payers == {}


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=32), min_size=1, max_size=3),
    st.dictionaries(st.text(min_size=1), st.integers(0, 2**256 - 1).map(lambda n: f"0x{n:064x}")),
)
def test_what_dump_writes_load_reads(texts: list[str], payers: dict[str, str]) -> None:
    written = keys.Keys(challenge.Keyring(tuple(text.encode() for text in texts)), payers)
    assert keys.load(keys.dump(written)) == written


def test_a_repr_shows_names_only() -> None:
    assert repr(keys.load(document())) == "Keys(1 challenge keys, fee payers: ['sponsor'])"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SECRET, "authz.json: expected JSON, got something else"),
        (json.dumps([SECRET]), "authz.json: expected an object, got list"),
        (document(version=...), "authz.json: version: expected 1, got another or none"),
        (document(version=SECRET), "authz.json: version: expected 1, got another or none"),
        (
            document(**{SECRET: 1}),
            "authz.json: expected only challengeKeys, feePayers, version, got 1 other fields",
        ),
        (
            document(challengeKeys=...),
            "authz.json: challengeKeys: expected a list of at least one key, got nothing",
        ),
        (
            document(challengeKeys=[]),
            "authz.json: challengeKeys: expected a list of at least one key, got an empty list",
        ),
        (
            document(challengeKeys=SECRET),
            "authz.json: challengeKeys: expected a list of at least one key, got a text",
        ),
        (document(challengeKeys=[SECRET, 7]), "authz.json: challengeKeys[1]: expected a text, got a number"),
        (document(challengeKeys=[SECRET, [SECRET]]), "authz.json: challengeKeys[1]: expected a text, got a list"),
        (
            document(challengeKeys=[SECRET + "\ud800"]),
            "authz.json: challengeKeys: expected Unicode text, got a lone surrogate",
        ),
        (
            document(challengeKeys=[SECRET, "s3cret-"]),
            "authz.json: challenge keys[1]: expected at least 32 bytes, got 7; "
            "make one with: openssl rand -hex 32",
        ),
        (
            document(feePayers=[PRIVATE]),
            "authz.json: feePayers: expected an object of names and private keys, got a list",
        ),
        (
            document(feePayers={"sponsor": PRIVATE + "5e"}),
            "authz.json: feePayers.sponsor: expected 0x and 64 hex digits, got 68 other characters",
        ),
        (
            document(feePayers={"sponsor": True}),
            "authz.json: feePayers.sponsor: expected 0x and 64 hex digits, got a boolean",
        ),
        (
            document(feePayers={PRIVATE: "sponsor"}),
            "authz.json: feePayers[0]: expected 0x and 64 hex digits, got 7 other characters",
        ),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_field_and_no_value(text: str, message: str) -> None:
    with pytest.raises(keys.KeysError) as caught:
        keys.load(text)

    assert str(caught.value) == message
    assert caught.value.__cause__ is None
    assert "s3cret" not in str(caught.value)
    assert "5e5e" not in str(caught.value)
