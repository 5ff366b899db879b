"""What a service may name: its namespace's hosts and upstreams, and nothing of the inside of a cluster."""

import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from mpp_operator.gateway import GatewayConfig, Namespace
from mpp_operator.paidservice import Spec, Upstream
from mpp_operator.status import Problem, Reason


def check_hosts(spec: Spec, config: GatewayConfig, policy: Namespace) -> Iterator[Problem]:
    claimed = [(f"spec.hosts[{index}]", host) for index, host in enumerate(spec.hosts)]
    if spec.payment.realm:
        claimed.append(("spec.payment.realm", spec.payment.realm))
    for field, host in claimed:
        # The gateway's own hosts are shared: everybody may have a basePath there, nobody the root.
        if policy.hosts is not None and host not in config.hosts and not _matches(host, policy.hosts):
            expected = ", ".join(policy.hosts) or "none"
            yield Problem(Reason.HOST_NOT_ALLOWED, field, f"expected a host of {expected}, got {host!r}")
    if spec.base_path == "/":
        for index, host in enumerate(spec.hosts):
            if host in config.hosts:
                message = f"expected a host of its own beside basePath '/', got the gateway's {host!r}"
                yield Problem(Reason.INVALID_SPEC, f"spec.hosts[{index}]", message)


def check_upstream(upstream: Upstream, config: GatewayConfig, policy: Namespace) -> Iterator[Problem]:
    url = upstream.effective_url
    if url is None:
        if config.cluster_domain is None:
            message = "expected url: there is no Kubernetes Service outside a cluster"
            yield Problem(Reason.INVALID_SPEC, "spec.upstream.service", message)
        return
    host = urlsplit(url).hostname or ""
    if config.cluster_domain is not None and (why := _inside(host, config.cluster_domain)):
        message = f"expected the public name of a server (or service: for one of this cluster), got {why}"
        yield Problem(Reason.UPSTREAM_NOT_ALLOWED, "spec.upstream.url", message)
    if policy.upstreams is not None and not _matches(host, policy.upstreams):
        message = f"expected a host of {', '.join(policy.upstreams) or 'none'}, got {host!r}"
        yield Problem(Reason.UPSTREAM_NOT_ALLOWED, "spec.upstream.url", message)


def check_discovery(spec: Spec, config: GatewayConfig) -> Iterator[Problem]:
    source = spec.discovery.openapi_from
    if source is not None and source.file is not None and config.cluster_domain is not None:
        message = "expected configMap: a cluster has no files"
        yield Problem(Reason.INVALID_SPEC, "spec.discovery.openapiFrom.file", message)


#: Names that a cloud answers with its machines' credentials.
_METADATA_HOSTS: Final = ("metadata.google.internal", "metadata.goog")


def _inside(host: str, cluster_domain: str) -> str | None:
    """What makes `host` a name of the inside: whoever may write PaidServices could reach what only the gateway
    can. None: it is not. (What a public name resolves to is the egress NetworkPolicy's.)"""
    if ":" in host or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2]):
        return "an IP address"  # as WHATWG URL reads hosts: whatever ends in a number, 127.1 and 0x7f.1 too
    if "." not in host:
        return "a name without a dot"
    for suffix in ("svc", "cluster.local", cluster_domain, "localhost", "local", *_METADATA_HOSTS):
        if host == suffix or host.endswith(f".{suffix}"):
            return f"a name below {suffix}"
    return None


def _matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether `host` is one of `patterns`; "*.example.com" is every name below example.com, not itself."""
    return any(host.endswith(p[1:]) if p.startswith("*.") else host == p for p in patterns)
