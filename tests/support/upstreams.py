"""An upstream on loopback that counts its hits, remembers what it was sent, and fails in every way we need.

The path says how it answers; `headers_of` and `hits` say what arrived. Raw asyncio: a framework would hide the
ways in which a connection breaks.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as it arrived. Header names are lower case; repeated ones are joined with a comma."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Upstream:
    """A running upstream. `gate` holds the answers of `/gate/…` paths back until it is set."""

    port: int
    hits: list[Hit] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last(self) -> Hit:
        return self.hits[-1]


@contextlib.asynccontextmanager
async def serve(tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """An upstream for the length of the block."""
    upstream = Upstream(0)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while await _answer(upstream, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        except asyncio.CancelledError:  # the end of `serve`: asyncio's callback would log it
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _answer(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers one request; whether the connection goes on."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return False
    line, *lines = head.split("\r\n")
    method, target, _ = line.split(" ")
    headers: dict[str, str] = {}
    for text in filter(None, lines):
        name, _, value = text.partition(":")
        key = name.lower()
        headers[key] = f"{headers[key]},{value.strip()}" if key in headers else value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    upstream.hits.append(Hit(method, target, headers, body))
    url = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    return await _behave(upstream, url.path.rpartition("/")[2], query, headers, reader, writer)


async def _behave(
    upstream: Upstream,
    way: str,
    query: dict[str, str],
    headers: dict[str, str],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    async def send(text: bytes) -> None:
        writer.write(text)
        await writer.drain()

    match way:
        case "status":  # the status and the headers of the query's `h` (JSON list of pairs)
            extra = "".join(f"{name}: {value}\r\n" for name, value in json.loads(query.get("h", "[]")))
            code = int(query["code"])
            content = b"" if code in (204, 304) else b"upstream says so"
            length = "" if code in (204, 304) else f"content-length: {len(content)}\r\n"
            await send(f"HTTP/1.1 {code} X\r\n{length}{extra}\r\n".encode() + content)
        case "hangup":  # nothing at all
            writer.transport.abort()
            return False
        case "cut":  # headers and a part of the body, then gone
            length = "content-length: 1000" if query["framing"] == "length" else "transfer-encoding: chunked"
            part = b"x" * 100 if query["framing"] == "length" else b"64\r\n" + b"x" * 100 + b"\r\n"
            await send(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode() + part)
            await upstream.gate.wait()
            if query.get("how") == "fin":
                writer.close()
            else:
                writer.transport.abort()
            return False
        case "gate":  # nothing until the gate opens
            await upstream.gate.wait()
            await send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        case "stream":  # server-sent events; the gate opens the last one
            await send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            await send(b"f\r\ndata: started\n\n\r\n")
            await upstream.gate.wait()
            await send(b"d\r\ndata: ended\n\n\r\n0\r\n\r\n")
        case "big":  # as many bytes as asked for, at once
            size = int(query["size"])
            await send(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
            await send(b"z" * size)
        case "socket":  # a WebSocket that echoes one short text frame and then closes
            accept = base64.b64encode(
                hashlib.sha1(
                    f"{headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()
                ).digest()
            ).decode()
            await send(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                f"sec-websocket-accept: {accept}\r\n\r\n".encode()
            )
            start = await reader.readexactly(6)
            payload = await reader.readexactly(start[1] & 0x7F)
            text = bytes(byte ^ start[2 + index % 4] for index, byte in enumerate(payload))
            await send(bytes([0x81, len(text)]) + text)
            await upstream.gate.wait()
            await send(b"\x88\x02\x03\xe8")
            return False
        case _:
            content = json.dumps({"served": True}).encode()
            await send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                + f"content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
    return True
