"""Where a PaidService's requests go: the address, the credential, headers, timeouts, retries."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from mpp_operator import fields, patterns, presets
from mpp_operator.fields import (
    CONFIG,
    HeaderName,
    Host,
    KeyRef,
    Label,
    Mistake,
    checked,
    duration,
    matching,
    pairs,
    whole_number,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRef:
    """A Kubernetes Service in the PaidService's own namespace."""

    __pydantic_config__ = CONFIG
    name: Label
    port: Annotated[int, whole_number(1, 65535)]
    scheme: Literal["http", "https"] = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """`Authorization: Bearer <value>`."""

    __pydantic_config__ = CONFIG
    secret_ref: KeyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """`<header>: <value>`."""

    __pydantic_config__ = CONFIG
    header: HeaderName
    secret_ref: KeyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    """`Authorization: Basic <username>:<value>`. Without `username` the value is the user name and the password
    is empty, as Stripe wants it."""

    __pydantic_config__ = CONFIG
    username: Annotated[str, matching(patterns.USERNAME, "a user name without colon or space", 256)] | None = None
    secret_ref: KeyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How the upstream is paid or told who we are: exactly one."""

    __pydantic_config__ = CONFIG
    bearer: Bearer | None = None
    api_key: ApiKey | None = None
    basic: Basic | None = None


def _auth(auth: Auth) -> Iterator[Mistake]:
    yield from fields.one_of({"bearer": auth.bearer, "apiKey": auth.api_key, "basic": auth.basic})
    if auth.api_key:
        yield from _own_headers("apiKey.header", [auth.api_key.header])


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """What the upstream's requests get and lose."""

    __pydantic_config__ = CONFIG
    set: Annotated[
        tuple[tuple[str, str], ...],
        pairs(HeaderName, Annotated[str, matching(patterns.HEADER_VALUE, "printable ASCII", 4096)], 32),
    ] = ()
    remove: Annotated[tuple[HeaderName, ...], Field(max_length=32)] = ()


def _headers(headers: Headers) -> Iterator[Mistake]:
    names = [name for name, _ in headers.set]
    yield from _own_headers("set", names)
    yield from fields.once("set", "header", map(str.lower, names))
    yield from fields.once("remove", "header", headers.remove)
    if "host" in map(str.lower, headers.remove):
        yield "remove", "expected a header other than host, got 'host'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. Streaming routes use `connect` and `idle` only."""

    __pydantic_config__ = CONFIG
    connect: Annotated[float, duration("10ms", "1m")] = 2.0
    request: Annotated[float, duration("1ms", "1h")] = 60.0
    upload: Annotated[float, duration("1ms", "1h")] = 60.0
    idle: Annotated[float, duration("1s", "24h")] = 300.0


#: Nothing reached the upstream: asking again cannot do the work twice.
SAFE_RETRIES: Final = ("connect-failure", "refused-stream", "reset-before-request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and at what, the upstream is asked again."""

    __pydantic_config__ = CONFIG
    attempts: Annotated[int, whole_number(0, 10)] = 2
    on: Annotated[
        tuple[
            Literal[
                "connect-failure",
                "refused-stream",
                "reset-before-request",
                "reset",
                "gateway-error",
                "5xx",
                "retriable-4xx",
            ],
            ...,
        ],
        Field(min_length=1, max_length=7),
    ] = SAFE_RETRIES
    per_try: Annotated[float, duration("1ms", "1h")] | None = None


def _retries(retries: Retries) -> Iterator[Mistake]:
    return fields.once("on", "condition", retries.on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Circuit breakers of the upstream."""

    __pydantic_config__ = CONFIG
    connections: Annotated[int, whole_number(1, 1_000_000)] = 1024
    requests: Annotated[int, whole_number(1, 1_000_000)] = 1024
    pending: Annotated[int, whole_number(1, 1_000_000)] = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the upstream is verified, where the system's roots and the URL's host are not right."""

    __pydantic_config__ = CONFIG
    server_name: Host | None = None
    ca_secret_ref: KeyRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where requests go, and with what."""

    __pydantic_config__ = CONFIG
    preset: Literal["openai", "anthropic", "stripe"] | None = None
    url: (
        Annotated[
            str,
            matching(
                patterns.URL, "a URL such as https://api.example.com/v1, without user, query or fragment", 2048
            ),
        ]
        | None
    ) = None
    service: ServiceRef | None = None
    auth: Annotated[Auth, checked(_auth)] | None = None
    headers: Annotated[Headers, checked(_headers)] = Headers()
    timeouts: Timeouts = Timeouts()
    retries: Annotated[Retries, checked(_retries)] = Retries()
    limits: Limits = Limits()
    tls: Tls | None = None

    @property
    def effective_url(self) -> str | None:
        """The URL, the preset's where none is given; None for a Kubernetes Service."""
        if self.url is not None or self.service is not None or self.preset is None:
            return self.url
        return presets.PRESETS[self.preset].url

    @property
    def effective_auth(self) -> Auth | None:
        """The way to authenticate, the preset's where none is given."""
        if self.auth is not None or self.preset is None:
            return self.auth
        preset = presets.PRESETS[self.preset]
        ref = KeyRef(name=preset.secret, key=preset.key)
        match preset.auth:
            case "bearer":
                return Auth(bearer=Bearer(secret_ref=ref))
            case "apiKey":
                return Auth(api_key=ApiKey(header=preset.header, secret_ref=ref))
            case "basic":
                return Auth(basic=Basic(secret_ref=ref))

    @property
    def auth_header(self) -> str | None:
        """The header our credential goes into, lower case."""
        auth = self.effective_auth
        if auth is None:
            return None
        return auth.api_key.header.lower() if auth.api_key else "authorization"


def _upstream(upstream: Upstream) -> Iterator[Mistake]:
    url, service, header = upstream.url, upstream.service, upstream.auth_header
    if url is not None and service is not None:
        yield "", "expected exactly one of url, service, got both"
    if url is None and service is None and upstream.preset is None:
        yield "", "expected one of preset, url, service, got none"
    if url is not None and not _is_address(url.partition("//")[2]):
        yield "url", "expected an IPv6 address in the brackets"
    if url is not None and re.fullmatch(patterns.DOTTED_URL, url):
        yield "url", "expected no '.' or '..' segment"
    https = service.scheme == "https" if service else (url or "https:").startswith("https:")
    if upstream.tls and not https:
        yield "tls", "expected only with an https upstream, got http"
    if upstream.retries.per_try is not None and upstream.retries.per_try > upstream.timeouts.request:
        yield "retries.perTry", "expected at most timeouts.request"
    if header is not None and any(name.lower() == header for name, _ in upstream.headers.set):
        yield "headers.set", f"expected no {header!r}: auth sets it"


CheckedUpstream = Annotated[Upstream, checked(_upstream)]


def _is_address(authority: str) -> bool:
    """Whether what stands in brackets, if anything does, is an IPv6 address."""
    if not authority.startswith("["):
        return True
    try:
        ipaddress.IPv6Address(authority[1:].partition("]")[0])
    except ValueError:
        return False
    return True


def _own_headers(field: str, names: Iterable[str]) -> Iterator[Mistake]:
    for name in names:
        if re.fullmatch(patterns.FORBIDDEN_HEADER, name.lower()):
            yield field, f"expected a header that is not the gateway's own, got {name!r}"
