"""The operations of an API description, as routes of ours can serve them: which there are, in which order, and why
one is left out. Pure; knows OpenAPI's shape, no prices.

A route is matched as a whole path of whole segments, the first match wins. What OpenAPI says beyond that (a
template inside a segment, another server for one operation) is left out, never widened: a wider route would sell
more than what is described.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mpp_operator import ir, patterns
from mpp_operator.discovery import descriptions
from mpp_operator.discovery.fragments import Reader
from mpp_operator.document import plain, shown
from mpp_operator.paidservice import routes as paid_routes

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
#: As a Path Item writes them (OpenAPI 3.1.0, 4.8.9).
_SERVED: Final[Mapping[str, Method]] = {
    "get": "GET", "head": "HEAD", "post": "POST", "put": "PUT", "patch": "PATCH", "delete": "DELETE"
}  # fmt: skip
_NEVER_SERVED: Final = {
    "options": "the gateway answers preflights itself, and nothing else",
    "trace": "the gateway never forwards it",
}
_TEMPLATE: Final = re.compile(r"\{([^{}/]+)\}")
_MAX_PATH: Final = 512  # of routes[].match.path


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `path` is a route's; `described` is the template as the description writes it."""

    method: Method
    path: str
    described: str
    summary: str
    operation_id: str
    tags: tuple[str, ...]
    streaming: bool  # it answers with server-sent events
    raw: Mapping[Any, Any] = field(compare=False, repr=False)  # the operation as it is written
    shared: tuple[Any, ...] = field(compare=False, repr=False)  # parameters of its path

    @property
    def place(self) -> str:
        """Where the description has it, on one line."""
        return f"paths.{plain(self.described)}.{self.method.lower()}"

    @property
    def pattern(self) -> ir.PathPattern:
        """The path, parsed."""
        return paid_routes.path_pattern(self.path)

    @property
    def parameters(self) -> list[Any]:
        """As they are written, the path's first; each by the name its template has in the route."""
        own = self.raw.get("parameters")
        return [*self.shared, *(own if isinstance(own, list) else ())]


def find(description: Mapping[str, Any], reader: Reader, notes: list[str]) -> tuple[Operation, ...]:
    """Every operation that can be served, in the description's order.

    `reader` resolves references; `notes` gets one line for each thing that is left out.
    """
    paths = description.get("paths")
    if not isinstance(paths, Mapping):
        return ()
    operations: list[Operation] = []
    never: dict[str, list[str]] = {method: [] for method in _NEVER_SERVED}
    for described, item in paths.items():
        if not str(described).startswith("x-"):
            operations += _of_path(str(described), item, reader, notes, never)
    for method, places in never.items():
        if places:
            notes.append(f"{places[0]}{_more(places)}: left out: {_NEVER_SERVED[method]}")
    return tuple(_once(operations, notes))


