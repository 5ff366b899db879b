"""The fault matrix: plans are carried out on real systems, everything is healed, and what was witnessed is judged.

    results = await matrix.batch(seeds, folder)

A batch is a set of real processes that serve many runs; each run has payers and targets of its own. At the end of
a run every credential that did not get its answer is presented until there is a last word. At the end of the batch
all its runs are judged once more, by all that happened since.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import chain as chains
import chain_witness
import checker
import control
import outside
import payers
import plans
import system
import wallets
import witnesses
from payers import HangUp, Patience
from plans import Fault, Plan, Player
from system import Shape, Store, SystemProtocol
from witnesses import Case, Exchange

#: How long a client tries, and how long a credential is presented at the end. Seconds.
_PATIENCE: Final = Patience(tries=24, seconds=8.0, each=8.0)
_END_LIMIT: Final = 75.0
#: A client that leaves at a point waits this long for somebody to come to it.
_LEAVE_LIMIT: Final = 3.0
#: One run, whatever happens in it.
_RUN_LIMIT: Final = 150.0
#: Past the last valid moment of whatever was signed, and the grace after it. Seconds of block time.
_PAST_VALIDITY: Final = 60

#: Between two presentations of one credential.
_PAUSE: Final = 0.1

_METHODS: Final = {"thing": "GET", "live": "GET", "sealed": "POST", "once": "POST"}


@dataclass(frozen=True, slots=True)
class Result:
    """One run, and what is to be said of it."""

    plan: Plan
    run: witnesses.Run
    struck: tuple[Fault, ...]
    missed: tuple[Fault, ...]  # nobody came to their points, so they never happened
    reached: Mapping[str, int]  # how often somebody came to each point
    violations: tuple[checker.Violation, ...]
    seconds: float
    error: str = ""  # the harness could not carry it out

    @property
    def good(self) -> bool:
        return not self.violations and not self.error

    def lines(self) -> str:
        """For a person: what was planned, what came to pass, what is wrong."""
        said = [str(self.plan), f"  {self.seconds:.1f} s; struck: {'; '.join(map(str, self.struck)) or 'nothing'}"]
        if self.missed:
            said.append(f"  never reached: {'; '.join(map(str, self.missed))}")
        said += [f"  VIOLATION {violation}" for violation in self.violations]
        said += [f"  ERROR {self.error}"] if self.error else []
        return "\n".join(said)

    def document(self) -> dict[str, Any]:
        """For the report."""
        return {
            "seed": self.plan.seed,
            "system": str(self.plan.shape),
            "plan": str(self.plan),
            "faults": [dataclasses.asdict(fault) for fault in self.struck],
            "missed": [dataclasses.asdict(fault) for fault in self.missed],
            "seconds": round(self.seconds, 3),
            "violations": [str(violation) for violation in self.violations],
            "error": self.error,
        }


def totals(results: Iterable[Result]) -> dict[str, Any]:
    """Over many runs: how often which fault struck at which point, and how often a point was reached at all. What
    was planned and did not come to pass is not in it."""
    struck: collections.Counter[str] = collections.Counter()
    reached: collections.Counter[str] = collections.Counter()
    systems: collections.Counter[str] = collections.Counter()
    violations: collections.Counter[str] = collections.Counter()
    missed = runs = 0
    for result in results:
        runs += 1
        systems[str(result.plan.shape)] += 1
        struck.update(f"{fault.point} x {fault.action} {fault.target}" for fault in result.struck)
        reached.update(result.reached)
        violations.update(violation.rule for violation in result.violations)
        missed += len(result.missed)
    return {
        "runs": runs,
        "systems": dict(sorted(systems.items())),
        "violations": dict(sorted(violations.items())),
        "struck": dict(sorted(struck.items())),
        "struckPoints": sorted({pair.partition(" x ")[0] for pair in struck}),
        "planned and never reached": missed,
        "reached": dict(sorted(reached.items())),
    }


def write_report(path: Path, results: Sequence[Result]) -> None:
    document = {"totals": totals(results), "runs": [result.document() for result in results]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


# --- a rig ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rig:
    """A system that runs, and all that is around it."""

    system: SystemProtocol
    chain: chains.Chain
    control: control.Control
    node: outside.Node
    upstream: outside.Upstream
    mppx: payers.Mppx
    store: Store | None
    since: int  # block
    known: set[str] = field(default_factory=set)  # payers of all runs
    runs: dict[int, "_Run"] = field(default_factory=dict)  # by seed
    hits: list[witnesses.Hit] = field(default_factory=list)  # of all runs

    async def run(self, plan: Plan) -> Result:
        """Carry out one plan."""
        began = time.monotonic()
        run = self.runs[plan.seed] = _Run(self, plan)
        try:
            async with asyncio.timeout(_RUN_LIMIT):
                witnessed = await run.carry_out()
            violations = checker.violations(witnessed)
            error = ""
        except Exception as trouble:
            witnessed, violations = run.witnessed((), (), ()), ()
            error = f"{type(trouble).__name__}: {trouble}"
            try:
                await run.clean()
            except Exception as worse:
                error += f"; and it cannot be healed: {worse}"
        struck = run.struck()
        missed = tuple(fault for fault in plan.faults if fault not in struck)
        return Result(plan, witnessed, struck, missed, run.reached(), violations, time.monotonic() - began, error)

    async def again(self, result: Result) -> Result:
        """Judge a run once more by all that has happened since: a transfer may have come late."""
        if result.error:
            return result
        transfers = self.of_run(await self.transfers(result.run.exchanges), result.run.cases)
        hits = self.hits_of(result.run.cases)
        if (transfers, hits) == (result.run.transfers, result.run.hits):
            return result
        run = self.runs[result.plan.seed]
        await run.to_the_end()
        witnessed = replace(
            result.run,
            transfers=transfers,
            exchanges=tuple(run.exchanges),
            hits=self.hits_of(result.run.cases),
            listed=await self.system.listed(),
        )
        return replace(result, run=witnessed, violations=checker.violations(witnessed))

    async def transfers(self, exchanges: Iterable[Exchange]) -> tuple[witnesses.Transfer, ...]:
        """All that reached our recipient since the batch began."""
        seen = {challenge for exchange in exchanges for challenge in exchange.challenges}
        return await chain_witness.transfers(
            self.chain.rpc_url,
            self.system.recipient,
            challenges=seen,
            since=self.since,
            sent_at=self.node.sent_at,
        )

    def of_run(
        self, transfers: Iterable[witnesses.Transfer], run: Sequence[Case]
    ) -> tuple[witnesses.Transfer, ...]:
        """Those by its payers, and those by nobody we know: they must be somebody's fault."""
        mine = {case.payer for case in run}
        return tuple(one for one in transfers if one.payer in mine or one.payer not in self.known)

    def hits_of(self, run: Sequence[Case]) -> tuple[witnesses.Hit, ...]:
        """What the upstream was asked for by a run's cases, also after its end; and what no case asked for."""
        self.hits += self.upstream.take()
        mine, all_ = {case.id for case in run}, {case.id for one in self.runs.values() for case in one.cases}
        found = [(hit, control.case_of(hit.target)) for hit in self.hits]
        return tuple(hit for hit, case in found if case in mine or case not in all_)


