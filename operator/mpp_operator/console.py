"""What a person at a terminal is told: results on stdout, everything else on stderr, colour only on a terminal."""

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TextIO

_CODES: Final = {"red": "31", "yellow": "33", "dim": "2"}


@dataclass(slots=True)
class Console:
    """Two streams. Nothing here decides; nothing else here prints."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def result(self, line: str) -> None:
        """What was asked for."""
        self.out.write(line + "\n")
        self.out.flush()

    def say(self, line: str) -> None:
        """Progress, or news. Nobody may be there any more to read it: that stops nothing."""
        with contextlib.suppress(OSError):
            self.err.write(line + "\n")
            self.err.flush()

    def quiet(self, line: str) -> None:
        """A child's own line."""
        self.say(self._paint(line, "dim"))

    def problems(self, lines: Iterable[str]) -> None:
        """What is wrong, one line each."""
        for line in lines:
            self.say(self._paint("error: ", "red") + line)

    def warn(self, line: str) -> None:
        self.say(self._paint("warning: ", "yellow") + line)

    def _paint(self, text: str, colour: str) -> str:
        if not self.err.isatty() or "NO_COLOR" in os.environ:
            return text
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


#: Exit codes.
DONE: Final = 0
WRONG_INPUT: Final = 1
WRONG_USAGE: Final = 2
WRONG_ENVIRONMENT: Final = 3
OFF_BALANCE: Final = 4
INTERRUPTED: Final = 130

#: What each means, for people.
MEANINGS: Final = {
    DONE: "done",
    WRONG_INPUT: "the input is wrong",
    WRONG_USAGE: "usage",
    WRONG_ENVIRONMENT: "the environment is wrong",
    OFF_BALANCE: "ledger and chain disagree",
    INTERRUPTED: "interrupted",
}


class Failure(Exception):
    """A command cannot go on. `problems` is one line each, for people; `code` is the exit code."""

    def __init__(self, code: int, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.code = code
        self.problems = problems
