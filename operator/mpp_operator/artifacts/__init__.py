"""What the compiler renders: texts by file name, alike a ConfigMap's data and a directory."""

import json
from collections.abc import Mapping
from typing import Any, Final

#: File name -> text. Equal input gives equal bytes, so that a shell writes only what changed. A name with a folder
#: (`discovery/…`) holds a hash of its text: the same name is always the same text.
Files = Mapping[str, str]

#: Where Envoy, in the state directory, finds the artifact set.
CONFIG_DIRECTORY: Final = "config"

#: Before the name of a message in a `@type`.
TYPE: Final = "type.googleapis.com/"


def canonical_json(value: Any) -> str:
    """A whole file: `compact_json` and a last newline."""
    return compact_json(value) + "\n"


def compact_json(value: object) -> str:
    """`value` as JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
