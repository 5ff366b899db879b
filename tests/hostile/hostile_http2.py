"""HTTP/2 in raw frames: header lists that no client would send."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Final, Literal

import hostile_wire
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Pairs = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Frames after the preface, for streams 1, 3, …; nothing in them pays."""

    name: str
    frames: tuple[bytes, ...]
    asks: Literal["paid", "free", "nothing"] = "paid"
    streams: int = 1  # so many ends of streams are waited for
    silent: bool = False  # HTTP/2 takes it for malformed: the stream or the connection is ended, without an answer

    @property
    def id(self) -> str:
        return f"HTTP/2: {self.name}"


def pairs(path: bytes = b"/shop/thing", **other: bytes) -> Pairs:
    """A GET's pseudo-headers; `authority`, `scheme`, `method` may differ."""
    told = {"method": b"GET", "scheme": b"http", "authority": b"127.0.0.1"} | other
    return (
        (b":method", told["method"]),
        (b":scheme", told["scheme"]),
        (b":authority", told["authority"]),
        (b":path", path),
    )


def headers(fields: Pairs, stream: int = 1, *, ends: bool = True, pieces: int = 1) -> bytes:
    """HEADERS, and CONTINUATIONs for further pieces. Fields are encoded as they are."""
    encoder = Encoder()
    block = encoder.encode([(name, value) for name, value in fields], huffman=False)
    size = max(1, -(-len(block) // pieces))
    parts = [block[start : start + size] for start in range(0, len(block), size)]
    first = HeadersFrame(stream, data=parts[0], flags=[*(["END_STREAM"] if ends else [])])
    frames: list[Frame] = [first, *(ContinuationFrame(stream, data=part) for part in parts[1:])]
    frames[-1].flags.add("END_HEADERS")
    return b"".join(frame.serialize() for frame in frames)


def data(payload: bytes, stream: int = 1, *, ends: bool = True) -> bytes:
    return DataFrame(stream, data=payload, flags=["END_STREAM"] if ends else []).serialize()


def exchange(port: int, case: Case) -> tuple[hostile_wire.Answer, ...]:
    """The answers, by the order in which their streams ended. A stream that was reset, or a connection that was
    closed, is none.

    Raises:
        hostile_wire.Unanswered: neither came in time.
    """
    decoder = Decoder()
    found: dict[int, hostile_wire.Answer] = {}
    over: list[int] = []
    with socket.create_connection(("127.0.0.1", port), timeout=hostile_wire.LIMIT) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(PREFACE + SettingsFrame(0).serialize() + b"".join(case.frames))
        try:
            for frame in _frames(connection):
                if isinstance(frame, HeadersFrame):
                    answer = _answer(decoder, frame)
                    if answer is not None:
                        found[frame.stream_id] = answer
                if isinstance(frame, GoAwayFrame):
                    break
                if isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
                    over.append(frame.stream_id)
                if len(set(over)) >= case.streams:
                    break
        except TimeoutError:
            raise hostile_wire.Unanswered(case.id) from None
    return tuple(found[stream] for stream in dict.fromkeys([*over, *found]) if stream in found)


def together(port: int) -> dict[str, tuple[hostile_wire.Answer, ...]]:
    """The answers to all cases, by name; many connections at once, because Envoy lingers on a broken one."""
    with futures.ThreadPoolExecutor(len(ALL)) as pool:
        return dict(
            zip((case.name for case in ALL), pool.map(lambda case: exchange(port, case), ALL), strict=True)
        )


def _frames(connection: socket.socket) -> Iterator[Frame]:
    pending = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return
        if not part:
            return
        pending += part
        while len(pending) >= 9:
            (length,) = struct.unpack(">I", b"\0" + pending[:3])
            if len(pending) < 9 + length:
                break
            frame, _ = Frame.parse_frame_header(memoryview(pending[:9]))
            frame.parse_body(memoryview(pending[9 : 9 + length]))
            pending = pending[9 + length :]
            yield frame


def _answer(decoder: Decoder, frame: HeadersFrame) -> hostile_wire.Answer | None:
    fields = tuple((_text(name), _text(value)) for name, value in decoder.decode(frame.data, raw=True))
    status = dict(fields).get(":status")
    return None if status is None else hostile_wire.Answer(int(status), fields, b"")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _shown(text: bytes) -> str:
    return text.decode("latin-1").encode("unicode_escape").decode()


# --- cases ---------------------------------------------------------------------------------------------


def _paths() -> Iterator[Case]:
    for path in (
        b"/shop/free/../thing",
        b"/shop/free/%2e%2e/thing",
        b"/shop/free/..%2fthing",
        b"/shop/free/..%252fthing",
        b"/shop/free\\..\\thing",
        b"/shop/THING",
        b"/shop/thing;x",
        b"/shop//thing",
        b"/shop/free/x#/../thing",
        b"/shop/free/\xff\xfe",
        b"//127.0.0.1/shop/thing",
    ):
        yield Case(f":path {_shown(path)}", (headers(pairs(path)),))
    for path in (
        b"/shop/thing\r\nX-Mpp-Payment-Id: 1",
        b"/shop/free/x HTTP/1.1\r\nHost: a\r\n\r\nGET /thing",
        b"/shop/thing\0",
        b"/shop/free/x\0/../../thing",
        b"/shop/thing\n",
        b"/shop/free/x /thing",
        b"/shop/free/x\t/thing",
        b"/shop/free/x\x7f",
        b"shop/thing",
        b"*",
        b"",
        b"http://127.0.0.1/shop/thing",
        b"http://root.test/thing",
        b"?/shop/thing",
    ):
        yield Case(f":path {_shown(path) or '(empty)'}", (headers(pairs(path)),), silent=True)


def _pseudo() -> Iterator[Case]:
    plain = pairs()
    without: Callable[[bytes], Pairs] = lambda name: tuple(pair for pair in plain if pair[0] != name)  # noqa: E731
    free = pairs(b"/shop/free/x")

    def one(
        name: str, fields: Pairs, asks: Literal["paid", "free", "nothing"] = "paid", *, silent: bool = False
    ) -> Case:
        return Case(name, (headers(fields),), asks, silent=silent)

    yield one("a plain paid one", plain)
    yield one("a plain free one", free, "free")
    yield one("no :path", without(b":path"), "nothing", silent=True)
    yield one("no :method", without(b":method"), "nothing", silent=True)
    yield one("no :scheme", without(b":scheme"), "nothing", silent=True)
    yield one("no :authority", without(b":authority"), silent=True)
    yield one("no :authority but host", (*without(b":authority"), (b"host", b"127.0.0.1")))
    yield one("two :path, free first", (*free, (b":path", b"/shop/thing")), silent=True)
    yield one("two :path, paid first", (*plain, (b":path", b"/shop/free/x")), silent=True)
    yield one("two :method", (*pairs(b"/shop/items"), (b":method", b"POST")), silent=True)
    yield one("two :authority", (*plain, (b":authority", b"root.test")), silent=True)
    yield one(
        "pseudo-header after a header",
        (*without(b":path"), (b"x-a", b"1"), (b":path", b"/shop/thing")),
        silent=True,
    )
    yield one("unknown pseudo-header", (*plain, (b":free", b"1")), silent=True)
    yield one(":status", (*plain, (b":status", b"200")), silent=True)
    yield one(":protocol without CONNECT", (*plain, (b":protocol", b"websocket")), silent=True)
    yield one("CONNECT", ((b":method", b"CONNECT"), (b":authority", b"127.0.0.1:80")), "nothing", silent=True)
    yield one("CONNECT with a path", pairs(method=b"CONNECT"), silent=True)
    yield one("extended CONNECT", (*pairs(method=b"CONNECT"), (b":protocol", b"websocket")), silent=True)
    yield one("host that differs", (*plain, (b"host", b"free.example")))
    yield one("host of another service", (*pairs(b"/thing", authority=b"root.test"), (b"host", b"127.0.0.1")))
    yield one(":authority with a port", pairs(authority=b"127.0.0.1:99"))
    yield one(":authority with user info", pairs(authority=b"x@127.0.0.1"), silent=True)
    yield one(":authority with a path", pairs(b"/thing", authority=b"127.0.0.1/shop"), silent=True)
    yield one(":authority with CR LF", pairs(authority=b"127.0.0.1\r\nX: y"), silent=True)
    yield one(":scheme https", pairs(scheme=b"https"))
    yield one(":scheme in capitals", pairs(scheme=b"HTTP"))
    yield one(":scheme with a path", pairs(b"/thing", scheme=b"http://127.0.0.1/shop?"), silent=True)
    yield one("method in small letters", pairs(method=b"get"))
    yield one("method with a blank", pairs(method=b"GET /shop/free/x HTTP/1.1\r\nA:"), silent=True)
    yield one("TRACE", pairs(method=b"TRACE"))


def _fields() -> Iterator[Case]:
    for name, value in (
        (b"x-mpp-payment-id", b"1"),
        (b"x-envoy-original-path", b"/shop/free/x"),
        (b"http2-settings", b"AAMAAABkAAQAAP__"),
        (b"authorization", b"Payment abc"),
        (b"payment-receipt", b"e30"),
        (b"cookie", b"a; b"),
        (b"content-type", b"application/grpc"),
    ):
        yield _field(name, value)
    for name, value in (
        (b"X-Mpp-Payment-Id", b"1"),
        (b"x_mpp_payment_id", b"1"),
        (b"connection", b"authorization"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"proxy-connection", b"keep-alive"),
        (b"te", b"gzip"),
        (b"a b", b"1"),
        (b"a:b", b"1"),
        (b"", b"1"),
        (b"x-a", b"1\r\nx-mpp-payment-id: 1"),
        (b"x-a", b"1\nb"),
        (b"x-a", b"\0"),
        (b"x-a", b"\x01"),
        (b"x-\xff", b"1"),
        (b"content-length", b"5"),
        (b"content-length", b"-1"),
        (b"x-a", b"b" * 70_000),
    ):
        yield _field(name, value, silent=True)
    many = tuple((b"x-%d" % n, b"1") for n in range(200))
    yield Case("200 fields", (headers((*pairs(), *many)),), silent=True)


def _field(name: bytes, value: bytes, *, silent: bool = False) -> Case:
    fields = (*pairs(), (name, value))
    return Case(f"{_shown(name)}: {_shown(value[:24])}", (headers(fields, pieces=5),), silent=silent)


def _streams() -> Iterator[Case]:
    free = pairs(b"/shop/free/x", method=b"POST")
    inner = b"GET /thing HTTP/1.1\r\nHost: a\r\n\r\n"
    trailer = ((b":path", b"/shop/thing"), (b"x-original-url", b"/thing"), (b"authorization", b"Payment abc"))
    yield Case("a body that is a request", (headers(free, ends=False), data(inner)), "free")
    yield Case(
        "a body longer than its length",
        (headers((*free, (b"content-length", b"0")), ends=False), data(inner)),
        "free",
        silent=True,
    )
    yield Case(
        "a body shorter than its length",
        (headers((*free, (b"content-length", b"900")), ends=False), data(inner)),
        "free",
        silent=True,
    )
    yield Case(
        "pseudo-headers in trailers",
        (headers(free, ends=False), data(b"a", ends=False), headers(trailer)),
        "free",
        silent=True,
    )
    yield Case(
        "headers in trailers",
        (headers(free, ends=False), data(b"a", ends=False), headers(trailer[1:])),
        "free",
    )
    yield Case(
        "paid among free ones",
        (headers(pairs(b"/shop/free/x"), 1), headers(pairs(), 3), headers(pairs(b"/shop/free/x"), 5)),
        streams=3,
    )
    again = (headers(pairs(b"/shop/free/x"), ends=False), headers(pairs()))
    yield Case("headers twice on one stream", again, silent=True)
    yield Case("an even stream", (headers(pairs(), 2),), silent=True)
    yield Case("many CONTINUATIONs", (headers((*pairs(), (b"x-a", b"b" * 5000)), pieces=2000),), silent=True)
    yield Case("DATA before HEADERS", (data(b"x"), headers(pairs())), silent=True)
    yield Case(
        "reset at once",
        (headers(pairs(b"/shop/free/x")), RstStreamFrame(1, error_code=8).serialize(), headers(pairs(), 3)),
    )


ALL: Final = tuple(case for made in (_paths, _pseudo, _fields, _streams) for case in made())
