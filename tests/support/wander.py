"""Random ways through `interleave`, each repeatable from its seed: far longer than a search can go, and cheaper
than hypothesis can make them. They do not shrink; a trace is readable all the same.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import explore
import promises
from interleave import Move, World

#: How often each kind of move is chosen, against the others.
WEIGHTS: Final = {
    "take": 20.0,
    "end": 2.0,
    "news": 4.0,
    "sweep": 2.0,
    "boot": 5.0,
    "notice": 5.0,
    "mend": 5.0,
    "include": 2.0,
    "leave": 1.0,
    "ask once more": 1.0,
    "crash": 0.4,
    "kill envoy": 0.3,
    "cut off": 0.3,
}
_USUAL: Final = 30.0  # of a call that goes well
_UNUSUAL: Final = 2.0
THEFTS: Final = (
    "for another query",
    "for another method",
    "with another payment for its challenge",
    "under its name",
)
KINDS: Final = ("pull", "pull", "pull", "sponsored", "push", "proof")
#: Milliseconds in which everybody stands still, and seconds in which all go on but for what is called.
WAITS: Final = (50, 1_000, 3_000, 11_000, 61_000)
PASSES: Final = (5, 15, 70, 120)


@dataclass(slots=True)
class Wandered:
    """What some walks did."""

    walks: int = 0
    moves: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)  # of rows at the end


def walk(seed: int, steps: int = 80, into: Wandered | None = None) -> None:
    """One run of `steps` moves that `seed` chooses, then everything is healed and judged.

    Raises:
        interleave.Violation: with the moves that led there.
    """
    chance = random.Random(seed)
    # A third of the walks has parallel calls, for whom I2 of serial clients says nothing.
    with explore.fresh(
        serial=chance.random() < 0.67,
        simulates=chance.random() < 0.3,
        price=promises.priced(credit_attempts=chance.choice((1, 2, 3, 3))),
    ) as world:
        for _ in range(steps):
            world.do(_choose(world, chance))
        world.finish(late=chance.random() < 0.5)
        if into is not None:
            into.walks += 1
            into.moves += world.steps
            into.kinds.update(world.counted)
            into.answers.update(world.answered)
            into.states.update(row.state.value for row in world.store.rows.values())


def _choose(world: World, chance: random.Random) -> Move:
    moves = world.moves()
    weights = [_weight(world, move) for move in moves]
    serving = [replica.index for replica in world.replicas if world.serves(replica)]
    if serving:
        place = chance.choice(serving)
        for client in (0, 1):
            if world.idle(client) or not world.serial:
                moves.append(("ask", client, place, chance.choice(KINDS)))
                weights.append(3.0 if world.idle(client) else 0.5)
        for index, paper in enumerate(world.papers):
            moves.append(("present", index, place))
            weights.append(2.0 if world.idle(paper.client) else 0.2)
            moves.append(("steal", index, place, chance.choice(THEFTS)))
            weights.append(0.2)
    moves += [("next timer",), ("wait", chance.choice(WAITS)), ("pass", chance.choice(PASSES))]
    weights += [4.0, 0.7, 0.5]
    return chance.choices(moves, weights)[0]


def _weight(world: World, move: Move) -> float:
    match move:
        case ("call", index, mode):
            return _USUAL if mode == world.calls[index].modes[0] else _UNUSUAL
        case ("end", _, "whole"):
            return 6.0
        case (kind, *_):
            return WEIGHTS[str(kind)]
    raise ValueError(f"expected a move, found {move!r}")
