"""Envoy's bootstrap: one static listener with the filter chain, the way to authz, the logs. Knows no service.

What changes with services comes from files (RDS, CDS, SDS) and never touches the listener: a listener change would
cut live SSE and WebSocket streams. Paths are relative to Envoy's working directory, the state directory.

The order of the filters is the design's ("A request's way through Envoy"). On the way out filters act in reverse,
and local replies (our own 402, too) run through all of them: hence the marker that tells our 402 from an
upstream's.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from mpp_authz import wire
from mpp_operator import ir
from mpp_operator.artifacts import clusters, routes, secrets

LISTENER: Final = "mpp"
#: `http.mpp.…` are the statistics of the listener's connection manager.
STAT_PREFIX: Final = "mpp"
HEALTH_PATH: Final = "/-/healthz"
CONFIG_DIRECTORY: Final = "config"
SECRETS_DIRECTORY: Final = secrets.DIRECTORY

#: Empty, and then no header, where the metadata is absent.
_PAYMENT: Final = f"%DYNAMIC_METADATA({wire.METADATA_NAMESPACE}:{wire.PAYMENT_METADATA})%"
_CREDIT: Final = f"%DYNAMIC_METADATA({wire.METADATA_NAMESPACE}:{wire.CREDIT_METADATA})%"
_TIMEOUT: Final = f"%METADATA(ROUTE:{':'.join(routes.TIMEOUT_METADATA)})%"

_TYPE: Final = "type.googleapis.com/"
_PAYING_CLUSTER: Final = "authz-paying"
_MINTING_CLUSTER: Final = "authz-minting"
_OUTCOMES_CLUSTER: Final = "authz-outcomes"

#: The client must not send them, or the upstream must not see them: payment is between the client and us.
_CREDENTIALS: Final = (wire.CREDENTIAL_HEADER, "accept-payment", "payment-signature", "x-payment")
#: They would let a client pay for one request and have the upstream answer another.
_OVERRIDES: Final = ("x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url")
#: Cache directives that a shared cache would believe more than `Cache-Control: private`.
_SHARED_CACHES: Final = ("cdn-cache-control", "surrogate-control", "expires")


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
    trusted_hops: int = 0  # proxies before us whose X-Forwarded-For and X-Forwarded-Proto count
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
    watched = {"watched_directory": {"path": settings.config_dir}}
    rds = {
        "route_config_name": routes.ROUTE_CONFIGURATION,
        "config_source": _files(f"{settings.config_dir}/rds.json", watched),
    }
    document = _document(settings, {"rds": rds})
    document["dynamic_resources"] = {"cds_config": _files(f"{settings.config_dir}/cds.json", watched)}
    return _text(document)


def render_inlined(settings: BootstrapSettings, rds: str, cds: str) -> str:
    """The bootstrap with the files' routes and clusters in it: what `--mode validate` can look at."""
    resource = _resources(rds)[0]
    document = _document(settings, {"route_config": resource})
    document["static_resources"]["clusters"] += _resources(cds)
    return _text(document)


def _resources(text: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in resource.items() if key != "@type"}
        for resource in json.loads(text)["resources"]
    ]


def _document(settings: BootstrapSettings, route_source: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": {"id": settings.instance, "cluster": "mpp-gateway"},
        "admin": {
            "address": {"pipe": {"path": settings.admin_socket, "mode": 0o600}},
            # No /config_dump: it is long, and whoever reaches the socket needs only these.
            "allow_paths": [
                {"exact": "/ready"},
                {"exact": "/listeners"},
                {"exact": "/server_info"},
                {"exact": "/reopen_logs"},
                {"exact": "/healthcheck/fail"},
                {"exact": "/healthcheck/ok"},
                {"exact": "/drain_listeners"},
                {"exact": "/memory"},
                {"prefix": "/listeners?"},
                {"prefix": "/drain_listeners?"},
                {"prefix": "/stats"},
            ],
        },
        "static_resources": {
            "listeners": [_listener(settings, route_source)],
            "clusters": [
                _authz_cluster(settings, _PAYING_CLUSTER, settings.paying_requests),
                _authz_cluster(settings, _MINTING_CLUSTER, settings.minting_requests),
                _authz_cluster(settings, _OUTCOMES_CLUSTER, 1024),
            ],
        },
        "overload_manager": _overload(settings),
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _STATISTICS}}},
    }


