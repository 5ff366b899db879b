"""What is judged, claimed, sent and concluded about Tempo payments. The chain is real; the claim is a double."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import quotes
import rlp  # type: ignore[import-untyped]
import wallets
from chain import ALPHA_USD, PATH_USD, Chain, pass_time, rpc
from eth_hash.auto import keccak
from mpp.methods.tempo import TempoAccount, attribution
from mpp.methods.tempo.fee_payer_envelope import encode_fee_payer_envelope
from pytempo import sign_tx_access_key  # type: ignore[import-untyped]
from rpc_proxy import Proxy

from mpp_authz.methods import (
    Credential,
    Never,
    NotYet,
    Quote,
    Refused,
    Settled,
    TransferRefused,
    Unavailable,
    Unknown,
    Verified,
    _transactions,
    proof,
)
from mpp_authz.methods._lookup import GRACE
from mpp_authz.methods._pull import LONGEST_VALIDITY
from mpp_authz.methods.tempo import Tempo
from mpp_operator import sandbox

DEAD = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
async def method(chain: Chain) -> AsyncIterator[Tempo]:
    tempo = Tempo({"sponsor": chain.sponsor_key}.get, confirmation_timeout=3)
    yield tempo
    await tempo.aclose()


@pytest.fixture
def payee(request: pytest.FixtureRequest) -> str:
    """An address of the test's own."""
    return wallets.payee(request.node.nodeid)


def pull(chain: Chain, quote: Quote, key: str | None = None, source: bool = True, **changes: Any) -> Credential:
    """A pull credential as a client makes it, but for the changes."""
    key = key or chain.buyer_key
    arguments = {
        "memo": wallets.memo(quote.challenge),
        "recipient": quote.request["recipient"],
        "amount": int(quote.request["amount"]),
        "token": quote.request["currency"],
    } | changes
    unsigned = wallets.transfer(chain, **arguments)
    signed = unsigned.sign(key)
    raw = encode_fee_payer_envelope(signed) if unsigned.awaiting_fee_payer else signed.encode()
    return carrying(chain, "0x" + raw.hex(), address(key) if source else None)


def carrying(chain: Chain, raw: str, payer: str | None) -> Credential:
    return Credential(
        {"type": "transaction", "signature": raw}, None if payer is None else proof.source(payer, chain.chain_id)
    )


def address(key: str) -> str:
    return str(TempoAccount.from_key(key).address)


async def pushed(chain: Chain, quote: Quote, **changes: Any) -> Credential:
    """A push credential for a transfer that was made, as `quote` asks but for the changes."""
    raw = pull(chain, quote, **changes).payload["signature"]
    receipt = rpc(chain, "eth_sendRawTransactionSync", raw)
    return Credential(
        {"type": "hash", "hash": receipt["transactionHash"]}, proof.source(chain.buyer, chain.chain_id)
    )


async def verified(method: Tempo, credential: Credential, quote: Quote) -> Verified:
    outcome = await method.verify(credential, quote)
    assert isinstance(outcome, Verified), outcome
    return outcome


async def settle(method: Tempo, credential: Credential, quote: Quote, row: quotes.Row) -> Any:
    return await method.settle(credential, quote, await verified(method, credential, quote), row)


# --- the request ---------------------------------------------------------------------------------------


@pytest.mark.row("H06")
def test_a_request_names_modes_only_where_they_are_restricted(method: Tempo, chain: Chain, payee: str) -> None:
    both = method.request(quotes.offer(payee), chain.network)
    pull_only = method.request(quotes.offer(payee, modes=("pull",)), chain.network)

    assert both == {
        "amount": "1500",
        "currency": PATH_USD,
        "recipient": payee,
        "methodDetails": {"chainId": 31337},
    }
    assert pull_only["methodDetails"] == {"chainId": 31337, "supportedModes": ["pull"]}


def test_a_sponsored_request_says_so(method: Tempo, chain: Chain, payee: str) -> None:
    request = method.request(quotes.offer(payee, fee_payer=quotes.TERMS), chain.network)

    assert request["methodDetails"] == {"chainId": 31337, "feePayer": True}


# --- pull: what is refused without a question to the chain ---------------------------------------------


