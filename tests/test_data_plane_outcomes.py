"""What Envoy says of each ending: the facts that `mpp_authz.outcomes` rests on, on the real Envoy.

Seen on 1.40, HTTP/1.1 on both sides (file and access log service agree; `finished` is null where the access log
entry has no `time_to_last_upstream_rx_byte`):

    ending                                            status  flags  details                        finished
    ok, and any status of the upstream's own          its     -      via_upstream                   a number
    upstream 402, made 502 by us                      502     -      (empty)                        null
    upstream hangs up before the headers              503     UC     upstream_reset_before_…        null
    upstream refuses the connection                   503     UF     upstream_reset_before_…        null
    circuit breaker                                   503     UO     upstream_reset_before_…        null
    upstream breaks the body (RST or FIN,             200     UPE    upstream_reset_after_…         null
      content-length or chunked)
    timeouts.request                                  504     UT     response_timeout               null
    our own limit, before the headers                 504     -      max_duration_timeout           null
    our own limit, body not finished                  200     -      max_duration_timeout           null
    client reads slowly, upstream has finished        200     -      via_upstream                   a number
    client gone before the headers                    0       DC     downstream_remote_disconnect   null
    client gone after the headers                     200     DC     downstream_remote_disconnect   null
    Envoy told to end, after the headers (file only)  200     DC     downstream_local_disconnect    null
    Envoy told to end, before (file only)             0       DC     downstream_local_disconnect    null
    WebSocket closed by the upstream                  101     UC     upstream_reset_after_…         null
    WebSocket, client gone                            101     DC     downstream_remote_disconnect   null

Before the headers the access log entry has no response code at all; so have periodic entries, which go to the
access log service only. No flag says that our own limit cut a stream: the details do.
"""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import envoys
import httpx
import irs
import pytest
from planes import PAY, Plane, data_plane, everything_priced

from mpp_authz import delivery, wire
from mpp_authz.ledger.transitions import Outcome
from mpp_operator import bootstrap, ir
from mpp_operator.artifacts import routes

pytestmark = pytest.mark.data_plane

#: Whole seconds: the shortest stream limit there is.
LIMITED = ir.Route(
    "all", ir.DEFAULT_METHODS, irs.ANYTHING, replace(irs.PRICE, lease=routes.LEASE_MARGIN_SECONDS + 1)
)
STREAMING = irs.priced("all", irs.ANYTHING, ir.DEFAULT_METHODS, streaming=True)

END = 6
PERIODIC = 5


async def ended(plane: Plane) -> tuple[Any, ...]:
    """Status, flags, start of the details, whether the upstream finished: from both witnesses, who must agree."""
    (line,) = await envoys.until(plane.envoy.outcomes)
    (entry,) = await envoys.until(
        lambda: [e for e in plane.authz.entries if e.common_properties.access_log_type == END]
    )
    common = entry.common_properties
    assert (line["payment"], line["attempt"]) == ("payment-1", "1")
    fields = common.metadata.filter_metadata[wire.METADATA_NAMESPACE]
    assert (fields[wire.PAYMENT_METADATA], fields[wire.ATTEMPT_METADATA]) == ("payment-1", "1")
    assert entry.response.response_code.value == line["status"]
    assert entry.response.HasField("response_code") == (line["status"] != 0)
    assert entry.response.response_code_details == line["details"]
    assert len(common.response_flags.ListFields()) == (line["flags"] != "-")
    assert common.HasField("time_to_first_upstream_rx_byte") == (line["began"] is not None)
    assert common.HasField("time_to_last_upstream_rx_byte") == (line["finished"] is not None)
    assert plane.authz.logs == [wire.ACCESS_LOG_NAME]
    return line["status"], line["flags"], line["details"].partition("{")[0], line["finished"] is not None


