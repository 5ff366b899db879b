"""What is settled before the first process starts, and stays: state folder, binary, port, a sandbox's chain."""

import asyncio
import contextlib
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpp_operator import console, envoy, networks, sandbox, sources, statedir

#: Seconds to wait for a gateway that is ending in the same folder.
_LOCK_LIMIT: Final = 10.0
#: Seconds that Envoy's admin interface may take for an answer.
_ADMIN_LIMIT: Final = 2.0


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
    metrics: str = ""  # host:port of authz's own pages; "": a free port of 127.0.0.1


@dataclass(frozen=True, slots=True)
class Ground:
    """What a gateway stands on, from its start to its end."""

    options: Options
    environ: Mapping[str, str]
    state: statedir.State
    replica: str  # our name among the gateways that share our store
    envoy_binary: Path
    port: int
    chain: sandbox.Chain | None  # None: no sandbox

    @property
    def authz_socket(self) -> Path:
        return self.state.sockets / "authz.sock"

    @property
    def admin(self) -> envoy.Admin:
        return envoy.Admin(self.state.sockets / "admin.sock", timeout=_ADMIN_LIMIT)


async def settle(
    options: Options, environ: Mapping[str, str], out: console.Console, stack: contextlib.AsyncExitStack
) -> Ground:
    """Find what can be wrong with files and machine, and take what we need of it until `stack` ends.

    Raises:
        Failure: with what is wrong.
    """
    try:
        files = sources.expand(options.files)
        sources.load(files, options.config)  # the cheap mistakes first, before a lock or a chain
        binary = envoy.binary()
        state = await asyncio.to_thread(statedir.take, options.state_dir, limit=_LOCK_LIMIT, say=out.say)
        stack.callback(state.close)
        statedir.end_leftovers(state)
        replica = statedir.replica(state)
    except (statedir.StateError, envoy.EnvoyError) as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    port = _reserve(files, options, stack)
    chain = await _sandbox(stack, out) if options.sandbox else None
    return Ground(options, environ, state, replica, binary, port, chain)


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
