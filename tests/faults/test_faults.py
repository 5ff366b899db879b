"""Exactly once, whatever breaks: plans are carried out on real systems, and three witnesses are asked.

A run is repeated with `scripts/test faults -k every_payment --fault-seed SEED --fault-runs 1`.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

import chain as chains
import fault_options
import ledgers
import matrix
import plans
import pytest
from matrix import Result
from outside import Mood
from plans import Fault, Plan, Player
from system import Shape
from witnesses import Mode

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]


def _shape(config: pytest.Config) -> Shape | None:
    """What all runs are made on; None: each plan's own."""
    return Shape("mppx", "file", 1) if config.getoption("--fault-system") == "mppx" else None


async def test_every_payment_ends_as_one_answer_or_is_owed(pytestconfig: pytest.Config) -> None:
    chains.needs_npm()
    on = _shape(pytestconfig)
    wanted = fault_options.seeds(pytestconfig)
    batches = list(plans.batches(wanted, on))
    if any((on or plans.shape(batch[0])).store in ("postgres", "standby") for batch in batches):
        ledgers.needs_postgres()
    # Not pytest's folder: a socket's name must be short. It is kept where something is wrong.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"\nseeds {wanted[0]} to {wanted[-1]}, in {folder}")
    free = asyncio.Semaphore(pytestconfig.getoption("--fault-jobs"))

    async def carry_out(batch: tuple[int, ...]) -> list[Result]:
        async with free:
            return await matrix.batch(batch, folder / str(batch[0]), on=on)

    done = await asyncio.gather(*map(carry_out, batches))

    found = sorted((result for batch in done for result in batch), key=lambda result: result.plan.seed)
    report = pytestconfig.getoption("--fault-report")
    if report is not None:
        matrix.write_report(report, found)
    assert [result.error for result in found if result.error] == []
    assert [result.plan.seed for result in found] == list(wanted)
    if on is None:
        assert [result.lines() for result in found if not result.good] == []
    shutil.rmtree(folder)


async def test_the_matrix_sees_a_rule_that_does_not_hold() -> None:
    """A gateway that does not know what it owes is found out by the same plans, clients and witnesses."""
    chains.needs_npm()
    here = Shape("gateway", "sqlite", 1)
    fails = Player("a", "pympp", Mode.PULL, "shop", "thing", (Mood.S500,))
    plan = Plan(1, here, (fails,), (Fault("check.answering", "pause", "authz", seconds=0.2),))
    folder = Path(tempfile.mkdtemp(prefix="faults-"))

    async with matrix.rig(here, folder, environ={"PYTHON_FAULTS_MUTANT": "retry-pays-again"}) as rig:
        result = await rig.run(plan)

    assert (result.error, result.missed) == ("", ())
    assert {violation.rule for violation in result.violations} == {"I2"}
    shutil.rmtree(folder)
