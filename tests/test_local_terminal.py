"""`mpp-gateway run` in a terminal that is closed."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import gateway_process
import pytest

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(120)]

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: shop}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  routes: [{match: {path: /open}, free: true}]
"""


def test_a_gateway_ends_with_its_terminal_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(SERVICE)
    terminal, ours = pty.openpty()
    # A session of its own with the terminal as its own: what a terminal window gives a command.
    code = (
        "import os, sys; os.setsid(); os.close(os.open(os.ttyname(2), os.O_RDWR)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    gateway = subprocess.Popen(
        [
            *(sys.executable, "-c", code, sys.executable, "-m", "mpp_operator.cli", "run"),
            *("-f", "shop.yaml", "--port", "0", "--state-dir", str(tmp_path / "state"), "--concurrency", "1"),
        ],
        stdin=ours, stdout=ours, stderr=ours, cwd=tmp_path,
        env=gateway_process.clean_environ({"PYTHONSAFEPATH": "1"}),
    )  # fmt: skip
    try:
        os.close(ours)
        shown = b""
        while b"ready:" not in shown:
            shown += os.read(terminal, 4096)

        os.close(terminal)

        code_at_end = gateway.wait(60)
    finally:
        gateway.terminate()
        gateway.wait()
    state = tmp_path / "state"
    # The folder is free only when no child is left: they inherit its lock.
    free = subprocess.run(["flock", "--nonblock", state / "lock", "true"], check=False)
    assert free.returncode == 0
    assert code_at_end in (0, 120)  # 120: Python had nobody to tell its last words
