"""pytest's side of the conformance page: checks the marker `row`, and keeps what became of the tests that have it.

Every pytest process adds its outcomes to one file, so a tier that ran a while ago still counts; `scripts/test`
begins a complete run without any.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import rows

#: Below the root of the repository; git ignores it.
OUTCOMES: Final = Path("build", "conformance", "outcomes.json")


def named(item: pytest.Item) -> tuple[str, ...]:
    """The rows that a test says it proves.

    Raises:
        pytest.UsageError: an id that is no row, or that of a row that is not built; or no id at all.
    """
    found = set()
    for mark in item.iter_markers("row"):
        if not mark.args or mark.kwargs:
            raise pytest.UsageError(f'{item.nodeid}: row: expected ids as in row("C01", "C29"), got {mark}')
        for name in mark.args:
            if name not in rows.ROWS:
                raise pytest.UsageError(
                    f"{item.nodeid}: row: expected an id of tests/support/rows.py, got {name!r}"
                )
            if name in rows.NOT_BUILT:
                raise pytest.UsageError(
                    f"{item.nodeid}: row: {name} is not built ({rows.NOT_BUILT[name]}); "
                    "if it is by now, take it out of NOT_BUILT in tests/support/rows.py"
                )
            found.add(name)
    return tuple(sorted(found))


class Recorder:
    """The plugin: one for each pytest process, with the root of the repository."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._marked: frozenset[str] = frozenset()
        self._outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)  # before anything is deselected: a wrong id is wrong in every tier
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._marked = frozenset(item.nodeid for item in items if named(item))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._marked:
            return
        # A test has three phases; one that fails or is skipped says it all, and only the call can pass.
        if report.outcome != "passed" or (report.when == "call" and report.nodeid not in self._outcomes):
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        if self._outcomes:
            add(self._root / OUTCOMES, self._outcomes)


def add(record: Path, outcomes: Mapping[str, str]) -> None:
    """Put what these tests did into the record, in place of what they did before; several processes may do so."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps(dict(load(record)) | dict(outcomes), indent=0, sort_keys=True))
        fresh.replace(record)


def load(record: Path) -> Mapping[str, str]:
    """What is recorded: node id to passed, failed or skipped. Nothing where there is no record."""
    found: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    return found
