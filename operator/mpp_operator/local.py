"""One machine: `mpp-gateway run`. Reads, compiles, publishes, keeps authz and Envoy running, says what it did.

    files --sources--> Compiled --directory--> config/, secrets/ --watched by--> Envoy, authz

A shell: prices, routes and conflicts are decided by the compiler, payments by authz. A bad edit is said, and the
last good version goes on serving, in Envoy and in authz alike.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import watchfiles

from mpp_authz import handover, wire
from mpp_operator import (
    banner,
    bootstrap,
    console,
    directory,
    envoy,
    ir,
    local_secrets,
    networks,
    processes,
    sandbox,
    sources,
    statedir,
)
from mpp_operator.artifacts import secrets as secret_files
from mpp_operator.payments import LEDGER_NAME

#: Seconds.
_LOCK_LIMIT: Final = 10.0
_AUTHZ_START_LIMIT: Final = 30.0
_ENVOY_START_LIMIT: Final = 30.0
_PROBE_LIMIT: Final = 15.0
#: How soon Envoy has to have taken a new configuration, or it is said that it has not.
_TAKEN_LIMIT: Final = 2.0
#: From then on nobody waits for it any more: it takes the files when it can.
_TAKEN_AT_LAST: Final = 30.0
_TIDY_EVERY: Final = 30.0
_POLL: Final = 0.05
_SLOW: Final = 1.0

#: Envoy says this of extensions we chose knowing it, at each start.
_WORK_IN_PROGRESS: Final = "marked as work-in-progress"

#: authz's last word when it cannot start begins so.
_AUTHZ_SAYS: Final = "mpp-gateway authz: "

#: Bytes; some fifty thousand paid requests.
_LONGEST_OUTCOMES: Final = 16 * 1024 * 1024

#: What children see of our environment: no credential reaches them this way.
_KEPT: Final = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_KEPT_PREFIXES: Final = ("COVERAGE", "PYTHON", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    files: tuple[Path, ...]
    config: Path | None
    port: int | None  # None: gateway.yaml's
    state_dir: Path
    secrets_dir: Path | None
    concurrency: int
    sandbox: bool
    as_json: bool
    drain: float  # seconds that requests in flight are given at the end
    log_level: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one compilation was made from, and its result."""

    compiled: sources.Compiled
    challenge_keys: tuple[str, ...]
    ledger: str  # its address

    @property
    def ledger_is_secret(self) -> bool:
        """Whether its address may hold a password: then a file has it, and no command line."""
        return not self.ledger.startswith("sqlite:")

    @property
    def secret_files(self) -> Mapping[str, str]:
        return secret_files.render(
            self.compiled.compilation.gateway,
            self.compiled.values,
            self.challenge_keys,
            self.ledger if self.ledger_is_secret else None,
        )


