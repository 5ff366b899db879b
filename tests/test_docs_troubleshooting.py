"""docs/troubleshooting.md: each entry is whole, and what it quotes is what the product says."""

import re
from pathlib import Path

import pytest

from mpp_authz import problems
from mpp_authz.ledger import State
from mpp_authz.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
#: What is said at a start names its fix itself.
MESSAGES = "Messages at start"
ENTRIES = dict(
    entry.split("\n", 1)
    for part in PAGE.split("\n## ")[1:]
    if not part.startswith(MESSAGES)
    for entry in re.split(r"^### ", part, flags=re.MULTILINE)[1:]
)


def _sources() -> str:
    """All texts of the product, with strings that go on in the next line put together."""
    text = "\n".join(
        path.read_text() for folder in ("authz", "operator") for path in sorted((ROOT / folder).rglob("*.py"))
    )
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


SOURCES = _sources()


def test_there_are_entries() -> None:
    assert len(ENTRIES) >= 20


@pytest.mark.parametrize("title", ENTRIES)
def test_an_entry_says_what_to_do_and_where_it_shows(title: str) -> None:
    assert len(re.findall(r"^- \*\*Fix\*\*:", ENTRIES[title], re.MULTILINE)) == 1
    assert len(re.findall(r"^- \*\*Shows\*\*:", ENTRIES[title], re.MULTILINE)) == 1


@pytest.mark.parametrize("quote", sorted(set(re.findall(r"\"([A-Za-z][^\"\n]{14,})\"", PAGE))))
def test_what_a_page_quotes_is_said_by_the_product(quote: str) -> None:
    assert quote in SOURCES


@pytest.mark.parametrize("line", ["resending failed", "sponsor balance unknown", "made a signing key"])
def test_a_line_of_the_log_is_one_that_is_written(line: str) -> None:
    assert f"`{line}`" in PAGE
    assert f'"{line}' in SOURCES


def test_metrics_states_and_problems_are_those_there_are() -> None:
    slugs = {kind.slug for kind in vars(problems).values() if isinstance(kind, problems.Kind)}
    known = {f.name + ("_total" if f.type == "counter" else "") for f in Metrics().registry.collect()}
    metrics = {name.removesuffix("_count") for name in re.findall(r"mpp_\w+", PAGE)}

    assert metrics <= known
    assert set(re.findall(r'result="([a-z-]+)"', PAGE)) <= slugs | {"unavailable"}
    assert {state.upper() for state in re.findall(r"--state (\w+)", PAGE)} <= {state.value for state in State}
    assert set(re.findall(r'state="(\w+)"', PAGE)) <= {state.value for state in State}
