"""PaidService documents for tests: one that is right, and changes by field path."""

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any

#: In `changed`: the field is left out.
ABSENT = object()

RECIPIENT = "0x" + "ab" * 20


def document(name: str = "llm", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """A PaidService with one priced and one free route. `spec` replaces whole fields of its spec."""
    return {
        "apiVersion": "mpp-gateway.dev/v1alpha1",
        "kind": "PaidService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "upstream": {"url": "https://api.example.com/v1"},
            "payment": {
                "offers": [
                    {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}
                ]
            },
            "routes": [
                {"match": {"method": "POST", "path": "/chat"}, "price": {"amount": "0.05"}},
                {"match": {"path": "/models"}, "free": True},
            ],
            **spec,
        },
    }


def changed(original: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with each field set: "spec.routes[0].price" or, for keys with dots, "spec.headers['a.b']"."""
    result = copy.deepcopy(dict(original))
    for path, value in changes.items():
        parts = [_part(found) for found in re.findall(r"[A-Za-z0-9_-]+|\[\d+\]|\['[^']*'\]", path)]
        at: Any = result
        for part, following in itertools.pairwise(parts):
            if isinstance(at, dict) and part not in at:
                at[part] = [] if isinstance(following, int) else {}
            at = at[part]
        last = parts[-1]
        if value is ABSENT:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value
    return result


def _part(found: str) -> str | int:
    if found.startswith("['"):
        return found[2:-2]
    return int(found[1:-1]) if found.startswith("[") else found
