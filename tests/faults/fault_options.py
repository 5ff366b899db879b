"""The options of `scripts/test faults`. Imports nothing else: every session reads it."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault matrix")
    group.addoption("--fault-runs", type=int, default=100, help="how many runs (default: 100)")
    group.addoption("--fault-seed", type=int, default=0, help="of the first run; the others follow (default: 0)")
    group.addoption(
        "--fault-system",
        choices=("gateway", "mppx"),
        default="gateway",
        help="mppx: the same plans against mppx's own proxy, whose violations are counted and fail nothing",
    )
    group.addoption("--fault-jobs", type=int, default=2, help="batches at the same time (default: 2)")
    group.addoption("--fault-report", type=Path, help="write what happened as JSON")


def seeds(config: pytest.Config) -> range:
    """The seeds that the command line asks for."""
    first: int = config.getoption("--fault-seed")
    count: int = config.getoption("--fault-runs")
    return range(first, first + count)
