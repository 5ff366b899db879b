"""What is in the documents of a host: each route by each method at one path template, as it is really answered.

The first route that matches answers, and the longest basePath: what another one hides is not listed. OpenAPI's
templates know a parameter for one segment only, so a route that takes the rest of a path is listed with as many
parameters as it needs to be told from the routes before it.
"""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mpp_operator import ir

#: Where the documents are: on the host, and the first two below the basePath of each service.
OPENAPI: Final = "/openapi.json"
LLMS: Final = "/llms.txt"
SERVICES: Final = "/services"

#: GET's HEAD is not listed by itself: it has the same price.
_IMPLIED: Final = {"HEAD": "GET"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a path template."""

    name: str  # in the template
    given: str  # by the author; "" where there was none
    rest: bool  # the last of a route that takes all that follows


@dataclass(frozen=True, slots=True)
class Operation:
    """One method at one path template, and the route that answers it."""

    path: str  # on the host: "/llm/v1/users/{id}"
    method: str  # "GET"
    parameters: tuple[Parameter, ...]  # of the path, in order
    route: ir.Route

    @property
    def described(self) -> ir.Operation:
        return self.route.described(self.method)


@dataclass(frozen=True, slots=True)
class Service:
    """A service that is listed, with all that it is listed with."""

    namespace: str
    name: str
    base_path: str
    listing: ir.Listing
    operations: tuple[Operation, ...]  # in the author's order, methods in that of `ir.DEFAULT_METHODS`

    @property
    def id(self) -> str:
        """Names the service on its host, in paths too."""
        return f"{self.namespace}.{self.name}"

    @property
    def prefix(self) -> str:
        """What its paths begin with."""
        return ir.prefix(self.base_path)


def services(host: Sequence[ir.Service]) -> Iterator[tuple[ir.Service, tuple[str, ...]]]:
    """Those of a host's services that may be listed, each with the basePaths below its own. By basePath."""
    bases = sorted({service.base_path for service in host})
    for service in sorted(host, key=lambda service: (service.base_path, service.namespace, service.name)):
        if service.listing is not None:
            yield service, _below(bases, service.base_path)


def listed(service: ir.Service, below: tuple[str, ...]) -> Service | None:
    """`service` as it is listed, where others have the basePaths `below`, and take what is theirs before it does.
    None: nothing of it is left, or it is not to be listed."""
    operations = _operations(service, below)
    if service.listing is None or not operations:
        return None
    return Service(service.namespace, service.name, service.base_path, service.listing, operations)


def _operations(service: ir.Service, below: tuple[str, ...]) -> tuple[Operation, ...]:
    taken = [ir.PathPattern(_segments(base), rest=True) for base in below]
    templates: dict[ir.PathPattern, tuple[str, tuple[str, ...]]] = {}
    before: dict[str, list[ir.PathPattern]] = {}
    found = []
    for route in service.routes:
        whole = _below_base(service.base_path, route.path)
        for method in route.methods:
            earlier = before.setdefault(method, list(taken))
            shape = _reachable(whole, earlier)
            earlier.append(whole)
            if shape is None or _IMPLIED.get(method) in route.methods:
                continue
            if shape not in templates:
                templates[shape] = _template(shape, route, whole.rest)
            path, names = templates[shape]
            found.append(Operation(path, method, _parameters(names, route), route))
    return tuple(found)


def _reachable(path: ir.PathPattern, earlier: Sequence[ir.PathPattern]) -> ir.PathPattern | None:
    """`path` without an open end, as far as no pattern of `earlier` takes it all. None: nothing is left."""
    if any(pattern.covers(path) for pattern in earlier):
        return None
    if not path.rest:
        return path
    longest = max((len(pattern.segments) for pattern in earlier), default=0)
    for more in range(1, max(1, longest - len(path.segments) + 1) + 1):
        shape = ir.PathPattern(path.segments + (None,) * more)
        if not any(pattern.covers(shape) for pattern in earlier):
            return shape
    return None


def _below_base(base: str, path: ir.PathPattern) -> ir.PathPattern:
    return ir.PathPattern(_segments(base) + path.segments, path.rest, path.trailing_slash)


def _segments(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _below(bases: Sequence[str], above: str) -> tuple[str, ...]:
    """Those of the sorted basePaths that are under another one."""
    if above == "/":
        return tuple(base for base in bases if base != "/")
    start = bisect.bisect_left(bases, f"{above}/")
    return tuple(itertools.takewhile(lambda base: base.startswith(f"{above}/"), bases[start:]))


# --- templates -------------------------------------------------------------------------------------------


def _template(shape: ir.PathPattern, route: ir.Route, rest: bool) -> tuple[str, tuple[str, ...]]:
    """The path of `shape` with a name for each open segment, and the names."""
    opened = sum(segment is None for segment in shape.segments)
    last = opened - 1 if rest else -1
    given = zip(range(opened), _given(route), strict=False)
    names = tuple(_unique(name or ("path" if n == last else "segment") for n, name in given))
    written = iter(names)
    parts = [f"{{{next(written)}}}" if segment is None else segment for segment in shape.segments]
    return "/" + "/".join(parts) + ("/" if shape.trailing_slash else ""), names


def _parameters(names: Sequence[str], route: ir.Route) -> tuple[Parameter, ...]:
    """The parameters of a template, which another route may have named, as `route` has them."""
    last = len(names) - 1 if route.path.rest else -1
    return tuple(
        Parameter(name, given, n == last)
        for n, (name, given) in enumerate(zip(names, _given(route), strict=False))
    )


def _given(route: ir.Route) -> Iterator[str]:
    """The author's names for open segments, and no names for ever."""
    return itertools.chain(route.names, itertools.repeat(""))


def _unique(names: Iterable[str]) -> Iterator[str]:
    """Each name once; the second `id` is `id2`."""
    seen: set[str] = set()
    for name in names:
        number, unique = 1, name
        while unique in seen:
            number += 1
            unique = f"{name}{number}"
        seen.add(unique)
        yield unique
