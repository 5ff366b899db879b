"""What an upstream says of itself in its own OpenAPI document (3.0 or 3.1), joined with what our routes say.

An operation of the document belongs to the route that has its method and path; each part that the route does not
say comes from there. Prices, paths and methods never do. What is wrong with a document is told, and costs no more
than the words it would have given.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from mpp_operator import ir, patterns
from mpp_operator.discovery import descriptions, fragments
from mpp_operator.discovery.fragments import Note, Reader

_MAX_LINE: Final = 120
_MAX_DESCRIPTION: Final = 2000
_MAX_TAGS: Final = 16


@dataclass(frozen=True, slots=True)
class Merged:
    """Routes with all that documents say of them, the components this refers to, and what was left out."""

    routes: tuple[ir.Route, ...]
    components: str | None
    notes: tuple[Note, ...]


def merge(
    routes: Sequence[ir.Route], document: Mapping[str, Any] | None, *, prefix: str, upstream_path: str, field: str
) -> Merged:
    """`routes`, whose operations hold what their author says, unchecked: with that checked, and what `document`
    adds.

    `prefix` begins the names of components, `upstream_path` is put before each route's path, and `field` is where
    the document is named.
    """
    reader = Reader(document or {}, prefix)
    own = [_own(reader, route.operation, index) for index, route in enumerate(routes)]
    notes = list(reader.notes)
    reader.notes.clear()
    paths = _Paths(document or {}, reader)
    merged = [_merged(route, said, paths, upstream_path) for route, said in zip(routes, own, strict=True)]
    components = reader.components()
    if document is not None and not paths.used:
        message = "expected an operation with the method and path of a route, got none: see its servers[0].url"
        reader.notes.append(Note("paths", message))
    notes += [Note(f"{field}: {note.field}", note.message) for note in reader.notes]
    return Merged(tuple(merged), fragments.canonical(components) if components else None, tuple(notes))


# --- joining ---------------------------------------------------------------------------------------------


def _own(reader: Reader, said: ir.Operation, index: int) -> ir.Operation:
    """What the author says of a route, as far as it is sound."""
    field = f"spec.routes[{index}].openapi"
    return replace(
        said,
        parameters=_checked(reader.parameters, said.parameters, f"{field}.parameters"),
        request_body=_checked(reader.request_body, said.request_body, f"{field}.requestBody"),
        responses=_checked(reader.responses, said.responses, f"{field}.responses"),
    )


def _checked(read: Callable[[Any, str], Any], text: str | None, field: str) -> str | None:
    return None if text is None else _text(read(json.loads(text), field))


def _text(value: Any) -> str | None:
    return fragments.canonical(value) if value else None


def _merged(route: ir.Route, own: ir.Operation, paths: "_Paths", upstream_path: str) -> ir.Route:
    found = {}
    names = route.names
    for method in route.methods:
        theirs = paths.operation(method, route, upstream_path)
        if theirs is not None:
            found[method] = _joined(own, theirs.operation)
            names = names if any(names) else theirs.names
    # GET's HEAD is not listed, and says nothing of its own.
    methods = [method for method in route.methods if not (method == "HEAD" and "GET" in route.methods)]
    said = {method: found.get(method, own) for method in methods}
    first = said[methods[0]]
    others = tuple((method, operation) for method, operation in said.items() if operation != first)
    return replace(route, names=names, operation=first, operations=others)


def _joined(own: ir.Operation, theirs: ir.Operation) -> ir.Operation:
    return ir.Operation(
        summary=own.summary or theirs.summary,
        description=own.description or theirs.description,
        operation_id=own.operation_id or theirs.operation_id,
        tags=own.tags or theirs.tags,
        parameters=own.parameters or theirs.parameters,
        request_body=own.request_body or theirs.request_body,
        responses=own.responses or theirs.responses,
    )


# --- the upstream's document -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Theirs:
    """An operation of the document, and what it calls the path's parameters."""

    operation: ir.Operation
    names: tuple[str, ...]


