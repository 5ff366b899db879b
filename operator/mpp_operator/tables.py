"""What the ledger holds, as cells and columns for a terminal. Knows no payments."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any


def render(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lines of columns, as wide as what they hold."""
    lines = [tuple(head), *(tuple(cell(value) for value in row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def cell(value: Any) -> str:
    """One line of printable text, "-" for nothing: what a payer sent must not move a terminal's cursor."""
    if value is None or value == "":
        return "-"
    return "".join(char if char.isprintable() else "?" for char in str(value))


def moment(unix_ms: int) -> str:
    """RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
