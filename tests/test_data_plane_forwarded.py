"""Who may say that a request came over TLS: the connection itself, or a proxy of `terminatedBy`; no client."""

import asyncio
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from planes import PAY, Plane, data_plane, everything_free, everything_priced

from mpp_authz import service, wire
from mpp_operator import bootstrap

pytestmark = pytest.mark.data_plane

BEHIND_A_PROXY = bootstrap.BootstrapSettings("dp", terminated_by=("10.0.0.0/8", "127.0.0.0/8", "::1/128"))
BEHIND_ANOTHER = bootstrap.BootstrapSettings("dp", terminated_by=("10.0.0.0/8",))
ALONE = bootstrap.BootstrapSettings("dp")


async def heard(plane: Plane, headers: dict[str, str]) -> tuple[str | None, str, str]:
    """What authz hears of a request: forwarded proto, peer, scheme."""
    await plane.ask("GET", "/llm/x", headers)
    request = service.read(plane.authz.checks[-1])
    return request.forwarded_proto, request.peer, request.scheme


@pytest.mark.parametrize(
    ("settings", "headers", "forwarded"),
    [
        (BEHIND_A_PROXY, {"x-forwarded-proto": "https"}, "https"),
        (BEHIND_A_PROXY, {"x-forwarded-proto": "http"}, "http"),
        (BEHIND_A_PROXY, {}, None),
        (BEHIND_A_PROXY, {wire.FORWARDED_PROTO: "https"}, None),
        (BEHIND_A_PROXY, {"x-forwarded-proto": "http", wire.FORWARDED_PROTO: "https"}, "http"),
        (BEHIND_ANOTHER, {"x-forwarded-proto": "https", wire.FORWARDED_PROTO: "https"}, None),
        (ALONE, {"x-forwarded-proto": "https", wire.FORWARDED_PROTO: "https"}, None),
    ],
)
async def test_only_the_proxy_that_ends_tls_may_say_how_a_client_came(
    tmp_path: Path, settings: bootstrap.BootstrapSettings, headers: dict[str, str], forwarded: str | None
) -> None:
    async with data_plane(tmp_path, everything_priced(), settings=settings) as plane:
        # Whoever a client says it is, the peer is who connected.
        found = await heard(plane, headers | {"x-forwarded-for": "10.9.9.9"})

    assert found == (forwarded, "127.0.0.1", "http")


@pytest.mark.parametrize(
    ("settings", "arrived"), [(BEHIND_A_PROXY, "https"), (BEHIND_ANOTHER, "http"), (ALONE, "http")]
)
@pytest.mark.parametrize("service", [everything_priced(), everything_free()], ids=["priced", "free"])
async def test_the_upstream_hears_the_scheme_and_never_our_own_header(
    tmp_path: Path, settings: bootstrap.BootstrapSettings, arrived: str, service: object
) -> None:
    headers = PAY | {"x-forwarded-proto": "https", wire.FORWARDED_PROTO: "https"}

    async with data_plane(tmp_path, service, settings=settings) as plane:  # type: ignore[arg-type]  # an ir.Service
        await plane.ask("GET", "/llm/x", headers)

        assert plane.upstream.last.headers["x-forwarded-proto"] == arrived
        assert wire.FORWARDED_PROTO not in plane.upstream.last.headers


async def test_an_absolute_https_uri_over_a_plain_connection_is_refused(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.raw("GET https://127.0.0.1/llm/x HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")

        assert answer.startswith(b"HTTP/1.1 403 ")
        assert (plane.authz.checks, plane.upstream.hits) == ([], [])


async def test_a_client_cannot_claim_tls_by_the_scheme_of_http2(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        target = [(":method", "GET"), (":scheme", "https"), (":authority", "127.0.0.1"), (":path", "/llm/x")]
        connection.send_headers(1, target, end_stream=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port)
        writer.write(connection.data_to_send())
        status: list[str] = []
        async with asyncio.timeout(5):
            while not status:
                events = connection.receive_data(await reader.read(65_536))
                answers = [event for event in events if isinstance(event, h2.events.ResponseReceived)]
                heads = [[(str(name), str(value)) for name, value in event.headers or ()] for event in answers]
                status += [dict(head)[":status"] for head in heads]
        writer.close()

        assert status == ["402"]
        assert service.read(plane.authz.checks[-1]).scheme == "http"
