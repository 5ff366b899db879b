"""The checker is tested with the product itself: one rule switched off at a time, everything else real."""

import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import checker
import control
import mutants
import payers
import pytest
import pytest_asyncio
import stages
import system
from chain import Chain
from outside import Mood
from witnesses import Case, Exchange, Run

from mpp_operator import sandbox

pytestmark = pytest.mark.faults
on_stage = pytest.mark.asyncio(loop_scope="module")


# --- what it takes to see a rule break -----------------------------------------------------------------

Scenario = Callable[[stages.Stage], Awaitable[Run]]


async def kept(stage: stages.Stage, *moods: Mood, copies: int = 1, tries: int = 3) -> Run:
    """A client that keeps its credential."""
    case, key = await stage.case(*moods, copies=copies)
    since = await stage.block()
    exchanges = await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience(tries))
    return await stage.ended(case, since, list(exchanges))


async def any_payment(stage: stages.Stage) -> Run:
    return await kept(stage)


async def fails_once(stage: stages.Stage) -> Run:
    return await kept(stage, Mood.S500)


async def fails_always(stage: stages.Stage) -> Run:
    return await kept(stage, *[Mood.S500] * 3, tries=4)


async def at_once(stage: stages.Stage) -> Run:
    return await kept(stage, copies=8)


async def two_take_one_credit(stage: stages.Stage) -> Run:
    """Both have read that it is owed before either writes that it delivers."""
    case, key = await stage.case(Mood.S500)

    async def strike(_: control.Moment) -> None:
        assert await stage.points.passed("ledger.delivering.before", limit=5)

    since = await stage.block()
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience(tries=1)))
    await system.until(lambda: stage.points.reached["ledger.credit.after"], 5, "a credit")
    armed = stage.points.arm("ledger.delivering.before", 1, strike)
    exchanges += await asyncio.gather(
        *(payers.present(stage.shop.url(0), exchanges[-1], final=False) for _ in range(2))
    )
    assert armed.moment is not None
    return await stage.ended(case, since, exchanges)


async def at_once_and_slow(stage: stages.Stage) -> Run:
    return await kept(stage, Mood.SLOW, Mood.SLOW, copies=2)


async def signs_anew(stage: stages.Stage) -> Run:
    case, key = await stage.case(Mood.S500, retries="new")
    since = await stage.block()
    payer = payers.Pympp(stage.chain.rpc_url, stage.chain.chain_id)
    exchanges = await payer.want(case, stage.shop.url, key=key, patience=stages.patience())
    return await stage.ended(case, since, list(exchanges))


async def served_twice(stage: stages.Stage) -> Run:
    case, key = await stage.case()
    since = await stage.block()
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience()))
    exchanges += await stage.present(exchanges[-1])
    return await stage.ended(case, since, exchanges)


async def probed(
    stage: stages.Stage, probe: Callable[[stages.Stage, Case, Exchange], Awaitable[tuple[Exchange, ...]]]
) -> Run:
    """The payer is owed its request, and then somebody else tries to get it."""
    case, key = await stage.case(Mood.S500)
    since = await stage.block()
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience(tries=1)))
    exchanges += await probe(stage, case, exchanges[-1])
    return await stage.ended(case, since, exchanges)


async def strange(stage: stages.Stage, case: Case, forged: bool) -> tuple[Exchange, ...]:
    _, key = sandbox.account(f"a stranger to {case.id}")
    return await payers.stranger(
        case, stage.shop.url(0), stage.chain.rpc_url, stage.chain.chain_id, key=key, forged=forged
    )


async def a_stranger_asks(stage: stages.Stage) -> Run:
    return await probed(stage, lambda stage, case, _: strange(stage, case, forged=False))


async def a_forger_asks(stage: stages.Stage) -> Run:
    return await probed(stage, lambda stage, case, _: strange(stage, case, forged=True))


async def tried_elsewhere(stage: stages.Stage) -> Run:
    async def probe(stage: stages.Stage, case: Case, paid: Exchange) -> tuple[Exchange, ...]:
        target = case.target.replace("/thing", "/live")
        return (await payers.present(stage.shop.url(0), paid, target=target, other=True),)

    return await probed(stage, probe)


async def the_node_dies(stage: stages.Stage) -> Run:
    """Just when the chain has the transaction."""
    case, key = await stage.case()

    async def strike(_: control.Moment) -> None:
        await stage.node.down()

    since = await stage.block()
    armed = stage.points.arm("rpc.send.after", 1, strike)
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience(tries=1)))
    assert armed.moment is not None
    await stage.node.up()
    return await stage.ended(case, since, exchanges)


