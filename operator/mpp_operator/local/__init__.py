"""One machine: `mpp-gateway run`. Reads, compiles, publishes, keeps authz and Envoy running, says what it did.

    files --inputs--> Inputs --machine--> config/, secrets/ --watched by--> Envoy, authz (children)

A shell: prices, routes and conflicts are decided by the compiler, payments by authz. A bad edit is said, and the
last good version goes on serving, in Envoy and in authz alike.
"""

import asyncio
import contextlib
import signal
from collections.abc import Mapping

from mpp_operator import console, statedir
from mpp_operator.local import ground, inputs, nodes
from mpp_operator.local.ground import Options
from mpp_operator.local.machine import Machine
from mpp_operator.local.watching import tidying, watching

__all__ = ["Options", "run"]


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
        async with watching(options, reload), tidying(machine):
            machine.announce()
            reload.set()  # an edit between our reading and our watching
            while True:
                await reload.wait()
                reload.clear()
                await machine.reload()


async def _start(
    options: Options, environ: Mapping[str, str], out: console.Console, stack: contextlib.AsyncExitStack
) -> Machine:
    """Everything that can be wrong is found before the first process starts, but for what the nodes say: they are
    asked meanwhile."""
    ours = await ground.settle(options, environ, out, stack)
    files = inputs.read(ours, out.say)
    inputs.check_certificate(files)
    asking = asyncio.create_task(nodes.ask(files.networks if ours.chain is None else ()))
    stack.push_async_callback(_cancelled, asking)
    machine = Machine(ours, out, files)
    try:
        machine.publish(files)
        stack.push_async_callback(machine.stop)
        await machine.start()
    except OSError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, statedir.unusable(options.state_dir, error)) from error
    found = await asking
    for line in found.warnings:
        out.warn(line)
    if found.problems:
        raise console.Failure(console.WRONG_ENVIRONMENT, *found.problems)
    return machine


async def _cancelled(task: asyncio.Task[nodes.Findings]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
