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

__all__ = ["LLMS", "OPENAPI", "REGISTRY_LIMIT", "SERVICES", "Document", "of_host"]

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

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.text.encode("utf-8", "replace"))


def of_host(services: Sequence[ir.Service]) -> Mapping[str, Document]:
    """The documents of a host at which `services` are: path on the host -> document.

    `/openapi.json`, `/llms.txt`, `/services` and `/services/<namespace>.<name>`, and the first two below the
    basePath of each listed service. Nothing where nothing is listed; and none of the host's own where the service
    at `/` is not listed, whose routes these paths may be.
    """
    found = listed.services(services)
    hidden = any(service.base_path == "/" and service.listing is None for service in services)
    of_host_too = bool(found) and not hidden
    documents: dict[str, Document] = {}
    for service in found:
        own, described = _of_service(service)
        if service.base_path != "/":
            documents |= {service.base_path + name: document for name, document in own.items()}
        if of_host_too:
            documents[f"{SERVICES}/{service.id}"] = described
    if of_host_too:
        documents |= _both("", found)
        documents[SERVICES] = Document(JSON, catalogue.render(found))
    return MappingProxyType(dict(sorted(documents.items())))


# A host's documents change with every service of it, and are long: only those of services are kept.
@lru_cache(maxsize=16_384)
def _of_service(service: listed.Service) -> tuple[Mapping[str, Document], Document]:
    """What lies below its basePath, and what `/services` says of it."""
    return _both(service.base_path, (service,)), Document(JSON, catalogue.render_one(service))


def _both(base: str, services: tuple[listed.Service, ...]) -> dict[str, Document]:
    return {
        OPENAPI: Document(JSON, openapi.render(services)),
        LLMS: Document(TEXT, llms.render(services, base)),
    }
