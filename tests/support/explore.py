"""Every order in which a small scene of `interleave` can go, with a number of faults anywhere in it.

Depth first. A world cannot be copied, so each branch is run again from its beginning; a state that was seen is not
entered twice (two ways to one state have the same futures). So few runs stand for all interleavings, and those are
counted, too: the number of different ways through the states.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interleave import Move, World


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a search begins and what may happen in it.

    `faults`: how many of the moves that `is_fault` names one run may have. `clients`: what clients do next, given
    the world, beside what they have under way.
    """

    name: str
    start: tuple[Move, ...]
    faults: int
    is_fault: Callable[[Move], bool]
    clients: Callable[[World], list[Move]] = lambda world: []
    at_least: int = 50  # states there are; fewer: nothing was searched
    sweeps: bool = False  # whether sweepers go their rounds while something else is under way


@dataclass(slots=True)
class Found:
    """What a search went through."""

    states: int = 0
    moves: int = 0  # from one state to the next, each once
    runs: int = 0
    interleavings: int = 0
    deepest: int = 0
    seconds: float = 0.0
    whole: bool = True  # False: it ended before everything was seen

    def __str__(self) -> str:
        return (
            f"{self.interleavings:,} interleavings ({'all' if self.whole else 'cut short'}), "
            f"{self.states:,} states, {self.moves:,} moves, {self.runs:,} runs, {self.deepest} moves deep, "
            f"{self.seconds:.1f} s, {self.states / max(self.seconds, 1e-9):,.0f} states a second"
        )


@dataclass(slots=True)
class _Frame:
    key: int
    moves: list[Move]
    faults: int
    at: int = 0
    ways: int = 0


