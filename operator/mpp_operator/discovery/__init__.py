"""The documents by which agents find what is for sale: of services as they were lowered, to texts by path.

Pure. A document is made of the same `RoutePrice` as the 402, and holds neither a host's name nor a time, so hosts
with the same services have the same documents (draft-payment-discovery-00). `listed` decides what is in them;
`openapi`, `llms` and `catalogue` write it down. `descriptions` reads what an upstream says of itself, and `merge`
joins it with what our routes say. Knows no Envoy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from mpp_operator import ir
from mpp_operator.discovery import catalogue, listed, llms, openapi
from mpp_operator.discovery.listed import LLMS, OPENAPI, SERVICES

__all__ = ["LLMS", "OPENAPI", "REGISTRY_LIMIT", "SERVICES", "Document", "most_bytes", "of_host"]

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

#: Bytes of a document that a registry reads (draft-payment-discovery-00, Registry and Aggregator Guidance).
REGISTRY_LIMIT: Final = 64 * 1024

#: Bytes, at most, of what a shared document says of no service of its own, and no document of these says.
_HOST_BYTES: Final = 256


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
    found = [one for service, below in listed.services(services) if (one := _of_service(service, below))]
    hidden = any(service.base_path == "/" and service.listing is None for service in services)
    of_host_too = bool(found) and not hidden
    documents: dict[str, Document] = {}
    for one in found:
        if one.service.base_path != "/":
            documents |= one.documents
        if of_host_too:
            documents[f"{SERVICES}/{one.service.id}"] = one.described
    if of_host_too:
        all_of_it = tuple(one.service for one in found)
        parts = [one.alone if len(found) == 1 else _shared(one.service) for one in found]
        documents[OPENAPI] = Document(JSON, openapi.render(all_of_it, parts))
        documents[LLMS] = Document(TEXT, llms.render(all_of_it, [one.words for one in found], ""))
        documents[SERVICES] = Document(JSON, catalogue.render([one.described.text for one in found]))
    return MappingProxyType(dict(sorted(documents.items())))


def most_bytes(services: Sequence[ir.Service]) -> int:
    """Bytes of the larger of `/openapi.json` and `/llms.txt` of a host at which `services` are: at most. Writes
    neither, so it is cheap where one of many services changed."""
    found = [one for service, below in listed.services(services) if (one := _of_service(service, below))]
    return _HOST_BYTES + sum(one.most_bytes for one in found)


@dataclass(frozen=True, slots=True)
class _Of:
    """One service's own documents, and what it gives to those of its host."""

    service: listed.Service
    documents: Mapping[str, Document]
    described: Document  # by /services
    alone: openapi.Part
    words: llms.Part
    most_bytes: int  # that it adds to one of these


# A host's documents change with every service of it, and are long: only what services give to them is kept.
@lru_cache(maxsize=16_384)
def _of_service(service: ir.Service, below: tuple[str, ...]) -> _Of | None:
    """None: it is not listed."""
    found = listed.listed(service, below)
    if found is None:
        return None
    alone, words = openapi.part(found, shared=False), llms.part(found)
    documents = {
        found.base_path + OPENAPI: Document(JSON, openapi.render((found,), (alone,))),
        found.base_path + LLMS: Document(TEXT, llms.render((found,), (words,), found.base_path)),
    }
    most = max(
        documents[found.base_path + OPENAPI].size + openapi.added_bytes(found),
        documents[found.base_path + LLMS].size + llms.added_bytes(found),
    )
    return _Of(found, documents, Document(JSON, catalogue.render_one(found)), alone, words, most)


@lru_cache(maxsize=16_384)
def _shared(service: listed.Service) -> openapi.Part:
    return openapi.part(service, shared=True)
