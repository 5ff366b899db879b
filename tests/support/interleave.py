"""Two replicas of the gateway's core on one store and one chain, and everything between them one move at a time.

The gates, settlers, closers and sweepers are the real ones. What is not: the store (`memory_ledger`), the chain
(`promises.Rail`), Envoy (`Envoy`, below) and the clock (`virtual_time`). Each call to the store or the chain is a
`Call` that waits until somebody releases it, with the effect and the answer he chooses, or until its process dies.
So the order in which things happen is a list of moves, and the same list gives the same run.

    world = interleave.World(folder)
    with world.running():
        world.do(("ask", 0, 0, "pull"))           client 0 asks replica 0, and pays
        world.do(("call", 0, "done"))             the oldest call is carried out and answered
        world.moves()                             what can happen next
        world.finish()                            heal everything, present everything again, judge

The laws (`LAWS`) are held by `World` after each move, from what the chain, Envoy and the clients saw; the ledger
is only asked for what is owed.
"""

import asyncio
import base64
import contextvars
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest import mock

import mpp
import promises
from memory_ledger import MemoryLedger
from virtual_time import VirtualLoop

from mpp_authz import challenge, patience, wire
from mpp_authz.challenge import Keyring
from mpp_authz.decide import Gate
from mpp_authz.delivery import Entry
from mpp_authz.ledger import LedgerUnavailable, Payment, State
from mpp_authz.methods import (
    Claim,
    Credential,
    Never,
    NotYet,
    Quote,
    Refused,
    Settled,
    TransferRefused,
    Unavailable,
    Unknown,
    Verified,
)
from mpp_authz.pricing import Network, RoutePrice
from mpp_authz.quotes import Request
from mpp_authz.sweeping import Sweeper
from mpp_authz.verdicts import Allow, Deny, Verdict

Move = tuple[Any, ...]

#: A transaction is valid for this long after it was signed. Seconds.
VALID: Final = 60
#: Envoy waits so long for a Check, all its tries together (ext_authz timeout). Seconds.
CHECK_WITHIN: Final = 15
#: Envoy cuts a request that takes longer: `max_stream_duration`, shorter than the lease. Seconds.
CUT_AFTER: Final = 50
#: Envoy flushes its outcome file this often (--file-flush-interval-msec).
FLUSH_MS: Final = 50
#: An Envoy that no authz has looked after for so long counts as dead, as far as deliveries go. Milliseconds.
SILENT_MS: Final = 30_000
LAWS: Final = {
    "I1": "nothing is let through without money moved, or a proof",
    "I2": "a settled payment is delivered, or owed and listed; a client that retries pays once for one request",
    "I3": "no payment serves another payer or another request",
    "I4": "no challenge in an answer to a credential whose money moved, or still may",
    "I5": "one delivery a payment, unless its Envoy died or was not heard of for long",
    "I6": "a receipt names the transaction that paid",
    "liveness": "after everything is healed it comes to rest, and whoever asks again gets an answer that is final",
}
HEALED: Final = "--- healed"
TIMES: Final = patience.Times(settle_wait=10.0, in_progress_wait=2.0)
PAYERS: Final = (promises.ALICE, promises.BOB)

#: Asked of no turnstile: they read what nothing but the clock changes.
_AT_ONCE: Final = frozenset({"now", "born_at", "networks", "remember_network"})
_READS: Final = frozenset(
    {
        "get",
        "by_reference",
        "unfinished",
        "due",
        "delivering_at",
        "data_plane",
        "listing",
        "counts",
        "settled_since",
    }
)
_SENDS: Final = ("included", "included silently", "pooled", "not sent")

#: How a forwarded request can end: status, flags, whether the upstream's answer began and ended.
ENDINGS: Final[dict[str, tuple[int, str, bool, bool]]] = {
    "whole": (200, "", True, True),
    "error": (500, "", True, True),
    "refused": (422, "", True, True),
    "broken": (200, "UC", True, False),
    "left": (0, "DC", False, False),
    "left late": (200, "DC", True, False),
    "cut": (504, "UMSDR", False, False),
}

_RUNNING: contextvars.ContextVar["Process | None"] = contextvars.ContextVar("process", default=None)
_TRANSACTION: contextvars.ContextVar[str] = contextvars.ContextVar("transaction", default="")


class Violation(AssertionError):
    """A law is broken; the message names it and holds the moves that led there."""

    def __init__(self, rule: str, detail: str, trace: Iterable[str]) -> None:
        law = LAWS.get(rule, "")
        super().__init__("\n".join((f"{rule}: {detail}", *([law] if law else ()), *_readable(trace))))
        self.rule = rule


def _readable(trace: Iterable[str]) -> Iterator[str]:
    """Without the rounds of sweepers that found nothing, after everything was healed."""
    healed = False
    for line in trace:
        healed = healed or line == HEALED
        idle = line.endswith((": forget_failed: done", ": due: done")) or "  sweep " in line or "  wait " in line
        if not (healed and idle):
            yield line


