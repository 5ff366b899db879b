"""A PaidService as YAML that a person will read and edit: what is known of it in comments above."""

import re
from typing import Any, Final

import yaml

from mpp_operator.importing import Imported

_WIDTH: Final = 110
#: What YAML takes for the end of a line, and with it of a comment.
_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class _Dumper(yaml.SafeDumper):
    """No anchors: each route is read by itself."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(imported: Imported, source: str) -> str:
    """The file. `source` is what it was made from, for its first line."""
    lines = [f"Written by `mpp-gateway import` from {source}. Look it over: the prices are all the same."]
    if imported.notes:
        lines += ["", "What is different from the description, or left out:", *(f"- {n}" for n in imported.notes)]
    if imported.hints:
        lines += ["", "Keys of the API:", *(f"- {hint}" for hint in imported.hints)]
    comments = "".join(f"# {_BREAKS.sub(' ', line)}".rstrip() + "\n" for line in lines)
    body: str = yaml.dump(
        imported.document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=_WIDTH,
    )
    return comments + body
