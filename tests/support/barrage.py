"""Many requests at little cost to the sender: a client and an upstream that leave the machine to the gateway.

    async with barrage.serve() as upstream, barrage.Client(gateway.url) as client:
        answer = await client.get("/shop/thing?case=1", credential)
        upstream.hits("1")

HTTP/1.1 with kept connections and Content-Length, and no more: about 0.1 ms of CPU a request, where a real client
takes several times that. Whoever tests how a client behaves takes a real one.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

#: An answer that takes longer than this counts as none. Seconds.
LIMIT: Final = 40.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are lower case; of several with one name, the last. Status 0: no answer.

    `sent` and `got` are seconds of the monotonic clock.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    sent: float
    got: float

    @property
    def asked(self) -> bool:
        """Whether it asks for money."""
        return "www-authenticate" in self.headers

    @property
    def receipt(self) -> bool:
        return "payment-receipt" in self.headers

    def __repr__(self) -> str:
        return f"Answer({self.status}, {self.body[:200]!r}, after {self.got - self.sent:.3f} s)"


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[tuple[int, dict[str, str], bytes]] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if len(rest) < int(headers["content-length"]):
            return
        self._buffer = b""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((int(first.split(" ", 2)[1]), headers, rest))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(error or ConnectionResetError("closed before the answer"))


@dataclass(slots=True)
class Client:
    """Asks one server, on as many connections as there are requests at a time."""

    url: str
    _idle: list[_Connection] = field(default_factory=list)
    _all: list[_Connection] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._all:
            if connection.transport is not None:
                connection.transport.abort()

    async def get(self, target: str, credential: str = "") -> Answer:
        """GET, with a credential's `Authorization` value."""
        address = urlsplit(self.url)
        authorization = f"authorization: {credential}\r\n" if credential else ""
        text = f"GET {target} HTTP/1.1\r\nhost: {address.netloc}\r\n{authorization}\r\n"
        sent = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT):
                connection = await self._connection(address.hostname or "", address.port or 80)
                assert connection.transport is not None
                connection.waiting = asyncio.get_running_loop().create_future()
                connection.transport.write(text.encode("latin-1"))
                status, headers, body = await connection.waiting
        except (OSError, TimeoutError) as error:
            return Answer(0, {}, repr(error).encode(), sent, time.monotonic())
        self._idle.append(connection)
        return Answer(status, headers, body, sent, time.monotonic())

    async def _connection(self, host: str, port: int) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        _, made = await asyncio.get_running_loop().create_connection(_Connection, host, port)
        self._all.append(made)
        return made


async def all_of(work: Sequence[Callable[[], Awaitable[None]]], at_once: int) -> None:
    """Closed loop: so many at a time, until all are done."""
    left = iter(work)

    async def worker() -> None:
        for one in left:
            await one()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(worker())


async def at_rate(work: Sequence[Callable[[], Awaitable[None]]], rate: float) -> float:
    """Open loop: each begins at its own moment, whatever became of those before it. The rate at which they began:
    less than asked for where the sender itself did not keep up."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number, one in enumerate(work):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.create_task(_awaited(one))
        taken = time.monotonic() - began
    return (len(work) - 1) / taken


async def _awaited(one: Callable[[], Awaitable[None]]) -> None:
    await one()


# --- the upstream --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """One request that arrived, and the status it is answered with, whole."""

    payment: str
    attempt: int
    status: int


@dataclass(slots=True)
class Upstream:
    """A running upstream. It sorts what arrives by the `case` that ends its target, and answers 200, unless the
    case `fails` or its answers are held."""

    port: int = 0
    _hits: dict[str, list[Hit]] = field(default_factory=lambda: defaultdict(list))
    _fails: dict[str, list[int]] = field(default_factory=dict)
    _held: dict[str, list[tuple[asyncio.Transport, bytes]]] = field(default_factory=dict)

    def hits(self, case: str) -> list[Hit]:
        """What arrived for a case, in order."""
        return list(self._hits.get(case, ()))

    def began(self, case: str) -> bool:
        """Whether something arrived for it."""
        return case in self._hits

    def served(self) -> dict[str, int]:
        """How often each case was answered 2xx."""
        return {case: sum(200 <= hit.status < 300 for hit in hits) for case, hits in self._hits.items()}

    def fails(self, case: str, *statuses: int) -> None:
        """The next answers to a case."""
        self._fails[case] = list(statuses)

    def hold(self, case: str) -> None:
        """Answer nothing to this case until `release`."""
        self._held[case] = []

    def release(self, case: str) -> None:
        for transport, answer in self._held.pop(case):
            transport.write(answer)

    def arrived(self, head: str, transport: asyncio.Transport) -> None:
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        case = first.split(" ")[1].partition("case=")[2]
        waiting = self._fails.get(case)
        status = waiting.pop(0) if waiting else 200
        payment, attempt = headers.get("x-mpp-payment-id", ""), headers.get("x-mpp-attempt", "0")
        self._hits[case].append(Hit(payment, int(attempt), status))
        answer = f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok".encode()
        if case in self._held:
            self._held[case].append((transport, answer))
        else:
            transport.write(answer)


class _Served(asyncio.Protocol):
    def __init__(self, upstream: Upstream, open_: set[asyncio.Transport]) -> None:
        self._upstream = upstream
        self._open = open_
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            assert self._transport is not None
            self._upstream.arrived(head.decode("latin-1"), self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        assert self._transport is not None
        self._open.discard(self._transport)


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[Upstream]:
    """An upstream on loopback for the length of the block. GET without a body only."""
    upstream = Upstream()
    open_: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: _Served(upstream, open_), "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for transport in list(open_):
            transport.abort()
        await server.wait_closed()
