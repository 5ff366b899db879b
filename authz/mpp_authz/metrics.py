"""What authz counts, and the small HTTP server that shows it. Decides nothing about payments.

Every label has few values: a client must not be able to make series. Whatever is not a known word or a short
slug, and whatever comes after a label's limit, counts as "other".
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mpp_authz.ledger import Payment, State

log = logging.getLogger(__name__)

#: What a label says for all values beyond its limit.
OTHER: Final = "other"
#: Distinct services (`namespace/name`) that are counted apart.
MAX_SERVICES: Final = 500
#: Distinct slugs (results, outcomes, methods) a label keeps.
MAX_SLUGS: Final = 64
#: The lanes by the name of the filter that asks.
LANES: Final = ("paying", "minting")

_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,47}")
_SERVICE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}/[a-z0-9][a-z0-9.-]{0,252}")
#: `<network>.<currency>`, where a currency may be an address.
_RAIL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.[a-z0-9._-]{1,64}")
_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)


class _Bounded:
    """Lets a label's first `limit` well-formed values through, the rest is OTHER."""

    def __init__(self, pattern: re.Pattern[str], limit: int) -> None:
        self._pattern = pattern
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if len(self._seen) >= self._limit or not self._pattern.fullmatch(value):
            return OTHER
        self._seen.add(value)
        return value


