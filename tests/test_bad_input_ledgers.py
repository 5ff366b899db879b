"""Ledgers that cannot be read: what `payments` says of them. It changes nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import Page, command, page
from bad_ledgers import LEDGERS, SCHEMAS


@pytest.fixture(scope="module")
def words(request: pytest.FixtureRequest) -> Iterator[Page]:
    yield from page("ledgers", "Ledgers that cannot be read (mpp-gateway payments --state-dir state)", request)


@pytest.mark.parametrize("what", [("list",), ("show", "c1"), ("reconcile",)], ids=lambda what: what[0])
@pytest.mark.parametrize("case", LEDGERS)
def test_a_ledger_that_cannot_be_read_is_told_in_these_words(
    case: str,
    what: tuple[str, ...],
    words: Page,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = Path("state/ledger.db")
    LEDGERS[case](ledger)
    before = ledger.read_bytes() if ledger.is_file() else None

    said = command(capsys, "payments", *what, "--state-dir", "state")

    assert (said.code, said.out) == (3, "")
    assert (ledger.read_bytes() if ledger.is_file() else None) == before
    words.holds(case, said, (str(tmp_path), "…"), SCHEMAS)


def test_the_page_has_no_entry_of_a_case_that_is_gone(words: Page) -> None:
    assert words.strangers(LEDGERS) == set()
