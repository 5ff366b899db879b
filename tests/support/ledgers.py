"""Stores to run the ledger's tests on, each with a fresh database. A new store is one entry of FACTORIES."""

import asyncio
import atexit
import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import missing
import postgres
import pytest

from mpp_authz.ledger import Binding, Ledger, Payment, State, stores

#: Open states: the ones `unfinished` gives.
UNFINISHED: Final = frozenset({State.SETTLING, State.UNKNOWN, State.DELIVERING, State.CREDIT})
BINDING: Final = Binding("shop/llm/complete", "POST", "q", "")


@dataclass(slots=True)
class Store:
    """An empty database, by its address: every `open` is another connection to the same one."""

    url: str

    async def open(self, clock: Callable[[], int] | None = None) -> Ledger:
        return await stores.open_ledger(self.url, clock=clock)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ledger]:
        ledger = await self.open()
        try:
            yield ledger
        finally:
            await ledger.close()


def needs_postgres() -> None:
    """Without PostgreSQL: an error on CI, a loud skip elsewhere."""
    try:
        postgres.find("initdb")
    except postgres.MissingPostgres as error:
        missing.error_or_skip(str(error))


@functools.cache
def postgres_server() -> postgres.Server:
    """One for all tests of this process that do it no harm; it ends with the process."""
    needs_postgres()
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgres.running())


FACTORIES: Final[dict[str, Callable[[Path], Store]]] = {
    "sqlite": lambda folder: Store(f"sqlite:{folder / 'ledger.db'}"),
    "postgresql": lambda folder: Store(postgres_server().database()),
}
#: FACTORIES' names as parameters of a test, each in its tier.
PARAMETERS: Final = [
    pytest.param(name, marks=pytest.mark.store) if name == "postgresql" else name for name in sorted(FACTORIES)
]


@pytest.fixture(params=PARAMETERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each store in turn."""
    return FACTORIES[request.param](tmp_path)


@pytest.fixture
async def ledger(store: Store) -> AsyncIterator[Ledger]:
    async with store.opened() as opened:
        yield opened


def payment(payment_id: str = "p1", state: State = State.SETTLING, **fields: Any) -> Payment:
    """A row with every required field; its reference is made from the id unless given."""
    given: dict[str, Any] = {
        "binding": BINDING,
        "method": "tempo",
        "intent": "charge",
        "network": "moderato",
        "currency": "0xc0",
        "recipient": "0xaa",
        "amount": "50000",
        "mode": "pull",
        "credential_hash": "h" * 64,
        "payer": "0xbb",
        "reference": f"0x{payment_id}",
    }
    return Payment(payment_id, state, **(given | fields))


#: A program that is started, says "ready" and waits for a line before it acts.
_PRELUDE: Final = """
import asyncio, dataclasses, os, sys
import ledgers
from mpp_authz.ledger import State, stores

async def begin(url):
    ledger = await stores.open_ledger(url)
    print("ready", flush=True)
    sys.stdin.readline()
    return ledger
"""


@asynccontextmanager
async def program(body: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that runs `body`, after the prelude above; killed, by its id, at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PRELUDE + body,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # Not by its working folder: PYTHONSAFEPATH, which scripts/test sets, keeps that off the path.
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: asyncio.subprocess.Process, seconds: float = 30) -> str:
    """The process's next line."""
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        return (await process.stdout.readline()).decode().strip()


async def tell(process: asyncio.subprocess.Process, line: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()
