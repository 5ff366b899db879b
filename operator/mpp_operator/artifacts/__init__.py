"""What the compiler renders: texts by file name, alike a ConfigMap's data and a directory."""

import json
from collections.abc import Mapping
from typing import Any

#: File name -> text. Equal input gives equal bytes, so that a shell writes only what changed.
Files = Mapping[str, str]


def canonical_json(value: Any) -> str:
    """`value` as JSON: sorted keys, no spaces, ASCII, a last newline."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n"
