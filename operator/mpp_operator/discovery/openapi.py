"""/openapi.json: OpenAPI 3.1.0 with the extensions of draft-payment-discovery-00.

`x-payment-info` is made of the route's own price, offer by offer in the order of the challenges.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mpp_authz.pricing import Offer, RoutePrice
from mpp_operator import ir
from mpp_operator.discovery import listed, prices

_DEFAULT_VERSION: Final = "1.0.0"
_MAX_CATEGORIES: Final = 5

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
    titles = ", ".join(service.listing.title for service in services)
    return {"title": "Paid APIs", "version": _DEFAULT_VERSION, "description": f"Priced per request: {titles}"}


def render(services: Sequence[listed.Service]) -> str:
    """The document of `services`, of which there is at least one."""
    used: set[str] = set()
    paths: dict[str, dict[str, Any]] = {}
    responses: dict[str, Any] = {}
    for service in services:
        for operation in service.operations:
            item = paths.setdefault(operation.path, _path_item(operation))
            said = _operation(operation, service, used, responses, len(services) > 1)
            shared = item.get("parameters", [])
            own = [p for p in _parameters(operation, operation.described) if p not in shared]
            item[operation.method.lower()] = {**({"parameters": own} if own else {}), **said}
    document: dict[str, Any] = {"openapi": "3.1.0", "info": info(services)}
    about = _service_info(services)
    if about:
        document["x-service-info"] = about
    document["paths"] = paths
    components = _components(services)
    if responses:
        components["responses"] = {**components.get("responses", {}), **dict(sorted(responses.items()))}
        components["schemas"] = {**components.get("schemas", {}), **_SCHEMAS}
    if components:
        document["components"] = components
    return json.dumps(document, separators=(",", ":")) + "\n"


def _service_info(services: Sequence[listed.Service]) -> dict[str, Any]:
    categories = dict.fromkeys(category for service in services for category in service.listing.categories)
    found: dict[str, Any] = {}
    if categories:
        found["categories"] = list(categories)[:_MAX_CATEGORIES]
    if len(services) == 1 and services[0].listing.docs:
        found["docs"] = dict(services[0].listing.docs)
    return found


def _components(services: Sequence[listed.Service]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for service in services:
        if service.listing.components is not None:
            for kind, below in json.loads(service.listing.components).items():
                found.setdefault(kind, {}).update(below)
    return found


def _path_item(operation: listed.Operation) -> dict[str, Any]:
    """What the operations of a path have in common: its parameters."""
    return {"parameters": [_path_parameter(p, {}) for p in operation.parameters]} if operation.parameters else {}


def _operation(
    operation: listed.Operation, service: listed.Service, used: set[str], responses: dict[str, Any], shared: bool
) -> dict[str, Any]:
    described, price = operation.described, operation.route.price
    document: dict[str, Any] = {"operationId": _operation_id(operation, service, used)}
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


def _responses(operation: listed.Operation, shared: dict[str, Any]) -> dict[str, Any]:
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
        name, response = _RESPONSES[status]
        shared[name] = response
        found[status] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(found.items()))


def _operation_id(operation: listed.Operation, service: listed.Service, used: set[str]) -> str:
    """Unique in its document: the author's own, or made of the route's name; longer where that is taken."""
    route = operation.route.key.rpartition("/")[2]
    several = len(operation.route.methods) > 1 and operation.route.methods != ("GET", "HEAD")
    own = operation.described.operation_id
    short = own or f"{service.name}.{route}"
    if several and (own is None or own == operation.route.operation.operation_id):
        short = f"{short}.{operation.method.lower()}"
    long = f"{service.id}.{short}"
    numbered = (f"{long}.{number}" for number in range(2, len(used) + 3))
    found = next(name for name in itertools.chain((short, long), numbered) if name not in used)
    used.add(found)
    return found