async def gone(plane: Plane, path: str, after: bytes) -> None:
    """A client that leaves, once it has read `after`; for b"" once the upstream has the request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Payment abc\r\n\r\n".encode())
    if after:
        await reader.readuntil(after)
    else:
        await envoys.until(lambda: plane.upstream.hits)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x", (200, "-", "via_upstream", True)),
        ("status?code=304", (304, "-", "via_upstream", True)),
        ("status?code=404", (404, "-", "via_upstream", True)),
        ("status?code=500", (500, "-", "via_upstream", True)),
        ("status?code=402", (502, "-", "", False)),
        ("hangup", (503, "UC", "upstream_reset_before_response_started", False)),
    ],
)
async def test_how_an_answer_is_told(tmp_path: Path, path: str, expected: tuple[object, ...]) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await plane.ask("GET", f"/llm/{path}", PAY)

        assert await ended(plane) == expected


async def test_how_a_failure_is_told_to_a_grpc_client(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/hangup", PAY | {"content-type": "application/grpc"})

        assert (answer.status_code, answer.headers["grpc-status"]) == (200, "14")
        assert "payment-receipt" not in answer.headers
        assert await ended(plane) == (200, "UC", "upstream_reset_before_response_started", False)
        assert plane.envoy.outcomes()[0]["began"] is None


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_how_a_broken_body_is_told(tmp_path: Path, framing: str, how: str) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        plane.upstream.gate.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await plane.ask("GET", f"/llm/cut?framing={framing}&how={how}", PAY)

        assert await ended(plane) == (200, "UPE", "upstream_reset_after_response_started", False)


async def test_how_an_unreachable_upstream_is_told(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        before = plane.envoy.admin.versions()
        plane.envoy.publish(irs.gateway(everything_priced(), clusters=(irs.cluster(port=1),)))
        await envoys.until(lambda: plane.envoy.admin.versions() != before)
        await plane.ask("GET", "/llm/x", PAY)

        assert await ended(plane) == (503, "UF", "upstream_reset_before_response_started", False)


async def test_how_a_full_circuit_breaker_is_told(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced(), max_requests=0) as plane:
        await plane.ask("GET", "/llm/x", PAY)

        assert await ended(plane) == (503, "UO", "upstream_reset_before_response_started", False)


async def test_how_a_request_timeout_is_told(tmp_path: Path) -> None:
    service = everything_priced(timeouts=replace(irs.TIMEOUTS, request=0.2))

    async with data_plane(tmp_path, service) as plane:
        await plane.ask("GET", "/llm/gate", PAY)

        assert await ended(plane) == (504, "UT", "response_timeout", False)


async def test_how_our_own_limit_is_told_before_the_headers(tmp_path: Path) -> None:
    async with data_plane(tmp_path, irs.service(LIMITED)) as plane:
        answer = await plane.ask("GET", "/llm/gate", PAY)

        assert (answer.status_code, answer.headers["payment-credit"]) == (504, "payment-1")
        assert await ended(plane) == (504, "-", "max_duration_timeout", False)


async def test_how_our_own_limit_is_told_after_the_headers(tmp_path: Path) -> None:
    async with data_plane(tmp_path, irs.service(LIMITED)) as plane:
        with pytest.raises(httpx.RemoteProtocolError):
            await plane.ask("GET", "/llm/stream", PAY)

        assert await ended(plane) == (200, "-", "max_duration_timeout", False)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (400_000, (200, "-", "via_upstream", True)),
        (30_000_000, (200, "-", "max_duration_timeout", False)),
    ],
    ids=["upstream-finished", "upstream-held-back"],
)
async def test_how_a_slow_reader_is_told(tmp_path: Path, size: int, expected: tuple[object, ...]) -> None:
    async with data_plane(tmp_path, irs.service(LIMITED)) as plane:
        _, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port, limit=1024)
        writer.write(
            b"GET /llm/big?size=%d HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Payment abc\r\n\r\n" % size
        )

        assert await ended(plane) == expected
        writer.transport.abort()


async def test_how_a_client_that_leaves_before_the_headers_is_told(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await gone(plane, "/llm/gate", b"")

        assert await ended(plane) == (0, "DC", "downstream_remote_disconnect", False)


async def test_how_a_client_that_leaves_after_the_headers_is_told(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await gone(plane, "/llm/stream", b"started")

        assert await ended(plane) == (200, "DC", "downstream_remote_disconnect", False)


@pytest.mark.parametrize(("path", "after", "status"), [("gate", b"", 0), ("stream", b"started", 200)])
async def test_how_an_answer_is_told_whose_envoy_is_told_to_end(
    tmp_path: Path, path: str, after: bytes, status: int
) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port)
        writer.write(f"GET /llm/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Payment abc\r\n\r\n".encode())
        if after:
            await reader.readuntil(after)
        await envoys.until(lambda: plane.upstream.hits)
        plane.envoy.process.terminate()
        await plane.envoy.process.wait()

        (line,) = plane.envoy.outcomes()
        assert (line["status"], line["flags"], line["finished"]) == (status, "DC", None)
        assert line["details"].startswith("downstream_local_disconnect")
        read = delivery.read_line(json.dumps(line))
        assert read is not None
        assert delivery.judge(read, streaming=False) == Outcome(1, False, True, status, "DC")
        writer.transport.abort()


@pytest.mark.parametrize("client_leaves", [True, False])
async def test_how_a_websocket_is_told(tmp_path: Path, client_leaves: bool) -> None:
    async with data_plane(tmp_path, irs.service(STREAMING)) as plane:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port)
        writer.write(
            b"GET /llm/socket HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Payment abc\r\nupgrade: websocket\r\n"
            b"connection: Upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x82\x00\x00\x00\x00hi")
        await reader.readexactly(4)
        if client_leaves:
            writer.transport.abort()
        else:
            plane.upstream.gate.set()

        assert head.startswith(b"HTTP/1.1 101")
        assert b"payment-receipt" not in head
        closed = (101, "UC", "upstream_reset_after_response_started", False)
        assert await ended(plane) == (
            (101, "DC", "downstream_remote_disconnect", False) if client_leaves else closed
        )
        writer.transport.abort()


async def test_periodic_entries_show_the_status_once_the_headers_are_out(tmp_path: Path) -> None:
    settings = bootstrap.BootstrapSettings("dp", log_interval=0.2)

    async with data_plane(tmp_path, irs.service(STREAMING), settings=settings) as plane:

        def periodic() -> list[Any]:
            return [e for e in plane.authz.entries if e.common_properties.access_log_type == PERIODIC]

        task = asyncio.create_task(plane.ask("GET", "/llm/stream", PAY))
        entries = await envoys.until(periodic)
        plane.upstream.gate.set()
        await task

        assert entries[0].response.response_code.value == 200
        assert not entries[0].common_properties.HasField("time_to_last_upstream_rx_byte")
        assert await ended(plane) == (200, "-", "via_upstream", True)


async def test_periodic_entries_before_the_headers_have_no_status(tmp_path: Path) -> None:
    settings = bootstrap.BootstrapSettings("dp", log_interval=0.2)

    async with data_plane(tmp_path, everything_priced(), settings=settings) as plane:
        task = asyncio.create_task(plane.ask("GET", "/llm/gate", PAY))
        entries = await envoys.until(lambda: plane.authz.entries)
        first = (entries[0].common_properties.access_log_type, entries[0].response.HasField("response_code"))
        plane.upstream.gate.set()
        await task

        assert first == (PERIODIC, False)


async def test_what_was_not_paid_for_is_told_to_nobody(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await plane.ask("GET", "/llm/x")
        await plane.ask("GET", "/llm/x", PAY)

        assert await ended(plane) == (200, "-", "via_upstream", True)
        await envoys.until(lambda: len(plane.envoy.requests()) == 2)
