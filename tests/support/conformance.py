"""docs/conformance.md: every row, the tests that prove it, what came of them, and what we do otherwise.

The page is a function of three things: the checklist (rows.py), the tests that are collected, and the recorded
outcomes (row_marks.py). No date and no duration is on it, so it changes when one of the three does.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import conformance_notes
import pytest
import row_marks
import rows

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = Path("docs", "conformance.md")


class Result(StrEnum):
    """What became of a row's tests, the best last."""

    FAILS = "FAILS"
    NO_TEST = "NO TEST"
    NOT_REAL = "NO TEST WITH ENVOY"
    NOT_RUN = "NOT RUN"
    PASSES = "passes"


@dataclass(frozen=True, slots=True)
class Case:
    """One collected test that names rows; a parametrized one is a case for each of its parameters."""

    node: str  # pytest's node id
    rows: tuple[str, ...]
    real: bool = True  # it goes through a real Envoy

    @property
    def file(self) -> str:
        return self.node.partition("::")[0]

    @property
    def test(self) -> str:
        """The node id without its parameters."""
        return self.node.partition("[")[0]


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of one row."""

    row: rows.Row
    cases: tuple[Case, ...]
    outcomes: Mapping[str, str]

    @property
    def tests(self) -> tuple[str, ...]:
        """Each once, however many cases it has; by file and name."""
        return tuple(sorted({case.test for case in self.cases}))

    @property
    def result(self) -> Result:
        """A row passes when something proved it, one test of it goes through a real Envoy, nothing failed, and all
        that names it was run. What was skipped for want of a tool is no failure; on CI nothing is skipped."""
        if not self.cases:
            return Result.NO_TEST
        if not any(case.real for case in self.cases):
            return Result.NOT_REAL
        found = [self.outcomes.get(case.node) for case in self.cases]
        if "failed" in found:
            return Result.FAILS
        return Result.PASSES if None not in found and "passed" in found else Result.NOT_RUN


def proofs(cases: Iterable[Case], outcomes: Mapping[str, str]) -> tuple[Proof, ...]:
    """One for each row that is built, in the checklist's order."""
    cases = sorted(cases, key=lambda case: case.node)
    return tuple(
        Proof(row, tuple(case for case in cases if row.id in case.rows), outcomes)
        for row in rows.ROWS.values()
        if row.id not in rows.NOT_BUILT
    )


# --- the page ------------------------------------------------------------------------------------------

_HEAD: Final = """\
# Conformance

Every rule of the MPP drafts that binds a server, and every rule that a gateway needs on top of them: what we hold
ourselves to, in our words, and the tests that prove it. Where money moves they run a real Envoy, a real chain and
unmodified clients. `scripts/conformance` writes this page from the tests and their outcomes. CI fails when it is
out of date, or when a row is neither proved nor listed here as a deviation or as not built.
"""


def page(found: Sequence[Proof]) -> str:
    """The whole text of docs/conformance.md."""
    known = {proof.row.id: proof for proof in found}
    plain = sum(id_ not in rows.DEVIATIONS and proof.result is Result.PASSES for id_, proof in known.items())
    parts = [
        _HEAD,
        f"{len(rows.ROWS)} rows: {plain} proved as written, {len(rows.DEVIATIONS)} deliberate deviations, "
        f"{len(rows.NOT_BUILT)} not built.\n",
        "## Deliberate deviations\n",
        *(f"- **{id_}**: {rows.DEVIATIONS[id_]}" for id_ in rows.ROWS if id_ in rows.DEVIATIONS),
        "\n## Not built\n",
        *(f"- **{id_}** waits for {rows.NOT_BUILT[id_]}." for id_ in rows.ROWS if id_ in rows.NOT_BUILT),
    ]
    for letter, title in rows.GROUPS.items():
        group = [row for row in rows.ROWS.values() if row.id.startswith(letter)]
        parts += [
            f"\n## {title}\n",
            "| row | level | rule | source | result | tests |",
            "|---|---|---|---|---|---|",
        ]
        parts += [_line(row, known.get(row.id)) for row in group]
    return "\n".join([*parts, conformance_notes.text().rstrip("\n")]) + "\n"


def _line(row: rows.Row, proof: Proof | None) -> str:
    if proof is None:
        result, tests = f"not built: {rows.NOT_BUILT[row.id]}", ""
    else:
        result = str(proof.result)
        if row.id in rows.DEVIATIONS and proof.result is Result.PASSES:
            result = "deviates, as tested"
        tests = "<br>".join(map(_link, proof.tests))
    return f"| {row.id} | {row.level} | {row.rule} | {row.source} | {result} | {tests} |"


def _link(test: str) -> str:
    """A test's name as the sentence it is."""
    file, _, name = test.rpartition("::")
    file = file.partition("::")[0]
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})"


# --- the check -----------------------------------------------------------------------------------------


def problems(found: Sequence[Proof], current: str) -> list[str]:
    """What has to be done before docs/conformance.md is true; `current` is what it says now."""
    lines = []
    for proof in found:
        missing = {
            Result.NO_TEST: f'no test names it: add @pytest.mark.row("{proof.row.id}") to the one that proves it',
            Result.NOT_REAL: "no test of it goes through a real Envoy (data_plane, payments)",
            Result.FAILS: "a test of it fails",
            Result.NOT_RUN: "it has tests that were not run since the record was begun: run them",
        }.get(proof.result)
        if missing:
            unhappy = sorted(
                f"{case.node} ({proof.outcomes.get(case.node, 'not run')})"
                for case in proof.cases
                if proof.outcomes.get(case.node) != "passed"
            )
            more = [f"and {len(unhappy) - 3} more"] if len(unhappy) > 3 else []
            lines.append("; ".join([f"{proof.row.id}: {missing}", *unhappy[:3], *more]))
    if not lines and current != page(found):
        lines.append(f"{PAGE}: it is out of date: run scripts/conformance and commit it")
    return lines


# --- the command ---------------------------------------------------------------------------------------


#: Tiers whose tests run a real Envoy.
_REAL: Final = ("data_plane", "payments")


class _Collector:
    """Listens to a collection."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.cases = [
            Case(item.nodeid, names, any(item.get_closest_marker(tier) for tier in _REAL))
            for item in items
            if (names := row_marks.named(item))
        ]


def collect(root: Path) -> tuple[Case, ...]:
    """Every test of the repository that names a row.

    Raises:
        SystemExit: the tests cannot be collected; shows what pytest said.
    """
    collector, said = _Collector(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(
            [f"--rootdir={root}", "--collect-only", "-qqq", str(root / "tests")], plugins=[collector]
        )
    if code != 0:
        raise SystemExit(f"{said.getvalue()}\nconformance: the tests cannot be collected, see above")
    return tuple(collector.cases)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; with `--check` say instead whether it is true."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is not true")
    check = parser.parse_args(arguments).check
    found = proofs(collect(ROOT), row_marks.load(ROOT / row_marks.OUTCOMES))
    target = ROOT / PAGE
    if not check:
        target.write_text(page(found), encoding="utf-8")
    lines = problems(found, target.read_text(encoding="utf-8") if target.exists() else "")
    for line in lines:
        print(line, file=sys.stderr)
    good = sum(proof.result is Result.PASSES for proof in found)
    print(f"conformance: {good} of {len(found)} rows proved, {len(rows.NOT_BUILT)} not built")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
