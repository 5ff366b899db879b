"""The authz process: put the parts together, serve, stop. Decides nothing.

`mpp-gateway authz --config-dir DIR --secrets-dir DIR --socket PATH --ledger sqlite:PATH`. SIGHUP reads the
configuration again; SIGTERM answers the Checks that wait, then ends; with `--handover` it waits for a successor on
the same socket first. SIGINT never waits.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import math
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import uvloop
from envoy.service.accesslog.v3 import als_pb2_grpc
from envoy.service.auth.v3 import external_auth_pb2_grpc
from grpc_health.v1 import health, health_pb2_grpc

from mpp_authz import handover, logs, metrics, reload
from mpp_authz.closing import Closer
from mpp_authz.decide import Gate
from mpp_authz.ledger import Ledger, LedgerUnavailable, State, stores
from mpp_authz.methods import ENTRY_POINTS, Method
from mpp_authz.metrics import Metrics
from mpp_authz.outcomes import AccessLog
from mpp_authz.patience import Times
from mpp_authz.reload import Watched
from mpp_authz.service import Authorization
from mpp_authz.settlement import Settler
from mpp_authz.signers import OtherKeys, Signers
from mpp_authz.sweeping import Sweeper

log = logging.getLogger(__name__)

_RECURSION_LIMIT: Final = 1_000
#: Seconds between two words of a ledger that takes long to open.
_SAY_EVERY: Final = 3.0
#: Seconds that an option may ask for.
_LONGEST_WAIT: Final = 3_600
#: Rows whose amounts the metric of owed payments adds up at the most.
_OWED_ROWS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How one authz process runs. Times are seconds."""

    config_dir: Path
    secrets_dir: Path
    socket: Path
    ledger: str
    outcomes_dir: Path | None = None
    http: str | None = None
    slot: str = "authz-0"
    times: Times = field(default_factory=Times)
    grace: float = 15.0
    handover: float = 0.0


class StartError(Exception):
    """The process cannot start here. The message names the setting and the fix."""


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT. Exit codes: 0 stopped, 2 usage, 3 the environment is wrong."""
    options = _parser().parse_args(arguments)
    logs.to_stderr(options.log_level)
    settings = Settings(
        config_dir=options.config_dir,
        secrets_dir=options.secrets_dir,
        socket=options.socket,
        ledger=options.ledger,
        outcomes_dir=options.outcomes_dir,
        http=options.http,
        slot=options.slot,
        times=Times(options.settle_wait, options.in_progress_wait),
        grace=options.grace,
        handover=options.handover,
    )
    try:
        uvloop.run(run(settings))
    except (StartError, reload.StartError, OtherKeys, LedgerUnavailable, ValueError) as error:
        print(f"mpp-gateway authz: {error}", file=sys.stderr)  # noqa: T201 - a command's last word
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mpp-gateway authz", description="Answer Envoy's Checks.")
    parser.add_argument("--config-dir", type=Path, required=True, help="folder with pricing.json")
    parser.add_argument("--secrets-dir", type=Path, required=True, help="folder with authz.json")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument(
        "--ledger", required=True, help="the ledger, such as sqlite:/var/lib/mpp-gateway/ledger.db"
    )
    parser.add_argument("--outcomes-dir", type=Path, help="folder of Envoy's outcome files")
    parser.add_argument("--http", help="host:port for /metrics, /healthz and /readyz; port 0: the system chooses")
    parser.add_argument("--slot", default="authz-0", help="stable name of this process among its kind")
    parser.add_argument("--settle-wait", type=_seconds, default=10.0, help="seconds a Check waits for settlements")
    parser.add_argument("--in-progress-wait", type=_seconds, default=2.0, help="and how long for another Check")
    parser.add_argument("--grace", type=_seconds, default=15.0, help="seconds to finish Checks at the end")
    parser.add_argument(
        "--handover", type=_seconds, default=0.0, help="seconds to wait for a successor after SIGTERM (default: 0)"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(default: info)"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to {_LONGEST_WAIT}, got {text!a}")
    return seconds


async def run(settings: Settings) -> None:
    """Serve until a signal says stop.

    Raises:
        StartError, reload.StartError, OtherKeys, LedgerUnavailable, ValueError: it cannot start; says why.
    """
    keeper = handover.Keeper()
    counters = Metrics()
    watched = await Watched.start(settings.config_dir, settings.secrets_dir, counters)
    ledger = await _open_ledger(settings.ledger, keeper)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        methods = _methods(lambda name: watched.keys.fee_payers.get(name), lambda: ledger.clock() / 1000)
        # py_ecc, which eth-account brings, raises it to 100,000 when imported: nested JSON of a stranger would
        # overflow the C stack before it became a RecursionError.
        sys.setrecursionlimit(_RECURSION_LIMIT)
        for method in methods.values():
            stack.push_async_callback(method.aclose)
        owner = f"{settings.slot}/{secrets.token_hex(8)}"
        closer = Closer(ledger, settings.outcomes_dir, counters, settings.times, owner)
        settler = Settler(ledger, methods, owner, counters, settings.times)
        signers = Signers(ledger, lambda: watched.keys.challenge, owner, settings.times)
        await signers.join()
        await settler.networks.remember(watched.pricing.networks)
        watched.on_change(lambda: _remember(settler, watched))
        gate = Gate(
            terms=watched,
            ledger=ledger,
            methods=methods,
            settler=settler,
            closer=closer,
            metrics=counters,
            times=settings.times,
        )
        stop, at_once = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hurry() -> None:
            at_once.set()
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, hurry)
        loop.add_signal_handler(signal.SIGHUP, watched.request)

        # The socket last: whoever takes it over from a running process must be able to serve.
        serving = asyncio.Event()
        endpoint = None
        if settings.http is not None:
            endpoint = await _serve_metrics(settings.http, counters, ledger, serving)
            stack.push_async_callback(endpoint.aclose)
        news = AccessLog(closer)
        server, status = _server(gate, news, counters)
        listening = await _listen(server, settings.socket)
        serving.set()
        sweeper = Sweeper(ledger, settler, closer)
        background = [
            asyncio.create_task(watched.watch(), name="watching the configuration"),
            asyncio.create_task(sweeper.run(), name="sweeping"),
            asyncio.create_task(signers.run(), name="saying which keys sign"),
        ]
        for task in background:
            task.add_done_callback(lambda ended: _ended(ended, stop))
        # What is loaded by now stays: no garbage collection has to walk through it again.
        gc.collect()
        gc.freeze()
        log.info("serving", extra={"socket": str(settings.socket), "slot": settings.slot})
        await stop.wait()

        if settings.handover > 0 and not at_once.is_set():
            if endpoint is not None:
                await endpoint.aclose()  # the successor listens there
            keeper.tell()
            await keeper.took_over(settings.socket, listening, settings.handover, at_once)
            news.leave()
        # Nobody kept us: the next gateway on this ledger ends what runs, and waits for us to be gone.
        grace = 0.0 if settings.handover > 0 and keeper.gone() else settings.grace
        serving.clear()
        await status.enter_graceful_shutdown()
        await server.stop(grace)
        _unlink_ours(settings.socket, listening)
        await settler.aclose(grace)
        await signers.leave()
        if grace > 0:  # else Checks were cut, and whoever was let through may not have heard
            await sweeper.leave()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        log.info("stopped")


async def _open_ledger(url: str, keeper: handover.Keeper) -> Ledger:
    """As `stores.open_ledger`. A schema may take minutes to be brought up to date, by us or by another gateway:
    whoever would stop us meanwhile would make it begin anew."""
    opening = asyncio.create_task(stores.open_ledger(url))
    try:
        while not (await asyncio.wait({opening}, timeout=_SAY_EVERY))[0]:
            keeper.tell(handover.OPENING)
    finally:
        opening.cancel()  # of no effect when it is done
    return opening.result()


def _ended(task: "asyncio.Task[None]", stop: asyncio.Event) -> None:
    """Work that never ends has ended: whoever keeps us starts a process in which it runs."""
    if not task.cancelled() and not stop.is_set():
        log.critical("background work ended", extra={"work": task.get_name()}, exc_info=task.exception())
        stop.set()


def _methods(secret: Callable[[str], str | None], clock: Callable[[], float]) -> dict[str, Method]:
    """Every installed payment method, by name. They read the store's clock, as everything about payments does."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    made = [point.load()(secret, clock) for point in found]
    if not made:
        raise StartError(f"no payment methods: expected entry points of {ENTRY_POINTS}; install mpp-gateway again")
    return {method.name: method for method in made}