SCENARIOS: Final[dict[str, Scenario]] = {
    "settled-unsent": any_payment,
    "sold-for-nothing": any_payment,
    "undelivered-counts": fails_once,
    "owed-forgotten": fails_always,
    "credit-runs-out": fails_once,
    "retry-pays-again": signs_anew,
    "credit-for-anyone": a_stranger_asks,
    "unproved-payer": a_forger_asks,
    "credit-for-anything": tried_elsewhere,
    "unknown-asks-again": the_node_dies,
    "used-asks-again": served_twice,
    "everybody-wins": two_take_one_credit,
    "delivered-again": served_twice,
    "lease-ended-early": at_once_and_slow,
    "two-receipts": any_payment,
    "receipt-on-errors": fails_once,
    "never-resolved": the_node_dies,
}


# --- one gateway for all that authz decides ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Switch:
    """A file that names the rule which is switched off; empty: none is."""

    file: Path

    def off(self, name: str) -> None:
        self.file.write_text(name)

    def on(self) -> None:
        self.file.write_text("")


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Switch:
    return Switch(tmp_path_factory.mktemp("switch") / "mutant")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(
    chain: Chain, switch: Switch, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[stages.Stage]:
    """A gateway that breaks whichever rule that file names."""
    environ = {"PYTHON_FAULTS_MUTANT": f"@{switch.file}"}
    async with stages.opened(chain, tmp_path_factory.mktemp("mutants"), "mutants", environ) as opened:
        yield opened


IN_AUTHZ: Final = [mutant for mutant in mutants.MUTANTS if mutant.in_authz]


@on_stage
@pytest.mark.parametrize("mutant", IN_AUTHZ, ids=lambda mutant: mutant.name)
async def test_a_rule_that_is_switched_off_is_found(
    stage: stages.Stage, switch: Switch, mutant: mutants.Mutant
) -> None:
    switch.off(mutant.name)
    stage.end_limit, enough = 2.0, stage.end_limit
    try:
        run = await SCENARIOS[mutant.name](stage)
    finally:
        stage.end_limit = enough
        switch.on()

    found = checker.violations(run)

    assert mutant.breaks in {violation.rule for violation in found}, "\n".join(map(str, [*found, *run.exchanges]))


@on_stage
@pytest.mark.parametrize(
    "scenario", [*dict.fromkeys(SCENARIOS.values()), at_once], ids=lambda scenario: scenario.__name__
)
async def test_with_every_rule_in_force_nothing_is_found(
    stage: stages.Stage, switch: Switch, scenario: Scenario
) -> None:
    switch.on()

    run = await scenario(stage)

    assert checker.violations(run) == (), "\n".join(map(str, run.exchanges))
    assert run.transfers


# --- what Envoy's configuration decides ----------------------------------------------------------------

_DOUBLE: Final = """\
import importlib.util, sys
if "run" in sys.orig_argv and "mpp_operator.cli" in sys.orig_argv:
    found = importlib.util.spec_from_file_location("fault_mutants", {path!r})
    mutants = importlib.util.module_from_spec(found)
    sys.modules[found.name] = mutants
    found.loader.exec_module(mutants)
    mutants.install({name!r})
"""


@pytest.mark.parametrize("mutant", [m for m in mutants.MUTANTS if not m.in_authz], ids=lambda mutant: mutant.name)
async def test_a_rule_that_is_missing_in_envoy_is_found(
    chain: Chain, tmp_path: Path, mutant: mutants.Mutant
) -> None:
    double = tmp_path / "double"
    double.mkdir()
    (double / "sitecustomize.py").write_text(_DOUBLE.format(path=mutants.__file__, name=mutant.name))

    async with stages.opened(chain, tmp_path, mutant.name, {"PYTHONPATH": str(double)}) as stage:
        run = await SCENARIOS[mutant.name](stage)

    assert mutant.breaks in {violation.rule for violation in checker.violations(run)}, run.exchanges


def test_every_rule_has_a_mutant_and_every_mutant_a_scenario() -> None:
    assert {mutant.breaks for mutant in mutants.MUTANTS} == set(checker.RULES)
    assert {mutant.name for mutant in mutants.MUTANTS} == set(SCENARIOS)


def test_a_mutant_that_is_not_there_is_an_error() -> None:
    with pytest.raises(mutants.Unknown, match="'no-such-rule'"):
        mutants.install("no-such-rule")


def test_a_mutant_of_something_that_is_gone_ends_the_process_and_says_so() -> None:
    program = (
        "import mutants, types\n"
        "old = lambda off: mutants._instead(types, 'gone', off, None)\n"
        "mutants.MUTANTS = [mutants.Mutant('old', 'I1', '', old)]\n"
        "mutants.install('old')\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(mutants.__file__).parent)},
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 70
    assert ended.stderr == "mutant old: the product has changed: module 'types' has no attribute 'gone'\n"
