"""Envoy's side: a real gRPC server on a unix socket, real messages, and a client that acts as Envoy does."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import mpp
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from promises import ENVOY, OFFER, ROUTE, World, priced, read

from mpp_authz import outcomes, service, wire
from mpp_authz.delivery import Entry
from mpp_authz.ledger import LedgerUnavailable, State
from mpp_authz.outcomes import AccessLog
from mpp_authz.service import Authorization
from mpp_operator import bootstrap

OPTION = base_pb2.HeaderValueOption
LIMIT = 20.0


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path a unix socket can have."""
    folder = Path(tempfile.mkdtemp(prefix="mpp-"))
    yield folder
    shutil.rmtree(folder)


@dataclass(slots=True)
class Wired:
    """A gate behind gRPC, and Envoy's stubs of it."""

    world: World
    check: Any
    logs: Any

    async def ask(self, data_plane: str = ENVOY, **fields: Any) -> Any:
        return await self.check(
            message(**fields), metadata=((wire.DATA_PLANE_METADATA, data_plane),), timeout=LIMIT
        )

    async def paid(self) -> tuple[str, Any]:
        authorization = self.world.pay(await self.world.challenge())
        return authorization, await self.ask(headers={"authorization": authorization})

    async def log(self, *entries: Any) -> None:
        """One stream of the access log service, as Envoy sends it."""
        stream = self.logs(timeout=LIMIT)
        for entry in entries:
            sent = als_pb2.StreamAccessLogsMessage()
            sent.identifier.log_name = wire.ACCESS_LOG_NAME
            sent.http_logs.log_entry.append(entry)
            await stream.write(sent)
        await stream.done_writing()
        await stream


@asynccontextmanager
async def wired_to(world: World, gate: Any, folder: Path) -> AsyncIterator[Wired]:
    server = grpc.aio.server()
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorization(gate, world.gate.metrics), server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(AccessLog(world.gate.closer), server)
    server.add_insecure_port(f"unix:{folder / 'a.sock'}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder / 'a.sock'}") as channel:
        yield Wired(
            world,
            external_auth_pb2_grpc.AuthorizationStub(channel).Check,
            als_pb2_grpc.AccessLogServiceStub(channel).StreamAccessLogs,
        )
    await server.stop(None)


@pytest.fixture
async def wired(world: World, short: Path) -> AsyncIterator[Wired]:
    async with wired_to(world, world.gate, short) as made:
        yield made


def message(
    route: str | None = ROUTE,
    path: str = "/v1/complete?model=a",
    headers: dict[str, str] | None = None,
    **http: Any,
) -> Any:
    """A CheckRequest as Envoy 1.40 fills it in."""
    made = external_auth_pb2.CheckRequest()
    attributes = made.attributes
    attributes.source.address.socket_address.address = "203.0.113.9"
    if route is not None:
        attributes.context_extensions[wire.ROUTE_CONTEXT] = route
    request = attributes.request.http
    given: dict[str, Any] = {"method": "POST", "host": "Shop.example:8443", "scheme": "https"} | http
    for name, value in given.items():
        setattr(request, name, value)
    request.path = path
    request.headers.update(headers or {})
    return made


def entry(response: Any, code: int | None = 200, kind: int = accesslog_pb2.DownstreamEnd, **flags: bool) -> Any:
    """An access log entry of a request that was let through, tagged as the Check said."""
    logged = accesslog_pb2.HTTPAccessLogEntry()
    common = logged.common_properties
    common.metadata.filter_metadata[wire.METADATA_NAMESPACE].CopyFrom(response.dynamic_metadata)
    common.access_log_type = kind
    if code is not None:
        logged.response.response_code.value = code
    for name, value in flags.items():
        setattr(common.response_flags, name, value)
    if code is not None:
        common.time_to_first_upstream_rx_byte.nanos = 1
    if not flags:
        common.time_to_last_upstream_rx_byte.nanos = 1
    return logged


def headers(options: Any) -> list[tuple[str, str, int]]:
    return [(o.header.key, o.header.value, o.append_action) for o in options]


async def test_a_402_has_a_line_for_each_challenge(wired: Wired) -> None:
    wired.world.terms.routes[ROUTE] = priced(offers=(OFFER, replace(OFFER, name="dear", amount="2000")))

    response = await wired.ask()

    assert response.status.code != 0
    denied = response.denied_response
    assert denied.status.code == 402
    lines = [h for h in headers(denied.headers) if h[0] == "www-authenticate"]
    assert [mpp.Challenge.from_www_authenticate(h[1]).request["amount"] for h in lines] == ["1000", "2000"]
    assert {h[2] for h in headers(denied.headers)} == {OPTION.APPEND_IF_EXISTS_OR_ADD}
    assert (wire.CHALLENGE_MARKER, "1") in [h[:2] for h in headers(denied.headers)]
    assert json.loads(denied.body)["status"] == 402
    assert not response.dynamic_metadata.fields


