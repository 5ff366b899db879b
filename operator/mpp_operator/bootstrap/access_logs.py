"""What Envoy writes about a request: to authz, to the outcome file (the second witness), to stdout."""

from typing import Final

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as entries
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc
from envoy_data_plane.envoy.extensions.access_loggers.stream import v3 as stream
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from mpp_authz import wire
from mpp_operator.bootstrap import BootstrapSettings, authz, messages

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
    "payment": f"%DYNAMIC_METADATA({wire.METADATA_NAMESPACE}:{wire.PAYMENT_METADATA})%",
}


def build(settings: BootstrapSettings) -> list[accesslog.AccessLog]:
    return [
        accesslog.AccessLog(name="outcomes", filter=_told(), typed_config=messages.packed(_service(settings))),
        accesslog.AccessLog(
            name="outcome-file",
            filter=accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[_paid(), _ended()])),
            typed_config=messages.packed(
                file.FileAccessLog(path=settings.outcomes_file, log_format=_lines(wire.OUTCOME_FORMAT))
            ),
        ),
        accesslog.AccessLog(
            name="stdout",
            filter=_ended(),
            typed_config=messages.packed(stream.StdoutAccessLog(log_format=_lines(_REQUEST_LOG))),
        ),
    ]


def _told() -> accesslog.AccessLogFilter:
    """Paid requests, also while they go on, and those that ended without an answer or whose Check was given up:
    authz may have let one through that was gone by then, and nothing else tells it."""
    unanswered = [
        accesslog.AccessLogFilter(
            status_code_filter=accesslog.StatusCodeFilter(
                comparison=accesslog.ComparisonFilter(
                    op=accesslog.ComparisonFilterOp.EQ,
                    value=core.RuntimeUInt32(default_value=status, runtime_key=f"mpp.unanswered_{status}"),
                )
            )
        )
        for status in (0, 503)
    ]
    either = accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=unanswered))
    over = accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[_ended(), either]))
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=[_paid(), over]))


def _ended() -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        log_type_filter=accesslog.LogTypeFilter(types=[entries.AccessLogType.DownstreamEnd])
    )


def _paid() -> accesslog.AccessLogFilter:
    payment = matcher.MetadataMatcher(
        filter=wire.METADATA_NAMESPACE,
        path=[matcher.MetadataMatcherPathSegment(key=wire.PAYMENT_METADATA)],
        value=matcher.ValueMatcher(present_match=True),
    )
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=payment, match_if_key_not_found=False)
    )


def _service(settings: BootstrapSettings) -> grpc.HttpGrpcAccessLogConfig:
    return grpc.HttpGrpcAccessLogConfig(
        common_config=grpc.CommonGrpcAccessLogConfig(
            log_name=wire.ACCESS_LOG_NAME,
            transport_api_version=core.ApiVersion.V3,
            grpc_service=authz.call(settings, authz.OUTCOMES),
            buffer_size_bytes=0,  # each entry is sent at once
            buffer_flush_interval=messages.seconds(0.25),
            grpc_stream_retry_policy=core.RetryPolicy(
                num_retries=1000,
                retry_back_off=core.BackoffStrategy(
                    base_interval=messages.seconds(0.05), max_interval=messages.seconds(1)
                ),
            ),
        )
    )


def _lines(fields: dict[str, str]) -> core.SubstitutionFormatString:
    return core.SubstitutionFormatString(json_format=messages.struct(fields))
