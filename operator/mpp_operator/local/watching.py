"""What goes on beside serving: inputs are watched, and Envoy's outcome file is kept short."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import watchfiles

from mpp_operator import envoy, statedir
from mpp_operator.local.ground import Options
from mpp_operator.local.machine import Machine

#: Seconds.
_TIDY_EVERY: Final = 30.0
#: Bytes; some fifty thousand paid requests.
_LONGEST_OUTCOMES: Final = 16 * 1024 * 1024


@contextlib.asynccontextmanager
async def watching(options: Options, reload: asyncio.Event) -> AsyncIterator[None]:
    """Set `reload` whenever an input may have changed. Folders are watched, because editors replace files."""
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
                statedir.put_aside,
                machine.envoy.outcomes_file,
                machine.ground.admin.reopen_logs,
                _LONGEST_OUTCOMES,
            )
