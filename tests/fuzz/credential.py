"""The token of `Authorization: Payment <token>`: challenge.read_credential, and what is asked of the challenge it
echoes. The first half of an input is what stands after the scheme."""

import base64
import json
import random
from collections.abc import Iterator, Mapping
from typing import Final

import mutation
import plants

from mpp_authz import challenge, quotes
from mpp_authz.challenge import Bound, Challenge, Keyring, MalformedCredential, Presented
from mpp_authz.pricing import Offer, RoutePrice
from mpp_authz.quotes import Request

KEYRING: Final = Keyring((b"a key for tests, of 32 bytes or more", b"another key for tests, of 32 bytes or more"))
MINTED: Final = KEYRING.mint(
    realm="shop.example",
    method="promise",
    intent="charge",
    request=challenge.canonical({"amount": "1000", "currency": "0xC0", "methodDetails": {"chainId": 7}}),
    expires="2027-01-15T08:05:00.000Z",
    opaque=Bound("nonce", 1_800_000_000_000, "POST", "shop/llm/complete", "", "devnet", "usd").encode(),
    digest="sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
)
PRICE: Final = RoutePrice(
    (Offer("usd", "promise", "devnet", "0xC0", "0xFEED", "1000"),), expires_in=300, lease=60, digest_max_bytes=10
)
REQUEST: Final = Request(
    "shop/llm/complete", "POST", "shop.example", "https", "203.0.113.9", "/llm/complete", "a=b", body=b""
)

#: All that a refusal says: a text that is none of these may hold a part of a credential.
REFUSALS: Final = frozenset(
    {
        f"it is longer than {challenge.MAX_CREDENTIAL_CHARS} characters",
        "it is not base64url of a JSON object",
        "its `challenge` is not an object",
        "its `payload` is not an object",
        "its `source` is not a string",
        "one of its `challenge` parameters is missing or not a string",
        "one of its `challenge` parameters is not a string",
        "its `payload` is not canonical JSON",
    }
)


def one(data: bytes) -> None:
    token = data.decode("utf-8", "replace")
    try:
        presented = challenge.read_credential(token)
    except MalformedCredential as error:
        said, cause = str(error), error.__cause__
    else:
        _read(presented)
        return
    assert said in REFUSALS, "a refusal says what it did not know beforehand"
    assert cause is None, "the cause of a refusal holds what was sent"


def _read(presented: Presented) -> None:
    if not plants.open_in(repr(presented.challenge)):
        plants.not_shown(repr(presented))
    _comes_back(presented)
    assert not KEYRING.ours(presented.challenge) or _said(presented.challenge) == _said(MINTED), (
        "a forged challenge"
    )
    _asked(presented.challenge)


def _comes_back(presented: Presented) -> None:
    """Written again it is read as the same."""
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "header", "opaque")
    echo = {name: getattr(presented.challenge, name) for name in names}
    document = {"challenge": echo, "payload": presented.payload, "source": presented.source}
    text = challenge.b64url(json.dumps(document).encode())
    if len(text) <= challenge.MAX_CREDENTIAL_CHARS:
        again = challenge.read_credential(text)
        assert again == presented
        assert again.fingerprint == presented.fingerprint


def _said(c: Challenge) -> tuple[str | None, ...]:
    return (c.realm, c.method, c.intent, c.request, c.expires, c.digest, c.header, c.opaque)


def _asked(echo: Challenge) -> None:
    """What is only asked of a challenge with a right id, for one that somebody signed who shares our key."""
    signed = KEYRING.mint(
        realm=echo.realm,
        method=echo.method,
        intent=echo.intent,
        request=echo.request,
        expires=echo.expires or "",
        opaque=echo.opaque or "",
        digest=echo.digest,
        header=echo.header,
    )
    if not KEYRING.ours(signed):
        assert any("|" in (slot or "") for slot in _said(signed))
        return
    try:
        bound, fields = quotes.read(signed)
    except ValueError:
        return
    quotes.expires_at(signed)
    quotes.chain_id(fields)
    assert Bound.decode(bound.encode()) == bound
    hash((bound, quotes.binding(signed, bound)))  # it looks up rows and networks
    for why in (
        quotes.foreign(REQUEST, PRICE, signed),
        quotes.elsewhere(REQUEST, PRICE, signed),
        quotes.mismatch(REQUEST, quotes.binding(signed, bound), KEYRING),
    ):
        assert why is None or why.startswith("it was issued for")


def seeds() -> Mapping[str, bytes]:
    """Credentials for a challenge of ours, written in several ways."""
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "opaque")
    echo = {name: getattr(MINTED, name) for name in names}
    payload = {"type": "transaction", "signature": plants.SECRET}
    source = "did:pkh:eip155:7:0x" + "ab" * 20
    documents: Mapping[str, Mapping[str, object]] = {
        "ours": {"challenge": echo, "payload": payload, "source": source},
        "no-source": {"challenge": echo, "payload": payload},
        "more-than-known": {"challenge": echo | {"x": 1}, "payload": payload, "source": source, "y": [None]},
        "header-implicit": {"challenge": echo | {"header": "authorization"}, "payload": payload},
        "nested-payload": {"challenge": echo, "payload": {"a": [[[[1, 2.5, None, True]]]], "b": {"c": {}}}},
    }
    found = {name: base64.urlsafe_b64encode(json.dumps(document).encode()) for name, document in documents.items()}
    return found | {f"{name}-unpadded": token.rstrip(b"=") for name, token in found.items()}


def grown(text: str) -> Iterator[bytes]:
    yield text.encode()
    yield challenge.b64url(text.encode()).encode()
    echo = dict.fromkeys(("id", "realm", "method", "intent", "request"), "x")
    for challenged, payload in ((echo, {"a": text}), (echo | {"opaque": text}, {}), (echo | {"realm": text}, {})):
        yield challenge.b64url(json.dumps({"challenge": challenged, "payload": payload}).encode()).encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    return mutation.as_token(data, chosen, WORDS)


WORDS: Final = (
    *("challenge", "payload", "source", "id", "realm", "method", "intent", "request", "expires", "digest"),
    *("header", "opaque", "Authorization", "Payment-Authorization", "type", "transaction", "hash", "proof"),
    *(MINTED.id, MINTED.request, MINTED.opaque, MINTED.expires, MINTED.digest),
    *("did:pkh:eip155:7:0x" + "ab" * 20, plants.SECRET),
)
