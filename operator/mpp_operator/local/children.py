"""authz and Envoy as children: how each is started, when it serves, what its lines mean, how it is stopped."""

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx

from mpp_authz import handover, wire
from mpp_operator import bootstrap, console, directory, envoy, processes, statedir
from mpp_operator.artifacts import secrets as secret_files
from mpp_operator.local.ground import Ground
from mpp_operator.local.inputs import Inputs

#: Seconds.
_AUTHZ_START_LIMIT: Final = 30.0
_ENVOY_START_LIMIT: Final = 30.0
_ENVOY_STOP_LIMIT: Final = 5.0
#: What authz gets to end, beyond the time a Check waits for a settlement.
_AUTHZ_STOP_LIMIT: Final = 10.0
#: How soon Envoy has to have taken a new configuration, or it is said that it has not.
_TAKEN_LIMIT: Final = 2.0
#: From then on nobody waits for it any more: it takes the files when it can.
_TAKEN_AT_LAST: Final = 30.0
_POLL: Final = 0.05

#: authz's last word when it cannot start begins so.
_AUTHZ_SAYS: Final = "mpp-gateway authz: "

#: Envoy says this of extensions we chose knowing it, at each start.
_WORK_IN_PROGRESS: Final = "marked as work-in-progress"

#: What children see of our environment: no credential reaches them this way.
_KEPT: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_KEPT_PREFIXES: Final = ("COVERAGE", "PYTHON", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(slots=True)
class Authz:
    """The process that answers Checks. `inputs` gives what it is started with: each start asks."""

    ground: Ground
    out: console.Console
    inputs: Callable[[], Inputs]
    process: processes.Child = field(init=False)
    http: str = ""  # /readyz, /metrics; the same at each start
    _served: bool = False
    _opening: bool = False  # said of this start

    def __post_init__(self) -> None:
        self.process = processes.Child(
            "authz",
            self._command,
            self._ready,
            self.out.warn,
            self._line,
            leaving=lambda line: handover.LEAVING in line,
            busy=lambda line: handover.OPENING in line,
            stop_signal=signal.SIGINT,  # at once; SIGTERM waits for a successor
        )

    async def start(self) -> None:
        """Raises Failure: it does not serve, and why."""
        try:
            await self.process.start(_AUTHZ_START_LIMIT)
        except processes.Ended as error:
            _, said, why = error.last.rpartition(_AUTHZ_SAYS)
            problem = f"authz cannot start: {why}" if said else str(error)
            raise console.Failure(console.WRONG_ENVIRONMENT, problem) from error
        except TimeoutError as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, f"{error}; is the machine overloaded?") from error
        self._served = True

    async def stop(self) -> None:
        await self.process.stop(self.inputs().compiled.sources.config.settle_wait + _AUTHZ_STOP_LIMIT)

    def _command(self) -> processes.Command:
        inputs, state = self.inputs(), self.ground.state
        self._opening = False
        if not self.http:
            self.http = self.ground.options.metrics or f"127.0.0.1:{_free_port()}"
        ledger = f"file:{state.secrets / secret_files.LEDGER_FILE}" if inputs.ledger_is_secret else inputs.ledger
        return processes.Command(
            (
                *(sys.executable, "-m", "mpp_operator.cli", "authz"),
                *("--config-dir", str(state.config), "--secrets-dir", str(state.secrets)),
                *("--socket", str(self.ground.authz_socket), "--http", self.http),
                *("--ledger", ledger, "--outcomes-dir", str(state.outcomes)),
                *("--slot", f"authz-{self.ground.replica}"),
                *("--settle-wait", f"{inputs.compiled.sources.config.settle_wait:g}"),
                *("--handover", f"{_AUTHZ_START_LIMIT:g}", "--log-level", self.ground.options.log_level),
            ),
            _kept(self.ground.environ) | {"PYTHONSAFEPATH": "1"},
            state.root,
            (state.lock,),
        )

    async def _ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://{self.http}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(_POLL)

    def _line(self, line: str) -> None:
        if handover.OPENING in line:
            if not self._opening:
                self._opening = True
                self.out.say(
                    "authz: opening the ledger takes long: its schema is brought up to date, here or by another "
                    "gateway; let it end, or it begins anew"
                )
        elif self._served or not line.startswith(_AUTHZ_SAYS):  # `start` says that itself
            self.out.quiet(f"authz: {line}")