# --- the listener --------------------------------------------------------------------------------------


def _listener(settings: BootstrapSettings, route_source: dict[str, Any]) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(settings, route_source),
            }
        ]
    }
    if settings.tls is not None:
        pair = {
            "certificate_chain": {"filename": settings.tls.certificate},
            "private_key": {"filename": settings.tls.key},
        }
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": _any(
                "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                common_tls_context={
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificates": [pair],
                    "alpn_protocols": ["h2", "http/1.1"],
                },
            ),
        }
    return {
        "name": LISTENER,
        "address": {"socket_address": {"address": settings.address, "port_value": settings.port}},
        "filter_chains": [chain],
        "per_connection_buffer_limit_bytes": 64 * 1024,
    }


def _connection_manager(settings: BootstrapSettings, route_source: dict[str, Any]) -> dict[str, Any]:
    return _any(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=STAT_PREFIX,
        codec_type="AUTO",
        **route_source,
        http_filters=_filters(settings),
        access_log=_access_logs(settings),
        access_log_options={"access_log_flush_interval": clusters.seconds(settings.log_interval)},
        local_reply_config=_local_replies(),
        # Two readings of one path would be a free ride (reference: path confusion, measured).
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        strip_any_host_port=True,
        use_remote_address=True,
        xff_num_trusted_hops=settings.trusted_hops,
        # A private address is no reason to believe a client's x-envoy-* headers.
        internal_address_config={"cidr_ranges": []},
        server_header_transformation="PASS_THROUGH",
        request_headers_timeout="10s",
        stream_idle_timeout="300s",
        max_request_headers_kb=60,
        common_http_protocol_options={
            "idle_timeout": "600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        http2_protocol_options={
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
    )


def _filters(settings: BootstrapSettings) -> list[dict[str, Any]]:
    """The chain, in the order of requests. Responses run through it from the last to the first."""
    return [
        # "Servers MUST NOT return a Payment-Receipt header on error responses"
        # -- draft-httpauth-payment-00, Receipts. First in the list: it has the last word on the way out.
        _unless("mpp.receipt", _class_is("2xx"), _on_response(_remove(wire.RECEIPT_HEADER))),
        # A credit without a word on when to come back. After mpp.credit on the way out.
        _only_if("mpp.retry-after", _response_has(wire.CREDIT_HEADER), _on_response(_add("retry-after", "1"))),
        _only_if("mpp.credit", _delivered(), _on_response(_remove(wire.CREDIT_HEADER))),
        *_cache_control(),
        _filter("mpp.marker", _on_response(_remove(wire.CHALLENGE_MARKER))),
        _filter(
            "mpp.clean-request",
            _on_request(
                {"remove_on_match": {"key_matcher": {"prefix": wire.FACT_PREFIX}}},
                {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
                _remove(wire.RECEIPT_HEADER),
            ),
        ),
        _filter(
            "envoy.filters.http.health_check",
            _any(
                "extensions.filters.http.health_check.v3.HealthCheck",
                pass_through_mode=False,
                headers=[{"name": ":path", "string_match": {"exact": HEALTH_PATH}}],
            ),
        ),
        _filter("envoy.filters.http.cors", _any("extensions.filters.http.cors.v3.Cors")),
        # Local rate limits and JWT go here: a 429 or 401 must not cost a Check.
        _only_if(
            wire.PAYING_FILTER,
            _carries_credential(),
            _ext_authz(settings, _PAYING_CLUSTER, settings.paying_timeout),
            inner="envoy.filters.http.ext_authz",
        ),
        _unless(
            wire.MINTING_FILTER,
            _carries_credential(),
            _ext_authz(settings, _MINTING_CLUSTER, settings.minting_timeout),
            inner="envoy.filters.http.ext_authz",
        ),
        # From here on nobody needs the credential any more: on free routes, too, it stays with us.
        _only_if("mpp.authorization", _authorization_pays(), _on_request(_remove("authorization"))),
        _filter("mpp.credentials", _on_request(*map(_remove, (*_CREDENTIALS, *_OVERRIDES)))),
        _filter("mpp.timeout", _on_request(_set("x-envoy-upstream-rq-timeout-ms", _TIMEOUT))),
        _refuse_upstream_402(),
        _only_if("mpp.foreign-challenge", _foreign_challenge(), _on_response(_remove("www-authenticate"))),
        _filter(
            "envoy.filters.http.router",
            _any("extensions.filters.http.router.v3.Router", suppress_envoy_headers=True),
        ),
    ]


def _cache_control() -> list[dict[str, Any]]:
    """`private` on what was paid for ("Cache-Control: private" -- draft-httpauth-payment-00, Caching), and an
    upstream's no-store stays. Asked before the receipt is taken off errors, so those are private, too."""
    paid = _response_has(wire.RECEIPT_HEADER)
    no_store = _header_matches("response", "cache-control", _regex("(?i).*no-store.*"))
    private = _on_response(_set("cache-control", "private"), *map(_remove, _SHARED_CACHES))
    uncached = _on_response(_set("cache-control", "private, no-store"), *map(_remove, _SHARED_CACHES))
    # From last to first: the first of the two to act must not hide what the other one asks for.
    return [
        _only_if("mpp.no-store", _all(paid, no_store), uncached),
        _only_if("mpp.private", _all(paid, _not(no_store)), private),
    ]


def _ext_authz(settings: BootstrapSettings, cluster: str, timeout: float) -> dict[str, Any]:
    return _any(
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        stat_prefix=cluster,
        grpc_service=_retried(_grpc(settings, cluster), timeout) | {"timeout": clusters.seconds(timeout)},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        validate_mutations=True,
        clear_route_cache=False,
        include_tls_session=True,
        # Routes switch it off, or set a limit of their own. But only here is pack_as_bytes read (measured):
        # without it Envoy puts a "!" for every byte that is not UTF-8, and two bodies have one digest.
        with_request_body={"max_request_bytes": 65_536, "pack_as_bytes": True},
        disallowed_headers={"patterns": [{"exact": "cookie"}]},
        decoder_header_mutation_rules={"allow_all_routing": False, "allow_envoy": False},
    )


def _grpc(settings: BootstrapSettings, cluster: str) -> dict[str, Any]:
    return {
        "envoy_grpc": {"cluster_name": cluster},
        "initial_metadata": [{"key": wire.DATA_PLANE_METADATA, "value": settings.instance}],
    }


def _retried(service: dict[str, Any], timeout: float) -> dict[str, Any]:
    return service | {
        # A restart of authz takes about 1.5 s: many short tries bridge it. Each is a Check that was not answered,
        # and a Check that was lost after it was read is safe to send again (the ledger claims the credential).
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset,unavailable",
            "num_retries": 40,
            # Envoy takes max_interval for the time limit of each try, too (measured): a Check may settle for as
            # long as the whole call may take.
            "retry_back_off": {"base_interval": "0.05s", "max_interval": clusters.seconds(timeout)},
        },
    }


def _authz_cluster(settings: BootstrapSettings, name: str, requests: int) -> dict[str, Any]:
    limits = {
        "max_connections": 1024,
        "max_requests": requests,
        "max_pending_requests": requests,
        "max_retries": requests,  # the default of 3 would fail all but three callers of a restarting authz
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _any(
                "extensions.upstreams.http.v3.HttpProtocolOptions",
                explicit_http_config={"http2_protocol_options": {}},
            )
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"pipe": {"path": socket}}}} for socket in settings.authz_sockets
                    ]
                }
            ],
        },
    }


