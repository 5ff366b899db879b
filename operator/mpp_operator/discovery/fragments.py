"""Parts of somebody's OpenAPI document (3.0 or 3.1), made into parts of ours: OpenAPI 3.1, sound and bounded.

What has no place there is left out, and a note says so; the rest stays. A `$ref` within the document is carried:
what it leads to becomes a component of ours, once, so that cycles end and nothing is copied twice. A document is
read as it was written, also by somebody who wants ours to be broken or endless.

https://spec.openapis.org/oas/v3.1.0 and https://json-schema.org/draft/2020-12
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mpp_operator.document import kind, shown

#: Characters taken over of one document, about. Aliases and references may make much of a short text.
MAX_SIZE: Final = 1_000_000
MAX_DEPTH: Final = 48
MAX_NOTES: Final = 20
_MAX_TEXT: Final = 4000
_MAX_REFERENCES: Final = 16

_STATUS: Final = re.compile(r"[1-5]([0-9]{2}|XX)|default")
_COMPONENT: Final = re.compile(r"#/components/(schemas|responses|parameters|examples|requestBodies|headers)/[^/]+")
_IN: Final = ("query", "header", "cookie", "path")
#: The first is the default.
_STYLES: Final = {
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
    "path": ("simple", "label", "matrix"),
}
#: "Shall be ignored" as parameters (OpenAPI 3.1.0, 4.8.12.2.1); and what is between the payer and us.
_NO_PARAMETERS: Final = frozenset(
    {"accept", "accept-payment", "authorization", "content-type", "payment-authorization"}
)
_NO_HEADERS: Final = frozenset({"content-type", "payment-receipt", "payment-credit", "www-authenticate"})
_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")

_SCHEMA_TEXTS: Final = ("title", "description", "format", "pattern", "contentEncoding", "contentMediaType")
_SCHEMA_NUMBERS: Final = ("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum")
_SCHEMA_COUNTS: Final = (
    *("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"),
    *("maxContains", "minContains"),
)
_SCHEMA_FLAGS: Final = ("uniqueItems", "deprecated", "readOnly", "writeOnly")
_SCHEMA_ANY: Final = ("default", "example", "const")
_SCHEMA_ONE: Final = (
    *("not", "items", "additionalProperties", "contains", "propertyNames", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_SCHEMA_LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAP: Final = ("properties", "patternProperties", "dependentSchemas")


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was left out. `message` says what was expected and what was found."""

    field: str
    message: str


class _Nothing(Exception):
    """This value has no place in our document."""


