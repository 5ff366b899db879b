"""Child processes that are kept running: started again when they die, gone when we are.

A child that says it wants to leave gets its successor first. Knows no Envoy and no authz.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

#: Seconds before the n-th start in a row; a child that lived this long counts as healthy again.
BACK_OFF: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
HEALTHY_AFTER: Final = 30.0

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `inherit` are descriptors it keeps (the state folder's lock, say)."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: Path
    inherit: tuple[int, ...] = ()


class Ended(Exception):
    """A child ended before it was ready. `code` as subprocess has it; `last` are its last lines."""

    def __init__(self, name: str, code: int, last: str) -> None:
        super().__init__(f"{name} ended at start ({describe(code)})" + (f": {last}" if last else ""))
        self.code = code
        self.last = last


class NotReady(Exception):
    """Raised by `ready` when waiting longer is of no use; the message says why."""


def describe(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def back_off(failures: int) -> float:
    """Seconds to wait before starting again, after `failures` ends in a row (from 1). The first is at once."""
    return BACK_OFF[min(failures, len(BACK_OFF)) - 1]


async def spawn(command: Command) -> asyncio.subprocess.Process:
    """Start it: no stdin, stdout and stderr one pipe, a session of its own (a terminal's ^C is for us alone: we
    drain). On Linux it gets SIGTERM when we die, however we die. SIGHUP means nothing to it until it says so: sent
    too early it must not end it."""
    parent = os.getpid()

    def tie() -> None:  # pragma: no cover - runs in the child, between fork and exec
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # we died in between
                os._exit(1)

    return await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(command.environ),
        cwd=command.cwd,
        pass_fds=command.inherit,
        start_new_session=True,
        preexec_fn=tie,
        limit=1 << 20,
    )


@dataclass(slots=True)
class Child:
    """One kept process.

    `command` makes each start's command (a fresh instance id, say); `ready` returns when that start serves;
    `ended` is told once for each start, when it has exited, and before the next. `line` hears what it writes.
    Where `leaving` holds for a line, the child serves until its successor does: that is started beside it. Where
    `busy` does, it is still making itself ready, and is given its time again.
    """

    name: str
    command: Callable[[], Command]
    ready: Callable[[], Awaitable[None]]
    say: Say
    line: Say
    ended: Callable[[], None] = lambda: None
    leaving: Callable[[str], bool] = lambda line: False
    busy: Callable[[str], bool] = lambda line: False
    stop_signal: signal.Signals = signal.SIGTERM
    process: asyncio.subprocess.Process | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _stop_limit: float = 2.0
    _keeping: asyncio.Task[None] | None = None
    _reading: asyncio.Task[None] | None = None
    _wants_to_leave: asyncio.Event = field(default_factory=asyncio.Event)
    _retiring: set[asyncio.Task[None]] = field(default_factory=set)
    _last: list[str] = field(default_factory=list)
    _alive_at: float = 0.0  # when it began, or said last that it is busy

    @property
    def pid(self) -> int:
        """Of the latest start; 0 before the first."""
        return self.process.pid if self.process is not None else 0

    async def start(self, limit: float) -> None:
        """Start it and wait until it serves; from then on it is kept.

        Raises:
            Ended: it ended first.
            NotReady: it said that it will not serve (and was stopped).
            TimeoutError: it does not serve `limit` seconds after it began, or said last that it is busy (and was
                stopped).
        """
        await self._begin(limit)
        self._keeping = asyncio.create_task(self._keep(limit), name=f"keep {self.name}")

    async def stop(self, limit: float) -> None:
        """Ask it to end (`stop_signal`), and after `limit` seconds make it (SIGKILL). Harmless when it never
        started."""
        self._stop_limit = limit
        self._stopping.set()
        if self.process is not None:
            await _end(self.process, limit, self.stop_signal)
        if self._keeping is not None:
            await self._keeping
        await asyncio.gather(*self._retiring)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, if it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    async def _begin(self, limit: float) -> None:
        command = self.command()
        self._last.clear()
        self._wants_to_leave.clear()
        self.process = await spawn(command)
        self._alive_at = time.monotonic()
        self._reading = asyncio.create_task(self._read(self.process))
        ready = asyncio.ensure_future(self.ready())
        gone = asyncio.create_task(self.process.wait())
        stopping = asyncio.create_task(self._stopping.wait())  # `stop` may have spoken to the one before this
        try:
            done: set[asyncio.Future[Any]] = set()
            while not done and (left := self._alive_at + limit - time.monotonic()) > 0:
                done, _ = await asyncio.wait(
                    {ready, gone, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
            if ready.done() and not gone.done():
                ready.result()
                return
            if not gone.done():
                raise TimeoutError(f"{self.name} was not ready after {limit:g} s")
            await self._exited(self._reading)
            raise Ended(self.name, self.process.returncode or 0, " | ".join(self._last))
        except BaseException:
            if not gone.done():
                await _end(self.process, self._stop_limit, self.stop_signal)
                await self._exited(self._reading)
            raise
        finally:
            for task in (ready, gone, stopping):
                task.cancel()
            await asyncio.gather(ready, gone, stopping, return_exceptions=True)

    async def _exited(self, reading: asyncio.Task[None]) -> None:
        """Hear its last lines (a grandchild may hold the pipe: not for ever), then tell."""
        await asyncio.wait({reading}, timeout=1)
        reading.cancel()
        self.ended()

    async def _keep(self, limit: float) -> None:
        failures = 0
        began = time.monotonic()
        while True:
            assert self.process is not None  # noqa: S101 - `start` came first
            assert self._reading is not None  # noqa: S101
            if await self._leaves(self.process) and await self._succeeded(self.process, self._reading, limit):
                began = time.monotonic()
                continue
            code = await self.process.wait()
            await self._exited(self._reading)
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - began >= HEALTHY_AFTER else failures + 1
            self.say(f"{self.name} died ({describe(code)}); starting it again {_when(back_off(failures))}")
            while not await self._stopped_within(back_off(failures)):
                began = time.monotonic()
                try:
                    await self._begin(limit)
                except (Ended, NotReady, TimeoutError, OSError) as error:
                    failures += 1
                    if not self._stopping.is_set():
                        self.say(f"{error}; starting it again {_when(back_off(failures))}")
                else:
                    self.say(f"{self.name} serves again (pid {self.pid})")
                    break
            else:
                return

    async def _leaves(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until it has ended, or wants to and still serves."""
        gone = asyncio.create_task(process.wait())
        said = asyncio.create_task(self._wants_to_leave.wait())
        await asyncio.wait({gone, said}, return_when=asyncio.FIRST_COMPLETED)
        ended = gone.done()
        for task in (gone, said):
            task.cancel()
        await asyncio.gather(gone, said, return_exceptions=True)
        return not ended and not self._stopping.is_set()

    async def _succeeded(self, old: asyncio.subprocess.Process, reading: asyncio.Task[None], limit: float) -> bool:
        """Start the successor of one that is leaving and serves until then. False: it does not start, and the old
        one's end will be an end like any other."""
        self.say(f"{self.name} is leaving; starting its successor")
        failures = 0
        while True:
            try:
                await self._begin(limit)
                break
            except (Ended, NotReady, TimeoutError, OSError) as error:
                self.process, self._reading = old, reading
                failures += 1
                if not self._stopping.is_set():
                    self.say(f"{error}; starting it again {_when(back_off(failures))}")
            stopped = await self._stopped_within(back_off(failures))
            if stopped:  # `stop` may have spoken to the successor only
                await _end(old, self._stop_limit, self.stop_signal)
            if stopped or old.returncode is not None:
                return False
        retiring = asyncio.create_task(self._retire(old, reading, limit), name=f"retire {self.name}")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        self.say(f"{self.name} serves again (pid {self.pid})")
        return True

    async def _retire(self, old: asyncio.subprocess.Process, reading: asyncio.Task[None], limit: float) -> None:
        """The old one ends by itself once its successor serves, in `limit` seconds, or as soon as we stop."""
        gone = asyncio.create_task(old.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({gone, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        await _end(old, self._stop_limit, self.stop_signal)
        for task in (gone, stopping):
            task.cancel()
        await asyncio.gather(gone, stopping, return_exceptions=True)
        await self._exited(reading)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - `spawn` asked for a pipe
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # a line beyond the limit: its beginning was dropped
                continue
            if not raw:
                return
            text = raw.decode(errors="replace").rstrip()
            self._last = [*self._last[-4:], text]
            self.line(text)
            if process is self.process and self.leaving(text):
                self._wants_to_leave.set()
            if process is self.process and self.busy(text):
                self._alive_at = time.monotonic()


def _when(wait: float) -> str:
    return f"in {wait:g} s" if wait else "now"


async def _end(process: asyncio.subprocess.Process, limit: float, number: signal.Signals) -> None:
    if process.returncode is not None:
        return
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return
    try:
        async with asyncio.timeout(limit):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