def _refuse_upstream_402() -> dict[str, Any]:
    """An upstream's 402 becomes 502: the payer paid us, and paying somebody else would not help."""
    body = {
        "type": "about:blank",
        "title": "Upstream Asked For Payment",
        "status": 502,
        "detail": "The service behind this gateway asked the gateway for payment. You are not asked to pay again.",
    }
    policy = _any(
        "extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",
        status_code=502,
        body={"inline_string": json.dumps(body, sort_keys=True)},
        response_headers_to_add=[
            _set("content-type", "application/problem+json")["append"],
            # The answer is made anew, without what ext_authz adds on the way out: the credit has to be said again.
            _set(wire.CREDIT_HEADER, _CREDIT)["append"],
            _set("retry-after", "1")["append"],
            _set("cache-control", "no-store")["append"],
        ],
    )
    is_402 = _single(_input("HttpResponseStatusCodeMatchInput"), {"exact": "402"})
    upstreams = _all(is_402, _not(_response_has(wire.CHALLENGE_MARKER)))
    return _filter(
        "envoy.filters.http.custom_response",
        _any(
            "extensions.filters.http.custom_response.v3.CustomResponse",
            custom_response_matcher=_when(upstreams, {"name": "bad-gateway", "typed_config": policy}),
        ),
    )


