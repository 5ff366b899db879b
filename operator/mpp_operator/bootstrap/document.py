"""The whole bootstrap: the listener, the way to authz, the files that are watched, admin, limits, statistics."""

from typing import Any, Final

from envoy_data_plane.envoy.config.bootstrap import v3 as document
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.metrics import v3 as metrics
from envoy_data_plane.envoy.config.overload import v3 as overload
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import v3 as connections
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import v3 as fixed_heap
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google import protobuf

from mpp_operator import bootstrap
from mpp_operator.bootstrap import authz, listener, messages

#: What of the admin interface is reachable. No /config_dump: it is long, and nobody on the socket needs it.
_ADMIN_PATHS: Final = (
    "/ready",
    "/listeners",
    "/server_info",
    "/reopen_logs",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/drain_listeners",
    "/memory",
)
_ADMIN_PREFIXES: Final = ("/listeners?", "/drain_listeners?", "/stats")

#: A cluster has hundreds of statistics, 17 kB of text each: these are read by somebody.
_STATISTICS: Final = (
    f"http.{bootstrap.STAT_PREFIX}.",
    "listener_manager.",
    "cluster_manager.",
    "overload.",
    "server.",
    "access_logs.",
    "sds.",
)
_STATISTICS_OF_CLUSTERS: Final = (
    r"cluster\..*\.(upstream_cx_(active|total|connect_fail|destroy_with_active_rq)"
    r"|upstream_rq_(active|total|timeout|retry|pending_overflow|[1-5]xx|per_try_timeout)"
    r"|membership_(healthy|total)|circuit_breakers\..*_open|outlier_detection\.ejections_active"
    r"|ssl\.(fail_verify_(error|san|no_cert)|handshake)|ext_authz\..*)"
)
#: Instructions of one regular expression. Envoy's own limit of 100 refuses all routes for one path of 100
#: characters with a `{id}` in it (measured). Authors cannot reach this one: a path has at most 512 characters.
_LONGEST_PROGRAM: Final = 1_000_000

_STATISTICS_OF_FILES: Final = r".*\.(update_(rejected|failure|success)|version_text|init_fetch_timeout)"


def build(settings: bootstrap.BootstrapSettings) -> dict[str, Any]:
    """The bootstrap in protobuf's JSON."""
    message = document.Bootstrap(
        # Reading a large file takes twice what is kept: it goes back to the system, 16 MB a second.
        memory_allocator_manager=document.MemoryAllocatorManager(
            bytes_to_release=16 * 1024 * 1024, memory_release_interval=messages.seconds(1)
        ),
        node=core.Node(id=settings.instance, cluster="mpp-gateway"),
        admin=_admin(settings),
        static_resources=document.BootstrapStaticResources(
            listeners=[listener.build(settings, _watched(settings, "rds.json"))],
            clusters=authz.clusters(settings),
        ),
        dynamic_resources=document.BootstrapDynamicResources(cds_config=_watched(settings, "cds.json")),
        overload_manager=_overload(settings),
        layered_runtime=document.LayeredRuntime(
            layers=[
                document.RuntimeLayer(
                    name="static",
                    static_layer=protobuf.Struct(
                        fields={
                            f"re2.max_program_size.{level}": protobuf.Value(number_value=_LONGEST_PROGRAM)
                            for level in ("error_level", "warn_level")
                        }
                    ),
                )
            ]
        ),
        stats_config=metrics.StatsConfig(stats_matcher=metrics.StatsMatcher(inclusion_list=_statistics())),
    )
    return messages.as_json(message)


def _admin(settings: bootstrap.BootstrapSettings) -> document.Admin:
    return document.Admin(
        address=core.Address(pipe=core.Pipe(path=settings.admin_socket, mode=0o600)),
        allow_paths=[
            *(matcher.StringMatcher(exact=path) for path in _ADMIN_PATHS),
            *(matcher.StringMatcher(prefix=path) for path in _ADMIN_PREFIXES),
        ],
    )


def _watched(settings: bootstrap.BootstrapSettings, file: str) -> core.ConfigSource:
    # Without watched_directory a swap of `..data` is never noticed (measured).
    return core.ConfigSource(
        path_config_source=core.PathConfigSource(
            path=f"{settings.config_dir}/{file}",
            watched_directory=core.WatchedDirectory(path=settings.config_dir),
        ),
        resource_api_version=core.ApiVersion.V3,
    )


def _overload(settings: bootstrap.BootstrapSettings) -> overload.OverloadManager:
    heap = fixed_heap.FixedHeapConfig(max_heap_size_bytes=settings.max_heap)
    clients = connections.DownstreamConnectionsConfig(max_active_downstream_connections=settings.max_connections)
    return overload.OverloadManager(
        refresh_interval=messages.seconds(0.25),
        resource_monitors=[
            overload.ResourceMonitor(
                name="envoy.resource_monitors.fixed_heap", typed_config=messages.packed(heap)
            ),
            overload.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=messages.packed(clients),
            ),
        ],
        actions=[_action("shrink_heap", 0.9), _action("stop_accepting_requests", 0.97)],
    )


def _action(name: str, heap: float) -> overload.OverloadAction:
    """Taken when the heap is this full, 1 being all."""
    return overload.OverloadAction(
        name=f"envoy.overload_actions.{name}",
        triggers=[
            overload.Trigger(
                name="envoy.resource_monitors.fixed_heap", threshold=overload.ThresholdTrigger(value=heap)
            )
        ],
    )


def _statistics() -> matcher.ListStringMatcher:
    return matcher.ListStringMatcher(
        patterns=[
            *(matcher.StringMatcher(prefix=prefix) for prefix in _STATISTICS),
            *(
                matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=pattern))
                for pattern in (_STATISTICS_OF_CLUSTERS, _STATISTICS_OF_FILES)
            ),
        ]
    )
