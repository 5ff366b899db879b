"""Answers that Envoy gives without an upstream, as parts of routes. Never charged."""

from typing import Any, Final

from mpp_authz import wire
from mpp_operator.artifacts import TYPE, compact_json

#: Settings of a route that is not charged. Nothing is free by omission: a route that does not say this is asked
#: about.
FREE: Final = {wire.PRICED_FILTERS: {"@type": f"{TYPE}envoy.config.route.v3.FilterConfig", "disabled": True}}


def problem(name: str, match: dict[str, Any], status: int, title: str, detail: str) -> dict[str, Any]:
    """A route that answers with problem+json (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": compact_json(body)}},
        "response_headers_to_add": [header("content-type", "application/problem+json")],
        "typed_per_filter_config": dict(FREE),
    }


def header(name: str, value: str) -> dict[str, Any]:
    """A header that replaces those of its name."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
