"""Requests with a credential that is good for `GET /shop/thing`, dressed up so that something else is served, or
twice.

A builder gets the credential, "Payment …", and gives bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from hostile_cases import HOST, ROOT_HOST, request

#: What must become of it: served once, or refused with nothing lost. Owed: it has no end, or is too big for some
#: upstreams; where it was not served, the payment is good for the request as it should be.
Becomes = Literal["served", "refused", "owed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One connection's bytes."""

    name: str
    build: Callable[[str], bytes]
    becomes: Becomes
    waits: bool = False  # it has no end, and may get no answer
    head: bool = False

    @property
    def id(self) -> str:
        return f"paid: {self.name}"


def _with(
    name: str,
    *lines: str,
    target: str = "/shop/thing",
    becomes: Becomes,
    method: str = "GET",
    host: str = HOST,
    body: str = "",
    version: str = "HTTP/1.1",
    waits: bool = False,
) -> Case:
    def build(credential: str) -> bytes:
        return request(
            target,
            f"Authorization: {credential}",
            *(line.replace("{credential}", credential) for line in lines),
            method=method,
            host=host,
            body=body,
            version=version,
            close=not waits,
        )

    return Case(name, build, becomes, waits, head=method == "HEAD")


def _instead(name: str, value: str, becomes: Becomes) -> Case:
    """Another value of Authorization, made of the credential."""
    return Case(
        name, lambda credential: request("/shop/thing", value.replace("{credential}", credential)), becomes
    )


def _twice(credential: str) -> bytes:
    once = request("/shop/thing", f"Authorization: {credential}", close=False)
    return once * 3 + request("/shop/thing", f"Authorization: {credential}")


def _then_without(credential: str) -> bytes:
    return request("/shop/thing", f"Authorization: {credential}", close=False) + request("/shop/thing")


def _behind_a_free_one(credential: str) -> bytes:
    free = request("/shop/free/x", f"Authorization: {credential}", close=False)
    return free + request("/shop/thing", f"Authorization: {credential}")


_INNER: Final = request("/thing").decode()

