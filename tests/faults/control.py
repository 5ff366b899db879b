"""Where all moments meet: who comes to a named point says so here, and goes on when a fault that waits has struck.

    async with control.listening(path) as points:
        points.arm("ledger.settling.after", 1, strike)
        await points.at("upstream.hit", case="17-a")      # the harness's own parts
        await points.passed("rpc.send.before", limit=2)

A fault waits for a moment, never for a time. One whose moment never came has not struck, and says so.
"""

import asyncio
import collections
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Moment:
    """Somebody came to a point. `replica` and `pid` are of the authz that did; `case` and `payment` say about
    what, where that is known there."""

    point: str
    at: float  # seconds of the monotonic clock
    replica: int | None = None
    pid: int | None = None
    case: str | None = None
    payment: str | None = None


#: What strikes at a moment. What it returns is told to whoever came there (see system.py).
Strike = Callable[[Moment], Awaitable[str | None]]


@dataclass(slots=True)
class Armed:
    """A fault that waits at a point for the n-th who comes."""

    point: str
    nth: int
    strike: Strike
    seen: int = 0
    moment: Moment | None = None  # when it struck


@dataclass(slots=True)
class Control:
    """One run's points. `old` are payments of earlier runs on the same system: what still happens to them is not
    this run's moment."""

    reached: collections.Counter[str] = field(default_factory=collections.Counter)
    old: set[str] = field(default_factory=set)
    run: str = ""  # the beginning of this run's case ids
    path: Path = Path()  # of the socket
    struck: list[Armed] = field(default_factory=list)
    _armed: list[Armed] = field(default_factory=list)
    _waiting: list[tuple[str, "asyncio.Future[Moment]"]] = field(default_factory=list)
    _connections: set["asyncio.Task[None]"] = field(default_factory=set)

    def begin(self, run: str) -> None:
        """A new run: nothing is armed, nothing was reached."""
        self.run = run
        self.reached = collections.Counter()
        self.struck = []
        self.disarm()

    def arm(self, point: str, nth: int, strike: Strike) -> Armed:
        armed = Armed(point, nth, strike)
        self._armed.append(armed)
        return armed

    def disarm(self) -> None:
        """What has not struck will not."""
        self._armed = []
        for _, future in self._waiting:
            future.cancel()
        self._waiting = []

    async def passed(self, point: str, limit: float) -> bool:
        """Whether somebody comes to the point within so many seconds from now."""
        future: asyncio.Future[Moment] = asyncio.get_running_loop().create_future()
        self._waiting.append((point, future))
        done, _ = await asyncio.wait({future}, timeout=limit)
        return bool(done) and not future.cancelled()

    async def at(self, point: str, **facts: Any) -> str | None:
        """Somebody is here. Returns when whoever came may go on, with what a fault has to say to it."""
        case, payment = facts.get("case"), facts.get("payment")
        if payment in self.old or (case is not None and not case.startswith(self.run)):
            return None
        moment = Moment(point, time.monotonic(), facts.get("replica"), facts.get("pid"), case, payment)
        self.reached[point] += 1
        for waiting in [one for one in self._waiting if one[0] == point]:
            self._waiting.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(moment)
        for armed in [one for one in self._armed if one.point == point]:
            armed.seen += 1
            if armed.seen == armed.nth:
                self._armed.remove(armed)
                armed.moment = moment
                self.struck.append(armed)
                return await armed.strike(moment)
        return None

    async def _told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One announcement of an authz process."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            line = await reader.readline()
            if line:
                document = json.loads(line)
                target = document.pop("target", None)
                if target is not None:
                    document["case"] = case_of(target)
                await self.at(**document)
                writer.write(b"go\n")
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass  # it was killed, or the harness ends
        finally:
            self._connections.discard(task)
            writer.close()


def case_of(target: str) -> str | None:
    """Whose request a target is: its query's `case`."""
    for part in target.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name == "case":
            return value
    return None


@contextlib.asynccontextmanager
async def listening(path: Path) -> AsyncIterator[Control]:
    """Announcements are taken on a unix socket for the length of the block."""
    control = Control(path=path)
    server = await asyncio.start_unix_server(control._told, str(path))
    try:
        yield control
    finally:
        control.disarm()
        server.close()
        for task in tuple(control._connections):
            task.cancel()
        await asyncio.gather(*control._connections, return_exceptions=True)
        await server.wait_closed()
