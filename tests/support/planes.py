"""A whole data plane on loopback: Envoy, the stand-in for authz, an upstream, and a client."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envoys
import httpx
import irs
import missing
import upstreams

from mpp_operator import bootstrap, ir

PAY = {"authorization": "Payment abc"}


@dataclass(slots=True)
class Plane:
    """Envoy, the stand-in, the upstream, and a client."""

    envoy: envoys.Running
    authz: envoys.StandIn
    upstream: upstreams.Upstream
    client: httpx.AsyncClient

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **fields: object
    ) -> httpx.Response:
        return await self.client.request(method, self.envoy.url + path, headers=headers, **fields)  # type: ignore[arg-type]  # httpx's own parameters

    async def raw(self, text: str) -> bytes:
        """What comes back for exactly these bytes, to the end of the connection or the head of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.envoy.port)
        try:
            writer.write(text.encode("latin-1"))
            async with asyncio.timeout(5):
                return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def data_plane(
    home: Path,
    *services: ir.Service,
    settings: bootstrap.BootstrapSettings | None = None,
    tls: ssl.SSLContext | None = None,
    secret_files: Mapping[str, str] | None = None,
    **cluster: Any,
) -> AsyncIterator[Plane]:
    async with (
        upstreams.serve(tls) as upstream,
        envoys.stand_in(home / "authz.sock") as authz,
        envoys.running(
            home,
            irs.gateway(*services, clusters=(irs.cluster(port=upstream.port, **cluster),)),
            secrets=secret_files,
            settings=settings,
        ) as envoy,
        httpx.AsyncClient(timeout=15) as client,
    ):
        try:
            yield Plane(envoy, authz, upstream, client)
        finally:
            upstream.gate.set()
        log = envoy.log()
        assert "Unable to" not in log
        assert "rejected" not in log or "refused" in home.name


def everything_priced(**fields: object) -> ir.Service:
    return irs.service(irs.priced("all", irs.ANYTHING, ir.DEFAULT_METHODS), **fields)


def everything_free(**fields: object) -> ir.Service:
    return irs.service(irs.free("all", irs.ANYTHING, ir.DEFAULT_METHODS), **fields)


def foreign_address() -> str:
    """An address of this machine that is no loopback address: what is sent from it comes from elsewhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            missing.error_or_skip(
                "expected an IPv4 address beside loopback, found none: bring a network interface up"
            )
