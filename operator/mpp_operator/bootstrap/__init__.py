"""Envoy's bootstrap: one static listener with the filter chain, the way to authz, the logs. Knows no service.

What changes with services comes from files (RDS, CDS, SDS) and never touches the listener: a listener change would
cut live SSE and WebSocket streams. Paths are relative to Envoy's working directory, the state directory.

`listener` is the connection manager, `filters` its chain, `predicates` what the chain asks, `authz` the way there,
`local_replies` and `access_logs` what they say, `document` the whole.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from mpp_authz import wire
from mpp_operator import artifacts
from mpp_operator.artifacts import canonical_json, secrets

LISTENER: Final = "mpp"
#: `http.mpp.…` are the statistics of the listener's connection manager.
STAT_PREFIX: Final = "mpp"
HEALTH_PATH: Final = "/-/healthz"
CONFIG_DIRECTORY: Final = artifacts.CONFIG_DIRECTORY
SECRETS_DIRECTORY: Final = secrets.DIRECTORY
#: The limits of a request's headers; larger ones are 431.
MAX_HEADERS_KIB: Final = 60
MAX_HEADERS_COUNT: Final = 100


@dataclass(frozen=True, slots=True)
class Certificate:
    """The listener's certificate and key: PEM files, readable by Envoy."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """What differs between two Envoys. Times are seconds, sizes bytes."""

    instance: str  # node.id: tells authz which data plane asks
    address: str = "127.0.0.1"
    port: int = 4402  # 0: the system chooses; `envoy.Admin.port` says which
    tls: Certificate | None = None
    terminated_by: tuple[str, ...] = ()  # CIDRs of the proxies that end TLS: their X-Forwarded-Proto counts
    admin_socket: str = "admin.sock"
    authz_sockets: tuple[str, ...] = ("authz.sock",)  # one a process of authz
    outcomes_file: str = "outcomes" + wire.OUTCOME_LIVE_SUFFIX
    config_dir: str = CONFIG_DIRECTORY
    paying_timeout: float = 15.0
    minting_timeout: float = 5.0
    paying_requests: int = 256  # Checks in flight; more are 503 at once
    minting_requests: int = 256
    log_interval: float = 10.0  # periodic entries of long streams
    max_heap: int = 512 * 1024 * 1024
    max_connections: int = 20_000


def render(settings: BootstrapSettings) -> str:
    """The bootstrap as JSON. Envoy starts with it in the state directory, where `config/` and `secrets/` are."""
    return canonical_json(_document(settings))


def render_inlined(settings: BootstrapSettings, rds: str, cds: str) -> str:
    """The bootstrap with the files' routes and clusters in it: what `--mode validate` can look at."""
    document = _document(settings)
    (resource,) = _resources(rds)
    for manager in _managers(document):
        del manager["rds"]
        manager["route_config"] = resource
    del document["dynamic_resources"]
    document["static_resources"]["clusters"] += _resources(cds)
    return canonical_json(document)


def _document(settings: BootstrapSettings) -> dict[str, Any]:
    # Envoy's messages as Python types take 0.7 s and 50 MB: only who renders pays for them.
    from mpp_operator.bootstrap import document

    return document.build(settings)


def _managers(document: dict[str, Any]) -> list[dict[str, Any]]:
    (listener,) = document["static_resources"]["listeners"]
    return [chain["filters"][0]["typed_config"] for chain in listener["filter_chains"]]


def _resources(text: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in resource.items() if key != "@type"}
        for resource in json.loads(text)["resources"]
    ]