async def test_a_pull_payment_is_known_before_it_is_sent(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = pull(chain, quote)

    judged = await verified(method, credential, quote)

    assert (judged.mode, judged.payer, judged.payer_proved) == ("pull", chain.buyer.lower(), True)
    assert judged.reference == _transactions.raw_hash(method.raw(credential) or "")
    assert judged.valid_before is not None
    assert rpc(chain, "eth_getTransactionReceipt", judged.reference) is None


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a nonce that does not expire": ({"nonce_key": 0}, "nonce key"),
    "no last valid moment": ({"valid_before": 0}, "valid_before"),
    "a last valid moment in the past": ({"valid_before": 1_700_000_000}, "valid_before"),
    "another chain": ({"chain_id": 4217}, "chain 31337"),
    "another token": ({"token": ALPHA_USD}, "matching payment call"),
    "another amount": ({"amount": 1499}, "matching payment call"),
    "another recipient": ({"recipient": "0x" + "22" * 20}, "matching payment call"),
    "no memo": ({"memo": None}, "memo is not bound"),
    "a memo of another challenge": (
        {"memo": attribution.encode("other", quotes.REALM)},
        "memo is not bound",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.row("H08")
async def test_a_pull_payment_is_refused_for(case: str, method: Tempo, chain: Chain, payee: str) -> None:
    changes, why = REFUSALS[case]
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(pull(chain, quote, **changes), quote)

    assert isinstance(outcome, Refused)
    assert (outcome.problem, why in outcome.detail) == ("verification-failed", True), outcome.detail


async def test_a_memo_of_another_realm_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    stranger = dataclasses.replace(quote.challenge, realm="other.example")

    outcome = await method.verify(pull(chain, quote, memo=wallets.memo(stranger)), quote)

    assert isinstance(outcome, Refused)


@pytest.mark.parametrize(("ahead", "accepted"), [(LONGEST_VALIDITY - 5, True), (LONGEST_VALIDITY + 5, False)])
async def test_a_pull_payment_must_end_soon(
    ahead: int, accepted: bool, method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(pull(chain, quote, valid_before=int(time.time()) + ahead), quote)

    assert isinstance(outcome, Verified) == accepted


async def test_a_pull_payment_that_is_valid_only_later_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(pull(chain, quote, valid_after=int(time.time()) + 15), quote)

    assert isinstance(outcome, Refused)
    assert "valid_after" in outcome.detail


@pytest.mark.parametrize("asked", [("push",), ("pull",)])
async def test_a_mode_that_was_not_offered_is_refused(
    asked: tuple[str, ...], method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, modes=asked))
    answers = {"push": pull(chain, quote), "pull": Credential({"type": "hash", "hash": "0x" + "ab" * 32}, None)}

    outcome = await method.verify(answers[asked[0]], quote)

    assert isinstance(outcome, Refused)


async def test_a_hash_is_refused_where_the_fee_is_sponsored(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))

    outcome = await method.verify(Credential({"type": "hash", "hash": "0x" + "ab" * 32}, None), quote)

    assert isinstance(outcome, Refused)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": "card"},
        {"type": "transaction"},
        {"type": "transaction", "signature": 7},
        {"type": "transaction", "signature": "0x76"},
        {"type": "transaction", "signature": "0x02c0"},
        {"type": "transaction", "signature": "0x76zz"},
        {"type": "transaction", "signature": "0x76c0"},
        {"type": "hash"},
        {"type": "hash", "hash": "0xabc"},
    ],
    ids=json.dumps,
)
async def test_a_payload_that_cannot_be_read_is_invalid(
    payload: dict[str, Any], method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(Credential(payload, None), quote)

    assert isinstance(outcome, Refused)
    assert outcome.problem == "invalid-payload"


async def test_an_unsponsored_quote_takes_no_envelope(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(pull(chain, quote, sponsored=True), quote)

    assert isinstance(outcome, Refused)
    assert "0x76" in outcome.detail


async def test_a_sponsored_quote_takes_nothing_but_an_envelope(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))

    outcome = await method.verify(pull(chain, quote), quote)

    assert isinstance(outcome, Refused)
    assert "0x78" in outcome.detail


async def test_an_envelope_that_ends_too_soon_to_be_sponsored_is_refused(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))

    outcome = await method.verify(pull(chain, quote, sponsored=True, valid_before=int(time.time()) + 10), quote)

    assert isinstance(outcome, Refused)


