"""An OpenAPI description by somebody else: read, merged into routes, written down in discovery documents, and made
into a PaidService. An input is the description's text, JSON or YAML."""

import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import irs
import mutation
import yaml

from mpp_operator import discovery, importing, ir, paidservice
from mpp_operator.discovery import descriptions, merge
from mpp_operator.importing import text as importing_text

_TERMS: Final = importing.Terms(price="0.05", recipient="0x" + "11" * 20, upstream="https://api.example.com")
_SERVICE: Final = replace(
    irs.service(
        irs.priced("complete", irs.literal("/v1/complete"), irs.POST),
        irs.priced("one", ir.PathPattern(("things", None))),
        irs.free("rest", irs.ANYTHING),
    ),
    listing=ir.Listing("A shop"),
)


def one(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        description = descriptions.read(text)
    except descriptions.DocumentError as error:
        _lines([str(error)])
        description = None
    _served(description)
    try:
        imported = importing.service(text, _TERMS, "api.yaml")
    except importing.ImportingError as error:
        _lines(error.problems)
    else:
        assert description is not None
        _lines([*imported.notes, *imported.hints])
        written = importing_text.render(imported, "api.yaml")
        assert yaml.safe_load(written) == imported.document, "what is written is read as something else"
        service = paidservice.parse(imported.document)
        prices = [route.price for route in service.spec.routes]
        assert sum(price is not None for price in prices) == imported.paid, "something is given away"


def _served(description: Mapping[str, Any] | None) -> None:
    """Whatever it says, the documents are JSON, and routes keep their keys, methods, paths and prices."""
    merged = merge.merge(
        _SERVICE.routes, description, prefix="shop.llm.", upstream_path="", field="spec.discovery.openapiFrom"
    )
    _lines(f"{note.field}: {note.message}" for note in merged.notes)
    kept = [(route.key, route.methods, route.path, route.price) for route in _SERVICE.routes]
    assert [(route.key, route.methods, route.path, route.price) for route in merged.routes] == kept
    listing = ir.Listing("A shop", components=merged.components)
    service = replace(_SERVICE, routes=merged.routes, listing=listing)
    for document in discovery.of_host([service]).values():
        if document.content_type == discovery.JSON:
            json.loads(document.text)


def _lines(texts: Iterable[str]) -> None:
    for text in texts:
        assert text
        assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


def grown(text: str) -> Iterator[bytes]:
    yield text.encode()
    operation = {"summary": text, "parameters": [{"name": text, "in": "query", "schema": {"type": text}}]}
    yield json.dumps(
        {"openapi": "3.1.0", "info": {"title": text}, "paths": {f"/{text}": {"get": operation}}}
    ).encode()
    schema = {"$ref": f"#/components/schemas/{text}"}
    body = {"content": {"application/json": {"schema": schema}}}
    document = {"openapi": "3.0.0", "paths": {"/v1/complete": {"post": {"requestBody": body}}}}
    yield json.dumps(document | {"components": {"schemas": {text: schema}}}).encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    return mutation.as_yaml(data, chosen, WORDS)


WORDS: Final = (
    *(
        "openapi",
        "3.1.0",
        "3.0.3",
        "swagger",
        "info",
        "title",
        "version",
        "servers",
        "url",
        "paths",
        "get",
        "post",
    ),
    *(
        "parameters",
        "name",
        "in",
        "query",
        "path",
        "header",
        "required",
        "schema",
        "type",
        "object",
        "string",
        "$ref",
    ),
    *(
        "#/components/schemas/A",
        "#/paths/~1a",
        "#",
        "requestBody",
        "content",
        "application/json",
        "responses",
        "200",
    ),
    *("default", "description", "summary", "operationId", "tags", "security", "securitySchemes", "components"),
    *(
        "schemas",
        "allOf",
        "properties",
        "items",
        "x-payment-info",
        "text/event-stream",
        "deprecated",
        "/{id}",
        "/**",
    ),
    *("{", "}", "/v1/complete", "/llm/v1/complete", "%2e%2e", "https://api.example.com/v1"),
)