@dataclass(slots=True, eq=False)
class Call:
    """One call to the store or the chain that was made and has neither its effect nor its answer yet."""

    process: "Process"
    label: str
    modes: tuple[str, ...]  # the first is that all goes well
    effect: Callable[[str], Any]
    future: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class Process:
    """One run of authz on a replica. Dead: its calls lead nowhere."""

    world: "World"
    owner: str
    gate: Gate = field(init=False)
    sweeper: Sweeper = field(init=False)
    dead: bool = False
    cut_off: bool = False  # from the store
    sweeping: asyncio.Task[None] | None = None
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    seen: int = 0  # a hash of all it ever observed, in order

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        context = contextvars.copy_context()
        context.run(_RUNNING.set, self)
        return self.world.loop.create_task(work, context=context)

    def observe(self, *what: object) -> None:
        self.seen = hash((self.seen, *what))

    async def call(self, label: str, modes: tuple[str, ...], effect: Callable[[str], Any]) -> Any:
        if self.dead:
            raise asyncio.CancelledError
        waiting = Call(self, label, modes, effect, self.world.loop.create_future())
        self.world.calls.append(waiting)
        return await waiting.future

    def die(self) -> None:
        self.dead = True
        self.world.calls = [call for call in self.world.calls if call.process is not self]
        while self.tasks:  # what a task starts while it is cancelled dies with it
            for task in tuple(self.tasks):
                task.cancel()
            self.world.loop.drain()


class _Store:
    """A process's connection to the store."""

    def __init__(self, process: Process, inner: MemoryLedger) -> None:
        self._process = process
        self._inner = inner

    def clock(self) -> int:
        return self._inner.clock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        process = self._process

        async def call(*arguments: Any, **named: Any) -> Any:
            if process.dead:
                raise asyncio.CancelledError
            if process.cut_off:
                raise LedgerUnavailable("the store does not answer")
            if name in _AT_ONCE:
                return await method(*arguments, **named)
            modes = ("done", "fails") if name in _READS else ("done", "fails", "done but fails")

            def effect(mode: str) -> Any:
                result = None if mode == "fails" else _at_once(method(*arguments, **named))
                if mode != "done":
                    raise LedgerUnavailable("the store does not answer")
                return result

            return await process.call(process.world.words(name, arguments, named), modes, effect)

        return call


