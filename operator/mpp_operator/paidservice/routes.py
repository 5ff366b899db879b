"""Which requests a PaidService takes, and what each costs."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from mpp_operator import fields, ir, patterns
from mpp_operator.fields import (
    CONFIG,
    BaseUnits,
    Boolean,
    Decimal,
    Description,
    Label,
    Mistake,
    Title,
    checked,
    matching,
    pairs,
    whole_number,
)
from mpp_operator.paidservice.payment import MAX_OFFERS, Offer

MAX_TAGS: Final = 16
MAX_PARAMETERS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a route takes."""

    __pydantic_config__ = CONFIG
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] | None = None  # None: all of these
    path: Annotated[str, matching(patterns.PATH, "a path such as /v1/users/{id} or /files/**", 512)]

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

    @property
    def names(self) -> tuple[str, ...]:
        """What the author calls the path's open segments, in order; "" is `*`."""
        return tuple(
            "" if part == "*" else part.strip("{}:")
            for part in self.path.removesuffix("/**").split("/")
            if part and (part == "*" or part[0] in "{:")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One price for every offer: in units of the offer's currency, or in its base units."""

    __pydantic_config__ = CONFIG
    amount: Decimal | None = None
    base_units: BaseUnits | None = None


def _price(price: Price) -> Iterator[Mistake]:
    return fields.one_of({"amount": price.amount, "baseUnits": price.base_units})


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """The body is bound to the challenge, too; larger ones get 413."""

    __pydantic_config__ = CONFIG
    max_bytes: Annotated[int, whole_number(1, 1_048_576)]


@dataclass(frozen=True, slots=True)
class Opaque:
    """A JSON object or list that is only handed on, as canonical text: hashable, unlike the value."""

    text: str

    @property
    def value(self) -> Any:
        """The object or list, anew each time."""
        return json.loads(self.text)


def _object(value: Any) -> Opaque:
    if not isinstance(value, Mapping):
        raise fields.expected_error("an object")
    return _opaque(value)


def _objects(value: Any) -> Opaque:
    if not isinstance(value, list | tuple):
        raise fields.expected_error("a list")
    if len(value) > MAX_PARAMETERS:
        raise fields.expected_error(f"at most {MAX_PARAMETERS} entries")
    if not all(isinstance(entry, Mapping) for entry in value):
        raise fields.expected_error("a list of objects")
    return _opaque(value)


def _opaque(value: Any) -> Opaque:
    try:
        return Opaque(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise fields.expected_error("values that JSON can hold (quote dates)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApi:
    """What the discovery document says of a route, beside its price."""

    __pydantic_config__ = CONFIG
    summary: Title | None = None
    operation_id: Annotated[str, matching(patterns.OPERATION_ID, "an operation id", 120)] | None = None
    tags: Annotated[tuple[Title, ...], Field(max_length=MAX_TAGS)] = ()
    parameters: Annotated[Opaque, PlainValidator(_objects)] | None = None
    request_body: Annotated[Opaque, PlainValidator(_object)] | None = None
    responses: Annotated[Opaque, PlainValidator(_object)] | None = None


def _true(value: Any) -> bool:
    if value is not True:
        raise fields.expected_error("true, or no field at all")
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `name` is part of its key; it is derived from method and path unless it is given."""

    __pydantic_config__ = CONFIG
    name: Label = ""
    match: Match
    price: Annotated[Price, checked(_price)] | None = None
    prices: Annotated[tuple[tuple[str, str], ...], pairs(Label, Decimal, MAX_OFFERS)] = ()  # by offer name
    free: Annotated[bool, BeforeValidator(_true)] = False
    description: Description | None = None
    streaming: Boolean = False
    idempotent: Boolean = False
    bind_query: Boolean = True
    digest: Digest | None = None
    openapi: OpenApi | None = None


def _route(route: Route) -> Iterator[Mistake]:
    yield from fields.one_of({"price": route.price, "prices": route.prices or None, "free": route.free or None})
    if re.fullmatch(patterns.DOT_SEGMENT, route.match.path):
        yield "match.path", "expected no '.' or '..' segment"
    if route.free:
        given = {"idempotent": route.idempotent, "digest": route.digest, "bindQuery": not route.bind_query}
        yield from ((name, "expected only on a priced route") for name, found in given.items() if found)


def _named(route: Route) -> Route:
    return replace(route, name=route.name or derived_name(route.match))


CheckedRoute = Annotated[Route, checked(_route), AfterValidator(_named)]


def path_pattern(path: str) -> ir.PathPattern:
    """`path`, which matches patterns.PATH, as segments."""
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


def check_prices(routes: Sequence[Route], offers: Sequence[Offer]) -> Iterator[Mistake]:
    """What is wrong with `prices`, which must name each offer. Fields are below spec."""
    names = {offer.name for offer in offers}
    for index, route in enumerate(routes):
        given = {name for name, _ in route.prices}
        field = f"routes[{index}].prices"
        yield from ((f"{field}.{n}", f"expected an offer of {sorted(names)}") for n in sorted(given - names))
        if given:
            yield from ((field, f"expected a price for offer {n!r}, got none") for n in sorted(names - given))