async def test_a_paid_request_goes_on_with_facts_receipt_and_the_tags_of_its_log(wired: Wired) -> None:
    authorization, response = await wired.paid()

    assert response.status.code == 0
    up = {key: (value, action) for key, value, action in headers(response.ok_response.headers)}
    down = {key: (value, action) for key, value, action in headers(response.ok_response.response_headers_to_add)}
    assert up["x-mpp-payment-id"] == (read(authorization), OPTION.OVERWRITE_IF_EXISTS_OR_ADD)
    assert set(down) == {wire.RECEIPT_HEADER, wire.CREDIT_HEADER}
    assert {action for _, action in (*up.values(), *down.values())} == {OPTION.OVERWRITE_IF_EXISTS_OR_ADD}
    tags = dict(response.dynamic_metadata.items())
    assert (tags[wire.PAYMENT_METADATA], tags[wire.ATTEMPT_METADATA]) == (read(authorization), "1")
    assert (await wired.world.row(authorization)).data_plane == ENVOY


def test_a_check_request_is_read_as_it_is() -> None:
    given = message(
        path="/a/b?x=1&y=%20?",
        raw_body=b"\xff",
        headers={
            "authorization": "Bearer a",
            "payment-authorization": "Payment b",
            "accept-payment": "tempo/*",
            "idempotency-key": "k",
            "mpp-forwarded-proto": "https",
        },
    )

    request = service.read(given, "envoy-7")

    assert (request.route, request.http_method, request.host, request.scheme) == (
        ROUTE,
        "POST",
        "shop.example",
        "https",
    )
    assert request.path == "/a/b"
    assert (request.query, request.body, request.peer, request.data_plane) == (
        "x=1&y=%20?",
        b"\xff",
        "203.0.113.9",
        "envoy-7",
    )
    assert (request.authorization, request.payment_authorization) == ("Bearer a", "Payment b")
    assert (request.accept_payment, request.idempotency_key, request.forwarded_proto) == ("tempo/*", "k", "https")


@pytest.mark.parametrize(
    ("host", "expected"), [("[2001:DB8::1]:80", "2001:db8::1"), ("[::1]", "::1"), ("A.b", "a.b"), ("", "")]
)
def test_a_host_is_read_without_its_port(host: str, expected: str) -> None:
    assert service.read(message(host=host)).host == expected


async def test_a_request_without_a_route_is_503(wired: Wired) -> None:
    response = await wired.ask(route=None)

    assert response.denied_response.status.code == 503


class Broken:
    """A gate with a bug."""

    async def check(self, request: Any) -> Any:
        raise RuntimeError(f"a bug that shows {request.authorization}")


@pytest.mark.parametrize(
    "crowd", [{f"x-{number}": "1" for number in range(92)}, {"x-big": "a" * 59 * 1024}], ids=["many", "big"]
)
async def test_nothing_is_taken_where_the_facts_for_the_upstream_would_not_fit(
    wired: Wired, crowd: dict[str, str]
) -> None:
    authorization = wired.world.pay(await wired.world.challenge())

    crowded = await wired.ask(headers={"authorization": authorization, **crowd})
    plain = await wired.ask(headers={"authorization": authorization})

    assert (crowded.denied_response.status.code, plain.status.code) == (431, 0)
    assert "www-authenticate" not in {option.header.key for option in crowded.denied_response.headers}


def test_the_room_for_facts_is_what_envoys_limits_leave() -> None:
    assert service._MOST_HEADERS < bootstrap.MAX_HEADERS_COUNT
    assert service._MOST_BYTES < bootstrap.MAX_HEADERS_KIB * 1024


async def test_an_error_of_ours_is_503_without_a_challenge(world: World, short: Path) -> None:
    async with wired_to(world, Broken(), short) as wired:
        response = await wired.ask(headers={"authorization": "Payment s3cret"})

    denied = response.denied_response
    assert denied.status.code == 503
    assert response.status.code != 0
    assert "www-authenticate" not in [h[0] for h in headers(denied.headers)]
    assert "s3cret" not in denied.body


