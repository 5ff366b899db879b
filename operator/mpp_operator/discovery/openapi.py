"""/openapi.json: OpenAPI 3.1.0 with the extensions of draft-payment-discovery-00.

`x-payment-info` is made of the route's own price, offer by offer in the order of the challenges.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpp_authz.pricing import Offer, RoutePrice
from mpp_operator import ir
from mpp_operator.discovery import listed, prices

_DEFAULT_VERSION: Final = "1.0.0"
_MAX_CATEGORIES: Final = 5
_MAX_TITLES: Final = 5  # in the description of a host

_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_SCHEMAS: Final = {
    "Problem": {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "challengeId": {"type": "string"},
        },
        "required": ["type", "title", "status"],
    }
}
#: Of an operation whose author does not say what it answers.
_UNKNOWN: Final = {
    "200": {"description": "Successful response"},
    "default": {"description": "Anything else that the API or the gateway answers"},
}
#: What the gateway itself answers, beside what the upstream does.
_RESPONSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "400": (
        "BadRequest",
        {
            "description": "The path has more than one meaning, or there is more than one credential, or one that "
            "cannot be read",
            "content": _PROBLEM,
        },
    ),
    "402": (
        "PaymentRequired",
        {
            "description": "Payment Required: pay one of the challenges and send the same request again with the "
            "credential. A challenge holds for this method, path and query.",
            "headers": {
                "WWW-Authenticate": {
                    "description": "A Payment challenge; one header for each offer",
                    "schema": {"type": "string"},
                }
            },
            "content": _PROBLEM,
        },
    ),
    "403": ("PaymentUsed", {"description": "This payment was used before", "content": _PROBLEM}),
    "404": ("NotFound", {"description": "No service of this gateway has this path", "content": _PROBLEM}),
    "409": ("PaymentInProgress", {"description": "This payment is being answered elsewhere", "content": _PROBLEM}),
    "413": ("BodyTooLarge", {"description": "The body is larger than what can be paid for", "content": _PROBLEM}),
    "503": (
        "Unavailable",
        {"description": "The gateway cannot tell now; send the same request again later", "content": _PROBLEM},
    ),
    "502": ("BadGateway", {"description": "The API gave no valid answer", "content": _PROBLEM}),
    "504": ("GatewayTimeout", {"description": "The API did not answer in time", "content": _PROBLEM}),
}
#: Those of them that are no answer to a payment.
_UNPAID: Final = ("400", "404", "502", "503", "504")


def info(services: Sequence[listed.Service]) -> dict[str, str]:
    """OpenAPI's Info Object of a document of `services`: of a single one, its own."""
    if len(services) == 1:
        listing = services[0].listing
        described = {"description": listing.description} if listing.description else {}
        return {"title": listing.title, "version": listing.version, **described}
    titles = [service.listing.title for service in services[:_MAX_TITLES]]
    more = f" and {len(services) - len(titles)} more" if len(services) > len(titles) else ""
    about = f"Priced per request: {', '.join(titles)}{more}"
    return {"title": "Paid APIs", "version": _DEFAULT_VERSION, "description": about}


@dataclass(frozen=True, slots=True)
class Part:
    """What one service gives to a document, as JSON."""

    paths: str  # the members of `paths`
    responses: frozenset[str]  # the statuses of _RESPONSES that it refers to
    components: tuple[tuple[str, str], ...]  # kind -> members


def part(service: listed.Service, *, shared: bool) -> Part:
    """What `service` gives to a document. `shared`: with others, whose operation ids are none of its own; and its
    title is a tag."""
    used: set[str] = set()
    paths: dict[str, dict[str, Any]] = {}
    responses: set[str] = set()
    for operation in service.operations:
        item = paths.setdefault(operation.path, _path_item(operation))
        said = _operation(operation, service, used, responses, shared)
        own = [p for p in _parameters(operation, operation.described) if p not in item.get("parameters", [])]
        item[operation.method.lower()] = {**({"parameters": own} if own else {}), **said}
    components = json.loads(service.listing.components) if service.listing.components is not None else {}
    return Part(
        _members(paths),
        frozenset(responses),
        tuple((kind, _members(below)) for kind, below in sorted(components.items())),
    )


def added_bytes(service: listed.Service) -> int:
    """At most so many bytes longer is the part of `service` where it shares a document: each operation may get its
    title as a tag, and its id gets the service's before it, and perhaps a number after it."""
    tags = len(_members({"tags": [service.listing.title]})) + len(",")
    identity = len(f"{service.id}.") + len(f".{len(service.operations) + 2}")
    return len(service.operations) * (tags + identity)


