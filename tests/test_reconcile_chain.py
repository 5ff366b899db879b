"""The transfers of a chain, whole or not at all. The nodes are doubles (`nodes`) that lag, refuse and lie on
demand; tests/test_reconcile_live.py reads a real one."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import nodes
import pytest
from nodes import CHAIN_ID, GENESIS, PAYER, RECIPIENT, TOKEN, Node

from mpp_authz.methods import _transfers
from mpp_authz.methods.history import Auditable, Block, HistoryUnavailable, Transfer
from mpp_authz.methods.tempo import Tempo
from mpp_authz.pricing import Network


@pytest.fixture
def node() -> Iterator[Node]:
    with nodes.serving() as served:
        yield served


@pytest.fixture
def other() -> Iterator[Node]:
    with nodes.serving() as served:
        yield served


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


async def at_once(seconds: float) -> None:
    """No pauses in tests."""


def history(http: httpx.AsyncClient, *served: Node) -> _transfers.TempoHistory:
    network = Network("net", "tempo", CHAIN_ID, tuple(one.url for one in served))
    return _transfers.TempoHistory(http, network, at_once)


async def read(http: httpx.AsyncClient, *served: Node, first: int = 0, last: int | None = None) -> list[Transfer]:
    end = served[0].head if last is None else last
    return [transfer async for transfer in history(http, *served).transfers([TOKEN], [RECIPIENT], first, end)]


# --- transfers -------------------------------------------------------------------------------------------


async def test_a_transfer_with_a_memo_is_one_transfer_with_its_marks(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50, challenge="c1")

    (found,) = await read(http, node)

    marks = history(http, node)
    assert found == Transfer(
        CHAIN_ID,
        nodes.hashed("0x01"),
        1,
        1,
        TOKEN,
        PAYER,
        RECIPIENT,
        50,
        marks.realm_mark(nodes.REALM),
        marks.challenge_mark("c1"),
    )


async def test_a_plain_transfer_has_no_marks_and_the_time_its_node_tells(
    node: Node, http: httpx.AsyncClient
) -> None:
    node.pay("0x01", 50)
    node.logs[0]["blockTimestamp"] = "0x10"

    (found,) = await read(http, node)

    assert (found.realm_mark, found.challenge_mark, found.moment) == (None, None, 16)


async def test_transfers_of_one_transaction_stay_apart(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x01", 50, new_block=False)
    node.pay("0x01", 50, challenge="c2", new_block=False)
    node.pay("0x01", 7, new_block=False, recipient="0x" + "cc" * 20)

    found = await read(http, node)

    marks = history(http, node)
    expected = {(50, marks.challenge_mark("c1")), (50, marks.challenge_mark("c2")), (50, None)}
    assert (len(found), {(one.amount, one.challenge_mark) for one in found}) == (3, expected)


async def test_a_memo_that_is_told_before_its_transfer_is_still_one(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.logs.reverse()

    assert len(await read(http, node)) == 1


async def test_other_tokens_and_other_events_are_left_out(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50, token="0x" + "ee" * 20)
    node.pay("0x02", 50)
    node.logs[-1]["topics"].append("0x" + "00" * 32)  # a Transfer of four topics is another contract's idea
    node.pay("0x03", 50)
    node.logs[-1]["topics"][0] = "0x" + "12" * 32

    assert await read(http, node) == []


async def test_nothing_is_asked_where_nobody_is_watched(node: Node, http: httpx.AsyncClient) -> None:
    node.mine(3)

    assert [one async for one in history(http, node).transfers([], [], 0, 3)] == []
    assert node.seen == []


async def test_more_recipients_than_a_filter_takes_are_asked_for_in_turn(
    node: Node, http: httpx.AsyncClient
) -> None:
    recipients = [f"0x{number:040x}" for number in range(1, 251)]
    for number in (1, 120, 250):
        node.pay(f"0x{number:x}", number, recipient=recipients[number - 1])

    found = [one async for one in history(http, node).transfers([TOKEN], recipients, 0, node.head)]

    assert [one.amount for one in found] == [1, 120, 250]
    assert node.count("eth_getLogs") == 3


# --- pages -----------------------------------------------------------------------------------------------


async def test_a_long_chain_is_read_in_pages_that_grow(node: Node, http: httpx.AsyncClient) -> None:
    for number in range(5):
        node.mine(40_000)
        node.pay(f"0x{number:x}", number)

    assert [one.amount for one in await read(http, node)] == [0, 1, 2, 3, 4]

    asked = [
        (int(q[0]["fromBlock"], 16), int(q[0]["toBlock"], 16)) for name, q in node.seen if name == "eth_getLogs"
    ]
    sizes = [last - first + 1 for first, last in asked]
    assert [first for first, _ in asked] == [0, *(last + 1 for _, last in asked[:-1])]
    assert (asked[-1][1], sizes[0], max(sizes)) == (node.head, _transfers.FIRST_PAGE, _transfers.LONGEST_PAGE)


async def test_a_page_shrinks_where_a_node_refuses_the_range(node: Node, http: httpx.AsyncClient) -> None:
    for number in range(40):
        node.pay(f"0x{number:x}", number)
    node.refuses_more_than = 10

    assert [one.amount for one in await read(http, node)] == list(range(40))


async def test_a_page_shrinks_where_an_answer_would_be_too_long(node: Node, http: httpx.AsyncClient) -> None:
    node.mine(100)
    for number in range(40):
        node.pay(f"0x{number:x}", number)
    node.mine(100)
    node.most_logs = 3

    assert [one.amount for one in await read(http, node)] == list(range(40))


async def test_a_block_that_is_too_long_by_itself_is_an_error(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 1)
    node.pay("0x02", 2, new_block=False)
    node.most_logs = 1

    with pytest.raises(HistoryUnavailable, match="net: blocks 1 to 1 cannot be read: code -32005"):
        await read(http, node)


async def test_a_node_that_fails_for_a_while_is_asked_again(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50)
    node.fails["eth_getLogs"] = 3

    assert len(await read(http, node)) == 1


async def test_a_node_that_keeps_failing_is_an_error_after_a_bounded_number_of_tries(
    node: Node, http: httpx.AsyncClient
) -> None:
    node.pay("0x01", 50)
    node.fails["eth_getLogs"] = 10**6

    with pytest.raises(
        HistoryUnavailable, match="net: blocks 0 to 0 cannot be read: eth_getLogs: HTTPStatusError"
    ):
        await read(http, node)

    assert node.count("eth_getLogs") == _transfers.TRIES


# --- nodes that cannot be believed -----------------------------------------------------------------------


async def test_every_endpoint_must_give_the_same_transfers(
    node: Node, other: Node, http: httpx.AsyncClient
) -> None:
    for one in (node, other):
        one.pay("0x01", 50)
    other.hides.add(nodes.hashed("0x01"))

    with pytest.raises(HistoryUnavailable, match="the endpoints disagree about the transfers of blocks 0 to 1"):
        await read(http, node, other)


async def test_a_node_that_is_behind_never_says_that_there_is_nothing(
    node: Node, other: Node, http: httpx.AsyncClient
) -> None:
    node.mine(9)
    other.mine(8)

    with pytest.raises(HistoryUnavailable, match="expected block 9, the endpoint has none"):
        await read(http, node, other)


async def test_a_node_on_a_fork_is_an_error(node: Node, other: Node, http: httpx.AsyncClient) -> None:
    for one in (node, other):
        one.mine(9)
    other.forks_at = 5

    with pytest.raises(HistoryUnavailable, match="disagree"):
        await read(http, node, other)
    with pytest.raises(HistoryUnavailable, match="disagree about block 9"):
        await history(http, node, other).final(0)


@pytest.mark.parametrize(
    "change",
    [
        {"blockNumber": "0x63"},
        {"removed": True},
        {"transactionHash": "0x12"},
        {"data": "0x"},
        {"logIndex": None},
        {"topics": 5},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_log_that_makes_no_sense_is_an_error(
    node: Node, http: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    node.pay("0x01", 50)
    node.says["eth_getLogs"] = [node.logs[0] | change]

    with pytest.raises(HistoryUnavailable, match="cannot be read"):
        await read(http, node)


async def test_an_answer_that_is_no_list_is_an_error(node: Node, http: httpx.AsyncClient) -> None:
    node.mine()
    node.says["eth_getLogs"] = None

    with pytest.raises(HistoryUnavailable, match="expected a list"):
        await read(http, node)


async def test_a_block_that_is_none_is_an_error(node: Node, http: httpx.AsyncClient) -> None:
    node.says["eth_getBlockByNumber"] = {"number": "0x0"}

    with pytest.raises(HistoryUnavailable, match="an endpoint failed: eth_getBlockByNumber: expected a block"):
        await history(http, node).block(0)


# --- what is final ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finalized", "confirmations", "number"),
    [(90, None, 90), (None, None, 100 - _transfers.DEEP), (90, 5, 95), (90, 0, 100), (90, 1000, 0)],
)
async def test_the_last_block_that_counts(
    node: Node, http: httpx.AsyncClient, finalized: int | None, confirmations: int | None, number: int
) -> None:
    node.mine(100)
    node.finalized = finalized

    found = await history(http, node).final(confirmations)

    assert found == Block(number, GENESIS + number, f"0x0{number:063x}")


async def test_a_tag_that_is_known_and_has_no_block_yet_is_as_unknown(node: Node, http: httpx.AsyncClient) -> None:
    node.mine(40)
    node.finalized = 41

    assert (await history(http, node).final(None)).number == 40 - _transfers.DEEP


async def test_of_endpoints_that_differ_a_little_the_last_counts(
    node: Node, other: Node, http: httpx.AsyncClient
) -> None:
    node.mine(100)
    other.mine(100 - _transfers.LAG)

    assert (await history(http, node, other).final(0)).number == 100 - _transfers.LAG


async def test_an_endpoint_that_lags_is_an_error(node: Node, other: Node, http: httpx.AsyncClient) -> None:
    node.mine(100)
    other.mine(99 - _transfers.LAG)

    with pytest.raises(HistoryUnavailable, match="net: an endpoint lags 61 s of block time behind another"):
        await history(http, node, other).final(0)


async def test_an_endpoint_of_another_chain_is_an_error(node: Node, http: httpx.AsyncClient) -> None:
    node.says["eth_chainId"] = "0x8"

    with pytest.raises(HistoryUnavailable, match="net: expected chain 7, an endpoint serves 8"):
        await history(http, node).final(0)


async def test_an_endpoint_that_is_not_there_is_an_error_that_names_no_url(http: httpx.AsyncClient) -> None:
    with nodes.serving() as gone:
        pass

    with pytest.raises(HistoryUnavailable) as raised:
        await history(http, gone).final(0)

    assert str(raised.value) == "network net: an endpoint failed: eth_chainId: ConnectError"


# --- times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("second", "number"), [(-5, 0), (0, 0), (1, 1), (37, 37), (99, 99), (100, 100)])
async def test_a_moment_is_a_block(node: Node, http: httpx.AsyncClient, second: int, number: int) -> None:
    node.mine(100)
    last = await history(http, node).final(0)

    found = await history(http, node).first_from(GENESIS + second, last)

    assert found is not None
    assert found.number == number


async def test_a_moment_behind_the_last_block_is_none(node: Node, http: httpx.AsyncClient) -> None:
    last = await history(http, node).final(0)

    assert await history(http, node).first_from(last.moment + 1, last) is None


# --- by hash ---------------------------------------------------------------------------------------------


async def test_a_transaction_gives_its_block_and_all_its_transfers(node: Node, http: httpx.AsyncClient) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x01", 3, recipient="0x" + "cc" * 20, new_block=False)

    found = await history(http, node).transaction(nodes.hashed("0x01"), [TOKEN])

    assert found is not None
    assert (found[0].number, [one.amount for one in found[1]]) == (1, [50, 3])


async def test_a_transaction_nobody_knows_is_none(node: Node, other: Node, http: httpx.AsyncClient) -> None:
    assert await history(http, node, other).transaction(nodes.hashed("0x01"), [TOKEN]) is None


async def test_a_reverted_transaction_moved_nothing(node: Node, http: httpx.AsyncClient) -> None:
    node.reverted[nodes.hashed("0x01")] = 0

    found = await history(http, node).transaction(nodes.hashed("0x01"), [TOKEN])

    assert found is not None
    assert found[1] == ()


async def test_a_transaction_only_one_endpoint_knows_is_an_error(
    node: Node, other: Node, http: httpx.AsyncClient
) -> None:
    node.pay("0x01", 50)

    with pytest.raises(HistoryUnavailable, match="another does not: one lags"):
        await history(http, node, other).transaction(nodes.hashed("0x01"), [TOKEN])


async def test_a_transaction_two_endpoints_tell_differently_is_an_error(
    node: Node, other: Node, http: httpx.AsyncClient
) -> None:
    node.pay("0x01", 50)
    other.pay("0x01", 51)

    with pytest.raises(HistoryUnavailable, match="the endpoints disagree about the transaction 0x0"):
        await history(http, node, other).transaction(nodes.hashed("0x01"), [TOKEN])


async def test_a_receipt_without_logs_is_an_error(node: Node, http: httpx.AsyncClient) -> None:
    reference = nodes.hashed("0x01")
    node.says["eth_getTransactionReceipt"] = {"transactionHash": reference, "status": "0x1", "blockNumber": "0x0"}

    with pytest.raises(HistoryUnavailable, match="expected logs"):
        await history(http, node).transaction(reference, [TOKEN])


async def test_tempo_can_be_audited(node: Node) -> None:
    async with contextlib.aclosing(Tempo(lambda _: None)) as method:
        network = Network("net", "tempo", CHAIN_ID, (node.url,))

        assert isinstance(method, Auditable)
        assert (await method.history(network).final(0)).number == 0
