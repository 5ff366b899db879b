"""A machine that lacks something is an error on CI, however CI says that it is one."""

import re
from pathlib import Path

import missing
import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_what_is_missing_is_an_error_on_ci(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", value)

    with pytest.raises(pytest.fail.Exception, match="install it"):
        missing.error_or_skip("install it")


@pytest.mark.parametrize("value", [None, ""])
def test_what_is_missing_is_skipped_elsewhere(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)

    with pytest.raises(pytest.skip.Exception, match="install it"):
        missing.error_or_skip("install it")


def test_no_test_skips_in_a_way_of_its_own() -> None:
    files = [path for path in TESTS.rglob("*.py") if not {"node_modules", "apps"} & set(path.parts)]
    own = re.compile(r"^\s+(return )?pytest\.skip\(|importorskip\(", re.MULTILINE)

    found = {str(path.relative_to(TESTS)) for path in files if own.search(path.read_text())}

    assert found == {"support/missing.py"}