class Reader:
    """Takes parts over, and keeps the components and notes that come with them.

    `document` is what a `$ref` leads into; `prefix` begins the name of every component.
    """

    def __init__(self, document: Mapping[str, Any], prefix: str) -> None:
        self._document = document
        self._prefix = prefix
        self._old = str(document.get("openapi", "")).startswith("3.0")
        self._left = MAX_SIZE
        self._names: dict[tuple[str, str], str] = {}  # (kind, pointer) -> name of the component
        self._waiting: list[tuple[str, str, str]] = []
        self._components: dict[str, dict[str, Any]] = {}
        self.notes: list[Note] = []

    def parameters(self, value: Any, field: str) -> list[dict[str, Any]]:
        """The sound ones of a list of parameters, each of (name, in) once, the later one."""
        if not isinstance(value, list | tuple):
            self._note(field, "a list", value)
            return []
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for index, entry in enumerate(value):
            # Inlined: whoever reads the list must know their names.
            parameter = self._kept(self._parameter, self.resolved(entry, f"{field}[{index}]"), f"{field}[{index}]")
            if parameter is not None:
                found[parameter["name"], parameter["in"]] = parameter
        return list(found.values())

    def request_body(self, value: Any, field: str) -> dict[str, Any] | None:
        """A requestBody, or None where nothing of it is sound."""
        return self._kept(self._request_body, value, field)

    def responses(self, value: Any, field: str) -> dict[str, Any] | None:
        """Responses by status, or None where nothing of them is sound."""
        return self._kept(self._responses, value, field) or None

    def components(self) -> dict[str, dict[str, Any]]:
        """What the parts taken over so far refer to, and what that refers to in turn."""
        readers: Mapping[str, Callable[[Any, str, int], dict[str, Any] | bool]] = {
            "schemas": self._schema,
            "responses": self._response,
            "requestBodies": self._request_body,
            "headers": self._header,
            "examples": self._example,
        }
        empty: Mapping[str, dict[str, Any]] = {
            "responses": {"description": ""},
            "requestBodies": {"content": {}},
            "headers": {"schema": {}},
        }
        while self._waiting:
            of, pointer, name = self._waiting.pop()
            found = self._kept(readers[of], self._at(pointer), pointer)
            self._components.setdefault(of, {})[name] = empty.get(of, {}) if found is None else found
        return {of: dict(sorted(found.items())) for of, found in sorted(self._components.items())}

    def resolved(self, value: Any, field: str) -> Any:
        """What a `$ref` leads to in the document, through others; `value` itself where it is none."""
        first = value
        for _ in range(_MAX_REFERENCES):
            if not isinstance(value, Mapping) or "$ref" not in value:
                break
            reference = value["$ref"]
            value = self._at(reference) if isinstance(reference, str) else None
        else:
            value = None  # in a circle
        if value is None and first is not None:
            self._note(field, "a $ref to something in the document (#/…)", first["$ref"])
        return value

    # --- parts -------------------------------------------------------------------------------------------

    def _parameter(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        name, place = document.get("name"), document.get("in")
        if not isinstance(name, str) or not name:
            raise self._nothing(f"{field}.name", "a name", name)
        if not isinstance(place, str) or place not in _IN:
            raise self._nothing(f"{field}.in", f"one of {', '.join(_IN)}", place)
        if place == "header" and name.lower() in _NO_PARAMETERS:
            raise _Nothing  # by the rule, not by mistake
        found = {"name": name, "in": place, **self._flags(document, "required", "deprecated")}
        if place == "query":
            found |= self._flags(document, "allowEmptyValue", "allowReserved")
        if place == "path":
            found["required"] = True
        if document.get("style") in _STYLES[place]:
            found["style"] = document["style"]
        return found | self._described(document) | self._valued(document, field, depth)

    def _header(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        if "$ref" in document:
            return self._reference(document, "headers", field)
        found = self._flags(document, "required", "deprecated")
        return found | self._described(document) | self._valued(document, field, depth)

    def _valued(self, document: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
        """`schema` or `content`, of which a parameter and a header have one."""
        content = document.get("content")
        if "schema" not in document and isinstance(content, Mapping) and len(content) == 1:
            return {"content": self._content(content, f"{field}.content", depth + 1)}
        schema = self._kept(self._schema, document.get("schema", {}), f"{field}.schema", depth + 1)
        found: dict[str, Any] = {"schema": {} if schema is None else schema}
        return found | self._flags(document, "explode") | self._an_example(document, field, depth)

    def _request_body(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        if "$ref" in document:
            return self._reference(document, "requestBodies", field)
        found = {**self._described(document), **self._flags(document, "required")}
        return {**found, "content": self._content(document.get("content"), f"{field}.content", depth + 1)}

    def _responses(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        found = {}
        for key, below in self._object(value, field).items():
            status = str(key)
            if status.startswith("x-"):
                continue
            if not _STATUS.fullmatch(status):
                self._note(f"{field}.{status[:40]}", "a status such as 200, 4XX or default", status)
                continue
            response = self._kept(self._response, below, f"{field}.{status}", depth + 1)
            found[status] = {"description": ""} if response is None else response
        return found

    def _response(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        if "$ref" in document:
            return self._reference(document, "responses", field)
        found: dict[str, Any] = {"description": "", **self._described(document)}
        headers = {
            name: header
            for name, below in self._entries(document.get("headers"), f"{field}.headers")
            if name.lower() not in _NO_HEADERS
            and (header := self._kept(self._header, below, f"{field}.headers.{name}", depth + 1)) is not None
        }
        if headers:
            found["headers"] = headers
        if document.get("content"):
            found["content"] = self._content(document["content"], f"{field}.content", depth + 1)
        return found

    def _content(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        found = {}
        for name, below in self._object(value, field).items():
            media = self._kept(self._media, below, f"{field}.{name}", depth + 1)
            if isinstance(name, str) and media is not None:
                found[name] = media
        return found

    def _media(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        found: dict[str, Any] = {}
        if "schema" in document:
            schema = self._kept(self._schema, document["schema"], f"{field}.schema", depth + 1)
            if schema is not None:
                found["schema"] = schema
        return found | self._an_example(document, field, depth)

    def _an_example(self, document: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
        """`example` or `examples`, of which there is one."""
        if "example" in document:
            return {"example": self._any(document["example"], f"{field}.example", depth + 1)}
        examples = {
            name: example
            for name, below in self._entries(document.get("examples"), f"{field}.examples")
            if (example := self._kept(self._example, below, f"{field}.examples.{name}", depth + 1)) is not None
        }
        return {"examples": examples} if examples else {}

    def _example(self, value: Any, field: str, depth: int) -> dict[str, Any]:
        document = self._object(value, field)
        if "$ref" in document:
            return self._reference(document, "examples", field)
        found: dict[str, Any] = self._described(document)
        if isinstance(document.get("summary"), str):
            found["summary"] = document["summary"][:_MAX_TEXT]
        if "value" in document:
            found["value"] = self._any(document["value"], f"{field}.value", depth + 1)
        return found

    def _schema(self, value: Any, field: str, depth: int) -> dict[str, Any] | bool:
        if isinstance(value, bool):
            return value
        document = self._object(value, field)
        if depth > MAX_DEPTH:
            raise self._nothing(field, f"at most {MAX_DEPTH} levels", "more")
        found: dict[str, Any] = {}
        if "$ref" in document:
            found |= self._reference(document, "schemas", field)
            if self._old:
                return found  # 3.0: what stands beside it is ignored
        for name in _SCHEMA_TEXTS:
            if isinstance(document.get(name), str):
                found[name] = document[name][:_MAX_TEXT]
        for name in _SCHEMA_FLAGS:
            if isinstance(document.get(name), bool):
                found[name] = document[name]
        for name in _SCHEMA_COUNTS:
            if _is_number(document.get(name)) and document[name] >= 0 and document[name] == int(document[name]):
                found[name] = int(document[name])
        for name in _SCHEMA_ANY:
            if name in document:
                found[name] = self._any(document[name], f"{field}.{name}", depth + 1)
        found |= self._numbers(document) | self._lists(document, field, depth) | self._type(document)
        for name in _SCHEMA_ONE:
            if name in document:
                below = self._kept(self._schema, document[name], f"{field}.{name}", depth + 1)
                if below is not None:
                    found[name] = below
        for name in _SCHEMA_LIST:
            found |= self._alternatives(document, name, field, depth)
        for name in _SCHEMA_MAP:
            below_all = {
                key: below
                for key, one in self._entries(document.get(name), f"{field}.{name}")
                if (below := self._kept(self._schema, one, f"{field}.{name}.{key}", depth + 1)) is not None
            }
            if below_all:
                found[name] = below_all
        return found

    def _alternatives(
        self, document: Mapping[str, Any], name: str, field: str, depth: int
    ) -> dict[str, list[dict[str, Any] | bool]]:
        if not isinstance(document.get(name), list):
            return {}
        below = [
            self._kept(self._schema, one, f"{field}.{name}[{index}]", depth + 1)
            for index, one in enumerate(document[name])
        ]
        # One that is left out may hold anything: without it the others would say too much.
        return {name: [{} if one is None else one for one in below]} if below else {}

    def _lists(self, document: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        required = document.get("required")
        if isinstance(required, list) and required:
            found["required"] = list(dict.fromkeys(name for name in required if isinstance(name, str)))
        for name in ("enum", "examples"):
            if isinstance(document.get(name), list) and document[name]:
                found[name] = self._any(document[name], f"{field}.{name}", depth + 1)
        return found

    def _numbers(self, document: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: document[name] for name in _SCHEMA_NUMBERS if _is_number(document.get(name))}
        if _is_number(document.get("multipleOf")) and document["multipleOf"] > 0:
            found["multipleOf"] = document["multipleOf"]
        for end in ("Maximum", "Minimum"):  # 3.0: a flag beside the bound
            if document.get(f"exclusive{end}") is True and end.lower() in found:
                found[f"exclusive{end}"] = found.pop(end.lower())
        return found

    def _type(self, document: Mapping[str, Any]) -> dict[str, Any]:
        given = document.get("type")
        types = [name for name in (given if isinstance(given, list) else [given]) if name in _TYPES]
        types = list(dict.fromkeys(types))
        if types and self._old and document.get("nullable") is True and "null" not in types:
            types.append("null")
        return {"type": types[0] if len(types) == 1 else types} if types else {}

    # --- values ------------------------------------------------------------------------------------------

    def _any(self, value: Any, field: str, depth: int) -> Any:
        """A value of JSON as it is."""
        self._spend(field, _size(value))
        match value:
            case None | bool() | str():
                return value
            case int() | float():
                return value if _is_number(value) else None
            case Mapping() | list() | tuple() if depth > MAX_DEPTH:
                raise self._nothing(field, f"at most {MAX_DEPTH} levels", "more")
            case Mapping():
                return {str(key): self._any(below, f"{field}.{key}", depth + 1) for key, below in value.items()}
            case list() | tuple():
                return [self._any(below, f"{field}[]", depth + 1) for below in value]
            case _:
                raise self._nothing(field, "a value that JSON can hold", value)

    def _object(self, value: Any, field: str) -> Mapping[Any, Any]:
        self._spend(field, _size(value))
        if not isinstance(value, Mapping):
            raise self._nothing(field, "an object", value)
        return value

    def _entries(self, value: Any, field: str) -> Iterator[tuple[str, Any]]:
        """The entries of an object that may be missing."""
        if value is None:
            return
        if not isinstance(value, Mapping):
            self._note(field, "an object", value)
            return
        yield from ((name, below) for name, below in value.items() if isinstance(name, str))

    def _described(self, document: Mapping[str, Any]) -> dict[str, str]:
        said = document.get("description")
        return {"description": said[:_MAX_TEXT]} if isinstance(said, str) else {}

    def _flags(self, document: Mapping[str, Any], *names: str) -> dict[str, Any]:
        return {name: document[name] for name in names if isinstance(document.get(name), bool)}

    def _reference(self, document: Mapping[str, Any], of: str, field: str) -> dict[str, Any]:
        """A `$ref` to a component of ours, which what it leads to becomes."""
        pointer = document["$ref"]
        if self.resolved(document, f"{field}.$ref") is None:
            raise _Nothing
        name = self._names.get((of, pointer))
        if name is None:
            name = self._names[of, pointer] = self._component_name(of, pointer)
            self._waiting.append((of, pointer, name))
        return {"$ref": f"#/components/{of}/{name}"}

    def _component_name(self, of: str, pointer: str) -> str:
        last = re.sub(r"[^A-Za-z0-9._-]", "_", pointer.rpartition("/")[2])[:80]
        name = f"{self._prefix}{last}"
        if not _COMPONENT.fullmatch(pointer) or (of, name) in {(o, n) for (o, _), n in self._names.items()}:
            name += f".{hashlib.sha256(pointer.encode('utf-8', 'replace')).hexdigest()[:8]}"
        return name

    def _at(self, pointer: str) -> Any:
        """What a local JSON pointer leads to (RFC 6901); None where that is nothing."""
        if not pointer.startswith("#/"):
            return None
        value: Any = self._document
        for part in pointer[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value

    def _kept(self, read: Callable[[Any, str, int], _T], value: Any, field: str, depth: int = 0) -> _T | None:
        """What `read` makes of `value`; None where it has no place."""
        try:
            return read(value, field, depth)
        except _Nothing:
            return None

    def _spend(self, field: str, size: int) -> None:
        if self._left > 0 >= self._left - size:
            self._note(field, f"at most {MAX_SIZE} characters in all", "more")
        self._left -= size
        if self._left <= 0:
            raise _Nothing

    def _nothing(self, field: str, expected: str, got: Any) -> _Nothing:
        self._note(field, expected, got)
        return _Nothing()

    def _note(self, field: str, expected: str, got: Any) -> None:
        if len(self.notes) < MAX_NOTES:
            # Of a long text or anything else its kind: examples may hold what is nobody's business.
            told = shown(got) if isinstance(got, str) else kind(got)
            self.notes.append(Note(_short(field), f"expected {expected}, got {told}: left out"))


def canonical(value: Any) -> str:
    """`value` as the IR holds it: the text in which equal values are equal."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _size(value: Any) -> int:
    """Characters that a value adds, without what is below it but the texts of an object."""
    match value:
        case str():
            return 2 + len(value)
        case Mapping():
            return (
                2
                + sum(4 + len(key) for key in value if isinstance(key, str))
                + sum(min(len(below), _MAX_TEXT) for below in value.values() if isinstance(below, str))
            )
        case _:
            return 8


def _is_number(value: Any) -> bool:
    """Whether a value is a number that JSON can hold."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e300


def _short(field: str) -> str:
    """Where something is, on one line: names in it are somebody's."""
    text = "".join(char if char.isprintable() else " " for char in field)
    return text if len(text) <= 200 else f"{text[:120]}…{text[-79:]}"
