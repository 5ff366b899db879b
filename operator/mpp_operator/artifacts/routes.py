"""The route configuration (RDS): hosts, basePaths, methods, prices as context extensions, discovery documents.
Knows no price.

Matching stays flat: one virtual host per set of hosts that serve the same services, in it a hash of whole paths
and a trie of basePaths, under each basePath the routes of one service in the author's order. The trie takes the
longest prefix and never falls back to a shorter one (measured), which is the rule we promise.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from mpp_authz import wire
from mpp_operator import ir
from mpp_operator.artifacts import TYPE, answers, clusters, compact_json, discovery, lookalikes

#: The one RouteConfiguration; the listener asks for it by name.
ROUTE_CONFIGURATION: Final = "mpp"

#: `RoutePrice.lease` is this much longer than the longest stream of its route: the log has to be written,
#: flushed and read before no news may count as undelivered.
LEASE_MARGIN_SECONDS: Final = 5

#: Route metadata with the milliseconds of `timeouts.request`, for the bootstrap's `mpp.timeout` filter. Envoy
#: ignores a route's `timeout` where `max_stream_duration` is set (envoyproxy/envoy#32948, and seen on 1.40), but
#: takes it from a header.
TIMEOUT_METADATA: Final = ("mpp", "timeout_ms")

#: What a browser may read of our answers, and send with its requests. No cookies: no allow_credentials.
_EXPOSED_HEADERS: Final = "WWW-Authenticate, Payment-Receipt, Payment-Credit, Retry-After"
ALLOWED_HEADERS: Final = "Authorization, Payment-Authorization, Accept-Payment, Idempotency-Key, Content-Type"

#: An upstream's own payment headers. They never reach the client, whom only we may ask for money. The router takes
#: them off before any filter adds ours: an upstream's marker would make its 402 look like our own.
_UPSTREAM_PAYMENT: Final = (
    wire.RECEIPT_HEADER,
    wire.CREDIT_HEADER,
    wire.CHALLENGE_MARKER,
    "payment-required",
    "payment-response",
    "x-payment-response",
)

#: A client's headers that no upstream gets, on any route. The router takes them off after all filters.
REQUEST_ONLY: Final = (
    # Payment is between the client and us.
    wire.CREDENTIAL_HEADER,
    "accept-payment",
    "payment-signature",
    "x-payment",
    # They would let a client pay for one request and have the upstream answer another.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    # Said to authz only.
    wire.FORWARDED_PROTO,
)

#: Bytes that the body of a direct response may have at least: the problems of routes, far below this.
_MIN_LONGEST_BODY: Final = 1024 * 1024

#: Paths that the regular expression of one 405 names at most: a service may have hundreds, and what Envoy compiles
#: grows with each.
_REFUSAL_PATHS: Final = 40

_ROUTE_LIST: Final = f"{TYPE}envoy.config.route.v3.RouteList"
_EXT_AUTHZ: Final = f"{TYPE}envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_CORS: Final = f"{TYPE}envoy.extensions.filters.http.cors.v3.CorsPolicy"
_CORS_FILTER: Final = "envoy.filters.http.cors"
_ANY_ORIGIN: Final = ("*",)
#: Said once by a virtual host, and by the routes that want something else: a third of a route's text, else.
#: It is what a PaidService that says nothing gets.
_USUAL_RETRIES: Final = ir.Retries(2, ("connect-failure", "refused-stream", "reset-before-request"), None)


def render(gateway: ir.Gateway) -> dict[str, str]:
    """`rds.json`: a DiscoveryResponse with the RouteConfiguration. `version_info` is the content's hash. And the
    documents that its routes answer with, by name; they must be where Envoy looks before `rds.json` is.

    Services are rendered once and remembered, so one changed service among thousands costs one service.

    Raises:
        ValueError: two services under one basePath of a host; lowering decides such conflicts.
    """
    # Hosts with the same services share a virtual host: one machine answers as 127.0.0.1 and as localhost.
    shared: dict[tuple[int, ...], tuple[list[str], tuple[ir.Service, ...]]] = {}
    for host, services in gateway.by_host().items():
        shared.setdefault(tuple(map(id, services)), ([], services))[0].append(host)
    https_only = not gateway.transport.insecure_http
    texts = []
    files: dict[str, str] = {}
    for hosts, services in shared.values():
        documents = discovery.of_host(services, https_only=https_only)
        texts.append(_virtual_host(hosts, services, documents))
        files |= documents.files
    texts.append(_NO_HOST)
    # Envoy refuses all routes where one body is longer than this.
    longest = max(_MIN_LONGEST_BODY, discovery.largest(files.values()))
    resource = (
        f'{{"@type":"{TYPE}envoy.config.route.v3.RouteConfiguration","name":"{ROUTE_CONFIGURATION}",'
        f'"max_direct_response_body_size_bytes":{longest},'
        # A service's own headers are set after these removals, not before them.
        f'"most_specific_header_mutations_wins":true,"request_headers_to_remove":{compact_json(REQUEST_ONLY)},'
        f'"response_headers_to_remove":{compact_json(_UPSTREAM_PAYMENT)},"virtual_hosts":[{",".join(texts)}]}}'
    )
    version = hashlib.sha256(resource.encode()).hexdigest()[:16]
    return {**files, "rds.json": f'{{"resources":[{resource}],"version_info":"{version}"}}\n'}


# --- a virtual host ------------------------------------------------------------------------------------


def _virtual_host(hosts: Sequence[str], services: Sequence[ir.Service], documents: discovery.Routes) -> str:
    paths = {path: _action(routes) for path, routes in documents.exact.items()}
    prefixes = {prefix: _action(routes) for prefix, routes in documents.prefixes.items()}
    miss = _action(_list([_NO_ROUTE_CONNECT, _not_found("-/404")]))
    bases = {service.base_path for service in services}
    nested = lookalikes.nested(services)
    for service in services:
        base = service.base_path
        at_base, below = _service(service, nested.get(base, ()))
        if base in documents.below:
            below = f"{documents.below[base]},{below}"
        if (base if base == "/" else f"{base}/") in prefixes:
            raise ValueError(
                f"{service.namespace}/{service.name}: host {hosts[0]}: expected one service at {base}, got two"
            )
        if base == "/":
            prefixes["/"] = _action(below)
        else:
            prefixes[f"{base}/"] = _action(below)
            # Where the basePath itself is nothing and nobody else would take it, the miss below says so.
            if at_base is not None or not bases.isdisjoint(ir.above(base)):
                # `:path` includes the query. `/b` alone is no key of the trie: it would swallow `/bb/x`.
                paths[base] = prefixes[f"{base}?"] = _action(at_base) if at_base else miss
    trie = f'{{"input":{_PATH_INPUT},"prefix_match_map":{{"map":{_json_map(prefixes)}}}}}'
    matcher = (
        f'{{"matcher_tree":{{"exact_match_map":{{"map":{_json_map(paths)}}},"input":{_PATH_INPUT}}},'
        f'"on_no_match":{{"matcher":{{"matcher_tree":{trie},"on_no_match":{miss}}}}}}}'
        if paths
        else f'{{"matcher_tree":{trie},"on_no_match":{miss}}}'
    )
    # Asked before all else, on any path: what has two meanings has none.
    matcher = (
        f'{{"matcher_list":{{"matchers":[{{"on_match":{_AMBIGUOUS},"predicate":{{"single_predicate":{{'
        f'"input":{_PATH_INPUT},"value_match":{{"safe_regex":{{"google_re2":{{}},'
        f'"regex":{compact_json(lookalikes.AMBIGUOUS)}}}}}}}}}}}]}},'
        f'"on_no_match":{{"matcher":{matcher}}}}}'
    )
    return (
        f'{{"domains":{compact_json(list(hosts))},"matcher":{matcher},"name":{compact_json(hosts[0])},'
        f'"retry_policy":{compact_json(_retries(_USUAL_RETRIES))},'
        f'"typed_per_filter_config":{compact_json({_CORS_FILTER: _cors(_ANY_ORIGIN)})}}}'
    )


@lru_cache(maxsize=16_384)
def _service(service: ir.Service, nested: tuple[lookalikes.Priced, ...]) -> tuple[str | None, str]:
    """The routes of a service at its basePath itself (None: nothing), and below it. `nested`: what other services
    price there."""
    at_base = [_route(service, route, at_base=True) for route in service.routes if _is_root(route.path)]
    cors = _own_cors(service)
    name = f"{service.namespace}/{service.name}"
    guards = lookalikes.guards(service, nested)
    below = []
    for index, route in enumerate(service.routes):
        below += [_guard(name, guard, cors) for guard in guards.get(index, ())]
        below.append(_route(service, route, at_base=False))
    root_methods = _methods(route for route in service.routes if _is_root(route.path))
    if root_methods:
        at_base.append(_method_not_allowed(name, {"prefix": "/"}, root_methods, cors))
    preflight = _preflight(service)
    last = _not_found(f"{name}/-/404", cors)
    below += [_method_not_allowed(name, match, methods, cors) for match, methods in _known_paths(service)]
    return _list([preflight, *at_base, last]) if at_base else None, _list([preflight, *below, last])


# --- one route -----------------------------------------------------------------------------------------


def _route(service: ir.Service, route: ir.Route, *, at_base: bool) -> dict[str, Any]:
    match, rewrite = _root_match(service) if at_base else _match(service, route.path)
    match["headers"] = [_method_matcher(route.methods)]
    action: dict[str, Any] = {
        "cluster": service.cluster,
        "host_rewrite_literal": service.upstream_host,
        "idle_timeout": clusters.seconds(service.timeouts.idle),
        **rewrite,
    }
    if route.streaming:
        action |= {"timeout": "0s"}
        if route.price is None or route.price.digest_max_bytes is None:
            # Envoy buffers no body of an upgrade, so a bound one could not be compared.
            action |= {"upgrade_configs": [{"upgrade_type": "websocket"}]}
    else:
        action |= {
            "timeout": clusters.seconds(service.timeouts.request),
            "max_stream_duration": {"max_stream_duration": clusters.seconds(_longest_stream(service, route))},
        }
    retries = replace(service.retries, per_try=None) if route.streaming else service.retries
    if retries.attempts == 0:
        action["retry_policy"] = {}  # hides the virtual host's
    elif retries != _USUAL_RETRIES:
        action["retry_policy"] = _retries(retries)
    filters: dict[str, Any] = dict(answers.FREE) if route.price is None else {wire.PRICED_FILTERS: _check(route)}
    filters |= _own_cors(service)
    document: dict[str, Any] = {
        "name": route.key,
        "match": match,
        "route": action,
        "typed_per_filter_config": filters,
    }
    if service.headers_remove:
        document["request_headers_to_remove"] = sorted({name.lower() for name in service.headers_remove})
    if not route.streaming:
        namespace, key = TIMEOUT_METADATA
        milliseconds = str(max(1, round(service.timeouts.request * 1000)))
        document["metadata"] = {"filter_metadata": {namespace: {key: milliseconds}}}
    if service.headers_set:
        # A percent sign would start one of Envoy's format operators.
        document["request_headers_to_add"] = [
            answers.header(key, value.replace("%", "%%")) for key, value in service.headers_set
        ]
    return document


def _check(route: ir.Route) -> dict[str, Any]:
    """The Check of a priced route: its key, and the body where the body is bound."""
    settings: dict[str, Any] = {"context_extensions": {wire.ROUTE_CONTEXT: route.key}}
    if route.price is None or route.price.digest_max_bytes is None:
        settings["disable_request_body_buffering"] = True
    else:
        # Without allow_partial_message a larger body is 413 before any Check: half a body has no digest.
        settings["with_request_body"] = {
            "max_request_bytes": route.price.digest_max_bytes,
            "pack_as_bytes": True,  # Envoy takes this one from the filter (measured); said here, too
        }
    return {"@type": _EXT_AUTHZ, "check_settings": settings}


def _longest_stream(service: ir.Service, route: ir.Route) -> float:
    """Seconds after which Envoy cuts an ordinary stream. A paid one is over, and known to be, within its lease."""
    if route.price is None:
        return service.timeouts.request + service.timeouts.upload
    return max(1.0, route.price.lease - LEASE_MARGIN_SECONDS)


def _retries(retries: ir.Retries) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "retry_on": ",".join(retries.on),
        "num_retries": retries.attempts,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": "3",
    }
    if retries.per_try is not None:
        policy["per_try_timeout"] = clusters.seconds(retries.per_try)
    return policy


# --- paths ---------------------------------------------------------------------------------------------


def _match(service: ir.Service, path: ir.PathPattern) -> tuple[dict[str, Any], dict[str, Any]]:
    """How Envoy matches a pattern below the basePath, and how it makes the upstream's path of it."""
    base, target = service.prefix, service.upstream_path
    if None in path.segments:
        rewrite = {"pattern": {"regex": f"^{re.escape(base)}"}, "substitution": target.replace("\\", "\\\\")}
        changes = {} if base == target else {"regex_rewrite": rewrite}
        return {"safe_regex": {"regex": re.escape(base) + _pattern_regex(path)}}, changes
    literal = "".join(f"/{segment}" for segment in path.segments)
    if path.rest:
        if literal:
            return {"path_separated_prefix": base + literal}, _prefix_rewrite(base + literal, target + literal)
        return {"prefix": f"{base}/"}, _prefix_rewrite(f"{base}/", f"{target}/")
    literal += "/" if path.trailing_slash or not literal else ""
    return {"path": base + literal}, _prefix_rewrite(base + literal, target + literal)


