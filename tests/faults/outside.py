"""What is around a gateway and can fail: the chain's node and the upstream, both real servers on loopback that do
what a fault tells them. Both announce their moments (points.py) and remember what they saw.

The node stands in front of anvil. A fault's word to it: "drop" (no answer, the connection ends), "refuse" (a
JSON-RPC error), "duplicate" (the call reaches the chain twice). The upstream's word: "reset". Either can be paused
(it takes connections and answers nothing, as a stopped process does) and be down (its port refuses).
"""

import asyncio
import contextlib
import hashlib
import json
import socket
import struct
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import control
import httpx
import points
import witnesses
from eth_hash.auto import keccak

_REFUSED: Final = {"jsonrpc": "2.0", "error": {"code": -32000, "message": "the node refuses"}}
#: Between two parts of a slow answer. Seconds.
_SLOW: Final = 0.25


@dataclass(slots=True)
class Server:
    """An HTTP/1.1 server that keeps its port while it is down, and can be paused."""

    port: int = 0
    _server: asyncio.Server | None = None
    _running: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: dict["asyncio.Task[None]", asyncio.StreamWriter] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        """Listen, and go on where it was paused."""
        self._running.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """As if its process was killed: every connection is reset, and new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task, writer in tuple(self._connections.items()):
            reset(writer)
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            while await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side is gone, or this one was killed
        finally:
            del self._connections[task]
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        raise NotImplementedError


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Method, target, headers (lower case) and body of one request."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (text.partition(":") for text in lines if text)
    }
    body = b""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return method, target, headers, body


# --- the node ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Node(Server):
    """A node of the chain, between whoever is paid and anvil. `sent_at` says when a transaction first came, by its
    hash."""

    points: control.Control = field(default_factory=control.Control)
    chain_url: str = ""
    sent_at: dict[str, float] = field(default_factory=dict)
    swallows: bool = False  # transactions, which never reach the chain
    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=30, trust_env=False))
    _forwarding: set["asyncio.Task[bytes | None]"] = field(default_factory=set)

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, target, _, body = await _request(reader)
        question = json.loads(body)
        # Whoever asked may die meanwhile: what the chain was told, it was told.
        task = asyncio.create_task(self._all(question, _number(target.removeprefix("/"))))
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)
        answer = await asyncio.shield(task)
        if answer is None:
            return False
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
        writer.write(head.encode() + answer)
        await writer.drain()
        return True

    async def _all(self, question: Any, replica: int | None) -> bytes | None:
        if not isinstance(question, list):
            return await self._answer(question, replica)
        answers = [await self._answer(call, replica) for call in question]
        if None in answers:
            return None
        return b"[" + b",".join(answer or b"" for answer in answers) + b"]"

    async def _answer(self, call: dict[str, Any], replica: int | None) -> bytes | None:
        """What the chain says; None: nothing is answered."""
        await self._running.wait()
        name = points.RPC_NAMES.get(call["method"])
        word = await self._at(name, "before", replica)
        await self._running.wait()
        if word == "drop":
            return None
        if word == "refuse":
            return json.dumps(_REFUSED | {"id": call.get("id")}).encode()
        if name == "send" and self.swallows:
            return None
        if name == "send":
            raw = bytes.fromhex(call["params"][0].removeprefix("0x"))
            self.sent_at.setdefault("0x" + keccak(raw).hex(), time.monotonic())
        answer = (await self.http.post(self.chain_url, json=call)).content
        if word == "duplicate":
            answer = (await self.http.post(self.chain_url, json=call)).content
        word = await self._at(name, "after", replica)
        await self._running.wait()
        if word == "drop":
            return None
        return json.dumps(_REFUSED | {"id": call.get("id")}).encode() if word == "refuse" else answer

    async def _at(self, name: str | None, where: str, replica: int | None) -> str | None:
        point = f"rpc.{name}.{where}"
        return await self.points.at(point, replica=replica) if point in points.RPC else None


@contextlib.asynccontextmanager
async def node(chain_url: str, at: control.Control) -> AsyncIterator[Node]:
    """A node for the length of the block."""
    started = Node(points=at, chain_url=chain_url)
    await started.up()
    try:
        yield started
    finally:
        await started.down()
        for task in tuple(started._forwarding):
            task.cancel()
        await asyncio.gather(*started._forwarding, return_exceptions=True)
        await started.http.aclose()


# --- the upstream --------------------------------------------------------------------------------------


class Mood(StrEnum):
    """How the upstream answers one request. When a case has none left it is well."""

    WELL = "well"
    SLOW = "slow"
    S500 = "500"
    S503 = "503"
    S404 = "404"
    S402 = "402"  # an upstream that wants money, too
    RESET = "reset"  # before the headers
    BREAK = "break"  # in the body
    HANG = "hang"  # no answer until the other side gives up


@dataclass(slots=True)
class _Seen:
    """A hit as it goes on; `witnesses.Hit` is what is left of it."""

    hit: witnesses.Hit
    replica: int | None  # whose gateway asked
    status: int = 0
    finished: bool = False


@dataclass(slots=True)
class Upstream(Server):
    """The API that is sold. It knows each case's moods, and forgets no request."""

    points: control.Control = field(default_factory=control.Control)
    prefix: str = ""  # what a payee took off the path, to be put back into the record
    _seen: list[_Seen] = field(default_factory=list)
    _moods: dict[str, deque[Mood]] = field(default_factory=lambda: defaultdict(deque))

    def moods(self, case: str, moods: tuple[Mood, ...]) -> None:
        """Its next answers to that case."""
        self._moods[case] = deque(moods)

    def well(self) -> None:
        """From now on every answer is good."""
        self._moods.clear()

    def take(self) -> tuple[witnesses.Hit, ...]:
        """What was seen since the last time."""
        seen, self._seen = self._seen, []
        return tuple(
            witnesses.Hit(
                at=one.hit.at,
                method=one.hit.method,
                target=one.hit.target,
                body_hash=one.hit.body_hash,
                payment=one.hit.payment,
                attempt=one.hit.attempt,
                idempotency_key=one.hit.idempotency_key,
                status=one.status,
                finished=one.finished,
            )
            for one in seen
        )

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, headers, body = await _request(reader)
        if not target.startswith(self.prefix):
            target = self.prefix + target
        seen = _Seen(
            witnesses.Hit(
                at=time.monotonic(),
                method=method,
                target=target,
                body_hash=hashlib.sha256(body).hexdigest() if body else "",
                payment=headers.get("x-mpp-payment-id"),
                attempt=_number(headers.get("x-mpp-attempt", "")),
                idempotency_key=headers.get("idempotency-key"),
            ),
            _number(headers.get("x-replica", "")),
        )
        self._seen.append(seen)
        return await self._answered(seen, writer, reader)

    async def _answered(self, seen: _Seen, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> bool:
        moods = self._moods.get(control.case_of(seen.hit.target) or "")
        mood = moods.popleft() if moods else Mood.WELL
        if await self._at("upstream.hit", seen, writer) or mood is Mood.RESET:
            reset(writer)
            return False
        if mood is Mood.HANG:
            while await reader.read(1 << 16):
                pass
            return False
        if mood in (Mood.S500, Mood.S503, Mood.S404, Mood.S402):
            text = b"the upstream says so"
            writer.write(f"HTTP/1.1 {mood} X\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            seen.status, seen.finished = int(mood), True
            await self._at("upstream.finished", seen, writer)
            return True
        head, halves = _answer(seen.hit)
        writer.write(head)
        await writer.drain()
        seen.status = 200
        if await self._at("upstream.headers", seen, writer):
            reset(writer)
            return False
        for number, half in enumerate(halves):
            if mood is Mood.SLOW:
                await asyncio.sleep(_SLOW)
            writer.write(half)
            await writer.drain()
            if number == 0 and (await self._at("upstream.half", seen, writer) or mood is Mood.BREAK):
                reset(writer)
                return False
        seen.finished = True
        await self._at("upstream.finished", seen, writer)
        return True

    async def _at(self, point: str, seen: _Seen, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection has to break here."""
        word = await self.points.at(point, case=control.case_of(seen.hit.target), replica=seen.replica)
        await self._running.wait()
        return word == "reset" or writer.is_closing()


def _answer(hit: witnesses.Hit) -> tuple[bytes, tuple[bytes, bytes]]:
    """Headers, and the body in two halves: server-sent events where the place is a stream."""
    if hit.target.partition("?")[0].endswith("/live"):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        return head, (_chunk(b"data: begun\n\n"), _chunk(b"data: ended\n\n") + b"0\r\n\r\n")
    body = json.dumps({"method": hit.method, "target": hit.target, "sold": "x" * 2000}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    return head, (body[: len(body) // 2], body[len(body) // 2 :])


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextlib.asynccontextmanager
async def upstream(at: control.Control, prefix: str = "") -> AsyncIterator[Upstream]:
    """An upstream for the length of the block."""
    started = Upstream(points=at, prefix=prefix)
    await started.up()
    try:
        yield started
    finally:
        await started.down()
