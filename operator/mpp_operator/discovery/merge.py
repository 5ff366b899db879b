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

import yaml

from mpp_operator import ir, patterns
from mpp_operator.discovery import fragments
from mpp_operator.discovery.fragments import Note, Reader
from mpp_operator.document import kind, shown

#: Characters of a document that are read. A ConfigMap holds a quarter of it.
MAX_DOCUMENT: Final = 4 * 1024 * 1024

_MAX_ALIASES: Final = 1000
_MAX_NESTING: Final = 200
_MAX_LINE: Final = 120
_MAX_DESCRIPTION: Final = 2000
_MAX_TAGS: Final = 16


class DocumentError(ValueError):
    """Not an OpenAPI document we can read: what was expected, and what was got."""


def read(text: str) -> Mapping[str, Any]:
    """An OpenAPI document from JSON or YAML.

    Raises:
        DocumentError: too long, neither of them, or no OpenAPI 3.
    """
    if len(text) > MAX_DOCUMENT:
        raise DocumentError(f"expected at most {MAX_DOCUMENT} characters, got {len(text)}")
    text = text.removeprefix("\ufeff")
    try:
        document = _from_json(text) if text.lstrip()[:1] in ("{", "[") else _from_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentError(f"expected JSON or YAML, got {_told(error)}") from error
    if not isinstance(document, Mapping):
        raise DocumentError(f"expected an object, got {kind(document)}")
    version = document.get("openapi")
    if not isinstance(version, str) or not version.startswith("3."):
        found = f"swagger {document['swagger']}"[:40] if "swagger" in document else f"openapi {shown(version)}"
        raise DocumentError(f'expected openapi: "3.0.…" or "3.1.…", got {found}')
    return document


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
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if not isinstance(url, str):
        return ""
    variables = first.get("variables") if isinstance(first, Mapping) else None
    if isinstance(variables, Mapping):
        for name, variable in variables.items():
            default = variable.get("default") if isinstance(variable, Mapping) else None
            if isinstance(default, str):
                url = url.replace(f"{{{name}}}", default)
    try:
        return unquote(urlsplit(url).path).rstrip("/")
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
    """A parameter's name as a path template can hold it everywhere."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


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


# --- JSON and YAML ---------------------------------------------------------------------------------------

#: A string of JSON, or what opens or closes.
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]')


def _from_json(text: str) -> Any:
    # The decoder's own limit is the interpreter's, which others raise until the process ends: look first.
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth > _MAX_NESTING:
            raise ValueError(f"more than {_MAX_NESTING} levels")
    return json.loads(text)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one or the other, by the platform
    """YAML as JSON: no dates, and no merge keys, which would multiply."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("timestamp", "merge")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _from_yaml(text: str) -> Any:
    # libyaml's composer ends the process where a document is nested deeply (seen with 6.0.3): look first.
    depth = aliases = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > _MAX_NESTING or aliases > _MAX_ALIASES:
            raise ValueError(f"more than {_MAX_NESTING} levels or {_MAX_ALIASES} aliases")
    return yaml.load(text, _Loader)  # noqa: S506 -- it is a safe one


def _told(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return where + (getattr(error, "problem", None) or str(error) or type(error).__name__).splitlines()[0][:200]