# --- predicates ----------------------------------------------------------------------------------------


def _authorization_pays() -> dict[str, Any]:
    return _header_matches("request", "authorization", _regex(wire.CREDENTIAL_PATTERN))


def _carries_credential() -> dict[str, Any]:
    return _any_of(_authorization_pays(), _header_matches("request", wire.CREDENTIAL_HEADER, _PRESENT))


def _delivered() -> dict[str, Any]:
    not_modified = _single(_input("HttpResponseStatusCodeMatchInput"), {"exact": "304"})
    return _any_of(_class_is("1xx"), _class_is("2xx"), not_modified)


def _foreign_challenge() -> dict[str, Any]:
    challenge = _header_matches("response", "www-authenticate", _regex(wire.CREDENTIAL_PATTERN))
    return _all(challenge, _not(_response_has(wire.CHALLENGE_MARKER)))


def _class_is(status_class: str) -> dict[str, Any]:
    return _single(_input("HttpResponseStatusCodeClassMatchInput"), {"exact": status_class})


def _response_has(header: str) -> dict[str, Any]:
    return _header_matches("response", header, _PRESENT)


def _regex(pattern: str) -> dict[str, Any]:
    return {"safe_regex": {"google_re2": {}, "regex": pattern}}


_PRESENT: Final = _regex("(?s).*")  # an absent header gives no input, so nothing matches


def _header_matches(side: str, header: str, value: dict[str, Any]) -> dict[str, Any]:
    return _single(_input(f"Http{side.capitalize()}HeaderMatchInput", header_name=header), value)


def _input(kind: str, **fields: object) -> dict[str, Any]:
    return {"name": "input", "typed_config": _any(f"type.matcher.v3.{kind}", **fields)}