@dataclass(slots=True)
class Envoy:
    """The process that forwards. `inputs` gives what it is started with: each start asks."""

    ground: Ground
    out: console.Console
    inputs: Callable[[], Inputs]
    process: processes.Child = field(init=False)
    _instance: str = ""
    _refusals: list[str] = field(default_factory=list)  # its own words since the last publication

    def __post_init__(self) -> None:
        self.process = processes.Child("envoy", self._command, self._ready, self.out.warn, self._line, self._ended)

    async def start(self) -> None:
        """Raises Failure: it does not serve, and why."""
        try:
            await self.process.start(_ENVOY_START_LIMIT)
        except OSError as error:
            binary = str(self.ground.envoy_binary)
            if error.filename != binary:
                raise  # a file of ours: whoever starts us knows the state folder
            raise console.Failure(console.WRONG_ENVIRONMENT, envoy.cannot_run(binary, error)) from error
        except processes.Ended as error:
            raise console.Failure(
                console.WRONG_ENVIRONMENT,
                f"{error}; mend what it says, or reinstall {envoy.DISTRIBUTION}",
            ) from error
        except (processes.NotReady, TimeoutError) as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error

    async def stop(self) -> None:
        await self.process.stop(_ENVOY_STOP_LIMIT)

    async def drain(self) -> None:
        """Take no new connection, and give the requests in flight their time."""
        admin, limit = self.ground.admin, self.ground.options.drain
        active = f"http.{bootstrap.STAT_PREFIX}.downstream_rq_active"
        deadline = time.monotonic() + limit
        with contextlib.suppress(envoy.EnvoyError):  # it is gone already
            await asyncio.to_thread(admin.drain)
            while time.monotonic() < deadline:
                if not (await asyncio.to_thread(admin.stats, f"{active}$")).get(active, 0):
                    return
                await asyncio.sleep(_POLL)
            self.out.warn(f"some requests did not end within {limit:g} s")

    @property
    def outcomes_file(self) -> Path:
        """What this Envoy writes of every paid request."""
        return self.ground.state.outcomes / f"{self._instance}{wire.OUTCOME_LIVE_SUFFIX}"

    def forget_refusals(self) -> None:
        """Files are about to be published: what it says from now on is about them."""
        self._refusals.clear()

    async def refuses(self, artifacts: Mapping[str, str]) -> bool:
        """Whether it refuses the published files. One that is slow to take them (many services, a busy machine, a
        start) has not refused them: that is said, and they stay."""
        want = {
            name: json.loads(text)["version_info"]
            for name, text in artifacts.items()
            if name in ("rds.json", "cds.json")
        }
        begun, told = time.monotonic(), False
        while not self._refusals:
            with contextlib.suppress(envoy.EnvoyError):  # it may be starting again
                if await asyncio.to_thread(self.ground.admin.versions) == want:
                    return False
            waited = time.monotonic() - begun
            if waited > _TAKEN_LIMIT and not told:
                told = True
                self.out.warn(f"envoy has not taken the new configuration within {_TAKEN_LIMIT:g} s")
            if waited > _TAKEN_AT_LAST:
                return False
            await asyncio.sleep(_POLL)
        await asyncio.sleep(_POLL)  # its last words may be on their way
        return True

    def _command(self) -> processes.Command:
        state = self.ground.state
        # A fresh name each time: authz must never take a new Envoy's file for the rest of an old one's.
        self._instance = f"envoy-{int(time.time())}-{secrets.token_hex(4)}"
        settings = replace(
            envoy_settings(self.ground, self.inputs()),
            instance=self._instance,
            outcomes_file=f"{state.outcomes.name}/{self.outcomes_file.name}",
        )
        file = state.root / "bootstrap.json"
        file.unlink(missing_ok=True)
        directory.write(file, bootstrap.render(settings), mode=0o600)
        (state.sockets / "admin.sock").unlink(missing_ok=True)
        return processes.Command(
            envoy.argv(
                file.name,
                executable=self.ground.envoy_binary,
                concurrency=self.ground.options.concurrency,
                drain_seconds=max(1, int(self.ground.options.drain)),
            ),
            _kept(self.ground.environ),
            state.root,
            (state.lock,),
        )

    async def _ready(self) -> None:
        while True:
            with contextlib.suppress(envoy.EnvoyError):
                if await asyncio.to_thread(self.ground.admin.ready):
                    return
            if self._refusals:
                raise processes.NotReady(f"envoy refused the configuration: {'; '.join(self._refusals)}")
            await asyncio.sleep(_POLL)

    def _line(self, line: str) -> None:
        words = envoy.rejection(line)
        if words is None:
            if _WORK_IN_PROGRESS not in line:
                self.out.quiet(f"envoy: {line}")
            return
        self._refusals.append(words)
        self.out.warn(f"envoy refused the configuration: {words}")

    def _ended(self) -> None:
        statedir.end_leftovers(self.ground.state)


def envoy_settings(ground: Ground, inputs: Inputs) -> bootstrap.BootstrapSettings:
    """What Envoy is started with, except for the names of one start."""
    config, state = inputs.compiled.sources.config, ground.state
    return bootstrap.BootstrapSettings(
        instance="",
        address=config.listen.address,
        port=ground.port,
        tls=inputs.certificate,
        terminated_by=config.tls.terminated_by if config.tls is not None else (),
        admin_socket=str(state.sockets / "admin.sock"),
        authz_sockets=(str(ground.authz_socket),),
        config_dir=str(state.config.relative_to(state.root)),
        paying_timeout=config.check_timeout,
        minting_timeout=config.challenge_timeout,
    )


def _kept(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if name in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
    }


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
