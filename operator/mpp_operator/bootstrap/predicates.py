"""What the filters ask of a request or an answer, as xDS matchers. A header that is absent gives no input, so
nothing matches."""

from typing import Final

import betterproto2
from envoy_data_plane.envoy.type.matcher import v3 as inputs
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as matcher

from mpp_authz import wire
from mpp_operator.bootstrap import messages

Predicate = matcher.MatcherMatcherListPredicate


def when(predicate: Predicate, name: str, action: betterproto2.Message) -> matcher.Matcher:
    chosen = matcher.MatcherOnMatch(action=_extension(name, action))
    one = matcher.MatcherMatcherListFieldMatcher(predicate=predicate, on_match=chosen)
    return matcher.Matcher(matcher_list=matcher.MatcherMatcherList(matchers=[one]))


def authorization_pays() -> Predicate:
    return request_has("authorization", wire.CREDENTIAL_PATTERN)


def carries_credential() -> Predicate:
    return either(authorization_pays(), request_has(wire.CREDENTIAL_HEADER))


def delivered() -> Predicate:
    return either(class_is("1xx"), class_is("2xx"), status_is(304))


def successful() -> Predicate:
    """A status 2xx that does not say of itself, to a gRPC client, that it is a failure."""
    return both(class_is("2xx"), negated(response_has("grpc-status", "[1-9][0-9]*")))


def foreign(answer: Predicate) -> Predicate:
    """The answer is not authz's own."""
    return both(answer, negated(response_has(wire.CHALLENGE_MARKER)))


def class_is(status_class: str) -> Predicate:
    return _single(inputs.HttpResponseStatusCodeClassMatchInput(), matcher.StringMatcher(exact=status_class))


def status_is(status: int) -> Predicate:
    return _single(inputs.HttpResponseStatusCodeMatchInput(), matcher.StringMatcher(exact=str(status)))


_ANYTHING: Final = "(?s).*"


def request_has(header: str, pattern: str = _ANYTHING) -> Predicate:
    return _single(inputs.HttpRequestHeaderMatchInput(header_name=header), _regex(pattern))


def response_has(header: str, pattern: str = _ANYTHING) -> Predicate:
    return _single(inputs.HttpResponseHeaderMatchInput(header_name=header), _regex(pattern))


def both(*predicates: Predicate) -> Predicate:
    return Predicate(and_matcher=matcher.MatcherMatcherListPredicatePredicateList(predicate=list(predicates)))


def either(*predicates: Predicate) -> Predicate:
    return Predicate(or_matcher=matcher.MatcherMatcherListPredicatePredicateList(predicate=list(predicates)))


def negated(predicate: Predicate) -> Predicate:
    return Predicate(not_matcher=predicate)


def _regex(pattern: str) -> matcher.StringMatcher:
    expression = matcher.RegexMatcher(google_re2=matcher.RegexMatcherGoogleRe2(), regex=pattern)
    return matcher.StringMatcher(safe_regex=expression)


def _single(source: betterproto2.Message, value: matcher.StringMatcher) -> Predicate:
    single = matcher.MatcherMatcherListPredicateSinglePredicate(
        input=_extension("input", source), value_match=value
    )
    return Predicate(single_predicate=single)


def _extension(name: str, message: betterproto2.Message) -> xds_core.TypedExtensionConfig:
    return xds_core.TypedExtensionConfig(name=name, typed_config=messages.packed(message))