def ordered(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """Each before those that would take its requests as well: literals before templates. Else as they come."""
    found: list[tuple[ir.PathPattern, Operation]] = []
    for operation in operations:
        pattern = operation.pattern
        wider = (at for at, (other, _) in enumerate(found) if other != pattern and other.covers(pattern))
        found.insert(next(wider, len(found)), (pattern, operation))
    return tuple(operation for _, operation in found)


def ambiguous(one: ir.PathPattern, other: ir.PathPattern) -> bool:
    """Whether some request is taken by both, and neither is the narrower one: `/a/{x}` and `/{x}/b`."""
    alike = len(one.segments) == len(other.segments) and one.trailing_slash == other.trailing_slash
    meet = all(a is None or b is None or a == b for a, b in zip(one.segments, other.segments, strict=False))
    return alike and meet and not one.covers(other) and not other.covers(one)


@dataclass(frozen=True, slots=True)
class Selector:
    """Operations by path (`/pets/{id}`, `/pets/*`, `/pets/**`), by method and path (`GET /pets`), or by tag
    (`tag:pets`).

    `*` takes any segment, `/**` all that follows. `{id}` takes a template alone, whatever it is called: whoever
    copies a path of the description means that path, and not all the words in its place.
    """

    method: str | None
    path: str | None
    tag: str | None

    def takes(self, operation: Operation) -> bool:
        """Whether `operation` is one of them."""
        if self.method is not None and self.method != operation.method:
            return False
        if self.path is None:
            return self.tag in operation.tags
        wanted, found = self.path.removesuffix("/**").split("/"), operation.path.split("/")
        if len(wanted) != len(found) and not (self.path.endswith("/**") and len(wanted) < len(found)):
            return False
        return all(map(_takes, wanted, found[: len(wanted)]))


def _takes(wanted: str, found: str) -> bool:
    if wanted == "*":
        return found != ""
    return found.startswith("{") if wanted[:1] in ("{", ":") else found == wanted


def selector(text: str) -> Selector | None:
    """`text` as a person wrote it; None where it is none."""
    if text.startswith("tag:") and len(text) > len("tag:"):
        return Selector(None, None, text.removeprefix("tag:"))
    method, _, path = ("", "", text) if text.startswith("/") else text.partition(" ")
    path = _TEMPLATE.sub("{x}", path)  # the description's names may be none that a route can have
    if (method and method not in ir.DEFAULT_METHODS) or not re.fullmatch(patterns.PATH, path, re.ASCII):
        return None
    return Selector(method or None, path, None)


def _of_path(
    described: str, item: Any, reader: Reader, notes: list[str], never: Mapping[str, list[str]]
) -> Iterator[Operation]:
    place = f"paths.{plain(described)}"
    item = reader.resolved(item, place)
    if item is None:
        return  # a reference to nothing: the reader has a note of it
    if not isinstance(item, Mapping):
        notes.append(f"{place}: expected an object, got {shown(item)}: left out")
        return
    path, expected = _route_path(described)
    if expected:
        notes.append(f"{place}: expected {expected}, got {shown(described)}: left out")
        return
    for method, places in never.items():
        if method in item:
            places.append(f"{place}.{method}")
    shared = item.get("parameters")
    for method, served in _SERVED.items():
        operation = item.get(method)
        below = f"{place}.{method}"
        if operation is None:
            continue
        if not isinstance(operation, Mapping):
            notes.append(f"{below}: expected an object, got {shown(operation)}: left out")
        elif operation.get("servers") or item.get("servers"):
            notes.append(f"{below}: expected no servers of its own, got some: left out; import it by itself")
        else:
            tags = operation.get("tags")
            yield Operation(
                method=served,
                path=path,
                described=described,
                summary=_text(operation.get("summary")) or _text(item.get("summary")),
                operation_id=_text(operation.get("operationId")),
                tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
                streaming=_streams(operation.get("responses"), reader, below),
                raw=operation,
                shared=tuple(shared) if isinstance(shared, list) else (),
            )


def _streams(responses: Any, reader: Reader, place: str) -> bool:
    for status, response in responses.items() if isinstance(responses, Mapping) else ():
        found = reader.resolved(response, f"{place}.responses.{status}") if str(status).startswith("2") else None
        content = found.get("content") if isinstance(found, Mapping) else None
        if isinstance(content, Mapping) and any(
            str(kind).partition(";")[0].strip().lower() == "text/event-stream" for kind in content
        ):
            return True
    return False


def _route_path(described: str) -> tuple[str, str]:
    """The route's path for a template, and what was expected where there is none."""
    segments = described.split("/")[1:]
    if not described.startswith("/"):
        return "", "a path that begins with /"
    if any(not segment for segment in segments[:-1]):
        return "", "no empty segment"
    if re.fullmatch(patterns.DOT_SEGMENT, described):
        return "", "no '.' or '..' segment"
    if any("{" in segment and not _TEMPLATE.fullmatch(segment) for segment in segments):
        return "", "braces around a whole segment"
    if any(segment.startswith(":") or segment in ("*", "**") for segment in segments):
        return "", "no segment that is a pattern in a route"
    path = _TEMPLATE.sub(lambda found: "{" + descriptions.template_name(found[1]) + "}", described)
    if not re.fullmatch(patterns.PATH, path, re.ASCII):
        return "", "letters, digits and -._~!$&'()+,;=:@ in each segment"
    if len(path) > _MAX_PATH:
        return "", f"at most {_MAX_PATH} characters"
    if re.fullmatch(patterns.RESERVED, path):
        return "", "a path that is not the gateway's own (discovery: {enabled: false} frees all but /-/)"
    return path, ""


def _once(operations: Sequence[Operation], notes: list[str]) -> list[Operation]:
    """One operation for each request: a route is found by path and method, whatever its templates are called."""
    kept: dict[tuple[str, ir.PathPattern], Operation] = {}
    for operation in operations:
        first = kept.setdefault((operation.method, operation.pattern), operation)
        if first is not operation:
            told = f"expected each path once, got {shown(first.described)} before: left out"
            notes.append(f"{operation.place}: {told}")
    taken = [o for (method, pattern), o in kept.items() if method == "HEAD" and ("GET", pattern) in kept]
    if taken:
        places = [operation.place for operation in taken]
        notes.append(f"{places[0]}{_more(places)}: left out: GET's route answers HEAD, at the same price")
    return [operation for operation in kept.values() if operation not in taken]


def _more(places: Sequence[str]) -> str:
    return f" and {len(places) - 1} more" if len(places) > 1 else ""


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
