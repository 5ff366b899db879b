"""A node that stops one call on its way: before it reaches the chain, or before the answer goes back.

Deterministic moments for killing authz. `held` is set when the moment has come, `release` lets the call go on;
`deaf` makes the node answer nothing at all, and `lose_answer` sends a transaction on and drops the answer to it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx

SEND: Final = "eth_sendRawTransactionSync"


@dataclass(slots=True)
class Node:
    """A running proxy in front of a chain's RPC."""

    upstream: str
    url: str = ""
    hold: tuple[str, Literal["before", "after"]] | None = None  # which call stops next, and where
    lose_answer: bool = False  # of the next transaction; the node is deaf from then on
    deaf: bool = False
    held: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[str] = field(default_factory=list)  # transactions that reached the chain, raw

    async def _answer(self, http: httpx.AsyncClient, call: dict[str, Any]) -> bytes | None:
        """What the chain says; None: nothing is answered."""
        if self.deaf:
            return None
        method = call["method"]
        if self.hold == (method, "before"):
            await self._stop()
        if method == SEND:
            self.sent.append(call["params"][0])
        answer = (await http.post(self.upstream, json=call)).content
        if self.hold == (method, "after"):
            await self._stop()
        if method == SEND and self.lose_answer:
            self.deaf = True
            return None
        return answer

    async def _stop(self) -> None:
        self.hold = None  # the next one goes through
        self.held.set()
        await self.release.wait()


@contextlib.asynccontextmanager
async def serve(upstream: str) -> AsyncIterator[Node]:
    """A node for the length of the block."""
    node = Node(upstream)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while await _exchange(node, http, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client was killed, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        node.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield node
        finally:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()


async def _exchange(
    node: Node, http: httpx.AsyncClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    # A client that is killed while its transaction is held must not take the transaction with it.
    body = await asyncio.shield(node._answer(http, json.loads(await reader.readexactly(length))))
    if body is None:
        return False
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return True