async def test_a_refusal_holds_no_part_of_the_credential(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    secret = "0x" + "c0ffee" * 20

    for payload in ({"type": "transaction", "signature": secret}, {"type": "hash", "hash": secret}):
        outcome = await method.verify(Credential(payload, secret), quote)
        assert isinstance(outcome, Refused)
        assert "c0ffee" not in outcome.detail


# --- pull: who pays ------------------------------------------------------------------------------------


async def test_without_a_source_the_signature_proves_the_payer(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    judged = await verified(method, pull(chain, quote, source=False), quote)

    assert (judged.payer, judged.payer_proved) == (chain.buyer.lower(), True)


@pytest.mark.parametrize("who", ["somebody else", "on another chain", "no DID"])
async def test_a_source_that_is_not_the_sender_is_refused(
    who: str, method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    sources = {
        "somebody else": proof.source(payee, chain.chain_id),
        "on another chain": proof.source(chain.buyer, 4217),
        "no DID": chain.buyer,
    }

    outcome = await method.verify(dataclasses.replace(pull(chain, quote), source=sources[who]), quote)

    assert isinstance(outcome, Refused)


def forged(chain: Chain, quote: Quote, scheme: str) -> tuple[str, str]:
    """A transaction that names a victim as its sender, and the victim. Nobody's signature is in it."""
    victim = bytes.fromhex(sandbox.account("victim")[0][2:])
    key, authenticator = bytes(range(64)), b"\x01" * 100
    signatures = {
        "keychain 0x03": (b"\x03" + victim + b"\x11" * 32 + b"\x22" * 32 + b"\x1b", victim),
        "keychain 0x04": (b"\x04" + victim + b"\x11" * 32 + b"\x22" * 32 + b"\x1b", victim),
        "P256 0x01": (b"\x01" + b"\x11" * 64 + key + b"\x00", keccak(key)[-20:]),
        "WebAuthn 0x02": (b"\x02" + authenticator + b"\x11" * 64 + key, keccak(key)[-20:]),
        "multisig 0x05": (b"\x05" + rlp.encode([victim, [b"\x11" * 65]]), victim),
    }
    raw = bytes.fromhex(pull(chain, quote).payload["signature"][2:])
    signature, named = signatures[scheme]
    fields = rlp.decode(raw[1:])
    return "0x" + (raw[:1] + rlp.encode([*fields[:-1], signature])).hex(), "0x" + named.hex()


@pytest.mark.parametrize("named", [True, False], ids=["with source", "without source"])
@pytest.mark.parametrize(
    "scheme", ["keychain 0x03", "keychain 0x04", "P256 0x01", "WebAuthn 0x02", "multisig 0x05"]
)
async def test_a_forged_signature_proves_no_payer(
    scheme: str, named: bool, method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    raw, victim = forged(chain, quote, scheme)

    judged = await verified(method, carrying(chain, raw, victim if named else None), quote)

    assert (judged.payer, judged.payer_proved) == (victim, False)


@pytest.mark.parametrize("scheme", ["keychain 0x04", "P256 0x01", "WebAuthn 0x02", "multisig 0x05"])
async def test_a_forged_signature_moves_no_money(scheme: str, method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    raw, victim = forged(chain, quote, scheme)

    outcome = await settle(method, carrying(chain, raw, victim), quote, quotes.Row())

    assert isinstance(outcome, Unknown | Refused)
    assert wallets.balance(chain, payee) == 0


async def test_a_65_byte_signature_of_another_key_is_another_payer(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    thief, key = sandbox.account("thief")
    raw = pull(chain, quote, key=key).payload["signature"]

    as_victim = await method.verify(carrying(chain, raw, chain.buyer), quote)
    as_itself = await verified(method, carrying(chain, raw, None), quote)

    assert isinstance(as_victim, Refused)
    assert as_itself.payer == thief.lower()


async def test_an_envelope_that_names_another_sender_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))
    raw = bytes.fromhex(pull(chain, quote, sponsored=True).payload["signature"][2:])
    fields = rlp.decode(raw[1:])
    fields[11] = bytes.fromhex(sandbox.account("victim")[0][2:])
    changed = "0x" + (raw[:1] + rlp.encode(fields)).hex()

    outcome = await method.verify(carrying(chain, changed, None), quote)

    assert isinstance(outcome, Refused)


async def test_a_signature_of_an_access_key_is_reported_but_not_proved(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    unsigned = wallets.transfer(chain, memo=wallets.memo(quote.challenge), recipient=payee, amount=1500)
    signed = sign_tx_access_key(unsigned, sandbox.account("access key")[1], chain.buyer)

    judged = await verified(method, carrying(chain, "0x" + signed.encode().hex(), chain.buyer), quote)

    assert (judged.payer, judged.payer_proved) == (chain.buyer.lower(), False)


async def test_a_malleated_signature_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    raw = bytes.fromhex(pull(chain, quote).payload["signature"][2:])
    fields = rlp.decode(raw[1:])
    r, s, v = fields[-1][:32], int.from_bytes(fields[-1][32:64], "big"), fields[-1][64]
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    fields[-1] = r + (order - s).to_bytes(32, "big") + bytes([55 - v])

    outcome = await method.verify(carrying(chain, "0x" + (raw[:1] + rlp.encode(fields)).hex(), None), quote)

    assert outcome == Refused(
        "invalid-payload", "The signed transaction cannot be read: expected a signature with a low s."
    )


async def test_recovery_ids_of_both_kinds_give_one_reference(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    raw = bytes.fromhex(pull(chain, quote).payload["signature"][2:])
    fields = rlp.decode(raw[1:])
    fields[-1] = fields[-1][:64] + bytes([fields[-1][64] - 27])
    plain = await verified(method, carrying(chain, "0x" + raw.hex(), None), quote)

    other = carrying(chain, "0x" + (raw[:1] + rlp.encode(fields)).hex(), None)
    outcome = await settle(method, other, quote, quotes.Row())

    assert outcome == Settled(plain.reference or "", chain.buyer.lower())


# --- push ----------------------------------------------------------------------------------------------


async def test_a_push_payment_tells_when_it_was_made(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote)
    made = rpc(chain, "eth_getTransactionReceipt", credential.payload["hash"])
    block = rpc(chain, "eth_getBlockByNumber", made["blockNumber"], False)

    judged = await verified(method, credential, quote)

    assert judged == Verified(
        "push", chain.buyer.lower(), False, credential.payload["hash"], None, int(block["timestamp"], 16)
    )


async def test_a_push_payment_settles_after_its_challenge_expired(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee), expires_in=-60)
    credential = await pushed(chain, quote)
    row = quotes.Row()

    outcome = await settle(method, credential, quote, row)

    assert outcome == Settled(credential.payload["hash"], chain.buyer.lower())
    assert (row.told, row.reference) == (["settling"], credential.payload["hash"])


async def test_a_hash_that_is_not_on_the_chain_is_no_refusal(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await method.verify(Credential({"type": "hash", "hash": "0x" + "ab" * 32}, None), quote)

    assert outcome == Unavailable("the transaction is not on the chain yet")


WRONG_TRANSFERS: dict[str, tuple[dict[str, Any], str]] = {
    "another amount": ({"amount": 1499}, "The transfer is of another amount."),
    "another token": ({"token": ALPHA_USD}, "The transfer is of another token."),
    "no memo": ({"memo": None}, "The transfer's memo is not bound to this challenge."),
}


@pytest.mark.parametrize("case", WRONG_TRANSFERS)
async def test_a_transfer_to_us_is_not_forgotten_when_it_is_for(
    case: str, method: Tempo, chain: Chain, payee: str
) -> None:
    changes, why = WRONG_TRANSFERS[case]
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote, **changes)

    outcome = await method.verify(credential, quote)

    assert outcome == TransferRefused(credential.payload["hash"], why)


@pytest.mark.parametrize(
    "terms", [{"modes": ("pull",)}, {"fee_payer": quotes.TERMS}], ids=["pull only", "sponsored"]
)
async def test_a_transfer_that_was_not_wanted_is_not_forgotten(
    terms: dict[str, Any], method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, **terms))
    credential = await pushed(chain, quote)

    outcome = await method.verify(credential, quote)

    assert outcome == TransferRefused(credential.payload["hash"], "This quote is not paid by a transaction hash.")


async def test_a_transfer_for_another_challenge_is_not_taken_twice(
    method: Tempo, chain: Chain, payee: str
) -> None:
    first = quotes.quote(method, chain, quotes.offer(payee))
    second = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, first)

    assert isinstance(await method.verify(credential, first), Verified)
    assert isinstance(await method.verify(credential, second), TransferRefused)


async def test_a_stranger_cannot_present_somebodys_transfer_as_its_own(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote)
    stranger = proof.source(sandbox.account("thief")[0], chain.chain_id)

    outcome = await method.verify(dataclasses.replace(credential, source=stranger), quote)

    assert isinstance(outcome, TransferRefused)
    assert "source" in outcome.detail


async def test_a_source_of_another_chain_is_refused_before_the_chain_is_asked(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee), network=quotes.endpoints(chain, [DEAD]))
    credential = Credential({"type": "hash", "hash": "0x" + "ab" * 32}, proof.source(chain.buyer, 1))

    assert isinstance(await method.verify(credential, quote), Refused)


async def test_a_transfer_to_somebody_else_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote, recipient=wallets.payee("somebody else"))

    outcome = await method.verify(credential, quote)

    assert outcome == Refused("verification-failed", "The transaction pays nothing to the recipient.")


async def test_a_reverted_transfer_is_refused(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote, amount=10**15)  # more than the buyer holds

    outcome = await method.verify(credential, quote)

    assert outcome == Refused("verification-failed", "The transaction was reverted.")


async def test_a_push_payment_is_found_at_the_endpoint_that_has_it(
    method: Tempo, chain: Chain, payee: str
) -> None:
    network = quotes.endpoints(chain, [DEAD, chain.rpc_url])
    quote = quotes.quote(method, chain, quotes.offer(payee), network=network)

    assert isinstance(await method.verify(await pushed(chain, quote), quote), Verified)


async def test_a_push_payment_that_not_all_endpoints_could_be_asked_about_is_unavailable(
    method: Tempo, chain: Chain, payee: str
) -> None:
    network = quotes.endpoints(chain, [chain.rpc_url, DEAD])
    quote = quotes.quote(method, chain, quotes.offer(payee), network=network)

    outcome = await method.verify(Credential({"type": "hash", "hash": "0x" + "ab" * 32}, None), quote)

    assert isinstance(outcome, Unavailable)
    assert "failed" in outcome.reason


async def test_a_push_payment_that_somebody_else_claimed_is_not_settled(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await settle(method, await pushed(chain, quote), quote, quotes.Row(settling_won=False))

    assert outcome == Unavailable("claimed elsewhere")


# --- settling ------------------------------------------------------------------------------------------


async def test_nothing_is_sent_without_the_claim(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = pull(chain, quote)

    outcome = await settle(method, credential, quote, quotes.Row(settling_won=False))

    assert outcome == Unavailable("claimed elsewhere")
    assert wallets.balance(chain, payee) == 0


async def test_nothing_is_sent_when_the_claim_fails(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))

    with pytest.raises(quotes.Killed):
        await settle(method, pull(chain, quote), quote, quotes.Row(dies_at="settling"))

    assert wallets.balance(chain, payee) == 0


async def test_the_claim_is_told_hash_and_last_valid_moment(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = pull(chain, quote)
    judged = await verified(method, credential, quote)
    row = quotes.Row()

    await method.settle(credential, quote, judged, row)

    assert (row.told, row.reference, row.valid_before) == (["settling"], judged.reference, judged.valid_before)


async def test_a_challenge_that_expired_in_the_meantime_sends_nothing(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee), expires_in=-1)

    outcome = await settle(method, pull(chain, quote), quote, quotes.Row())

    assert isinstance(outcome, Refused)
    assert wallets.balance(chain, payee) == 0


async def test_a_network_that_is_down_sends_nothing(method: Tempo, chain: Chain, payee: str) -> None:
    network = quotes.endpoints(chain, [DEAD, DEAD])
    quote = quotes.quote(method, chain, quotes.offer(payee), network=network)
    row = quotes.Row()

    outcome = await settle(method, pull(chain, quote), quote, row)

    assert isinstance(outcome, Unavailable)


async def test_a_payment_is_sent_to_the_first_endpoint_that_takes_it(
    method: Tempo, chain: Chain, payee: str
) -> None:
    network = quotes.endpoints(chain, [DEAD, chain.rpc_url])
    quote = quotes.quote(method, chain, quotes.offer(payee), network=network)

    outcome = await settle(method, pull(chain, quote), quote, quotes.Row())

    assert isinstance(outcome, Settled)


async def test_an_answer_that_is_lost_leaves_the_outcome_to_the_chain(
    method: Tempo, chain: Chain, payee: str
) -> None:
    async with Proxy(chain.rpc_url) as proxy:
        proxy.drop_answers_of("eth_sendRawTransactionSync")
        network = quotes.endpoints(chain, [proxy.url])
        quote = quotes.quote(method, chain, quotes.offer(payee), network=network)

        outcome = await settle(method, pull(chain, quote), quote, quotes.Row())

    assert isinstance(outcome, Settled)
    assert wallets.balance(chain, payee) == 1500


async def test_a_payment_nobody_can_be_asked_about_is_unknown(method: Tempo, chain: Chain, payee: str) -> None:
    async with Proxy(chain.rpc_url) as proxy:
        proxy.drop_answers_of("eth_sendRawTransactionSync")
        proxy.refuse("eth_getTransactionReceipt")
        network = quotes.endpoints(chain, [proxy.url])
        quote = quotes.quote(method, chain, quotes.offer(payee), network=network)

        outcome = await settle(method, pull(chain, quote), quote, quotes.Row())

    assert isinstance(outcome, Unknown)


async def test_a_send_that_never_arrived_is_unknown_until_it_is_past(
    method: Tempo, chain: Chain, payee: str
) -> None:
    async with Proxy(chain.rpc_url) as proxy:
        proxy.drop("eth_sendRawTransactionSync")
        network = quotes.endpoints(chain, [proxy.url])
        quote = quotes.quote(method, chain, quotes.offer(payee), network=network)
        row = quotes.Row()

        outcome = await settle(method, pull(chain, quote), quote, row)

        assert isinstance(outcome, Unknown)
        assert await method.lookup(row.reference or "", row.valid_before, network) == NotYet()


async def test_a_payer_without_money_is_refused_before_the_claim(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, str(10**15)))
    row = quotes.Row()

    outcome = await settle(method, pull(chain, quote), quote, row)

    assert isinstance(outcome, Refused)
    assert (outcome.problem, row.told) == ("payment-insufficient", [])


async def test_a_payment_that_is_reverted_after_the_claim_is_refused(
    method: Tempo, chain: Chain, payee: str
) -> None:
    payer, key = wallets.funded(chain, "spends twice")
    amount = wallets.balance(chain, payer) // 2
    quote = quotes.quote(method, chain, quotes.offer(payee, str(amount)))

    class Spending(quotes.Row):
        async def settling(self, reference: str, valid_before: int | None) -> bool:
            """The payer's money goes elsewhere between our question and our sending."""
            elsewhere = wallets.transfer(chain, memo=None, recipient=wallets.payee("elsewhere"), amount=amount + 1)
            receipt = rpc(chain, "eth_sendRawTransactionSync", "0x" + elsewhere.sign(key).encode().hex())
            assert receipt["status"] == "0x1"
            return await super().settling(reference, valid_before)

    outcome = await settle(method, pull(chain, quote, key=key), quote, Spending())

    assert outcome == Refused("verification-failed", "The transaction did not settle: reverted.")
    assert wallets.balance(chain, payee) == 0


# --- after a crash -------------------------------------------------------------------------------------


async def test_sending_again_after_a_crash_settles_once(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = pull(chain, quote)
    row = quotes.Row()
    await settle(method, credential, quote, row)
    raw = method.raw(credential)
    assert raw is not None

    await method.resend(raw, quote.network)

    assert wallets.balance(chain, payee) == 1500
    assert isinstance(await method.lookup(row.reference or "", row.valid_before, quote.network), Settled)


async def test_a_crash_between_claim_and_send_is_made_good_by_sending(
    method: Tempo, chain: Chain, payee: str
) -> None:
    async with Proxy(chain.rpc_url) as proxy:
        proxy.drop("eth_sendRawTransactionSync")
        quote = quotes.quote(method, chain, quotes.offer(payee), network=quotes.endpoints(chain, [proxy.url]))
        credential = pull(chain, quote)
        row = quotes.Row()
        await settle(method, credential, quote, row)

    raw = method.raw(credential)
    assert raw is not None
    await method.resend(raw, chain.network)

    assert await method.lookup(row.reference or "", row.valid_before, chain.network) == Settled(
        row.reference or "", chain.buyer.lower()
    )
    assert wallets.balance(chain, payee) == 1500


async def test_sending_again_survives_a_dead_network(method: Tempo, chain: Chain) -> None:
    await method.resend("0x76", quotes.endpoints(chain, [DEAD]))


async def test_only_unsponsored_transactions_can_be_sent_again_from_a_credential(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    plain, envelope = pull(chain, quote), pull(chain, quote, sponsored=True)

    assert method.raw(plain) == plain.payload["signature"]
    assert method.raw(envelope) is None
    assert method.raw(Credential({"type": "transaction", "signature": "0x76"}, None)) is None
    assert method.raw(Credential({"type": "hash", "hash": "0x00"}, None)) is None


# --- looking up ----------------------------------------------------------------------------------------

ABSENT = "0x" + "cd" * 32


async def test_a_payment_that_can_still_settle_has_not_settled_yet(method: Tempo, chain: Chain) -> None:
    assert await method.lookup(ABSENT, int(time.time()) + 60, chain.network) == NotYet()


async def test_a_push_payment_has_no_last_moment(method: Tempo, chain: Chain) -> None:
    assert await method.lookup(ABSENT, None, chain.network) == NotYet()


async def test_a_payment_is_over_by_block_time(method: Tempo, fresh_chain: Chain) -> None:
    last = int(time.time()) + 20
    assert await method.lookup(ABSENT, last, fresh_chain.network) == NotYet()

    pass_time(fresh_chain, 20 + GRACE + 5)

    assert isinstance(await method.lookup(ABSENT, last, fresh_chain.network), Never)


async def test_a_reverted_payment_never_settles(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    credential = await pushed(chain, quote, amount=10**15)

    outcome = await method.lookup(credential.payload["hash"], None, chain.network)

    assert outcome == Never("reverted")


async def test_one_endpoint_that_fails_forbids_never_but_not_settled(
    method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    paid = (await pushed(chain, quote)).payload["hash"]
    network = quotes.endpoints(chain, [chain.rpc_url, DEAD])

    assert isinstance(await method.lookup(ABSENT, 1, network), Unavailable)
    assert isinstance(await method.lookup(paid, 1, network), Settled)


async def test_one_endpoint_that_lags_forbids_never(method: Tempo, chain: Chain, fresh_chain: Chain) -> None:
    last = int(time.time()) + 20
    pass_time(fresh_chain, 60)
    network = quotes.endpoints(chain, [chain.rpc_url, fresh_chain.rpc_url])

    outcome = await method.lookup(ABSENT, last, network)

    assert outcome == Unavailable("an endpoint lags behind")


async def test_endpoints_that_disagree_about_a_revert_are_not_believed(
    method: Tempo, chain: Chain, fresh_chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee))
    reverted = (await pushed(chain, quote, amount=10**15)).payload["hash"]
    network = quotes.endpoints(chain, [chain.rpc_url, fresh_chain.rpc_url])

    assert await method.lookup(reverted, 1, network) == Unavailable("the endpoints disagree")


async def test_an_endpoint_of_another_chain_is_not_believed(method: Tempo, chain: Chain) -> None:
    network = dataclasses.replace(chain.network, chain_id=4217)

    assert isinstance(await method.lookup(ABSENT, 1, network), Unavailable)


@pytest.mark.parametrize("answer", [b"not JSON", b"[]", b'{"result": 7}', b'{"result": "0xzz"}'])
async def test_an_endpoint_that_talks_nonsense_is_not_believed(answer: bytes, chain: Chain) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=answer))
    async with httpx.AsyncClient(transport=transport) as http:
        method = Tempo(lambda _: None, http=http)

        assert isinstance(await method.lookup(ABSENT, 1, chain.network), Unavailable)


# --- sponsorship ---------------------------------------------------------------------------------------


async def sponsored(method: Tempo, chain: Chain, payee: str, row: quotes.Row, **rest: Any) -> Any:
    """The outcome of settling a sponsored quote."""
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS), **rest)
    return await settle(method, pull(chain, quote, sponsored=True), quote, row)