async def run(options: Options, environ: Mapping[str, str], out: console.Console) -> None:
    """Serve until SIGTERM, SIGINT, or the terminal is closed.

    Raises:
        Failure: it cannot start; nothing is left running.
    """
    reload = asyncio.Event()
    serving = asyncio.create_task(_serve(options, environ, out, reload))
    loop = asyncio.get_running_loop()
    on_terminal = out.err.isatty()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:  # a second ^C must not cut short what the first began
            stopped = True
            serving.cancel()

    def hang_up() -> None:
        # A terminal that is closed sends SIGHUP and is none any more. Who had none asks for a reload.
        if on_terminal and not out.err.isatty():
            stop()
        else:
            reload.set()

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: hang_up}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        await serving
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def _serve(
    options: Options, environ: Mapping[str, str], out: console.Console, reload: asyncio.Event
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        machine = await _start(options, environ, out, stack)
        async with watching(machine, reload), tidying(machine):
            announce(machine, out)
            reload.set()  # an edit between our reading and our watching
            while True:
                await reload.wait()
                reload.clear()
                await machine.reload()


async def _start(
    options: Options, environ: Mapping[str, str], out: console.Console, stack: contextlib.AsyncExitStack
) -> "Machine":
    """Everything that can be wrong is found before the first process starts."""
    try:
        files = sources.expand(options.files)
        sources.load(files, options.config)  # the cheap mistakes first, before a lock or a chain
        binary = envoy.binary()
        state = await asyncio.to_thread(statedir.take, options.state_dir, limit=_LOCK_LIMIT, say=out.say)
        stack.callback(state.close)
        statedir.end_leftovers(state)
        replica = statedir.replica(state)
    except statedir.StateError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    except envoy.EnvoyError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    port = _reserve(files, options, stack)
    chain = None
    if options.sandbox:
        chain = await _sandbox(stack, out)
    machine = Machine(options, environ, out, state, binary, port, chain, replica)
    machine.inputs = machine.read()
    _check_certificate(machine.inputs, options.config)
    machine.publish(machine.inputs)
    stack.push_async_callback(machine.stop)
    await machine.start()
    return machine


def _reserve(
    files: Collection[Path], options: Options, stack: contextlib.ExitStack | contextlib.AsyncExitStack
) -> int:
    """The listener's port: free now, and when the system chose it, kept free until Envoy has it.

    Raises:
        Failure: it is taken, or not ours to take.
    """
    listen = sources.load(files, options.config).config.listen
    port = listen.port if options.port is None else options.port
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port == 0:
        # Envoy's listeners set it too: bound but not listening, this takes no connection and keeps the number.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        probe.bind((listen.address, port))
    except OSError as error:
        probe.close()
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"listen: expected {listen.address}:{port} to be free, got: {error.strerror}; "
            "stop what listens there, or choose another with --port (0: any)",
        ) from error
    if port != 0:
        probe.close()
        return port
    stack.callback(probe.close)
    return int(probe.getsockname()[1])


async def _sandbox(stack: contextlib.AsyncExitStack, out: console.Console) -> sandbox.Chain:
    try:
        chain = await stack.enter_async_context(sandbox.start(out.say))
    except sandbox.SandboxError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    out.say(
        f"sandbox: every offer is on the development chain {networks.LOCALNET}, with money that is worth nothing; "
        f"challenges live at most {sandbox.LONGEST_CHALLENGE} s"
    )
    return chain


def _check_certificate(inputs: Inputs, config_file: Path | None) -> None:
    certificate = _certificate(inputs, config_file)
    for name, path in (("certificate", certificate.certificate), ("key", certificate.key)) if certificate else ():
        if not os.access(path, os.R_OK):
            raise console.Failure(
                console.WRONG_ENVIRONMENT, f"{config_file}: tls.{name}: expected a file we can read, got {path}"
            )


def _certificate(inputs: Inputs, config_file: Path | None) -> bootstrap.Certificate | None:
    """The listener's files; relative paths are relative to gateway.yaml."""
    tls = inputs.compiled.sources.config.tls
    if tls is None or tls.certificate is None or tls.key is None or config_file is None:
        return None
    folder = config_file.resolve().parent
    return bootstrap.Certificate(str(folder / tls.certificate), str(folder / tls.key))


def _long_enough(source: ir.SecretSource, key: str) -> str:
    if len(key.encode()) < statedir.MIN_KEY_BYTES:
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"secret {source.namespace}/{source.name} key {source.key}: "
            f"expected at least {statedir.MIN_KEY_BYTES} bytes, got {len(key.encode())}; "
            "make one with: openssl rand -hex 32",
        )
    return key


