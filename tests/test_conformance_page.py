"""The checklist and the page that is made of it: no row is forgotten, no mark is wrong, no page is untrue."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import conformance
import pytest
import row_marks
import rows
from conformance import Case, Result

SUPPORT = Path(__file__).parent / "support"


def test_the_checklist_is_whole() -> None:
    counts = {"C": 39, "H": 13, "D": 13, "G": 12}

    assert list(rows.ROWS) == [f"{group}{number:02}" for group, n in counts.items() for number in range(1, n + 1)]
    assert set(rows.GROUPS) == set(counts)


def test_a_row_is_built_or_not_and_every_exception_says_why() -> None:
    assert rows.DEVIATIONS.keys() | rows.NOT_BUILT.keys() <= rows.ROWS.keys()
    assert rows.DEVIATIONS.keys() & rows.NOT_BUILT.keys() == set()
    assert all(rows.DEVIATIONS.values())
    assert all(rows.NOT_BUILT.values())


# --- the marker ----------------------------------------------------------------------------------------

_CONFTEST = """
import row_marks
def pytest_configure(config):
    config.addinivalue_line("markers", "row(*ids): rows")
    config.pluginmanager.register(row_marks.Recorder(config.rootpath))
"""


Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs one test file in a pytest of its own, with our plugin."""
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {SUPPORT}\n")

    def ran(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(f"import pytest\n{text}")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--rootdir={tmp_path}",
            str(tmp_path),
        ]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return ran


@pytest.mark.parametrize(
    ("mark", "why"),
    [
        ('row("C99")', "expected an id of tests/support/rows.py, got 'C99'"),
        ('row("C06")', "C06 is not built (policy)"),
        ("row", 'expected ids as in row("C01", "C29")'),
        ('row(id="C01")', 'expected ids as in row("C01", "C29")'),
    ],
)
def test_a_mark_that_names_no_row_ends_the_collection(run: Run, mark: str, why: str) -> None:
    done = run(f"@pytest.mark.{mark}\ndef test_x(): pass\n")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert why in done.stdout + done.stderr
    assert "test_it.py::test_x" in done.stdout + done.stderr


def test_outcomes_are_kept_and_the_last_one_counts(run: Run, tmp_path: Path) -> None:
    text = """
@pytest.fixture
def broken(): raise OSError
@pytest.fixture
def untidy():
    yield
    raise OSError
@pytest.mark.row("C01")
@pytest.mark.parametrize("n", [1, 2])
def test_a(n): assert n == GOOD
# from here on only once
@pytest.mark.row("C02")
def test_b(broken): pass
@pytest.mark.row("C03")
def test_c(): pytest.skip("no tool")
@pytest.mark.row("C05")
def test_d(untidy): pass
def test_e(): pass
"""
    run(f"GOOD = 1\n{text}")
    first = json.loads((tmp_path / row_marks.OUTCOMES).read_text())
    run(f"GOOD = 2\n{text.partition('# from here')[0]}")

    assert first == {
        "test_it.py::test_a[1]": "passed",
        "test_it.py::test_a[2]": "failed",
        "test_it.py::test_b": "failed",
        "test_it.py::test_c": "skipped",
        "test_it.py::test_d": "failed",
    }
    changed = {"test_it.py::test_a[1]": "failed", "test_it.py::test_a[2]": "passed"}
    assert row_marks.load(tmp_path / row_marks.OUTCOMES) == first | changed


# --- the page ------------------------------------------------------------------------------------------


def everything() -> tuple[list[Case], dict[str, str]]:
    """A test for each row that is built, all passed."""
    cases = [Case(f"tests/test_x.py::test_{id_}_holds", (id_,)) for id_ in rows.ROWS if id_ not in rows.NOT_BUILT]
    return cases, {case.node: "passed" for case in cases}


def line(text: str, row: str) -> str:
    (found,) = re.findall(rf"^\| {row} \|.*$", text, re.MULTILINE)
    return str(found)


