"""The CRD and the parser give the same verdict, asked through the API server's own validation library."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import missing
import pytest
import yaml
from paidservices import ABSENT, RECIPIENT, changed, document
from pydantic.alias_generators import to_camel

from mpp_operator import compiler, gateway, paidservice, patterns

ROOT = Path(__file__).parent.parent
CRD = yaml.safe_load((ROOT / "crds" / "paidservices.yaml").read_text())
SOURCE = ROOT / "tests" / "crd"

#: A gateway in a cluster, with an offer of its own: what the CRD assumes.
CONFIG = gateway.parse(
    {
        "hosts": ["pay.example.com"],
        "cluster": {},
        "defaults": {
            "offers": [{"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}]
        },
    }
)

ROUTE = "spec.routes[0]"
OFFER = "spec.payment.offers[0]"
UPSTREAM = "spec.upstream"
REF = {"name": "openai", "key": "api-key"}

GOOD: dict[str, Mapping[str, Any]] = {
    "as it is": {},
    "every field": {
        "metadata": {"name": "llm", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec.title": "Language model",
        "spec.description": "Chat completions,\npaid per call",
        "spec.version": "2.1.0",
        "spec.categories": ["ai", "text-2-image"],
        "spec.docs": {
            "homepage": "https://example.com",
            "apiReference": "https://example.com/api",
            "llms": "https://example.com/llms.txt",
        },
        "spec.hosts": ["llm.example.com", "localhost"],
        "spec.basePath": "/llm/v1.2",
        "spec.upstream": {
            "preset": "openai",
            "url": "https://eu.api.openai.com:8443/v1/",
            "auth": {"bearer": {"secretRef": REF}},
            "headers": {"set": {"x-tenant": "shop"}, "remove": ["openai-organization"]},
            "timeouts": {"connect": "500ms", "request": "1m30s", "upload": "60s", "idle": "5m"},
            "retries": {"attempts": 2, "on": ["connect-failure", "reset"], "perTry": "20s"},
            "limits": {"connections": 1, "requests": 2, "pending": 3},
            "tls": {"serverName": "api.openai.com", "caSecretRef": {"name": "ca", "key": "ca.crt"}},
        },
        "spec.payment": {
            "realm": "llm.example.com",
            "credentialHeader": "Payment-Authorization",
            "expiresIn": "5m",
            "offers": [
                {
                    "name": "usdc",
                    "method": "tempo",
                    "network": "mainnet",
                    "currency": "USDC.e",
                    "recipient": RECIPIENT,
                    "modes": ["pull"],
                    "feePayer": {
                        "secretRef": {"name": "sponsor", "key": "key"},
                        "maxPerMinute": 10,
                        "maxPerPayerPerMinute": 2,
                        "minBalance": "1.5",
                    },
                },
                {
                    "name": "test",
                    "method": "tempo",
                    "network": "moderato",
                    "currency": "0x20c0000000000000000000000000000000000000",
                    "recipient": RECIPIENT,
                    "modes": ["pull", "push"],
                },
            ],
            "credit": {"attempts": 1, "life": "48h"},
            "notBefore": "2026-01-01T00:00:00Z",
        },
        "spec.routes": [
            {
                "name": "complete",
                "match": {"method": "POST", "path": "/v1/chat/{id}/:user/*/"},
                "prices": {"usdc": "0.05", "test": "1"},
                "description": "One completion",
                "streaming": True,
                "idempotent": True,
                "bindQuery": False,
                "digest": {"maxBytes": 65536},
                "openapi": {
                    "summary": "Complete",
                    "operationId": "complete",
                    "tags": ["Chat", "paid calls"],
                    "parameters": [{"name": "tier", "in": "query", "schema": {"default": None}}],
                    "requestBody": {"content": {"application/json": {"schema": {"default": None}}}},
                    "responses": {"200": {"description": "fine"}},
                },
            },
            {"match": {"path": "/**"}, "price": {"baseUnits": "50000"}},
        ],
        "spec.cors": {"origins": ["https://app.example.com", "http://localhost:3000"]},
        "spec.discovery": {"enabled": True, "openapiFrom": {"configMap": {"name": "docs", "key": "openapi.json"}}},
    },
    "a status is not the author's": {"status": {"url": "https://pay.example.com/llm"}},
    "a Service of the namespace": {UPSTREAM: {"service": {"name": "api", "port": 80}}},
    "an https Service with its own CA": {
        UPSTREAM: {"service": {"name": "api", "port": 443, "scheme": "https"}, "tls": {"caSecretRef": REF}}
    },
    "a preset alone": {UPSTREAM: {"preset": "stripe"}},
    "a preset with another credential": {
        UPSTREAM: {"preset": "anthropic", "auth": {"apiKey": {"header": "x-api-key", "secretRef": REF}}}
    },
    "basic auth": {f"{UPSTREAM}.auth": {"basic": {"username": "me", "secretRef": REF}}},
    "basic auth without a user name": {f"{UPSTREAM}.auth": {"basic": {"secretRef": REF}}},
    "the root of an own host": {"spec.basePath": "/", "spec.hosts": ["llm.example.com"]},
    "no payment: the gateway's offers": {"spec.payment": ABSENT},
    "a price of zero": {f"{ROUTE}.price.amount": "0"},
    "all base units that fit": {f"{ROUTE}.price": {"baseUnits": "9" * 38}},
    "a recipient from a ConfigMap that is not there yet": {
        OFFER: {
            "method": "tempo",
            "network": "moderato",
            "currency": "pathUSD",
            "recipientFrom": {"configMapRef": {"name": "shop", "key": "recipient"}},
        }
    },
    "a discovery path without discovery": {
        "spec.discovery": {"enabled": False},
        f"{ROUTE}.match.path": "/openapi.json",
    },
    "a path that starts like a reserved one": {f"{ROUTE}.match.path": "/services-of-mine"},
    "a literal with a colon": {f"{ROUTE}.match.path": "/v1/models/gpt:predict"},
    "the root path": {f"{ROUTE}.match.path": "/"},
    "a trailing slash": {f"{ROUTE}.match.path": "/chat/"},
    "200 named routes": {
        "spec.routes": [{"name": f"r{i}", "match": {"path": f"/{i}"}, "free": True} for i in range(200)]
    },
    "an offset in notBefore": {"spec.payment.notBefore": "2026-01-01T00:00:00.5+02:00"},
    "free with the defaults written out": {
        "spec.routes[1].idempotent": False,
        "spec.routes[1].bindQuery": True,
    },
    "a retry no longer than the default request": {f"{UPSTREAM}.retries": {"perTry": "60s"}},
    "whole seconds in milliseconds": {"spec.payment.expiresIn": "60000ms"},
    "a header value with a percent sign": {f"{UPSTREAM}.headers": {"set": {"x-a": "100%"}}},
}

#: What is wrong, and the field that the parser names.
BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "another apiVersion's field": ({"spec.price": "0.05"}, "spec.price"),
    "an unknown field deep below": ({f"{ROUTE}.match.host": "a"}, f"{ROUTE}.match.host"),
    "an unknown field at the top": ({"data": {}}, "data"),
    "no spec": ({"spec": ABSENT}, "spec"),
    "a spec that is a list": ({"spec": []}, "spec"),
    "a null": ({"spec.title": None}, "spec.title"),
    "a null in a list": ({"spec.categories": [None]}, "spec.categories[0]"),
    "a name with a dot": ({"metadata.name": "a.b"}, "metadata.name"),
    "a name of 64 characters": ({"metadata.name": "a" * 64}, "metadata.name"),
    "a name whose place is the gateway's": ({"metadata.name": "services"}, "spec.basePath"),
    "a title of two lines": ({"spec.title": "a\nb"}, "spec.title"),
    "a version that is a number": ({"spec.version": 1.0}, "spec.version"),
    "six categories": ({"spec.categories": list("abcdef")}, "spec.categories"),
    "a category in capitals": ({"spec.categories": ["AI"]}, "spec.categories[0]"),
    "a category twice": ({"spec.categories": ["ai", "ai"]}, "spec.categories"),
    "a link without scheme": ({"spec.docs": {"homepage": "example.com"}}, "spec.docs.homepage"),
    "a wildcard host": ({"spec.hosts": ["*.example.com"]}, "spec.hosts[0]"),
    "a host with a port": ({"spec.hosts": ["a.example.com:80"]}, "spec.hosts[0]"),
    "a host in capitals": ({"spec.hosts": ["A.example.com"]}, "spec.hosts[0]"),
    "a host twice": ({"spec.hosts": ["a.example.com", "a.example.com"]}, "spec.hosts"),
    "17 hosts": ({"spec.hosts": [f"h{i}.example.com" for i in range(17)]}, "spec.hosts"),
    "the root without hosts": ({"spec.basePath": "/"}, "spec.basePath"),
    "a basePath with a last slash": ({"spec.basePath": "/llm/"}, "spec.basePath"),
    "a basePath that climbs": ({"spec.basePath": "/a/../b"}, "spec.basePath"),
    "a basePath of the gateway's": ({"spec.basePath": "/-/x"}, "spec.basePath"),
    "no upstream": ({"spec.upstream": ABSENT}, "spec.upstream"),
    "an upstream that is nowhere": ({UPSTREAM: {}}, UPSTREAM),
    "url and service": ({f"{UPSTREAM}.service": {"name": "api", "port": 80}}, UPSTREAM),
    "an unknown preset": ({f"{UPSTREAM}.preset": "acme"}, f"{UPSTREAM}.preset"),
    "a URL with a user": ({f"{UPSTREAM}.url": "https://me:pw@a.example.com"}, f"{UPSTREAM}.url"),
    "a URL with a query": ({f"{UPSTREAM}.url": "https://a.example.com/?a=b"}, f"{UPSTREAM}.url"),
    "a URL of another scheme": ({f"{UPSTREAM}.url": "ftp://a.example.com"}, f"{UPSTREAM}.url"),
    "a URL that climbs": ({f"{UPSTREAM}.url": "https://a.example.com/v1/.."}, f"{UPSTREAM}.url"),
    "port 65536": ({f"{UPSTREAM}.url": "https://a.example.com:65536"}, f"{UPSTREAM}.url"),
    "port 0": ({f"{UPSTREAM}.url": "https://a.example.com:0"}, f"{UPSTREAM}.url"),
    "an IPv4 address": ({f"{UPSTREAM}.url": "http://10.0.0.1:80/x"}, f"{UPSTREAM}.url"),
    "a short IPv4 address": ({f"{UPSTREAM}.url": "http://127.1"}, f"{UPSTREAM}.url"),
    "a hexadecimal address": ({f"{UPSTREAM}.url": "http://0x7F.0X1"}, f"{UPSTREAM}.url"),
    "an IPv6 address": ({f"{UPSTREAM}.url": "http://[::1]:80"}, f"{UPSTREAM}.url"),
    "a name without a dot": ({f"{UPSTREAM}.url": "http://Kubernetes/x"}, f"{UPSTREAM}.url"),
    "a name below svc": ({f"{UPSTREAM}.url": "https://api.other.SVC"}, f"{UPSTREAM}.url"),
    "a name of the cluster": ({f"{UPSTREAM}.url": "https://a.b.svc.cluster.local:443"}, f"{UPSTREAM}.url"),
    "a metadata server": ({f"{UPSTREAM}.url": "http://metadata.google.internal/x"}, f"{UPSTREAM}.url"),
    "a loopback name": ({f"{UPSTREAM}.url": "http://a.localhost"}, f"{UPSTREAM}.url"),
    "two kinds of auth": (
        {f"{UPSTREAM}.auth": {"bearer": {"secretRef": REF}, "basic": {"secretRef": REF}}},
        f"{UPSTREAM}.auth",
    ),
    "no kind of auth": ({f"{UPSTREAM}.auth": {}}, f"{UPSTREAM}.auth"),
    "a key of another namespace": (
        {f"{UPSTREAM}.auth": {"bearer": {"secretRef": {**REF, "namespace": "other"}}}},
        f"{UPSTREAM}.auth.bearer.secretRef.namespace",
    ),
    "a secretRef without a key": (
        {f"{UPSTREAM}.auth": {"bearer": {"secretRef": {"name": "a"}}}},
        f"{UPSTREAM}.auth.bearer.secretRef.key",
    ),
    "an API key in the Host header": (
        {f"{UPSTREAM}.auth": {"apiKey": {"header": "Host", "secretRef": REF}}},
        f"{UPSTREAM}.auth.apiKey.header",
    ),
    "a user name with a colon": (
        {f"{UPSTREAM}.auth": {"basic": {"username": "a:b", "secretRef": REF}}},
        f"{UPSTREAM}.auth.basic.username",
    ),
    "a payment fact set by the author": (
        {f"{UPSTREAM}.headers": {"set": {"X-Mpp-Payer": "me"}}},
        f"{UPSTREAM}.headers.set",
    ),
    "a pseudo header": ({f"{UPSTREAM}.headers": {"set": {":path": "/"}}}, f"{UPSTREAM}.headers.set.:path"),
    "a header twice": ({f"{UPSTREAM}.headers": {"set": {"x-a": "1", "X-A": "2"}}}, f"{UPSTREAM}.headers.set"),
    "a header value of two lines": (
        {f"{UPSTREAM}.headers": {"set": {"x-a": "1\r\nx-b: 2"}}},
        f"{UPSTREAM}.headers.set.x-a",
    ),
    "a header that auth sets": (
        {f"{UPSTREAM}.headers": {"set": {"Authorization": "x"}}, f"{UPSTREAM}.preset": "openai"},
        f"{UPSTREAM}.headers.set",
    ),
    "a removed Host": ({f"{UPSTREAM}.headers": {"remove": ["Host"]}}, f"{UPSTREAM}.headers.remove"),
    "a header removed twice": ({f"{UPSTREAM}.headers": {"remove": ["a", "a"]}}, f"{UPSTREAM}.headers.remove"),
    "a timeout that is a number": ({f"{UPSTREAM}.timeouts": {"request": 60}}, f"{UPSTREAM}.timeouts.request"),
    "a timeout in days": ({f"{UPSTREAM}.timeouts": {"request": "1d"}}, f"{UPSTREAM}.timeouts.request"),
    "no timeout at all": ({f"{UPSTREAM}.timeouts": {"request": "0s"}}, f"{UPSTREAM}.timeouts.request"),
    "an endless timeout": ({f"{UPSTREAM}.timeouts": {"idle": "99999h"}}, f"{UPSTREAM}.timeouts.idle"),
    "an unknown retry condition": ({f"{UPSTREAM}.retries": {"on": ["always"]}}, f"{UPSTREAM}.retries.on[0]"),
    "a retry condition twice": ({f"{UPSTREAM}.retries": {"on": ["5xx", "5xx"]}}, f"{UPSTREAM}.retries.on"),
    "eleven retries": ({f"{UPSTREAM}.retries": {"attempts": 11}}, f"{UPSTREAM}.retries.attempts"),
    "a try longer than the request": (
        {f"{UPSTREAM}.retries": {"perTry": "61s"}},
        f"{UPSTREAM}.retries.perTry",
    ),
    "no connection allowed": ({f"{UPSTREAM}.limits": {"connections": 0}}, f"{UPSTREAM}.limits.connections"),
    "TLS for plain HTTP": (
        {f"{UPSTREAM}.url": "http://a.example.com", f"{UPSTREAM}.tls": {"serverName": "a.example.com"}},
        f"{UPSTREAM}.tls",
    ),
    "TLS for a plain Service": (
        {UPSTREAM: {"service": {"name": "a", "port": 1}, "tls": {"serverName": "a.example.com"}}},
        f"{UPSTREAM}.tls",
    ),
    "a Service without port": ({UPSTREAM: {"service": {"name": "a"}}}, f"{UPSTREAM}.service.port"),
    "an unknown credential header": (
        {"spec.payment.credentialHeader": "Cookie"},
        "spec.payment.credentialHeader",
    ),
    "a quote of 14 seconds": ({"spec.payment.expiresIn": "14s"}, "spec.payment.expiresIn"),
    "a quote of two hours": ({"spec.payment.expiresIn": "2h"}, "spec.payment.expiresIn"),
    "a quote of broken seconds": ({"spec.payment.expiresIn": "15s500ms"}, "spec.payment.expiresIn"),
    "no credit attempt": ({"spec.payment.credit": {"attempts": 0}}, "spec.payment.credit.attempts"),
    "a date without time": ({"spec.payment.notBefore": "2026-01-01"}, "spec.payment.notBefore"),
    "a day that does not exist": (
        {"spec.payment.notBefore": "2026-02-30T00:00:00Z"},
        "spec.payment.notBefore",
    ),
    "no offer": ({"spec.payment.offers": []}, "spec.payment.offers"),
    "nine offers": (
        {
            "spec.payment.offers": [
                {
                    "name": f"o{i}",
                    "method": "tempo",
                    "network": "moderato",
                    "currency": "a",
                    "recipient": RECIPIENT,
                }
                for i in range(9)
            ]
        },
        "spec.payment.offers",
    ),
    "an offer twice": (
        {
            "spec.payment.offers": [
                {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}
                for _ in range(2)
            ]
        },
        "spec.payment.offers",
    ),
    "nobody to pay": ({f"{OFFER}.recipient": ABSENT}, OFFER),
    "two who are paid": ({f"{OFFER}.recipientFrom": {"secretRef": REF}}, OFFER),
    "a recipient from nowhere": (
        {f"{OFFER}.recipient": ABSENT, f"{OFFER}.recipientFrom": {}},
        f"{OFFER}.recipientFrom",
    ),
    "a recipient that is short": ({f"{OFFER}.recipient": "0xabc"}, f"{OFFER}.recipient"),
    "the zero address": ({f"{OFFER}.recipient": "0x" + "0" * 40}, f"{OFFER}.recipient"),
    "an unknown mode": ({f"{OFFER}.modes": ["steal"]}, f"{OFFER}.modes[0]"),
    "a mode twice": ({f"{OFFER}.modes": ["pull", "pull"]}, f"{OFFER}.modes"),
    "no mode": ({f"{OFFER}.modes": []}, f"{OFFER}.modes"),
    "a sponsor without key": ({f"{OFFER}.feePayer": {"maxPerMinute": 1}}, f"{OFFER}.feePayer.secretRef"),
    "no route": ({"spec.routes": []}, "spec.routes"),
    "201 routes": (
        {"spec.routes": [{"name": f"r{i}", "match": {"path": f"/{i}"}, "free": True} for i in range(201)]},
        "spec.routes",
    ),
    "a route name twice": (
        {f"{ROUTE}.name": "same", "spec.routes[1].name": "same"},
        "spec.routes[1].name",
    ),
    "a route name with a slash": ({f"{ROUTE}.name": "a/b"}, f"{ROUTE}.name"),
    "a lower-case method": ({f"{ROUTE}.match.method": "post"}, f"{ROUTE}.match.method"),
    "OPTIONS": ({f"{ROUTE}.match.method": "OPTIONS"}, f"{ROUTE}.match.method"),
    "a relative path": ({f"{ROUTE}.match.path": "chat"}, f"{ROUTE}.match.path"),
    "a path that climbs": ({f"{ROUTE}.match.path": "/a/../b"}, f"{ROUTE}.match.path"),
    "a path with an empty segment": ({f"{ROUTE}.match.path": "/a//b"}, f"{ROUTE}.match.path"),
    "an escaped path": ({f"{ROUTE}.match.path": "/a%2Fb"}, f"{ROUTE}.match.path"),
    "a rest in the middle": ({f"{ROUTE}.match.path": "/a/**/b"}, f"{ROUTE}.match.path"),
    "a star inside a segment": ({f"{ROUTE}.match.path": "/a*b"}, f"{ROUTE}.match.path"),
    "a path with a query": ({f"{ROUTE}.match.path": "/a?b=c"}, f"{ROUTE}.match.path"),
    "a path with a line break at its end": ({f"{ROUTE}.match.path": "/a\n"}, f"{ROUTE}.match.path"),
    "a path of the gateway's": ({f"{ROUTE}.match.path": "/openapi.json"}, f"{ROUTE}.match.path"),
    "a path below the gateway's": ({f"{ROUTE}.match.path": "/services/x"}, f"{ROUTE}.match.path"),
    "a health path without discovery": (
        {f"{ROUTE}.match.path": "/-/health", "spec.discovery": {"enabled": False}},
        f"{ROUTE}.match.path",
    ),
    "no price": ({f"{ROUTE}.price": ABSENT}, ROUTE),
    "a price on a free route": ({f"{ROUTE}.free": True}, ROUTE),
    "free: false": ({f"{ROUTE}.price": ABSENT, f"{ROUTE}.free": False}, f"{ROUTE}.free"),
    "a price that is a number": ({f"{ROUTE}.price.amount": 0.05}, f"{ROUTE}.price.amount"),
    "a negative price": ({f"{ROUTE}.price.amount": "-1"}, f"{ROUTE}.price.amount"),
    "a price with an exponent": ({f"{ROUTE}.price.amount": "1e3"}, f"{ROUTE}.price.amount"),
    "a price with a comma": ({f"{ROUTE}.price.amount": "0,05"}, f"{ROUTE}.price.amount"),
    "a price in other digits": ({f"{ROUTE}.price.amount": "\u0661"}, f"{ROUTE}.price.amount"),
    "a price with a line break": ({f"{ROUTE}.price.amount": "1\n"}, f"{ROUTE}.price.amount"),
    "amount and base units": ({f"{ROUTE}.price.baseUnits": "1"}, f"{ROUTE}.price"),
    "half a base unit": ({f"{ROUTE}.price": {"baseUnits": "0.5"}}, f"{ROUTE}.price.baseUnits"),
    "a price for an unknown offer": (
        {f"{ROUTE}.price": ABSENT, f"{ROUTE}.prices": {"tempo": "1", "card": "1"}},
        f"{ROUTE}.prices.card",
    ),
    "an offer without its price": (
        {
            f"{ROUTE}.price": ABSENT,
            f"{ROUTE}.prices": {"tempo": "1"},
            "spec.payment.offers[1]": {
                "name": "other",
                "method": "tempo",
                "network": "moderato",
                "currency": "OUSD",
                "recipient": RECIPIENT,
            },
        },
        f"{ROUTE}.prices",
    ),
    "prices without any": ({f"{ROUTE}.price": ABSENT, f"{ROUTE}.prices": {}}, ROUTE),
    "a digest without bound": ({f"{ROUTE}.digest": {}}, f"{ROUTE}.digest.maxBytes"),
    "a digest on a free route": ({"spec.routes[1].digest": {"maxBytes": 1}}, "spec.routes[1].digest"),
    "streaming that is a word": ({f"{ROUTE}.streaming": "yes"}, f"{ROUTE}.streaming"),
    "an openapi field we do not hand on": (
        {f"{ROUTE}.openapi": {"security": []}},
        f"{ROUTE}.openapi.security",
    ),
    "a tag of two lines": ({f"{ROUTE}.openapi": {"tags": ["a\nb"]}}, f"{ROUTE}.openapi.tags[0]"),
    "17 tags": ({f"{ROUTE}.openapi": {"tags": ["a"] * 17}}, f"{ROUTE}.openapi.tags"),
    "parameters by name": ({f"{ROUTE}.openapi": {"parameters": {"a": {}}}}, f"{ROUTE}.openapi.parameters"),
    "a parameter that is text": ({f"{ROUTE}.openapi": {"parameters": ["a"]}}, f"{ROUTE}.openapi.parameters"),
    "65 parameters": ({f"{ROUTE}.openapi": {"parameters": [{}] * 65}}, f"{ROUTE}.openapi.parameters"),
    "a request body that is text": (
        {f"{ROUTE}.openapi": {"requestBody": "a"}},
        f"{ROUTE}.openapi.requestBody",
    ),
    "an origin with a path": ({"spec.cors": {"origins": ["https://a.example.com/x"]}}, "spec.cors.origins[0]"),
    "no origin": ({"spec.cors": {"origins": []}}, "spec.cors.origins"),
    "a word for discovery": ({"spec.discovery": {"enabled": "no"}}, "spec.discovery.enabled"),
    "a description from nowhere": ({"spec.discovery": {"openapiFrom": {}}}, "spec.discovery.openapiFrom"),
    "a description from two places": (
        {"spec.discovery": {"openapiFrom": {"configMap": {"name": "a", "key": "b"}, "file": "c"}}},
        "spec.discovery.openapiFrom",
    ),
    "a description's file, in a cluster": (
        {"spec.discovery": {"openapiFrom": {"file": "openapi.yaml"}}},
        "spec.discovery.openapiFrom.file",
    ),
    "a link with a space": ({"spec.docs": {"llms": "https://a.example.com/a b"}}, "spec.docs.llms"),
    "a link with a stray percent sign": ({"spec.docs": {"llms": "https://a.example.com/%zz"}}, "spec.docs.llms"),
    "a link with a password": ({"spec.docs": {"homepage": "https://me:pw@a.example.com"}}, "spec.docs.homepage"),
}

#: What only the parser or the compiler can see: the changes, the field, and why CEL cannot.
BEYOND_CEL: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "derived route names that collide": (
        {f"{ROUTE}.match.path": "/a-b", "spec.routes[1].match": {"method": "POST", "path": "/a/b"}},
        "spec.routes[1].name",
        "CEL has no way to build the derived names",
    ),
    "more places than the token has": (
        {f"{ROUTE}.price.amount": "0.0000001"},
        f"{ROUTE}.price.amount",
        "the decimals are the network's, in gateway.yaml",
    ),
    "a network nobody knows": (
        {f"{OFFER}.network": "nowhere"},
        f"{OFFER}.network",
        "the networks are in gateway.yaml",
    ),
    "a currency nobody knows": (
        {f"{OFFER}.currency": "DOGE"},
        f"{OFFER}.currency",
        "the currencies are in gateway.yaml",
    ),
    "a method nobody knows": (
        {f"{OFFER}.method": "barter"},
        f"{OFFER}.method",
        "the methods are those of the gateway's networks",
    ),
    "the root of the gateway's own host": (
        {"spec.hosts": ["pay.example.com"], "spec.basePath": "/"},
        "spec.hosts[0]",
        "the gateway's hosts are in gateway.yaml",
    ),
    "a price for an offer that the gateway does not have": (
        {"spec.payment": ABSENT, f"{ROUTE}.price": ABSENT, f"{ROUTE}.prices": {"tempo": "1", "usdc": "1"}},
        f"{ROUTE}.prices.usdc",
        "the default offers are in gateway.yaml",
    ),
    "no price for an offer that the gateway has": (
        {"spec.payment": ABSENT, f"{ROUTE}.price": ABSENT, f"{ROUTE}.prices": {"test": "1"}},
        f"{ROUTE}.prices",
        "the default offers are in gateway.yaml",
    ),
    "a recipient with a wrong checksum": (
        {f"{OFFER}.recipient": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD".replace("5a", "5b")},
        f"{OFFER}.recipient",
        "CEL has no Keccak-256 (EIP-55)",
    ),
    "a token's address with a wrong checksum": (
        {f"{OFFER}.currency": "0x20c0000000000000000000006a37DA5C996874BF"},
        f"{OFFER}.currency",
        "CEL has no Keccak-256 (EIP-55)",
    ),
    "a sponsor's balance that is no whole base unit": (
        {f"{OFFER}.feePayer": {"secretRef": REF, "minBalance": "0.0000001"}},
        f"{OFFER}.feePayer.minBalance",
        "the decimals are the network's, in gateway.yaml",
    ),
}


#: What a hurried author might write anywhere.
NONSENSE: tuple[Any, ...] = (
    None,
    "",
    "x",
    "X y",
    "1",
    0,
    -1,
    1.5,
    True,
    False,
    [],
    ["x"],
    [None],
    {},
    {"x": "y"},
    "a\n",
)


def _mutations() -> dict[str, dict[str, Any]]:
    """The document with every field, with nonsense in each of its places."""
    whole = changed(document(), GOOD["every field"])
    return {
        f"{path} = {value!r}": changed(whole, {path: value})
        for path in _places({"spec": whole["spec"]})
        for value in NONSENSE
    }


def _places(value: Any, path: str = "") -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict) and not path.endswith(("parameters", "requestBody", "responses")):
        for name, below in value.items():
            yield from _places(below, f"{path}.{name}".strip("."))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _places(below, f"{path}[{index}]")


@dataclass(frozen=True)
class Judged:
    """What the API server's library said."""

    crd: list[str]
    documents: dict[str, list[str]]
    yaml: list[Any]