@dataclass(slots=True)
class Machine:
    """A gateway on one machine, from its first publication to its end."""

    options: Options
    environ: Mapping[str, str]
    out: console.Console
    state: statedir.State
    envoy_binary: Path
    port: int
    chain: sandbox.Chain | None
    replica: str  # our name among the gateways that share our store
    inputs: Inputs = field(init=False)
    authz_process: processes.Child = field(init=False)
    envoy_process: processes.Child = field(init=False)
    http: str = ""  # of authz: /readyz, /metrics
    _instance: str = ""
    _refusals: list[str] = field(default_factory=list)  # Envoy's own words since the last publication
    _complaints: tuple[str, ...] = ()  # of the last reload: the same ones are said once
    _later_ledger: str = ""  # what the files said at the last reload: another one is said once
    _told_key: bool = False

    def __post_init__(self) -> None:
        self.authz_process = processes.Child(
            "authz",
            self._authz_command,
            self._authz_ready,
            self.out.warn,
            self._authz_line,
            leaving=lambda line: handover.LEAVING in line,
            stop_signal=signal.SIGINT,  # at once; SIGTERM waits for a successor
        )
        self.envoy_process = processes.Child(
            "envoy", self._envoy_command, self._envoy_ready, self.out.warn, self._envoy_line, self._envoy_ended
        )

    # --- reading and publishing ----------------------------------------------------------------------

    def read(self) -> Inputs:
        """Read, parse, find the secrets, compile. Writes nothing but a first signing key.

        Raises:
            Failure: with every problem.
        """
        overrides: dict[str, Any] = {"listen": {"port": self.port}}
        if self.chain is not None:
            overrides["networks"] = {networks.LOCALNET: self.chain.settings()}
            overrides["maxChallengeLife"] = f"{sandbox.LONGEST_CHALLENGE}s"
        found = sources.load(sources.expand(self.options.files), self.options.config, overrides)
        if self.chain is not None:
            found = sources.on_network(found, networks.LOCALNET, sandbox.CURRENCIES, self.chain.payee)
        folder = local_secrets.Folder(self.options.secrets_dir, self.environ)
        given = self.environ.get("MPP_SECRET_KEY")
        if given:  # it stands for whatever key gateway.yaml names
            found = replace(found, names_keys=False)
        values = sources.secrets(found, folder)
        compiled = sources.build(found, values)
        if found.names_keys:
            keys = tuple(_long_enough(source, values[source]) for source in sources.key_sources(found))
        else:
            keys = (self._signing_key(given),)
        inputs = Inputs(compiled, keys, sources.ledger_address(found, values, self.state.root / LEDGER_NAME))
        try:
            _ = inputs.secret_files
        except secret_files.SecretError as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
        return inputs

    def _signing_key(self, given: str | None) -> str:
        try:
            key, made = statedir.signing_key(self.state, given)
        except statedir.StateError as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
        if made and not self._told_key:
            self._told_key = True
            self.out.say(
                f"made a signing key and keep it in {self.state.root / 'signing.key'} (or set MPP_SECRET_KEY)"
            )
        return key

    def publish(self, inputs: Inputs) -> bool:
        """Secrets first: a cluster that names one finds it. Pricing and routes change in one swap."""
        self._refusals.clear()
        changed = directory.publish(self.state.secrets, inputs.secret_files, mode=0o600)
        return directory.publish(self.state.config, inputs.compiled.compilation.artifacts) or changed

    async def reload(self) -> None:
        """Take the files as they are now, if they are good; else say why not and go on as before."""
        try:
            inputs = await asyncio.to_thread(self.read)
        except console.Failure as failure:
            if failure.problems != self._complaints:
                self._complaints = failure.problems
                self.out.problems(failure.problems)
                self.out.say(f"still serving revision {self.inputs.compiled.compilation.revision}")
            return
        self._complaints = ()
        before = self.inputs
        if self._settings(before) != self._settings(inputs):
            self.out.warn("gateway.yaml: listen, tls and timeouts of Checks take effect at the next start")
        if inputs.ledger not in (before.ledger, self._later_ledger):
            self.out.warn("gateway.yaml: another store, or address of it, takes effect at the next start")
        self._later_ledger = inputs.ledger
        # What was paid is in the one we began with: an authz that starts again must find it there.
        inputs = replace(inputs, ledger=before.ledger)
        if not self.publish(inputs):
            return
        self.inputs = inputs
        if not await self._refused(inputs):
            self.authz_process.signal(signal.SIGHUP)
            announce(self, self.out)
            return
        self.publish(before)  # both planes go on with what was good
        self.inputs = before
        self.out.say(f"still serving revision {before.compiled.compilation.revision}")

    async def _refused(self, inputs: Inputs) -> bool:
        """Whether Envoy refuses these files. One that is slow to take them (many services, a busy machine, a
        start) has not refused them: that is said, and they stay."""
        want = {
            name: json.loads(text)["version_info"]
            for name, text in inputs.compiled.compilation.artifacts.items()
            if name in ("rds.json", "cds.json")
        }
        begun, told = time.monotonic(), False
        while not self._refusals:
            with contextlib.suppress(envoy.EnvoyError):  # it may be starting again
                if await asyncio.to_thread(self.admin.versions) == want:
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

    # --- the processes -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start authz, then Envoy, then ask a real question through the listener.

        Raises:
            Failure: one of them does not serve.
        """
        try:
            async with slowly(self.out, "starting authz"):
                await self.authz_process.start(_AUTHZ_START_LIMIT)
            async with slowly(self.out, "starting envoy"):
                await self.envoy_process.start(_ENVOY_START_LIMIT)
        except processes.Ended as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, _why(error)) from error
        except (processes.NotReady, TimeoutError, OSError) as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
        await self._probe()

    async def stop(self) -> None:
        """Requests in flight first, then those who serve them. Bounded."""
        if self.envoy_process.pid:
            self.out.say("stopping")
            await self._drain()
        await self.envoy_process.stop(5)
        await self.authz_process.stop(self.inputs.compiled.sources.config.settle_wait + 10)

    async def _drain(self) -> None:
        admin = self.admin
        active = f"http.{bootstrap.STAT_PREFIX}.downstream_rq_active"
        deadline = time.monotonic() + self.options.drain
        with contextlib.suppress(envoy.EnvoyError):  # it is gone already
            await asyncio.to_thread(admin.drain)
            while time.monotonic() < deadline:
                if not (await asyncio.to_thread(admin.stats, f"{active}$")).get(active, 0):
                    return
                await asyncio.sleep(_POLL)
            self.out.warn(f"some requests did not end within {self.options.drain:g} s")

    @property
    def admin(self) -> envoy.Admin:
        return envoy.Admin(self.state.sockets / "admin.sock", timeout=_TAKEN_LIMIT)

    @property
    def base(self) -> str:
        """Scheme, address and port of the listener."""
        listen = self.inputs.compiled.sources.config.listen
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.address, listen.address)  # noqa: S104
        scheme = "https" if _certificate(self.inputs, self.options.config) else "http"
        return f"{scheme}://{f'[{address}]' if ':' in address else address}:{self.port}"

    def _child_environ(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.environ.items()
            if name in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
        }

    def _authz_command(self) -> processes.Command:
        config = self.inputs.compiled.sources.config
        if not self.http:
            self.http = f"127.0.0.1:{_free_port()}"
        return processes.Command(
            (
                *(sys.executable, "-m", "mpp_operator.cli", "authz"),
                *("--config-dir", str(self.state.config), "--secrets-dir", str(self.state.secrets)),
                *("--socket", str(self.state.sockets / "authz.sock")),
                *("--ledger", self._ledger_argument()),
                *("--outcomes-dir", str(self.state.outcomes), "--http", self.http),
                *("--slot", f"authz-{self.replica}"),
                *("--settle-wait", f"{config.settle_wait:g}", "--log-level", self.options.log_level),
                *("--handover", f"{_AUTHZ_START_LIMIT:g}"),
            ),
            self._child_environ() | {"PYTHONSAFEPATH": "1"},
            self.state.root,
            (self.state.lock,),
        )

    def _ledger_argument(self) -> str:
        file = self.state.secrets / secret_files.LEDGER_FILE
        return f"file:{file}" if self.inputs.ledger_is_secret else self.inputs.ledger

    async def _authz_ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"http://{self.http}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(_POLL)

    def _authz_line(self, line: str) -> None:
        if not line.startswith(_AUTHZ_SAYS) or self.envoy_process.pid:  # else it is our own last word, too
            self.out.quiet(f"authz: {line}")

    def _settings(self, inputs: Inputs) -> bootstrap.BootstrapSettings:
        """What Envoy is started with, except for the names of this start."""
        config = inputs.compiled.sources.config
        return bootstrap.BootstrapSettings(
            instance="",
            address=config.listen.address,
            port=self.port,
            tls=_certificate(inputs, self.options.config),
            terminated_by=config.tls.terminated_by if config.tls is not None else (),
            admin_socket=str(self.state.sockets / "admin.sock"),
            authz_sockets=(str(self.state.sockets / "authz.sock"),),
            config_dir=str(self.state.config.relative_to(self.state.root)),
            paying_timeout=config.check_timeout,
            minting_timeout=config.challenge_timeout,
        )

    def _envoy_command(self) -> processes.Command:
        # A fresh name each time: authz must never take a new Envoy's file for the rest of an old one's.
        self._instance = f"envoy-{int(time.time())}-{secrets.token_hex(4)}"
        settings = replace(
            self._settings(self.inputs),
            instance=self._instance,
            outcomes_file=f"{self.state.outcomes.name}/{self._instance}{wire.OUTCOME_LIVE_SUFFIX}",
        )
        file = self.state.root / "bootstrap.json"
        file.unlink(missing_ok=True)
        directory.write(file, bootstrap.render(settings), mode=0o600)
        (self.state.sockets / "admin.sock").unlink(missing_ok=True)
        return processes.Command(
            envoy.argv(
                file.name,
                executable=self.envoy_binary,
                concurrency=self.options.concurrency,
                drain_seconds=max(1, int(self.options.drain)),
            ),
            self._child_environ(),
            self.state.root,
            (self.state.lock,),
        )

    async def _envoy_ready(self) -> None:
        while True:
            with contextlib.suppress(envoy.EnvoyError):
                if await asyncio.to_thread(self.admin.ready):
                    return
            if self._refusals:
                raise processes.NotReady(f"envoy refused the configuration: {'; '.join(self._refusals)}")
            await asyncio.sleep(_POLL)

    def _envoy_line(self, line: str) -> None:
        words = envoy.rejection(line)
        if words is None:
            if _WORK_IN_PROGRESS not in line:
                self.out.quiet(f"envoy: {line}")
            return
        self._refusals.append(words)
        self.out.warn(f"envoy refused the configuration: {words}")

    @property
    def outcomes_file(self) -> Path:
        """What this Envoy writes of every paid request."""
        return self.state.outcomes / f"{self._instance}{wire.OUTCOME_LIVE_SUFFIX}"

    def _envoy_ended(self) -> None:
        statedir.end_leftovers(self.state)

    async def _probe(self) -> None:
        """Ask for something that is for sale, as a stranger: listener, filters and authz answer, no upstream is
        bothered.

        Raises:
            Failure: nothing sensible came back in time.
        """
        asked = _question(self.inputs)
        deadline = time.monotonic() + _PROBE_LIMIT
        found = "nothing"
        async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:  # noqa: S501 - it is us
            while time.monotonic() < deadline:
                try:
                    answer = await client.request(
                        asked.method, self.base + asked.path, headers={"Host": asked.host}
                    )
                except httpx.HTTPError as error:
                    found = repr(error)
                else:
                    if answer.status_code in asked.expected:
                        return
                    found = f"{answer.status_code} {answer.text[:200]}"
                await asyncio.sleep(_POLL)
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"listener: expected {asked.method} {asked.path} to be answered with {asked.expected[0]}, got {found}",
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer shows that the gateway serves."""

    method: str
    host: str
    path: str
    expected: tuple[int, ...]


