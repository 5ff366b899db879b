"""A node that misbehaves: forwards JSON-RPC, and drops, refuses or delays what a test names."""

import asyncio
import json
from typing import Any, Self

import httpx


class Proxy:
    """`async with Proxy(chain.rpc_url) as proxy: proxy.drop("eth_call")`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._drop: set[str] = set()
        self._drop_answers: set[str] = set()
        self._refuse: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: list[str] = []

    def drop(self, method: str) -> None:
        """Cut the connection, and forward nothing."""
        self._drop.add(method)

    def drop_answers_of(self, method: str) -> None:
        """Forward, and cut the connection before the answer."""
        self._drop_answers.add(method)

    def refuse(self, method: str) -> None:
        """Answer 503."""
        self._refuse.add(method)

    async def __aenter__(self) -> Self:
        self._http = httpx.AsyncClient(timeout=30, trust_env=False)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await self._server.wait_closed()
        await self._http.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        call: dict[str, Any] = json.loads(await reader.readexactly(length))
        method = call["method"]
        self.seen.append(method)
        if method in self._drop:
            return False
        if method in self._refuse:
            status, body = "503 Service Unavailable", b"{}"
        else:
            status, body = "200 OK", (await self._http.post(self._upstream, json=call)).content
        if method in self._drop_answers:
            return False
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True