@dataclass(slots=True)
class _Run:
    """One plan on a rig."""

    rig: Rig
    plan: Plan
    cases: list[Case] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    armed: list[tuple[Fault, control.Armed]] = field(default_factory=list)
    left: set[Fault] = field(default_factory=set)  # by a client
    impossible: set[Fault] = field(default_factory=set)  # the system was not in a state for it
    _keys: dict[str, str] = field(default_factory=dict)
    _bodies: dict[str, bytes] = field(default_factory=dict)
    _heals: set["asyncio.Task[None]"] = field(default_factory=set)
    _reached: dict[str, int] = field(default_factory=dict)

    @property
    def _prefix(self) -> str:
        return f"{self.plan.seed}-"

    async def carry_out(self) -> witnesses.Run:
        rig = self.rig
        rig.control.begin(self._prefix)
        rig.system.envoy_died = False
        for player in self.plan.players:  # the faucet serves one after the other
            await self._prepared(player)
        for fault in self.plan.faults:
            if fault.action != "leave":
                strike = self._strike(fault)
                self.armed.append((fault, rig.control.arm(fault.point, fault.nth, strike)))
        wanted = await asyncio.gather(
            *(
                self._wanted(player, case, number)
                for number, (player, case) in enumerate(zip(self.plan.players, self.cases, strict=True))
            )
        )
        for exchanges in wanted:
            self.exchanges += exchanges
        if any(exchange.hung_up and exchange.status for exchange in wanted[0]):
            self.left |= {one for one in self.plan.faults if one.point == "client.headers"}
        if self.plan.expires:
            chains.pass_time(rig.chain, _PAST_VALIDITY)
        self._reached = dict(rig.control.reached)
        await self.clean()
        await self.to_the_end()
        for point, count in rig.control.reached.items():
            self._reached[point] = count
        transfers = await rig.transfers(self.exchanges)
        mine = rig.of_run(transfers, self.cases)
        delivered = {one for e in self.exchanges if _served(e) for one in e.receipts}
        listed = await rig.system.listed() if any(one.reference not in delivered for one in mine) else ()
        rig.control.old |= {one for e in self.exchanges for one in e.challenges}
        return self.witnessed(mine, listed, rig.hits_of(self.cases))

    async def clean(self) -> None:
        """Everything is healed; what has not struck will not."""
        rig = self.rig
        rig.control.disarm()
        for task in tuple(self._heals):
            task.cancel()
        await asyncio.gather(*self._heals, return_exceptions=True)
        rig.upstream.well()
        rig.node.swallows = False
        await rig.node.up()
        await rig.upstream.up()
        await rig.system.heal()

    def struck(self) -> tuple[Fault, ...]:
        """The faults that came to pass."""
        armed = [fault for fault, armed in self.armed if armed.moment is not None]
        return tuple(fault for fault in (*armed, *self.left) if fault not in self.impossible)

    def reached(self) -> Mapping[str, int]:
        return self._reached or dict(self.rig.control.reached)

    def witnessed(
        self,
        transfers: tuple[witnesses.Transfer, ...],
        listed: tuple[witnesses.Listed, ...],
        hits: tuple[witnesses.Hit, ...],
    ) -> witnesses.Run:
        rig = self.rig
        return witnesses.Run(
            seed=self.plan.seed,
            system=str(self.plan.shape),
            cases=tuple(self.cases),
            transfers=transfers,
            hits=hits,
            exchanges=tuple(self.exchanges),
            listed=listed,
            envoy_died=rig.system.envoy_died,
            sent=witnesses.sent_whole(rig.system.logs()),
            recipient=rig.system.recipient.lower(),
            faults=tuple(map(str, self.struck())),
            notes={"plan": str(self.plan)},
        )

    # --- who wants what ----------------------------------------------------------------------------------

    async def _prepared(self, player: Player) -> None:
        rig = self.rig
        name = self._prefix + player.name
        address, key = await asyncio.to_thread(wallets.funded, rig.chain, f"payer {name}")
        method = _METHODS[player.route]
        body = json.dumps({"wanted": name}).encode() if method == "POST" else b""
        case = Case(
            id=name,
            payer=address.lower(),
            method=method,
            target=f"/{player.service}/{player.route}?case={name}",
            body_hash=payers.body_hash(body),
            price=system.PRICE,
            mode=player.mode,
            retries="same" if player.kind == "keeper" else "new",
            copies=player.copies,
            streaming=player.route == "live",
            idempotent=player.route == "once",
        )
        self._keys[name], self._bodies[name] = key, body
        rig.known.add(case.payer)
        rig.upstream.moods(name, player.moods)
        self.cases.append(case)

    def _payer(self, player: Player) -> payers.Payer:
        chain = self.rig.chain
        if player.kind == "mppx":
            return self.rig.mppx
        kind = payers.Pympp if player.kind == "pympp" else payers.Keeper
        return kind(chain.rpc_url, chain.chain_id)

    async def _wanted(self, player: Player, case: Case, number: int) -> list[Exchange]:
        """One client plays its part; with a probe, others try to have what is owed to it."""
        ask: dict[str, Any] = {
            "key": self._keys[case.id],
            "body": self._bodies[case.id],
            "idempotency_key": case.id if case.idempotent else None,
        }
        payer = self._payer(player)

        def urls(turn: int) -> str:
            return self.rig.system.url(player.first + turn)

        if not player.probe:
            leaving = self._leaving() if number == 0 else None
            return list(await payer.want(case, urls, patience=_PATIENCE, hang_up=leaving, **ask))
        seen = list(await payer.want(case, urls, patience=replace(_PATIENCE, tries=1), **ask))
        owed = [exchange for exchange in seen if exchange.credit and exchange.credential]
        if owed:
            seen += await self._probed(player, case, owed[-1])
        if player.kind != "keeper" and not any(map(_served, seen)):
            seen += await payer.want(case, urls, patience=_PATIENCE, **ask)
        return seen

    async def _probed(self, player: Player, case: Case, owed: Exchange) -> list[Exchange]:
        """Somebody else, or the same payer for something else, at another replica."""
        url, body = self.rig.system.url(player.first + 1), self._bodies[case.id]
        if player.probe == "stranger":
            _, key = system.stranger(case.id)
            chain = self.rig.chain
            return list(await payers.stranger(case, url, chain.rpc_url, chain.chain_id, key=key, body=body))
        target = case.target.replace("?", "?other=1&")
        return [await payers.present(url, owed, body=body, final=False, other=True, target=target)]

    def _leaving(self) -> HangUp | None:
        """The first player's client leaves where the plan says so."""
        fault = next((one for one in self.plan.faults if one.action == "leave"), None)
        if fault is None:
            return None
        if fault.point == "client.headers":
            return HangUp()
        reached = self.rig.control

        async def when() -> None:
            if fault.point == "client.sent" or await reached.passed(fault.point, _LEAVE_LIMIT):
                self.left |= {fault}
            else:
                await asyncio.Event().wait()  # nobody came there: it stays

        return HangUp(when)

    # --- the end -----------------------------------------------------------------------------------------

    async def to_the_end(self) -> None:
        """Present what was paid and not answered until there is a last word: the newest credential of a case that
        got nothing, and every credential whose money moved. One that nobody took is no payment, and presenting it
        would make it one."""
        await asyncio.gather(*(self._served_at_last(case) for case in self.cases))
        transfers = await self.rig.transfers(self.exchanges)
        moved = {one.challenge for one in transfers}
        await asyncio.gather(*(self._ended(case, moved) for case in self.cases))

    async def _served_at_last(self, case: Case) -> None:
        mine = self._credentials(case)
        if mine and not any(_served(e) for exchanges in mine.values() for e in exchanges):
            await self._present(case, list(mine.values())[-1][0])

    async def _ended(self, case: Case, moved: set[str | None]) -> None:
        for exchanges in self._credentials(case).values():
            ended = any(_served(e) or (e.final and _last_word(e)) for e in exchanges)
            if exchanges[0].challenge in moved and not ended:
                await self._present(case, exchanges[0])

    def _credentials(self, case: Case) -> dict[str, list[Exchange]]:
        """A case's exchanges by the credential they carried, the oldest first."""
        found: dict[str, list[Exchange]] = collections.defaultdict(list)
        for exchange in self.exchanges:
            if exchange.case == case.id and exchange.credential is not None and not exchange.other:
                found[exchange.credential].append(exchange)
        return found

    async def _present(self, case: Case, exchange: Exchange) -> None:
        """Until there is a last word, or it takes too long, which the checker sees."""
        deadline = time.monotonic() + _END_LIMIT
        turn = self.plan.seed
        while True:
            turn += 1
            answer = await payers.present(
                self.rig.system.url(turn),
                exchange,
                body=self._bodies[case.id],
                idempotency_key=case.id if case.idempotent else None,
            )
            self.exchanges.append(answer)
            if _last_word(answer) or time.monotonic() > deadline:
                return
            await asyncio.sleep(_PAUSE)

    # --- faults ------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> control.Strike:
        async def strike(moment: control.Moment) -> str | None:
            return await self._struck(fault, moment)

        return strike

    async def _struck(self, fault: Fault, moment: control.Moment) -> str | None:
        """Let it happen; the word for whoever came to the point."""
        replica = (moment.replica if moment.replica is not None else self.plan.seed) + fault.other
        match fault.action, fault.target:
            case (("drop" | "refuse" | "duplicate" | "reset"), _):
                return fault.action
            case (("delay" | "reorder"), _):
                point = fault.point if fault.action == "reorder" else ""
                await self._passed(point, fault.seconds)
            case "swallow", _:
                self.rig.node.swallows = True
                return "drop"
            case "kill", "node":
                self._later(fault, self.rig.node.up)
                await _apart(self.rig.node.down())
            case "kill", "upstream":
                self._later(fault, self.rig.upstream.up)
                await _apart(self.rig.upstream.down())
            case "pause", "node":
                self.rig.node.pause()
                self._later(fault, _call(self.rig.node.resume))
            case "pause", "upstream":
                self.rig.upstream.pause()
                self._later(fault, _call(self.rig.upstream.resume))
            case action, "store":
                if self.rig.store is None or not await self.rig.store.act(action):
                    self.impossible |= {fault}
                else:
                    self._later(fault, self.rig.store.heal)
            case "kill", what:
                if not await self.rig.system.kill(what, replica):
                    self.impossible |= {fault}
                if what == "run":
                    self._later(fault, lambda: self.rig.system.revive(replica))
            case "pause", what:
                # Whoever came here from the process that is stopped goes on when that does.
                if not self.rig.system.pause(what, replica):
                    self.impossible |= {fault}
                self._later(fault, _call(self.rig.system.resume))
        return None

    def _later(self, fault: Fault, heal: Callable[[], Awaitable[None]]) -> None:
        async def healed() -> None:
            await self._passed(fault.until, fault.seconds)
            await heal()

        task = asyncio.create_task(healed())
        self._heals.add(task)
        task.add_done_callback(self._heals.discard)

    async def _passed(self, point: str, limit: float) -> None:
        """Until somebody comes to the point, or the time is over."""
        if point:
            await self.rig.control.passed(point, limit)
        else:
            await asyncio.sleep(limit)