def test_every_row_is_on_the_page_with_its_tests_and_its_result() -> None:
    cases, outcomes = everything()
    cases.append(Case("tests/test_a.py::test_more[1]", ("C01",)))
    outcomes["tests/test_a.py::test_more[1]"] = "passed"

    found = conformance.proofs(cases, outcomes)
    text = conformance.page(found)

    assert line(text, "C01").endswith("| passes | [more](../tests/test_a.py)<br>[C01 holds](../tests/test_x.py) |")
    assert "| deviates, as tested |" in line(text, "C04")
    assert line(text, "C06").endswith("| not built: policy |  |")
    assert all(line(text, id_) for id_ in rows.ROWS)
    assert conformance.problems(found, text) == []


def test_neither_the_order_of_collection_nor_the_number_of_cases_changes_the_page() -> None:
    cases, outcomes = everything()
    more = [Case(f"{case.node}[{n}]", case.rows) for case in cases for n in (2, 1)]
    outcomes |= {case.node: "passed" for case in more}

    assert conformance.page(conformance.proofs(reversed(cases), outcomes)) == conformance.page(
        conformance.proofs([*more, *cases], outcomes)
    )


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({}, Result.NOT_RUN),
        ({"t::a[1]": "passed"}, Result.NOT_RUN),
        ({"t::a[1]": "passed", "t::a[2]": "passed"}, Result.PASSES),
        ({"t::a[1]": "passed", "t::a[2]": "skipped"}, Result.PASSES),
        ({"t::a[1]": "skipped", "t::a[2]": "skipped"}, Result.NOT_RUN),
        ({"t::a[1]": "failed", "t::a[2]": "passed"}, Result.FAILS),
        ({"t::a[1]": "failed"}, Result.FAILS),
    ],
)
def test_a_row_passes_when_all_that_names_it_was_run_and_nothing_failed(
    outcomes: Mapping[str, str], expected: Result
) -> None:
    proof = conformance.Proof(rows.ROWS["C01"], (Case("t::a[1]", ("C01",)), Case("t::a[2]", ("C01",))), outcomes)

    assert proof.result is expected


def test_a_row_needs_a_test_and_one_through_a_real_envoy() -> None:
    unit = Case("t::a", ("C01",), real=False)
    proof = conformance.Proof(rows.ROWS["C01"], (unit,), {"t::a": "passed", "t::b": "passed"})

    assert proof.result is Result.NOT_REAL
    assert dataclasses.replace(proof, cases=()).result is Result.NO_TEST
    assert dataclasses.replace(proof, cases=(unit, Case("t::b", ("C01",)))).result is Result.PASSES


def test_a_row_without_a_passing_test_is_named_with_the_fix() -> None:
    cases, outcomes = everything()
    outcomes["tests/test_x.py::test_C03_holds"] = "failed"
    del outcomes["tests/test_x.py::test_C05_holds"]
    found = conformance.proofs((case for case in cases if case.rows != ("C02",)), outcomes)

    assert conformance.problems(found, conformance.page(found)) == [
        'C02: no test names it: add @pytest.mark.row("C02") to the one that proves it',
        "C03: a test of it fails; tests/test_x.py::test_C03_holds (failed)",
        "C05: it has tests that were not run since the record was begun: run them; "
        "tests/test_x.py::test_C05_holds (not run)",
    ]


def test_a_page_that_says_something_else_is_out_of_date() -> None:
    found = conformance.proofs(*everything())

    assert conformance.problems(found, conformance.page(found) + " ") == [
        "docs/conformance.md: it is out of date: run scripts/conformance and commit it"
    ]


def test_tests_that_cannot_be_collected_are_shown(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text("import nothing_of_that_name\n")
    command = [
        sys.executable,
        "-c",
        f"import conformance, pathlib; conformance.collect(pathlib.Path({str(tmp_path)!r}))",
    ]

    done = subprocess.run(command, env={"PYTHONPATH": str(SUPPORT)}, capture_output=True, text=True)

    assert done.returncode == 1
    assert "nothing_of_that_name" in done.stderr
    assert "the tests cannot be collected" in done.stderr
