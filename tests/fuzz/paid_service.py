"""PaidService and gateway.yaml: the whole way from a file's bytes to Envoy's configuration and the pricing file.
An input is gateway.yaml, a line `%%%%`, and the services; without that line, services alone."""

import json
import random
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import mutation
import plants
import yaml

from mpp_authz import pricing, wire
from mpp_operator import compiler, console, document, sources

SEPARATOR: Final = b"\n%%%%\n"
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="mpp-fuzz-yaml-")
#: Of every secret: where it is a recipient it has to be an address.
_VALUE: Final = "0x" + "11" * 20


def one(data: bytes) -> None:
    config, _, services = data.rpartition(SEPARATOR)
    found = read(config, services)
    if isinstance(found, sources.Compiled):
        right(found)
        return
    assert found.problems, "a refusal without a word"
    assert found.code == console.WRONG_INPUT
    for problem in found.problems:
        assert problem.startswith(_FOLDER.name), "a problem names its file first"
        assert len(problem) < 40_000
        # A terminal shows it as it is, and a log collector takes it for one line.
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in problem)
    if plants.SECRET.encode() in data and _only_in_private(config) and _only_in_private(services):
        plants.not_shown(*found.problems)


def read(config: bytes, services: bytes) -> sources.Compiled | console.Failure:
    """What the files come to, with a value for every secret they name."""
    folder = Path(_FOLDER.name)
    service_file, config_file = folder / "services.yaml", folder / "gateway.yaml"
    service_file.write_bytes(services)
    config_file.write_bytes(config)
    try:
        found = sources.load(sources.expand([service_file]), config_file if config else None)
        compiled = sources.build(found, dict.fromkeys(sources.secret_sources(found), _VALUE))
    except console.Failure as failure:
        return failure
    return compiled


def right(compiled: sources.Compiled) -> None:
    """Whatever is accepted is a configuration that hangs together."""
    files = compiled.compilation.artifacts
    routes, clusters = json.loads(files["rds.json"]), json.loads(files["cds.json"])
    priced = pricing.load(files[pricing.FILE_NAME])
    assert pricing.load(pricing.dump(priced)) == priced
    keys = [value for name, value in _named(routes) if name == wire.ROUTE_CONTEXT and isinstance(value, str)]
    assert sorted(keys) == sorted(set(keys)), "two routes with one key"
    assert set(keys) == set(priced.routes), "a priced route without a price, or a price without a route"
    there = {cluster["name"] for cluster in clusters["resources"]}
    assert {value for name, value in _named(routes) if name == "cluster" and isinstance(value, str)} <= there
    for price in priced.routes.values():
        assert price.offers, "a priced route that nobody can pay for"
        assert price.expires_in > 0
        assert price.lease > 0
        for offer in price.offers:
            assert offer.amount.isdecimal()
            assert offer.network in priced.networks
    again = compiler.compile(compiled.sources.services[::-1], compiled.sources.config, _recipients(compiled))
    assert again.artifacts == files, "another order gives another result"


def _recipients(compiled: sources.Compiled) -> dict[compiler.RecipientSource, str]:
    found = [source for service in compiled.sources.services for source in compiler.recipient_sources(service)]
    return dict.fromkeys([*found, *compiler.gateway_recipient_sources(compiled.sources.config)], _VALUE)


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of every object in it."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield name, below
            yield from _named(below)
    elif isinstance(value, list):
        for below in value:
            yield from _named(below)


def _only_in_private(text: bytes) -> bool:
    """Whether the planted secret is only a value below fields in which people put secrets by mistake: there it is
    not repeated. Elsewhere, and as the name of a field, a message has to say what was found."""
    try:
        return not any(_exposed(found, False) for found in yaml.load_all(text, yaml.CSafeLoader))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return plants.SECRET.encode() not in text


def _exposed(value: Any, private: bool) -> bool:
    """Whether the secret is the name of a field, or a value that is not below a private one."""
    if isinstance(value, dict):
        return any(
            plants.SECRET in str(name) or _exposed(below, private or name in document._PRIVATE)
            for name, below in value.items()
        )
    if isinstance(value, list | tuple | set):
        return any(_exposed(below, private) for below in value)
    return not private and plants.SECRET in str(value)


def grown(text: str) -> Iterator[bytes]:
    yield text.encode()
    yield f"a: {text}\n".encode()
    route = {"match": {"path": f"/{text}"}, "free": True}
    for spec in (
        {"title": text, "hosts": [text], "upstream": {"url": text}, "routes": [route], text: text},
        {"upstream": {"url": "https://api.example.com"}, "routes": [route]},
    ):
        service = {"apiVersion": "mpp-gateway.dev/v1alpha1", "kind": "PaidService", "metadata": {"name": "a"}}
        yield json.dumps(service | {"spec": spec}).encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    config, separator, services = data.rpartition(SEPARATOR)
    if config and chosen.random() < 0.4:
        return mutation.as_yaml(config, chosen, WORDS) + separator + services
    documents = services.split(b"\n---\n")
    at = chosen.randrange(len(documents))
    documents[at] = mutation.as_yaml(documents[at], chosen, WORDS)
    return config + separator + b"\n---\n".join(documents)


WORDS: Final = (
    *("apiVersion", "mpp-gateway.dev/v1alpha1", "kind", "PaidService", "metadata", "name", "namespace", "spec"),
    *(
        "title",
        "description",
        "version",
        "categories",
        "docs",
        "hosts",
        "basePath",
        "upstream",
        "payment",
        "routes",
    ),
    *(
        "cors",
        "origins",
        "discovery",
        "enabled",
        "preset",
        "openai",
        "url",
        "https://api.example.com/v1",
        "service",
    ),
    *("port", "scheme", "auth", "bearer", "apiKey", "basic", "secretRef", "header", "username", "headers", "set"),
    *(
        "remove",
        "timeouts",
        "request",
        "connect",
        "idle",
        "upload",
        "1m",
        "90s",
        "retries",
        "attempts",
        "on",
        "5xx",
    ),
    *("limits", "connections", "tls", "serverName", "caSecretRef", "realm", "credentialHeader"),
    *("Payment-Authorization", "expiresIn", "notBefore", "offers", "method", "tempo", "network", "mainnet"),
    *("moderato", "currency", "pathUSD", "recipient", "recipientFrom", "modes", "pull", "push", "feePayer"),
    *("minBalance", "credit", "life", "match", "path", "/v1/{x}", "/**", "/*", "GET", "POST", "price", "prices"),
    *(
        "amount",
        "0.05",
        "baseUnits",
        "50000",
        "free",
        "streaming",
        "digest",
        "maxBytes",
        "bindQuery",
        "idempotent",
    ),
    *("openapi", "summary", "operationId", "tags", "parameters", "requestBody", "responses", "publicScheme"),
    *("publicPort", "listen", "address", "networks", "chainId", "rpcUrl", "rpcUrls", "currencies", "decimals"),
    *("defaults", "store", "sqlite", "postgres", "urlFrom", "challengeKeys", "namespaces", "cluster", "domain"),
    *("checkTimeout", "settleWait", "challengeTimeout", "maxChallengeLife", "terminatedBy", plants.SECRET),
    {"name": "a", "key": "b"},
    {"amount": "0.05"},
    {"method": "GET", "path": "/x"},
)
