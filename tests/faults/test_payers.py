"""The clients' witness, and the chain's: what is written down is what happened, by clients as they are."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import chain_witness
import checker
import payers
import pytest
import pytest_asyncio
import stages
import system
import wallets
from chain import Chain, rpc
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st
from outside import Mood
from witnesses import Exchange, Mode, Transfer

KINDS = ("mppx", "pympp", "keeper")


def on_stage(test: Callable[..., Any]) -> Any:
    """The test runs where the gateway and the clients do."""
    return pytest.mark.faults(pytest.mark.asyncio(loop_scope="module")(test))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[stages.Stage]:
    async with stages.opened(chain, tmp_path_factory.mktemp("payers"), "payers") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def kinds(chain: Chain) -> AsyncIterator[dict[str, payers.Payer]]:
    async with payers.mppx(chain.rpc_url, chain.chain_id) as mppx:
        yield {
            "mppx": mppx,
            "pympp": payers.Pympp(chain.rpc_url, chain.chain_id),
            "keeper": payers.Keeper(chain.rpc_url, chain.chain_id),
        }


def statuses(exchanges: tuple[Exchange, ...]) -> list[int]:
    return [exchange.status for exchange in exchanges]


# --- every kind of client ------------------------------------------------------------------------------


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_payment_is_two_exchanges_and_one_transfer(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    (case, key), since = await stage.case(), await stage.block()
    began = time.monotonic()

    asked, paid = await kinds[kind].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert (asked.status, paid.status, paid.whole, paid.hung_up) == (402, 200, True, False)
    assert (asked.challenge, paid.challenges) == (None, ())
    assert began < asked.sent_at < asked.got_at < paid.sent_at < paid.got_at < time.monotonic()
    assert (paid.payer, paid.method, paid.target) == (case.payer, "GET", case.target)
    (transfer,) = await stage.transfers((asked, paid), since)
    assert (paid.receipts, paid.challenge) == ((transfer.reference,), asked.challenges[0])
    assert transfer == Transfer(
        transfer.reference, case.payer, stage.shop.recipient.lower(), case.price, paid.challenge, transfer.sent_at
    )
    assert transfer.sent_at is not None
    assert paid.sent_at < transfer.sent_at < paid.got_at


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_is_sent_again_with_the_payment(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    body = b"what is sealed"
    case, key = await stage.case(route="sealed", body=body)

    exchanges = await kinds[kind].want(case, stage.shop.url, key=key, body=body, patience=stages.patience())

    assert statuses(exchanges) == [402, 200]
    (hit,) = [hit for hit in stage.upstream.take() if hit.target == case.target]
    assert (hit.method, hit.body_hash) == ("POST", exchanges[-1].body_hash)


@on_stage
@pytest.mark.parametrize("kind", ["mppx", "pympp"])
async def test_a_client_that_tries_again_signs_anew_and_pays_once(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    (case, key), since = await stage.case(Mood.S500, retries="new"), await stage.block()

    exchanges = await kinds[kind].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert statuses(exchanges) == [402, 500, 402, 200]
    assert exchanges[1].credential != exchanges[3].credential
    assert exchanges[1].credit == exchanges[1].challenge
    assert len(await stage.transfers(exchanges, since)) == 1


@on_stage
async def test_a_keeper_presents_the_same_credential_until_it_is_served(
    stage: stages.Stage, kinds: dict[str, payers.Payer]
) -> None:
    case, key = await stage.case(Mood.S500, Mood.S503)

    exchanges = await kinds["keeper"].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert statuses(exchanges) == [402, 500, 503, 200]
    assert len({exchange.credential for exchange in exchanges[1:]}) == 1


@on_stage
@pytest.mark.parametrize("kind", ["mppx", "keeper"])
async def test_in_push_mode_the_money_moves_before_the_credential_is_presented(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    (case, key), since = await stage.case(mode=Mode.PUSH), await stage.block()

    exchanges = await kinds[kind].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert statuses(exchanges) == [402, 200]
    (transfer,) = await stage.transfers(exchanges, since)
    assert (transfer.challenge, transfer.sent_at) == (
        exchanges[1].challenge,
        None,
    )  # the gateway's node saw nothing


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_can_leave_before_it_has_an_answer(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    case, key = await stage.case(Mood.HANG, retries="same" if kind == "keeper" else "new")
    since = await stage.block()

    async def hit() -> None:
        await system.until(lambda: stage.points.reached["upstream.hit"], 10, "a hit")

    exchanges = await kinds[kind].want(
        case, stage.shop.url, key=key, patience=stages.patience(), hang_up=payers.HangUp(hit)
    )

    left = exchanges[1]
    assert (left.status, left.hung_up, left.whole) == (0, True, False)
    assert (exchanges[-1].status, exchanges[-1].hung_up) == (200, False)
    run = await stage.ended(case, since, list(exchanges))
    assert (checker.violations(run), len(run.transfers)) == ((), 1)


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_can_leave_once_it_has_the_headers(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    case, key = await stage.case(Mood.SLOW)

    exchanges = await kinds[kind].want(
        case, stage.shop.url, key=key, patience=stages.patience(tries=1), hang_up=payers.HangUp()
    )

    left = exchanges[1]
    assert (left.status, left.hung_up, left.whole, len(left.receipts)) == (200, True, False, 1)


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_breaks_off_is_not_whole_and_is_asked_for_again(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    case, key = await stage.case(Mood.BREAK, retries="same" if kind == "keeper" else "new")
    since = await stage.block()

    exchanges = await kinds[kind].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert (exchanges[1].status, exchanges[1].whole, exchanges[1].hung_up) == (200, False, False)
    assert (exchanges[-1].status, exchanges[-1].whole) == (200, True)
    run = await stage.ended(case, since, list(exchanges))
    assert (checker.violations(run), len(run.transfers)) == ((), 1)


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_gives_up_when_its_tries_are_over_and_goes_round_the_replicas(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str, unused_tcp_port: int
) -> None:
    case, key = await stage.case()
    turns: list[int] = []

    def nobody(number: int) -> str:
        turns.append(number)
        return f"http://127.0.0.1:{unused_tcp_port}"

    exchanges = await kinds[kind].want(case, nobody, key=key, patience=stages.patience(tries=3))

    assert (turns, statuses(exchanges)) == ([0, 1, 2], [0, 0, 0])
    assert {(exchange.hung_up, exchange.whole) for exchange in exchanges} == {(False, False)}


@on_stage
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_s_own_time_limit_is_its_own_hanging_up(
    stage: stages.Stage, kinds: dict[str, payers.Payer], kind: str
) -> None:
    case, key = await stage.case(Mood.HANG)
    patience = payers.Patience(tries=1, seconds=5, each=1)

    exchanges = await kinds[kind].want(case, stage.shop.url, key=key, patience=patience)

    assert (exchanges[-1].status, exchanges[-1].hung_up) == (0, True)


# --- copies, the end, and others -----------------------------------------------------------------------


@on_stage
async def test_copies_leave_at_once_and_are_one_credential(
    stage: stages.Stage, kinds: dict[str, payers.Payer]
) -> None:
    (case, key), since = await stage.case(copies=5), await stage.block()

    exchanges = await kinds["keeper"].want(case, stage.shop.url, key=key, patience=stages.patience())

    assert len({exchange.credential for exchange in exchanges[1:]}) == 1
    assert sorted(statuses(exchanges[1:])) == [200, 403, 403, 403, 403]
    assert max(e.sent_at for e in exchanges[1:]) < min(e.got_at for e in exchanges[1:])
    assert len(await stage.transfers(exchanges, since)) == 1


@on_stage
async def test_what_was_used_is_presented_again_and_refused(
    stage: stages.Stage, kinds: dict[str, payers.Payer]
) -> None:
    case, key = await stage.case()
    exchanges = await kinds["keeper"].want(case, stage.shop.url, key=key, patience=stages.patience())

    again = await payers.present(stage.shop.url(0), exchanges[-1])
    probe = await payers.present(
        stage.shop.url(0), exchanges[-1], other=True, payer="0xsomebody", target=case.target + "&more"
    )

    assert (again.status, again.final, again.other, again.credential) == (
        403,
        True,
        False,
        exchanges[-1].credential,
    )
    assert (probe.status, probe.final, probe.other, probe.payer) == (403, False, True, "0xsomebody")
    assert (probe.case, probe.target) == (case.id, case.target + "&more")


@on_stage
@pytest.mark.parametrize("forged", [False, True], ids=["honest", "forged"])
async def test_a_stranger_without_money_is_not_served_what_is_owed_to_another(
    stage: stages.Stage, kinds: dict[str, payers.Payer], forged: bool
) -> None:
    (case, key), since = await stage.case(Mood.S500), await stage.block()
    exchanges = await kinds["keeper"].want(case, stage.shop.url, key=key, patience=stages.patience(tries=1))
    _, poor = system.stranger(case.id)

    tried = await payers.stranger(
        case, stage.shop.url(0), stage.chain.rpc_url, stage.chain.chain_id, key=poor, forged=forged
    )

    assert [one.other for one in tried] == [True, True]
    assert tried[0].status == 402
    assert tried[1].status in (402, 503)
    run = await stage.ended(case, since, [*exchanges, *tried])
    assert (checker.violations(run), len(run.transfers)) == ((), 1)


# --- the chain -----------------------------------------------------------------------------------------


@pytest.mark.payments
async def test_a_transfer_without_a_memo_is_one_of_no_challenge(chain: Chain) -> None:
    recipient, since = wallets.payee("plain transfers"), await chain_witness.head(chain.rpc_url)
    signed = wallets.transfer(chain, memo=None, recipient=recipient, amount=7).sign(chain.buyer_key)
    raw = "0x" + signed.encode().hex()

    await asyncio.to_thread(rpc, chain, "eth_sendRawTransactionSync", raw)

    reference = chain_witness.reference_of(raw)
    found = await chain_witness.transfers(
        chain.rpc_url, recipient, challenges=["c1"], since=since, sent_at={reference: 5.0}
    )
    assert found == (Transfer(reference, chain.buyer.lower(), recipient.lower(), 7, None, 5.0),)


@pytest.mark.payments
async def test_a_chain_without_a_new_block_has_no_new_transfer(chain: Chain) -> None:
    since = await chain_witness.head(chain.rpc_url) + 10

    assert await chain_witness.transfers(chain.rpc_url, wallets.payee("nobody"), challenges=(), since=since) == ()


def log(amount: int, memo: str | None = None, reference: str = "0xAA") -> dict[str, Any]:
    """One entry of a node's logs."""
    name, more = (b"Transfer", b"") if memo is None else (b"TransferWithMemo", b",bytes32")
    event = name + b"(address,address,uint256" + more + b")"
    people = ["0x" + "0" * 24 + "Ab" * 20, "0x" + "0" * 24 + "cD" * 20]
    topics = ["0x" + keccak(event).hex(), *people, *([] if memo is None else ["0x" + memo])]
    return {"transactionHash": reference, "topics": topics, "data": f"0x{amount:064x}"}


