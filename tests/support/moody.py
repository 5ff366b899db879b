"""An upstream with moods: what it answers next is said by the test, place by place, and nothing is forgotten.

    with moody.serving() as upstream:
        upstream.moods("/shop", moody.Says(500), moody.Resets())   # then it is well again
        upstream.hits("/shop")

A mood answers one request. When a place has none left it is well: 200, with a JSON echo of what arrived. Raw
asyncio on a thread of its own, because a framework would hide the ways in which a connection breaks.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hit:
    """One request, whole, as it arrived. Header names are lower case; repeated ones are joined with a comma."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Connection:
    """One client of ours: Envoy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Returns when the other side has hung up."""
        while await self.reader.read(1 << 16):
            pass

    def reset(self) -> None:
        """RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Mood(Protocol):
    async def answer(self, hit: Hit, connection: Connection) -> bool:
        """Answer one request; whether the connection goes on."""
        ...


class Gate:
    """Something a mood waits for, opened by the test."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        while not self._open.is_set():  # noqa: ASYNC110 - it is opened from another thread
            await asyncio.sleep(0.005)


OPEN = Gate()
OPEN.open()


# --- moods ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Well:
    """200 and an echo."""

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        document = {"method": hit.method, "target": hit.target, "body": hit.body.decode("latin-1")}
        return await Says(200, json.dumps(document).encode()).answer(hit, connection)


@dataclass(frozen=True, slots=True)
class Says:
    """A whole answer, when the gate is open."""

    status: int
    body: bytes = b"upstream says so"
    headers: tuple[tuple[str, str], ...] = ()
    gate: Gate = OPEN

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        await self.gate.passed()
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        bare = self.status in (204, 304)
        length = "" if bare else f"content-length: {len(self.body)}\r\n"
        body = b"" if bare or hit.method == "HEAD" else self.body
        await connection.send(f"HTTP/1.1 {self.status} X\r\n{length}{extra}\r\n".encode() + body)
        return True


@dataclass(frozen=True, slots=True)
class Resets:
    """Nothing but a reset: the request was read, and no header goes out."""

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        connection.reset()
        return False


@dataclass(frozen=True, slots=True)
class HangsUp:
    """Nothing but the end of the connection."""

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        connection.writer.close()
        return False


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer at all, until the other side gives up."""

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        await connection.gone()
        return False


@dataclass(frozen=True, slots=True)
class Breaks:
    """200 and the first bytes of a body; then, when the gate is open, a reset or just the end."""

    gate: Gate = OPEN
    reset: bool = True
    chunked: bool = False
    content_type: str = "text/plain"

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        framing, part = "content-length: 1000", b"x" * 100
        if self.chunked:
            framing, part = "transfer-encoding: chunked", b"64\r\n" + part + b"\r\n"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {self.content_type}\r\n{framing}\r\n\r\n"
        await connection.send(head.encode() + part)
        await self.gate.passed()
        if self.reset:
            connection.reset()
        else:
            connection.writer.close()
        return False


@dataclass(frozen=True, slots=True)
class Streams:
    """Server-sent events: one at once, the last when the gate is open."""

    gate: Gate = OPEN

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        await connection.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await connection.send(_chunk(b"data: started\n\n"))
        await self.gate.passed()
        await connection.send(_chunk(b"data: ended\n\n") + b"0\r\n\r\n")
        return True


@dataclass(frozen=True, slots=True)
class Pours:
    """200 and so many bytes, as fast as they are taken."""

    size: int

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        await connection.send(f"HTTP/1.1 200 OK\r\ncontent-length: {self.size}\r\n\r\n".encode())
        left = self.size
        while left:
            part = min(left, 1 << 16)
            await connection.send(b"z" * part)
            left -= part
        return True


@dataclass(frozen=True, slots=True)
class Echoes:
    """A WebSocket that sends every short text frame back, until it is closed."""

    async def answer(self, hit: Hit, connection: Connection) -> bool:
        key = hit.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        await connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            + f"sec-websocket-accept: {accept}\r\n\r\n".encode()
        )
        while True:
            start = await connection.reader.readexactly(6)
            payload = await connection.reader.readexactly(start[1] & 0x7F)
            data = bytes(byte ^ start[2 + at % 4] for at, byte in enumerate(payload))
            await connection.send(bytes([start[0], len(data)]) + data)
            if start[0] & 0x0F == 0x8:  # a close frame, and we have closed, too
                return False


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# --- the upstream --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Upstream:
    """A running upstream. A place is the first segment of the path, with its slash."""

    port: int = 0
    _hits: dict[str, list[Hit]] = field(default_factory=lambda: defaultdict(list))
    _begun: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _moods: dict[str, deque[Mood]] = field(default_factory=lambda: defaultdict(deque))

    def moods(self, place: str, *moods: Mood) -> None:
        """Its next answers there; what was said before is forgotten."""
        self._moods[place] = deque(moods)

    def hits(self, place: str) -> list[Hit]:
        """Whole requests."""
        return list(self._hits[place])

    def begun(self, place: str) -> int:
        """Requests whose headers arrived, whole or not."""
        return self._begun[place]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            while await self._exchange(connection):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:  # the end of `serving`: asyncio's callback would log it
            pass
        finally:
            writer.close()

    async def _exchange(self, connection: Connection) -> bool:
        try:
            head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        line, *lines = head.split("\r\n")
        method, target, _ = line.split(" ")
        place = "/" + target.split("/")[1].partition("?")[0]
        self._begun[place] += 1
        headers: dict[str, str] = {}
        for text in filter(None, lines):
            name, _, value = text.partition(":")
            key = name.lower()
            headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
        hit = Hit(method, target, headers, await _body(headers, connection.reader))
        self._hits[place].append(hit)
        waiting = self._moods[place]
        mood: Mood = waiting.popleft() if waiting else Well()
        return await mood.answer(hit, connection)


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Upstream]:
    """An upstream on loopback for the length of the block; port 0: the system chooses."""
    upstream = Upstream()
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def live() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await upstream.connected(reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", port)
        upstream.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()

    thread = threading.Thread(target=lambda: loop.run_until_complete(live()), name="moody upstream")
    thread.start()
    ready.wait()
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
