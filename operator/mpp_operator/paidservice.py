"""PaidService: what the author of an API says it costs. Parsed once, frozen; every mistake is named by its field.

Knows the shape and what can be judged from one document alone; what needs the gateway (networks, allow-lists,
other services) is the compiler's. Knows no Envoy, no Kubernetes client, no file. Fields are camelCase in YAML.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from mpp_operator import ir, money, presets
from mpp_operator.status import Problem, Reason

API_VERSION: Final = "mpp-gateway.dev/v1alpha1"
KIND: Final = "PaidService"

MAX_ROUTES: Final = 200
MAX_OFFERS: Final = 8
MAX_HOSTS: Final = 16

CONFIG: Final = ConfigDict(
    extra="forbid", alias_generator=to_camel, validate_by_name=False, validate_by_alias=True
)


class SpecError(ValueError):
    """The author of the YAML made mistakes: all of them, by field."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


# --- Scalars ---------------------------------------------------------------------------------------------


def matching(pattern: str, expected: str, longest: int) -> BeforeValidator:
    """A validator of strings that match `pattern` as a whole; its error says what was expected. `pattern` is
    written for RE2 as well: the CRD carries the same one."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: Any) -> str:
        if isinstance(value, str) and len(value) > longest:
            raise expected_error(f"at most {longest} characters")
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise expected_error(expected)
        return value

    return BeforeValidator(check)


def whole_number(least: int, most: int) -> BeforeValidator:
    """A validator of integers within bounds. True is no number."""

    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise expected_error(f"a whole number from {least} to {most}")
        return value

    return BeforeValidator(check)


def duration(least: str, most: str, *, whole_seconds: bool = False) -> BeforeValidator:
    """A validator of durations such as "5m" within bounds, giving seconds."""
    expected = f"a duration from {least} to {most}" + (" in whole seconds" if whole_seconds else "")
    compiled = re.compile(DURATION, re.ASCII)

    def check(value: Any) -> float:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise expected_error(expected)
        length = milliseconds(value)
        if not milliseconds(least) <= length <= milliseconds(most) or (whole_seconds and length % 1000):
            raise expected_error(expected)
        return length // 1000 if whole_seconds else length / 1000

    return BeforeValidator(check)


def milliseconds(text: str) -> int:
    """A text that matches DURATION in milliseconds: "1h30m" is 5400000."""
    return sum(int(n) * _DURATION_UNITS[unit] for n, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))


def expected_error(expected: str) -> PydanticCustomError:
    """What a validator raises: `expected` completes "expected ..."."""
    return PydanticCustomError("expected", "{expected}", {"expected": expected})


def problems_error(found: Iterable[tuple[str, str]]) -> PydanticCustomError:
    """What a validator of an object raises: (field relative to the object, message) of each problem."""
    return PydanticCustomError("problems", "several problems", {"problems": tuple(found)})


def pairs(key: Any, value: Any, most: int) -> GetPydanticSchema:
    """The schema of a YAML object as sorted pairs: hashable, unlike a dict."""

    def freeze(mapping: dict[Any, Any]) -> tuple[tuple[Any, Any], ...]:
        if len(mapping) > most:
            raise expected_error(f"at most {most} fields")
        return tuple(sorted(mapping.items()))

    return GetPydanticSchema(
        lambda _source, handler: core_schema.no_info_after_validator_function(
            freeze, handler.generate_schema(dict[key, value])
        )
    )


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise expected_error("true or false")
    return value


def _instant(value: Any) -> int:
    """A moment as Unix seconds. PyYAML has already read an unquoted one."""
    if isinstance(value, str) and re.fullmatch(INSTANT, value, re.ASCII):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise expected_error("a date that exists") from error
    if not isinstance(value, datetime):
        raise expected_error("an RFC 3339 time such as 2026-01-01T00:00:00Z")
    return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())


def _true(value: Any) -> bool:
    if value is not True:
        raise expected_error("true, or no field at all")
    return True


_DURATION_UNITS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

# Patterns are matched as a whole, and written for RE2 as well as for Python: the CRD carries the same.
DURATION: Final = r"([0-9]{1,5}(h|m|s|ms)){1,4}"  # Gateway API's (GEP-2257)
INSTANT: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
HOST: Final = rf"{LABEL}(\.{LABEL})*"
OBJECT_NAME: Final = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
SECRET_KEY: Final = r"[-._a-zA-Z0-9]{1,253}"  # noqa: S105 -- a pattern
HEADER_NAME: Final = r"[A-Za-z0-9!#$&'*+.^_|~-]{1,128}"
HEADER_VALUE: Final = r"[\t\x20-\x7e]*"
USERNAME: Final = r"[\x21-\x39\x3b-\x7e]{1,256}"  # a colon ends the user name of HTTP Basic
CURRENCY: Final = r"[A-Za-z0-9._-]{1,64}"
ADDRESS: Final = r"0x[0-9a-fA-F]{40}"
ZERO_ADDRESS: Final = "0x" + 40 * "0"
BASE_PATH: Final = r"/|(/[A-Za-z0-9._~-]+)+"
_SEGMENT: Final = r"([A-Za-z0-9._~!$&'()+,;=@-][A-Za-z0-9._~!$&'()+,;=:@-]*|\{[A-Za-z0-9_-]+\}|:[A-Za-z0-9_-]+|\*)"
PATH: Final = rf"/|/\*\*|(/{_SEGMENT})+(/|/\*\*)?"
DOT_SEGMENT: Final = r"(.*/)?\.\.?(/.*)?"
_DOTTED_URL: Final = rf"https?://[^/]*/{DOT_SEGMENT}"
#: Under a host's root and under every basePath these are the gateway's own.
RESERVED: Final = r"/(openapi\.json|llms\.txt|(services|discover)(\.[^/]*)?|-)(/.*)?"
#: These stay the gateway's own also where a service does without discovery.
ALWAYS_RESERVED: Final = r"/-(/.*)?"
_URL_LABEL: Final = r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_URL_HOST: Final = rf"({_URL_LABEL}(\.{_URL_LABEL})*|\[[0-9a-fA-F:.]+\])"
_PORT: Final = (
    r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # to 65535
)
URL: Final = rf"https?://{_URL_HOST}(:{_PORT})?(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?"
LINE: Final = r"[^\x00-\x1f]+"
VERSION: Final = r"[\x21-\x7e]+"
CATEGORY: Final = r"[a-z0-9]+(-[a-z0-9]+)*"
OPERATION_ID: Final = r"[A-Za-z0-9._-]+"
LINK: Final = r"https?://[\x21-\x7e]+"
ORIGIN: Final = r"\*|https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?"
#: Headers that are not the author's to set: they steer the connection, Envoy, or what the upstream believes of
#: a payment. Compared in lower case.
FORBIDDEN_HEADER: Final = (
    r"host|connection|keep-alive|proxy-connection|proxy-authenticate|proxy-authorization|te|trailer"
    r"|transfer-encoding|upgrade|content-length|payment-.*|x-mpp-.*|x-envoy-.*"
)

Boolean = Annotated[bool, BeforeValidator(_boolean)]
Instant = Annotated[int, BeforeValidator(_instant)]
Label = Annotated[str, matching(LABEL, "a name of lower-case letters, digits and hyphens, at most 63", 63)]
ObjectName = Annotated[str, matching(OBJECT_NAME, "the name of a Kubernetes object", 253)]
Host = Annotated[str, matching(HOST, "a host name in lower case, without port or wildcard", 253)]
HeaderName = Annotated[str, matching(HEADER_NAME, "a header name", 128)]
Decimal = Annotated[str, matching(money.DECIMAL.pattern, 'a decimal string such as "0.05" (in quotes)', 64)]
BaseUnits = Annotated[str, matching(money.BASE_UNITS.pattern, 'whole base units such as "50000" (in quotes)', 38)]
Currency = Annotated[str, matching(CURRENCY, "a currency's symbol or its 0x address", 64)]
Link = Annotated[str, matching(LINK, "an http or https URL", 2048)]
Origin = Annotated[str, matching(ORIGIN, '"*" or an origin such as "https://app.example.com"', 256)]
Title = Annotated[str, matching(LINE, "a line of text (in quotes)", 120)]
Description = Annotated[str, matching(r"(?s).*", "text (in quotes)", 2000)]


# --- The spec --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRef:
    """A key of a Secret or ConfigMap in the PaidService's own namespace."""

    __pydantic_config__ = CONFIG
    name: ObjectName
    key: Annotated[str, matching(SECRET_KEY, "a key of letters, digits, '-', '_' and '.'", 253)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Docs:
    """Where people and agents read on."""

    __pydantic_config__ = CONFIG
    homepage: Link | None = None
    api_reference: Link | None = None
    llms: Link | None = None


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
    username: Annotated[str, matching(USERNAME, "a user name without colon or space", 256)] | None = None
    secret_ref: KeyRef


def _auth(auth: "Auth") -> "Auth":
    one_of({"bearer": auth.bearer, "apiKey": auth.api_key, "basic": auth.basic})
    if auth.api_key:
        _refuse(_forbidden_headers("apiKey.header", [auth.api_key.header]))
    return auth


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """How the upstream is paid or told who we are: exactly one."""

    __pydantic_config__ = CONFIG
    bearer: Bearer | None = None
    api_key: ApiKey | None = None
    basic: Basic | None = None


def _headers(headers: "Headers") -> "Headers":
    names = [name for name, _ in headers.set]
    problems = _forbidden_headers("set", names)
    problems += [("set", f"expected each header once, got {n!r} again") for n in _repeated(map(str.lower, names))]
    problems += [("remove", f"expected each header once, got {n!r} again") for n in _repeated(headers.remove)]
    problems += [
        ("remove", "expected a header other than host, got 'host'") for n in headers.remove if n.lower() == "host"
    ]
    _refuse(problems)
    return headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """What the upstream's requests get and lose."""

    __pydantic_config__ = CONFIG
    set: Annotated[
        tuple[tuple[str, str], ...],
        pairs(HeaderName, Annotated[str, matching(HEADER_VALUE, "printable ASCII", 4096)], 32),
    ] = ()
    remove: Annotated[tuple[HeaderName, ...], Field(max_length=32)] = ()


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


def _retries(retries: "Retries") -> "Retries":
    _refuse([("on", f"expected each condition once, got {n!r} again") for n in _repeated(retries.on)])
    return retries


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


def _upstream(upstream: "Upstream") -> "Upstream":
    problems = []
    if upstream.url is not None and upstream.service is not None:
        problems.append(("", "expected exactly one of url, service, got both"))
    if upstream.url is None and upstream.service is None and upstream.preset is None:
        problems.append(("", "expected one of preset, url, service, got none"))
    if upstream.url is not None and not _is_address(upstream.url.partition("//")[2]):
        problems.append(("url", "expected an IPv6 address in the brackets"))
    if upstream.url is not None and re.fullmatch(_DOTTED_URL, upstream.url):
        problems.append(("url", "expected no '.' or '..' segment"))
    https = (
        upstream.service.scheme == "https" if upstream.service else (upstream.url or "https:").startswith("https:")
    )
    if upstream.tls and not https:
        problems.append(("tls", "expected only with an https upstream, got http"))
    if upstream.retries.per_try is not None and upstream.retries.per_try > upstream.timeouts.request:
        problems.append(("retries.perTry", "expected at most timeouts.request"))
    header = upstream.auth_header
    if header is not None and any(name.lower() == header for name, _ in upstream.headers.set):
        problems.append(("headers.set", f"expected no {header!r}: auth sets it"))
    _refuse(problems)
    return upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where requests go, and with what."""

    __pydantic_config__ = CONFIG
    preset: Literal["openai", "anthropic", "stripe"] | None = None
    url: Annotated[str, matching(URL, "a URL such as https://api.example.com/v1", 2048)] | None = None
    service: ServiceRef | None = None
    auth: Annotated[Auth, AfterValidator(_auth)] | None = None
    headers: Annotated[Headers, AfterValidator(_headers)] = Headers()
    timeouts: Timeouts = Timeouts()
    retries: Annotated[Retries, AfterValidator(_retries)] = Retries()
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


def _recipient_from(source: "RecipientFrom") -> "RecipientFrom":
    one_of({"configMapRef": source.config_map_ref, "secretRef": source.secret_ref})
    return source


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientFrom:
    """Where the recipient's address is written: exactly one."""

    __pydantic_config__ = CONFIG
    config_map_ref: KeyRef | None = None
    secret_ref: KeyRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePayer:
    """The gateway pays the payer's network fee, within limits."""

    __pydantic_config__ = CONFIG
    secret_ref: KeyRef
    max_per_minute: Annotated[int, whole_number(1, 100_000)] = 60
    max_per_payer_per_minute: Annotated[int, whole_number(1, 100_000)] = 6
    min_balance: Decimal = "1"  # units of the fee token, which has the network's decimals


def _offer(offer: "Offer") -> "Offer":
    one_of({"recipient": offer.recipient, "recipientFrom": offer.recipient_from})
    problems = [("modes", f"expected each mode once, got {mode!r} again") for mode in _repeated(offer.modes)]
    if offer.recipient == ZERO_ADDRESS:
        problems.append(("recipient", "expected an address somebody owns, got the zero address"))
    _refuse(problems)
    return replace(offer, name=offer.name or offer.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way to pay. `name` is the method's unless it is given."""

    __pydantic_config__ = CONFIG
    name: Label = ""
    method: Label
    network: Label
    currency: Currency
    recipient: Annotated[str, matching(ADDRESS, "an 0x address of 40 hexadecimal digits", 42)] | None = None
    recipient_from: Annotated[RecipientFrom, AfterValidator(_recipient_from)] | None = None
    modes: Annotated[tuple[Literal["pull", "push"], ...], Field(min_length=1, max_length=2)] = ("pull", "push")
    fee_payer: FeePayer | None = None


def _offers(offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    repeated = _repeated(offer.name for offer in offers)
    _refuse([("", f"expected unique offer names, got {name!r} again: name it") for name in repeated])
    return offers


Offers = Annotated[
    tuple[Annotated[Offer, AfterValidator(_offer)], ...],
    Field(min_length=1, max_length=MAX_OFFERS),
    AfterValidator(_offers),
]
ExpiresIn = Annotated[int, duration("15s", "1h", whole_seconds=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What a payer is owed whose request was not delivered."""

    __pydantic_config__ = CONFIG
    attempts: Annotated[int, whole_number(1, 10)] = 3
    life: Annotated[int, duration("1m", "720h", whole_seconds=True)] = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """How this service is paid."""

    __pydantic_config__ = CONFIG
    realm: Host | None = None  # None: the request's host
    credential_header: Literal["Authorization", "Payment-Authorization"] = "Authorization"
    expires_in: ExpiresIn | None = None  # None: the gateway's default
    offers: Offers | None = None  # None: the gateway's default offers
    credit: Credit = Credit()
    not_before: Instant | None = None  # Unix seconds; None: no quote is revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a route takes."""

    __pydantic_config__ = CONFIG
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] | None = None  # None: all of these
    path: Annotated[str, matching(PATH, "a path such as /v1/users/{id} or /files/**", 512)]

    @property
    def methods(self) -> tuple[str, ...]:
        """HTTP methods. HEAD goes with GET, priced the same: never a free look."""
        if self.method is None:
            return ir.DEFAULT_METHODS
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def pattern(self) -> ir.PathPattern:
        """The path, parsed."""
        return path_pattern(self.path)


def _price(price: "Price") -> "Price":
    one_of({"amount": price.amount, "baseUnits": price.base_units})
    return price


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One price for every offer: in units of the offer's currency, or in its base units."""

    __pydantic_config__ = CONFIG
    amount: Decimal | None = None
    base_units: BaseUnits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The body is bound to the challenge, too; larger ones get 413."""

    __pydantic_config__ = CONFIG
    max_bytes: Annotated[int, whole_number(1, 1_048_576)]


@dataclass(frozen=True, slots=True)
class Opaque:
    """A JSON object that is only handed on, as canonical text: hashable, unlike the object."""

    text: str

    @property
    def value(self) -> Mapping[str, Any]:
        """The object, anew each time."""
        document: Mapping[str, Any] = json.loads(self.text)
        return document


def _opaque(value: Any) -> Opaque:
    if isinstance(value, Opaque):
        return value
    if not isinstance(value, Mapping):
        raise expected_error("an object")
    try:
        return Opaque(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise expected_error("values that JSON can hold (quote dates)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApi:
    """What the discovery document says of a route, beside its price."""

    __pydantic_config__ = CONFIG
    summary: Title | None = None
    operation_id: Annotated[str, matching(OPERATION_ID, "an operation id", 120)] | None = None
    request_body: Annotated[Opaque, PlainValidator(_opaque)] | None = None
    responses: Annotated[Opaque, PlainValidator(_opaque)] | None = None


def _route(route: "Route") -> "Route":
    one_of({"price": route.price, "prices": route.prices or None, "free": route.free or None})
    problems = []
    if re.fullmatch(DOT_SEGMENT, route.match.path):
        problems.append(("match.path", "expected no '.' or '..' segment"))
    if route.free:
        given = {"idempotent": route.idempotent, "digest": route.digest, "bindQuery": not route.bind_query}
        problems += [(name, "expected only on a priced route") for name, found in given.items() if found]
    _refuse(problems)
    return replace(route, name=route.name or derived_name(route.match))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `name` is part of its key; it is derived from method and path unless it is given."""

    __pydantic_config__ = CONFIG
    name: Label = ""
    match: Match
    price: Annotated[Price, AfterValidator(_price)] | None = None
    prices: Annotated[tuple[tuple[str, str], ...], pairs(Label, Decimal, MAX_OFFERS)] = ()  # by offer name
    free: Annotated[bool, BeforeValidator(_true)] = False
    description: Description | None = None
    streaming: Boolean = False
    idempotent: Boolean = False
    bind_query: Boolean = True
    digest: Digest | None = None
    openapi: OpenApi | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which pages may read the answers. Cookies are never allowed."""

    __pydantic_config__ = CONFIG
    origins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=16)] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Whether the service is in the discovery documents."""

    __pydantic_config__ = CONFIG
    enabled: Boolean = True


def _spec(spec: "Spec") -> "Spec":
    problems = [("hosts", f"expected each host once, got {host!r} again") for host in _repeated(spec.hosts)]
    problems += [("categories", f"expected each once, got {name!r} again") for name in _repeated(spec.categories)]
    if spec.base_path == "/" and not spec.hosts:
        problems.append(("basePath", "expected hosts of its own beside '/', got none"))
    if re.fullmatch(DOT_SEGMENT, spec.base_path):
        problems.append(("basePath", "expected no '.' or '..' segment"))
    if re.fullmatch(RESERVED, spec.base_path):
        problems.append(("basePath", f"expected a path that is not the gateway's own, got {spec.base_path!r}"))
    reserved = RESERVED if spec.discovery.enabled else ALWAYS_RESERVED
    names: dict[str, int] = {}
    for index, route in enumerate(spec.routes):
        if re.fullmatch(reserved, route.match.path):
            problems.append(
                (f"routes[{index}].match.path", f"expected a path not the gateway's own, got {route.match.path!r}")
            )
        first = names.setdefault(route.name, index)
        if first != index:
            problems.append(
                (
                    f"routes[{index}].name",
                    f"expected a name unique in the service, got {route.name!r} as routes[{first}]",
                )
            )
    if spec.payment.offers:
        problems += prices_problems(spec.routes, spec.payment.offers)
    _refuse(problems)
    return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The spec, with every default decided that does not depend on the gateway."""

    __pydantic_config__ = CONFIG
    title: Title = ""  # parse: the object's name
    description: Description | None = None
    version: Annotated[str, matching(VERSION, 'a version such as "1.0.0" (in quotes)', 64)] = "1.0.0"
    categories: Annotated[
        tuple[Annotated[str, matching(CATEGORY, "lower-case words and hyphens", 32)], ...],
        Field(max_length=5),
    ] = ()
    docs: Docs = Docs()
    hosts: Annotated[tuple[Host, ...], Field(max_length=MAX_HOSTS)] = ()  # (): the gateway's
    base_path: Annotated[str, matching(BASE_PATH, "a path such as /llm, without a last slash", 256)] = ""  # parse
    upstream: Annotated[Upstream, AfterValidator(_upstream)]
    payment: Payment = Payment()
    routes: Annotated[
        tuple[Annotated[Route, AfterValidator(_route)], ...], Field(min_length=1, max_length=MAX_ROUTES)
    ]
    cors: Cors = Cors()
    discovery: Discovery = Discovery()


@dataclass(frozen=True, slots=True)
class PaidService:
    """One object, as its author meant it."""

    namespace: str
    name: str
    spec: Spec
    generation: int = 0
    created: int | None = None  # Unix seconds; None: not from an API server, younger than any that is

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name


# --- The door --------------------------------------------------------------------------------------------


def parse(document: Mapping[str, Any]) -> PaidService:
    """Read one PaidService from its YAML or JSON document.

    Raises:
        SpecError: with every problem found. Problems that need more than the object's parts (unique names,
            reserved paths) are only looked for when the parts are right.
    """
    if not isinstance(document, Mapping):
        raise SpecError([Problem(Reason.INVALID_SPEC, "", f"expected an object, got {_kind(document)}")])
    problems: list[Problem] = list(
        _key_problems({k: v for k, v in document.items() if k not in ("metadata", "spec")})
    )
    for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(name) != expected:
            problems.append(_invalid(name, f"expected {expected}, got {_shown(document.get(name))}"))
    for name in document:
        if isinstance(name, str) and name not in ("apiVersion", "kind", "metadata", "spec", "status"):
            problems.append(_invalid(name, "unknown field"))
    metadata = validated(_METADATA, document.get("metadata", {}), "metadata", problems)
    body = document.get("spec", _MISSING)
    if body is _MISSING:
        raise SpecError([*problems, _invalid("spec", "expected an object, got nothing")])
    spec = validated(_SPEC, body, "spec", problems)
    if problems or metadata is None or spec is None:
        raise SpecError(problems)
    if not spec.base_path:
        spec = replace(spec, base_path=f"/{metadata.name}")
        if re.fullmatch(RESERVED, spec.base_path):
            raise SpecError([_invalid("spec.basePath", f"expected one: {spec.base_path!r} is the gateway's own")])
    spec = replace(spec, title=spec.title or metadata.name)
    return PaidService(metadata.namespace, metadata.name, spec, metadata.generation, metadata.creation_timestamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metadata:
    __pydantic_config__ = ConfigDict(
        extra="ignore", alias_generator=to_camel
    )  # labels, managedFields ...: not ours
    name: Label
    namespace: Label = "default"
    generation: Annotated[int, whole_number(0, 2**63 - 1)] = 0
    creation_timestamp: Instant | None = None


_METADATA: Final = TypeAdapter(_Metadata)
_SPEC: Final = TypeAdapter(Annotated[Spec, AfterValidator(_spec)])
_MISSING: Final = object()


# --- Paths and names -------------------------------------------------------------------------------------


def path_pattern(path: str) -> ir.PathPattern:
    """`path`, which matches PATH, as segments."""
    rest = path.endswith("/**")
    bare = path.removesuffix("/**") if rest else path
    segments = tuple(None if part == "*" or part[0] in "{:" else part for part in bare.split("/") if part)
    return ir.PathPattern(segments, rest, trailing_slash=not rest and bool(segments) and bare.endswith("/"))


def derived_name(match: Match) -> str:
    """The name of a route that has none: "get-v1-models-id" of GET /v1/models/{id}. At most 63 characters."""
    words = [match.method or "any", *re.findall(r"[A-Za-z0-9]+|\*+", match.path)]
    named = ["rest" if word == "**" else "any" if word == "*" else word for word in words]
    name = "-".join(named).lower()
    if len(name) > 63:
        name = f"{name[:54].rstrip('-')}-{hashlib.sha256(match.path.encode()).hexdigest()[:8]}"
    return name


def prices_problems(routes: Sequence[Route], offers: Sequence[Offer]) -> list[tuple[str, str]]:
    """What is wrong with `prices`, which must name each offer: (field below spec, message)."""
    names = {offer.name for offer in offers}
    problems = []
    for index, route in enumerate(routes):
        given = {name for name, _ in route.prices}
        field = f"routes[{index}].prices"
        problems += [(f"{field}.{n}", f"expected an offer of {sorted(names)}") for n in sorted(given - names)]
        if given:
            problems += [(field, f"expected a price for offer {n!r}, got none") for n in sorted(names - given)]
    return problems


def one_of(fields: Mapping[str, object]) -> None:
    """Refuse an object that has not exactly one of `fields`; None is absent."""
    given = [name for name, value in fields.items() if value is not None]
    if len(given) != 1:
        expected = f"expected exactly one of {', '.join(fields)}, got {' and '.join(given) or 'none'}"
        raise problems_error([("", expected)])


def _refuse(problems: Sequence[tuple[str, str]]) -> None:
    if problems:
        raise problems_error(problems)


def _repeated(values: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]  # add is None


def _is_address(authority: str) -> bool:
    """Whether what stands in brackets, if anything does, is an IPv6 address."""
    if not authority.startswith("["):
        return True
    try:
        ipaddress.IPv6Address(authority[1:].partition("]")[0])
    except ValueError:
        return False
    return True


def _forbidden_headers(field: str, names: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (field, f"expected a header that is not the gateway's own, got {name!r}")
        for name in names
        if re.fullmatch(FORBIDDEN_HEADER, name.lower())
    ]


# --- Errors ----------------------------------------------------------------------------------------------

_T = TypeVar("_T")


def validated(adapter: TypeAdapter[_T], value: Any, field: str, problems: list[Problem]) -> _T | None:
    """`value` through `adapter`; what is wrong with it goes to `problems`."""
    problems += _key_problems(value, field)
    found, stripped = _without_nulls(value, field)
    problems += found
    try:
        return adapter.validate_python(stripped)
    except ValidationError as error:
        known = {problem.field for problem in found}
        problems += [problem for problem in problems_of(error, field) if problem.field not in known]
        return None


def problems_of(error: ValidationError, field: str) -> list[Problem]:
    """Each thing that pydantic found wrong below `field`."""
    found = error.errors(include_url=False)
    inside = {details["loc"][:-1] for details in found} | {details["loc"][:-2] for details in found}
    # A list whose entries are wrong counts as short of them, which tells the author nothing.
    told = [details for details in found if details["type"] != "too_short" or details["loc"] not in inside]
    return [problem for details in told for problem in _problems(details, field)]


_EXPECTED: Final = {
    "dataclass_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "string_type": "a string (in quotes)",
}


def _problems(details: ErrorDetails, field: str) -> Iterator[Problem]:
    loc = [part for part in details["loc"] if part != "[key]"]
    where = _path(field, loc)
    context = details.get("ctx", {})
    match details["type"]:
        case "problems":
            for below, message in context["problems"]:
                yield _invalid(f"{where}.{below}".strip("."), message)
            return
        case "unexpected_keyword_argument":
            yield _invalid(where, "unknown field")
            return
        case "missing":
            yield _invalid(where, "expected a value, got nothing")
            return
        case "expected":
            expected = context["expected"]
        case "literal_error":
            expected = context["expected"]
        case "too_long":
            expected = f"at most {context['max_length']} entries"
        case "too_short":
            expected = f"at least {context['min_length']} entries"
        case kind:
            expected = _EXPECTED.get(kind) or details["msg"]
    got = _shown(details["input"]) if _may_show(loc) else _kind(details["input"])
    yield _invalid(where, f"expected {expected}, got {got}")


def _path(field: str, loc: Iterable[str | int]) -> str:
    for part in loc:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    return field.removeprefix(".")


#: Below these somebody may have written a secret by mistake: the value is not repeated.
_PRIVATE: Final = frozenset(
    {"auth", "set", "secretRef", "caSecretRef", "feePayer", "recipientFrom", "url", "docs"}
)


def _may_show(loc: Iterable[str | int]) -> bool:
    return _PRIVATE.isdisjoint(loc)


def _shown(value: Any) -> str:
    """A scalar as it was written, shortened; of anything else its kind."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    return _kind(value)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _invalid(field: str, message: str) -> Problem:
    return Problem(Reason.INVALID_SPEC, field, message)


#: What lies below is handed on as it is.
_OPAQUE_FIELDS: Final = frozenset({"requestBody", "responses"})


def _without_nulls(value: Any, field: str) -> tuple[list[Problem], Any]:
    """`value` less its nulls, and a problem for each: the API server refuses them, too."""
    if isinstance(value, Mapping):
        problems, kept = [], {}
        for key, below in value.items():
            if not isinstance(key, str):
                continue  # see _key_problems
            if below is None:
                where = _path(field, [key])
                problems.append(_invalid(where, "expected a value or no field at all, got null"))
            elif key in _OPAQUE_FIELDS:
                kept[key] = below
            else:
                found, kept[key] = _without_nulls(below, _path(field, [key]))
                problems += found
        return problems, kept
    if isinstance(value, list | tuple):
        problems, entries = [], []
        for index, below in enumerate(value):
            found, entry = _without_nulls(below, f"{field}[{index}]")
            problems += found
            entries.append(entry)
        return problems, entries
    return [], value


def _key_problems(value: Any, field: str = "") -> Iterator[Problem]:
    """Keys that are no strings. YAML 1.1, which PyYAML and kubectl read, makes a boolean of an unquoted `on`."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            name = key if isinstance(key, str) else str(key)
            path = _path(field, [name])
            if not isinstance(key, str):
                hint = "; YAML reads an unquoted on, off, yes or no as a boolean" if isinstance(key, bool) else ""
                yield _invalid(path, f"expected a field name in quotes, got {_kind(key)}{hint}")
            yield from _key_problems(below, path)
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):
            yield from _key_problems(below, f"{field}[{index}]")
