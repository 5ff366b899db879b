"""Bytes over a socket, and what comes back. Tidies nothing up."""

import contextlib
import re
import socket
from dataclasses import dataclass
from typing import Final

#: Seconds in which a request that has ended is answered, on a machine that does much else.
LIMIT: Final = 20.0
#: Seconds in which a request that never ends would be answered if it were.
PATIENCE: Final = 0.3
#: Seconds in which another answer would follow a whole one. One that is later shows in the upstream's log.
_PAUSE: Final = 0.1


class Unanswered(AssertionError):
    """The connection stayed open and said nothing more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Header names are lower case; repeated ones are all there."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool = True

    def said(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


def exchange(
    port: int,
    data: bytes,
    *,
    waits: bool = False,
    silent: bool = False,
    head: bool = False,
    limit: float = LIMIT,
    quiet: float | None = None,
) -> tuple[Answer, ...]:
    """What is answered until the other side closes, or says it will: Envoy lingers for a second after an answer to
    a request it did not read to its end. `waits`: an answer may leave the connection open; this side closes when
    nothing more follows. `silent`: nothing at all may come; then this side closes as well.
    `quiet`: an answer that is whole is the last one if nothing follows for so many seconds; for servers that say
    keep-alive whatever was asked.

    Raises:
        Unanswered: not closed in time.
    """
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE if silent else limit) as connection:
        pause = _PAUSE if waits else quiet
        # Refused before its end: what was said is still there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        try:
            while part := connection.recv(65536):
                received += part
                answers = parse(bytes(received), head=head)
                if _over(answers):
                    break
                if pause is not None and answers and answers[-1].whole:
                    connection.settimeout(pause)
        except ConnectionResetError:
            pass
        except TimeoutError:
            if connection.gettimeout() == limit:
                raise Unanswered(f"open after {limit:.0f} s, after {bytes(received[:200])!r}") from None
    return parse(bytes(received), head=head)


def _over(answers: tuple[Answer, ...]) -> bool:
    return bool(answers) and answers[-1].whole and "close" in answers[-1].said("connection")


def parse(received: bytes, *, head: bool = False) -> tuple[Answer, ...]:
    """All answers in these bytes. What ends early is an answer with what there is of it."""
    answers = []
    while (end := received.find(b"\r\n\r\n")) >= 0:
        top, rest = received[:end].decode("latin-1"), received[end + 4 :]
        found = re.match(r"HTTP/1\.[01] (\d{3})", top)
        if found is None:
            break
        pairs = (line.partition(":") for line in top.split("\r\n")[1:])
        headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
        status = int(found[1])
        body, received, whole = _body(dict(headers), rest, empty=head or status in (204, 304) or status < 200)
        if status != 100:
            answers.append(Answer(status, headers, body, whole))
    return tuple(answers)


def _body(headers: dict[str, str], rest: bytes, *, empty: bool) -> tuple[bytes, bytes, bool]:
    """The body, what follows it, and whether it is all there."""
    if empty:
        return b"", rest, True
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while (end := rest.find(b"\r\n")) >= 0:
            size = int(rest[:end].split(b";")[0], 16)
            body, rest = body + rest[end + 2 : end + 2 + size], rest[end + 2 + size + 2 :]
            if not size:
                return body, rest, True
        return body, rest, False
    size = int(headers.get("content-length", "-1"))
    return (rest, b"", False) if size < 0 else (rest[:size], rest[size:], len(rest) >= size)
