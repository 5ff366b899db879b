"""Counters with few labels, and the small server that shows them."""

import asyncio

import pytest
from ledgers import payment

from mpp_authz.ledger import State
from mpp_authz.metrics import MAX_SERVICES, MAX_SLUGS, Metrics, serve


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_checks_are_counted_and_timed_by_lane() -> None:
    metrics = Metrics()
    metrics.check("paying", "allowed", 0.002)
    metrics.check("evil\nlane", "Free Text", 0.002)

    assert value(metrics, "mpp_checks_total", lane="paying", result="allowed") == 1
    assert value(metrics, "mpp_checks_total", lane="other", result="other") == 1
    assert value(metrics, "mpp_check_seconds_count", lane="paying") == 1


def test_payments_challenges_and_deliveries_carry_the_service_not_the_route() -> None:
    metrics = Metrics()
    metrics.challenge("shop/llm/complete", "tempo")
    metrics.payment("shop/llm/complete", "tempo", State.DELIVERING)
    metrics.payment("shop/llm/other", "tempo", State.FAILED)
    metrics.delivery("shop/llm/complete", "delivered")
    metrics.verified("tempo", "verified", 0.01)
    metrics.settled("tempo", "settled", 0.1)

    service = {"service": "shop/llm"}
    assert value(metrics, "mpp_challenges_total", method="tempo", **service) == 1
    assert value(metrics, "mpp_payments_total", method="tempo", state="DELIVERING", **service) == 1
    assert value(metrics, "mpp_payments_total", method="tempo", state="FAILED", **service) == 1
    assert value(metrics, "mpp_deliveries_total", outcome="delivered", **service) == 1
    assert value(metrics, "mpp_verify_seconds_count", method="tempo", result="verified") == 1
    assert value(metrics, "mpp_settle_seconds_sum", method="tempo", result="settled") == 0.1


def test_services_beyond_the_limit_are_other() -> None:
    metrics = Metrics()
    for n in range(MAX_SERVICES + 5):
        metrics.delivery(f"shop/s{n}/route", "delivered")
    metrics.delivery("shop/s0/route", "delivered")

    assert value(metrics, "mpp_deliveries_total", service="shop/s0", outcome="delivered") == 2
    assert value(metrics, "mpp_deliveries_total", service="other", outcome="delivered") == 5


def test_methods_beyond_the_limit_are_other() -> None:
    metrics = Metrics()
    for n in range(MAX_SLUGS + 5):
        metrics.payment("shop/llm/r", f"method-{n}", State.FAILED)

    labels = {"service": "shop/llm", "state": "FAILED"}
    assert value(metrics, "mpp_payments_total", method="other", **labels) == 5


def test_the_ledger_s_gauges_are_what_it_holds_now() -> None:
    metrics = Metrics()
    owed = [payment("a", State.OWED, amount="5"), payment("b", State.OWED, amount="7")]
    metrics.ledger({State.OWED: 2, State.CREDIT: 3}, owed)
    assert value(metrics, "mpp_owed_base_units", rail="moderato.0xc0") == 12

    metrics.ledger({State.CREDIT: 1}, [])

    assert value(metrics, "mpp_ledger_rows", state="CREDIT") == 1
    assert value(metrics, "mpp_ledger_rows", state="OWED") == 0
    assert value(metrics, "mpp_owed_base_units", rail="moderato.0xc0") is None


def test_what_is_owed_is_told_apart_by_network_and_currency() -> None:
    metrics = Metrics()
    address = "0x20C0000000000000000000000000000000000000"
    owed = [
        payment("a", State.OWED, amount="5", currency=address),
        payment("b", State.OWED, amount="7", currency=address, network="a-network-of-our-own"),
    ]

    metrics.ledger({State.OWED: 2}, owed)

    assert value(metrics, "mpp_owed_base_units", rail=f"moderato.{address.lower()}") == 5
    assert value(metrics, "mpp_owed_base_units", rail=f"a-network-of-our-own.{address.lower()}") == 7


def test_only_the_served_revision_is_shown() -> None:
    metrics = Metrics()
    metrics.pricing("r1", 3)
    metrics.pricing("r2", 4)

    assert value(metrics, "mpp_pricing_info", revision="r1") is None
    assert value(metrics, "mpp_pricing_info", revision="r2") == 1
    assert value(metrics, "mpp_pricing_routes") == 4


def test_two_processes_worth_of_metrics_share_nothing() -> None:
    one, two = Metrics(), Metrics()
    one.reload("pricing.json", "loaded")
    assert value(two, "mpp_reloads_total", file="pricing.json", result="loaded") is None