def _single(source: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    return {"single_predicate": {"input": source, "value_match": value}}


def _all(*predicates: dict[str, Any]) -> dict[str, Any]:
    return {"and_matcher": {"predicate": list(predicates)}}


def _any_of(*predicates: dict[str, Any]) -> dict[str, Any]:
    return {"or_matcher": {"predicate": list(predicates)}}


def _not(predicate: dict[str, Any]) -> dict[str, Any]:
    return {"not_matcher": predicate}


def _when(predicate: dict[str, Any], action: dict[str, Any]) -> dict[str, Any]:
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": action}}]}}


# --- filters -------------------------------------------------------------------------------------------


def _filter(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": config}


def _unless(name: str, predicate: dict[str, Any], config: dict[str, Any], inner: str = "inner") -> dict[str, Any]:
    """The filter, skipped when the predicate holds. Settings of a route are keyed by `name`."""
    skip = {"name": "skip", "typed_config": _any("extensions.filters.common.matcher.action.v3.SkipFilter")}
    return _filter(
        name,
        _any(
            "extensions.common.matching.v3.ExtensionWithMatcher",
            extension_config=_filter(inner, config),
            xds_matcher=_when(predicate, skip),
        ),
    )


def _only_if(name: str, predicate: dict[str, Any], config: dict[str, Any], inner: str = "inner") -> dict[str, Any]:
    return _unless(name, _not(predicate), config, inner)


def _on_request(*mutations: dict[str, Any]) -> dict[str, Any]:
    return _mutations("request_mutations", mutations)


def _on_response(*mutations: dict[str, Any]) -> dict[str, Any]:
    return _mutations("response_mutations", mutations)


def _mutations(side: str, mutations: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return _any("extensions.filters.http.header_mutation.v3.HeaderMutation", mutations={side: list(mutations)})


def _remove(header: str) -> dict[str, Any]:
    return {"remove": header}


def _set(header: str, value: str) -> dict[str, Any]:
    pair = {"key": header, "value": value}
    return {"append": {"header": pair, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _add(header: str, value: str) -> dict[str, Any]:
    return {"append": {"header": {"key": header, "value": value}, "append_action": "ADD_IF_ABSENT"}}


# --- answers of Envoy's own ----------------------------------------------------------------------------

#: Title and words for the client. Envoy's own text names addresses and TLS errors of upstreams.
_LOCAL: Final = {
    400: ("Bad Request", "The request is not valid HTTP, or its path is ambiguous."),
    403: ("Forbidden", "This path does not take this kind of request."),
    404: ("Not Found", "No service of this gateway has this path."),
    405: ("Method Not Allowed", "This gateway is no forward proxy."),
    408: ("Request Timeout", "The request took longer than this path allows."),
    413: ("Content Too Large", "The body is larger than this path accepts."),
    426: ("Upgrade Required", "This path needs another protocol."),
    429: ("Too Many Requests", "Too many requests."),
    431: ("Request Header Fields Too Large", "The headers are larger than this gateway accepts."),
    500: ("Internal Server Error", "The gateway could not answer this request."),
    502: ("Bad Gateway", "The service behind this gateway gave no valid answer."),
    503: ("Service Unavailable", "The gateway cannot answer right now. Send the same request again in a moment."),
    504: ("Gateway Timeout", "The service behind this gateway did not answer in time."),
}


def _local_replies() -> dict[str, Any]:
    """problem+json for every answer that Envoy makes up. The answers that carry a body of ours (authz's, the 404s
    and 405s of the routes, the 502 for an upstream's 402) are local replies, too, and stay as they are."""
    # `direct_response` and `ext_authz_denied` are Envoy's names for them.
    made_up = (
        "!(response.code_details in ['ext_authz_denied', 'direct_response', 'health_check_ok', 'cors_response'])"
    )
    # The connection manager refuses CONNECT with 403 before it looks for a route.
    connect = _mapper(405, made_up, found=403)
    connect["filter"]["and_filter"]["filters"].append(
        {"header_filter": {"header": {"name": ":method", "string_match": {"exact": "CONNECT"}}}}
    )
    connect["status_code"] = 405
    connect["headers_to_add"] = [_add("allow", ", ".join(ir.DEFAULT_METHODS))["append"]]
    return {"mappers": [connect, *(_mapper(code, made_up) for code in _LOCAL)]}


def _mapper(status: int, condition: str, found: int | None = None) -> dict[str, Any]:
    title, detail = _LOCAL[status]
    mapper: dict[str, Any] = {
        "filter": {
            "and_filter": {
                "filters": [
                    {
                        "status_code_filter": {
                            "comparison": {
                                "op": "EQ",
                                "value": {
                                    "default_value": found or status,
                                    "runtime_key": f"mpp.local_reply_{status}",
                                },
                            }
                        }
                    },
                    {
                        "extension_filter": {
                            "name": "envoy.access_loggers.extension_filters.cel",
                            "typed_config": _any(
                                "extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=condition
                            ),
                        }
                    },
                ]
            }
        },
        "body_format_override": {
            "json_format": {"type": "about:blank", "title": title, "status": "%RESPONSE_CODE%", "detail": detail},
            "content_type": "application/problem+json",
        },
    }
    if status in (429, 503):
        mapper["headers_to_add"] = [_add("retry-after", "1")["append"]]
    return mapper


# --- logs ----------------------------------------------------------------------------------------------


def _access_logs(settings: BootstrapSettings) -> list[dict[str, Any]]:
    paid = {
        "metadata_filter": {
            "matcher": {
                "filter": wire.METADATA_NAMESPACE,
                "path": [{"key": wire.PAYMENT_METADATA}],
                "value": {"present_match": True},
            },
            "match_if_key_not_found": False,
        }
    }
    ended = {"log_type_filter": {"types": ["DownstreamEnd"]}}
    return [
        {
            "name": "outcomes",
            "filter": paid,
            "typed_config": _any(
                "extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
                common_config={
                    "log_name": wire.ACCESS_LOG_NAME,
                    "transport_api_version": "V3",
                    "grpc_service": _grpc(settings, _OUTCOMES_CLUSTER),
                    "buffer_size_bytes": 0,  # each entry is sent at once
                    "buffer_flush_interval": "0.25s",
                    "grpc_stream_retry_policy": {
                        "num_retries": 1000,
                        "retry_back_off": {"base_interval": "0.05s", "max_interval": "1s"},
                    },
                },
            ),
        },
        {
            "name": "outcome-file",
            "filter": {"and_filter": {"filters": [paid, ended]}},
            "typed_config": _any(
                "extensions.access_loggers.file.v3.FileAccessLog",
                path=settings.outcomes_file,
                log_format={"json_format": dict(wire.OUTCOME_FORMAT)},
            ),
        },
        {
            "name": "stdout",
            "filter": ended,
            "typed_config": _any(
                "extensions.access_loggers.stream.v3.StdoutAccessLog", log_format={"json_format": _REQUEST_LOG}
            ),
        },
    ]


#: One line a request: no query, no header that may hold a credential.
_REQUEST_LOG: Final = {
    "time": "%START_TIME%",
    "id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",  # as the upstream saw it; the route says the rest
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "payment": _PAYMENT,
}


# --- limits and statistics -----------------------------------------------------------------------------


def _overload(settings: BootstrapSettings) -> dict[str, Any]:
    def when(action: str, threshold: float) -> dict[str, Any]:
        trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": threshold}}
        return {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": _any(
                    "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    max_heap_size_bytes=settings.max_heap,
                ),
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": _any(
                    "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=settings.max_connections,
                ),
            },
        ],
        "actions": [when("shrink_heap", 0.9), when("stop_accepting_requests", 0.97)],
    }


#: A cluster has hundreds of statistics, 17 kB of text each: these are read by somebody.
_STATISTICS: Final = [
    {"prefix": f"http.{STAT_PREFIX}."},
    {"prefix": "listener_manager."},
    {"prefix": "cluster_manager."},
    {"prefix": "overload."},
    {"prefix": "server."},
    {"prefix": "access_logs."},
    {"prefix": "sds."},
    {
        "safe_regex": {
            "regex": r"cluster\..*\.(upstream_cx_(active|total|connect_fail|destroy_with_active_rq)"
            r"|upstream_rq_(active|total|timeout|retry|pending_overflow|[1-5]xx|per_try_timeout)"
            r"|membership_(healthy|total)|circuit_breakers\..*_open|outlier_detection\.ejections_active"
            r"|ssl\.(fail_verify_(error|san|no_cert)|handshake)|ext_authz\..*)"
        }
    },
    {"safe_regex": {"regex": r".*\.(update_(rejected|failure|success)|version_text|init_fetch_timeout)"}},
]


# --- text ----------------------------------------------------------------------------------------------


def _files(path: str, watched: dict[str, Any]) -> dict[str, Any]:
    # Without watched_directory a swap of `..data` is never noticed (measured).
    return {"path_config_source": {"path": path, **watched}, "resource_api_version": "V3"}


def _any(message: str, **fields: object) -> dict[str, Any]:
    return {"@type": f"{_TYPE}envoy.{message}", **fields}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n"