def memo(challenge: str, tag: str = "ef1ed71201") -> str:
    return tag + "11" * 10 + "00" * 10 + chain_witness.nonce(challenge)


def read(*logs: dict[str, Any]) -> list[tuple[str, int, str | None]]:
    found = chain_witness.read(list(logs), {chain_witness.nonce(one): one for one in ("c1", "c2")}, {})
    assert {(one.payer, one.recipient) for one in found} <= {("0x" + "ab" * 20, "0x" + "cd" * 20)}
    return [(one.reference, one.amount, one.challenge) for one in found]


def test_a_transfer_with_a_memo_logs_two_events_and_is_one() -> None:
    assert read(log(5), log(5, memo("c1"))) == [("0xaa", 5, "c1")]


def test_two_transfers_in_one_transaction_are_two() -> None:
    both = read(log(5), log(5, memo("c1")), log(5), log(5, memo("c2")), log(5), log(6))

    assert both == [("0xaa", 5, "c1"), ("0xaa", 5, "c2"), ("0xaa", 5, None), ("0xaa", 6, None)]


def test_transfers_come_in_the_order_of_the_chain() -> None:
    assert read(log(5, reference="0xB"), log(6, memo("c1"), reference="0xA")) == [
        ("0xb", 5, None),
        ("0xa", 6, "c1"),
    ]


