"""Mutations that keep an input readable, so that the search gets behind the first parser: documents of JSON and
YAML, and credentials, which are JSON in base64url."""

import base64
import binascii
import copy
import json
import random
from collections.abc import Sequence
from typing import Any, Final

import yaml

#: Values that readers stumble over.
ODD: Final[Sequence[Any]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    10**400,
    0.1,
    -0.0,
    1e308,
    "",
    " ",
    "0",
    "-1",
    "1e3",
    "\u0000",
    "\n",
    "\u202e",
    "é",
    "\ud800",
    "a" * 300,
    "|",
    "../..",
    "%2e%2e",
    "0x" + "ab" * 20,
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00",
    [],
    {},
    [[]],
    [{}],
    {"": ""},
)


def document(value: Any, chosen: random.Random, words: Sequence[Any] = ()) -> Any:
    """A copy with one to three small changes; `words` are values and names that mean something here."""
    value = copy.deepcopy(value)
    for _ in range(chosen.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return chosen.choice(ODD)
        within, at = chosen.choice(places)
        match chosen.randrange(6):
            case 0:
                del within[at]
            case 1:
                within[at] = _other(chosen, words)
            case 2:  # something that stands elsewhere
                whence, where = chosen.choice(places)
                within[at] = copy.deepcopy(whence[where] if _is_there(whence, where) else _other(chosen, words))
            case 3 if isinstance(within, list):
                within.insert(at, copy.deepcopy(within[at]))
            case 3 | 4 if isinstance(within, dict):
                name = chosen.choice([*map(str, words), *map(str, within)] or [""])
                within[name] = within.pop(at) if chosen.random() < 0.5 else _other(chosen, words)
            case _:
                within[at] = _scalar(within[at], chosen)
    return value


def as_json(data: bytes, chosen: random.Random, words: Sequence[Any] = ()) -> bytes:
    """The same for the bytes of a JSON document; what is none stays."""
    try:
        return json.dumps(document(json.loads(data), chosen, words)).encode()
    except (ValueError, RecursionError):
        return data


def as_yaml(data: bytes, chosen: random.Random, words: Sequence[Any] = ()) -> bytes:
    """The same for YAML, which comes back as JSON does: every YAML reader takes that. What has aliases stays: they
    may stand for more than there is memory for."""
    if b"*" in data and b"&" in data:
        return data
    try:
        value = document(yaml.load(data, yaml.CSafeLoader), chosen, words)
        return json.dumps(value, default=str).encode() + b"\n"
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return data


def as_token(token: bytes, chosen: random.Random, words: Sequence[Any] = ()) -> bytes:
    """The same for base64url of a JSON document."""
    try:
        raw = base64.urlsafe_b64decode(token.rstrip(b"=") + b"=" * (-len(token.rstrip(b"=")) % 4))
    except (binascii.Error, ValueError):
        return token
    return base64.urlsafe_b64encode(as_json(raw, chosen, words)).rstrip(b"=")


def _places(value: Any) -> Any:
    """Every entry of every object and list in it, as (where it is, its name or position)."""
    if isinstance(value, dict | list):
        for at, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, at
            yield from _places(below)


def _is_there(within: Any, at: Any) -> bool:
    return at in within if isinstance(within, dict) else at < len(within)


def _other(chosen: random.Random, words: Sequence[Any]) -> Any:
    return copy.deepcopy(chosen.choice(words if words and chosen.random() < 0.6 else ODD))


def _scalar(value: Any, chosen: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + chosen.choice((-1, 1, 1000, -value, 2**32))
        case str() if value:
            at = chosen.randrange(len(value))
            return chosen.choice(
                (
                    value[:at] + value[at + 1 :],
                    value[:at] + chosen.choice("aZ09-_./%{}*?#&=|,;\\'\" \t\n\x00é") + value[at:],
                    value.upper(),
                    value * 2,
                    value[:at],
                )
            )
        case _:
            return chosen.choice(ODD)
