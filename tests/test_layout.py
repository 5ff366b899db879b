"""The repository's shape, where a mistake would only show far away."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_operator_has_no_python_of_its_own() -> None:
    # A module or __init__.py there would shadow the standard library's `operator` for whoever runs from the root.
    assert list((ROOT / "operator").glob("*.py")) == []


def test_authz_has_no_python_of_its_own() -> None:
    assert list((ROOT / "authz").glob("*.py")) == []
