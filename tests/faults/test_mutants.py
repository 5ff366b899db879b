"""The checker is tested with the product itself: one rule switched off at a time, everything else real."""

import asyncio
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import chain_witness
import checker
import control
import mutants
import outside
import payers
import pytest
import pytest_asyncio
import system
import wallets
from chain import Chain
from outside import Mood
from witnesses import Case, Exchange, Mode, Run, Transfer

from mpp_operator import sandbox

pytestmark = pytest.mark.faults
on_stage = pytest.mark.asyncio(loop_scope="module")

#: Until a credential whose money moved has an answer, when nothing is broken any more. Seconds.
_END: Final = 8.0


@dataclasses.dataclass(slots=True)
class Stage:
    """One gateway, and all that is around it."""

    chain: Chain
    points: control.Control
    node: outside.Node
    upstream: outside.Upstream
    shop: system.Gateways
    chosen: Path  # names the rule that is switched off
    runs: int = 0

    async def case(self, *moods: Mood, copies: int = 1, retries: str = "same") -> tuple[Case, str]:
        """A new payer with money, who wants something whose upstream has these moods; and its key."""
        self.runs += 1
        name = f"mutants-{self.runs}"
        address, key = await asyncio.to_thread(wallets.funded, self.chain, name)
        target = f"{system.PREFIX}/thing?case={name}"
        self.points.begin(name)
        self.upstream.moods(name, moods)
        return Case(name, address.lower(), "GET", target, "", system.PRICE, Mode.PULL, retries, copies), key

    @property
    def keeper(self) -> payers.Keeper:
        return payers.Keeper(self.chain.rpc_url, self.chain.chain_id)

    async def ended(self, case: Case, since: int, exchanges: list[Exchange]) -> Run:
        """Present what was paid and is not served, then read the witnesses."""
        self.points.disarm()
        self.upstream.well()
        served = {one for e in exchanges if e.whole and 200 <= e.status < 300 for one in e.receipts}
        for transfer in await self._transfers(exchanges, since):
            known = [e for e in exchanges if e.challenge == transfer.challenge and not e.other]
            if transfer.reference not in served and known:
                exchanges += await self._present(known[-1])
        transfers = await self._transfers(exchanges, since)
        owed = {transfer.reference for transfer in transfers} - {
            one for e in exchanges if e.whole and 200 <= e.status < 300 for one in e.receipts
        }
        return Run(
            seed=0,
            system="gateway",
            cases=(case,),
            transfers=transfers,
            hits=self.upstream.take(),
            exchanges=tuple(exchanges),
            listed=await self.shop.listed() if owed else (),
            recipient=self.shop.recipient,
        )

    async def _present(self, exchange: Exchange) -> list[Exchange]:
        seen: list[Exchange] = []
        deadline = time.monotonic() + _END
        while True:
            seen.append(await payers.present(self.shop.url(0), exchange))
            if seen[-1].status in (200, 402, 403) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.1)  # what the answer's Retry-After asks for, and more

    async def _transfers(self, exchanges: list[Exchange], since: int) -> tuple[Transfer, ...]:
        ids = {challenge for e in exchanges for challenge in e.challenges}
        return await chain_witness.transfers(
            self.chain.rpc_url, self.shop.recipient, challenges=ids, since=since, sent_at=self.node.sent_at
        )


# --- what it takes to see a rule break -----------------------------------------------------------------

Scenario = Callable[[Stage], Awaitable[Run]]


def patience(tries: int = 6) -> payers.Patience:
    return payers.Patience(tries=tries, seconds=10, each=6)


async def kept(stage: Stage, *moods: Mood, copies: int = 1, tries: int = 6) -> Run:
    """A client that keeps its credential."""
    case, key = await stage.case(*moods, copies=copies)
    since = await chain_witness.head(stage.chain.rpc_url)
    exchanges = await stage.keeper.want(case, stage.shop.url, key=key, patience=patience(tries))
    return await stage.ended(case, since, list(exchanges))


async def any_payment(stage: Stage) -> Run:
    return await kept(stage)


async def fails_once(stage: Stage) -> Run:
    return await kept(stage, Mood.S500)


async def fails_always(stage: Stage) -> Run:
    return await kept(stage, *[Mood.S500] * 3, tries=4)


async def at_once(stage: Stage) -> Run:
    return await kept(stage, copies=8)


async def two_take_one_credit(stage: Stage) -> Run:
    """Both have read that it is owed before either writes that it delivers."""
    case, key = await stage.case(Mood.S500)

    async def strike(_: control.Moment) -> None:
        assert await stage.points.passed("ledger.delivering.before", limit=5)

    since = await chain_witness.head(stage.chain.rpc_url)
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=patience(tries=1)))
    await system.until(lambda: stage.points.reached["ledger.credit.after"], 5, "a credit")
    armed = stage.points.arm("ledger.delivering.before", 1, strike)
    exchanges += await asyncio.gather(
        *(payers.present(stage.shop.url(0), exchanges[-1], final=False) for _ in range(2))
    )
    assert armed.moment is not None
    return await stage.ended(case, since, exchanges)


async def at_once_and_slow(stage: Stage) -> Run:
    return await kept(stage, Mood.SLOW, Mood.SLOW, copies=2)


