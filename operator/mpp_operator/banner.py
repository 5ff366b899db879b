"""What a gateway says of itself when it serves: for people and, as one JSON line, for programs. Pure."""

from typing import Any, Final

from mpp_operator import sources
from mpp_operator.paidservice import Route

#: Routes listed by name; a service may have two hundred.
_ROUTES_SHOWN: Final = 20


def describe(compiled: sources.Compiled, base: str) -> list[dict[str, Any]]:
    """One object per service: `{"namespace", "name", "url", "routes": [{"key", "methods", "url", "price"}]}`.

    `base` is scheme, host and port of the listener; a service with hosts of its own has its own URL. `price` is
    None where the route is free, else one text per offer.
    """
    services = {service.key: service for service in compiled.sources.services}
    described = []
    for served in compiled.compilation.gateway.services:
        service = services[served.namespace, served.name]
        own = compiled.compilation.summaries[served.namespace, served.name].url
        root = own if service.spec.hosts else base + served.prefix
        offers = service.spec.payment.offers or compiled.sources.config.offers
        currencies = {offer.name: offer.currency for offer in offers}
        described.append(
            {
                "namespace": served.namespace,
                "name": served.name,
                "url": root,
                "routes": [
                    {
                        "key": lowered.key,
                        "methods": list(lowered.methods),
                        "url": root.rstrip("/") + route.match.path,
                        "price": _price(route, currencies) if lowered.price is not None else None,
                    }
                    for route, lowered in zip(service.spec.routes, served.routes, strict=True)
                ],
            }
        )
    return described


def _price(route: Route, currencies: dict[str, str]) -> list[str]:
    if route.prices:
        return [f"{amount} {currencies.get(name, name)}" for name, amount in route.prices]
    assert route.price is not None  # noqa: S101 -- the parser: a route has a price, prices, or is free
    if route.price.base_units is not None:
        return [f"{route.price.base_units} base units of {currency}" for currency in currencies.values()]
    return [f"{route.price.amount} {currency}" for currency in currencies.values()]


def lines(url: str, services: list[dict[str, Any]], sandbox: dict[str, Any] | None) -> list[str]:
    """The ready line, then one line a route."""
    names = ", ".join(f"{s['namespace']}/{s['name']}" for s in services)
    prices = sorted({price for s in services for route in s["routes"] for price in route["price"] or ()})
    count = sum(len(s["routes"]) for s in services)
    ready = f"ready: {url}  {names}: {count} route{'s' if count != 1 else ''}, {_span(prices)}"
    shown = [
        f"  {_methods(route['methods'])} {route['url']}  {' or '.join(route['price'] or ['free'])}"
        for s in services
        for route in s["routes"]
    ]
    if len(shown) > _ROUTES_SHOWN:
        shown = [*shown[:_ROUTES_SHOWN], f"  … and {len(shown) - _ROUTES_SHOWN} more"]
    if sandbox is not None:
        shown.append(f"  sandbox chain {sandbox['rpcUrl']}; a buyer with test money: {sandbox['buyerKey']}")
    return [ready, *shown]


def _span(prices: list[str]) -> str:
    if not prices:
        return "all free"
    return " / ".join(prices) if len(prices) <= 4 else f"{len(prices)} prices"


def _methods(methods: list[str]) -> str:
    shown = [m for m in methods if m != "HEAD" or methods == ["HEAD"]]
    return "any method" if len(shown) > 2 else " ".join(shown)