def _documents() -> dict[str, dict[str, Any]]:
    tables: Mapping[str, Mapping[str, Any]] = {
        **GOOD,
        **{name: row[0] for name, row in BAD.items()},
        **{name: row[0] for name, row in BEYOND_CEL.items()},
    }
    return {name: changed(document(), changes) for name, changes in tables.items()} | _mutations()


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Every document of the tables, judged by one run of tests/crd."""
    documents = _documents()
    question = {"crd": CRD, "documents": list(documents.values()), "yaml": ['on: ["5xx"]', '"on": ["5xx"]']}
    run = subprocess.run(
        [_built()], input=json.dumps(question), capture_output=True, text=True, check=True, timeout=60
    )
    said = json.loads(run.stdout)
    return Judged(said["crd"], dict(zip(documents, said["documents"], strict=False)), said["yaml"])


def _built() -> Path:
    """tests/crd as a program, built once for each state of its sources."""
    sources = [SOURCE / name for name in ("go.mod", "go.sum", "main.go")]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpp-gateway"
    program = cache / f"crd-{digest}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        missing.error_or_skip("the CRD is not checked against the API server's validation library: install Go")
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f".crd-{digest}-{os.getpid()}"
    subprocess.run(["go", "build", "-trimpath", "-o", str(unfinished), "."], cwd=SOURCE, check=True, timeout=900)
    unfinished.replace(program)
    return program


def _parser_problems(raw: Mapping[str, Any]) -> list[str]:
    """The fields that parser and compiler complain about, as a gateway in a cluster does."""
    try:
        service = paidservice.parse(raw)
    except paidservice.SpecError as error:
        return [problem.field for problem in error.problems]
    (conditions,) = compiler.lower([service], CONFIG).conditions.values()
    return [] if conditions[0].status else [part.split(": ")[0] for part in conditions[0].message.split("; ")]


pytestmark = pytest.mark.timeout(960)  # the first run builds a Go program


def test_the_api_server_accepts_the_definition(judged: Judged) -> None:
    assert judged.crd == []


@pytest.mark.parametrize("name", GOOD)
def test_both_accept(judged: Judged, name: str) -> None:
    raw = changed(document(), GOOD[name])

    assert (judged.documents[name], _parser_problems(raw)) == ([], [])


@pytest.mark.parametrize("name", BAD)
def test_both_refuse(judged: Judged, name: str) -> None:
    changes, field = BAD[name]

    assert field in _parser_problems(changed(document(), changes))
    assert judged.documents[name] != []


@pytest.mark.parametrize("name", BEYOND_CEL)
def test_the_compiler_refuses_what_cel_cannot_see(judged: Judged, name: str) -> None:
    changes, field, _ = BEYOND_CEL[name]

    assert field in _parser_problems(changed(document(), changes))
    assert judged.documents[name] == []  # else the row belongs to BAD


def test_both_say_the_same_of_nonsense_in_every_place(judged: Judged) -> None:
    differing = {
        name: (judged.documents[name], _parser_problems(raw))
        for name, raw in _mutations().items()
        if (judged.documents[name] == []) != (_parser_problems(raw) == [])
    }

    assert {name: said for name, said in differing.items() if not _known_to_differ(*said)} == {}


def _known_to_differ(api_server: list[str], parser: list[str]) -> bool:
    """The API server accepts, and the parser's only objections are to fields of BEYOND_CEL."""
    known = {_anywhere(field) for _, field, _ in BEYOND_CEL.values()}
    return api_server == [] and {_anywhere(field) for field in parser} <= known


