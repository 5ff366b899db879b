"""Somebody's OpenAPI document (3.0 or 3.1) as a text, made into an object: JSON or YAML, bounded in all that could
end a process. Of what is in it, this knows only what all readers ask: where its API is, and how a path's
parameters can be called.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from mpp_operator.document import kind, shown

#: Characters of a document that are read. A ConfigMap holds a quarter of it.
MAX_DOCUMENT: Final = 4 * 1024 * 1024

_MAX_ALIASES: Final = 1000
_MAX_NESTING: Final = 200

_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")


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


def first_server(document: Mapping[str, Any]) -> str | None:
    """The URL of the first server, its variables as their defaults say; one without a default stays `{name}`."""
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(url, str):
        return None
    variables = first.get("variables")
    if not isinstance(variables, Mapping):
        return url
    return _VARIABLE.sub(lambda found: _default(variables.get(found[1]), found[0]), url)


def _default(variable: Any, otherwise: str) -> str:
    default = variable.get("default") if isinstance(variable, Mapping) else None
    return default if isinstance(default, str) else otherwise


def template_name(described: str) -> str:
    """The name of a path's parameter as a template can hold it everywhere: `user.id` is user_id."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", described)


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
