"""The edges of the data plane: limits of headers, answers of our own across origins, a large configuration."""

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import envoys
import httpx
import irs
import pytest
from planes import PAY, data_plane, everything_free, everything_priced

from mpp_operator import bootstrap, ir

pytestmark = pytest.mark.data_plane

#: What a client sends beside the headers counted here: host, accept, accept-encoding, connection, user-agent, and
#: four that Envoy reads as headers, too (method, path, scheme, authority).
ROOM = 12


@pytest.mark.parametrize(
    ("count", "status"), [(bootstrap.MAX_HEADERS_COUNT - ROOM, 200), (bootstrap.MAX_HEADERS_COUNT + 1, 431)]
)
async def test_a_request_has_at_most_so_many_headers(tmp_path: Path, count: int, status: int) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        answer = await plane.ask("GET", "/llm/x", {f"x-{number}": "1" for number in range(count)})

        assert (answer.status_code, len(plane.upstream.hits)) == (status, int(status == 200))


@pytest.mark.parametrize(("kib", "status"), [(-1, 402), (1, 431)])
async def test_a_requests_headers_are_at_most_60_kib(tmp_path: Path, kib: int, status: int) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/x", {"x-large": "x" * (bootstrap.MAX_HEADERS_KIB + kib) * 1024})

        assert (answer.status_code, len(plane.authz.checks)) == (status, int(status == 402))
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/llm/no", 404), ("PATCH", "/llm/x", 405)])
async def test_our_own_404_and_405_can_be_read_across_origins(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with data_plane(tmp_path, irs.service(irs.priced("x", irs.literal("/x")))) as plane:
        across = await plane.ask(method, path, {"origin": "https://shop.example"})
        same = await plane.ask(method, path)

        assert (across.status_code, across.json()["status"]) == (status, status)
        assert across.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in same.headers
        assert across.json() == same.json()


async def test_the_502_for_an_upstreams_402_says_when_to_come_back(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/status?code=402", PAY)

        assert (answer.status_code, answer.headers.get_list("retry-after")) == (502, ["1"])


@pytest.mark.parametrize(
    ("retries", "tried_again"),
    [(replace(irs.RETRIES, per_try=None), 2), (replace(irs.RETRIES, attempts=1), 1), (irs.NO_RETRIES, 0)],
    ids=["usual", "own", "none"],
)
async def test_an_upstream_that_refuses_is_asked_again_as_often_as_the_service_says(
    tmp_path: Path, retries: ir.Retries, tried_again: int
) -> None:
    with socket.socket() as nobody:  # bound, not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        gateway = irs.gateway(
            everything_free(retries=retries), clusters=(irs.cluster(port=nobody.getsockname()[1]),)
        )
        async with envoys.running(tmp_path, gateway) as envoy, httpx.AsyncClient() as client:
            answer = await client.get(f"{envoy.url}/llm/x")
            found = envoy.admin.stats(r"^cluster\.up\.upstream_rq_retry$")

        assert (answer.status_code, sum(found.values())) == (503, tried_again)


async def test_a_large_configuration_is_loaded_while_requests_run_and_streams_stay(tmp_path: Path) -> None:
    """5,000 routes take Envoy part of a second on its main thread; its workers go on answering."""
    streaming = irs.service(irs.priced("s", irs.ANYTHING, streaming=True))
    many = tuple(
        irs.service(
            *(irs.priced(f"r{number}", irs.literal(f"/r{number}")) for number in range(10)),
            name=f"s{at}",
            base_path=f"/s{at}",
        )
        for at in range(500)
    )

    async with data_plane(tmp_path, streaming) as plane:
        async with plane.client.stream("GET", f"{plane.envoy.url}/llm/stream", headers=PAY) as answer:
            chunks = answer.aiter_text()
            first = await anext(chunks)
            before = plane.envoy.admin.versions()["rds.json"]
            plane.envoy.publish(irs.gateway(streaming, *many, clusters=(irs.cluster(port=plane.upstream.port),)))
            statuses = []
            async with asyncio.timeout(30):
                while (await asyncio.to_thread(plane.envoy.admin.versions))["rds.json"] == before:
                    statuses.append((await plane.ask("GET", "/llm/x", PAY)).status_code)
            last = await plane.ask("GET", "/s499/r9", PAY)
            plane.upstream.gate.set()
            rest = "".join([chunk async for chunk in chunks])

        assert (first, rest) == ("data: started\n\n", "data: ended\n\n")
        assert (set(statuses) <= {200}, last.status_code) == (True, 200)