async def test_the_envelope_is_stored_before_it_is_sent(method: Tempo, chain: Chain, payee: str) -> None:
    class Watching(quotes.Row):
        async def envelope(self, raw: str) -> bool:
            assert rpc(chain, "eth_getTransactionReceipt", self.reference) is None
            assert _transactions.raw_hash(raw) == self.reference
            return await super().envelope(raw)

    row = Watching()

    outcome = await sponsored(method, chain, payee, row)

    assert outcome == Settled(row.reference or "", chain.buyer.lower())
    assert row.told == ["settling", "envelope"]


@pytest.mark.parametrize("point", ["settling", "envelope"])
async def test_a_sponsored_payment_that_dies_before_the_send_sends_nothing(
    point: str, method: Tempo, chain: Chain, payee: str
) -> None:
    row = quotes.Row(dies_at=point)

    with pytest.raises(quotes.Killed):
        await sponsored(method, chain, payee, row)

    assert wallets.balance(chain, payee) == 0


@pytest.mark.parametrize("row", [quotes.Row(settling_won=False), quotes.Row(envelope_won=False)])
async def test_a_sponsored_payment_whose_claim_is_lost_sends_nothing(
    row: quotes.Row, method: Tempo, chain: Chain, payee: str
) -> None:
    outcome = await sponsored(method, chain, payee, row)

    assert outcome == Unavailable("claimed elsewhere")
    assert wallets.balance(chain, payee) == 0


