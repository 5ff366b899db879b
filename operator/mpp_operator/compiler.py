"""The compiler: PaidServices in, artifacts and conditions out. A pure function: no clock, no file, no network.

`lower` decides (names, defaults, conflicts, allow-lists, amounts); `artifacts` renders. Services come in any
order, and every result is sorted.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeVar
from urllib.parse import urlsplit

from mpp_authz import pricing as contract
from mpp_operator import ir, money, paidservice, presets, status
from mpp_operator.artifacts import Files, clusters, pricing, routes
from mpp_operator.gateway import ANYTHING, GatewayConfig, Namespace, Network
from mpp_operator.paidservice import KeyRef, Offer, PaidService, RecipientFrom, Route, Spec, Upstream
from mpp_operator.status import Condition, Problem, Reason, Summary

#: (namespace, name).
Key = tuple[str, str]

#: A streaming route's lease, renewed by periodic access log entries.
STREAMING_LEASE: Final = 60


@dataclass(frozen=True, slots=True)
class RecipientSource:
    """Where a `recipientFrom` is read, by the shell: the compiler gets values only."""

    kind: str  # "ConfigMap" or "Secret"
    namespace: str
    name: str
    key: str


#: Values of `recipientFrom`, as far as they were found.
Recipients = Mapping[RecipientSource, str]
NO_RECIPIENTS: Final[Recipients] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lowered:
    """What will be served, what each service is told, and the columns of the accepted ones."""

    gateway: ir.Gateway
    conditions: Mapping[Key, tuple[Condition, ...]]
    summaries: Mapping[Key, Summary]


@dataclass(frozen=True, slots=True)
class Compilation:
    """One artifact set, with what it was rendered from. `revision` is the content hash of `artifacts`."""

    artifacts: Files
    gateway: ir.Gateway
    conditions: Mapping[Key, tuple[Condition, ...]]
    summaries: Mapping[Key, Summary]
    revision: str


def compile(  # noqa: A001 -- the verb of the field, always written compiler.compile
    services: Iterable[PaidService], config: GatewayConfig, recipients: Recipients = NO_RECIPIENTS
) -> Compilation:
    """Lower and render. A service that is not accepted is in `conditions` and in no artifact."""
    lowered = lower(services, config, recipients)
    files = {**routes.render(lowered.gateway), **clusters.render(lowered.gateway)}
    revision = _digest({**files, **pricing.render(lowered.gateway)})
    files |= pricing.render(lowered.gateway, revision)
    return Compilation(MappingProxyType(files), lowered.gateway, lowered.conditions, lowered.summaries, revision)


def lower(
    services: Iterable[PaidService], config: GatewayConfig, recipients: Recipients = NO_RECIPIENTS
) -> Lowered:
    """Decide every name, default and conflict.

    The older service wins a place (creationTimestamp, then namespace/name); only accepted services hold one.
    """
    accepted: dict[Key, _Piece] = {}
    conditions: dict[Key, tuple[Condition, ...]] = {}
    places = _Places()
    # Without the other namespaces' policies: what a service is lowered with is hashed each time.
    shared = replace(config, namespaces=())
    policies = dict(config.namespaces)
    shared_sources = gateway_recipient_sources(config)
    for service in sorted(services, key=_age):
        sources = recipient_sources(service) if service.spec.payment.offers else shared_sources
        found = tuple((source, recipients[source]) for source in sources if source in recipients)
        piece = _lower_service(service, shared, policies.get(service.namespace, ANYTHING), found)
        problems = piece.problems or places.claim(service.key, service.spec.base_path, _hosts(service, config))
        told = [status.refused(problems, service.generation) if problems else status.accepted(service.generation)]
        if piece.unresolved:
            told.append(status.unresolved(piece.unresolved, service.generation))
        conditions[service.key] = tuple(told)
        if not problems and not piece.unresolved:
            accepted[service.key] = piece
    pieces = [accepted[key] for key in sorted(accepted)]
    gateway = ir.Gateway(
        services=tuple(piece.service for piece in pieces if piece.service),
        clusters=_by_name(piece.cluster for piece in pieces if piece.cluster),
        networks=_networks(config),
        transport=contract.Transport(config.insecure_http, config.tls.terminated_by if config.tls else ()),
        upstream_secrets=_by_name(secret for piece in pieces for secret in piece.secrets),
        fee_payer_keys=_by_name(key for piece in pieces for key in piece.fee_payers),
    )
    return Lowered(
        gateway,
        MappingProxyType(dict(sorted(conditions.items()))),
        MappingProxyType({key: piece.summary for key, piece in sorted(accepted.items()) if piece.summary}),
    )


def refs(service: PaidService) -> tuple[ir.SecretSource, ...]:
    """The Secrets' keys that must exist for `service`: its upstream's credential and CA, its sponsors' keys and
    recipients. Sorted, each once."""
    spec = service.spec
    found = [
        ref for ref in (_auth_ref(spec.upstream), spec.upstream.tls and spec.upstream.tls.ca_secret_ref) if ref
    ]
    for offer in spec.payment.offers or ():
        if offer.fee_payer:
            found.append(offer.fee_payer.secret_ref)
        if offer.recipient_from and offer.recipient_from.secret_ref:
            found.append(offer.recipient_from.secret_ref)
    sources = {ir.SecretSource(service.namespace, ref.name, ref.key) for ref in found}
    return tuple(sorted(sources, key=_source_order))


def gateway_refs(config: GatewayConfig) -> tuple[ir.SecretSource, ...]:
    """The Secrets' keys that gateway.yaml itself needs, beside the challenge keys: those of its default offers."""
    found = [offer.fee_payer.secret_ref for offer in config.offers if offer.fee_payer]
    found += [
        o.recipient_from.secret_ref for o in config.offers if o.recipient_from and o.recipient_from.secret_ref
    ]
    return tuple(sorted({ir.SecretSource(config.namespace, r.name, r.key) for r in found}, key=_source_order))


