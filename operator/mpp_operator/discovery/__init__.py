"""The documents by which agents find what is for sale: of services as they were lowered, to texts by path.

Pure. A document is made of the same `RoutePrice` as the 402, and holds neither a host's name nor a time, so hosts
with the same services have the same documents (draft-payment-discovery-00). `listed` decides what is in them;
`openapi`, `llms` and `catalogue` write it down; `merge` reads what an upstream says of itself. Knows no Envoy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from mpp_operator import ir
from mpp_operator.discovery import catalogue, listed, llms, openapi

__all__ = ["OPENAPI", "REGISTRY_LIMIT", "Document", "of_host"]

OPENAPI: Final = "/openapi.json"
LLMS: Final = "/llms.txt"
SERVICES: Final = "/services"

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

#: Bytes of a document that a registry reads (draft-payment-discovery-00, Registry and Aggregator Guidance).
REGISTRY_LIMIT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One answer. `text` is encoded as UTF-8."""

    content_type: str
    text: str


def of_host(services: Sequence[ir.Service]) -> Mapping[str, Document]:
    """The documents of a host at which `services` are: path on the host -> document.

    `/openapi.json`, `/llms.txt`, `/services` and `/services/<namespace>.<name>`, and the first two below the
    basePath of each listed service. Nothing where nothing is listed; and none of the host's own where the service
    at `/` is not listed, whose routes these paths may be.
    """
    return _of_host(tuple(services))


# Hosts that share their services share the documents, and most compilations change one host of many.
@lru_cache(maxsize=256)
def _of_host(services: tuple[ir.Service, ...]) -> Mapping[str, Document]:
    found = listed.services(services)
    documents: dict[str, Document] = {}
    for service in found:
        if service.base_path != "/":
            documents |= _both(service.base_path, (service,))
    hidden = any(service.base_path == "/" and service.listing is None for service in services)
    if found and not hidden:
        documents |= _both("", found)
        documents[SERVICES] = Document(JSON, catalogue.render(found))
        documents |= {
            f"{SERVICES}/{service.id}": Document(JSON, catalogue.render_one(service)) for service in found
        }
    return MappingProxyType(dict(sorted(documents.items())))


def _both(base: str, services: tuple[listed.Service, ...]) -> dict[str, Document]:
    return {
        base + OPENAPI: Document(JSON, openapi.render(services)),
        base + LLMS: Document(TEXT, llms.render(services, base)),
    }
