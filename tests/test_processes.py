"""Children that are kept running."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mpp_operator import processes

SERVE = "import signal, sys; print('up', flush=True); signal.pause()"
LEAVE = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("leaving", flush=True))
print("up", flush=True)
while not pathlib.Path("successor").exists():
    time.sleep(0.01)
print("gone", flush=True)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


class Kept:
    """A Child running a line of Python, and what was heard of it."""

    def __init__(self, tmp_path: Path, code: str) -> None:
        self.said: list[str] = []
        self.lines: list[str] = []
        self.ends = 0
        self.starts = 0
        self.code = code
        self.path = tmp_path
        self.child = processes.Child(
            "thing",
            self._command,
            self._ready,
            self.said.append,
            self.lines.append,
            self._ended,
            leaving=lambda line: line == "leaving",
        )

    def _command(self) -> processes.Command:
        self.starts += 1
        self.lines.clear()
        return processes.Command((sys.executable, "-c", self.code), dict(os.environ), self.path)

    async def _ready(self) -> None:
        await until(lambda: "up" in self.lines)

    def _ended(self) -> None:
        self.ends += 1


async def until(condition: Callable[[], bool], limit: float = 20) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def kept(tmp_path: Path, code: str) -> AsyncIterator[Kept]:
    thing = Kept(tmp_path, code)
    try:
        yield thing
    finally:
        await thing.child.stop(1)


async def test_a_child_that_dies_is_said_and_started_again_at_once(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:
        await thing.child.start(20)
        first = thing.child.pid

        os.kill(first, signal.SIGKILL)
        await until(lambda: any("serves again" in said for said in thing.said))

        assert thing.said[0] == "thing died (SIGKILL); starting it again now"
        assert thing.child.pid != first
        assert (thing.starts, thing.ends) == (2, 1)


async def test_a_child_that_ends_at_start_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    async with kept(tmp_path, "import sys; print('no licence'); sys.exit(7)") as thing:
        with pytest.raises(processes.Ended, match=r"thing ended at start \(exit code 7\): no licence") as caught:
            await thing.child.start(20)

        assert caught.value.code == 7
        assert thing.ends == 1


async def test_a_child_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    async with kept(tmp_path, "import signal; print('hm', flush=True); signal.pause()") as thing:
        with pytest.raises(TimeoutError, match=r"thing was not ready after 0\.5 s"):
            await thing.child.start(0.5)

        assert thing.child.process is not None
        assert thing.child.process.returncode == -signal.SIGTERM
        assert thing.ends == 1


async def test_a_restart_that_fails_is_said_and_tried_again_later(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:
        await thing.child.start(20)
        thing.code = "raise SystemExit('still broken')"

        os.kill(thing.child.pid, signal.SIGKILL)
        await until(lambda: any("still broken" in said for said in thing.said))
        thing.code = SERVE
        await until(lambda: any("serves again" in said for said in thing.said))

        assert "starting it again in 0.5 s" in thing.said[1]


async def test_a_successor_that_refuses_is_said_and_tried_again(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:
        await thing.child.start(20)

        async def refuse() -> None:
            raise processes.NotReady("its file is wrong")

        thing.child.ready = refuse
        os.kill(thing.child.pid, signal.SIGKILL)
        await until(lambda: any("its file is wrong; starting it again in 0.5 s" in said for said in thing.said))
        thing.child.ready = thing._ready

        await until(lambda: any("serves again" in said for said in thing.said))


async def test_stopping_during_the_back_off_starts_nothing_more(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:
        await thing.child.start(20)
        thing.code = "raise SystemExit(1)"
        os.kill(thing.child.pid, signal.SIGKILL)
        await until(lambda: any("in 1 s" in said or "in 2 s" in said for said in thing.said))
        starts = thing.starts

        began = time.monotonic()
        await thing.child.stop(5)

        assert time.monotonic() - began < 0.9
        assert thing.starts == starts


async def test_a_child_that_wants_to_leave_serves_until_its_successor_does(tmp_path: Path) -> None:
    async with kept(tmp_path, LEAVE) as thing:
        await thing.child.start(20)
        first = thing.child.process
        assert first is not None
        thing.code = SERVE

        first.send_signal(signal.SIGTERM)
        await until(lambda: thing.said[-1:] == [f"thing serves again (pid {thing.child.pid})"])

        assert (first.returncode, thing.starts, thing.ends) == (None, 2, 0)
        (tmp_path / "successor").touch()
        await until(lambda: thing.ends == 1)
        assert (first.returncode, thing.starts) == (0, 2)
        assert thing.said[0] == "thing is leaving; starting its successor"


async def test_a_hangup_that_comes_too_early_does_not_end_a_child(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:  # it has no handler for it
        await thing.child.start(20)

        thing.child.signal(signal.SIGHUP)
        await thing.child.stop(5)

        assert thing.child.process is not None
        assert thing.child.process.returncode == -signal.SIGTERM


async def test_one_that_leaves_serves_on_while_its_successor_does_not_start(tmp_path: Path) -> None:
    async with kept(tmp_path, LEAVE) as thing:
        await thing.child.start(20)
        first = thing.child.process
        assert first is not None
        thing.code = "raise SystemExit('no luck')"

        first.send_signal(signal.SIGTERM)
        await until(lambda: any("no luck" in said for said in thing.said))

        assert (first.returncode, thing.child.pid) == (None, first.pid)
        thing.code = SERVE
        await until(lambda: any("serves again" in said for said in thing.said))
        assert first.returncode is None
        (tmp_path / "successor").touch()


async def test_one_that_leaves_and_dies_is_started_again(tmp_path: Path) -> None:
    async with kept(tmp_path, LEAVE) as thing:
        await thing.child.start(20)
        first = thing.child.process
        assert first is not None
        thing.code = "raise SystemExit('no luck')"
        first.send_signal(signal.SIGTERM)
        await until(lambda: any("no luck" in said for said in thing.said))

        first.kill()
        await until(lambda: any("died (SIGKILL)" in said for said in thing.said))
        thing.code = SERVE

        await until(lambda: any("serves again" in said for said in thing.said))


@pytest.mark.parametrize("successor", [SERVE, "import signal; signal.pause()"], ids=["serves", "is starting"])
async def test_stopping_ends_one_that_is_leaving_and_its_successor(tmp_path: Path, successor: str) -> None:
    async with kept(tmp_path, LEAVE) as thing:
        await thing.child.start(20)
        first = thing.child.process
        assert first is not None
        thing.code = successor
        first.send_signal(signal.SIGTERM)
        await until(lambda: thing.starts == 2 and (successor != SERVE or "serves" in thing.said[-1]))

        await thing.child.stop(0.2)

        assert thing.child.process is not None
        assert None not in (first.returncode, thing.child.process.returncode)
        assert thing.ends == 2


async def test_a_child_that_ignores_being_asked_is_made_to_end(tmp_path: Path) -> None:
    async with kept(tmp_path, STUBBORN) as thing:
        await thing.child.start(20)

        await thing.child.stop(0.2)

        assert thing.child.process is not None
        assert thing.child.process.returncode == -signal.SIGKILL
        assert thing.ends == 1
        assert thing.said == []  # it did not die: it was stopped


async def test_a_signal_reaches_the_child(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGHUP, lambda *_: print('heard', flush=True))\n" + (
        "print('up', flush=True)\nwhile True: signal.pause()"
    )
    async with kept(tmp_path, code) as thing:
        await thing.child.start(20)

        thing.child.signal(signal.SIGHUP)

        await until(lambda: "heard" in thing.lines)


async def test_stopping_what_never_started_is_harmless(tmp_path: Path) -> None:
    async with kept(tmp_path, SERVE) as thing:
        thing.child.signal(signal.SIGHUP)

        await thing.child.stop(1)

        assert thing.child.pid == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, pathlib, sys
from mpp_operator import processes
async def main():
    child = await processes.spawn(processes.Command(
        (sys.executable, "-c", {SERVE!r}), dict(os.environ), pathlib.Path({str(tmp_path)!r})))
    await child.stdout.readline()
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        parent.kill()
        parent.wait()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline, f"{child} outlived its parent"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_an_end_is_described_for_people(code: int, text: str) -> None:
    assert processes.describe(code) == text


def test_the_back_off_begins_at_once_and_is_bounded() -> None:
    assert [processes.back_off(n) for n in (1, 2, 3, 100)] == [0.0, 0.5, 1.0, 8.0]


SLOW = """
import signal, time
for _ in range(9):
    print("busy", flush=True)
    time.sleep(0.5)
print("up", flush=True)
signal.pause()
"""


async def test_a_child_that_says_that_it_is_busy_is_given_its_time_again(tmp_path: Path) -> None:
    async with kept(tmp_path, SLOW) as thing:
        thing.child.busy = lambda line: line == "busy"

        await thing.child.start(3)

        assert thing.lines.count("busy") == 9
        assert thing.starts == 1
