"""What is settled before the first process starts, and stays: state folder, binary, port, a sandbox's chain."""

import asyncio
import contextlib
import difflib
import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping
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
        _readable_again((*files, *([options.config] if options.config is not None else [])))
        sources.load(files, options.config)  # the cheap mistakes first, before a lock or a chain
        binary = envoy.binary()
        state = await asyncio.to_thread(statedir.take, options.state_dir, limit=_LOCK_LIMIT, say=out.say)
        stack.callback(state.close)
        statedir.end_leftovers(state)
        replica = statedir.replica(state)
    except (statedir.StateError, envoy.EnvoyError) as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    except OSError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, statedir.unusable(options.state_dir, error)) from error
    for name, meant in misspelled(environ):
        out.warn(f"environment: {name} is read by nobody here; is {meant} meant?")
    port = _reserve(files, options, stack)
    chain = await _sandbox(stack, out) if options.sandbox else None
    return Ground(options, environ, state, replica, binary, port, chain)


#: Variables of ours, and those that start with our letters beside them.
_VARIABLES: Final = ("MPP_SECRET_KEY", "MPP_PRIVATE_KEY", "MPP_RPC_URL", "MPP_GATEWAY_ANVIL")


def misspelled(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Variables that look like one of ours, each with the one that may be meant."""
    return tuple(
        (name, near[0])
        for name in sorted(environ)
        if name.startswith("MPP") and name not in _VARIABLES
        if (near := difflib.get_close_matches(name, _VARIABLES, 1, 0.8))
    )


#: What to do where the listener's port cannot be had.
_LISTEN_FIXES: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "stop what listens there, or choose another with --port (0: any)",
    errno.EACCES: "choose a port from 1024 with --port, or let this user bind lower ones",
    errno.EADDRNOTAVAIL: "name an address of this machine in gateway.yaml's listen.address",
    errno.EAFNOSUPPORT: "this machine has no such addresses: name another in gateway.yaml's listen.address",
}


def _bound(address: str, port: int) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port == 0:
            # Envoy's listeners set it too: bound but not listening, this takes no connection and keeps the number.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((address, port))
    except OSError:
        probe.close()
        raise
    return probe


def _readable_again(files: Iterable[Path]) -> None:
    """A pipe or a device is read once; we read at each change.

    Raises:
        Failure: one is no regular file.
    """
    problems = [
        f"{file}: expected a regular file, because run reads it again at each change; write it into one"
        for file in files
        if os.path.exists(file) and not os.path.isfile(file)
    ]
    if problems:
        raise console.Failure(console.WRONG_INPUT, *problems)


def _reserve(
    files: Collection[Path], options: Options, stack: contextlib.ExitStack | contextlib.AsyncExitStack
) -> int:
    """The listener's port: free now, and when the system chose it, kept free until Envoy has it.

    Raises:
        Failure: it is taken, or not ours to take.
    """
    listen = sources.load(files, options.config).config.listen
    port = listen.port if options.port is None else options.port
    place = f"[{listen.address}]:{port}" if ":" in listen.address else f"{listen.address}:{port}"
    try:
        probe = _bound(listen.address, port)
    except OSError as error:
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"listen: expected {place} to be free, got: {error.strerror}; "
            + _LISTEN_FIXES.get(error.errno or 0, "choose another with --port or listen.address"),
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
    except OSError as error:
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"sandbox: expected a program for this machine at {error.filename}, got: {error.strerror}; "
            "name another in MPP_GATEWAY_ANVIL, or unset it to have anvil installed from npm",
        ) from error
    out.say(
        f"sandbox: every offer is on the development chain {networks.LOCALNET}, with money that is worth nothing; "
        f"challenges live at most {sandbox.LONGEST_CHALLENGE} s"
    )
    return chain
