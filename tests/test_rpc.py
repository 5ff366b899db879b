"""Asking nodes: which endpoint is asked, what counts as an answer, and whether anything was sent."""

from typing import Any

import httpx
import pytest
from chain import Chain
from rpc_proxy import Proxy

from mpp_authz.methods import _chain

DEAD = "http://127.0.0.1:9"
SEND: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": _chain.SEND, "params": ["0x76"]}
ASK: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": ()}


def answering(status: int, content: bytes) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(status, content=content)))


async def test_a_node_that_cannot_be_connected_to_was_sent_nothing() -> None:
    async with httpx.AsyncClient() as http:
        wire = _chain.Wire(http, [DEAD, DEAD])

        with pytest.raises(httpx.ConnectError):
            await wire.post("", json=SEND)

    assert not wire.sent


async def test_a_connection_that_breaks_may_have_sent_it(chain: Chain) -> None:
    async with Proxy(chain.rpc_url) as proxy, httpx.AsyncClient() as http:
        proxy.drop(_chain.SEND)
        wire = _chain.Wire(http, [proxy.url, chain.rpc_url])

        with pytest.raises(httpx.HTTPError):
            await wire.post("", json=SEND)

    assert wire.sent
    assert proxy.seen == [_chain.SEND]


async def test_a_question_sends_nothing_and_goes_on_to_the_next_endpoint(chain: Chain) -> None:
    async with Proxy(chain.rpc_url) as proxy, httpx.AsyncClient() as http:
        proxy.drop("eth_chainId")
        wire = _chain.Wire(http, [proxy.url, chain.rpc_url])

        answer = await wire.post("", json=ASK)

    assert answer.json()["result"] == "0x7a69"
    assert not wire.sent


async def test_a_node_that_only_fails_is_a_failure() -> None:
    async with answering(500, b"{}") as http:
        with pytest.raises(httpx.HTTPStatusError):
            await _chain.Wire(http, [DEAD]).post("", json=ASK)


async def test_the_node_s_own_error_is_not_in_the_message() -> None:
    async with answering(200, b'{"error": {"code": -32000, "message": "raw 0xc0ffee"}}') as http:
        with pytest.raises(_chain.RpcError) as failure:
            await _chain.call(http, DEAD, "eth_chainId", [])

    assert (str(failure.value), failure.value.code) == ("code -32000", -32000)


@pytest.mark.parametrize("content", [b"{}", b"7", b"<html>"])
async def test_what_is_no_json_rpc_is_no_answer(content: bytes) -> None:
    async with answering(200, content) as http:
        with pytest.raises(_chain.Unreachable):
            await _chain.call(http, DEAD, "eth_chainId", [])


@pytest.mark.parametrize("value", [None, 7, "16", "0x", "0xzz"])
def test_what_is_no_hex_quantity_is_no_answer(value: object) -> None:
    with pytest.raises(_chain.Unreachable):
        _chain.quantity(value)


async def test_a_receipt_of_another_transaction_is_no_answer() -> None:
    async with answering(200, b'{"result": {"transactionHash": "0x01", "status": "0x1"}}') as http:
        with pytest.raises(_chain.Unreachable):
            await _chain.receipt(http, DEAD, "0x02")


async def test_a_block_that_is_none_has_no_time() -> None:
    async with answering(200, b'{"result": null}') as http:
        with pytest.raises(_chain.Unreachable):
            await _chain.block_time(http, DEAD)
