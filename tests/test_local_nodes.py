"""What the nodes of gateway.yaml say at a start: another chain, another time, or nothing."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from chain import Chain

from mpp_operator import gateway
from mpp_operator.local import nodes

NOW = 1_800_000_000
NETWORK = gateway.Network("devnet", "tempo", 31337, ("http://127.0.0.1:9/secret-key",), ())
FIELD = "gateway.yaml: networks.devnet.rpcUrl"


def judged(chain_id: int = 31337, late: int = 0, trouble: str = "") -> nodes.Findings:
    return nodes.judge([(NETWORK, FIELD, nodes.Answer(chain_id, NOW - late, trouble))], float(NOW))


@pytest.mark.parametrize("late", [-nodes.AHEAD, 0, nodes.BEHIND])
def test_the_right_chain_at_the_right_time_is_nothing_to_speak_of(late: int) -> None:
    assert judged(late=late) == nodes.Findings()


def test_another_chain_is_a_problem_that_names_both() -> None:
    assert judged(chain_id=1) == nodes.Findings(
        problems=(f"{FIELD}: expected a node of chain 31337, got one of chain 1; correct the URL or chainId",)
    )


@pytest.mark.parametrize(
    ("late", "words"), [(-3600, "3600 s ahead of our clock"), (3600, "3600 s behind our clock")]
)
def test_a_clock_that_is_off_is_a_warning(late: int, words: str) -> None:
    (warning,) = judged(late=late).warnings

    assert warning.startswith(
        f"{FIELD}: expected a newest block of this moment, got one {words}; set this machine's"
    )


def test_a_node_that_does_not_answer_is_a_warning() -> None:
    (warning,) = judged(trouble="ConnectError").warnings

    assert warning.startswith(f"{FIELD}: expected a node that answers, got ConnectError; while no node of devnet")


@contextlib.asynccontextmanager
async def node(status: str, body: bytes | None) -> AsyncIterator[str]:
    """A double of a node that says always the same; None: nothing at all."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body is None:
            await over.wait()
        else:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
            writer.write(body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret-key"
    over.set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("401 Unauthorized", b"{}", "HTTP status 401"),
        ("200 OK", b"<html>", "something else than Ethereum's JSON-RPC"),
        ("200 OK", b"[]", "something else than Ethereum's JSON-RPC"),
        ("200 OK", b'{"jsonrpc": "2.0", "error": {"code": -32601}}', "something else than Ethereum's JSON-RPC"),
        ("200 OK", json.dumps({"result": None}).encode(), "something else than Ethereum's JSON-RPC"),
        ("200 OK", None, "no answer within 0.5 s"),
    ],
)
async def test_what_is_no_node_is_said_without_its_url(status: str, body: bytes | None, words: str) -> None:
    async with node(status, body) as url:
        found = await nodes.ask([replace(NETWORK, rpc_urls=(url,))], limit=0.5)

    assert found.problems == ()
    assert f"{FIELD}: expected a node that answers, got {words}; " in found.warnings[0]
    assert "secret-key" not in found.warnings[0]


async def test_every_node_of_a_network_is_told_by_its_place() -> None:
    found = await nodes.ask([replace(NETWORK, rpc_urls=("http://127.0.0.1:9", "http://127.0.0.1:9/b"))], limit=2)

    assert [warning.partition(": expected")[0] for warning in found.warnings] == [
        "gateway.yaml: networks.devnet.rpcUrls[0]",
        "gateway.yaml: networks.devnet.rpcUrls[1]",
    ]


async def test_the_public_nodes_of_built_in_networks_are_not_asked() -> None:
    assert await nodes.ask(gateway.BUILT_IN.values(), limit=0.001) == nodes.Findings()


@pytest.mark.payments
async def test_a_real_node_is_known_by_its_chain(chain: Chain) -> None:
    right = gateway.Network("localnet", "tempo", chain.chain_id, (chain.rpc_url,), ())

    found = await nodes.ask([right, replace(right, name="other", chain_id=chain.chain_id + 1)], clock=time.time)

    assert found.warnings == ()
    assert [problem.partition(":")[0] for problem in found.problems] == ["gateway.yaml"]
    assert f"expected a node of chain {chain.chain_id + 1}, got one of chain {chain.chain_id}" in found.problems[0]