def render(services: Sequence[listed.Service], parts: Sequence[Part]) -> str:
    """The document of `services`, of which there is at least one, made of their `parts`."""
    document: dict[str, Any] = {"openapi": "3.1.0", "info": info(services)}
    about = _service_info(services)
    if about:
        document["x-service-info"] = about
    members = [_members(document), f'"paths":{{{",".join(part.paths for part in parts)}}}']
    components: dict[str, list[str]] = {}
    for kind, below in (found for part in parts for found in part.components):
        components.setdefault(kind, []).append(below)
    statuses = sorted({status for part in parts for status in part.responses})
    if statuses:
        components.setdefault("responses", []).append(_members(dict(_RESPONSES[status] for status in statuses)))
        components.setdefault("schemas", []).append(_members(_SCHEMAS))
    if components:
        kinds = ",".join(f'"{kind}":{{{",".join(below)}}}' for kind, below in sorted(components.items()))
        members.append(f'"components":{{{kinds}}}')
    return f"{{{','.join(members)}}}\n"


def _members(document: Mapping[str, Any]) -> str:
    """An object's members as JSON, without its braces."""
    return json.dumps(document, separators=(",", ":"))[1:-1]


def _service_info(services: Sequence[listed.Service]) -> dict[str, Any]:
    categories = dict.fromkeys(category for service in services for category in service.listing.categories)
    found: dict[str, Any] = {}
    if categories:
        found["categories"] = list(categories)[:_MAX_CATEGORIES]
    if len(services) == 1 and services[0].listing.docs:
        found["docs"] = dict(services[0].listing.docs)
    return found


def _path_item(operation: listed.Operation) -> dict[str, Any]:
    """What the operations of a path have in common: its parameters."""
    return {"parameters": [_path_parameter(p, {}) for p in operation.parameters]} if operation.parameters else {}


def _operation(
    operation: listed.Operation, service: listed.Service, used: set[str], responses: set[str], shared: bool
) -> dict[str, Any]:
    described, price = operation.described, operation.route.price
    document: dict[str, Any] = {"operationId": _operation_id(operation, service, used, shared)}
    tags = described.tags or ((service.listing.title,) if shared else ())
    if tags:
        document["tags"] = list(tags)
    if described.summary:
        document["summary"] = described.summary
    if about := _description(described, price):
        document["description"] = about
    if described.request_body is not None:
        document["requestBody"] = json.loads(described.request_body)
    if price is not None:
        document["x-payment-info"] = {"offers": [_offer(offer, service.listing) for offer in price.offers]}
    document["responses"] = _responses(operation, responses)
    return document


def _offer(offer: Offer, listing: ir.Listing) -> dict[str, str]:
    return {
        "intent": offer.intent,
        "method": offer.method,
        "amount": offer.amount,
        "currency": offer.currency,
        "description": prices.words(offer, listing),
    }


def _description(described: ir.Operation, price: RoutePrice | None) -> str:
    said = [described.description] if described.description else []
    if price is not None and price.digest_max_bytes is not None:
        said.append(
            f"The body, of at most {price.digest_max_bytes} bytes, is part of what is paid for: "
            "send the same bytes with the credential."
        )
    return "\n\n".join(said)


def _parameters(operation: listed.Operation, described: ir.Operation) -> list[Any]:
    """All parameters of an operation: its path's, with what is said of them, and others."""
    given = json.loads(described.parameters) if described.parameters is not None else []
    in_path = {p["name"]: p for p in given if p["in"] == "path"}
    own = [_path_parameter(p, in_path.get(p.given, {})) for p in operation.parameters]
    return own + [p for p in given if p["in"] != "path"]


def _path_parameter(parameter: listed.Parameter, said: Mapping[str, Any]) -> dict[str, Any]:
    document = {"name": parameter.name, "in": "path", "required": True}
    if parameter.rest:
        document["description"] = "All that follows in the path; it may hold slashes"
    value = {} if "content" in said else {"schema": {"type": "string"}}
    return {**document, **value, **said, "name": parameter.name}


def _responses(operation: listed.Operation, referred: set[str]) -> dict[str, Any]:
    described, price = operation.described, operation.route.price
    if described.responses is None:
        found = dict(_UNKNOWN)
        own: tuple[str, ...] = ("402",) if price is not None else ()
    else:
        found = json.loads(described.responses)
        # Ours alone: an upstream's 402 reaches nobody.
        found.pop("402", None)
        own = tuple(_RESPONSES) if price is not None else _UNPAID
    for status in own:
        bound = price is not None and price.digest_max_bytes is not None
        if status in found or (status == "413" and not bound) or (status == "404" and not operation.parameters):
            continue
        referred.add(status)
        found[status] = {"$ref": f"#/components/responses/{_RESPONSES[status][0]}"}
    return dict(sorted(found.items()))


def _operation_id(operation: listed.Operation, service: listed.Service, used: set[str], shared: bool) -> str:
    """Unique in its document: the author's own, or made of the route's name; where services share the document,
    behind the service's id."""
    route = operation.route.key.rpartition("/")[2]
    several = len(operation.route.methods) > 1 and operation.route.methods != ("GET", "HEAD")
    own = operation.described.operation_id
    name = own or (route if shared else f"{service.name}.{route}")
    if several and (own is None or own == operation.route.operation.operation_id):
        name = f"{name}.{operation.method.lower()}"
    if shared:
        name = f"{service.id}.{name}"
    numbered = (f"{name}.{number}" for number in range(2, len(used) + 3))
    found = next(one for one in itertools.chain((name,), numbered) if one not in used)
    used.add(found)
    return found