def _question(inputs: Inputs) -> Question:
    """A service's first route, where that is priced: 402, or 421 where challenges may not be issued this way. No
    earlier route can take the request, so wildcards may hold anything. Else the health path."""
    for service in inputs.compiled.compilation.gateway.services:
        route = service.routes[0]
        if route.price is None:
            continue
        path = "".join(f"/{segment or 'x'}" for segment in route.path.segments)
        base = "" if service.base_path == "/" else service.base_path
        tail = "/" if route.path.trailing_slash or not path else ""
        return Question(route.methods[0], service.hosts[0], f"{base}{path}{tail}", (402, 421))
    return Question("GET", "localhost", bootstrap.HEALTH_PATH, (200,))


def announce(machine: Machine, out: console.Console) -> None:
    """The ready line, at start and after each reload."""
    services = banner.describe(machine.inputs.compiled, machine.base)
    chain = machine.chain
    test_money = (
        {"rpcUrl": chain.rpc_url, "chainId": chain.chain_id, "network": networks.LOCALNET, "buyer": chain.buyer,
         "buyerKey": chain.buyer_key, "payee": chain.payee}
        if chain is not None
        else None
    )  # fmt: skip
    if not machine.options.as_json:
        for line in banner.lines(machine.base, services, test_money):
            out.result(line)
        return
    document: dict[str, Any] = {
        "ready": True,
        "url": machine.base,
        "pid": os.getpid(),
        "authzPid": machine.authz_process.pid,
        "envoyPid": machine.envoy_process.pid,
        "http": f"http://{machine.http}",
        "revision": machine.inputs.compiled.compilation.revision,
        "stateDir": str(machine.state.root),
        "sockets": str(machine.state.sockets),
        "services": services,
    }
    if test_money is not None:
        document["sandbox"] = test_money
    out.result(json.dumps(document, sort_keys=True))


