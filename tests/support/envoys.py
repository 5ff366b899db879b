"""A real Envoy with our bootstrap, in a state directory; and a stand-in for authz.

The stand-in is no authz: it verifies nothing and keeps nothing. It answers a Check by what the request's
`authorization` and the query say, records every Check and every access log entry, and is here so that the data
plane can be tested apart from the rules of payment.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from mpp_authz import wire
from mpp_operator import bootstrap, directory, envoy, ir
from mpp_operator.artifacts import clusters, routes

T = TypeVar("T")
RECEIPT = "the-receipt"
CHALLENGE = 'Payment id="1", realm="test", method="tempo", intent="charge", request="e30"'


@dataclass(slots=True)
class StandIn:
    """What the Checks and the access log said. `deny`, `fail` and `hold` change the next answers."""

    checks: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    deny: int = 0  # a status for every request, credential or not
    fail: list[Any] = field(default_factory=list)  # gRPC statuses for the next Checks, one each
    hold: asyncio.Event | None = None  # set it to answer

    def contexts(self) -> list[dict[str, str]]:
        return [dict(check.attributes.context_extensions) for check in self.checks]


class _Authorization(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # no stubs
    def __init__(self, state: StandIn) -> None:
        self._state = state

    async def Check(self, request: Any, context: Any) -> Any:
        self._state.checks.append(request)
        self._state.metadata.append(dict(context.invocation_metadata()))
        if self._state.hold is not None:
            await self._state.hold.wait()
        if self._state.fail:
            await context.abort(self._state.fail.pop(0))
        headers = dict(request.attributes.request.http.headers)
        response = external_auth_pb2.CheckResponse()
        paid = wire.CREDENTIAL_HEADER in headers or re.match(
            wire.CREDENTIAL_PATTERN, headers.get("authorization", "")
        )
        if self._state.deny or not paid:
            status = self._state.deny or 402
            response.status.code = 7
            response.denied_response.status.code = status
            response.denied_response.body = json.dumps({"status": status, "title": "from authz"})
            pairs = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
            if status == 402:
                pairs += [
                    (wire.CHALLENGE_MARKER, "1"),
                    ("www-authenticate", CHALLENGE),
                    ("www-authenticate", CHALLENGE),
                ]
            response.denied_response.headers.extend(_option(*pair, append=True) for pair in pairs)
            return response
        payment = headers.get("x-test-payment", "payment-1")
        response.status.code = 0
        response.ok_response.headers.append(_option("x-mpp-payment-id", payment))
        response.ok_response.response_headers_to_add.extend(
            [_option(wire.RECEIPT_HEADER, RECEIPT), _option(wire.CREDIT_HEADER, payment)]
        )
        response.dynamic_metadata.update(
            {wire.PAYMENT_METADATA: payment, wire.ATTEMPT_METADATA: "1", wire.CREDIT_METADATA: payment}
        )
        return response


class _AccessLog(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]  # no stubs
    def __init__(self, state: StandIn) -> None:
        self._state = state

    async def StreamAccessLogs(self, requests: Any, _context: Any) -> Any:
        async for message in requests:
            if message.HasField("identifier"):
                self._state.logs.append(message.identifier.log_name)
            self._state.entries.extend(message.http_logs.log_entry)
        return als_pb2.StreamAccessLogsResponse()


def _option(name: str, value: str, *, append: bool = False) -> Any:
    option = base_pb2.HeaderValueOption
    action = option.APPEND_IF_EXISTS_OR_ADD if append else option.OVERWRITE_IF_EXISTS_OR_ADD
    return option(header=base_pb2.HeaderValue(key=name, value=value), append_action=action)


@contextlib.asynccontextmanager
async def stand_in(socket: Path, state: StandIn | None = None) -> AsyncIterator[StandIn]:
    """The stand-in on a unix socket for the length of the block."""
    state = state or StandIn()
    server = grpc.aio.server()
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(_Authorization(state), server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(_AccessLog(state), server)
    if not server.add_insecure_port(f"unix:{socket}"):
        raise OSError(f"{socket}: cannot listen")
    await server.start()
    try:
        yield state
    finally:
        await server.stop(0)


@dataclass(slots=True)
class Running:
    """An Envoy that runs, and the directory it reads."""

    home: Path
    port: int
    admin: envoy.Admin
    settings: bootstrap.BootstrapSettings
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, gateway: ir.Gateway, secrets: Mapping[str, str] | None = None) -> None:
        """Swaps the artifacts in, secrets first: a cluster must find its secret."""
        if secrets is not None:
            directory.publish(self.home / "secrets", secrets, mode=0o600)
        directory.publish(self.home / "config", {**routes.render(gateway), **clusters.render(gateway)})

    def outcomes(self) -> list[dict[str, Any]]:
        path = self.home / self.settings.outcomes_file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self) -> str:
        return (self.home / "envoy.log").read_text(errors="replace")

    def requests(self) -> list[dict[str, Any]]:
        """The lines of the request log."""
        return [json.loads(line) for line in (self.home / "stdout.log").read_text().splitlines()]


@contextlib.asynccontextmanager
async def running(
    home: Path,
    gateway: ir.Gateway,
    *,
    secrets: Mapping[str, str] | None = None,
    settings: bootstrap.BootstrapSettings | None = None,
) -> AsyncIterator[Running]:
    """Envoy in `home` with the gateway's artifacts, ready; stopped by its process id at the end."""
    settings = replace(settings or bootstrap.BootstrapSettings("envoy-under-test"), port=0)
    directory.publish(home / "secrets", secrets or {}, mode=0o600)
    directory.publish(home / "config", {**routes.render(gateway), **clusters.render(gateway)})
    (home / "envoy.json").write_text(bootstrap.render(settings))
    with (home / "envoy.log").open("wb") as log, (home / "stdout.log").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *envoy.argv("envoy.json", drain_seconds=2), cwd=home, stdout=out, stderr=log
        )
    try:
        admin = envoy.Admin(home / settings.admin_socket)
        await until(lambda: _ready(process, admin, home), 20)
        port = admin.port()
        assert port is not None
        yield Running(home, port, admin, settings, process)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _ready(process: asyncio.subprocess.Process, admin: envoy.Admin, home: Path) -> bool:
    if process.returncode is not None:
        raise AssertionError(f"envoy exited with {process.returncode}: {(home / 'envoy.log').read_text()[-2000:]}")
    try:
        return admin.ready()
    except envoy.EnvoyError:
        return False


async def until(condition: Callable[[], T], seconds: float = 10) -> T:
    """What the condition gives, once it is true.

    Raises:
        AssertionError: it was not, in time.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        await asyncio.sleep(0.01)
    return value
