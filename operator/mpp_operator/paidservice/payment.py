"""How a PaidService is paid: offers, their recipients and sponsors, and what an undelivered request is owed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from mpp_operator import addresses, fields
from mpp_operator.fields import (
    CONFIG,
    Address,
    Currency,
    Decimal,
    Host,
    Instant,
    KeyRef,
    Label,
    Mistake,
    checked,
    duration,
    whole_number,
)

MAX_OFFERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientFrom:
    """Where the recipient's address is written: exactly one."""

    __pydantic_config__ = CONFIG
    config_map_ref: KeyRef | None = None
    secret_ref: KeyRef | None = None


def _recipient_from(source: RecipientFrom) -> Iterator[Mistake]:
    return fields.one_of({"configMapRef": source.config_map_ref, "secretRef": source.secret_ref})


@dataclass(frozen=True, slots=True, kw_only=True)
class FeePayer:
    """The gateway pays the payer's network fee, within limits."""

    __pydantic_config__ = CONFIG
    secret_ref: KeyRef
    max_per_minute: Annotated[int, whole_number(1, 100_000)] = 60
    max_per_payer_per_minute: Annotated[int, whole_number(1, 100_000)] = 6
    min_balance: Decimal = "1"  # units of the fee token, which has the network's decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way to pay. `name` is the method's unless it is given."""

    __pydantic_config__ = CONFIG
    name: Label = ""
    method: Label
    network: Label
    currency: Currency
    recipient: Address | None = None
    recipient_from: Annotated[RecipientFrom, checked(_recipient_from)] | None = None
    modes: Annotated[tuple[Literal["pull", "push"], ...], Field(min_length=1, max_length=2)] = ("pull", "push")
    fee_payer: FeePayer | None = None


def _offer(offer: Offer) -> Iterator[Mistake]:
    yield from fields.one_of({"recipient": offer.recipient, "recipientFrom": offer.recipient_from})
    yield from fields.once("modes", "mode", offer.modes)
    if offer.recipient == addresses.ZERO:
        yield "recipient", "expected an address somebody owns, got the zero address"


def _named(offer: Offer) -> Offer:
    return replace(offer, name=offer.name or offer.method)


def _offers(offers: tuple[Offer, ...]) -> Iterator[Mistake]:
    return fields.once("", "offer's name", (offer.name for offer in offers))


Offers = Annotated[
    tuple[Annotated[Offer, checked(_offer), AfterValidator(_named)], ...],
    Field(min_length=1, max_length=MAX_OFFERS),
    checked(_offers),
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