def _remember(settler: Settler, watched: Watched) -> None:
    async def remember() -> None:
        try:
            await settler.networks.remember(watched.pricing.networks)
        except LedgerUnavailable as error:  # the sweeper does it when the store is back
            log.error("networks not remembered", extra={"error": str(error)})

    settler.shielded(remember())


def _server(gate: Gate, news: AccessLog, counters: Metrics) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_concurrent_streams", 1024),
            ("grpc.so_reuseport", 0),
            # A Check carries at most 60 KiB of headers and the body a route binds.
            ("grpc.max_receive_message_length", 16 * 1024 * 1024),
        ]
    )
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(gate, counters), server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(news, server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    return server, status


async def _listen(server: grpc.aio.Server, path: Path) -> int:
    """Listen on the socket; one that another process still serves is taken over, and that one drains.

    Returns the socket's inode, so that only ours is removed at the end.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    old_mask = os.umask(0o177)
    try:
        if not server.add_insecure_port(f"unix:{fresh}"):
            raise StartError(f"--socket {path}: cannot listen there")
        await server.start()
    except RuntimeError as error:
        raise StartError(
            f"--socket {path}: cannot listen there; its folder must exist and the path be under 100 bytes"
        ) from error
    finally:
        os.umask(old_mask)
    os.rename(fresh, path)
    return os.stat(path).st_ino


def _unlink_ours(path: Path, inode: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


async def _serve_metrics(
    address: str, counters: Metrics, ledger: Ledger, serving: asyncio.Event
) -> metrics.Endpoint:
    async def refresh() -> None:
        counters.ledger(await ledger.counts(), await ledger.listing(frozenset({State.OWED}), _OWED_ROWS))

    try:
        return await metrics.serve(
            address, counters, lambda: None if serving.is_set() else "not serving Checks", refresh=refresh
        )
    except OSError as error:
        raise StartError(f"--http {address}: {error.strerror}; choose another port") from error