@contextlib.asynccontextmanager
async def watching(machine: Machine, reload: asyncio.Event) -> AsyncIterator[None]:
    """Set `reload` whenever an input may have changed. Folders are watched, because editors replace files."""
    options = machine.options
    folders = {path.resolve() if path.is_dir() else path.resolve().parent for path in options.files}
    folders |= {path.absolute().parent for path in options.files if path.is_symlink()}
    if options.config is not None:
        folders |= {options.config.resolve().parent, options.config.absolute().parent}
    watches = [_watch(folders, reload, recursive=False)]
    if options.secrets_dir is not None and options.secrets_dir.is_dir():
        watches.append(_watch({options.secrets_dir.resolve()}, reload, recursive=True))
    tasks = [asyncio.create_task(watch) for watch in watches]
    await asyncio.sleep(0)  # each has begun, and with that it watches
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(folders: set[Path], reload: asyncio.Event, *, recursive: bool) -> None:
    changes = watchfiles.awatch(*sorted(folders), recursive=recursive, debounce=200, step=20, rust_timeout=1000)
    async for _ in changes:
        reload.set()


@contextlib.asynccontextmanager
async def tidying(machine: Machine) -> AsyncIterator[None]:
    """Keep the outcome file short while Envoy lives."""
    task = asyncio.create_task(_tidy(machine))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _tidy(machine: Machine) -> None:
    while True:
        await asyncio.sleep(_TIDY_EVERY)
        with contextlib.suppress(OSError, envoy.EnvoyError):  # it may just have died; there is a next time
            await asyncio.to_thread(
                statedir.put_aside, machine.outcomes_file, machine.admin.reopen_logs, _LONGEST_OUTCOMES
            )


@contextlib.asynccontextmanager
async def slowly(out: console.Console, what: str) -> AsyncIterator[None]:
    """Say what is going on, if it takes longer than a second."""
    handle = asyncio.get_running_loop().call_later(_SLOW, out.say, f"{what} …")
    try:
        yield
    finally:
        handle.cancel()


def _why(error: processes.Ended) -> str:
    """Why a child did not start: authz's last word where it has one."""
    _, said, word = error.last.rpartition(_AUTHZ_SAYS)
    return f"authz cannot start: {word}" if said else str(error)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
