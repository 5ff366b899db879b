"""Unmodified mppx as a second reader of the wire: one Node process for the session, a JSON line for a question.

def test_x(mppx: second_reader.Mppx) -> None:
    mppx.ask("digest", body="abc")  # what mppx gives; raises `Refused` where it throws
"""

import functools
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import wallets

#: Seconds one answer may take, and the first one, which waits for Node to load.
_LIMIT: Final = 20.0
_FIRST_LIMIT: Final = 60.0


class Refused(Exception):
    """mppx threw."""


@dataclass(slots=True)
class Mppx:
    """Questions and answers, one at a time."""

    process: subprocess.Popen[str]
    lines: "queue.Queue[str | None]" = field(default_factory=queue.Queue)
    asked: int = 0

    def ask(self, operation: str, **question: Any) -> Any:
        """What an operation of tests/js/wire.mjs gives.

        Raises:
            Refused: mppx threw; with its words.
        """
        self.asked += 1
        line = json.dumps({"id": self.asked, "op": operation, **question})
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        try:
            told = self.lines.get(timeout=_LIMIT if self.asked > 1 else _FIRST_LIMIT)
        except queue.Empty:
            pytest.fail(f"mppx did not answer {operation!r} in time")
        if told is None:
            pytest.fail(f"the process of mppx ended at {operation!r}")
        answer = json.loads(told)
        assert answer["id"] == self.asked
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["is"]

    def refuses(self, operation: str, **question: Any) -> bool:
        try:
            self.ask(operation, **question)
        except Refused:
            return True
        return False


@pytest.fixture(scope="session")
def mppx() -> Iterator[Mppx]:
    """One process for the session; without Node an error on CI, a loud skip elsewhere."""
    program = wallets.node_program()
    process = subprocess.Popen(
        [program, str(wallets.JS / "wire.mjs")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
    )
    reader = Mppx(process)
    thread = threading.Thread(target=functools.partial(_pump, process, reader.lines.put), daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        thread.join(10)
        if process.stdout is not None:
            process.stdout.close()


def _pump(process: "subprocess.Popen[str]", put: Callable[[str | None], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        put(line)
    put(None)
