"""Offers with everything looked up, and what each route costs by them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mpp_authz import pricing as contract
from mpp_operator import addresses, money, patterns
from mpp_operator.artifacts import routes
from mpp_operator.compiler.references import RecipientSource, recipient_source
from mpp_operator.gateway import GatewayConfig, Network
from mpp_operator.paidservice import FeePayer, Offer, PaidService, Route
from mpp_operator.status import Problem, Reason

#: A streaming route's lease, renewed by periodic access log entries.
STREAMING_LEASE: Final = 60


@dataclass(frozen=True, slots=True)
class Way:
    """One offer, resolved: all of a `contract.Offer` but its amount."""

    offer: Offer
    network: Network
    currency: str
    recipient: str
    fee_payer: contract.FeePayer | None


class Unusable(ValueError):
    """Nobody can pay by this offer here and now."""

    def __init__(self, reason: Reason, field: str, message: str) -> None:
        self.problem = Problem(reason, field, message)
        super().__init__(str(self.problem))


def resolve(
    offer: Offer, field: str, owner: str, config: GatewayConfig, recipients: Mapping[RecipientSource, str]
) -> Way:
    """`offer`, which stands at `field` in namespace `owner`, with network, currency and recipient looked up.

    Raises:
        Unusable: with the first thing that is wrong.
    """
    network = _network(offer, field, config)
    # Lower case: the same address is the same text, however it was written.
    return Way(
        offer,
        network,
        _currency(offer, field, network).lower(),
        _recipient(offer, field, owner, recipients).lower(),
        _sponsor(offer.fee_payer, field, owner, network) if offer.fee_payer else None,
    )


def _network(offer: Offer, field: str, config: GatewayConfig) -> Network:
    methods = sorted({network.method for network in config.networks})
    if offer.method not in methods:
        message = f"expected one of {', '.join(methods)}, got {offer.method!r}"
        raise Unusable(Reason.UNKNOWN_METHOD, f"{field}.method", message)
    network = config.network(offer.network)
    if network is None or network.method != offer.method:
        expected = ", ".join(n.name for n in config.networks if n.method == offer.method)
        message = f"expected one of {expected}, got {offer.network!r}"
        raise Unusable(Reason.UNKNOWN_NETWORK, f"{field}.network", message)
    if network.real_money and config.insecure_http:
        message = f"expected a test network while insecureHttp is true, got {offer.network!r}"
        raise Unusable(Reason.INVALID_SPEC, f"{field}.network", message)
    return network


def _currency(offer: Offer, field: str, network: Network) -> str:
    currency = dict(network.currencies).get(offer.currency)
    if currency is None and re.fullmatch(patterns.ADDRESS, offer.currency):
        return offer.currency
    if currency is None:
        expected = ", ".join(symbol for symbol, _ in network.currencies)
        message = f"expected one of {expected}, or an 0x address, got {offer.currency!r}"
        raise Unusable(Reason.UNKNOWN_CURRENCY, f"{field}.currency", message)
    return currency


def _recipient(offer: Offer, field: str, owner: str, recipients: Mapping[RecipientSource, str]) -> str:
    if offer.recipient_from is None:
        assert offer.recipient is not None  # noqa: S101 -- the parser: exactly one of the two
        return offer.recipient
    source = recipient_source(offer.recipient_from, owner)
    if source not in recipients:
        reason = Reason.SECRET_NOT_FOUND if source.kind == "Secret" else Reason.CONFIG_MAP_NOT_FOUND
        message = f"expected key {source.key!r} in {source.kind} {source.namespace}/{source.name}, got nothing"
        raise Unusable(reason, f"{field}.recipientFrom", message)
    recipient = recipients[source].strip()
    # Not repeated: what stands in the wrong Secret may be a key.
    place = f"in key {source.key!r} of {source.kind} {source.namespace}/{source.name}"
    if not re.fullmatch(patterns.ADDRESS, recipient) or recipient == addresses.ZERO:
        message = f"expected an 0x address of 40 hexadecimal digits {place}, got something else"
        raise Unusable(Reason.INVALID_SPEC, f"{field}.recipientFrom", message)
    if addresses.mistyped(recipient):
        message = f"expected {addresses.EXPECTED}, got another {place}"
        raise Unusable(Reason.INVALID_SPEC, f"{field}.recipientFrom", message)
    return recipient


def _sponsor(sponsor: FeePayer, field: str, owner: str, network: Network) -> contract.FeePayer:
    try:
        balance = money.base_units(sponsor.min_balance, network.decimals)
    except money.AmountError as error:
        raise Unusable(Reason.INVALID_AMOUNT, f"{field}.feePayer.minBalance", str(error)) from error
    ref = sponsor.secret_ref
    return contract.FeePayer(
        f"{owner}/{ref.name}/{ref.key}", sponsor.max_per_minute, sponsor.max_per_payer_per_minute, str(balance)
    )


def price(
    service: PaidService, index: int, ways: Sequence[Way], config: GatewayConfig
) -> tuple[contract.RoutePrice | None, list[Problem]]:
    """What route `index` costs (None: free), and what is wrong with its amounts."""
    route, payment = service.spec.routes[index], service.spec.payment
    if route.free:
        return None, []
    problems: list[Problem] = []
    offers: list[contract.Offer] = []
    for way in ways:
        offer = way.offer
        field, text = _amount(route, offer.name)
        if text is None:
            continue  # said by paidservice.check_prices
        try:
            in_base_units = field == "price.baseUnits"
            units = money.parse_base_units(text) if in_base_units else money.base_units(text, way.network.decimals)
        except money.AmountError as error:
            message = f"{error} of {offer.currency} (offer {offer.name})"
            problems.append(Problem(Reason.INVALID_AMOUNT, f"spec.routes[{index}].{field}", message))
            continue
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
