"""A short search of each target, with a fixed seed. `scripts/fuzz` searches longer."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fuzzing
import gateway_process
import missing
import pytest

pytestmark = pytest.mark.fuzz

#: Seconds for each target.
SECONDS = 6
_LIMIT = 100
_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", fuzzing.targets())
def test_a_short_search_finds_nothing(name: str, tmp_path: Path) -> None:
    _atheris()

    done = search(name, tmp_path, SECONDS)

    assert done.returncode == 0, f"{_found(tmp_path)}\n{done.stderr[-4000:]}"
    assert "DONE" in done.stderr, done.stderr[-4000:]


def test_a_broken_promise_is_found_and_kept(tmp_path: Path) -> None:
    _atheris()
    broken = tmp_path / "broken"
    (broken / "corpus" / "accept_payment").mkdir(parents=True)
    (broken / "corpus" / "accept_payment" / "seed").write_bytes(b"tempo/charge")
    (broken / "fuzzing.py").write_text(Path(fuzzing.__file__).read_text())
    (broken / "accept_payment.py").write_text(
        "from mpp_authz import challenge\n"
        "WORDS = ('evm/charge',)\n"
        "def one(data):\n"
        "    kinds = [('tempo', 'charge'), ('evm', 'charge')]\n"
        "    assert 0 in challenge.accepted(kinds, data.decode('utf-8', 'replace'))\n"
    )

    done = search("accept_payment", tmp_path, 60, broken / "fuzzing.py")

    assert done.returncode == 77, done.stderr[-4000:]
    assert _found(tmp_path)


def search(
    name: str, keep: Path, seconds: int, script: Path = fuzzing.HERE / "fuzzing.py"
) -> subprocess.CompletedProcess[str]:
    """Search one target in a process of its own: libFuzzer ends it. Not under coverage, which would measure us."""
    environ = gateway_process.clean_environ(
        {"PYTHONPATH": os.pathsep.join((str(_ROOT / "tests/support"), str(script.parent)))}
    )
    return subprocess.run(
        [sys.executable, str(script), name, "--seconds", str(seconds), "--keep", str(keep)],
        env={key: value for key, value in environ.items() if not key.startswith("COVERAGE")},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_LIMIT,
    )


def _found(keep: Path) -> list[tuple[str, bytes]]:
    """What the search kept because it broke something: a name for the corpus, and the input."""
    return [(path.name, path.read_bytes()) for path in keep.glob("*-*") if path.is_file()]


def _atheris() -> None:
    """Missing: an error on CI where there is a wheel, a loud skip elsewhere."""
    if importlib.util.find_spec("atheris") is not None:
        return
    missing.error_or_skip("fuzzing needs atheris, whose wheels are for Linux on x86-64 with Python 3.11 to 3.13")