def memory() -> Path | None:
    """A folder without a disk, where the system has one."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else None


@contextmanager
def fresh(**options: object) -> Iterator[World]:
    """A world in a folder of its own, in memory where the system has such a place."""
    folder = Path(tempfile.mkdtemp(prefix="mpp-model-", dir=memory()))
    try:
        world = World(folder, **options)  # type: ignore[arg-type]
        with world.running():
            yield world
    finally:
        shutil.rmtree(folder)


def options(world: World, scene: Scene, faults: int) -> list[Move]:
    """What can happen next. Time moves only when nothing else can."""
    found: list[Move] = []
    for move in world.moves():
        match move[0]:
            case "crash" | "kill envoy" | "cut off" | "leave" | "ask once more":
                usual = world_is_stranded(world, move)
            case "call":
                usual = move[2] == world.calls[move[1]].modes[0]
            case "end":
                usual = move[2] == "whole"
            case "news":
                usual = move[2] == "given"
            case "sweep":
                usual = scene.sweeps and bool(world.calls)
                if not usual:
                    continue
            case _:
                usual = True
        if usual or (faults > 0 and scene.is_fault(move)):
            found.append(move)
    found += scene.clients(world)
    under_way = world.exchanges or any(
        replica.process is not None and replica.process.gate.settler.busy for replica in world.replicas
    )
    if under_way and not any(_now(world, move) for move in found):
        found.append(("next timer",))
    return found


def world_is_stranded(world: World, move: Move) -> bool:
    """Whether Envoy asks again, or the client leaves, because its authz died: no fault of its own."""
    return move[0] in ("ask once more", "leave") and any(
        exchange.number == move[1] and exchange.stage == "stranded" for exchange in world.exchanges
    )


def _now(world: World, move: Move) -> bool:
    """Whether a move happens in no time, were there no faults."""
    match move:
        case ("call", index, mode):
            return bool(mode == world.calls[index].modes[0])
        case ("take" | "end" | "news" | "boot" | "notice" | "ask" | "present", *_):
            return True
        case ("ask once more" | "leave", *_):
            return world_is_stranded(world, move)
    return False


def search(scene: Scene, *, runs: int = 1 << 62, late: bool = False, **world_options: object) -> Found:
    """Go every way through a scene, or the first `runs`, then heal, and judge.

    Raises:
        interleave.Violation: with the moves that lead there.
    """
    found = Found()
    ways: dict[int, int] = {}  # to the end, from each state whose futures all were seen
    frames: list[_Frame] = []
    begun = time.monotonic()
    while True:
        found.runs += 1
        with fresh(**world_options) as world:
            for move in scene.start:
                world.do(move)
            faults = scene.faults
            for frame in frames:
                faults = frame.faults
                move = frame.moves[frame.at]
                faults -= _is_fault(world, scene, move)
                world.do(move)
            if frames:
                found.moves += 1
            while True:
                key = hash((world.key(), faults))
                if key in ways:
                    more = ways[key]
                    break
                moves = options(world, scene, faults)
                if not moves:
                    found.states += 1
                    world.finish(late=late)
                    more = ways[key] = 1
                    break
                found.states += 1
                frames.append(_Frame(key, moves, faults))
                found.deepest = max(found.deepest, len(frames))
                faults -= _is_fault(world, scene, moves[0])
                world.do(moves[0])
                found.moves += 1
        while frames:
            frame = frames[-1]
            frame.ways += more
            frame.at += 1
            if frame.at < len(frame.moves):
                break
            more = ways[frame.key] = frame.ways
            frames.pop()
        found.seconds = time.monotonic() - begun
        if not frames:
            found.interleavings = more
            return found
        if found.runs >= runs:
            found.whole = False
            found.interleavings = sum(frame.ways for frame in frames)
            return found


def _is_fault(world: World, scene: Scene, move: Move) -> bool:
    return scene.is_fault(move) and not _now(world, move)


# --- scenes ---------------------------------------------------------------------------------------------


def _crash(move: Move) -> bool:
    return str(move[0]) == "crash"


def _store_fails(move: Move) -> bool:
    return move[0] == "call" and "fails" in str(move[2])


def _chain_fails(move: Move) -> bool:
    return move[0] == "call" and move[2] in ("included silently", "pooled", "not sent", "no answer")


def _client_leaves(move: Move) -> bool:
    return str(move[0]) == "leave"


def _client_leaves_late(move: Move) -> bool:
    return move[0] == "end" and str(move[2]).startswith("left")


def _delivery_fails(move: Move) -> bool:
    return (
        move[0] in ("kill envoy",)
        or (move[0] == "end" and move[2] in ("error", "broken"))
        or (move[0] == "news" and move[2] == "lost")
    )


def any_fault(move: Move) -> bool:
    kinds = (_crash, _store_fails, _chain_fails, _client_leaves, _client_leaves_late, _delivery_fails)
    return any(kind(move) for kind in kinds)


def retrying(world: World) -> list[Move]:
    """A client that has no answer asks the other replica, and pays as it is told there: once."""
    first = world.papers[0]
    if len(world.papers) > 1 or not world.idle(0) or first.last is None or first.last.whole:
        return []
    other = world.replicas[1 - first.last.replica.index]
    return [("ask", 0, other.index, "pull")] if world.serves(other) else []


def presenting_again(world: World) -> list[Move]:
    """A client that has no answer presents the same credential at the other replica: once."""
    first = world.papers[0]
    if world.asked > 3 or not world.idle(0) or first.last is None or first.last.whole:
        return []
    other = world.replicas[1 - first.last.replica.index]
    return [("present", 0, other.index)] if world.serves(other) else []


_TWICE: tuple[Move, ...] = (("ask", 0, 0, "pull"), ("present", 0, 1))
_ONCE: tuple[Move, ...] = (("ask", 0, 0, "pull"),)

#: All small enough to be gone through whole.
SCENES = (
    Scene("a new credential elsewhere after the client left", _ONCE, 1, _client_leaves, retrying),
    Scene("one credential at both replicas", _TWICE, 0, lambda move: False, at_least=500),
    Scene("a new credential elsewhere after a crash", _ONCE, 1, _crash, retrying),
    Scene("a new credential elsewhere after the store failed", _ONCE, 1, _store_fails, retrying),
    Scene("a new credential elsewhere after the chain failed", _ONCE, 1, _chain_fails, retrying),
    Scene("a new credential elsewhere after the client left late", _ONCE, 1, _client_leaves_late, retrying),
    Scene("a new credential elsewhere after a delivery failed", _ONCE, 1, _delivery_fails, retrying),
    Scene("the same credential elsewhere after a crash", _ONCE, 1, _crash, presenting_again),
    Scene("the same credential elsewhere after a delivery failed", _ONCE, 1, _delivery_fails, presenting_again),
)

#: Larger ones: cut short where there is little time.
LARGE_SCENES = (
    Scene("one credential at both replicas, one crash", _TWICE, 1, _crash),
    Scene("one credential at both replicas, the store fails once", _TWICE, 1, _store_fails),
    Scene("one credential at both replicas, the chain fails once", _TWICE, 1, _chain_fails),
    Scene("a new credential elsewhere, two faults", _ONCE, 2, any_fault, retrying),
    Scene("the same credential elsewhere, two faults", _ONCE, 2, any_fault, presenting_again),
)