def _root_match(service: ir.Service) -> tuple[dict[str, Any], dict[str, Any]]:
    """The basePath itself is the path `/`; nothing follows it, so the upstream's own path is asked for."""
    return {"path": service.base_path}, _prefix_rewrite(service.base_path, service.upstream_path or "/")


def _prefix_rewrite(found: str, wanted: str) -> dict[str, Any]:
    return {} if found == wanted else {"prefix_rewrite": wanted}


def _is_root(path: ir.PathPattern) -> bool:
    return not path.segments


def _pattern_regex(path: ir.PathPattern) -> str:
    """The pattern as RE2, fully matched by Envoy against the path without its query."""
    body = "".join("/[^/]+" if segment is None else f"/{re.escape(segment)}" for segment in path.segments)
    if path.rest:
        return f"{body}(?:/.*)?"
    return f"{body}/" if path.trailing_slash or not body else body


def _known_paths(service: ir.Service) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Matches of all paths a service knows, with the methods it has there: where others are refused (405).

    Literal paths come first, with the methods of every pattern that covers them; then patterns, the narrow before
    the wide, with the methods of the patterns that cover them whole. Paths with equal methods share a refusal.
    """
    patterns = list(dict.fromkeys(route.path for route in service.routes))
    known = [
        (path, _methods(route for route in service.routes if route.path.covers(path)))
        for path in sorted(patterns, key=_width)
    ]
    groups: list[tuple[tuple[str, ...], list[ir.PathPattern]]] = []
    literal: dict[tuple[str, ...], list[ir.PathPattern]] = {}
    for path, methods in known:
        if not path.rest and None not in path.segments:
            literal.setdefault(methods, []).append(path)  # literals never overlap: any order is the right one
        elif groups and groups[-1][0] == methods:
            groups[-1][1].append(path)
        else:
            groups.append((methods, [path]))
    refusals = []
    for methods, paths in [*literal.items(), *groups]:
        for start in range(0, len(paths), _REFUSAL_PATHS):
            refusals.append((_any_of(service, paths[start : start + _REFUSAL_PATHS]), methods))
    return refusals


def _any_of(service: ir.Service, paths: Sequence[ir.PathPattern]) -> dict[str, Any]:
    if len(paths) == 1:
        return _match(service, paths[0])[0]
    any_path = "|".join(map(_pattern_regex, paths))
    return {"safe_regex": {"regex": f"{re.escape(service.prefix)}(?:{any_path})"}}


def _width(path: ir.PathPattern) -> tuple[bool, int, int]:
    """Sorts literals first, then patterns with few open segments, those with an open end last, the long first."""
    return path.rest, sum(segment is None for segment in path.segments), -len(path.segments)


def _methods(routes: Iterable[ir.Route]) -> tuple[str, ...]:
    """In the order of DEFAULT_METHODS, others after them."""
    counted = Counter(method for route in routes for method in route.methods)
    return tuple(sorted(counted, key=lambda m: (m not in ir.DEFAULT_METHODS, _rank(m), m)))


def _rank(method: str) -> int:
    return ir.DEFAULT_METHODS.index(method) if method in ir.DEFAULT_METHODS else 0


def _method_matcher(methods: Sequence[str]) -> dict[str, Any]:
    if len(methods) == 1:
        return {"name": ":method", "string_match": {"exact": methods[0]}}
    return {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(map(re.escape, methods))}}}


# --- answers of our own --------------------------------------------------------------------------------


def _not_found(name: str, filters: dict[str, Any] | None = None) -> dict[str, Any]:
    # An empty prefix also takes what is no path, such as the `*` of `OPTIONS *`.
    document = answers.problem(name, {"prefix": ""}, 404, "Not Found", "No service of this gateway has this path.")
    document["typed_per_filter_config"] |= filters or {}
    return document


def _guard(name: str, guard: lookalikes.Guard, filters: dict[str, Any]) -> dict[str, Any]:
    match = {"safe_regex": {"regex": guard.regex}, "headers": [_method_matcher(guard.methods)]}
    detail = "This is another spelling of a path that has a price. Ask for that path as it is documented."
    document = answers.problem(f"{name}/-/lookalike", match, 404, "Not Found", detail)
    document["typed_per_filter_config"] |= filters
    return document


def _method_not_allowed(
    name: str, match: dict[str, Any], methods: Sequence[str], filters: dict[str, Any]
) -> dict[str, Any]:
    allow = ", ".join(methods)
    document = answers.problem(f"{name}/-/405", match, 405, "Method Not Allowed", f"This path answers {allow}.")
    document["response_headers_to_add"].append(answers.header("allow", allow))
    document["typed_per_filter_config"] |= filters
    return document


def _preflight(service: ir.Service) -> dict[str, Any]:
    """Where the CORS filter answers every preflight of a service, whatever its path: never charged, never asked.

    The filter does nothing on direct responses (envoyproxy/envoy#8262), so this names the upstream; it is never
    reached, because preflights of other origins are not forwarded. What the filter does not take for a preflight
    (an empty origin) is none here either.
    """
    return {
        "name": f"{service.namespace}/{service.name}/-/preflight",
        "match": {
            "prefix": "",
            "headers": [
                {"name": ":method", "string_match": {"exact": "OPTIONS"}},
                *(
                    {"name": name, "string_match": {"safe_regex": {"regex": ".+"}}}
                    for name in ("origin", "access-control-request-method")
                ),
            ],
        },
        "route": {"cluster": service.cluster},
        "typed_per_filter_config": {**answers.FREE, **_own_cors(service)},
    }


def _own_cors(service: ir.Service) -> dict[str, Any]:
    """What the virtual host does not say already."""
    return {} if service.cors_origins == _ANY_ORIGIN else {_CORS_FILTER: _cors(service.cors_origins)}


def _cors(origins: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": _CORS,
        "allow_origin_string_match": [{"exact": origin} for origin in origins],
        "allow_methods": ", ".join(ir.DEFAULT_METHODS),
        "allow_headers": ALLOWED_HEADERS,
        "expose_headers": _EXPOSED_HEADERS,
        "max_age": "600",
        "forward_not_matching_preflights": False,
    }


# --- text ----------------------------------------------------------------------------------------------


def _json_map(texts: dict[str, str]) -> str:
    return "{" + ",".join(f"{compact_json(key)}:{text}" for key, text in sorted(texts.items())) + "}"


def _list(routes: Iterable[dict[str, Any]]) -> str:
    return ",".join(map(compact_json, routes))


def _action(routes: str) -> str:
    """An `on_match` of the matcher. `routes` are joined by commas."""
    return f'{{"action":{{"name":"routes","typed_config":{{"@type":"{_ROUTE_LIST}","routes":[{routes}]}}}}}}'


_PATH_INPUT: Final = compact_json(
    {
        "name": "path",
        "typed_config": {
            "@type": f"{TYPE}envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": ":path",
        },
    }
)
# CONNECT names no path, so no service is asked.
_NO_ROUTE_CONNECT: Final = _method_not_allowed("-", {"connect_matcher": {}}, ir.DEFAULT_METHODS, {})
_AMBIGUOUS: Final = _action(
    _list(
        [
            _NO_ROUTE_CONNECT,
            answers.problem(
                "-/400",
                {"prefix": ""},
                400,
                "Bad Request",
                "Servers read this path in different ways: it hides a parent segment, or bytes that are no UTF-8.",
            ),
        ]
    )
)
_NO_HOST: Final = compact_json({"name": "*", "domains": ["*"], "routes": [_NO_ROUTE_CONNECT, _not_found("-/404")]})