def _at_once(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("expected a call of the store in memory to wait for nothing")


class Rail(promises.Rail):
    """A process's connection to the chain, which all share. The double's rules, with the moments of sending and
    asking behind the turnstile."""

    def __init__(self, process: Process, chain: promises.Rail) -> None:
        super().__init__(chain.clock)
        for shared in ("blocks", "payers", "transfers", "owners", "sent"):
            setattr(self, shared, getattr(chain, shared))
        self._process = process

    # Equal and of one hash: `quotes` remembers methods, and thousands of these are made.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rail)

    def __hash__(self) -> int:
        return hash(Rail)

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        verified = await super().verify(credential, quote)
        if isinstance(verified, Verified) and verified.mode == "pull":
            last = int(credential.payload["valid_before"])
            if self.clock.seconds() > last:
                return Refused("verification-failed", "The transaction's last valid moment is past.")
            return replace(verified, valid_before=last)
        return verified

    async def settle(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        transaction = str(credential.payload.get("tx", ""))
        _TRANSACTION.set(transaction)
        settled = await super().settle(credential, quote, verified, claim)
        # The chain knows who paid, whatever name the credential gives.
        return replace(settled, payer=self._payer(transaction)) if isinstance(settled, Settled) else settled

    def will_send(self, transaction: str) -> None:
        """What the next moment of sending is about."""
        _TRANSACTION.set(transaction)

    def _payer(self, transaction: str) -> str | None:
        papers = self._process.world.papers
        return next((paper.payer for paper in papers if paper.transaction == transaction), None)

    async def resend(self, raw: str, network: Network) -> None:
        _TRANSACTION.set(raw.removeprefix("co-signed "))
        await super().resend(raw, network)

    async def lookup(
        self, reference: str, valid_before: int | None, network: Network
    ) -> Settled | NotYet | Never | Unavailable:
        _TRANSACTION.set(reference)
        found = await super().lookup(reference, valid_before, network)
        return replace(found, payer=self._payer(reference)) if isinstance(found, Settled) else found

    async def _at(self, point: str) -> None:
        world, transaction = self._process.world, _TRANSACTION.get()
        name = world.names.get(transaction, transaction)
        if point in ("before send", "resend"):
            mode = await self._process.call(
                f"chain: send {name}", _SENDS, lambda mode: world.broadcast(transaction, mode, self._process)
            )
            self.answers = "truth" if mode == "included" else "unknown"
        elif point == "lookup":
            mode = await self._process.call(f"chain: look up {name}", ("done", "no answer"), lambda mode: mode)
            self.reachable = mode == "done"
        elif point == "after claim" and world.simulates:
            modes = ("done", "would fail", "no answer")
            mode = await self._process.call(f"chain: simulate {name}", modes, lambda mode: mode)
            self.answers = {"would fail": "refused", "no answer": "unavailable"}.get(mode, "truth")
        elif point == "after claim":
            self.answers = "truth"

    def _send(self, transaction: str) -> None:
        pass  # it was sent when the call was released


@dataclass(slots=True, eq=False)
class Envoy:
    """A data plane: what it has written, and what is still in its memory."""

    id: str
    replica: int
    alive: bool = True
    lines: list[str] = field(default_factory=list)  # in its file
    buffer: list[str] = field(default_factory=list)
    tended_at: int = 0  # when an authz beside it last said that it lives
    silent: bool = False  # for once, nobody said so for too long


@dataclass(slots=True, eq=False)
class Replica:
    index: int
    folder: Path
    process: Process | None = None
    envoy: Envoy | None = None
    boots: int = 0
    envoys: int = 0


@dataclass(slots=True, eq=False)
class Paper:
    """A credential that a client made. `payer` signed it; it may say another name, where it proves none."""

    name: str
    id: str  # its challenge's
    authorization: str
    client: int
    payer: str
    kind: str  # "pull", "sponsored", "push", "proof"; "swap" and "forge" are pull credentials of a thief
    transaction: str
    valid_before: int
    query: str
    serial: bool
    allowed: bool = False  # a request of it was once let through
    last: "Exchange | None" = None


@dataclass(slots=True, eq=False)
class Exchange:
    """One HTTP request at one Envoy."""

    number: int
    paper: Paper
    replica: Replica
    envoy: Envoy
    request: Request
    stage: str = "checking"  # then "stranded" (its authz died), "answered", "forwarded", "done"
    process: Process | None = None
    task: asyncio.Task[Verdict] | None = None
    verdict: Verdict | None = None
    status: int = 0
    whole: bool = False


@dataclass(slots=True)
class World:
    """Everything, and the moves that change it. Use inside `running()`."""

    folder: Path
    price: RoutePrice = promises.PRICE
    replicas_made: int = 2
    simulates: bool = False  # whether a transaction is simulated before it is sent
    serial: bool = True  # whether clients ask one after another (what I2 says of retries is asked of those)
    clock: promises.Clock = field(default_factory=promises.Clock)
    loop: VirtualLoop = field(init=False)
    store: MemoryLedger = field(init=False)
    chain: promises.Rail = field(init=False)
    terms: promises.Terms = field(init=False)
    replicas: list[Replica] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    papers: list[Paper] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)  # those that are not done
    news: list[tuple[int, Entry | str]] = field(default_factory=list)  # on its way to a replica's authz
    valid: dict[str, int] = field(default_factory=dict)  # transaction -> last valid second
    delivered: dict[str, list[Envoy]] = field(default_factory=dict)  # payment -> Envoys that delivered it whole
    names: dict[str, str] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)
    steps: int = 0
    counted: Counter[str] = field(default_factory=Counter)  # moves by kind
    answered: Counter[int] = field(default_factory=Counter)  # what clients got, by status; 0: nothing
    asked: int = 0
    broken: bool = False  # a law was
    judging: bool = False  # at the end, when nobody is a serial client any more

    def __post_init__(self) -> None:
        # It has what asyncio asks for here, and none of the methods for files, sockets and processes.
        self.loop = VirtualLoop(self.clock, self._set_clock)  # type: ignore[abstract]
        self.loop.made = _adopt
        self.store = MemoryLedger(self.clock)
        self.chain = promises.Rail(self.clock)
        self.terms = promises.Terms(
            {promises.ROUTE: self.price}, {promises.NETWORK.name: promises.NETWORK}, Keyring((promises.KEY,))
        )

    def _set_clock(self, ms: int) -> None:
        self.clock.ms = ms

    @contextmanager
    def running(self) -> Iterator["World"]:
        logger = logging.getLogger("mpp_authz")
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        numbers = itertools.count()
        # Else random, and the same moves would not give the same run.
        nonces = mock.patch.object(challenge, "nonce", side_effect=(f"nonce-{number}" for number in numbers))
        with nonces, self.loop.running():
            try:
                for index in range(self.replicas_made):
                    folder = self.folder / f"replica-{index}"
                    folder.mkdir(parents=True)
                    self.replicas.append(Replica(index, folder))
                    self._boot_envoy(self.replicas[index])
                    self._boot(self.replicas[index])
                assert self.replicas[0].process is not None
                # Written at start, before anything is served: nothing to interleave with.
                self._alone(self.replicas[0].process.gate.settler.networks.remember(self.terms.networks))
                yield self
            finally:
                for replica in self.replicas:
                    if replica.process is not None:
                        replica.process.die()
                logger.setLevel(level)

    def _alone(self, work: Any) -> Any:
        """Run work to its end while nothing else does; its calls are carried out."""
        process = self.replicas[0].process
        assert process is not None
        task = process.spawn(work)
        self.loop.drain()
        while not task.done():
            self.release(self.calls[-1], self.calls[-1].modes[0])
        return task.result()

    # --- what can happen ---------------------------------------------------------------------------------

    def moves(self) -> list[Move]:
        """All that can happen next, but for new credentials, presenting again, thefts and time: those always can
        (`asks`, `presentations`)."""
        found: list[Move] = []
        for index, call in enumerate(self.calls):
            found += [("call", index, mode) for mode in call.modes]
        for exchange in self.exchanges:
            number = exchange.number
            match exchange.stage:
                case "checking":
                    found += [("leave", number), ("ask once more", number)]
                case "stranded":
                    found.append(("leave", number))
                    if exchange.replica.process is not None:
                        found.append(("ask once more", number))
                case "answered":
                    found += [("take", number), ("leave", number)]
                    if exchange.replica.process is not None:
                        found.append(("ask once more", number))
                case "forwarded":
                    found += [("end", number, how) for how in ENDINGS]
        for index, (replica, _) in enumerate(self.news):
            if self.replicas[replica].process is not None:
                found += [("news", index, "given"), ("news", index, "given and kept")]
            found.append(("news", index, "lost"))
        for place in self.replicas:
            process = place.process
            if process is None:
                found.append(("boot", place.index))
            else:
                if process.sweeping is None or process.sweeping.done():
                    found.append(("sweep", place.index))
                found.append(("crash", place.index))
                found.append(("mend" if process.cut_off else "cut off", place.index))
            assert place.envoy is not None
            found.append(("kill envoy" if place.envoy.alive else "notice", place.index))
        for transaction in self.pool():
            found += [("include", transaction, "settled"), ("include", transaction, "reverted")]
        return found

    def pool(self) -> list[str]:
        """Transactions that were sent, are in no block yet, and still can be."""
        return [
            tx
            for tx in dict.fromkeys(self.chain.sent)
            if tx not in self.chain.blocks and self.clock.seconds() <= self.valid[tx]
        ]

    def do(self, move: Move) -> None:
        """Make one move, and hold the laws."""
        kind, *arguments = move
        self.steps += 1
        self.counted[kind] += 1
        self.trace.append(f"{(self.clock.ms - 1_800_000_000_000) / 1000:9.3f}  {self.describe(move)}")
        match kind:
            case "call":
                self.release(self.calls[arguments[0]], arguments[1])
            case "ask":
                self._ask(*arguments)
            case "present":
                paper = self.papers[arguments[0]]
                self._side_by_side(paper.client)
                if paper is not [each for each in self.papers if each.client == paper.client][-1]:
                    paper.serial = False  # nobody retries with what he had before the last try
                self._present(paper, self.replicas[arguments[1]])
            case "steal":
                self._steal(self.papers[arguments[0]], self.replicas[arguments[1]], arguments[2])
            case "leave":
                self._leave(self._exchange(arguments[0]))
            case "ask once more":
                self._ask_once_more(self._exchange(arguments[0]))
            case "take":
                self._take(self._exchange(arguments[0]))
            case "end":
                self._end(self._exchange(arguments[0]), arguments[1])
            case "news":
                self._news(*arguments)
            case "boot":
                self._boot(self.replicas[arguments[0]])
            case "sweep":
                self._sweep(self.replicas[arguments[0]])
            case "crash":
                self._crash(self.replicas[arguments[0]])
            case "cut off" | "mend":
                process = self.replicas[arguments[0]].process
                assert process is not None
                process.cut_off = kind == "cut off"
            case "kill envoy":
                self._kill_envoy(self.replicas[arguments[0]])
            case "notice":
                self._notice(self.replicas[arguments[0]])
            case "include":
                self.chain.include(*arguments)
            case "wait":
                self._wait(arguments[0])
            case "pass":
                for _ in range(0, arguments[0], 5):
                    self._wait(5_000)
                    self._beat()
            case "next timer":
                self.loop.to_next_timer()
                self._observe_time()
            case _:
                raise ValueError(f"expected a move, found {move!r}")
        self.loop.drain()
        self._answers()
        for failure in self.loop.failures:
            if not isinstance(failure.get("exception"), LedgerUnavailable):
                raise self.violation("a task failed", repr(failure.get("exception") or failure.get("message")))

    def describe(self, move: Move) -> str:
        kind, *arguments = move
        match kind:
            case "call":
                call = self.calls[arguments[0]]
                return f"{call.process.owner}: {call.label}: {arguments[1]}"
            case "include":
                return f"chain: {self.names[arguments[0]]} is in a block, {arguments[1]}"
            case "present" | "steal":
                rest = " ".join(map(str, arguments[1:]))
                return f"{kind} {self.papers[arguments[0]].name} at replica {rest}"
            case "news":
                return f"news {self.news[arguments[0]]!r}: {arguments[1]}"
            case _:
                return " ".join(map(str, move))

    def words(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
        """A call of the store, for people: whose row, from what to what."""
        said = [f"store: {name}"]
        for argument in (*arguments, *named.values()):
            if isinstance(argument, Payment):
                said.append(f"{self.names.get(argument.id, argument.id)} {argument.state} #{argument.attempt}")
            elif isinstance(argument, str):
                said.append(self.names.get(argument, argument))
        return " ".join(said)

    def violation(self, rule: str, detail: str) -> Violation:
        self.broken = True
        return Violation(rule, detail, self.trace)

    def _exchange(self, number: int) -> Exchange:
        return next(exchange for exchange in self.exchanges if exchange.number == number)

    # --- the store and the chain ---------------------------------------------------------------------------

    def release(self, call: Call, mode: str) -> None:
        self.calls.remove(call)
        try:
            result = call.effect(mode)
        except LedgerUnavailable as error:
            call.process.observe(call.label, mode)
            if not call.future.done():
                call.future.set_exception(error)
        else:
            call.process.observe(call.label, mode, result)
            if not call.future.done():
                call.future.set_result(result)
        self.loop.drain()

    def broadcast(self, transaction: str, mode: str, sender: Process) -> str:
        """A node gets a transaction; what becomes of it, and whether its sender hears so."""
        if mode == "not sent":
            return mode
        paper = next(paper for paper in self.papers if paper.transaction == transaction)
        if transaction not in self.chain.sent:
            self._hold_serial(paper, sender)
        self.chain.sent.append(transaction)
        if mode != "pooled" and self.clock.seconds() <= self.valid[transaction]:
            self.chain.blocks.setdefault(transaction, "settled")
        return mode if transaction in self.chain.blocks else "pooled"

    def paid(self, paper: Paper) -> bool:
        """Whether the money of this very credential reached us."""
        return self.chain.blocks.get(paper.transaction) == "settled" or paper.transaction in self.chain.transfers

    def may_move(self, paper: Paper) -> bool:
        return self.paid(paper) or paper.transaction in self.pool()

    def _hold_serial(self, paper: Paper, sender: Process) -> None:
        """I2: a client that retries pays once for one request, whatever it was told meanwhile."""
        if not paper.serial or self.judging:
            return
        for other in self.papers:
            if other is paper or not other.serial or (other.payer, other.query) != (paper.payer, paper.query):
                continue
            if other.kind not in ("pull", "sponsored") or not self.may_move(other):
                continue
            later = self.papers.index(other) > self.papers.index(paper)
            row = self.store.rows.get(other.id)
            closed = other.id in self.delivered or (row is not None and row.state in (State.OWED, State.LAPSED))
            if not later and row is not None and row.state is State.DELIVERING:
                closed = closed or not self._told(row, sender)
            if later or not closed:
                raise self.violation(
                    "I2", f"{paper.name} is sent although {other.name} of the same client was, undelivered"
                )

    def _told(self, row: Payment, process: Process) -> bool:
        """Whether the outcome file beside the process that now decides says how a delivery ended. Where it does
        not, the answer may be going out still, and a call beside it pays (docs/payments.md)."""
        needle = f'"payment": "{row.id}", "attempt": "{row.attempt}"'
        return any(
            replica.envoy is not None
            and replica.envoy.id == row.data_plane
            and replica.process is process
            and any(needle in line for line in replica.envoy.lines)
            for replica in self.replicas
        )

    # --- authz ---------------------------------------------------------------------------------------------

    def _boot(self, replica: Replica) -> None:
        replica.boots += 1
        process = Process(self, f"authz-{replica.index}/boot-{replica.boots}")
        store: Any = _Store(process, self.store)
        rail = Rail(process, self.chain)
        process.gate = promises.make_gate(
            replica.folder, self.clock, rail, self.terms, store, process.owner, TIMES
        )
        process.sweeper = Sweeper(store, process.gate.settler, process.gate.closer)
        replica.process = process

    def _crash(self, replica: Replica) -> None:
        process, replica.process = replica.process, None
        assert process is not None
        for exchange in self.exchanges:
            if exchange.process is process and exchange.stage in ("checking", "answered"):
                exchange.stage, exchange.task, exchange.verdict = "stranded", None, None
        process.die()

    def _sweep(self, replica: Replica) -> None:
        process = replica.process
        assert process is not None
        process.observe("sweep", self.clock.ms)
        process.sweeping = process.spawn(_patient(process.sweeper.round()))

    def _news(self, index: int, how: str) -> None:
        place, what = self.news[index]
        if how != "given and kept":
            del self.news[index]
        if how == "lost":
            return
        process = self.replicas[place].process
        assert process is not None
        process.observe("news", what if isinstance(what, str) else repr(what))
        closer = process.gate.closer
        process.spawn(_patient(closer.unanswered(what) if isinstance(what, str) else closer.record(what)))

    # --- Envoy ---------------------------------------------------------------------------------------------

    def _boot_envoy(self, replica: Replica) -> None:
        replica.envoys += 1
        replica.envoy = Envoy(f"envoy-{replica.index}-{replica.envoys}", replica.index, tended_at=self.clock.ms)
        (replica.folder / f"{replica.envoy.id}{wire.OUTCOME_LIVE_SUFFIX}").touch()

    def _kill_envoy(self, replica: Replica) -> None:
        envoy = replica.envoy
        assert envoy is not None
        envoy.alive = False
        envoy.buffer.clear()
        for exchange in [each for each in self.exchanges if each.envoy is envoy]:
            if exchange.stage == "checking":
                self._cancel(exchange)
            self._done(exchange, 0)

    def _notice(self, replica: Replica) -> None:
        """Its parent sees that it died: the file is ended, and another Envoy starts."""
        assert replica.envoy is not None
        live = replica.folder / f"{replica.envoy.id}{wire.OUTCOME_LIVE_SUFFIX}"
        live.rename(live.with_name(f"{replica.envoy.id}{wire.OUTCOME_ENDED_SUFFIX}"))
        self._boot_envoy(replica)

    def _check(self, exchange: Exchange) -> None:
        process = exchange.replica.process
        assert process is not None
        process.observe("check", exchange.number, self.clock.ms)
        exchange.process, exchange.stage, exchange.verdict = process, "checking", None
        exchange.task = process.spawn(process.gate.check(exchange.request))

    def _cancel(self, exchange: Exchange) -> None:
        """Envoy gives the Check up."""
        if exchange.task is not None and exchange.process is not None:
            exchange.process.observe("cancel", exchange.number)
            exchange.task.cancel()
        exchange.task = None

    def _ask_once_more(self, exchange: Exchange) -> None:
        """Its Check got no answer: Envoy asks again for the same request."""
        self._cancel(exchange)
        self._check(exchange)

    def _leave(self, exchange: Exchange) -> None:
        """The client hangs up, as far as Envoy knows before its Check was answered."""
        if exchange.stage == "checking":
            self._cancel(exchange)
        self.news.append((exchange.replica.index, exchange.request.id))
        self._done(exchange, 0)

    def _answers(self) -> None:
        for exchange in tuple(self.exchanges):
            if exchange.stage == "checking" and exchange.task is not None and exchange.task.done():
                if exchange.task.cancelled() or exchange.task.exception() is not None:
                    raise self.violation("a check failed", repr(exchange.task))
                exchange.verdict, exchange.task, exchange.stage = exchange.task.result(), None, "answered"
                self._hold_unasked(exchange.paper, exchange.verdict)
        for replica in self.replicas:
            process = replica.process
            if process is not None and process.sweeping is not None and process.sweeping.done():
                process.sweeping = None

    def _take(self, exchange: Exchange) -> None:
        """Envoy has the answer, and does what it says."""
        verdict = exchange.verdict
        if isinstance(verdict, Deny):
            self._done(exchange, verdict.kind.status)
            return
        assert isinstance(verdict, Allow)
        self._hold_allowed(exchange, verdict)
        exchange.paper.allowed = True
        exchange.stage = "forwarded"

    def _hold_unasked(self, paper: Paper, verdict: Verdict) -> None:
        """I4: nobody is asked to pay again."""
        if promises.challenges(verdict) and (self.may_move(paper) or paper.allowed):
            raise self.violation("I4", f"{paper.name} is answered with a challenge: {verdict}")

    def _hold_allowed(self, exchange: Exchange, verdict: Allow) -> None:
        """I1, I3, I6: for whose money, and for which request."""
        presented = exchange.paper
        payers = [p for p in self.papers if p.id == verdict.payment and (p.kind == "proof" or self.paid(p))]
        if not payers:
            raise self.violation("I1", f"{presented.name} is let through, and no money moved: {verdict}")
        asked = (exchange.request.query, exchange.request.http_method)
        if not any(
            asked == (payer.query, "POST") and (payer is presented or _retries(payer, presented))
            for payer in payers
        ):
            raise self.violation("I3", f"{presented.name} asks for {asked} on the money of {payers[0].name}")
        said = dict(verdict.response_headers)[wire.RECEIPT_HEADER]
        reference = json.loads(base64.urlsafe_b64decode(said + "=="))["reference"]
        wanted = {payer.id if payer.kind == "proof" else payer.transaction for payer in payers}
        if reference not in wanted:
            raise self.violation("I6", f"the receipt names {reference}, expected one of {sorted(wanted)}")

    def _end(self, exchange: Exchange, how: str) -> None:
        """The upstream's answer, or what came instead."""
        verdict, envoy = exchange.verdict, exchange.envoy
        assert isinstance(verdict, Allow)
        status, flags, began, finished = ENDINGS[how]
        entry = Entry(
            verdict.payment,
            verdict.attempt,
            status,
            frozenset(flags.split(",")) - {""},
            "",
            upstream_finished=finished,
            upstream_began=began,
        )
        line = {"payment": entry.payment, "attempt": str(entry.attempt), "status": status, "flags": flags or "-"}
        line |= {"began": 1 if began else "-", "finished": 1 if finished else "-"}
        if how in ("whole", "left late"):
            self._hold_once(verdict.payment, exchange)
        self.news.append((exchange.replica.index, entry))
        envoy.buffer.append(json.dumps(line) + "\n")
        self.loop.call_later(FLUSH_MS / 1000, self._flush, envoy)
        self._done(exchange, status, whole=how == "whole")

    def _hold_once(self, payment: str, exchange: Exchange) -> None:
        """I5: one delivery, unless the Envoy of the other one died."""
        before = self.delivered.setdefault(payment, [])
        for envoy in before:
            if envoy.alive and not envoy.silent and not self.price.idempotent:
                raise self.violation("I5", f"{self.names[payment]} is delivered again, and {envoy.id} lives")
        before.append(exchange.envoy)

    def _flush(self, envoy: Envoy) -> None:
        if envoy.alive and envoy.buffer:
            path = self.replicas[envoy.replica].folder / f"{envoy.id}{wire.OUTCOME_LIVE_SUFFIX}"
            with path.open("a", encoding="utf-8") as file:
                file.writelines(envoy.buffer)
            envoy.lines += envoy.buffer
            envoy.buffer.clear()

    def _done(self, exchange: Exchange, status: int, *, whole: bool = False) -> None:
        exchange.stage, exchange.status, exchange.whole = "done", status, whole
        self.answered[status] += 1
        exchange.verdict = exchange.verdict if isinstance(exchange.verdict, Deny) else None
        exchange.task = None
        self.exchanges.remove(exchange)

    # --- clients -------------------------------------------------------------------------------------------

    def _request(self, replica: Replica, **fields: Any) -> Request:
        assert replica.envoy is not None
        self.asked += 1
        given: dict[str, Any] = {
            "route": promises.ROUTE,
            "http_method": "POST",
            "host": "shop.example",
            "scheme": "https",
            "peer": "203.0.113.9",
            "path": "/v1/complete",
            "query": "model=a",
            "data_plane": replica.envoy.id,
            "id": f"request-{self.asked}",
        }
        return Request(**(given | fields))

    def serves(self, replica: Replica) -> bool:
        return replica.process is not None and replica.envoy is not None and replica.envoy.alive

    def idle(self, client: int) -> bool:
        """Whether no request of a client is under way."""
        return all(exchange.paper.client != client for exchange in self.exchanges)

    def _ask(self, client: int, place: int, kind: str) -> None:
        """A client asks, is told to pay, pays and asks again."""
        replica = self.replicas[place]
        self._side_by_side(client)
        self._wait(1)  # whoever was answered takes a moment to ask again
        serial = self.serial and self.idle(client) and kind in ("pull", "sponsored")
        paper = self._sign(client, self._challenge(replica), kind, serial=serial)
        self._present(paper, replica)

    def _side_by_side(self, client: int) -> None:
        """A client that asks while a request of its own is under way is no serial one: each of its calls pays."""
        if not self.idle(client):
            for paper in self.papers:
                if paper.client == client:
                    paper.serial = False

    def _challenge(self, replica: Replica) -> mpp.Challenge:
        process = replica.process
        assert process is not None
        task = process.spawn(process.gate.check(self._request(replica)))
        self.loop.drain()
        verdict = task.result()
        assert isinstance(verdict, Deny), verdict
        return mpp.Challenge.from_www_authenticate(promises.challenges(verdict)[0])

    def _sign(
        self, client: int, asked: mpp.Challenge, kind: str, *, serial: bool = False, name: str | None = None
    ) -> Paper:
        number = len(self.papers)
        transaction = f"0x{number:064x}"
        said: dict[str, Any] = {"tx": transaction, "payer": name or PAYERS[client]}
        valid_before = int(self.clock.seconds()) + VALID
        if kind == "push":
            said["type"] = "hash"
            self.chain.transfers[transaction] = promises.Transfer(
                asked.id, PAYERS[client], int(self.clock.seconds()), asked.request["amount"]
            )
        elif kind == "proof":
            said["type"] = "proof"
        else:
            said |= {
                "type": "transaction",
                "proved": kind != "forge",
                "sponsored": kind == "sponsored",
                "valid_before": valid_before,
            }
        paper = Paper(
            f"c{number}",
            asked.id,
            promises.credential(promises.echo(asked), said),
            client,
            PAYERS[client],
            kind,
            transaction,
            valid_before,
            "model=a",
            serial,
        )
        self.papers.append(paper)
        self.valid[transaction] = valid_before
        self.names.setdefault(asked.id, paper.name)
        self.names[transaction] = f"t{number}"
        return paper

    def _present(self, paper: Paper, replica: Replica, **fields: Any) -> Exchange:
        assert replica.envoy is not None
        request = self._request(replica, authorization=paper.authorization, **fields)
        exchange = Exchange(self.asked, paper, replica, replica.envoy, request)
        self.exchanges.append(exchange)
        paper.last = exchange
        self._check(exchange)
        self.loop.call_later(CHECK_WITHIN, self._give_up, exchange)
        self.loop.call_later(CUT_AFTER, self._cut, exchange)
        return exchange

    def _give_up(self, exchange: Exchange) -> None:
        """No answer of the Check in all its time: Envoy answers itself."""
        if exchange.stage in ("checking", "stranded", "answered"):
            self._leave(exchange)
            exchange.status = 503

    def _cut(self, exchange: Exchange) -> None:
        if exchange.stage == "forwarded":
            self._end(exchange, "cut")

    def _steal(self, paper: Paper, replica: Replica, how: str) -> None:
        """The other client wants what this one paid for."""
        thief = 1 - paper.client
        match how:
            case "for another query":
                self._present(paper, replica, query="model=b")
            case "for another method":
                self._present(paper, replica, http_method="PUT")
            case "with another payment for its challenge":
                echo = challenge.read_credential(paper.authorization.removeprefix("Payment ")).challenge
                self._present(self._sign(thief, _as_client_reads(echo), "swap"), replica)
            case "under its name":
                self._present(self._sign(thief, self._challenge(replica), "forge", name=paper.payer), replica)

    # --- time ----------------------------------------------------------------------------------------------

    def _wait(self, ms: int) -> None:
        self.loop.advance(ms)
        self._observe_time()

    def _beat(self) -> None:
        """Every authz that lives says in time that its Envoy does."""
        for replica in self.replicas:
            process = replica.process
            if process is not None and not process.cut_off:
                before = tuple(self.calls)
                process.spawn(_patient(process.gate.closer.beat()))
                self.loop.drain()
                for call in [each for each in self.calls if each not in before]:
                    self.release(call, "done")

    def _observe_time(self) -> None:
        for replica in self.replicas:
            envoy = replica.envoy
            if envoy is not None:
                plane = self.store.planes.get(envoy.id)
                heard_at = max(envoy.tended_at, plane.seen_at if plane is not None else 0)
                envoy.silent = envoy.silent or self.clock.ms - heard_at >= SILENT_MS
        for replica in self.replicas:
            if replica.process is not None:
                replica.process.observe("time", self.clock.ms)

    # --- the end -------------------------------------------------------------------------------------------

    def _given(self) -> None:
        """All news that is on its way arrives."""
        while self.news and all(self.serves(replica) for replica in self.replicas):
            self.do(("news", 0, "given"))

    def calm(self, limit: int = 5_000) -> None:
        """Let everything that runs come to an end: calls go well, answers are taken, upstreams answer."""
        for _ in range(limit):
            if self.judging:
                self._given()
            if self.calls:
                self.do(("call", 0, self.calls[0].modes[0]))
            elif self.exchanges:
                exchange = self.exchanges[0]
                for each in self.exchanges:
                    if each.stage != "checking":
                        exchange = each
                        break
                match exchange.stage:
                    case "answered":
                        self.do(("take", exchange.number))
                    case "forwarded":
                        self.do(("end", exchange.number, "whole"))
                    case "stranded":
                        self.do(("ask once more", exchange.number))
                    case "checking":
                        self.do(("next timer",))
            elif any(r.process is not None and r.process.gate.settler.busy for r in self.replicas):
                self.do(("next timer",))
            else:
                return
        raise self.violation("liveness", f"it does not come to rest in {limit} moves")

    def finish(self, *, late: bool = False) -> None:
        """Heal everything, let time pass, present what was paid once more, and judge.

        `late`: what is in no block yet is included at the very end of its validity; else never.
        """
        self.trace.append(HEALED)
        for replica in self.replicas:
            if replica.envoy is not None and not replica.envoy.alive:
                self.do(("notice", replica.index))
            if replica.process is None:
                self.do(("boot", replica.index))
            elif replica.process.cut_off:
                self.do(("mend", replica.index))
        self.news.clear()  # lost, all that was on its way: the files have it
        self.calm()
        if late:
            for transaction in self.pool():
                self.do(("include", transaction, "settled"))
        self._pass(100)
        self.judging = True
        place = 0
        for paper in tuple(self.papers):
            latest = paper is [p for p in self.papers if p.client == paper.client][-1]
            if latest or self.may_move(paper):
                place += 1
                self._until_terminal(paper, place)
        self._pass(20)
        self._judge()

    def _pass(self, seconds: int) -> None:
        """Time passes with everybody at work."""
        for _ in range(0, seconds, 20):
            self.do(("wait", 20_000))
            for replica in self.replicas:
                self.do(("sweep", replica.index))
                self.calm()

    def _until_terminal(self, paper: Paper, place: int) -> None:
        statuses = []
        for tries in range(12):
            replica = self.replicas[(place + tries) % len(self.replicas)]
            self.do(("present", self.papers.index(paper), replica.index))
            self.calm()
            assert paper.last is not None
            statuses.append(paper.last.status)
            if statuses[-1] in (200, 402, 403):
                return
            self._pass(20)
        raise self.violation("liveness", f"{paper.name} gets no terminal answer: {statuses}")

    def _judge(self) -> None:
        """I2 at the end: what settled was delivered, or is owed, and never both where Envoy lived."""
        for paper in self.papers:
            if not self.paid(paper):
                continue
            row = self.store.rows.get(paper.id)
            owed = row is not None and row.state in (State.OWED, State.LAPSED)
            if paper.kind == "push" and (row is None or row.reference != paper.transaction):
                if not any(tx == paper.transaction for _, tx in self.store.key()[2]):
                    raise self.violation("I2", f"the transfer of {paper.name} has no row and is not listed")
                continue
            if row is None or row.reference != paper.transaction:
                raise self.violation("I2", f"{paper.name} settled, and its row is {row}")
            envoys = self.delivered.get(paper.id, [])
            if not envoys and not owed:
                raise self.violation("I2", f"{paper.name} settled and vanished: {row.state}")
            if envoys and owed and all(envoy.alive for envoy in envoys):
                raise self.violation("I2", f"{paper.name} was delivered and is {row.state}")

    # --- states, to be compared ----------------------------------------------------------------------------

    def key(self) -> int:
        """A hash of all that can matter for what happens next."""
        return hash(
            (
                self.store.key(),
                self.clock.ms,
                tuple(self.chain.blocks.items()),
                frozenset(self.chain.sent),
                tuple(
                    (
                        replica.boots,
                        None if replica.process is None else (replica.process.seen, replica.process.cut_off),
                        _envoy_key(replica.envoy),
                    )
                    for replica in self.replicas
                ),
                frozenset((call.process.owner, call.label) for call in self.calls),
                tuple(self.loop.timers()),
                tuple((x.number, x.stage, repr(x.verdict)) for x in self.exchanges),
                tuple((p.allowed, p.last.status if p.last else None) for p in self.papers),
                tuple((place, what if isinstance(what, str) else repr(what)) for place, what in self.news),
                tuple((p, tuple((e.id, e.alive) for e in es)) for p, es in sorted(self.delivered.items())),
            )
        )


def _envoy_key(envoy: Envoy | None) -> tuple[Any, ...]:
    return () if envoy is None else (envoy.id, envoy.alive, tuple(envoy.lines), tuple(envoy.buffer))


def _adopt(task: asyncio.Task[Any], context: contextvars.Context | None) -> None:
    process = _RUNNING.get() if context is None else context[_RUNNING]
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)


async def _patient(work: Any) -> None:
    """As `Sweeper.run` and `outcomes.AccessLog` do it: what the store did not take is tried later."""
    with suppress(LedgerUnavailable):
        await work


def _retries(payer: Paper, presented: Paper) -> bool:
    """Whether a credential is a retry of its own payer, who proved to be."""
    return presented.payer == payer.payer and presented.kind in ("pull", "sponsored", "swap")


def _as_client_reads(echo: challenge.Challenge) -> mpp.Challenge:
    return mpp.Challenge.from_www_authenticate(challenge.www_authenticate(echo, ""))
