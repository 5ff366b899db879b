"""docs/hostile-input.md says how many cases there are, and what the recorded runs came to."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import hostile_cases
import hostile_http2
import hostile_paid
import hostile_upstreams
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hostile-input.md").read_text()
WHOLE = len(hostile_cases.ALL) + len(hostile_http2.ALL) + len(hostile_paid.ALL)


def rows() -> dict[str, list[str]]:
    """The cells of the table, by family."""
    found = re.findall(r"^\| (.+?) \| (\d.*) \|$", PAGE, re.MULTILINE)
    return {family: cells.split(" | ") for family, cells in found}


def recorded(system: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / "bench" / "results" / f"hostile-{system}.json").read_text())
    return document


def test_the_page_counts_the_cases_of_every_family() -> None:
    said = {family: int(cells[0]) for family, cells in rows().items()}

    assert said == hostile_cases.counted() | {
        "HTTP/2 header lists and frames": len(hostile_http2.ALL),
        "requests with a good credential, dressed up": len(hostile_paid.ALL),
    }
    assert f"of {WHOLE} cases" in PAGE


def test_no_two_cases_of_a_family_have_one_name() -> None:
    names = [case.id for case in hostile_cases.ALL]
    names += [case.id for case in hostile_http2.ALL] + [case.id for case in hostile_paid.ALL]

    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_the_page_says_what_the_other_proxy_let_through() -> None:
    results = recorded("mppx")
    hits = {
        (upstream, family, case) for kind, upstream, family, case, _ in results["findings"] if kind == "unpaid hit"
    }
    counted = Counter((family, upstream) for upstream, family, _ in hits)
    sent = Counter(case.family for case in hostile_cases.ALL if case.needs != "hosts")

    assert {family: list(map(int, rows()[family][2:])) for family in hostile_cases.counted()} == {
        family: [sent[family], *(counted[family, kind] for kind in hostile_upstreams.KINDS)]
        for family in hostile_cases.counted()
    }
    assert f"{len({case for _, _, case in hits})} of the {results['cases']} cases" in PAGE
    assert f"mppx {results['versions']['mppx']}" in PAGE


@pytest.mark.parametrize("system", ["mppx", "gateway"])
def test_the_recorded_runs_are_of_these_cases(system: str) -> None:
    known = {(case.family, case.name) for case in hostile_cases.ALL}
    results = recorded(system)

    assert {(family, name) for _, _, family, name, _ in results["findings"]} <= known
    assert results["cases"] == sum(case.needs != "hosts" for case in hostile_cases.ALL)


def test_the_recorded_run_of_ours_found_nothing() -> None:
    assert recorded("gateway")["findings"] == []
