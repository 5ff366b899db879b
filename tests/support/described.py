"""Services with all that a document can say, an upstream that keeps to it, and what documents and 402s say.

with described.upstream() as port:
    gateway = start_gateway({"words.yaml": described.words(port)}, config=described.NETWORKS)
"""

import contextlib
import http.server
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import http_servers
import httpx
import mpp
import yaml

#: No chain is asked for a 402.
NETWORKS = 'networks:\n  devnet: {method: tempo, chainId: 31337, rpcUrl: "http://127.0.0.1:9"}\n'
OTHER = "0x20c0000000000000000000000000000000000001"
PAYEE = "0x" + "ab" * 20
METHODS = ("get", "head", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Offer:
    """What is compared between a document and a 402."""

    method: str
    intent: str
    amount: str
    currency: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a document."""

    method: str  # "GET"
    path: str  # the template
    offers: tuple[Offer, ...]  # none: it is free
    statuses: tuple[str, ...]  # what it says it answers

    def target(self, value: str = "a") -> str:
        """Its path, with `value` for every parameter."""
        return re.sub(r"\{[^}]+\}", value, self.path)


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """All operations of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                offers = item[method].get("x-payment-info", {}).get("offers", [])
                yield Operation(
                    method.upper(),
                    path,
                    tuple(Offer(o["method"], o["intent"], o["amount"], o["currency"]) for o in offers),
                    tuple(item[method]["responses"]),
                )


def challenged(answer: httpx.Response) -> tuple[Offer, ...]:
    """The offers of a 402, as pympp reads them."""
    challenges = map(mpp.Challenge.from_www_authenticate, answer.headers.get_list("www-authenticate"))
    return tuple(Offer(c.method, c.intent, c.request["amount"], c.request["currency"]) for c in challenges)


# --- what is described -------------------------------------------------------------------------------------


class _Conforming(http.server.BaseHTTPRequestHandler):
    """Answers as the documents of `words` say."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps({"word": "mot"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """The port of an upstream, for the length of the block."""
    with http_servers.serving(_Conforming) as port:
        yield port


def words(port: int, price: str = "0.01") -> str:
    """A PaidService with what a document can say: parameters, bodies, answers, two currencies, free and paid."""
    word = {"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}}
    answer = {"200": {"description": "A word", "content": {"application/json": {"schema": word}}}}
    identifier = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 20}}
    prompt = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}}
    body = {"required": True, "content": {"application/json": {"schema": prompt}}}
    routes = [
        {
            "name": "word",
            "match": {"method": "GET", "path": "/v1/words/{id}"},
            "price": {"amount": price},
            "openapi": {"summary": "One word", "parameters": [identifier], "responses": answer},
        },
        {
            "name": "complete",
            "match": {"method": "POST", "path": "/v1/complete"},
            "price": {"amount": "0.02"},
            "openapi": {"requestBody": body, "responses": answer},
        },
        {
            "name": "upload",
            "match": {"method": "POST", "path": "/v1/upload"},
            "price": {"amount": "0.03"},
            "digest": {"maxBytes": 1024},
            "openapi": {"requestBody": body, "responses": answer},
        },
        {
            "name": "languages",
            "match": {"method": "GET", "path": "/v1/languages"},
            "free": True,
            "openapi": {"responses": answer},
        },
        {
            "name": "language",
            "match": {"method": "GET", "path": "/v1/languages/{id}"},
            "free": True,
            "openapi": {"parameters": [identifier], "responses": answer},
        },
        {"name": "files", "match": {"path": "/v1/files/**"}, "price": {"amount": "1.5"}},
    ]
    return paid_service("words", port, {"title": "Words", "description": "Sells words.", "routes": routes})


def paid_service(name: str, port: int, spec: dict[str, object]) -> str:
    usual = {
        "basePath": f"/{name}",
        "upstream": {"url": f"http://127.0.0.1:{port}"},
        "payment": {"offers": [offer("usd", "pathUSD"), offer("other", OTHER)]},
    }
    document = {
        "apiVersion": "mpp-gateway.dev/v1alpha1",
        "kind": "PaidService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {**usual, **spec},
    }
    return yaml.safe_dump(document)


def offer(name: str, currency: str) -> dict[str, str]:
    return {"name": name, "method": "tempo", "network": "devnet", "currency": currency, "recipient": PAYEE}
