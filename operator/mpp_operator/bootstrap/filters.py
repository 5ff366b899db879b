"""The filter chain. Its order is the design's ("A request's way through Envoy").

On the way out filters act in reverse, and local replies (our own 402, too) run through all of them: hence the
marker that tells our 402 from an upstream's.
"""

import json
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.common.matching import v3 as matching
from envoy_data_plane.envoy.extensions.filters.common.matcher.action import v3 as actions
from envoy_data_plane.envoy.extensions.filters.http.cors import v3 as cors
from envoy_data_plane.envoy.extensions.filters.http.custom_response import v3 as custom_response
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.health_check import v3 as health_check
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy import v3 as local_response
from envoy_data_plane.envoy.type.matcher import v3 as strings

from mpp_authz import wire
from mpp_operator import bootstrap
from mpp_operator.artifacts import routes
from mpp_operator.bootstrap import authz, messages, predicates

#: Empty, and then no header, where the metadata is absent.
_CREDIT: Final = f"%DYNAMIC_METADATA({wire.METADATA_NAMESPACE}:{wire.CREDIT_METADATA})%"
_TIMEOUT: Final = f"%METADATA(ROUTE:{':'.join(routes.TIMEOUT_METADATA)})%"

#: Cache directives that a shared cache would believe more than `Cache-Control: private`.
_SHARED_CACHES: Final = ("cdn-cache-control", "surrogate-control", "expires")


def chain(settings: bootstrap.BootstrapSettings, *, terminated: bool) -> list[hcm.HttpFilter]:
    """The chain, in the order of requests. Responses run through it from the last to the first.

    Filters named `wire.PRICED_FILTERS` matter only where authz is asked: a free route switches them all off by
    that one name, and whatever does not say that it is free runs them. A filter costs 2 to 9 µs a request,
    where Envoy alone needs 60.
    """
    forwarded = [_forwarded_proto()] if terminated else []
    return [
        *_priced_answers(),
        _filter(
            "envoy.filters.http.health_check",
            health_check.HealthCheck(
                pass_through_mode=False,
                headers=[
                    route.HeaderMatcher(
                        name=":path", string_match=strings.StringMatcher(exact=bootstrap.HEALTH_PATH)
                    )
                ],
            ),
        ),
        _filter("envoy.filters.http.cors", cors.Cors()),
        # Local rate limits and JWT go here: a 429 or 401 must not cost a Check.
        _only_if(
            wire.PRICED_FILTERS,
            predicates.carries_credential(),
            authz.check(settings, authz.PAYING, settings.paying_timeout),
            inner="envoy.filters.http.ext_authz",
        ),
        _unless(
            wire.PRICED_FILTERS,
            predicates.carries_credential(),
            authz.check(settings, authz.MINTING, settings.minting_timeout),
            inner="envoy.filters.http.ext_authz",
        ),
        # From here on nobody needs the credential any more: on free routes, too, it stays with us. Headers that
        # are ours whatever they hold are taken off by the routes (`routes.REQUEST_ONLY`).
        _only_if(
            "mpp.authorization",
            predicates.authorization_pays(),
            _on_request(messages.remove("authorization")),
        ),
        _filter("mpp.timeout", _on_request(messages.put("x-envoy-upstream-rq-timeout-ms", _TIMEOUT))),
        *forwarded,
        _refuse_upstream_402(),
        _only_if(
            "mpp.foreign-challenge",
            predicates.foreign(predicates.response_has("www-authenticate", wire.CREDENTIAL_PATTERN)),
            _on_response(messages.remove("www-authenticate")),
        ),
        _filter("envoy.filters.http.router", router.Router(suppress_envoy_headers=True)),
    ]


