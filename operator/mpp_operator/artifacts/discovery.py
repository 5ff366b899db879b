"""Routes and files of the discovery documents. Envoy answers for them alone, without authz, without an upstream.

A document is one route whose body is a file, named by its hash; what it says to a method, to If-None-Match or to a
page of another origin is the same for all documents and is the listener's (`bootstrap.local_replies`), which finds
the document's own facts in its route's metadata. A route for each of these answers was measured, too: Envoy then
needs 2.5 s instead of 0.9 s to load 2,000 services (docs/decisions/0022).
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from mpp_operator import artifacts, discovery, ir
from mpp_operator.artifacts import answers, compact_json

#: The folder of the documents in the artifact set.
FOLDER: Final = "discovery"

#: Route metadata of a document: its entity tag (quoted), its media type, and whether it is for https alone.
METADATA: Final = "mpp.document"
ETAG: Final = "etag"
MEDIA_TYPE: Final = "type"
HTTPS_ONLY: Final = "https_only"

_EXTENSIONS: Final = {"application/json": "json"}  # all else is text

_READ_OPENAPI: Final = f"This gateway describes its services at {discovery.OPENAPI}."
_READ_SERVICES: Final = f"No service of this name is listed here. {discovery.SERVICES} lists them all."


@dataclass(frozen=True, slots=True)
class Routes:
    """What documents add to a host. Each text is one route or several, joined by commas."""

    exact: Mapping[str, str] = field(default_factory=dict)  # whole path -> its routes
    prefixes: Mapping[str, str] = field(default_factory=dict)  # prefix of `:path` -> its routes
    below: Mapping[str, str] = field(default_factory=dict)  # basePath -> routes before those of its service
    files: Mapping[str, str] = field(default_factory=dict)  # name in the artifact set -> text


def of_host(services: Sequence[ir.Service], *, https_only: bool) -> Routes:
    """The routes and files of a host at which `services` are. `https_only`: as for challenges, see
    `mpp_authz.quotes.secure`."""
    documents = discovery.of_host(services)
    bases = {service.base_path for service in services} - {"/"}
    exact: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    below: dict[str, str] = {}
    files: dict[str, str] = {}
    for path, document in documents.items():
        file, tag = _file(document)
        files[file] = document.text
        base = path.rpartition("/")[0]
        match = {"path": path} if base in bases else {"prefix": ""}
        facts: dict[str, str | bool] = {ETAG: tag, MEDIA_TYPE: document.content_type, HTTPS_ONLY: https_only}
        route = _route(path, match, file, facts)
        if base in bases:
            below[base] = f"{below[base]},{route}" if base in below else route
        else:
            exact[path] = prefixes[f"{path}?"] = route  # `:path` includes the query
    if discovery.OPENAPI in exact:
        _neighbours(exact, prefixes)
    return Routes(exact, prefixes, below, files)


def _neighbours(exact: dict[str, str], prefixes: dict[str, str]) -> None:
    """What lies beside the documents of a host: the older names for them, and services that are not there."""
    services = discovery.SERVICES
    exact[f"{services}/"] = prefixes[f"{services}/?"] = exact[services]
    unknown = compact_json(answers.problem(f"-{services}/404", {"prefix": ""}, 404, "Not Found", _READ_SERVICES))
    prefixes[f"{services}/"] = prefixes[f"{services}."] = unknown
    gone = compact_json(answers.problem("-/discover/410", {"prefix": ""}, 410, "Gone", _READ_OPENAPI))
    exact["/discover"] = gone
    # `/discover` alone is no key of the trie: it would swallow `/discovery`.
    prefixes |= {f"/discover{end}": gone for end in ("?", "/", ".")}


def largest(files: Collection[str]) -> int:
    """Bytes of the largest text."""
    return max((len(text.encode()) for text in files), default=0)


@lru_cache(maxsize=16_384)
def _file(document: discovery.Document) -> tuple[str, str]:
    """A document's name in the artifact set, and its entity tag."""
    tag = hashlib.sha256(document.text.encode()).hexdigest()[:16]
    return f"{FOLDER}/{tag}.{_EXTENSIONS.get(document.content_type, 'txt')}", f'"{tag}"'


def _route(path: str, match: Mapping[str, str], file: str, facts: Mapping[str, str | bool]) -> str:
    body = {"filename": f"{artifacts.CONFIG_DIRECTORY}/{file}"}
    return compact_json(
        {
            "name": f"-{path}",
            "match": match,
            "direct_response": {"status": 200, "body": body},
            "metadata": {"filter_metadata": {METADATA: facts}},
            "typed_per_filter_config": answers.FREE,
        }
    )
