"""Leaving without a gap: until when an authz that was asked to end goes on."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpp_authz import handover


@dataclass(frozen=True, slots=True)
class Ours:
    """A socket's file, and its inode."""

    path: Path
    inode: int


@pytest.fixture
def ours(tmp_path: Path) -> Ours:
    path = tmp_path / "authz.sock"
    path.touch()
    return Ours(path, path.stat().st_ino)


async def test_it_ends_when_another_listens_on_its_socket(ours: Ours) -> None:
    waiting = asyncio.create_task(handover.Keeper().took_over(ours.path, ours.inode, 20, asyncio.Event()))
    await asyncio.sleep(0)
    assert not waiting.done()

    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(ours.path.with_name("fresh")))
        os.rename(ours.path.with_name("fresh"), ours.path)

        assert await waiting


async def test_it_ends_when_somebody_is_in_a_hurry(ours: Ours) -> None:
    at_once = asyncio.Event()
    waiting = asyncio.create_task(handover.Keeper().took_over(ours.path, ours.inode, 20, at_once))

    at_once.set()

    assert not await waiting


async def test_it_ends_when_no_successor_comes_in_time(ours: Ours) -> None:
    assert not await handover.Keeper().took_over(ours.path, ours.inode, 0.05, asyncio.Event())


async def test_it_ends_when_its_socket_is_taken_away(ours: Ours) -> None:
    os.unlink(ours.path)

    assert not await handover.Keeper().took_over(ours.path, ours.inode, 20, asyncio.Event())


def test_what_it_says_reaches_whoever_keeps_it(capfd: pytest.CaptureFixture[str]) -> None:
    handover.Keeper().tell()

    assert capfd.readouterr().err == handover.LEAVING + "\n"


def test_it_does_not_wait_when_whoever_kept_it_is_gone(tmp_path: Path) -> None:
    code = """
import asyncio, os, pathlib, sys, time
from mpp_authz import handover
keeper = handover.Keeper()
print("up", flush=True)
sys.stdin.read()  # until the keeper has died
while not keeper.gone():
    time.sleep(0.01)
keeper.tell()
path = pathlib.Path("authz.sock")
path.touch()
took = asyncio.run(keeper.took_over(path, path.stat().st_ino, 20, asyncio.Event()))
pathlib.Path("verdict.new").write_text(str(took))
pathlib.Path("verdict.new").rename("verdict")
"""
    kept = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"
    keeper = subprocess.Popen(
        [sys.executable, "-c", kept, code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        assert keeper.stdout.readline() == b"up\n"
        keeper.kill()
        keeper.stderr.close()
        keeper.stdin.close()

    began = time.monotonic()
    while not (tmp_path / "verdict").exists():
        assert time.monotonic() - began < 10
        time.sleep(0.01)
    assert (tmp_path / "verdict").read_text() == "False"
