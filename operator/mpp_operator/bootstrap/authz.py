"""The way to authz: its clusters, and how a Check and the access log call it."""

from typing import Final

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.filters.http.ext_authz import v3 as ext_authz
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstreams
from envoy_data_plane.envoy.type import v3 as types
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from mpp_authz import wire
from mpp_operator.bootstrap import BootstrapSettings, messages

#: One lane each, so that a flood of one kind takes no place from the other.
PAYING: Final = "authz-paying"
MINTING: Final = "authz-minting"
OUTCOMES: Final = "authz-outcomes"
_OUTCOME_STREAMS: Final = 1024


def clusters(settings: BootstrapSettings) -> list[cluster.Cluster]:
    return [
        _cluster(settings, PAYING, settings.paying_requests),
        _cluster(settings, MINTING, settings.minting_requests),
        _cluster(settings, OUTCOMES, _OUTCOME_STREAMS),
    ]


def check(settings: BootstrapSettings, lane: str, timeout: float) -> ext_authz.ExtAuthz:
    service = call(settings, lane)
    service.timeout = messages.seconds(timeout)
    # A restart of authz takes about 1.5 s: many short tries bridge it. Each is a Check that was not answered,
    # and a Check that was lost after it was read is safe to send again (the ledger claims the credential).
    # A gRPC server that is told to stop answers CANCELLED to calls that arrive before its GOAWAY does (measured).
    service.retry_policy = core.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset,unavailable,cancelled",
        num_retries=40,
        # Envoy takes max_interval for the time limit of each try, too (measured): a Check may settle for as
        # long as the whole call may take.
        retry_back_off=core.BackoffStrategy(
            base_interval=messages.seconds(0.05), max_interval=messages.seconds(timeout)
        ),
    )
    return ext_authz.ExtAuthz(
        transport_api_version=core.ApiVersion.V3,
        stat_prefix=lane,
        grpc_service=service,
        failure_mode_allow=False,
        status_on_error=types.HttpStatus(code=types.StatusCode.ServiceUnavailable),
        validate_mutations=True,
        clear_route_cache=False,
        include_tls_session=True,
        # Routes switch it off, or set a limit of their own. But only here is pack_as_bytes read (measured):
        # without it Envoy puts a "!" for every byte that is not UTF-8, and two bodies have one digest.
        with_request_body=ext_authz.BufferSettings(max_request_bytes=65_536, pack_as_bytes=True),
        disallowed_headers=matcher.ListStringMatcher(patterns=[matcher.StringMatcher(exact="cookie")]),
        decoder_header_mutation_rules=mutation_rules.HeaderMutationRules(
            allow_all_routing=False, allow_envoy=False
        ),
    )


def call(settings: BootstrapSettings, lane: str) -> core.GrpcService:
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=lane),
        initial_metadata=[core.HeaderValue(key=wire.DATA_PLANE_METADATA, value=settings.instance)],
    )


def _cluster(settings: BootstrapSettings, name: str, requests: int) -> cluster.Cluster:
    limits = cluster.CircuitBreakersThresholds(
        max_connections=1024,
        max_requests=requests,
        max_pending_requests=requests,
        max_retries=requests,  # the default of 3 would fail all but three callers of a restarting authz
    )
    http2 = upstreams.HttpProtocolOptions(
        explicit_http_config=upstreams.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions()
        )
    )
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=messages.seconds(0.25),
        circuit_breakers=cluster.CircuitBreakers(thresholds=[limits]),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": messages.packed(http2)
        },
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(lb_endpoints=[_endpoint(socket) for socket in settings.authz_sockets])
            ],
        ),
    )


def _endpoint(socket: str) -> endpoint.LbEndpoint:
    address = core.Address(pipe=core.Pipe(path=socket))
    return endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))
