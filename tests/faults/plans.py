"""A seed gives a plan: who wants what, how the upstream behaves, what breaks where. Pure, and the same for ever.

`plan(seed)` is one run; `shape(seed)` is what it runs on. Ten seeds in a row share a shape, so that a batch of
them can share real processes. A plan's line says all of it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import points
from outside import Mood
from system import Shape
from witnesses import Mode

#: Seeds in a row that share a shape.
TOGETHER: Final = 10
#: Runs on one system: starting one takes as long as some of them.
LONGEST: Final = 30
#: One seed in so many plays with block time, and has a chain of its own.
EXPIRY_EVERY: Final = 25

_SHAPES: Final = (
    Shape("gateway", "sqlite", 1),
    Shape("gateway", "postgres", 2),
    Shape("gateway", "postgres", 3),
    Shape("gateway", "standby", 2),
    Shape("gateway", "postgres", 1),
)
_FAILS: Final = (Mood.S500, Mood.S503, Mood.S404, Mood.S402, Mood.RESET, Mood.BREAK, Mood.HANG)


@dataclass(frozen=True, slots=True)
class Player:
    """One payer who wants one thing."""

    name: str
    kind: str  # "mppx", "pympp", "keeper": see payers.py
    mode: Mode
    service: str  # "shop", or "gift", which pays the payer's fee
    route: str  # "thing", "sealed", "live", "once"
    moods: tuple[Mood, ...] = ()  # the upstream's next answers
    copies: int = 1
    first: int = 0  # the replica of its first try
    probe: str = ""  # while a credit is open: "stranger" or "request" tries to have it

    def __str__(self) -> str:
        words = [f"{self.name}: {self.kind} {self.mode} /{self.service}/{self.route}"]
        words += [f"x {self.copies}"] if self.copies > 1 else []
        words += [f"at {self.first}"] if self.first else []
        words += [f"({' '.join(self.moods)})"] if self.moods else []
        words += [f"probed by {self.probe}"] if self.probe else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens when somebody comes to a point for the `nth` time."""

    point: str
    action: (
        str  # "kill", "pause"; of a node "drop", "refuse", "delay", "duplicate", "reorder", "swallow" (this and
    )
    # all that follow never reach the chain); of a store "cut", "failover"; "reset" (upstream), "leave" (client)
    target: str  # "authz", "envoy", "run", "upstream", "node", "store", "client"
    nth: int = 1
    other: bool = False  # at another replica than the one that came to the point
    until: str = ""  # it is healed when somebody comes to this point ...
    seconds: float = 0.5  # ... and at the latest after so long

    def __str__(self) -> str:
        nth = "" if self.nth == 1 else f" #{self.nth}"
        elsewhere = "another " if self.other else ""
        until = f" until {self.until}," if self.until else ""
        return f"{self.action} {elsewhere}{self.target} at {self.point}{nth}{until} {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    shape: Shape
    players: tuple[Player, ...]
    faults: tuple[Fault, ...]
    expires: bool = False  # block time goes past the last valid moment of what was signed

    def __str__(self) -> str:
        what = "; ".join([*map(str, self.players), *map(str, self.faults)])
        return f"seed {self.seed} on {self.shape}{' (expires)' if self.expires else ''}: {what}"