def _priced_answers() -> list[hcm.HttpFilter]:
    """What is said around an answer that was paid for. From last to first: the last line acts first."""
    name = wire.PRICED_FILTERS
    return [
        # "Servers MUST NOT return a Payment-Receipt header on error responses"
        # -- draft-httpauth-payment-00, Receipts. First in the list: it has the last word on the way out.
        _unless(name, predicates.successful(), _on_response(messages.remove(wire.RECEIPT_HEADER))),
        # A credit without a word on when to come back. After the credit's own filter on the way out.
        _only_if(
            name, predicates.response_has(wire.CREDIT_HEADER), _on_response(messages.add("retry-after", "1"))
        ),
        _only_if(name, predicates.delivered(), _on_response(messages.remove(wire.CREDIT_HEADER))),
        *_cache_control(),
        _filter(name, _on_response(messages.remove(wire.CHALLENGE_MARKER))),
    ]


def _cache_control() -> list[hcm.HttpFilter]:
    """`private` on what was paid for ("Cache-Control: private" -- draft-httpauth-payment-00, Caching), and an
    upstream's no-store stays. Asked before the receipt is taken off errors, so those are private, too."""
    paid = predicates.response_has(wire.RECEIPT_HEADER)
    no_store = predicates.response_has("cache-control", "(?i).*no-store.*")
    shared = [messages.remove(header) for header in _SHARED_CACHES]
    private = _on_response(messages.put("cache-control", "private"), *shared)
    uncached = _on_response(messages.put("cache-control", "private, no-store"), *shared)
    # From last to first: the first of the two to act must not hide what the other one asks for.
    return [
        _only_if(wire.PRICED_FILTERS, predicates.both(paid, no_store), uncached),
        _only_if(wire.PRICED_FILTERS, predicates.both(paid, predicates.negated(no_store)), private),
    ]


def _forwarded_proto() -> hcm.HttpFilter:
    """What the proxy in front said. Envoy itself put the scheme of its own connection there."""
    return _filter(
        "mpp.forwarded-proto",
        _on_request(messages.put("x-forwarded-proto", f"%REQ({wire.FORWARDED_PROTO})%")),
    )


def _refuse_upstream_402() -> hcm.HttpFilter:
    """An upstream's 402 becomes 502: the payer paid us, and paying somebody else would not help."""
    body = {
        "type": "about:blank",
        "title": "Upstream Asked For Payment",
        "status": 502,
        "detail": "The service behind this gateway asked the gateway for payment. You are not asked to pay again.",
    }
    policy = local_response.LocalResponsePolicy(
        status_code=502,
        body=core.DataSource(inline_string=json.dumps(body, sort_keys=True)),
        response_headers_to_add=[
            messages.put_option("content-type", "application/problem+json"),
            # The answer is made anew, without what ext_authz adds on the way out: the credit has to be said again.
            messages.put_option(wire.CREDIT_HEADER, _CREDIT),
            messages.put_option("retry-after", "1"),
            messages.put_option("cache-control", "no-store"),
        ],
    )
    upstreams = predicates.foreign(predicates.status_is(402))
    return _filter(
        "envoy.filters.http.custom_response",
        custom_response.CustomResponse(custom_response_matcher=predicates.when(upstreams, "bad-gateway", policy)),
    )


def _filter(name: str, config: betterproto2.Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=messages.packed(config))


def _unless(
    name: str, predicate: predicates.Predicate, config: betterproto2.Message, inner: str = "inner"
) -> hcm.HttpFilter:
    """The filter, skipped when the predicate holds. Settings of a route are keyed by `name`."""
    return _filter(
        name,
        matching.ExtensionWithMatcher(
            extension_config=messages.extension(inner, config),
            xds_matcher=predicates.when(predicate, "skip", actions.SkipFilter()),
        ),
    )


def _only_if(
    name: str, predicate: predicates.Predicate, config: betterproto2.Message, inner: str = "inner"
) -> hcm.HttpFilter:
    return _unless(name, predicates.negated(predicate), config, inner)


def _on_request(*mutations: messages.Mutation) -> header_mutation.HeaderMutation:
    return header_mutation.HeaderMutation(mutations=header_mutation.Mutations(request_mutations=list(mutations)))


def _on_response(*mutations: messages.Mutation) -> header_mutation.HeaderMutation:
    return header_mutation.HeaderMutation(mutations=header_mutation.Mutations(response_mutations=list(mutations)))
