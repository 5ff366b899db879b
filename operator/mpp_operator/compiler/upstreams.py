"""The upstream as Envoy's cluster: where it is, how it is verified, which credential of ours it gets."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from mpp_operator import ir
from mpp_operator.compiler.references import auth_ref
from mpp_operator.fields import KeyRef
from mpp_operator.gateway import DEFAULT_PORTS, GatewayConfig
from mpp_operator.paidservice import PaidService


@dataclass(frozen=True, slots=True)
class Target:
    """Where the upstream is. `path` has no trailing slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        literal = f"[{self.host}]" if ":" in self.host else self.host
        return literal if self.port == DEFAULT_PORTS[self.scheme] else f"{literal}:{self.port}"


def target(service: PaidService, config: GatewayConfig) -> Target:
    """The upstream's URL or Kubernetes Service."""
    ref = service.spec.upstream.service
    if ref is not None:
        return Target(ref.scheme, f"{ref.name}.{service.namespace}.svc.{config.cluster_domain}", ref.port, "")
    parts = urlsplit(service.spec.upstream.effective_url or "")
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return Target(parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"))


def secrets(service: PaidService) -> dict[str, ir.UpstreamSecret]:
    """What the upstream wants from us, by use: "auth", "ca"."""
    upstream = service.spec.upstream
    secrets = {}
    if (auth := upstream.effective_auth) and (ref := auth_ref(upstream)):
        scheme, username = "raw", ""
        if auth.bearer:
            scheme = "bearer"
        elif auth.basic:
            scheme = "basic-user" if auth.basic.username is None else "basic"
            username = auth.basic.username or ""
        secrets["auth"] = _secret(service.namespace, ref, scheme, username)
    if upstream.tls and upstream.tls.ca_secret_ref:
        secrets["ca"] = _secret(service.namespace, upstream.tls.ca_secret_ref, "ca", "")
    return secrets


def _secret(namespace: str, ref: KeyRef, scheme: str, username: str) -> ir.UpstreamSecret:
    source = ir.SecretSource(namespace, ref.name, ref.key)
    return ir.UpstreamSecret(
        _unique((namespace, ref.name, ref.key), (source, scheme, username)), source, scheme, username
    )


def cluster(service: PaidService, config: GatewayConfig, secrets: Mapping[str, ir.UpstreamSecret]) -> ir.Cluster:
    """The upstream, with what `secrets` found for it."""
    upstream = service.spec.upstream
    at = target(service, config)
    server_name = None
    if at.scheme == "https":
        server_name = (upstream.tls and upstream.tls.server_name) or at.host
    injected = None
    if (header := upstream.auth_header) and "auth" in secrets:
        injected = ir.Injected(header, secrets["auth"].name)
    cluster = ir.Cluster(
        name="",
        host=at.host,
        port=at.port,
        tls_server_name=server_name,
        tls_ca_secret=secrets["ca"].name if "ca" in secrets else None,
        connect_timeout=upstream.timeouts.connect,
        max_connections=upstream.limits.connections,
        max_requests=upstream.limits.requests,
        max_pending=upstream.limits.pending,
        injected=injected,
    )
    # The namespace is part of the identity: nobody uses up a neighbour's connections, or borrows a credential.
    return replace(cluster, name=_unique((service.namespace, at.host), (service.namespace, cluster)))


def _unique(words: Iterable[str], identity: object) -> str:
    """A name that people can read and that no two identities share."""
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:80]
    # The repr of frozen dataclasses and tuples of texts and numbers is the same in every process.
    return f"{readable}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:10]}"