ALL: Final = (
    _with("as it should be", becomes="served"),
    # Another place.
    _with("another query", target="/shop/thing?more=1", becomes="refused"),
    _with("another route of the same price", target="/shop/users/1/report", becomes="refused"),
    _with("a wildcard route of the same price", target="/shop/vault/x", becomes="refused"),
    _with("another service of the same price", target="/strict/thing", becomes="refused"),
    _with("a nested service of the same price", target="/shop/premium/x", becomes="refused"),
    _with("another host", target="/thing", host=ROOT_HOST, becomes="refused"),
    _with("another method", method="HEAD", becomes="refused"),
    _with("another route and method", "Content-Length: 0", target="/shop/items", method="POST", becomes="refused"),
    _with("a lookalike", target="/shop/THING", becomes="refused"),
    _with("a matrix parameter", target="/shop/thing;x", becomes="refused"),
    _with("dots into another route", target="/shop/thing/../vault/x", becomes="refused"),
    _with("an encoded way into another route", target="/shop/thing%2f..%2fvault%2fx", becomes="refused"),
    _with("doubly encoded", target="/shop/thing%252f..%252fvault", becomes="refused"),
    _with("a fragment", target="/shop/thing#/../vault/x", becomes="refused"),
    _with("a back-slash", target="/shop/thing\\..\\vault\\x", becomes="refused"),
    # The same place in other words.
    _with("absolute form", target=f"http://{HOST}/shop/thing", becomes="served"),
    _with("dot segments", target="/shop/x/../thing", becomes="served"),
    _with("doubled slashes", target="//shop//thing", becomes="served"),
    _with("encoded letters", target="/shop/%74hing", becomes="served"),
    _with("a port in Host", host=f"{HOST}:99", becomes="served"),
    _with("an empty query", target="/shop/thing?", becomes="served"),
    # Headers that would have the upstream answer something else.
    _with("X-Original-URL", "X-Original-URL: /vault/x", becomes="served"),
    _with("X-Rewrite-URL", "X-Rewrite-URL: /vault/x", becomes="served"),
    _with("X-HTTP-Method-Override", "X-HTTP-Method-Override: POST", becomes="served"),
    _with("X-Original-URL with underscores", "X_Original_URL: /vault/x", becomes="refused"),
    _with("X-Envoy-Original-Path", "X-Envoy-Original-Path: /vault/x", becomes="served"),
    _with("X-Forwarded-Host", "X-Forwarded-Host: other.example", becomes="served"),
    _with("X-Envoy-Max-Retries", "X-Envoy-Max-Retries: 9", "X-Envoy-Retry-On: 5xx", becomes="served"),
    _with("X-Envoy timeout", "X-Envoy-Upstream-Rq-Timeout-Ms: 1", becomes="served"),
    _with("spoofed facts", "X-Mpp-Payment-Id: 1", "X-Mpp-Amount: 9999999", becomes="served"),
    # The credential, and copies of it.
    _with("the credential again", "Authorization: {credential}", becomes="refused"),
    _with("in both headers", "Payment-Authorization: {credential}", becomes="refused"),
    _with("in X-Payment, too", "X-Payment: {credential}", becomes="served"),
    _with("with Bearer on a line of its own", "Authorization: Bearer x", becomes="refused"),
    _instead("with Bearer in a list", "Authorization: Bearer x, {credential}", "refused"),
    _instead("twice in a list", "Authorization: {credential}, {credential}", "refused"),
    _instead("with rubbish behind", "Authorization: {credential} rubbish", "refused"),
    _instead("with a second one that is none", "Authorization: {credential}, Payment abc", "refused"),
    _instead("with blanks around", "Authorization: \t {credential} \t", "served"),
    _instead("folded", "Authorization:\r\n {credential}", "served"),
    _instead("in quotes", 'Authorization: "{credential}"', "refused"),
    _instead("in the other header", "Payment-Authorization: {credential}", "served"),
    _instead("in capitals", "AUTHORIZATION: {credential}", "served"),
    # Hop by hop.
    _with("Connection: authorization", "Connection: authorization", becomes="refused"),
    _with("Connection: payment-authorization", "Connection: payment-authorization", becomes="served"),
    _with("Connection: x-mpp-payment-id", "Connection: x-mpp-payment-id", becomes="served"),
    _with("Connection: payment-receipt", "Connection: close, payment-receipt", becomes="served"),
    _with(
        "Connection: x-envoy-upstream-rq-timeout-ms",
        "Connection: x-envoy-upstream-rq-timeout-ms",
        becomes="served",
    ),
    _with("Connection: host", "Connection: host", becomes="refused"),
    _with("TE: trailers", "TE: trailers", becomes="served"),
    # Framing.
    _with("a body that is a request", f"Content-Length: {len(_INNER)}", body=_INNER, becomes="served"),
    _with(
        "both lengths",
        f"Content-Length: {5 + len(_INNER)}",
        "Transfer-Encoding: chunked",
        body="0\r\n\r\n" + _INNER,
        becomes="refused",
    ),
    _with("a chunked body", "Transfer-Encoding: chunked", body="3\r\nabc\r\n0\r\n\r\n", becomes="served"),
    _with("behind it a request", body=_INNER, becomes="served"),
    _with("HTTP/1.0", version="HTTP/1.0", becomes="refused"),
    _with("Expect: 100-continue", "Expect: 100-continue", becomes="served"),
    _with(
        "Expect: 100-continue with a body",
        "Expect: 100-continue",
        "Content-Length: 3",
        body="abc",
        becomes="served",
    ),
    _with("half a body", "Content-Length: 9", body="abc", waits=True, becomes="owed"),
    _with(
        "h2c upgrade",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        becomes="served",
    ),
    _with(
        "WebSocket upgrade of a route without one",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        becomes="refused",
    ),
    Case("pipelined four times", _twice, "served"),
    Case("pipelined with one that does not pay", _then_without, "served"),
    Case("pipelined behind a free one that shows it", _behind_a_free_one, "served"),
    # The rest.
    _with("a range", "Range: bytes=0-1", becomes="served"),
    _with(
        "conditions", 'If-None-Match: "x"', "If-Modified-Since: Thu, 01 Jan 2037 00:00:00 GMT", becomes="served"
    ),
    _with("Accept-Payment that takes nothing", "Accept-Payment: */*;q=0", becomes="served"),
    _with("an idempotency key", "Idempotency-Key: 1", becomes="served"),
    _with("gRPC", "Content-Type: application/grpc", "TE: trailers", becomes="served"),
    _with("50 KB of headers", f"X-Big: {'a' * 50_000}", becomes="owed"),
    _with("80 headers", *(f"X-{n}: 1" for n in range(80)), becomes="served"),
    _with("90 headers", *(f"X-{n}: 1" for n in range(90)), becomes="refused"),
    _with("too many headers", *(f"X-{n}: 1" for n in range(150)), becomes="refused"),
    _with("59 KB of headers", f"X-Big: {'a' * 59_000}", becomes="refused"),
    _with("a NUL", "X-A: \0", becomes="refused"),
    _with("Origin of another page", "Origin: https://other.example", becomes="served"),
)
