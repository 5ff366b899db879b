"""What docs/conformance.md says beside its rows: the vectors, and how unmodified SDKs read the wire."""

import json
from importlib import metadata
from pathlib import Path
from typing import Final

import differences

#: Each file of vectors, and what it is about.
VECTORS: Final = (
    ("challenge-id", "the id of a challenge: an HMAC over its parameters"),
    ("www-authenticate-written", "challenges as we write them, escapes included"),
    ("www-authenticate-read", "challenges as clients meet them: several in a line, several lines, other schemes"),
    ("authorization", "credentials, readable and not"),
    ("canonical", "canonical JSON (JCS) in base64url without padding"),
    ("digest", "digests of bodies"),
    ("receipt", "receipts"),
    ("accept-payment", "which challenges Accept-Payment chooses, in which order"),
)

_WORDS: Final = {"credential": "credential", "ours": "whose challenge it is", "accept": "Accept-Payment"}


def text() -> str:
    """Two sections of the page, in Markdown."""
    folder = Path(__file__).parent.parent / "testdata" / "vectors"
    counts = {name: len(json.loads((folder / f"{name}.json").read_text())["vectors"]) for name, _ in VECTORS}
    packages = json.loads((Path(__file__).parent.parent / "js" / "package.json").read_text())["dependencies"]
    sdks = {"pympp": f"pympp {metadata.version('pympp')}", "mppx": f"mppx {packages['mppx']}"}
    return "\n".join(
        [
            _VECTORS.format(**sdks),
            "| file | vectors | about |",
            "|---|---|---|",
            *(
                f"| [{name}.json](../tests/testdata/vectors/{name}.json) | {counts[name]} | {about} |"
                for name, about in VECTORS
            ),
            _VALIDATION,
            _DIFFERENCES.format(**sdks),
            "| of | input | SDK | we | it | why |",
            "|---|---|---|---|---|---|",
            *_lines(),
        ]
    )


_VECTORS: Final = """
## Vectors

Made by the letter of the drafts, with their examples among them. [test_vectors.py](../tests/test_vectors.py) holds
each to us, to {pympp} and to {mppx}: all who write or read that part of the wire give the same.
"""

_VALIDATION: Final = """
mppx's own validation of a server, `mppx validate`, finds nothing wrong with a gateway: 48 checks of 48, payments
included ([test_mppx_validate.py](../tests/test_mppx_validate.py)).
"""

_DIFFERENCES: Final = """\
## Where other implementations differ

[test_differential.py](../tests/test_differential.py) gives generated credentials, challenges, receipts, digests
and Accept-Payment headers to our parsers and to those of unmodified {pympp} and {mppx}. All accept, refuse and
read the same, but for what is listed here; anything else fails the test, and so does an entry that is no longer
true.
"""


def _lines() -> list[str]:
    """The known differences, one line for both SDKs where all else is equal."""
    found: dict[tuple[str, ...], list[str]] = {}
    for entry in differences.TABLE:
        if entry.we == "read":
            we, they = (
                ("choose", "chooses otherwise") if entry.what == ("accept",) else ("read", "reads otherwise")
            )
        else:
            we, they = entry.we, f"{entry.they}s"
        of = ", ".join(_WORDS[what] for what in entry.what)
        found.setdefault((of, entry.name, we, they, entry.reason), []).append(entry.who)
    return [
        f"| {of} | {name} | {', '.join(who)} | {we} | {they} | {reason} |"
        for (of, name, we, they, reason), who in found.items()
    ]