def shape(seed: int) -> Shape:
    """What a seed runs on. One that has a system of its own has the smallest."""
    if expires(seed):
        return _SHAPES[0]
    return _SHAPES[seed // TOGETHER % len(_SHAPES)]


def expires(seed: int) -> bool:
    """Whether it needs a chain of its own."""
    return seed % EXPIRY_EVERY == EXPIRY_EVERY - 1


def plan(seed: int, on: Shape | None = None) -> Plan:
    """The plan of a seed; `on`: the same on another system, as far as its points exist there."""
    made = _plan(seed)
    return made if on is None or on == made.shape else _elsewhere(made, on)


def _plan(seed: int) -> Plan:
    choose = random.Random(seed)
    here = shape(seed)
    if expires(seed):
        player = Player("a", "keeper", Mode.PULL, choose.choice(("shop", "gift")), "thing")
        faults = [Fault("rpc.send.before", "swallow", "node")]
        if choose.random() < 0.5:
            faults.append(Fault("lookup.before", "kill", "authz"))
        return Plan(seed, here, (player,), tuple(faults), expires=True)
    faults = [_fault(choose, here)]
    if choose.random() < 0.35:
        faults.append(_fault(choose, here))
    if any((fault.action, fault.target) == ("kill", "authz") for fault in faults) and choose.random() < 0.25:
        # Beyond the time that Envoy waits for it, or within.
        faults.append(Fault("authz.starting", "delay", "authz", seconds=choose.choice((1.0, 6.0))))
    players = [_player(choose, name, here) for name in "abc"[: choose.choice((1, 1, 2, 3))]]
    for fault in tuple(faults):
        players[0], needed = _reachable(choose, players[0], fault)
        if needed is not None and len(faults) < 3:
            faults.insert(0, needed)
    return Plan(seed, here, tuple(players), tuple(dict.fromkeys(faults)))


# --- players -------------------------------------------------------------------------------------------


def _player(choose: random.Random, name: str, here: Shape) -> Player:
    kind, mode = choose.choice(
        (
            ("mppx", Mode.PULL),
            ("mppx", Mode.PULL),
            ("mppx", Mode.PUSH),
            ("pympp", Mode.PULL),
            ("pympp", Mode.PULL),
            ("keeper", Mode.PULL),
            ("keeper", Mode.PULL),
            ("keeper", Mode.PUSH),
        )
    )
    service = "gift" if mode is Mode.PULL and choose.random() < 0.25 else "shop"
    route = choose.choice(("thing", "thing", "thing", "sealed", "live", "once"))
    moods: tuple[Mood, ...] = ()
    if choose.random() < 0.45:
        moods = tuple(choose.choice((*_FAILS, Mood.SLOW)) for _ in range(choose.choice((1, 1, 1, 2, 3))))
    copies = choose.choice((2, 4, 8)) if kind == "keeper" and mode is Mode.PULL and choose.random() < 0.3 else 1
    probe = ""
    if moods and moods[0] in (Mood.S500, Mood.S503, Mood.RESET) and copies == 1 and choose.random() < 0.4:
        probe = choose.choice(("stranger", "request"))
    return Player(name, kind, mode, service, route, moods, copies, choose.randrange(here.replicas), probe)


def _reachable(choose: random.Random, player: Player, fault: Fault) -> tuple[Player, Fault | None]:
    """The player who comes to that point, and a fault that leads there where nothing else does."""
    name = fault.point.rpartition(".")[0]
    if name == "ledger.envelope":
        mode = replace(player, service="gift", mode=Mode.PULL)
        return replace(mode, kind="pympp" if player.mode is Mode.PUSH else player.kind), None
    if name in ("ledger.spent", "ledger.credit"):
        fails = (choose.choice((Mood.S500, Mood.S503, Mood.RESET)), *player.moods[1:])
        kind = choose.choice(("mppx", "pympp")) if name == "ledger.spent" else player.kind
        return replace(player, kind=kind, mode=Mode.PULL, moods=fails, copies=1, probe=""), None
    if name == "outcomes.read":
        slow = replace(player, kind="keeper", mode=Mode.PULL, copies=4, moods=(Mood.SLOW,), probe="")
        return replace(slow, route="thing"), None
    if name in ("lookup", "resend", "ledger.unknown", "rpc.receipt", "rpc.block"):
        pull = replace(player, kind="keeper", mode=Mode.PULL, copies=1)
        return pull, Fault("rpc.send.before", "drop", "node", seconds=0.0)
    if fault.point == "sweep.round":
        return replace(player, kind="keeper", mode=Mode.PULL, moods=(Mood.HANG,), copies=1, probe=""), None
    if name in ("rpc.send", "verify", "settle", "ledger.settling", "ledger.settled") and player.mode is Mode.PUSH:
        return replace(player, mode=Mode.PULL), None
    return player, None


# --- faults --------------------------------------------------------------------------------------------

#: A whole gateway takes some seconds to start, so it dies more rarely.
_KILLS: Final = (*(("kill", "authz"),) * 4, *(("kill", "envoy"),) * 3, ("kill", "run"))
_PAUSES: Final = (*(("pause", "authz"),) * 3, *(("pause", "envoy"),) * 3)
_STORE: Final = {
    "sqlite": (("pause", "store"),),
    "postgres": (("kill", "store"), ("pause", "store"), ("cut", "store")),
    "standby": (("failover", "store"), ("failover", "store"), ("cut", "store")),
}
_NODE: Final = (("kill", "node"), ("pause", "node"))
_UPSTREAM: Final = (("kill", "upstream"), ("pause", "upstream"))
_LEAVES: Final = (("leave", "client"),)


def _fault(choose: random.Random, here: Shape) -> Fault:
    point = choose.choice(sorted(points.ALL.keys() - {"authz.starting"}))
    action, target = choose.choice(_actions(point, here))
    nth = 2 if choose.random() < 0.1 and not point.startswith("client.") else 1
    other = here.replicas > 1 and target in ("authz", "envoy", "run") and choose.random() < 0.2
    seconds = choose.choice((0.2, 0.5, 1.0, 2.5))
    until = ""
    if action == "pause" and choose.random() < 0.4:
        until = choose.choice(("check.received", "rpc.send.after", "upstream.hit", "sweep.round"))
    return Fault(point, action, target, nth, other, until, seconds)


def _actions(point: str, here: Shape) -> tuple[tuple[str, str], ...]:
    """What may happen there, with what."""
    part = point.partition(".")[0]
    store = _STORE.get(here.store, ())
    if part == "client":
        return _LEAVES
    if part == "upstream":
        return (*_KILLS, *_PAUSES, *_UPSTREAM, ("reset", "upstream"), ("reset", "upstream"), *_LEAVES, *store)
    if part == "rpc":
        words = [("drop", "node"), ("refuse", "node"), ("delay", "node")]
        words += [("duplicate", "node"), ("reorder", "node")] if point == "rpc.send.before" else []
        return (*_KILLS, *_PAUSES, *_NODE, *words, *_LEAVES)
    return (*_KILLS, *_PAUSES, *store * 2, *_LEAVES, ("kill", "node"), ("kill", "upstream"))


def _elsewhere(made: Plan, on: Shape) -> Plan:
    """For a system that has one replica, no store of ours, and can be watched from outside only."""
    faults = tuple(
        fault
        for fault in made.faults
        if fault.target != "store" and (on.system == "gateway" or fault.point in points.OUTSIDE)
    )
    players = made.players
    if on.system != "gateway":
        players = tuple(replace(player, service="shop") for player in players)
    return replace(made, shape=on, faults=faults, players=players)


def batches(seeds: Sequence[int], on: Shape | None = None) -> Iterator[tuple[int, ...]]:
    """Seeds that can share a system; one that plays with block time is alone. A standby fails over once a batch,
    so its batches are short."""
    begun: dict[Shape, list[int]] = {}
    for seed in seeds:
        if expires(seed):
            yield (seed,)
            continue
        here = on or shape(seed)
        batch = begun.setdefault(here, [])
        batch.append(seed)
        if len(batch) == (TOGETHER if here.store == "standby" else LONGEST):
            yield tuple(begun.pop(here))
    yield from map(tuple, begun.values())
