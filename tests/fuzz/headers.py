"""Request headers as authz reads them out of a CheckRequest: who carries a credential, which one, over which
transport, with which body. An input is a head: a request line's method, scheme, host and path on one line, then
lines `name: value` in Envoy's form (duplicates joined by commas), an empty line, and the body."""

import base64
import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import plants
from envoy.service.auth.v3 import external_auth_pb2

from mpp_authz import challenge, quotes, service, wire
from mpp_authz.pricing import Transport

#: What Envoy matches as a whole to choose the lane, and to take credentials off (RE2 has no look-arounds either).
_CREDENTIAL: Final = re.compile(wire.CREDENTIAL_PATTERN)
_TRUSTING: Final = Transport(terminated_by=("203.0.113.0/24", "2001:db8::/32"))


def message(data: bytes) -> Any:
    """The CheckRequest of an input. Values are text, as protobuf has it."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("utf-8", "replace").split("\n")
    method, scheme, host, path, peer, *_ = (*first.split(" ", 4), "", "", "", "", "")
    made = external_auth_pb2.CheckRequest()
    made.attributes.source.address.socket_address.address = peer
    http = made.attributes.request.http
    http.method, http.scheme, http.host, http.path, http.raw_body = method, scheme, host, path, body
    for line in lines:
        name, _, value = line.partition(":")
        http.headers[name.strip().lower()] = value.removeprefix(" ")
    return made


def one(data: bytes) -> None:
    made = message(data)
    http = made.attributes.request.http
    request = service.read(made, "envoy-1")
    told = dict.fromkeys(("authorization", "payment_authorization", "idempotency_key", "body"))
    if not plants.open_in(repr(replace(request, **told))):  # type: ignore[arg-type] # all of them may be None
        plants.not_shown(repr(request))
    assert request.host == request.host.lower()
    assert http.path.endswith(request.query)
    if request.body is None:
        assert not http.raw_body
        assert request.digest is None
    else:
        expected = base64.b64encode(hashlib.sha256(http.raw_body).digest()).decode()
        assert request.digest == f"sha-256={expected}"
    _credential(request)
    for transport in (Transport(), _TRUSTING, Transport(insecure_http=True)):
        encrypted = request.scheme == "https" or transport.insecure_http
        assert quotes.secure(request, transport) or not encrypted
    _method_and_id(request)


def _credential(request: quotes.Request) -> None:
    """What we take for a credential Envoy does, too: else it would be checked in the wrong lane, and could reach
    the upstream of a free route."""
    seen = request.payment_authorization is not None or bool(_CREDENTIAL.fullmatch(request.authorization or ""))
    try:
        token = quotes.token(request)
    except quotes.BadCredentials as error:
        plants.not_shown(str(error))
        assert seen, "two credentials that Envoy does not see"
        return
    if token is None:
        return
    assert seen, "a credential that Envoy does not see"
    assert "," not in token
    assert token == token.strip(" \t")
    again = quotes.Request(None, "GET", "", "https", "", "/", "", authorization=f"Payment {token}")
    if token:
        assert quotes.token(again) == token


def _method_and_id(request: quotes.Request) -> None:
    """Accept-Payment and the facts that are only compared are read without complaint."""
    kinds = [("tempo", "charge"), ("stripe", "charge")]
    chosen = challenge.accepted(kinds, request.accept_payment)
    assert chosen
    assert set(chosen) <= {0, 1}
    keyring = challenge.Keyring((b"a key for tests, of 32 bytes or more",))
    target = request.target(bind_query=True)
    assert keyring.target_hash(target) == keyring.target_hashes(target)[0]


def grown(text: str) -> Iterator[bytes]:
    value = text.replace("\n", " ")
    for name in NAMES:
        yield f"POST https shop.example / 203.0.113.9\n{name.decode()}: {value}\n\n".encode()
        yield f"POST https shop.example / 203.0.113.9\n{name.decode()}: Payment {value}\n\n".encode()
    word = value.replace(" ", "")
    yield f"POST https {word} /?{word} {word}\n\n{text}".encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    """Lines are moved, doubled, joined by commas, as proxies do it."""
    head, empty, body = data.partition(b"\n\n")
    lines = head.split(b"\n")
    at = chosen.randrange(len(lines))
    match chosen.randrange(4):
        case 0:
            lines.insert(at, chosen.choice(lines))
        case 1:
            name, _, value = lines[at].partition(b":")
            lines[at] = name + b":" + value + b"," + chosen.choice(lines).partition(b":")[2]
        case 2:
            lines.append(chosen.choice(NAMES) + b": " + lines[at].partition(b":")[2].strip())
        case _:
            lines[at] = lines[at].swapcase()
    return b"\n".join(lines) + empty + body


NAMES: Final = (
    *(b"authorization", b"payment-authorization", b"accept-payment", b"idempotency-key", b"x-request-id"),
    *(b"mpp-forwarded-proto", b"x-forwarded-proto", b"x-mpp-payment-id"),
)

WORDS: Final = (
    *(
        "authorization: Payment ",
        "payment-authorization: ",
        "Payment ",
        "payment\t",
        "Bearer ",
        "Basic ",
        ",",
        ", ",
    ),
    *("accept-payment: ", "mpp-forwarded-proto: https", "idempotency-key: ", "\n", "\n\n", "https", "http", "?"),
    *("127.0.0.1", "203.0.113.9", "[2001:db8::1]:80", "\u00a0", "\u2003", "\x0b", "\x1c", "\x85", plants.SECRET),
)