async def test_a_stored_envelope_settles_after_a_crash_and_only_once(
    method: Tempo, chain: Chain, payee: str
) -> None:
    async with Proxy(chain.rpc_url) as proxy:
        proxy.drop("eth_sendRawTransactionSync")
        row = quotes.Row()
        outcome = await sponsored(method, chain, payee, row, network=quotes.endpoints(chain, [proxy.url]))
    assert isinstance(outcome, Unknown)
    assert row.raw is not None

    await method.resend(row.raw, chain.network)
    await method.resend(row.raw, chain.network)

    assert isinstance(await method.lookup(row.reference or "", row.valid_before, chain.network), Settled)
    assert wallets.balance(chain, payee) == 1500


async def test_a_sponsored_payment_that_would_fail_is_not_sent(method: Tempo, chain: Chain, payee: str) -> None:
    payer, key = wallets.funded(chain, "spends before the simulation")
    amount = wallets.balance(chain, payer) // 2
    quote = quotes.quote(method, chain, quotes.offer(payee, str(amount), fee_payer=quotes.TERMS))

    class Spending(quotes.Row):
        async def settling(self, reference: str, valid_before: int | None) -> bool:
            elsewhere = wallets.transfer(chain, memo=None, recipient=wallets.payee("elsewhere"), amount=amount + 1)
            rpc(chain, "eth_sendRawTransactionSync", "0x" + elsewhere.sign(key).encode().hex())
            return await super().settling(reference, valid_before)

    row = Spending()

    outcome = await settle(method, pull(chain, quote, key=key, sponsored=True), quote, row)

    assert isinstance(outcome, Refused)
    assert row.told == ["settling"]  # no envelope: nothing could have been sent


