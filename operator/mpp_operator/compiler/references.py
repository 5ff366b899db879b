"""What PaidServices and gateway.yaml refer to: keys of Secrets and ConfigMaps, which the shells look up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mpp_operator import ir
from mpp_operator.fields import KeyRef
from mpp_operator.gateway import GatewayConfig
from mpp_operator.paidservice import Offer, PaidService, RecipientFrom, Upstream


@dataclass(frozen=True, slots=True)
class RecipientSource:
    """Where a `recipientFrom` is read, by the shell: the compiler gets values only."""

    kind: str  # "ConfigMap" or "Secret"
    namespace: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class DocumentSource:
    """Where an upstream's own OpenAPI document is read, by the shell."""

    kind: str  # "ConfigMap" or "File"
    namespace: str
    name: str  # of a file: its path, from the PaidService's
    key: str = ""  # of a file: none

    def __str__(self) -> str:
        return f"key {self.key!r} in ConfigMap {self.namespace}/{self.name}" if self.key else f"file {self.name!r}"


#: The texts of `openapiFrom` by (namespace, name) of the PaidService; of one that cannot be read, why: it
#: completes "got ...". What is missing was not found.
Documents = Mapping[tuple[str, str], "str | Unreadable"]
NO_DOCUMENTS: Final[Documents] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that is there, and cannot be read."""

    why: str


#: Values of `recipientFrom`, as far as they were found.
Recipients = Mapping[RecipientSource, str]
NO_RECIPIENTS: Final[Recipients] = MappingProxyType({})


def refs(service: PaidService) -> tuple[ir.SecretSource, ...]:
    """The Secrets' keys that must exist for `service`: its upstream's credential and CA, its sponsors' keys and
    recipients. Sorted, each once."""
    upstream, payment = service.spec.upstream, service.spec.payment
    ca = upstream.tls.ca_secret_ref if upstream.tls else None
    return _sources([auth_ref(upstream), ca, *_offer_refs(payment.offers or ())], service.namespace)


def gateway_refs(config: GatewayConfig) -> tuple[ir.SecretSource, ...]:
    """The Secrets' keys that gateway.yaml itself needs, beside the challenge keys: those of its default offers."""
    return _sources(_offer_refs(config.offers), config.namespace)


def recipient_sources(service: PaidService) -> tuple[RecipientSource, ...]:
    """Where the recipients of `service`'s own offers are read."""
    return _recipient_sources(service.spec.payment.offers or (), service.namespace)


def gateway_recipient_sources(config: GatewayConfig) -> tuple[RecipientSource, ...]:
    """Where the recipients of the default offers are read."""
    return _recipient_sources(config.offers, config.namespace)


def document_source(service: PaidService) -> DocumentSource | None:
    """Where the description of `service`'s upstream is read; None where it names none, or is not listed."""
    discovery = service.spec.discovery
    source = discovery.openapi_from if discovery.enabled else None
    if source is None:
        return None
    if source.config_map is not None:
        return DocumentSource("ConfigMap", service.namespace, source.config_map.name, source.config_map.key)
    assert source.file is not None  # noqa: S101 -- the parser: exactly one of the two
    return DocumentSource("File", service.namespace, source.file)


def recipient_source(source: RecipientFrom, namespace: str) -> RecipientSource:
    """Where `recipientFrom` is read: it has exactly one of the two references."""
    refs = {"ConfigMap": source.config_map_ref, "Secret": source.secret_ref}
    return next(RecipientSource(kind, namespace, ref.name, ref.key) for kind, ref in refs.items() if ref)


def auth_ref(upstream: Upstream) -> KeyRef | None:
    """The key that holds the upstream's credential; None where it wants none."""
    auth = upstream.effective_auth
    kind = auth and (auth.bearer or auth.api_key or auth.basic)
    return kind.secret_ref if kind else None


def _recipient_sources(offers: Sequence[Offer], namespace: str) -> tuple[RecipientSource, ...]:
    return tuple(recipient_source(o.recipient_from, namespace) for o in offers if o.recipient_from)


def _offer_refs(offers: Iterable[Offer]) -> list[KeyRef | None]:
    sponsors = [offer.fee_payer.secret_ref for offer in offers if offer.fee_payer]
    return [*sponsors, *(offer.recipient_from.secret_ref for offer in offers if offer.recipient_from)]


def _sources(found: Iterable[KeyRef | None], namespace: str) -> tuple[ir.SecretSource, ...]:
    keys = sorted({(ref.name, ref.key) for ref in found if ref})
    return tuple(ir.SecretSource(namespace, name, key) for name, key in keys)
