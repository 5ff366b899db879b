"""Three real servers that read paths differently, with one log each: what they were asked for, as they read it."""

import contextlib
import itertools
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import hostile_wire

APPS: Final = Path(__file__).with_name("apps")
KINDS: Final = ("node", "http.server", "nginx")


class Missing(RuntimeError):
    """A server is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as the upstream read it. `headers` is names and values, a line each."""

    resource: str  # "free", or "paid:" and the resource's name
    method: str
    target: str
    headers: str

    @property
    def paid(self) -> bool:
        return self.resource.startswith("paid:")


@dataclass(slots=True)
class Upstream:
    """A running server and its log."""

    kind: str
    port: int
    log: Path
    process: subprocess.Popen[str]
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _read: int = 0

    def since(self, mark: str) -> tuple[Hit, ...]:
        """The hits from the last call's to the one whose target ends with `mark`, which is not one of them.

        Raises:
            AssertionError: no such hit in time.
        """
        end = time.monotonic() + hostile_wire.LIMIT
        while True:
            lines = self.log.read_bytes()[self._read :].split(b"\n")[:-1] if self.log.exists() else []
            hits = [_hit(line) for line in lines]
            for number, hit in enumerate(hits):
                if hit.target.endswith(mark):
                    self._read += sum(len(line) + 1 for line in lines[: number + 1])
                    return tuple(hits[:number])
            assert time.monotonic() < end, f"{self.kind}: {mark} did not arrive"
            time.sleep(0.002)

    def mark(self) -> str:
        """A fresh end of a target, for `since`."""
        return f"mark-{next(self._numbers)}"


def _hit(line: bytes) -> Hit:
    document = json.loads(line.decode("utf-8", "replace"))
    return Hit(document["resource"], document["method"], document["target"], document["headers"])


@contextlib.contextmanager
def running(kind: str, place: Path) -> Iterator[Upstream]:
    """One of KINDS on a port of loopback, with its files in `place`, for the length of the block.

    Raises:
        Missing: it is not installed.
    """
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        port, process = _nginx(stack, place) if kind == "nginx" else _script(stack, kind, place)
        yield Upstream(kind, port, place / "hits.jsonl", process)


def _script(stack: contextlib.ExitStack, kind: str, place: Path) -> tuple[int, subprocess.Popen[str]]:
    log = str(place / "hits.jsonl")
    if kind == "node":
        node = shutil.which("node")
        if node is None:
            raise Missing("node is missing: install Node.js (Debian: apt-get install nodejs)")
        command = [node, str(APPS / "node.mjs"), log]
    else:
        command = [sys.executable, str(APPS / "plain.py"), log]
    with (place / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    stack.callback(_stop, process)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip().isdigit(), (place / "stderr").read_text()
    return int(line), process


def _nginx(stack: contextlib.ExitStack, place: Path) -> tuple[int, subprocess.Popen[str]]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing("nginx is missing: install it (Debian: apt-get install nginx-light)")
    for _ in range(5):
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port: int = chosen.getsockname()[1]
        text = (APPS / "nginx.conf").read_text().replace("PLACE", str(place)).replace("PORT", str(port))
        (place / "nginx.conf").write_text(text)
        process = subprocess.Popen(
            [program, "-p", str(place), "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if _listens(process, port):
            stack.callback(_stop, process)
            return port, process
        _stop(process)
    raise AssertionError((place / "error.log").read_text())


def _listens(process: subprocess.Popen[str], port: int) -> bool:
    end = time.monotonic() + hostile_wire.LIMIT
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process.poll() is None
        time.sleep(0.01)
    return False


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