def recipient_sources(service: PaidService) -> tuple[RecipientSource, ...]:
    """Where the recipients of `service`'s own offers are read."""
    return _recipient_sources(service.spec.payment.offers or (), service.namespace)


def gateway_recipient_sources(config: GatewayConfig) -> tuple[RecipientSource, ...]:
    """Where the recipients of the default offers are read."""
    return _recipient_sources(config.offers, config.namespace)


def _recipient_sources(offers: Sequence[Offer], namespace: str) -> tuple[RecipientSource, ...]:
    return tuple(_recipient_source(o.recipient_from, namespace) for o in offers if o.recipient_from)


# --- One service -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """One service, lowered. With `problems` or `unresolved`, nothing of it is served."""

    problems: tuple[Problem, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    service: ir.Service | None = None
    cluster: ir.Cluster | None = None
    secrets: tuple[ir.UpstreamSecret, ...] = ()
    fee_payers: tuple[ir.FeePayerKey, ...] = ()
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """One offer, resolved: all of a `contract.Offer` but its amount."""

    offer: Offer
    network: Network
    currency: str
    recipient: str
    fee_payer: contract.FeePayer | None


# A service that did not change is not lowered again: 2,000 of them take a moment instead of seconds.
@lru_cache(maxsize=8192)
def _lower_service(
    service: PaidService,
    config: GatewayConfig,
    policy: Namespace,
    recipients: tuple[tuple[RecipientSource, str], ...],
) -> _Piece:
    """Everything that one service and the gateway's terms decide. Conflicts between services come later."""
    spec = service.spec
    problems = [*_host_problems(spec, config, policy), *_upstream_problems(spec.upstream, config, policy)]
    own = spec.payment.offers is not None
    offers = spec.payment.offers or config.offers
    field, owner = ("spec.payment.offers", service.namespace) if own else ("defaults.offers", config.namespace)
    priced = any(not route.free for route in spec.routes)
    if priced and not offers:
        message = "expected offers: the gateway has no default offers"
        problems.append(Problem(Reason.INVALID_SPEC, "spec.payment.offers", message))
    ways: list[_Way] = []
    unresolved: list[Problem] = []
    known = dict(recipients)
    for index, offer in enumerate(offers):
        way = _way(offer, f"{field}[{index}]", owner, config, known)
        if isinstance(way, Problem):
            (unresolved if way.reason in _UNRESOLVED else problems).append(way)
            continue
        ways.append(way)
        # The default offers are the gateway's own: it may pay whom it likes.
        if own and policy.recipients is not None and way.recipient not in map(str.lower, policy.recipients):
            message = f"expected a recipient that namespace {owner} may name, got {way.recipient}"
            problems.append(Problem(Reason.RECIPIENT_NOT_ALLOWED, f"{field}[{index}].recipient", message))
    if not own and offers:
        found = paidservice.prices_problems(spec.routes, offers)
        problems += [Problem(Reason.INVALID_SPEC, f"spec.{where}", message) for where, message in found]
    if problems or len(ways) < len(offers):
        # Amounts of offers that are known are still judged: the author hears of every mistake at once.
        problems += [p for i, r in enumerate(spec.routes) for p in _price(service, r, i, ways, config)[1]]
        return _Piece(problems=tuple(problems), unresolved=tuple(unresolved))
    routes: list[ir.Route] = []
    for index, route in enumerate(spec.routes):
        price, wrong = _price(service, route, index, ways, config)
        problems += wrong
        key = f"{service.namespace}/{service.name}/{route.name}"
        routes.append(ir.Route(key, route.match.methods, route.match.pattern, price, route.streaming))
    if problems:
        return _Piece(problems=tuple(problems))
    secrets = _upstream_secrets(service)
    cluster = _cluster(service, config, secrets)
    fee_payers = [
        ir.FeePayerKey(way.fee_payer.key, ir.SecretSource(owner, ref.name, ref.key))
        for way in ways
        if way.fee_payer and (ref := way.offer.fee_payer and way.offer.fee_payer.secret_ref)
    ]
    return _Piece(
        service=_service(service, config, cluster, tuple(routes)),
        cluster=cluster,
        secrets=tuple(secret for secret in secrets.values()),
        fee_payers=tuple(fee_payers) if priced else (),
        summary=_summary(service, config, routes, ways),
    )


_UNRESOLVED: Final = frozenset({Reason.SECRET_NOT_FOUND, Reason.CONFIG_MAP_NOT_FOUND})


def _host_problems(spec: Spec, config: GatewayConfig, policy: Namespace) -> Iterator[Problem]:
    claimed = [(f"spec.hosts[{index}]", host) for index, host in enumerate(spec.hosts)]
    if spec.payment.realm:
        claimed.append(("spec.payment.realm", spec.payment.realm))
    for field, host in claimed:
        # The gateway's own hosts are shared: everybody may have a basePath there, nobody the root.
        if policy.hosts is not None and host not in config.hosts and not _matches(host, policy.hosts):
            expected = ", ".join(policy.hosts) or "none"
            yield Problem(Reason.HOST_NOT_ALLOWED, field, f"expected a host of {expected}, got {host!r}")
    if spec.base_path == "/":
        for index, host in enumerate(spec.hosts):
            if host in config.hosts:
                message = f"expected a host of its own beside basePath '/', got the gateway's {host!r}"
                yield Problem(Reason.INVALID_SPEC, f"spec.hosts[{index}]", message)


def _upstream_problems(upstream: Upstream, config: GatewayConfig, policy: Namespace) -> Iterator[Problem]:
    url = upstream.effective_url
    if url is None:
        if config.cluster_domain is None:
            message = "expected url: there is no Kubernetes Service outside a cluster"
            yield Problem(Reason.INVALID_SPEC, "spec.upstream.service", message)
        return
    host = urlsplit(url).hostname or ""
    if config.cluster_domain is not None and (why := _inside(host, config.cluster_domain)):
        message = f"expected the public name of a server (or service: for one of this cluster), got {why}"
        yield Problem(Reason.UPSTREAM_NOT_ALLOWED, "spec.upstream.url", message)
    if policy.upstreams is not None and not _matches(host, policy.upstreams):
        message = f"expected a host of {', '.join(policy.upstreams) or 'none'}, got {host!r}"
        yield Problem(Reason.UPSTREAM_NOT_ALLOWED, "spec.upstream.url", message)


#: Names that a cloud answers with its machines' credentials.
_METADATA_HOSTS: Final = ("metadata.google.internal", "metadata.goog")


def _inside(host: str, cluster_domain: str) -> str | None:
    """What makes `host` a name of the inside: whoever may write PaidServices could reach what only the gateway
    can. None: it is not. (What a public name resolves to is the egress NetworkPolicy's.)"""
    if ":" in host or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
        return "an IP address"  # as WHATWG URL reads hosts: whatever ends in a number, 127.1 and 0x7f.1 too
    if "." not in host:
        return "a name without a dot"
    for suffix in ("svc", "cluster.local", cluster_domain, "localhost", "local", *_METADATA_HOSTS):
        if host == suffix or host.endswith(f".{suffix}"):
            return f"a name below {suffix}"
    return None


def _way(
    offer: Offer, field: str, owner: str, config: GatewayConfig, recipients: Mapping[RecipientSource, str]
) -> _Way | Problem:
    """`offer` with network, currency and recipient looked up, or the first thing that is wrong with it."""
    methods = sorted({network.method for network in config.networks})
    if offer.method not in methods:
        expected = ", ".join(methods)
        return Problem(
            Reason.UNKNOWN_METHOD, f"{field}.method", f"expected one of {expected}, got {offer.method!r}"
        )
    network = config.network(offer.network)
    if network is None or network.method != offer.method:
        expected = ", ".join(n.name for n in config.networks if n.method == offer.method)
        message = f"expected one of {expected}, got {offer.network!r}"
        return Problem(Reason.UNKNOWN_NETWORK, f"{field}.network", message)
    if network.real_money and config.insecure_http:
        message = f"expected a test network while insecureHttp is true, got {offer.network!r}"
        return Problem(Reason.INVALID_SPEC, f"{field}.network", message)
    currency = dict(network.currencies).get(offer.currency)
    if currency is None and re.fullmatch(paidservice.ADDRESS, offer.currency):
        currency = offer.currency
    if currency is None:
        expected = ", ".join(symbol for symbol, _ in network.currencies)
        message = f"expected one of {expected}, or an 0x address, got {offer.currency!r}"
        return Problem(Reason.UNKNOWN_CURRENCY, f"{field}.currency", message)
    recipient = offer.recipient
    if offer.recipient_from:
        source = _recipient_source(offer.recipient_from, owner)
        if source not in recipients:
            reason = Reason.SECRET_NOT_FOUND if source.kind == "Secret" else Reason.CONFIG_MAP_NOT_FOUND
            message = f"expected key {source.key!r} in {source.kind} {source.namespace}/{source.name}, got nothing"
            return Problem(reason, f"{field}.recipientFrom", message)
        recipient = recipients[source].strip()
    if (
        recipient is None
        or not re.fullmatch(paidservice.ADDRESS, recipient)
        or recipient == paidservice.ZERO_ADDRESS
    ):
        # Not repeated: what stands in the wrong Secret may be a key.
        message = "expected an 0x address of 40 hexadecimal digits, got something else"
        return Problem(Reason.INVALID_SPEC, f"{field}.recipientFrom", message)
    fee_payer = None
    if offer.fee_payer:
        ref = offer.fee_payer.secret_ref
        try:
            balance = money.base_units(offer.fee_payer.min_balance, network.decimals)
        except money.AmountError as error:
            return Problem(Reason.INVALID_AMOUNT, f"{field}.feePayer.minBalance", str(error))
        fee_payer = contract.FeePayer(
            f"{owner}/{ref.name}/{ref.key}",
            offer.fee_payer.max_per_minute,
            offer.fee_payer.max_per_payer_per_minute,
            str(balance),
        )
    # Lower case: the same address is the same text, however it was written.
    return _Way(offer, network, currency.lower(), recipient.lower(), fee_payer)


def _recipient_source(source: RecipientFrom, namespace: str) -> RecipientSource:
    """Where `recipientFrom` is read: it has exactly one of the two references."""
    refs = {"ConfigMap": source.config_map_ref, "Secret": source.secret_ref}
    return next(RecipientSource(kind, namespace, ref.name, ref.key) for kind, ref in refs.items() if ref)


def _price(
    service: PaidService, route: Route, index: int, ways: Sequence[_Way], config: GatewayConfig
) -> tuple[contract.RoutePrice | None, list[Problem]]:
    """What `route` costs (None: free), and what is wrong with its amounts."""
    if route.free:
        return None, []
    problems: list[Problem] = []
    offers: list[contract.Offer] = []
    for way in ways:
        field, text = _amount(route, way.offer.name)
        if text is None:
            continue  # said by paidservice.prices_problems
        try:
            units = (
                money.parse_base_units(text)
                if field == "price.baseUnits"
                else money.base_units(text, way.network.decimals)
            )
        except money.AmountError as error:
            where = f"spec.routes[{index}].{field}"
            message = f"{error} of {way.offer.currency} (offer {way.offer.name})"
            problems.append(Problem(Reason.INVALID_AMOUNT, where, message))
            continue
        offer = way.offer
        offers.append(
            contract.Offer(
                offer.name,
                offer.method,
                offer.network,
                way.currency,
                way.recipient,
                str(units),
                modes=offer.modes,
                fee_payer=way.fee_payer,
            )
        )
    payment = service.spec.payment
    life = payment.expires_in or config.expires_in
    price = contract.RoutePrice(
        offers=tuple(offers),
        expires_in=min(life, config.max_challenge_life or life),
        lease=_lease(service, route, config),
        realm=payment.realm,
        credential_header=payment.credential_header,
        not_before=payment.not_before,
        bind_query=route.bind_query,
        digest_max_bytes=route.digest.max_bytes if route.digest else None,
        streaming=route.streaming,
        idempotent=route.idempotent,
        credit_attempts=payment.credit.attempts,
        credit_life=payment.credit.life,
        description=route.description,
    )
    return price, problems


def _amount(route: Route, offer: str) -> tuple[str, str | None]:
    """Which field prices `route` for the offer of that name, and its text."""
    if route.price is None:
        return f"prices.{offer}", dict(route.prices).get(offer)
    if route.price.base_units is not None:
        return "price.baseUnits", route.price.base_units
    return "price.amount", route.price.amount


def _lease(service: PaidService, route: Route, config: GatewayConfig) -> int:
    """Seconds until no news counts as undelivered: longer than Envoy lets the request live, plus the flush of its
    access log (payments.md, "How it is known")."""
    if route.streaming:
        return STREAMING_LEASE
    timeouts = service.spec.upstream.timeouts
    return math.ceil(config.check_timeout + timeouts.request + timeouts.upload + routes.LEASE_MARGIN_SECONDS)


def _upstream_secrets(service: PaidService) -> dict[str, ir.UpstreamSecret]:
    """What the upstream wants from us, by use: "auth", "ca"."""
    upstream = service.spec.upstream
    secrets = {}
    if (auth := upstream.effective_auth) and (ref := _auth_ref(upstream)):
        scheme, username = "raw", ""
        if auth.bearer:
            scheme = "bearer"
        elif auth.basic:
            scheme = "basic-user" if auth.basic.username is None else "basic"
            username = auth.basic.username or ""
        secrets["auth"] = _secret(service.namespace, ref, scheme, username)
    if upstream.tls and upstream.tls.ca_secret_ref:
        secrets["ca"] = _secret(service.namespace, upstream.tls.ca_secret_ref, "ca", "")
    return secrets


def _secret(namespace: str, ref: KeyRef, scheme: str, username: str) -> ir.UpstreamSecret:
    source = ir.SecretSource(namespace, ref.name, ref.key)
    return ir.UpstreamSecret(
        _unique((namespace, ref.name, ref.key), (source, scheme, username)), source, scheme, username
    )


def _auth_ref(upstream: Upstream) -> KeyRef | None:
    auth = upstream.effective_auth
    kind = auth and (auth.bearer or auth.api_key or auth.basic)
    return kind.secret_ref if kind else None


def _cluster(service: PaidService, config: GatewayConfig, secrets: Mapping[str, ir.UpstreamSecret]) -> ir.Cluster:
    upstream = service.spec.upstream
    scheme, host, port, _ = _target(service, config)
    server_name = None
    if scheme == "https":
        server_name = (upstream.tls and upstream.tls.server_name) or host
    injected = None
    if (header := upstream.auth_header) and "auth" in secrets:
        injected = ir.Injected(header, secrets["auth"].name)
    cluster = ir.Cluster(
        name="",
        host=host,
        port=port,
        tls_server_name=server_name,
        tls_ca_secret=secrets["ca"].name if "ca" in secrets else None,
        connect_timeout=upstream.timeouts.connect,
        max_connections=upstream.limits.connections,
        max_requests=upstream.limits.requests,
        max_pending=upstream.limits.pending,
        injected=injected,
    )
    # The namespace is part of the identity: nobody uses up a neighbour's connections, or borrows a credential.
    return replace(cluster, name=_unique((service.namespace, host), (service.namespace, cluster)))


def _target(service: PaidService, config: GatewayConfig) -> tuple[str, str, int, str]:
    """(scheme, host, port, path) of the upstream."""
    upstream = service.spec.upstream
    if upstream.service is not None:
        ref = upstream.service
        return ref.scheme, f"{ref.name}.{service.namespace}.svc.{config.cluster_domain}", ref.port, ""
    parts = urlsplit(upstream.effective_url or "")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port, parts.path.rstrip("/")


def _service(
    service: PaidService, config: GatewayConfig, cluster: ir.Cluster, routes: tuple[ir.Route, ...]
) -> ir.Service:
    spec, upstream = service.spec, service.spec.upstream
    scheme, host, port, path = _target(service, config)
    literal = f"[{host}]" if ":" in host else host
    headers = tuple((name.lower(), value) for name, value in upstream.headers.set)
    preset = presets.PRESETS[upstream.preset].remove if upstream.preset else ()
    removed = {*preset, *map(str.lower, upstream.headers.remove)} - {name for name, _ in headers}
    return ir.Service(
        namespace=service.namespace,
        name=service.name,
        hosts=_hosts(service, config),
        base_path=spec.base_path,
        cluster=cluster.name,
        upstream_host=literal if port == _DEFAULT_PORTS[scheme] else f"{literal}:{port}",
        upstream_path=path,
        headers_set=tuple(sorted(headers)),
        headers_remove=tuple(sorted(removed)),
        timeouts=ir.Timeouts(
            upstream.timeouts.connect, upstream.timeouts.request, upstream.timeouts.upload, upstream.timeouts.idle
        ),
        retries=ir.Retries(
            upstream.retries.attempts, tuple(sorted(upstream.retries.on)), upstream.retries.per_try
        ),
        cors_origins=("*",) if "*" in spec.cors.origins else tuple(sorted(set(spec.cors.origins))),
        routes=routes,
    )


_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _hosts(service: PaidService, config: GatewayConfig) -> tuple[str, ...]:
    return tuple(sorted(service.spec.hosts or config.hosts))


def _summary(
    service: PaidService, config: GatewayConfig, routes: Sequence[ir.Route], ways: Sequence[_Way]
) -> Summary:
    host = (service.spec.hosts or config.hosts)[0]
    port = f":{config.public_port}" if config.public_port is not None else ""
    paid = [route for route in routes if route.price]
    price = "free"
    if paid:
        first = ways[0]
        amounts = sorted(int(route.price.offers[0].amount) for route in paid if route.price)
        ends = [money.decimal(units, first.network.decimals) for units in (amounts[0], amounts[-1])]
        price = "-".join(dict.fromkeys(ends)) + f" {first.offer.currency}"
    return Summary(
        url=f"{config.public_scheme}://{host}{port}{service.spec.base_path}",
        price=price,
        realm=service.spec.payment.realm or "",
        paid_routes=len(paid),
        free_routes=len(routes) - len(paid),
    )


# --- All services ----------------------------------------------------------------------------------------


class _Places:
    """Who holds which basePath of which host. A claim costs as many look-ups as the path has segments."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, str], Key] = {}
        # (host, prefix) -> who holds something below it, the first of each namespace.
        self._below: dict[tuple[str, str], dict[str, Key]] = {}

    def claim(self, key: Key, base: str, hosts: tuple[str, ...]) -> tuple[Problem, ...]:
        """Take the places of service `key`, or say whose they are: all of them or none."""
        for host in hosts:
            winner = self._winner(host, base, key[0])
            if winner:
                message = (
                    f"expected a place of its own, got {host}{base}, which {'/'.join(winner)} has or overlaps"
                )
                return (Problem(Reason.CONFLICT, "spec.basePath", message),)
        for host in hosts:
            self._holders[host, base] = key
            for prefix in _prefixes(base):
                self._below.setdefault((host, prefix), {}).setdefault(key[0], key)
        return ()

    def _winner(self, host: str, base: str, namespace: str) -> Key | None:
        if holder := self._holders.get((host, base)):
            return holder
        above = [self._holders.get((host, prefix)) for prefix in _prefixes(base)]
        below = self._below.get((host, base), {}).values()
        # Within one namespace overlapping prefixes are legal: the longest is asked first.
        return next((key for key in (*above, *below) if key and key[0] != namespace), None)


def _prefixes(base_path: str) -> list[str]:
    """`base_path` and every path above it, the root too."""
    if base_path == "/":
        return ["/"]
    parts = base_path.split("/")
    return ["/", *("/".join(parts[:end]) for end in range(2, len(parts) + 1))]


def _age(service: PaidService) -> tuple[float, str, str]:
    """Sorts by creationTimestamp, then namespace/name. Without a timestamp: youngest."""
    return math.inf if service.created is None else service.created, service.namespace, service.name


def _networks(config: GatewayConfig) -> tuple[contract.Network, ...]:
    return tuple(
        contract.Network(network.name, network.method, network.chain_id, network.rpc_urls)
        for network in sorted(config.networks, key=lambda network: network.name)
    )


# --- Names -----------------------------------------------------------------------------------------------

_Named = TypeVar("_Named", ir.Cluster, ir.UpstreamSecret, ir.FeePayerKey)


def _by_name(values: Iterable[_Named]) -> tuple[_Named, ...]:
    """Each once, by name. Equal names are equal values: names hash all that makes them differ."""
    return tuple(value for _, value in sorted({value.name: value for value in values}.items()))


def _unique(words: Iterable[str], identity: object) -> str:
    """A name that people can read and that no two identities share."""
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:80]
    # The repr of frozen dataclasses and tuples of texts and numbers is the same in every process.
    return f"{readable}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:10]}"


def _matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether `host` is one of `patterns`; "*.example.com" is every name below example.com, not itself."""
    return any(host.endswith(p[1:]) if p.startswith("*.") else host == p for p in patterns)


def _source_order(source: ir.SecretSource) -> tuple[str, str, str]:
    return source.namespace, source.name, source.key


def _digest(files: Files) -> str:
    """The content hash of an artifact set."""
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        digest.update(f"{name}\0{len(text)}\0{text}".encode())
    return digest.hexdigest()[:16]
