"""What the discovery documents will say of a service, beside its prices. Nothing here refuses a service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpp_operator import discovery, ir
from mpp_operator.compiler.offers import Way
from mpp_operator.compiler.references import DocumentSource, Unreadable, document_source
from mpp_operator.discovery import descriptions, merge
from mpp_operator.paidservice import OpenApi, PaidService, Route
from mpp_operator.status import Problem, Reason


@dataclass(frozen=True, slots=True)
class Described:
    """A service's listing, its routes with their operations, and what could not be said."""

    listing: ir.Listing | None
    routes: tuple[ir.Route, ...]
    problems: tuple[Problem, ...]


def describe(
    service: PaidService,
    routes: Sequence[ir.Route],
    ways: Sequence[Way],
    upstream_path: str,
    document: str | Unreadable | None,
) -> Described:
    """`routes` of `service` as documents show them. `document` is what its `openapiFrom` led to; None: nothing."""
    spec = service.spec
    if not spec.discovery.enabled:
        return Described(None, tuple(routes), ())
    said = [
        replace(route, names=own.match.names, operation=_operation(own))
        for route, own in zip(routes, spec.routes, strict=True)
    ]
    theirs, problems = _document(document_source(service), document)
    merged = merge.merge(
        said,
        theirs,
        prefix=f"{service.namespace}.{service.name}.",
        upstream_path=upstream_path,
        field="spec.discovery.openapiFrom",
    )
    docs = {"apiReference": spec.docs.api_reference, "homepage": spec.docs.homepage, "llms": spec.docs.llms}
    listing = ir.Listing(
        title=spec.title,
        description=spec.description,
        version=spec.version,
        categories=spec.categories,
        docs=tuple((name, uri) for name, uri in docs.items() if uri is not None),
        currencies=_currencies(ways),
        components=merged.components,
    )
    problems += [Problem(Reason.INVALID_DOCUMENT, note.field, note.message) for note in merged.notes]
    return Described(listing, merged.routes, tuple(problems))


def too_large(service: ir.Service) -> tuple[Problem, ...]:
    """What is wrong with the size of the documents of `service` alone."""
    found = discovery.of_host([service])
    return tuple(
        Problem(Reason.DOCUMENT_TOO_LARGE, "spec.discovery", _too_large(path, size, "split the service"))
        for path in (service.prefix + discovery.OPENAPI, service.prefix + discovery.LLMS)
        if path in found and (size := found[path].size) > discovery.REGISTRY_LIMIT
    )


def hosts_too_large(gateway: ir.Gateway) -> tuple[str, ...]:
    """A line for each document of a host's own that is too large, where several services share the host."""
    found: dict[tuple[str, int], list[str]] = {}
    for host, services in gateway.by_host().items():
        # To write documents takes time: only those that may be too large.
        may_be = len(services) > 1 and discovery.most_bytes(services) > discovery.REGISTRY_LIMIT
        documents = discovery.of_host(services) if may_be else {}
        for path in (discovery.OPENAPI, discovery.LLMS):
            if path in documents and (size := documents[path].size) > discovery.REGISTRY_LIMIT:
                found.setdefault((path, size), []).append(host)
    return tuple(
        f"{', '.join(hosts)}: {_too_large(path, size, 'give services hosts of their own')}"
        for (path, size), hosts in found.items()
    )


def _too_large(path: str, size: int, fix: str) -> str:
    return (
        f"expected at most {discovery.REGISTRY_LIMIT} bytes in {path}, which is all that registries read, "
        f"got {size}: {fix}, or say less in openapi and openapiFrom"
    )


def _operation(route: Route) -> ir.Operation:
    openapi = route.openapi or OpenApi()
    parts = {
        "parameters": openapi.parameters,
        "request_body": openapi.request_body,
        "responses": openapi.responses,
    }
    return ir.Operation(
        summary=openapi.summary,
        description=route.description,
        operation_id=openapi.operation_id,
        tags=openapi.tags,
        **{name: part.text for name, part in parts.items() if part is not None},
    )


def _document(
    source: DocumentSource | None, found: str | Unreadable | None
) -> tuple[Mapping[str, Any] | None, list[Problem]]:
    """The document at `source`, and why there is none."""
    if source is None:
        return None, []
    field = f"spec.discovery.openapiFrom.{'configMap' if source.kind == 'ConfigMap' else 'file'}"
    if not isinstance(found, str):
        why = "nothing" if found is None else found.why
        return None, [Problem(Reason.DOCUMENT_NOT_FOUND, field, f"expected {source} to be readable, got {why}")]
    try:
        return descriptions.read(found), []
    except descriptions.DocumentError as error:
        return None, [Problem(Reason.INVALID_DOCUMENT, field, f"{source}: {error}")]


def _currencies(ways: Sequence[Way]) -> tuple[ir.Currency, ...]:
    """How people write the amounts of these offers."""
    found = set()
    for way in ways:
        symbols = {address.lower(): symbol for symbol, address in way.network.currencies}
        symbol = symbols.get(way.currency, way.offer.currency)
        found.add(ir.Currency(way.network.name, way.currency, symbol, way.network.decimals))
    return tuple(sorted(found, key=lambda currency: (currency.network, currency.address, currency.symbol)))
