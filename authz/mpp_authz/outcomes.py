"""Envoy's access log entries -> what was delivered. With `service`, the only reader of Envoy's protobufs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from mpp_authz import wire
from mpp_authz.closing import Closer
from mpp_authz.delivery import Entry
from mpp_authz.ledger import LedgerUnavailable

log = logging.getLogger(__name__)

#: Entries being recorded at the same time; more wait, and Envoy buffers.
_AT_ONCE: Final = 256
_ENDED: Final = accesslog_pb2.DownstreamEnd

#: Fields of ResponseFlags that `delivery` asks for, by the short names of %RESPONSE_FLAGS%.
_FLAGS: Final = {
    "downstream_connection_termination": "DC",
    "downstream_protocol_error": "DPE",
    "downstream_remote_reset": "DR",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "upstream_protocol_error": "UPE",
    "upstream_request_timeout": "UT",
    "upstream_max_stream_duration_reached": "UMSDR",
    "upstream_retry_limit_exceeded": "URX",
    "no_healthy_upstream": "UH",
    "no_route_found": "NR",
    "no_cluster_found": "NC",
    "stream_idle_timeout": "SI",
    "duration_timeout": "DT",
    "overload_manager": "OM",
}


class AccessLog(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc] # no stubs for xds-protos
    """`envoy.service.accesslog.v3.AccessLogService`: entries of paid requests, and of those that ended without an
    answer, unbuffered."""

    def __init__(self, closer: Closer) -> None:
        self._closer = closer
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """End the streams, which Envoy never does. It opens others for its next entries, to our successor."""
        self._leaving.set()

    async def StreamAccessLogs(
        self, messages: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(messages, tasks))
            leaving = tasks.create_task(self._leaving.wait())
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            leaving.cancel()
        return als_pb2.StreamAccessLogsResponse()

    async def _read(self, messages: AsyncIterator[Any], tasks: asyncio.TaskGroup) -> None:
        # Each entry in a task of its own: their writes share a commit. Their order does not matter.
        async for message in messages:
            for logged in message.http_logs.log_entry:
                await self._free.acquire()
                tasks.create_task(self._record(logged))

    async def _record(self, logged: Any) -> None:
        try:
            entry = read(logged)
            if entry is not None:
                await self._closer.record(entry)
            elif logged.request.request_id and logged.common_properties.access_log_type == _ENDED:
                await self._closer.unanswered(logged.request.request_id)
        except LedgerUnavailable as error:
            # The outcome file has it too, and is read at the end of the lease.
            log.error("outcome not recorded", extra={"error": str(error)})
        except Exception:
            log.exception("outcome not recorded")  # the next entries of this stream are other payments'
        finally:
            self._free.release()


def read(logged: Any) -> Entry | None:
    """One HTTPAccessLogEntry; None: it is not about a payment."""
    common = logged.common_properties
    metadata = common.metadata.filter_metadata.get(wire.METADATA_NAMESPACE)
    if metadata is None or wire.PAYMENT_METADATA not in metadata.fields:
        return None
    flags = common.response_flags
    return Entry(
        payment=metadata.fields[wire.PAYMENT_METADATA].string_value,
        attempt=int(metadata.fields[wire.ATTEMPT_METADATA].string_value or 0),
        status=logged.response.response_code.value,
        flags=frozenset(short for name, short in _FLAGS.items() if getattr(flags, name)),
        details=logged.response.response_code_details,
        upstream_began=common.HasField("time_to_first_upstream_rx_byte"),
        upstream_finished=common.HasField("time_to_last_upstream_rx_byte"),
        ended=common.access_log_type in (accesslog_pb2.NotSet, _ENDED),
    )
