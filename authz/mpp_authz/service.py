"""Envoy's Checks: CheckRequest -> Request, Verdict -> CheckResponse. Decides nothing about payments.

Decoded with protobuf's C core (upb): 2 µs a CheckRequest, where typed Python messages need 580.
"""

import asyncio
import logging
import time
from typing import Any, Final

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from mpp_authz import problems, verdicts, wire
from mpp_authz.decide import Gate
from mpp_authz.metrics import Metrics
from mpp_authz.quotes import Request
from mpp_authz.verdicts import Allow, Deny, Verdict

log = logging.getLogger(__name__)

_Option = base_pb2.HeaderValueOption
#: Several challenges are several lines: every other action keeps one of them only.
_APPEND: Final = _Option.APPEND_IF_EXISTS_OR_ADD
#: The upstream's own header of that name must not survive beside ours.
_OVERWRITE: Final = _Option.OVERWRITE_IF_EXISTS_OR_ADD
_OK: Final = 0
_PERMISSION_DENIED: Final = 7
#: What Envoy adds for the upstream must fit into its limits of a request's headers (100, and 60 KiB), or it
#: answers 500 where we let a request through that was paid for. It tells us a repeated header once, and no
#: cookies.
_MOST_HEADERS: Final = 100 - 8
_MOST_BYTES: Final = 60 * 1024 - 1024


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc] # no stubs for xds-protos
    """`envoy.service.auth.v3.Authorization`. The one broad catch is here, and it denies."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate = gate
        self._metrics = metrics

    async def Check(self, message: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        begun = time.perf_counter()
        data_plane = ""
        for key, value in context.invocation_metadata() or ():
            if key == wire.DATA_PLANE_METADATA:
                data_plane = value if isinstance(value, str) else value.decode("ascii", "replace")
        request = read(message, data_plane)
        try:
            verdict = _crowded(message) or await self._gate.check(request)
        except asyncio.CancelledError:
            self._count(request, "cancelled", begun)
            raise
        except Exception:
            log.exception("check failed", extra={"route": request.route})
            verdict = verdicts.unavailable(f"The gateway failed to decide. {verdicts.PRESENT_AGAIN}")
        self._count(request, verdict.reason, begun)
        return write(verdict)

    def _count(self, request: Request, result: str, begun: float) -> None:
        carries = request.authorization or request.payment_authorization
        self._metrics.check("paying" if carries else "minting", result, time.perf_counter() - begun)


def _crowded(message: Any) -> Verdict | None:
    """Where our facts would not fit beside this request's headers: said before money moves, or is asked for."""
    headers = message.attributes.request.http.headers
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) <= _MOST_HEADERS and size <= _MOST_BYTES:
        return None
    return verdicts.deny(
        problems.HEADERS_TOO_LARGE,
        f"A priced path takes at most {_MOST_HEADERS} headers and {_MOST_BYTES} bytes of them, some of the "
        f"gateway's own included; this request has {len(headers)} and {size}. Send less, with the same credential "
        "if there was one: nothing was taken for this request.",
    )


def read(message: Any, data_plane: str = "") -> Request:
    """What authz wants to know of a CheckRequest."""
    attributes = message.attributes
    http = attributes.request.http
    headers = http.headers
    path, _, query = http.path.partition("?")
    host = http.host.lower()
    return Request(
        route=attributes.context_extensions.get(wire.ROUTE_CONTEXT),
        http_method=http.method,
        host=_without_port(host),
        scheme=http.scheme,
        peer=attributes.source.address.socket_address.address,
        path=path,
        query=query,
        authorization=headers.get("authorization"),
        payment_authorization=headers.get(wire.CREDENTIAL_HEADER),
        accept_payment=headers.get("accept-payment"),
        idempotency_key=headers.get("idempotency-key"),
        forwarded_proto=headers.get(wire.FORWARDED_PROTO),
        body=http.raw_body or None,
        data_plane=data_plane,
        id=headers.get("x-request-id", ""),
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def write(verdict: Verdict) -> Any:
    """The CheckResponse of a verdict."""
    response = external_auth_pb2.CheckResponse()
    match verdict:
        case Allow():
            response.status.code = _OK
            ok = response.ok_response
            for name, value in verdict.request_headers:
                _add(ok.headers, name, value, _OVERWRITE)
            for name, value in verdict.response_headers:
                _add(ok.response_headers_to_add, name, value, _OVERWRITE)
                if name == wire.CREDIT_HEADER:
                    response.dynamic_metadata[wire.CREDIT_METADATA] = value
            response.dynamic_metadata[wire.PAYMENT_METADATA] = verdict.payment
            response.dynamic_metadata[wire.ATTEMPT_METADATA] = str(verdict.attempt)
        case Deny():
            response.status.code = _PERMISSION_DENIED  # any code but OK: Envoy forwards on 0, whatever follows
            denied = response.denied_response
            denied.status.code = verdict.kind.status
            denied.body = verdict.body
            for name, value in verdict.headers:
                _add(denied.headers, name, value, _APPEND)
    return response


def _add(options: Any, name: str, value: str, action: int) -> None:
    option = options.add()
    option.header.key = name
    option.header.value = value
    option.append_action = action
