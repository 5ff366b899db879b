"""Paths that some upstream reads as another path than Envoy does: refused where that could be a free ride.

Envoy resolves dots, merges slashes and decodes once, before any route is asked. An upstream may go on: decode
again, drop matrix parameters (`;x`), ignore case, a last slash, a last dot or a format (`.json`). Two rules
follow.

What no server should have to guess is `AMBIGUOUS`, on every host: a parent segment (`..`) in disguise, and bytes
that are no UTF-8 on purpose. And a wildcard that is free, or costs less than a priced route above it, does not
take what looks like that route: `guards`. An author who means such a path writes a route for it above the
wildcard.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mpp_authz.pricing import RoutePrice
from mpp_operator import ir

#: `%`, decoded this often or more: `%25` is a percent sign itself.
_ENCODED: Final = "%(?:25)*"
#: What may stand for a slash. Where it is encoded once, Envoy refuses the request before any route is asked.
_SLASH: Final = rf"(?:/|{_ENCODED}(?:2f|5c)|%ef%bc%(?:8f|bc))"
_DOT: Final = rf"(?:\.|{_ENCODED}2e|%u?ff0e|%ef%bc%8e)"
#: What may follow a segment that is read as if it ended here: parameters, blanks, control characters.
_END: Final = rf"(?:;|{_ENCODED}(?:3b|20|[01][0-9a-f])|{_SLASH})"
_OVERLONG: Final = "%c[01]%[89ab][0-9a-f]|%e0%[89][0-9a-f]|%f0%8[0-9a-f]"

#: The whole of a `:path`, in RE2, that has no one meaning. Queries are nobody's path.
AMBIGUOUS: Final = rf"(?i)[^?]*(?:{_SLASH}{_DOT}{_DOT}(?:{_END}[^?]*)?|(?:{_OVERLONG})[^?]*)(?:\?.*)?"

#: Trailing dots and blanks, which Windows and some frameworks drop.
_BLANKS: Final = r"(?:\.|%(?:20|[01][0-9a-f]))*"
_PARAMETERS: Final = r"(?:(?:;|%3b)[^/]*)?"
_SEPARATOR: Final = r"/(?:\.?(?:;|%3b)[^/]*/)*"
_CLOSING: Final = r"(?:/(?:(?:;|%3b)[^/]*)?)*"
#: After a path's last literal: a format, and what an upstream that decodes first takes for query or fragment.
_FORMAT: Final = r"(?:\.[a-z][^/;%]*)?"
_CUT: Final = r"(?:(?:%3f|%23|::\$).*)?"
#: What an upstream that decodes twice, or as IIS does, reads as any other character.
_TWICE: Final = ".*%(?:25[0-9a-f]{2}|u[0-9a-f]{4}).*"

#: Paths that a guard's regular expression names at most. Fewer than those of a 405: a path's spellings are several
#: times as long as the path.
_PATHS: Final = 20


@dataclass(frozen=True, slots=True)
class Priced:
    """Something that costs: a path of a service, as `ir.Route` has it, or all that is below another basePath."""

    path: ir.PathPattern
    methods: tuple[str, ...]
    prices: tuple[RoutePrice, ...]


@dataclass(frozen=True, slots=True)
class Guard:
    """What is refused: these methods of the paths that a regular expression takes whole, without the query."""

    methods: tuple[str, ...]
    regex: str


def guards(service: ir.Service, below: Sequence[Priced]) -> Mapping[int, tuple[Guard, ...]]:
    """The guards of a service, by the index of the route they stand before.

    `below`: what costs under basePaths below this one (see `nested`). A route above another is the author's word;
    so is every literal path.
    """
    base = re.escape(service.prefix)
    found: dict[int, tuple[Guard, ...]] = {}
    above: list[Priced] = list(below)
    done: set[tuple[ir.PathPattern, str]] = set()
    for index, route in enumerate(service.routes):
        if route.path.rest or None in route.path.segments:
            wanted: dict[tuple[str, ...], list[ir.PathPattern]] = {}
            for priced in above:
                fresh = [method for method in priced.methods if method in route.methods]
                fresh = [method for method in fresh if (priced.path, method) not in done]
                if fresh and _may_meet(route.path, priced.path) and _cheaper(route.price, priced.prices):
                    wanted.setdefault(tuple(fresh), []).append(priced.path)
                    done.update((priced.path, method) for method in fresh)
            if wanted:
                found[index] = tuple(_guards(base, wanted))
        if route.price is not None:
            above.append(Priced(route.path, route.methods, (route.price,)))
    return MappingProxyType(found)


def nested(services: Iterable[ir.Service]) -> Mapping[str, tuple[Priced, ...]]:
    """What costs below the basePath of another service of one host, by that basePath, as its paths."""
    services = tuple(services)
    bases = {service.base_path for service in services}
    found: dict[str, list[Priced]] = {}
    for service in sorted(services, key=lambda service: service.base_path):
        for base in ir.above(service.base_path):
            if base in bases and (prices := _prices(service)):
                segments = service.base_path.removeprefix(ir.prefix(base)).split("/")[1:]
                path = ir.PathPattern(tuple(segments), rest=True)
                found.setdefault(base, []).append(Priced(path, ir.DEFAULT_METHODS, prices))
    return MappingProxyType({base: tuple(priced) for base, priced in found.items()})


def _prices(service: ir.Service) -> tuple[RoutePrice, ...]:
    return tuple(dict.fromkeys(route.price for route in service.routes if route.price is not None))


#: Letters beyond ASCII that servers which ignore case take for these (Unicode case folding: the Kelvin sign, the
#: long s, the Turkish i with and without its dot), as they are in a path. RE2's (?i) knows them unencoded only.
_FOLDED: Final = {"i": "%c4%b[01]", "k": "%e2%84%aa", "s": "%c5%bf"}


def _guards(base: str, wanted: Mapping[tuple[str, ...], Sequence[ir.PathPattern]]) -> Iterator[Guard]:
    for methods, paths in wanted.items():
        spelled = [_spelled(path) for path in dict.fromkeys(paths)]
        for start in range(0, len(spelled), _PATHS):
            part = [*spelled[start : start + _PATHS], *([] if start else [_TWICE])]
            yield Guard(methods, f"(?i){base}(?:{'|'.join(part)})")


def _spelled(path: ir.PathPattern) -> str:
    """Every spelling that may be read as a path of this pattern, below the basePath."""
    text = ""
    for number, segment in enumerate(path.segments, start=1):
        text += _SEPARATOR
        if segment is None:
            text += "[^/]+"
        else:
            last = number == len(path.segments)
            text += "".join(map(_character, segment)) + (_FORMAT if last else "") + _BLANKS + _PARAMETERS
    if path.rest:
        return f"{text}{_CUT}(?:/.*)?"
    return f"{text}{_CUT}{_CLOSING}"


def _character(character: str) -> str:
    """Itself, or encoded. What RFC 3986 calls unreserved is decoded by then."""
    plain = re.escape(character)
    if folded := _FOLDED.get(character.lower()):
        return f"(?:{plain}|{folded})"
    return plain if re.fullmatch(r"[A-Za-z0-9._~-]", character) else f"(?:{plain}|%{ord(character):02x})"


def _cheaper(one: RoutePrice | None, others: Sequence[RoutePrice]) -> bool:
    """Whether `one` asks less than any of the others, by any offer that both have; or for nothing at all."""
    if one is None:
        return True
    asked = {offer.name: int(offer.amount) for offer in one.offers}
    for other in others:
        common = [(asked[offer.name], int(offer.amount)) for offer in other.offers if offer.name in asked]
        if not common or any(mine < theirs for mine, theirs in common):
            return True
    return False


def _may_meet(wide: ir.PathPattern, narrow: ir.PathPattern) -> bool:
    """Whether a wildcard may take a lookalike of a path. What it says literally is the author's word, case too."""
    beyond = () if narrow.rest else wide.segments[len(narrow.segments) :]
    pairs = zip(wide.segments, narrow.segments, strict=False)
    return all(segment is None for segment in beyond) and all(
        wanted is None or said is None or wanted == said for wanted, said in pairs
    )