@pytest.mark.parametrize(
    "other", [memo("c3"), memo("c1", tag="ef1ed71202"), "00" * 32], ids=["id", "version", "none"]
)
def test_a_memo_of_another_kind_pays_no_challenge_of_ours(other: str) -> None:
    assert read(log(5), log(5, other)) == [("0xaa", 5, None)]


# --- reading -------------------------------------------------------------------------------------------


def token(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def test_challenge_ids_are_read_from_all_values() -> None:
    joined = 'Payment id="a-1", realm="r", opaque="x", Payment realm="id", id="b_2", request="id"'

    assert payers.challenge_ids(joined) == ("a-1", "b_2")
    assert payers.challenge_ids('Bearer realm="r", id="7"') == ()
    assert payers.challenge_ids("") == ()


def test_a_credential_says_which_challenge_it_answers() -> None:
    assert payers.challenge_of("Payment " + token({"challenge": {"id": "c1"}})) == "c1"


@pytest.mark.parametrize(
    "value", ["Payment !", "Payment", "Payment " + token([]), "Payment " + token({"challenge": 1})]
)
def test_what_is_no_credential_answers_no_challenge(value: str) -> None:
    assert payers.challenge_of(value) is None


def test_receipts_are_counted_one_by_one_and_an_unreadable_one_is_seen() -> None:
    good = token({"reference": "0xAB"})

    assert payers.references("") == ()
    assert payers.references(good) == ("0xab",)
    assert payers.references(f"{good}, {good}") == ("0xab", "0xab")
    assert payers.references(f"{good}, nonsense") == ("0xab", "unreadable")
    assert payers.references(token({"reference": ""})) == ("unreadable",)


@given(st.text())
def test_nothing_in_a_header_makes_the_witness_fail(text: str) -> None:
    payers.references(text)
    payers.challenge_of("Payment " + text)
    payers.challenge_ids(text)