async def test_an_envelope_that_costs_too_much_is_not_co_signed(method: Tempo, chain: Chain, payee: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))
    row = quotes.Row()

    outcome = await settle(method, pull(chain, quote, sponsored=True, gas_limit=3_000_000), quote, row)

    assert isinstance(outcome, Refused)
    assert row.told == []


async def test_a_sponsor_pays_at_most_so_often_for_one_payer(method: Tempo, chain: Chain, payee: str) -> None:
    terms = dataclasses.replace(quotes.TERMS, max_per_payer_per_minute=1)
    other = wallets.funded(chain, "another payer")[1]
    outcomes = []
    for key in (chain.buyer_key, chain.buyer_key, other):
        quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=terms))
        outcomes.append(await settle(method, pull(chain, quote, key=key, sponsored=True), quote, quotes.Row()))

    assert [type(outcome) for outcome in outcomes] == [Settled, Unavailable, Settled]


@pytest.mark.parametrize("terms", [None, dataclasses.replace(quotes.TERMS, key="removed")])
async def test_a_sponsor_that_is_gone_pays_for_nothing(
    terms: Any, method: Tempo, chain: Chain, payee: str
) -> None:
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))
    credential = pull(chain, quote, sponsored=True)
    row = quotes.Row()

    outcome = await settle(method, credential, dataclasses.replace(quote, fee_payer=terms), row)

    assert isinstance(outcome, Unavailable)
    assert row.told == []