async def test_a_check_envoy_gave_up_ends_in_a_credit(wired: Wired) -> None:
    world = wired.world
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    call = wired.check(message(headers={"authorization": authorization}))
    await world.rail.reached("after send")

    call.cancel()
    await world.check_ended(authorization)
    world.rail.go()

    row = await world.until(authorization, State.CREDIT)
    assert row.attempt == 0
    again = await wired.ask(headers={"authorization": authorization})
    assert again.status.code == 0
    assert world.rail.settlements() == 1


# --- the access log ------------------------------------------------------------------------------------


async def test_an_entry_of_a_delivery_closes_the_payment(wired: Wired) -> None:
    authorization, response = await wired.paid()

    await wired.log(entry(response))

    assert await wired.world.state(authorization) is State.DELIVERED


@pytest.mark.parametrize(
    ("code", "flags", "state", "faults"),
    [
        (500, {}, State.CREDIT, 1),
        (404, {}, State.CREDIT, 0),
        (200, {"upstream_protocol_error": True}, State.CREDIT, 1),
        (None, {"downstream_connection_termination": True}, State.CREDIT, 0),
        (200, {"downstream_connection_termination": True}, State.DELIVERED, 0),
        (101, {"upstream_connection_termination": True}, State.DELIVERED, 0),
    ],
)
async def test_entries_become_states(
    wired: Wired, code: int | None, flags: dict[str, bool], state: State, faults: int
) -> None:
    authorization, response = await wired.paid()

    await wired.log(entry(response, code, **flags))

    row = await wired.world.row(authorization)
    assert (row.state, row.faults, row.last_status) == (state, faults, code or 0)


async def test_entries_of_other_requests_and_broken_ones_are_passed_over(wired: Wired) -> None:
    authorization, response = await wired.paid()
    foreign = entry(response)
    foreign.common_properties.metadata.filter_metadata.clear()
    untagged = entry(response)
    untagged.common_properties.metadata.filter_metadata[wire.METADATA_NAMESPACE].Clear()
    broken = entry(response)
    tags = broken.common_properties.metadata.filter_metadata[wire.METADATA_NAMESPACE]
    tags.fields[wire.ATTEMPT_METADATA].string_value = "not a number"

    await wired.log(foreign, untagged, broken, entry(response))

    assert await wired.world.state(authorization) is State.DELIVERED


async def test_a_periodic_entry_renews_and_does_not_close(wired: Wired) -> None:
    authorization, response = await wired.paid()
    wired.world.clock.later(50)

    await wired.log(entry(response, kind=accesslog_pb2.DownstreamPeriodic))

    row = await wired.world.row(authorization)
    assert (row.state, row.lease_until) == (State.DELIVERING, wired.world.clock.ms + 60_000)


async def test_news_the_ledger_cannot_take_ends_no_stream(
    world: World, short: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired_to(world, world.gate, short) as wired:
        authorization, response = await wired.paid()
        ledger, world.gate.closer.ledger = world.gate.closer.ledger, Down()  # type: ignore[assignment]
        await wired.log(entry(response))
        world.gate.closer.ledger = ledger
        assert await world.state(authorization) is State.DELIVERING

        await wired.log(entry(response))

    assert await world.state(authorization) is State.DELIVERED
    assert "outcome not recorded" in caplog.text


class Down:
    async def get(self, payment: str) -> Any:
        raise LedgerUnavailable("the disk is full")


def test_every_flag_that_is_asked_for_is_one_that_envoy_has() -> None:
    known = {field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields}

    assert set(outcomes._FLAGS) <= known


def test_an_entry_is_read_with_its_flags() -> None:
    response = external_auth_pb2.CheckResponse()
    response.dynamic_metadata[wire.PAYMENT_METADATA] = "p1"
    response.dynamic_metadata[wire.ATTEMPT_METADATA] = "2"
    logged = entry(response, 503, upstream_overflow=True, downstream_remote_reset=True)
    logged.response.response_code_details = "overflow"

    assert outcomes.read(logged) == Entry("p1", 2, 503, frozenset({"UO", "DR"}), "overflow", False)


async def test_streams_end_when_we_leave(wired: Wired) -> None:
    news = AccessLog(wired.world.gate.closer)
    never = asyncio.Event()

    async def messages() -> AsyncIterator[Any]:
        await never.wait()
        yield None

    context: Any = None
    stream = asyncio.create_task(news.StreamAccessLogs(messages(), context))
    await asyncio.sleep(0)
    news.leave()

    async with asyncio.timeout(LIMIT):
        assert await stream is not None
