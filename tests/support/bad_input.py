"""What people get wrong, and the exact words they get back, on pages that a person can read.

A page in testdata/bad-input holds an entry for each case: `== <exit code>: <what is wrong>`, then all that the
command said. `pytest --update-golden` writes the pages anew; read the difference as whoever made the mistake.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from mpp_operator import cli

FOLDER: Final = Path(__file__).resolve().parent.parent / "testdata" / "bad-input"

#: A service without a mistake.
SERVICE: Final = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: shop, namespace: tests}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  payment:
    offers:
      - method: tempo
        network: moderato
        currency: pathUSD
        recipient: "0x7070707070707070707070707070707070707070"
  routes:
    - {name: thing, match: {method: GET, path: /thing}, price: {amount: "0.05"}}
"""


def edited(old: str, new: str, text: str = SERVICE) -> str:
    """`text` with one place changed; the place must be there once."""
    assert text.count(old) == 1, f"expected {old!r} once in the document, got it {text.count(old)} times"
    return text.replace(old, new)


@dataclass(frozen=True, slots=True)
class Said:
    """What a command did: its exit code, and both of its streams."""

    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Run one command in this process."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = int(str(ended.code or 0))
    captured = capsys.readouterr()
    return Said(code, captured.out, captured.err)


@dataclass(slots=True)
class Page:
    """The expected words of one group of cases."""

    path: Path
    title: str
    update: bool
    entries: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)

    def holds(self, case: str, said: Said, *scrub: tuple[str, str]) -> None:
        """Compare with the entry of that case. `scrub` are (pattern, stand-in) for what differs between runs.

        No command ever shows a traceback, speaks of its own insides, or says nothing.
        """
        assert "Traceback" not in said.err
        assert said.code in (1, 2, 3, 4), f"{case}: expected a failure, got {said}"
        assert said.err.strip(), f"{case}: it said nothing"
        assert all(len(line) < 500 for line in said.err.splitlines())
        text = said.err
        for pattern, stand_in in scrub:
            text = re.sub(pattern, stand_in, text)
        entry = f"== {said.code}: {case}\n{text.rstrip()}\n"
        self.fresh[case] = entry
        if not self.update:
            assert self.entries.get(case) == entry

    def close(self) -> None:
        """Write the page anew where that was asked for."""
        if self.update and self.fresh:
            kept = self.fresh | {case: entry for case, entry in self.entries.items() if case not in self.fresh}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"{self.title}\n\n" + "\n".join(kept.values()), encoding="utf-8")

    def strangers(self, cases: Iterable[str]) -> set[str]:
        """Entries of no case."""
        return self.entries.keys() - set(cases)


def page(name: str, title: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """For a fixture of module scope: the page of that name."""
    path = FOLDER / f"{name}.txt"
    entries: dict[str, str] = {}
    if path.exists():
        for entry in re.split(r"^(?=== )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            head = entry.splitlines()[0]
            entries[head.partition(": ")[2]] = entry.rstrip("\n") + "\n"
    found = Page(path, title, bool(request.config.getoption("--update-golden")), entries)
    yield found
    found.close()