@pytest.mark.row("H12")
async def test_a_sponsored_offer_is_made_while_the_sponsor_has_money(chain: Chain, payee: str) -> None:
    keys = {"sponsor": chain.sponsor_key, "poor": sandbox.account("poor")[1]}
    method = Tempo(keys.get)

    def asked(**changes: Any) -> Any:
        return quotes.offer(payee, fee_payer=dataclasses.replace(quotes.TERMS, **changes))

    try:
        assert await method.offered(asked(), chain.network)
        assert not await method.offered(asked(key="poor"), chain.network)
        assert not await method.offered(asked(key="unheard of"), chain.network)
        assert not await method.offered(asked(min_balance=str(10**15)), chain.network)
        assert await method.offered(quotes.offer(payee), chain.network)
        keys["unheard of"] = chain.sponsor_key
        assert await method.offered(asked(key="unheard of"), chain.network)
    finally:
        await method.aclose()


async def test_a_sponsor_nobody_can_ask_about_makes_no_offer(chain: Chain, payee: str) -> None:
    method = Tempo({"sponsor": chain.sponsor_key}.get)
    try:
        offer = quotes.offer(payee, fee_payer=quotes.TERMS)

        assert not await method.offered(offer, quotes.endpoints(chain, [DEAD]))
    finally:
        await method.aclose()
