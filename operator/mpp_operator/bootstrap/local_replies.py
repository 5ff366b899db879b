"""Answers of Envoy's own: problem+json for what Envoy makes up, and what the route of a document leaves open.

The answers that carry a body of ours (authz's, the 404s and 405s of the routes, the 502 for an upstream's 402) are
local replies, too, and keep their bodies.
"""

from collections.abc import Mapping
from typing import Final

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as strings

from mpp_authz import wire
from mpp_operator import ir
from mpp_operator.artifacts import discovery, routes
from mpp_operator.bootstrap import messages

#: Title and words for the client. Envoy's own text names addresses and TLS errors of upstreams.
_WORDS: Final = {
    400: ("Bad Request", "The request is not valid HTTP, or its path is ambiguous."),
    403: ("Forbidden", "This path does not take this kind of request."),
    404: ("Not Found", "No service of this gateway has this path."),
    405: ("Method Not Allowed", "This gateway is no forward proxy."),
    408: ("Request Timeout", "The request took longer than this path allows."),
    413: ("Content Too Large", "The body is larger than this path accepts."),
    421: ("Misdirected Request", "Payments and documents are only for https."),
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

# --- discovery documents, see `artifacts.discovery` ---
_IS_DOCUMENT: Final = f"'{discovery.METADATA}' in xds.route_metadata.filter_metadata"
_OF_DOCUMENT: Final = f"xds.route_metadata.filter_metadata['{discovery.METADATA}']"
#: `quotes.secure`, of which https_only is one half. Where no proxy is trusted, the header is taken off.
_SECURE: Final = (
    "request.scheme == 'https'"
    f" || ('{wire.FORWARDED_PROTO}' in request.headers"
    f" && request.headers['{wire.FORWARDED_PROTO}'].matches('^(?i:https)$'))"
    " || source.address.startsWith('127.') || source.address.startsWith('[::1]:')"
)
#: "A recipient MUST use the weak comparison function" (RFC 9110, 13.1.2): `W/` does not matter. In a valid list a
#: whole quoted tag is nowhere else.
_SAME: Final = (
    "'if-none-match' in request.headers && (request.headers['if-none-match'] == '*'"
    f" || request.headers['if-none-match'].contains({_OF_DOCUMENT}.{discovery.ETAG}))"
)


def build() -> hcm.LocalReplyConfig:
    """The first mapper whose filter matches decides."""
    return hcm.LocalReplyConfig(
        mappers=[*_documents(), _readable(), _connect(), *(_made_up(status) for status in _WORDS)]
    )


def _documents() -> list[hcm.ResponseMapper]:
    """What is said of a discovery document. Its route answers everything with 200 and the whole text; here that
    becomes what the method and the conditions ask for."""
    allow = "GET, HEAD"
    options = {
        "access-control-allow-methods": allow,
        "access-control-allow-headers": f"{routes.ALLOWED_HEADERS}, If-None-Match",
        "access-control-max-age": "600",
    }
    facts = {
        "etag": _fact(discovery.ETAG),
        "cache-control": "public, max-age=300",
        "access-control-expose-headers": "ETag",
    }
    not_allowed = _document("!(request.method in ['GET', 'HEAD'])", 405, {"allow": allow})
    not_allowed.body_format_override = _problem(405, f"This path answers {allow}.")
    insecure = _document(
        f"{_OF_DOCUMENT}.{discovery.HTTPS_ONLY} && !({_SECURE})", 421, {"cache-control": "no-store"}
    )
    insecure.body_format_override = _problem(421, "Ask for this document at the https address of this service.")
    whole = _document("true", 200, {**facts, "x-content-type-options": "nosniff"})
    whole.headers_to_add.append(messages.put_option("content-type", _fact(discovery.MEDIA_TYPE)))
    return [
        _document("request.method == 'OPTIONS'", 204, options),
        not_allowed,
        insecure,
        _document(_SAME, 304, facts),
        whole,
    ]


def _document(condition: str, status: int, headers: Mapping[str, str]) -> hcm.ResponseMapper:
    """Answer a request for a document with `status` if the condition holds; without the text, unless 200."""
    mapper = hcm.ResponseMapper(
        # The status is asked first: it costs little, and a 402 has another.
        filter=_all(_status(200, named=200), _expression(f"{_IS_DOCUMENT} && {condition}")),
        headers_to_add=[messages.add_option(name, value) for name, value in headers.items()],
    )
    mapper.headers_to_add.append(messages.put_option("access-control-allow-origin", "*"))
    if status != 200:
        mapper.status_code = status
        mapper.body = core.DataSource(inline_string="")
    return mapper


def _fact(name: str) -> str:
    """What the route of a document says of it, as Envoy writes it into a header."""
    return f"%METADATA(ROUTE:{discovery.METADATA}:{name})%"


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


def _problem(status: int, detail: str = "") -> core.SubstitutionFormatString:
    """Of Envoy's own making: `detail` instead of the words of the table."""
    title, words = _WORDS[status]
    detail = detail or words
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
