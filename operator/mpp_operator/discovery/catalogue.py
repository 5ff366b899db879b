"""/services: what is for sale on a host, as JSON for programs that compare.

The shape is that of mpp-rs's proxy (`id`, `title`, `description`, `routes` with `method`, `path` and `payment`),
with the list inside an object and each price as its offers.
"""

import json
from collections.abc import Sequence
from typing import Any

from mpp_authz.pricing import Offer
from mpp_operator import ir
from mpp_operator.discovery import listed, prices


def render(services: Sequence[str]) -> str:
    """All services of a host, each as `render_one` has it."""
    return f'{{"services":[{",".join(service.rstrip() for service in services)}]}}\n'


def render_one(service: listed.Service) -> str:
    """One of them."""
    return json.dumps(_service(service), separators=(",", ":")) + "\n"


def _service(service: listed.Service) -> dict[str, Any]:
    listing = service.listing
    document: dict[str, Any] = {"id": service.id, "title": listing.title}
    if listing.description:
        document["description"] = listing.description
    document |= {
        "version": listing.version,
        "categories": list(listing.categories),
        "docs": dict(listing.docs),
        "basePath": service.base_path,
        "openapi": service.prefix + listed.OPENAPI,
        "llms": service.prefix + listed.LLMS,
        "routes": [_route(operation, listing) for operation in service.operations],
    }
    return document


def _route(operation: listed.Operation, listing: ir.Listing) -> dict[str, Any]:
    described, price = operation.described, operation.route.price
    document: dict[str, Any] = {"method": operation.method, "path": operation.path}
    if described.summary or described.description:
        document["description"] = described.summary or described.description
    document["payment"] = price and {"offers": [_offer(offer, listing) for offer in price.offers]}
    return document


def _offer(offer: Offer, listing: ir.Listing) -> dict[str, Any]:
    document: dict[str, Any] = {
        "intent": offer.intent,
        "method": offer.method,
        "network": offer.network,
        "amount": offer.amount,
        "currency": offer.currency,
    }
    currency = prices.currency_of(offer, listing)
    if currency is not None:
        document |= {"symbol": currency.symbol, "decimals": currency.decimals}
    return document | {"description": prices.words(offer, listing)}
