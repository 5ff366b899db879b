"""What the gateway will do, in Envoy's nouns, with every name and default decided. Plain values, no behaviour
but small derivations; knows no YAML and renders nothing.

The compiler lowers PaidServices to one `Gateway`; `artifacts` renders it. Everything is sorted, so equal
services in any order give an equal Gateway.
"""

from dataclasses import dataclass
from typing import Final

from mpp_authz.pricing import Network, RoutePrice, Transport

#: What an absent `method` means. OPTIONS is CORS; TRACE and CONNECT are 405.
DEFAULT_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A route's path, matched after the basePath is removed and the path is normalised.

    Each segment is a literal, or None for one whole segment of any value (`{id}`, `:id`, `*`). `rest` is a last
    `/**`: the path itself, with or without a slash, and everything below it. `trailing_slash` is a literal last
    slash: `/a` and `/a/` are different. The path `/` has no segments.
    """

    segments: tuple[str | None, ...]
    rest: bool = False
    trailing_slash: bool = False

    def covers(self, narrow: "PathPattern") -> bool:
        """Whether every path of `narrow` is one of this pattern's."""
        if len(narrow.segments) < len(self.segments) or (narrow.rest and not self.rest):
            return False
        if not self.rest and (len(narrow.segments), narrow.trailing_slash) != (
            len(self.segments),
            self.trailing_slash,
        ):
            return False
        return all(w is None or w == n for w, n in zip(self.segments, narrow.segments, strict=False))


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; always bounded. Streaming routes use connect and idle only."""

    connect: float
    request: float
    upload: float
    idle: float


@dataclass(frozen=True, slots=True)
class Retries:
    """How often Envoy asks the upstream again. It never charges again: ext_authz is not re-run."""

    attempts: int
    on: tuple[str, ...]
    per_try: float | None


@dataclass(frozen=True, slots=True)
class Operation:
    """What the discovery documents say of a route, beside its price.

    The JSON parts are canonical text, so that routes are hashable. They are OpenAPI 3.1, checked; a `$ref` in them
    leads to a component of the service's `Listing`.
    """

    summary: str | None = None
    description: str | None = None
    operation_id: str | None = None
    tags: tuple[str, ...] = ()
    parameters: str | None = None  # a list
    request_body: str | None = None  # an object
    responses: str | None = None  # an object, by status


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a service; `key` joins Envoy's route, the Check and the pricing file."""

    key: str  # <namespace>/<service>/<route>
    methods: tuple[str, ...]
    path: PathPattern
    price: RoutePrice | None  # None: free
    streaming: bool = False  # no request timeout, the idle timeout only
    names: tuple[str, ...] = ()  # of the path's open segments, in order; "" and what is missing: it has none
    operation: Operation = Operation()
    operations: tuple[tuple[str, Operation], ...] = ()  # of the methods whose operation is another

    def described(self, method: str) -> Operation:
        """What the documents say of `method` here."""
        return dict(self.operations).get(method, self.operation) if self.operations else self.operation


@dataclass(frozen=True, slots=True)
class Injected:
    """A credential of ours that the upstream wants: the header it goes into and the SDS secret that holds the
    header's whole value ("Bearer …", "Basic …")."""

    header: str
    secret: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """An upstream. Shared by the services of one namespace that describe it alike."""

    name: str
    host: str
    port: int
    tls_server_name: str | None  # None: plain HTTP. TLS is always verified
    tls_ca_secret: str | None  # SDS validation context; None: the system's roots
    connect_timeout: float
    max_connections: int
    max_requests: int
    max_pending: int
    injected: Injected | None


@dataclass(frozen=True, slots=True)
class Currency:
    """How people write the amounts of one currency."""

    network: str
    address: str  # as offers have it, lower case
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What the discovery documents say of a service."""

    title: str  # one line
    description: str | None = None
    version: str = "1.0.0"
    categories: tuple[str, ...] = ()
    docs: tuple[tuple[str, str], ...] = ()  # (apiReference | homepage | llms, URI), by name
    currencies: tuple[Currency, ...] = ()  # of the offers; by network and address
    #: What the operations refer to: OpenAPI's `components` as canonical JSON. Their names begin with
    #: "<namespace>.<service>.", so that no two services' names are the same.
    components: str | None = None


def prefix(base_path: str) -> str:
    """What the paths below a basePath begin with: nothing below `/`."""
    return "" if base_path == "/" else base_path


def above(base_path: str) -> tuple[str, ...]:
    """The basePaths that a basePath lies under, the shortest first: `/`, and `/a` of `/a/b`. None of `/`."""
    parts = prefix(base_path).split("/")
    return tuple("/".join(parts[:end]) or "/" for end in range(1, len(parts)))


@dataclass(frozen=True, slots=True)
class Service:
    """One PaidService under one basePath of its hosts."""

    namespace: str
    name: str
    hosts: tuple[str, ...]  # lower case, no port
    base_path: str  # "/" or "/x/y", no trailing slash
    cluster: str
    upstream_host: str  # the Host header the upstream gets
    upstream_path: str  # path of upstream.url without its trailing slash: "" or "/v1"
    headers_set: tuple[tuple[str, str], ...]
    headers_remove: tuple[str, ...]
    timeouts: Timeouts
    retries: Retries
    cors_origins: tuple[str, ...]  # ("*",) is every origin
    routes: tuple[Route, ...]  # in the author's order: the first match wins
    listing: Listing | None = None  # None: in no discovery document

    @property
    def prefix(self) -> str:
        """What its paths begin with."""
        return prefix(self.base_path)


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the value of one SDS secret or authz key comes from: a key of a Secret in a namespace."""

    namespace: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class UpstreamSecret:
    """An SDS secret by name. `scheme` says how the header value is made: "raw" (the value alone), "bearer",
    "basic" (`username:value`, base64) or "basic-user" (`value:`, base64, as Stripe takes its keys); "ca" is a PEM
    bundle for a validation context."""

    name: str
    source: SecretSource
    scheme: str
    username: str = ""


@dataclass(frozen=True, slots=True)
class FeePayerKey:
    """A sponsor's signing key by the name `RoutePrice` offers refer to (`FeePayer.key`)."""

    name: str
    source: SecretSource


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything one artifact set is rendered from."""

    services: tuple[Service, ...]  # by (namespace, name)
    clusters: tuple[Cluster, ...]  # by name
    networks: tuple[Network, ...]  # by name
    transport: Transport
    upstream_secrets: tuple[UpstreamSecret, ...] = ()  # by name
    fee_payer_keys: tuple[FeePayerKey, ...] = ()  # by name

    def by_host(self) -> dict[str, tuple[Service, ...]]:
        """The services of each host, in their order. By host."""
        found: dict[str, list[Service]] = {}
        for service in self.services:
            for host in service.hosts:
                found.setdefault(host, []).append(service)
        return {host: tuple(services) for host, services in sorted(found.items())}
