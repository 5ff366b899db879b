"""`mpp-gateway run` as a real process on free ports, for end-to-end tests.

    def test_x(start_gateway: gateway_process.Start) -> None:
        gateway = start_gateway({"svc.yaml": SERVICE}, config=NETWORKS, environ={"OPENAI_API_KEY": "k"})
        httpx.get(gateway.url + "/svc/thing")

The fixture stops everything it started. `gateway.edit` changes a file while it runs; `gateway.said` waits for a
line on stderr. Nothing of the caller's environment but PATH and the coverage settings reaches the process.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import secret_scan

#: Seconds; starting takes about two on an idle machine.
START_LIMIT = 60.0
STOP_LIMIT = 30.0


@dataclass(slots=True)
class GatewayProcess:
    """A gateway that is ready. `ready` is its JSON line."""

    process: subprocess.Popen[str]
    folder: Path  # of the input files
    state_dir: Path
    ready: Mapping[str, Any] = field(default_factory=dict)
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Scheme, host and port of the listener."""
        return str(self.ready["url"])

    @property
    def metrics_url(self) -> str:
        """Of authz's HTTP side: /readyz, /metrics."""
        return str(self.ready["http"])

    @property
    def admin_socket(self) -> Path:
        """Of Envoy."""
        return Path(self.ready["sockets"]) / "admin.sock"

    @property
    def ledger(self) -> Path:
        return self.state_dir / "ledger.db"

    def edit(self, name: str, text: str) -> None:
        """Replace one of the input files, as an editor would: a new file, then a rename."""
        fresh = self.folder / f".{name}.new"
        fresh.write_text(text)
        fresh.replace(self.folder / name)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def said(self, text: str, *, since: int = 0, limit: float = 20) -> str:
        """The first line on stderr, from line `since` on, that holds `text`; waits for it."""
        return self._wait_for(self.stderr, text, since, limit)

    def printed(self, text: str, *, since: int = 0, limit: float = 20) -> str:
        """The same for stdout."""
        return self._wait_for(self.stdout, text, since, limit)

    def _wait_for(self, lines: list[str], text: str, since: int, limit: float) -> str:
        deadline = time.monotonic() + limit
        while True:
            for line in lines[since:]:
                if text in line:
                    return line
            ended = self.process.poll() is not None and not any(r.is_alive() for r in self._readers)
            if ended or time.monotonic() > deadline:
                pytest.fail(f"expected a line with {text!r}, got:\n" + "\n".join(lines[since:]))
            time.sleep(0.02)

    def stop(self, limit: float = STOP_LIMIT) -> int:
        """Ask it to end and wait; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its children end with it
            self.process.wait()
            pytest.fail("the gateway did not end after SIGTERM:\n" + "\n".join(self.stderr))
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._leaves_no_secret()
        return code

    def _leaves_no_secret(self) -> None:
        """Fails with the place and the kind of each secret that it left where none belongs."""
        key = self.state_dir / "signing.key"
        if key.is_file():
            secret_scan.know(secret_scan.SIGNING_KEY, key.read_text(errors="replace").strip())
        found = secret_scan.left_by(self)
        if found:
            pytest.fail("the gateway left secrets behind: " + "; ".join(map(str, found)))


class Start(Protocol):
    """The fixture's type."""

    def __call__(
        self,
        services: Mapping[str, str],
        *,
        config: str | None = None,
        environ: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        state_dir: Path | None = None,
        wait: bool = True,
    ) -> GatewayProcess: ...


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the process sees: no key of the developer's, no state folder of theirs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LANG", "TMPDIR", "PYTHONSAFEPATH", "XDG_CACHE_HOME", "HOME")
        or name.startswith(("COVERAGE", "npm_config_", "NPM_CONFIG_"))
    }
    return kept | dict(extra or {})


def launch(
    folder: Path,
    services: Mapping[str, str],
    *,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
    state_dir: Path | None = None,
) -> GatewayProcess:
    """Write the inputs into `folder` and start `run --json --port 0` on them; does not wait."""
    state_dir = state_dir or folder / "state"
    secret_scan.know_configured(environ or {}, _secrets_dir(arguments))
    command = [sys.executable, "-m", "mpp_operator.cli", "run", "--json", "--port", "0", "--concurrency", "1"]
    for name, text in services.items():
        (folder / name).write_text(text)
        command += ["-f", str(folder / name)]
    if config is not None:
        (folder / "gateway.yaml").write_text(config)
        command += ["--config", str(folder / "gateway.yaml")]
    process = subprocess.Popen(
        [*command, "--state-dir", str(state_dir), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environ(environ),
    )
    gateway = GatewayProcess(process, folder, state_dir)
    for stream, lines in ((process.stdout, gateway.stdout), (process.stderr, gateway.stderr)):
        assert stream is not None
        reader = threading.Thread(target=lambda s=stream, into=lines: into.extend(_lines(s, into)), daemon=True)
        reader.start()
        gateway._readers.append(reader)
    return gateway


def _secrets_dir(arguments: tuple[str, ...]) -> Path | None:
    given = dict(itertools.pairwise(arguments)).get("--secrets-dir")
    return None if given is None else Path(given)


def _lines(stream: Any, into: list[str]) -> list[str]:
    for line in stream:
        into.append(line.rstrip("\n"))
    return []


def wait_until_ready(gateway: GatewayProcess, limit: float = START_LIMIT) -> None:
    """Fail with all it said when it is not ready in time."""
    deadline = time.monotonic() + limit
    while not gateway.stdout:
        if gateway.process.poll() is not None or time.monotonic() > deadline:
            code = gateway.process.poll()
            if code is None:
                gateway.stop()
            pytest.fail(f"the gateway was not ready (exit code {code}):\n" + "\n".join(gateway.stderr))
        time.sleep(0.02)
    gateway.ready = json.loads(gateway.stdout[0])


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Start]:
    """Starts gateways; each gets a folder of its own."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start(
            services: Mapping[str, str],
            *,
            config: str | None = None,
            environ: Mapping[str, str] | None = None,
            arguments: tuple[str, ...] = (),
            state_dir: Path | None = None,
            wait: bool = True,
        ) -> GatewayProcess:
            nonlocal count
            count += 1
            folder = tmp_path / f"gateway-{count}"
            folder.mkdir()
            gateway = launch(
                folder, services, config=config, environ=environ, arguments=arguments, state_dir=state_dir
            )
            stack.callback(gateway.stop)
            if wait:
                wait_until_ready(gateway)
            return gateway

        yield start