class Metrics:
    """All counters of one authz process, in a registry of their own. Times are seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._service = _Bounded(_SERVICE, MAX_SERVICES)
        self._slug = {name: _Bounded(_SLUG, MAX_SLUGS) for name in ("result", "outcome", "method", "file")}
        self._rail = _Bounded(_RAIL, MAX_SLUGS)
        self._checks = Counter("mpp_checks", "Checks answered", ["lane", "result"], registry=self.registry)
        self._check_seconds = Histogram(
            "mpp_check_seconds", "Time to answer a Check", ["lane"], buckets=_FAST, registry=self.registry
        )
        self._challenges = Counter(
            "mpp_challenges", "Challenges issued", ["service", "method"], registry=self.registry
        )
        self._payments = Counter(
            "mpp_payments",
            "Payments that entered a state",
            ["service", "method", "state"],
            registry=self.registry,
        )
        self._deliveries = Counter(
            "mpp_deliveries", "Ends of deliveries", ["service", "outcome"], registry=self.registry
        )
        self._verify = Histogram(
            "mpp_verify_seconds", "Time to verify", ["method", "result"], buckets=_SLOW, registry=self.registry
        )
        self._settle = Histogram(
            "mpp_settle_seconds", "Time to settle", ["method", "result"], buckets=_SLOW, registry=self.registry
        )
        self._rows = Gauge("mpp_ledger_rows", "Payments by state", ["state"], registry=self.registry)
        self._owed = Gauge(
            "mpp_owed_base_units", "Owed to payers, see `mpp-gateway payments`", ["rail"], registry=self.registry
        )
        self._pricing = Gauge(
            "mpp_pricing_info", "1 for the revision that is served", ["revision"], registry=self.registry
        )
        self._routes = Gauge("mpp_pricing_routes", "Priced routes", registry=self.registry)
        self._reloads = Counter(
            "mpp_reloads", "Reads of a changed file", ["file", "result"], registry=self.registry
        )

    def check(self, lane: str, result: str, seconds: float) -> None:
        """A Check was answered. `lane` is "paying" or "minting", `result` a slug ("paid", "credit",
        "cancelled", or that of a problem)."""
        known = lane if lane in LANES else OTHER
        self._checks.labels(known, self._slug["result"](result)).inc()
        self._check_seconds.labels(known).observe(seconds)

    def challenge(self, route: str, method: str) -> None:
        """A challenge was issued for a route key."""
        self._challenges.labels(self._service_of(route), self._slug["method"](method)).inc()

    def payment(self, route: str, method: str, state: State) -> None:
        """A payment entered a state."""
        self._payments.labels(self._service_of(route), self._slug["method"](method), state.value).inc()

    def delivery(self, route: str, outcome: str) -> None:
        """A delivery ended: "delivered", "undelivered", "no-news", ..."""
        self._deliveries.labels(self._service_of(route), self._slug["outcome"](outcome)).inc()

    def verified(self, method: str, result: str, seconds: float) -> None:
        self._verify.labels(self._slug["method"](method), self._slug["result"](result)).observe(seconds)

    def settled(self, method: str, result: str, seconds: float) -> None:
        self._settle.labels(self._slug["method"](method), self._slug["result"](result)).observe(seconds)

    def ledger(self, counts: Mapping[State, int], owed: Iterable[Payment]) -> None:
        """What the ledger holds now: rows by state, and the OWED ones among them, for their amounts."""
        for state in State:
            self._rows.labels(state.value).set(counts.get(state, 0))
        sums: dict[str, int] = {}
        for payment in owed:
            # The network's currency is ours, from a signed quote; its form is the method's affair.
            rail = self._rail(f"{payment.network}.{payment.currency}".lower())
            sums[rail] = sums.get(rail, 0) + int(payment.amount)
        self._owed.clear()
        for rail, amount in sums.items():
            self._owed.labels(rail).set(amount)

    def pricing(self, revision: str, routes: int) -> None:
        """This revision is served from now on."""
        self._pricing.clear()
        self._pricing.labels(revision).set(1)
        self._routes.set(routes)

    def reload(self, file: str, result: str) -> None:
        """A file was read because it changed: "loaded" or "refused"."""
        self._reloads.labels(self._slug["file"](file), self._slug["result"](result)).inc()

    def text(self) -> bytes:
        """The exposition text. Safe in another thread."""
        return generate_latest(self.registry)

    def _service_of(self, route: str) -> str:
        return self._service("/".join(route.split("/", 2)[:2]))


# --- the server ----------------------------------------------------------------------------------------

_MAX_HEAD_BYTES: Final = 8 * 1024
_MAX_CONNECTIONS: Final = 32
_REQUEST_SECONDS: Final = 5.0
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_TEXT: Final = "text/plain; charset=utf-8"

Ready = Callable[[], str | None]
Refresh = Callable[[], Awaitable[None]]


class Endpoint:
    """A running server of `/metrics`, `/healthz` and `/readyz`. Made by `serve`, ended by `aclose`."""

    def __init__(self, metrics: Metrics, ready: Ready, refresh: Refresh | None) -> None:
        self._metrics = metrics
        self._ready = ready
        self._refresh = refresh
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port it listens on, also when 0 was asked for."""
        if self._server is None or not self._server.sockets:
            raise RuntimeError("metrics: expected a running server, got one that was closed")
        return int(self._server.sockets[0].getsockname()[1])

    async def _start(self, host: str, port: int) -> Self:
        self._server = await asyncio.start_server(self._accept, host, port, limit=_MAX_HEAD_BYTES)
        return self

    async def aclose(self) -> None:
        """Stop listening and end open connections. A second time does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.transport.abort()  # a scraper is one connection; this is something else
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, and the connection ends."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                writer.write(await self._answer(reader))
                await writer.drain()
        except (TimeoutError, OSError):
            pass  # whoever asked has gone, or never finished asking
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(431, "the request's head is too large\n")
        except asyncio.IncompleteReadError:
            return _response(400, "expected an HTTP request\n")
        line = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(line) != 3 or not line[2].startswith("HTTP/1."):
            return _response(400, "expected an HTTP request\n")
        method, target, _ = line
        status, kind, body = await self._page(target.split("?", 1)[0])
        if status != 404 and method not in ("GET", "HEAD"):
            return _response(405, "expected GET or HEAD\n", extra="Allow: GET, HEAD\r\n")
        return _response(status, body, kind=kind, head_only=method == "HEAD")

    async def _page(self, path: str) -> tuple[int, str, str | bytes]:
        if path == "/healthz":
            return 200, _TEXT, "ok\n"
        if path == "/readyz":
            why_not = self._ready()
            return (200, _TEXT, "ok\n") if why_not is None else (503, _TEXT, f"{why_not}\n")
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, await self._scrape()
        return 404, _TEXT, "expected /metrics, /healthz or /readyz\n"

    async def _scrape(self) -> bytes:
        if self._refresh is not None:
            try:
                await self._refresh()
            except Exception as error:  # a store that is down must not hide the counters that say so
                log.warning("ledger metrics not refreshed", extra={"error": type(error).__name__})
        # A thread: hundreds of services make a text that would hold up Checks.
        return await asyncio.to_thread(self._metrics.text)


async def serve(address: str, metrics: Metrics, ready: Ready, *, refresh: Refresh | None = None) -> Endpoint:
    """Listen on `host:port` (`[::1]:port`; port 0: the system chooses) for `/metrics`, `/healthz`, `/readyz`.

    `ready` gives None, or why Checks cannot be answered yet. `refresh` is awaited before each scrape.

    Raises:
        ValueError: not `host:port`.
        OSError: the port is taken.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"metrics: expected an address such as 127.0.0.1:9464, got {address!r}")
    return await Endpoint(metrics, ready, refresh)._start(host.strip("[]"), int(port))


def _response(
    status: int, body: str | bytes, *, kind: str = _TEXT, extra: str = "", head_only: bool = False
) -> bytes:
    raw = body.encode("utf-8") if isinstance(body, str) else body
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(raw)}\r\n"
        f"Cache-Control: no-store\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else raw)
