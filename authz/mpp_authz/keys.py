"""authz.json: the secrets of authz, as the operator writes them and authz reads them. Knows no price, no route.

`{"version": 1, "challengeKeys": ["..."], "feePayers": {"<name>": "0x..."}}`. The first challenge key signs, all
verify. Keys are texts and their UTF-8 bytes are the key, as SDKs read MPP_SECRET_KEY. Fee payers are private
keys, by the name that `pricing.FeePayer.key` says.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mpp_authz import challenge

VERSION: Final = 1
#: The file's name inside the folder of secrets.
FILE_NAME: Final = "authz.json"

_FIELDS: Final = frozenset({"version", "challengeKeys", "feePayers"})
_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,40}")
PRIVATE_KEY: Final = re.compile(r"0x[0-9a-fA-F]{64}")


class KeysError(ValueError):
    """authz.json is not what this authz understands. The message names the field, never a value."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The signing keys, and the private keys of fee payers by name. Its repr shows the names only."""

    challenge: challenge.Keyring
    fee_payers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __repr__(self) -> str:
        return f"Keys({len(self.challenge.keys)} challenge keys, fee payers: {sorted(self.fee_payers)})"


def load(text: str) -> Keys:
    """Read authz.json.

    Raises:
        KeysError: not JSON, another VERSION, or a field missing, unknown, mistyped or too short.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        # Not `from error`: the JSON error carries the document, and tracebacks are logged.
        raise KeysError(f"{FILE_NAME}: expected JSON, got something else") from None
    if not isinstance(document, dict):
        raise KeysError(f"{FILE_NAME}: expected an object, got {type(document).__name__}")
    if document.get("version") != VERSION:
        raise KeysError(f"{FILE_NAME}: version: expected {VERSION}, got another or none")
    if unknown := len(document.keys() - _FIELDS):
        # A misplaced secret may be the name of a field.
        raise KeysError(f"{FILE_NAME}: expected only {', '.join(sorted(_FIELDS))}, got {unknown} other fields")
    return Keys(_keyring(document.get("challengeKeys")), _fee_payers(document.get("feePayers", {})))


def dump(keys: Keys) -> str:
    """The file's text. `load` reads it back; equal keys give equal bytes."""
    document = {
        "version": VERSION,
        "challengeKeys": [key.decode("utf-8") for key in keys.challenge.keys],
        "feePayers": dict(keys.fee_payers),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n"


def _keyring(value: Any) -> challenge.Keyring:
    if not isinstance(value, list) or not value:
        raise KeysError(f"{FILE_NAME}: challengeKeys: expected a list of at least one key, got {_kind(value)}")
    for position, key in enumerate(value):
        if not isinstance(key, str):
            raise KeysError(f"{FILE_NAME}: challengeKeys[{position}]: expected a text, got {_kind(key)}")
    try:
        keys = tuple(key.encode("utf-8") for key in value)
    except UnicodeEncodeError:
        raise KeysError(f"{FILE_NAME}: challengeKeys: expected Unicode text, got a lone surrogate") from None
    try:
        return challenge.Keyring(keys)
    except ValueError as error:  # names the position and the length
        raise KeysError(f"{FILE_NAME}: {error}") from None


def _fee_payers(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise KeysError(
            f"{FILE_NAME}: feePayers: expected an object of names and private keys, got {_kind(value)}"
        )
    for position, (name, key) in enumerate(value.items()):
        if not isinstance(key, str) or not PRIVATE_KEY.fullmatch(key):
            found = f"{len(key)} other characters" if isinstance(key, str) else _kind(key)
            where = f".{name}" if _NAME.fullmatch(name) else f"[{position}]"  # whoever swapped the two wrote a key
            raise KeysError(f"{FILE_NAME}: feePayers{where}: expected 0x and 64 hex digits, got {found}")
    return MappingProxyType(dict(value))


def _kind(value: Any) -> str:
    """What JSON calls it."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    names = {dict: "an object", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return names[type(value)]