async def signs_anew(stage: Stage) -> Run:
    case, key = await stage.case(Mood.S500, retries="new")
    since = await chain_witness.head(stage.chain.rpc_url)
    payer = payers.Pympp(stage.chain.rpc_url, stage.chain.chain_id)
    exchanges = await payer.want(case, stage.shop.url, key=key, patience=patience())
    return await stage.ended(case, since, list(exchanges))


async def served_twice(stage: Stage) -> Run:
    case, key = await stage.case()
    since = await chain_witness.head(stage.chain.rpc_url)
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=patience()))
    exchanges += await stage._present(exchanges[-1])
    return await stage.ended(case, since, exchanges)


async def probed(stage: Stage, probe: Callable[[Stage, Case, Exchange], Awaitable[tuple[Exchange, ...]]]) -> Run:
    """The payer is owed its request, and then somebody else tries to get it."""
    case, key = await stage.case(Mood.S500)
    since = await chain_witness.head(stage.chain.rpc_url)
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=patience(tries=1)))
    exchanges += await probe(stage, case, exchanges[-1])
    return await stage.ended(case, since, exchanges)


async def strange(stage: Stage, case: Case, forged: bool) -> tuple[Exchange, ...]:
    _, key = sandbox.account(f"a stranger to {case.id}")
    return await payers.stranger(
        case, stage.shop.url(0), stage.chain.rpc_url, stage.chain.chain_id, key=key, forged=forged
    )


async def a_stranger_asks(stage: Stage) -> Run:
    return await probed(stage, lambda stage, case, _: strange(stage, case, forged=False))


async def a_forger_asks(stage: Stage) -> Run:
    return await probed(stage, lambda stage, case, _: strange(stage, case, forged=True))


async def tried_elsewhere(stage: Stage) -> Run:
    async def probe(stage: Stage, case: Case, paid: Exchange) -> tuple[Exchange, ...]:
        target = case.target.replace("/thing", "/live")
        return (await payers.present(stage.shop.url(0), paid, target=target, other=True),)

    return await probed(stage, probe)


async def the_node_dies(stage: Stage) -> Run:
    """Just when the chain has the transaction."""
    case, key = await stage.case()

    async def strike(_: control.Moment) -> None:
        await stage.node.down()

    since = await chain_witness.head(stage.chain.rpc_url)
    armed = stage.points.arm("rpc.send.after", 1, strike)
    exchanges = list(await stage.keeper.want(case, stage.shop.url, key=key, patience=patience(tries=1)))
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


@contextlib.asynccontextmanager
async def staged(
    chain: Chain, folder: Path, tag: str, environ: dict[str, str], chosen: Path
) -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory() as sockets:  # a unix socket's path is short
        socket = Path(sockets) / "points"
        async with (
            control.listening(socket) as points,
            outside.node(chain.rpc_url, points) as node,
            outside.upstream(points, system.PREFIX) as upstream,
            system.store(system.Shape(), folder) as store,
            system.gateways(
                system.Shape(), chain, node.url, upstream.port, socket, folder, store, tag=tag, environ=environ
            ) as shop,
        ):
            yield Stage(chain, points, node, upstream, shop, chosen)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """A gateway that breaks whichever rule a file names."""
    folder = tmp_path_factory.mktemp("mutants")
    chosen = folder / "chosen"
    async with staged(chain, folder, "mutants", {"PYTHON_FAULTS_MUTANT": f"@{chosen}"}, chosen) as opened:
        yield opened


IN_AUTHZ: Final = [mutant for mutant in mutants.MUTANTS if mutant.in_authz]


@on_stage
@pytest.mark.parametrize("mutant", IN_AUTHZ, ids=lambda mutant: mutant.name)
async def test_a_rule_that_is_switched_off_is_found(stage: Stage, mutant: mutants.Mutant) -> None:
    stage.chosen.write_text(mutant.name)
    try:
        run = await SCENARIOS[mutant.name](stage)
    finally:
        stage.chosen.write_text("")

    found = checker.violations(run)

    assert mutant.breaks in {violation.rule for violation in found}, "\n".join(map(str, [*found, *run.exchanges]))


@on_stage
@pytest.mark.parametrize(
    "scenario", [*dict.fromkeys(SCENARIOS.values()), at_once], ids=lambda scenario: scenario.__name__
)
async def test_with_every_rule_in_force_nothing_is_found(stage: Stage, scenario: Scenario) -> None:
    stage.chosen.write_text("")

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

    async with staged(chain, tmp_path, f"mutants {mutant.name}", {"PYTHONPATH": str(double)}, tmp_path) as stage:
        run = await SCENARIOS[mutant.name](stage)

    assert mutant.breaks in {violation.rule for violation in checker.violations(run)}, run.exchanges


def test_every_rule_has_a_mutant_and_every_mutant_a_scenario() -> None:
    assert {mutant.breaks for mutant in mutants.MUTANTS} == set(checker.RULES)
    assert {mutant.name for mutant in mutants.MUTANTS} == set(SCENARIOS)


def test_a_mutant_that_is_not_there_is_an_error() -> None:
    with pytest.raises(mutants.Unknown, match="'no-such-rule'"):
        mutants.install("no-such-rule")
