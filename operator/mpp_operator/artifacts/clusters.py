"""The upstreams as Envoy clusters (CDS). Knows no routes and no prices.

Every path in the file is relative to Envoy's working directory, the state directory: the same artifact serves a
laptop and a cluster. Credentials are named here and held in SDS files (`artifacts.secrets`).
"""

import hashlib
import ipaddress
from typing import Any, Final

from mpp_operator import ir
from mpp_operator.artifacts import TYPE, compact_json, secrets

#: Where Debian, Alpine and Envoy's own images keep the system's roots.
SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"

_PROTOCOL_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def render(
    gateway: ir.Gateway, *, secrets_dir: str = secrets.DIRECTORY, system_roots: str = SYSTEM_ROOTS
) -> dict[str, str]:
    """`cds.json`: a DiscoveryResponse with one cluster per upstream. `version_info` is the content's hash."""
    clusters = [_cluster(cluster, secrets_dir, system_roots) for cluster in gateway.clusters]
    resources = compact_json(clusters)
    version = hashlib.sha256(resources.encode()).hexdigest()[:16]
    return {"cds.json": f'{{"resources":{resources},"version_info":"{version}"}}\n'}


def _cluster(cluster: ir.Cluster, secrets_dir: str, system_roots: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "@type": f"{TYPE}envoy.config.cluster.v3.Cluster",
        "name": cluster.name,
        "connect_timeout": seconds(cluster.connect_timeout),
        "per_connection_buffer_limit_bytes": 64 * 1024,
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": cluster.max_connections,
                    "max_requests": cluster.max_requests,
                    "max_pending_requests": cluster.max_pending,
                    # A share of the traffic, so that an upstream that is down does not get three times the load.
                    "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 5},
                }
            ]
        },
        # Connections that fail or gateways that say so; an application's own 500s eject nobody.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 5,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "base_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        "load_assignment": {
            "cluster_name": cluster.name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {
                                    "socket_address": {"address": _bare(cluster.host), "port_value": cluster.port}
                                }
                            }
                        }
                    ]
                }
            ],
        },
        "typed_extension_protocol_options": {_PROTOCOL_OPTIONS: _protocol(cluster, secrets_dir)},
    }
    if _is_ip(cluster.host):
        document["type"] = "STATIC"
    else:
        document |= {"type": "STRICT_DNS", "dns_lookup_family": "V4_PREFERRED"}
    if cluster.tls_server_name is not None:
        document["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": _tls(cluster, cluster.tls_server_name, secrets_dir, system_roots),
        }
    return document


def _protocol(cluster: ir.Cluster, secrets_dir: str) -> dict[str, Any]:
    """HTTP/1.1, or over TLS what ALPN agrees on; with our credential put in as the last thing before the wire.

    As an upstream filter the injector runs after the routes' header changes and on every retry, and its failure
    (no secret yet) reaches nobody's upstream.
    """
    options: dict[str, Any] = {"@type": TYPE + _PROTOCOL_OPTIONS}
    if cluster.tls_server_name is None:
        options["explicit_http_config"] = {"http_protocol_options": {}}
    else:
        options["auto_config"] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    if cluster.injected is not None:
        generic = {
            "@type": f"{TYPE}envoy.extensions.http.injected_credentials.generic.v3.Generic",
            "credential": secrets.reference(cluster.injected.secret, secrets_dir),
            "header": cluster.injected.header,
        }
        injector = {
            "@type": f"{TYPE}envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
            "overwrite": True,
            "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
        }
        codec = {"@type": f"{TYPE}envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
        options["http_filters"] = [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
        ]
    return options


def _tls(cluster: ir.Cluster, server_name: str, secrets_dir: str, system_roots: str) -> dict[str, Any]:
    """Always verified: the chain, and the name against the certificate's SANs."""
    by_ip = _is_ip(server_name)
    names = {
        "match_typed_subject_alt_names": [
            {"san_type": "IP_ADDRESS" if by_ip else "DNS", "matcher": {"exact": _bare(server_name)}}
        ]
    }
    common: dict[str, Any] = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_2"}}
    if cluster.tls_ca_secret is None:
        common["validation_context"] = names | {"trusted_ca": {"filename": system_roots}}
    else:
        common["combined_validation_context"] = {
            "default_validation_context": names,
            "validation_context_sds_secret_config": secrets.reference(cluster.tls_ca_secret, secrets_dir),
        }
    context: dict[str, Any] = {
        "@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    }
    if not by_ip:  # RFC 6066: "Literal IPv4 and IPv6 addresses are not permitted" as SNI
        context["sni"] = server_name
    return context


def seconds(value: float) -> str:
    """A protobuf Duration in JSON: at most nine decimals, no exponent."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(_bare(host))
    except ValueError:
        return False
    return True