# --- the server ----------------------------------------------------------------------------------------


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to raw bytes; the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        ("GET /healthz HTTP/1.1", b"200 OK", b"ok\n"),
        ("GET /readyz?verbose HTTP/1.0", b"503 Service Unavailable", b"no pricing yet\n"),
        ("HEAD /readyz HTTP/1.1", b"503 Service Unavailable", b""),
        ("HEAD /healthz HTTP/1.1", b"200 OK", b""),
        ("GET /else HTTP/1.1", b"404 Not Found", b"expected /metrics, /healthz or /readyz\n"),
        ("POST /else HTTP/1.1", b"404 Not Found", b"expected /metrics, /healthz or /readyz\n"),
        ("POST /metrics HTTP/1.1", b"405 Method Not Allowed", b"expected GET or HEAD\n"),
        ("nonsense", b"400 Bad Request", b"expected an HTTP request\n"),
        ("GET /healthz HTTP/2.0", b"400 Bad Request", b"expected an HTTP request\n"),
    ],
)
async def test_an_answer_is_what_http_expects(line: str, status: bytes, body: bytes) -> None:
    endpoint = await serve("127.0.0.1:0", Metrics(), lambda: "no pricing yet")

    head, got = await ask(endpoint.port, f"{line}\r\nHost: x\r\n\r\n".encode())
    await endpoint.aclose()

    assert head.startswith(b"HTTP/1.1 " + status)
    assert (b"\r\nAllow: GET, HEAD" in head) is status.startswith(b"405")
    assert got == body


async def test_a_scrape_shows_what_refresh_brought() -> None:
    metrics = Metrics()

    async def refresh() -> None:
        metrics.ledger({State.OWED: 3}, [])

    endpoint = await serve("127.0.0.1:0", metrics, lambda: None, refresh=refresh)
    head, body = await ask(endpoint.port, b"GET /metrics HTTP/1.1\r\n\r\n")
    ready, _ = await ask(endpoint.port, b"GET /readyz HTTP/1.1\r\n\r\n")
    await endpoint.aclose()

    assert b'mpp_ledger_rows{state="OWED"} 3.0' in body
    assert f"Content-Length: {len(body)}".encode() in head
    assert ready.startswith(b"HTTP/1.1 200")


async def test_a_refresh_that_fails_hides_no_counter() -> None:
    async def refresh() -> None:
        raise RuntimeError("the store is down")

    metrics = Metrics()
    metrics.reload("pricing.json", "loaded")
    endpoint = await serve("127.0.0.1:0", metrics, lambda: None, refresh=refresh)
    _, body = await ask(endpoint.port, b"GET /metrics HTTP/1.1\r\n\r\n")
    await endpoint.aclose()

    assert b'mpp_reloads_total{file="pricing.json",result="loaded"} 1.0' in body


async def test_a_head_that_is_too_large_is_refused() -> None:
    endpoint = await serve("127.0.0.1:0", Metrics(), lambda: None)
    head, _ = await ask(endpoint.port, b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 9_000 + b"\r\n\r\n")
    await endpoint.aclose()

    assert head.startswith(b"HTTP/1.1 431 ")


async def test_silent_connections_are_bounded_and_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpp_authz.metrics._MAX_CONNECTIONS", 2)
    endpoint = await serve("127.0.0.1:0", Metrics(), lambda: None)
    silent = [await asyncio.open_connection("127.0.0.1", endpoint.port) for _ in range(3)]
    async with asyncio.timeout(10):
        assert await silent[2][0].read() == b""  # one too many: ended at once, the others live
        assert not any(reader.at_eof() for reader, _ in silent[:2])

        await endpoint.aclose()
        await endpoint.aclose()

        for reader, writer in silent[:2]:
            assert await reader.read() == b""
            writer.close()
    silent[2][1].close()
    with pytest.raises(RuntimeError, match="expected a running server"):
        _ = endpoint.port


async def test_a_request_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpp_authz.metrics._REQUEST_SECONDS", 0.05)
    endpoint = await serve("127.0.0.1:0", Metrics(), lambda: None)

    assert await ask(endpoint.port, b"GET /healthz HTT") == (b"", b"")
    await endpoint.aclose()


@pytest.mark.parametrize("address", ["9464", ":9464", "localhost:", "localhost:x", "localhost:70000"])
async def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match=r"metrics: expected an address such as 127\.0\.0\.1:9464, got"):
        await serve(address, Metrics(), lambda: None)
