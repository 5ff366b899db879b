"""Exactly once, whatever breaks: plans are carried out on real systems, and three witnesses are asked.

A run is repeated with `scripts/test faults --fault-seed SEED --fault-runs 1`.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import chain as chains
import fault_options
import matrix
import plans
import postgres
import pytest
from matrix import Result
from system import Shape

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def _shape(config: pytest.Config) -> Shape | None:
    """What all runs are made on; None: each plan's own."""
    return Shape("mppx", "file", 1) if config.getoption("--fault-system") == "mppx" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batches" in metafunc.fixturenames:
        found = list(plans.batches(fault_options.seeds(metafunc.config), _shape(metafunc.config)))
        jobs: int = metafunc.config.getoption("--fault-jobs")
        groups = [tuple(found[at : at + jobs]) for at in range(0, len(found), jobs)]
        metafunc.parametrize("batches", groups, ids=[f"{group[0][0]}-{group[-1][-1]}" for group in groups])


@pytest.fixture(scope="module")
def results(pytestconfig: pytest.Config) -> Iterator[list[Result]]:
    """Of all batches; the report is written when the last is done."""
    found: list[Result] = []
    yield found
    report = pytestconfig.getoption("--fault-report")
    if report is not None:
        matrix.write_report(report, found)


def _needs_postgres() -> None:
    """Without it an error on CI, a loud skip elsewhere."""
    try:
        postgres.find("initdb")
    except postgres.MissingPostgres as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


async def test_every_payment_ends_as_one_answer_or_is_owed(
    batches: tuple[tuple[int, ...], ...], results: list[Result], pytestconfig: pytest.Config
) -> None:
    chains.needs_npm()
    on = _shape(pytestconfig)
    if any((on or plans.shape(batch[0])).store in ("postgres", "standby") for batch in batches):
        _needs_postgres()
    # Not pytest's folder: a socket's name must be short. It is kept where something is wrong.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"\nseeds {batches[0][0]} to {batches[-1][-1]}, in {folder}")

    done = await asyncio.gather(*(matrix.batch(batch, folder / str(batch[0]), on=on) for batch in batches))

    found = [result for batch in done for result in batch]
    results += found
    assert [result.error for result in found if result.error] == []
    assert [result.plan.seed for result in found] == [seed for batch in batches for seed in batch]
    if on is None:
        assert [result.lines() for result in found if not result.good] == []
    shutil.rmtree(folder)
