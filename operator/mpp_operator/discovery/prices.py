"""What an offer says to people: the amount as they write it. The amount itself is the pricing file's."""

from collections.abc import Iterable

from mpp_authz.pricing import Offer, RoutePrice
from mpp_operator import ir, money


def words(offer: Offer, listing: ir.Listing) -> str:
    """ "0.05 USDC.e on mainnet"."""
    if offer.amount == "0":
        return f"no money, but proof of an address, on {offer.network}"
    currency = currency_of(offer, listing)
    if currency is None:
        return f"{offer.amount} base units of {offer.currency} on {offer.network}"
    return f"{money.decimal(int(offer.amount), currency.decimals)} {currency.symbol} on {offer.network}"


def currency_of(offer: Offer, listing: ir.Listing) -> ir.Currency | None:
    """How people write the amounts of `offer`; None where nobody said."""
    return next((c for c in listing.currencies if (c.network, c.address) == (offer.network, offer.currency)), None)


def ways(prices: Iterable[RoutePrice]) -> tuple[tuple[str, str, str], ...]:
    """(method, intent, network) of all offers, sorted."""
    return tuple(sorted({(o.method, o.intent, o.network) for price in prices for o in price.offers}))
