"""Development chains for tests: one for the session, and fresh ones for tests that play with time.

A chain runs in a thread with an event loop of its own, so that synchronous and asynchronous tests share it.
"""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import missing
import pytest

from mpp_operator import sandbox

Chain = sandbox.Chain
PATH_USD = sandbox.CURRENCIES["pathUSD"]
ALPHA_USD = sandbox.CURRENCIES["AlphaUSD"]


@contextlib.contextmanager
def running(chain_id: int = sandbox.CHAIN_ID) -> Iterator[sandbox.Chain]:
    """A fresh chain, on a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()
    outcome: list[sandbox.Chain | BaseException] = []

    async def live() -> None:
        try:
            async with sandbox.start(chain_id=chain_id) as chain:
                outcome.append(chain)
                ready.set()
                await stop.wait()
        except BaseException as error:
            outcome.append(error)
            raise
        finally:
            ready.set()

    def work() -> None:
        with contextlib.suppress(sandbox.SandboxError):
            loop.run_until_complete(live())
        loop.close()

    thread = threading.Thread(target=work, name="development chain")
    thread.start()
    ready.wait()
    try:
        first = outcome[0]
        if isinstance(first, BaseException):
            raise first
        yield first
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed where the chain never started
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def needs_npm() -> None:
    """anvil comes from npm: without it an error on CI, a loud skip elsewhere."""
    if os.environ.get("MPP_GATEWAY_ANVIL") or sandbox.cache_dir().is_dir() or shutil.which("npm"):
        return
    missing.error_or_skip("the development chain needs anvil: install Node.js (with npm)")


@pytest.fixture(scope="session")
def chain() -> Iterator[sandbox.Chain]:
    """The session's chain. Its time is the wall clock's; nobody moves it."""
    needs_npm()
    with running() as started:
        yield started


@pytest.fixture
def fresh_chain() -> Iterator[sandbox.Chain]:
    """A chain of one's own, whose time may be moved."""
    needs_npm()
    with running() as started:
        yield started


def rpc(chain: sandbox.Chain, method: str, *params: object) -> Any:
    """One JSON-RPC call."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    document = httpx.post(chain.rpc_url, json=question, timeout=30, trust_env=False).json()
    if "error" in document:
        raise RuntimeError(f"{method}: {document['error']}")
    return document["result"]


def pass_time(chain: sandbox.Chain, seconds: int) -> None:
    """Move the block time of a chain of one's own."""
    rpc(chain, "evm_increaseTime", seconds)
    rpc(chain, "evm_mine")
