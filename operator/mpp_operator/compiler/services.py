"""One service, lowered: everything that it and the gateway's terms decide. Other services come later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mpp_operator import ir, money, presets
from mpp_operator.compiler import allowed, offers, upstreams
from mpp_operator.compiler.described import Described, describe, too_large
from mpp_operator.compiler.references import RecipientSource, Unreadable
from mpp_operator.gateway import GatewayConfig, Namespace
from mpp_operator.paidservice import PaidService, check_prices
from mpp_operator.status import Problem, Reason, Summary


@dataclass(frozen=True, slots=True)
class Piece:
    """One service, lowered. With `problems` or `unresolved`, nothing of it is served."""

    problems: tuple[Problem, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    undescribed: tuple[Problem, ...] = ()  # it is served all the same
    service: ir.Service | None = None
    cluster: ir.Cluster | None = None
    secrets: tuple[ir.UpstreamSecret, ...] = ()
    fee_payers: tuple[ir.FeePayerKey, ...] = ()
    summary: Summary | None = None


# A service that did not change is not lowered again: 2,000 of them take a moment instead of seconds.
@lru_cache(maxsize=8192)
def lower(
    service: PaidService,
    config: GatewayConfig,
    policy: Namespace,
    recipients: tuple[tuple[RecipientSource, str], ...],
    document: str | Unreadable | None = None,
) -> Piece:
    """`service` under `config`, in a namespace with `policy`, with the recipients that were found, and what its
    `openapiFrom` led to."""
    spec = service.spec
    terms = _terms(service, config, policy, dict(recipients))
    problems = [*allowed.check_hosts(spec, config, policy), *allowed.check_upstream(spec.upstream, config, policy)]
    problems += terms.problems
    problems += allowed.check_discovery(spec, config)
    routes: list[ir.Route] = []
    # Also where an offer is unusable: the author hears of every mistake in the amounts of the others at once.
    for index, route in enumerate(spec.routes):
        price, wrong = offers.price(service, index, terms.ways, config)
        problems += wrong
        key = f"{service.namespace}/{service.name}/{route.name}"
        routes.append(ir.Route(key, route.match.methods, route.match.pattern, price, route.streaming))
    if problems or terms.unresolved:
        return Piece(problems=tuple(problems), unresolved=terms.unresolved)
    secrets = upstreams.secrets(service)
    cluster = upstreams.cluster(service, config, secrets)
    described = describe(service, routes, terms.ways, upstreams.target(service, config).path, document)
    lowered = _service(service, config, cluster, described)
    return Piece(
        service=lowered,
        undescribed=(*described.problems, *too_large(lowered)),
        cluster=cluster,
        secrets=tuple(secrets.values()),
        fee_payers=terms.fee_payers if any(route.price for route in routes) else (),
        summary=_summary(service, config, routes, terms.ways),
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """The offers that a service is paid by: its own, or the gateway's."""

    ways: tuple[offers.Way, ...]
    fee_payers: tuple[ir.FeePayerKey, ...]
    problems: tuple[Problem, ...]
    unresolved: tuple[Problem, ...]


_UNRESOLVED: Final = frozenset({Reason.SECRET_NOT_FOUND, Reason.CONFIG_MAP_NOT_FOUND})


def _terms(
    service: PaidService, config: GatewayConfig, policy: Namespace, recipients: Mapping[RecipientSource, str]
) -> _Terms:
    spec, own = service.spec, service.spec.payment.offers
    field, owner = ("spec.payment.offers", service.namespace) if own else ("defaults.offers", config.namespace)
    ways: list[offers.Way] = []
    fee_payers: list[ir.FeePayerKey] = []
    problems: list[Problem] = []
    unresolved: list[Problem] = []
    for index, offer in enumerate(own or config.offers):
        try:
            way = offers.resolve(offer, f"{field}[{index}]", owner, config, recipients)
        except offers.Unusable as error:
            (unresolved if error.problem.reason in _UNRESOLVED else problems).append(error.problem)
            continue
        ways.append(way)
        if offer.fee_payer and way.fee_payer:
            ref = offer.fee_payer.secret_ref
            fee_payers.append(ir.FeePayerKey(way.fee_payer.key, ir.SecretSource(owner, ref.name, ref.key)))
        # The default offers are the gateway's own: it may pay whom it likes.
        if own and policy.recipients is not None and way.recipient not in map(str.lower, policy.recipients):
            message = f"expected a recipient that namespace {owner} may name, got {way.recipient}"
            problems.append(Problem(Reason.RECIPIENT_NOT_ALLOWED, f"{field}[{index}].recipient", message))
    if not own and config.offers:
        found = check_prices(spec.routes, config.offers)
        problems += [Problem(Reason.INVALID_SPEC, f"spec.{where}", message) for where, message in found]
    if not own and not config.offers and any(not route.free for route in spec.routes):
        message = "expected offers: the gateway has no default offers"
        problems.append(Problem(Reason.INVALID_SPEC, "spec.payment.offers", message))
    return _Terms(tuple(ways), tuple(fee_payers), tuple(problems), tuple(unresolved))


def hosts(service: PaidService, config: GatewayConfig) -> tuple[str, ...]:
    """The hosts that `service` is served at, sorted."""
    return tuple(sorted(service.spec.hosts or config.hosts))


def _service(service: PaidService, config: GatewayConfig, cluster: ir.Cluster, described: Described) -> ir.Service:
    spec, upstream = service.spec, service.spec.upstream
    target = upstreams.target(service, config)
    headers = tuple((name.lower(), value) for name, value in upstream.headers.set)
    preset = presets.PRESETS[upstream.preset].remove if upstream.preset else ()
    removed = {*preset, *map(str.lower, upstream.headers.remove)} - {name for name, _ in headers}
    return ir.Service(
        namespace=service.namespace,
        name=service.name,
        hosts=hosts(service, config),
        base_path=spec.base_path,
        cluster=cluster.name,
        upstream_host=target.authority,
        upstream_path=target.path,
        headers_set=tuple(sorted(headers)),
        headers_remove=tuple(sorted(removed)),
        timeouts=ir.Timeouts(
            upstream.timeouts.connect, upstream.timeouts.request, upstream.timeouts.upload, upstream.timeouts.idle
        ),
        retries=ir.Retries(
            upstream.retries.attempts, tuple(sorted(upstream.retries.on)), upstream.retries.per_try
        ),
        cors_origins=("*",) if "*" in spec.cors.origins else tuple(sorted(set(spec.cors.origins))),
        routes=described.routes,
        listing=described.listing,
    )


def _summary(
    service: PaidService, config: GatewayConfig, routes: Sequence[ir.Route], ways: Sequence[offers.Way]
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