def _call(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def acted() -> None:
        act()

    return acted


async def _apart(work: Any) -> None:
    """In a task of its own: it may end the very task that came to the point."""
    await asyncio.shield(asyncio.ensure_future(work))


def _served(answer: Exchange) -> bool:
    return 200 <= answer.status < 300 and answer.whole


def _last_word(answer: Exchange) -> bool:
    """Presenting it again would change nothing. A 402 is one only where no money moved, which the checker sees."""
    refused = 400 <= answer.status < 500 and answer.status not in (408, 409, 425, 429)
    return _served(answer) or (refused and not answer.credit)


# --- batches -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def rig(
    shape: Shape, folder: Path, *, tag: str = "", environ: Mapping[str, str] | None = None
) -> AsyncIterator[Rig]:
    """Everything real, for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - one folder
    async with contextlib.AsyncExitStack() as stack:
        chain = stack.enter_context(chains.running())
        socket = folder / "points.sock"
        points = await stack.enter_async_context(control.listening(socket))
        node = await stack.enter_async_context(outside.node(chain.rpc_url, points))
        prefix = "" if shape.system == "gateway" else system.PREFIX
        upstream = await stack.enter_async_context(outside.upstream(points, prefix))
        mppx = await stack.enter_async_context(payers.mppx(chain.rpc_url, chain.chain_id))
        store: Store | None = None
        under_test: SystemProtocol
        if shape.system == "gateway":
            store = await stack.enter_async_context(system.store(shape, folder))
            under_test = await stack.enter_async_context(
                system.gateways(
                    shape, chain, node.url, upstream.port, socket, folder, store, tag=tag, environ=environ
                )
            )
        else:
            under_test = await stack.enter_async_context(
                system.mppx(chain, node.url, upstream.url, folder, tag=tag)
            )
        since = await chain_witness.head(chain.rpc_url)
        yield Rig(under_test, chain, points, node, upstream, mppx, store, since)


async def batch(
    seeds: Sequence[int],
    folder: Path,
    *,
    on: Shape | None = None,
    environ: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> list[Result]:
    """The runs of seeds that share a shape, one after the other, on one system. What is wrong is kept in `folder`:
    the processes' logs, and the runs as JSON lines."""
    shape = on or plans.shape(seeds[0])
    results: list[Result] = []
    async with rig(shape, folder, tag=str(seeds[0]), environ=environ) as one:
        for seed in seeds:
            result = await one.run(plans.plan(seed, on))
            say(result.lines())
            results.append(result)
            if result.error:
                break  # nobody knows what the next run would run on
        results = [await one.again(result) for result in results]
        bad = [result for result in results if not result.good]
        (folder / "logs.txt").write_text(one.system.logs(), encoding="utf-8")
        if bad:
            witnesses.write(folder / "runs.jsonl", [result.run for result in bad])
            for result in bad:
                say(f"{result.lines()}\n  logs and witnesses: {folder}")
    return results