class _Paths:
    """The paths of a document, by their shape: as they stand below the first server, and as they are written."""

    def __init__(self, document: Mapping[str, Any], reader: Reader) -> None:
        self._reader = reader
        self.used = False
        paths = document.get("paths")
        base = _server_path(document)
        self._below: dict[ir.PathPattern, tuple[str, Any]] = {}
        self._bare: dict[ir.PathPattern, tuple[str, Any]] = {}
        for path, item in paths.items() if isinstance(paths, Mapping) else ():
            if isinstance(path, str) and path.startswith("/"):
                self._below.setdefault(_shape(base + path), (path, item))
                self._bare.setdefault(_shape(path), (path, item))

    def operation(self, method: str, route: ir.Route, upstream_path: str) -> _Theirs | None:
        """What the document says of `method` at the path of `route`; None: nothing."""
        at = route.path
        if at.rest:
            return None
        whole = ir.PathPattern(_shape(upstream_path).segments + at.segments, trailing_slash=at.trailing_slash)
        path, item = self._below.get(whole) or self._bare.get(whole) or self._bare.get(at) or ("", None)
        if item is None:
            return None
        field = f"paths.{path}"
        item = self._reader.resolved(item, field)
        operation = item.get(method.lower()) if isinstance(item, Mapping) else None
        if not isinstance(operation, Mapping):
            return None
        self.used = True
        names = tuple(part[1:-1] for part in path.split("/") if _is_open(part))
        field = f"{field}.{method.lower()}"
        return _Theirs(self._read(operation, item, names, route, field), tuple(map(_safe_name, names)))

    def _read(
        self,
        operation: Mapping[str, Any],
        item: Mapping[str, Any],
        names: tuple[str, ...],
        route: ir.Route,
        field: str,
    ) -> ir.Operation:
        reader = self._reader
        lists = (item.get("parameters"), operation.get("parameters"))
        given = [entry for entries in lists if isinstance(entries, list) for entry in entries]
        parameters = reader.parameters(given, f"{field}.parameters") if given else []
        # By place: the route's author may call a segment something else.
        ours = {
            name: (route.names[at] if at < len(route.names) and route.names[at] else _safe_name(name))
            for at, name in enumerate(names)
        }
        parameters = [
            {**p, "name": ours[p["name"]]} if p["in"] == "path" else p
            for p in parameters
            if p["in"] != "path" or p["name"] in ours
        ]
        body = operation.get("requestBody")
        responses = operation.get("responses")
        identity = operation.get("operationId")
        known = isinstance(identity, str) and len(identity) <= _MAX_LINE
        return ir.Operation(
            summary=_line(operation.get("summary")) or _line(item.get("summary")),
            description=_paragraph(operation.get("description")) or _paragraph(item.get("description")),
            operation_id=identity if known and re.fullmatch(patterns.OPERATION_ID, str(identity)) else None,
            tags=_tags(operation.get("tags")),
            parameters=_text(parameters),
            request_body=None if body is None else _text(reader.request_body(body, f"{field}.requestBody")),
            responses=None if responses is None else _text(reader.responses(responses, f"{field}.responses")),
        )


def _server_path(document: Mapping[str, Any]) -> str:
    """The path of the first server, with its variables' defaults: "" or "/v1"."""
    try:
        return unquote(urlsplit(descriptions.first_server(document) or "").path).rstrip("/")
    except ValueError:
        return ""


def _shape(path: str) -> ir.PathPattern:
    """A path template, matched by its shape: parameters of one segment are open."""
    parts = [part for part in path.split("/") if part]
    segments = tuple(None if _is_open(part) else part for part in parts)
    return ir.PathPattern(segments, trailing_slash=bool(parts) and path.endswith("/"))


def _is_open(part: str) -> bool:
    return re.fullmatch(r"\{[^{}]+\}", part) is not None


def _safe_name(name: str) -> str:
    return descriptions.template_name(name)[:64]


def _line(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    text = " ".join(value.split())
    return (text if len(text) <= _MAX_LINE else text[: _MAX_LINE - 1] + "…") or None


def _paragraph(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    text = value.strip()
    return (text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1] + "…") or None


def _tags(value: Any) -> tuple[str, ...]:
    found = [tag for entry in value if (tag := _line(entry))] if isinstance(value, list) else []
    return tuple(dict.fromkeys(found[:_MAX_TAGS]))
