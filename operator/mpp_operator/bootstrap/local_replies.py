"""Answers of Envoy's own: problem+json for every answer that Envoy makes up.

The answers that carry a body of ours (authz's, the 404s and 405s of the routes, the 502 for an upstream's 402) are
local replies, too, and keep their bodies.
"""

from typing import Final

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as strings

from mpp_operator import ir
from mpp_operator.bootstrap import messages

#: Title and words for the client. Envoy's own text names addresses and TLS errors of upstreams.
_WORDS: Final = {
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
    503: (
        "Service Unavailable",
        "The gateway cannot answer right now. Send the same request again in a moment, with the same credential "
        "if it had one; do not pay again.",
    ),
    504: ("Gateway Timeout", "The service behind this gateway did not answer in time."),
}
# These are Envoy's names for them.
_DIRECT: Final = "response.code_details == 'direct_response'"
_MADE_UP: Final = (
    "!(response.code_details in ['ext_authz_denied', 'direct_response', 'health_check_ok', 'cors_response'])"
)


def build() -> hcm.LocalReplyConfig:
    """The first mapper whose filter matches decides."""
    return hcm.LocalReplyConfig(mappers=[_readable(), _connect(), *(_made_up(status) for status in _WORDS)])


def _readable() -> hcm.ResponseMapper:
    """The routes' own 404s and 405s, which a page of any origin may read: they say nothing of a service but its
    methods. The CORS filter does nothing on direct responses (envoyproxy/envoy#8262)."""
    origin = accesslog.AccessLogFilter(
        header_filter=accesslog.HeaderFilter(header=route.HeaderMatcher(name="origin", present_match=True))
    )
    return hcm.ResponseMapper(
        filter=_all(origin, _expression(_DIRECT)),
        headers_to_add=[messages.add_option("access-control-allow-origin", "*")],
    )


def _connect() -> hcm.ResponseMapper:
    """The connection manager refuses CONNECT with 403 before it looks for a route."""
    connect = accesslog.AccessLogFilter(
        header_filter=accesslog.HeaderFilter(
            header=route.HeaderMatcher(name=":method", string_match=strings.StringMatcher(exact="CONNECT"))
        )
    )
    return hcm.ResponseMapper(
        filter=_all(_status(403, named=405), _expression(_MADE_UP), connect),
        status_code=405,
        body_format_override=_problem(405),
        headers_to_add=[messages.add_option("allow", ", ".join(ir.DEFAULT_METHODS))],
    )


def _made_up(status: int) -> hcm.ResponseMapper:
    return hcm.ResponseMapper(
        filter=_all(_status(status, named=status), _expression(_MADE_UP)),
        body_format_override=_problem(status),
        headers_to_add=[messages.add_option("retry-after", "1")] if status in (429, 503) else [],
    )


def _problem(status: int) -> core.SubstitutionFormatString:
    title, detail = _WORDS[status]
    fields = {"type": "about:blank", "title": title, "status": "%RESPONSE_CODE%", "detail": detail}
    return core.SubstitutionFormatString(
        json_format=messages.struct(fields), content_type="application/problem+json"
    )


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _status(status: int, *, named: int) -> accesslog.AccessLogFilter:
    # Envoy asks for a name under which the number could be changed while it runs; we change none.
    value = core.RuntimeUInt32(default_value=status, runtime_key=f"mpp.local_reply_{named}")
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilterOp.EQ, value=value)
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _expression(text: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        extension_filter=accesslog.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=messages.packed(cel.ExpressionFilter(expression=text)),
        )
    )
