"""The compiler: PaidServices in, artifacts and conditions out. A pure function: no clock, no file, no network.

`lower` decides (names, defaults, conflicts, allow-lists, amounts); `artifacts` renders. Services come in any
order, and every result is sorted. `services` lowers one, `places` settles conflicts between them, `references`
says what the shells must look up.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from mpp_authz import pricing as contract
from mpp_operator import ir, status
from mpp_operator.artifacts import Files, clusters, pricing, routes
from mpp_operator.compiler import described
from mpp_operator.compiler import services as one
from mpp_operator.compiler.places import Key, Places
from mpp_operator.compiler.references import (
    NO_DOCUMENTS,
    NO_RECIPIENTS,
    Documents,
    DocumentSource,
    Recipients,
    RecipientSource,
    Unreadable,
    document_source,
    gateway_recipient_sources,
    gateway_refs,
    recipient_sources,
    refs,
)
from mpp_operator.gateway import ANYTHING, GatewayConfig
from mpp_operator.paidservice import PaidService
from mpp_operator.status import Condition, Summary

__all__ = [
    "NO_DOCUMENTS",
    "NO_RECIPIENTS",
    "Compilation",
    "DocumentSource",
    "Documents",
    "Key",
    "Lowered",
    "RecipientSource",
    "Recipients",
    "Unreadable",
    "compile",
    "document_source",
    "gateway_recipient_sources",
    "gateway_refs",
    "lower",
    "recipient_sources",
    "refs",
]


@dataclass(frozen=True, slots=True)
class Lowered:
    """What will be served, what each service is told, and the columns of the accepted ones."""

    gateway: ir.Gateway
    conditions: Mapping[Key, tuple[Condition, ...]]
    summaries: Mapping[Key, Summary]


@dataclass(frozen=True, slots=True)
class Compilation:
    """One artifact set, with what it was rendered from. `revision` is the content hash of `artifacts`."""

    artifacts: Files
    gateway: ir.Gateway
    conditions: Mapping[Key, tuple[Condition, ...]]
    summaries: Mapping[Key, Summary]
    revision: str
    warnings: tuple[str, ...] = ()  # of what services share; a service's own are in its conditions


def compile(  # noqa: A001 -- the verb of the field, always written compiler.compile
    services: Iterable[PaidService],
    config: GatewayConfig,
    recipients: Recipients = NO_RECIPIENTS,
    documents: Documents = NO_DOCUMENTS,
) -> Compilation:
    """Lower and render. A service that is not accepted is in `conditions` and in no artifact."""
    lowered = lower(services, config, recipients, documents)
    files = {**routes.render(lowered.gateway), **clusters.render(lowered.gateway)}
    revision = _digest({**files, **pricing.render(lowered.gateway)})
    files |= pricing.render(lowered.gateway, revision)
    return Compilation(
        MappingProxyType(files),
        lowered.gateway,
        lowered.conditions,
        lowered.summaries,
        revision,
        described.hosts_too_large(lowered.gateway),
    )


def lower(
    services: Iterable[PaidService],
    config: GatewayConfig,
    recipients: Recipients = NO_RECIPIENTS,
    documents: Documents = NO_DOCUMENTS,
) -> Lowered:
    """Decide every name, default and conflict.

    The older service wins a place (creationTimestamp, then namespace/name); only accepted services hold one.
    """
    accepted: dict[Key, one.Piece] = {}
    conditions: dict[Key, tuple[Condition, ...]] = {}
    places = Places()
    # Without the other namespaces' policies: what a service is lowered with is hashed each time.
    shared = replace(config, namespaces=())
    policies = dict(config.namespaces)
    shared_sources = gateway_recipient_sources(config)
    for service in sorted(services, key=_age):
        sources = recipient_sources(service) if service.spec.payment.offers else shared_sources
        found = tuple((source, recipients[source]) for source in sources if source in recipients)
        policy = policies.get(service.namespace, ANYTHING)
        piece = one.lower(service, shared, policy, found, documents.get(service.key))
        problems = piece.problems or places.claim(service.key, service.spec.base_path, one.hosts(service, config))
        told = [status.refused(problems, service.generation) if problems else status.accepted(service.generation)]
        if piece.unresolved:
            told.append(status.unresolved(piece.unresolved, service.generation))
        if piece.undescribed and not problems:
            told.append(status.undescribed(piece.undescribed, service.generation))
        conditions[service.key] = tuple(told)
        if not problems and not piece.unresolved:
            accepted[service.key] = piece
    pieces = [accepted[key] for key in sorted(accepted)]
    gateway = ir.Gateway(
        services=tuple(piece.service for piece in pieces if piece.service),
        clusters=_by_name(piece.cluster for piece in pieces if piece.cluster),
        networks=_networks(config),
        transport=contract.Transport(config.insecure_http, config.tls.terminated_by if config.tls else ()),
        upstream_secrets=_by_name(secret for piece in pieces for secret in piece.secrets),
        fee_payer_keys=_by_name(key for piece in pieces for key in piece.fee_payers),
    )
    return Lowered(
        gateway,
        MappingProxyType(dict(sorted(conditions.items()))),
        MappingProxyType({key: piece.summary for key, piece in sorted(accepted.items()) if piece.summary}),
    )


def _age(service: PaidService) -> tuple[float, str, str]:
    """Sorts by creationTimestamp, then namespace/name. Without a timestamp: youngest."""
    return math.inf if service.created is None else service.created, service.namespace, service.name


def _networks(config: GatewayConfig) -> tuple[contract.Network, ...]:
    return tuple(
        contract.Network(network.name, network.method, network.chain_id, network.rpc_urls)
        for network in sorted(config.networks, key=lambda network: network.name)
    )


_Named = TypeVar("_Named", ir.Cluster, ir.UpstreamSecret, ir.FeePayerKey)


def _by_name(values: Iterable[_Named]) -> tuple[_Named, ...]:
    """Each once, by name. Equal names are equal values: names hash all that makes them differ."""
    return tuple(value for _, value in sorted({value.name: value for value in values}.items()))


def _digest(files: Files) -> str:
    """The content hash of an artifact set."""
    digest = hashlib.sha256()
    for name, text in sorted(files.items()):
        digest.update(f"{name}\0{len(text)}\0{text}".encode())
    return digest.hexdigest()[:16]
