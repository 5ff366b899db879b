"""Leaving without a gap: until when an authz that was asked to end goes on."""

import asyncio
import os
import socket
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
    waiting = asyncio.create_task(handover.taken_over(ours.path, ours.inode, 20, asyncio.Event()))
    await asyncio.sleep(0)
    assert not waiting.done()

    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(ours.path.with_name("fresh")))
        os.rename(ours.path.with_name("fresh"), ours.path)

        assert await waiting


async def test_it_ends_when_somebody_is_in_a_hurry(ours: Ours) -> None:
    at_once = asyncio.Event()
    waiting = asyncio.create_task(handover.taken_over(ours.path, ours.inode, 20, at_once))

    at_once.set()

    assert not await waiting


async def test_it_ends_when_no_successor_comes_in_time(ours: Ours) -> None:
    assert not await handover.taken_over(ours.path, ours.inode, 0.05, asyncio.Event())


async def test_it_ends_when_its_socket_is_taken_away(ours: Ours) -> None:
    os.unlink(ours.path)

    assert not await handover.taken_over(ours.path, ours.inode, 20, asyncio.Event())


def test_what_it_says_reaches_whoever_keeps_it(capfd: pytest.CaptureFixture[str]) -> None:
    handover.announce()

    assert capfd.readouterr().err == handover.LEAVING + "\n"
