"""What others hold our OpenAPI documents to: the validator of PyPI, and the schemas of the discovery draft."""

import json
from pathlib import Path
from typing import Any

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

_DRAFT = Path(__file__).parent.parent / "testdata" / "draft-payment-discovery-00"
_PAYMENT_INFO = json.loads((_DRAFT / "x-payment-info.json").read_text())
_SERVICE_INFO = json.loads((_DRAFT / "x-service-info.json").read_text())
_FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")


def hold(text: str) -> dict[str, Any]:
    """The document of `text`, which keeps all the rules; an AssertionError with the first that it breaks."""
    document: dict[str, Any] = json.loads(text)
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in OpenAPIV31SpecValidator(document).iter_errors()]
    assert errors == []
    assert document["openapi"] == "3.1.0"
    assert document["paths"], "at least one path with operations"
    if "x-service-info" in document:
        jsonschema.validate(document["x-service-info"], _SERVICE_INFO, format_checker=_FORMATS)
    for _, _, operation in operations(document):
        assert ("x-payment-info" in operation) == ("402" in operation["responses"])
        if "x-payment-info" in operation:
            jsonschema.validate(operation["x-payment-info"], _PAYMENT_INFO)
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(path, METHOD, operation) of a document."""
    return [
        (path, method.upper(), item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]