def _anywhere(field: str) -> str:
    """The field, of whichever route or offer."""
    return re.sub(r"\.prices\..*", ".prices", re.sub(r"[0-9]+", "0", field))


def test_the_definitions_patterns_are_the_parsers() -> None:
    spec = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    known = {value for name, value in vars(patterns).items() if name.isupper() and isinstance(value, str)}

    assert {pattern[2:-2] for pattern in _patterns(spec)} <= known


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for below in schema.values():
            yield from _patterns(below)


def test_the_tables_are_worth_the_name() -> None:
    assert len(GOOD) + len(BAD) >= 60


def test_kubectl_reads_an_unquoted_on_as_a_boolean_and_so_does_the_parser(judged: Judged) -> None:
    unquoted = changed(document(), {f"{UPSTREAM}.retries": yaml.safe_load('on: ["5xx"]')})

    assert judged.yaml == [{"true": ["5xx"]}, {"on": ["5xx"]}]
    with pytest.raises(paidservice.SpecError, match="in quotes"):
        paidservice.parse(unquoted)


def test_the_definition_has_every_field_of_the_parser_and_no_other() -> None:
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    assert set(_written(schema)) == set(_known(paidservice.Spec))


def _written(schema: Mapping[str, Any], path: str = "spec") -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _written(below, f"{path}.{name}")
    if "items" in schema:
        yield from _written(schema["items"], path)


def _known(kind: Any, path: str = "spec") -> Iterator[str]:
    if dataclasses.is_dataclass(kind) and kind is not paidservice.Opaque:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            name = f"{path}.{to_camel(field.name)}"
            yield name
            yield from _known(hints[field.name], name)
    elif typing.get_origin(kind) in (tuple, typing.Union, types.UnionType, typing.Annotated):
        for below in typing.get_args(kind):
            yield from _known(below, path)
