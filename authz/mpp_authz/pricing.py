"""The pricing file: what the operator writes and authz reads. Knows no Kubernetes, no gRPC.

The consumer owns the contract. One JSON document: which route key costs what, on which networks, and how
long a quote and a credit live. Amounts are decimal strings of base units, times are whole seconds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

#: The file's name inside the folder of artifacts.
FILE_NAME: Final = "pricing.json"
#: A file of another version is refused, and the pricing that was served stays.
VERSION: Final = 1

_CONFIG = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=False, validate_by_alias=True)


class PricingError(ValueError):
    """The pricing file is not what this authz understands: operator and authz disagree."""


@dataclass(frozen=True, slots=True)
class Network:
    """A chain on which payments settle. Every endpoint must agree before we say that a payment is not there."""

    __pydantic_config__ = _CONFIG
    name: str
    method: str
    chain_id: int
    rpc_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeePayer:
    """We pay the payer's network fee, within limits (draft-tempo-charge-00, fee sponsorship)."""

    __pydantic_config__ = _CONFIG
    key: str  # name of the key in authz.json
    max_per_minute: int
    max_per_payer_per_minute: int
    min_balance: str  # base units of the fee token; below it the offer is not made


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to pay for a route."""

    __pydantic_config__ = _CONFIG
    name: str
    method: str
    network: str
    currency: str
    recipient: str
    amount: str  # base units; "0" is identified but not paid
    intent: str = "charge"
    modes: tuple[str, ...] = ("pull", "push")
    fee_payer: FeePayer | None = None


@dataclass(frozen=True, slots=True)
class RoutePrice:
    """What one route costs, and the promises that go with it."""

    __pydantic_config__ = _CONFIG
    offers: tuple[Offer, ...]
    expires_in: int  # seconds a quote lives
    lease: int  # seconds a delivery may take before no news counts as undelivered
    realm: str | None = None  # None: the request's host
    credential_header: str = "Authorization"
    not_before: int | None = None  # Unix seconds: quotes minted earlier are revoked
    bind_query: bool = True
    digest_max_bytes: int | None = None  # None: the body is not bound
    streaming: bool = False
    idempotent: bool = False
    credit_attempts: int = 3
    credit_life: int = 86_400  # seconds
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Transport:
    """Where challenges may be issued (draft-httpauth-payment-00: never over plain HTTP)."""

    __pydantic_config__ = _CONFIG
    insecure_http: bool = False
    terminated_by: tuple[str, ...] = ()  # CIDRs whose X-Forwarded-Proto we believe


@dataclass(frozen=True, slots=True)
class Pricing:
    """Everything authz has to know about what is for sale."""

    __pydantic_config__ = _CONFIG
    version: int
    revision: str  # content hash of the artifacts this file was published with
    routes: Mapping[str, RoutePrice]
    networks: Mapping[str, Network]
    transport: Transport = field(default_factory=Transport)


_ADAPTER: Final = TypeAdapter(Pricing)


def load(text: str) -> Pricing:
    """Read what `dump` wrote.

    Raises:
        PricingError: not JSON, another VERSION, or a field missing or mistyped; names the field.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise PricingError("pricing: expected JSON, got too many nested arrays and objects") from None
    except ValueError as error:
        raise PricingError(f"pricing: expected JSON, got {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise PricingError(f"pricing: version: expected {VERSION}, got {found!r}")
    try:
        return _ADAPTER.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise PricingError(f"pricing: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def dump(pricing: Pricing) -> str:
    """The file's text. Equal pricing gives equal bytes."""
    document: Any = _ADAPTER.dump_python(pricing, mode="json", by_alias=True, exclude_defaults=True)
    document["version"] = pricing.version
    return json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n"
