"""The payment method of tests and benchmarks, held to the protocol that every method is held to."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cheap_wallet
import gateway_process
import httpx
import mpp
import pytest
import quotes as claims
import traffic
import upstreams
from cheap import cheap_method
from cheap.cheap_method import Bank, Cheap

from mpp_authz import challenge as challenges
from mpp_authz.methods import (
    Credential,
    Never,
    NotYet,
    Quote,
    Refused,
    Settled,
    TransferRefused,
    Unavailable,
    Verified,
)
from mpp_authz.pricing import Network, Offer

PAYEE = cheap_wallet.address("payee")
ALICE = cheap_wallet.key("alice")
OFFER = Offer("coin", "cheap", "cheapnet", "0x" + "c0" * 20, PAYEE, "7")


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return cheap_wallet.bank(tmp_path)


@pytest.fixture
def method() -> Cheap:
    return Cheap(lambda name: None)


def network(bank: Bank) -> Network:
    return Network("cheapnet", "cheap", cheap_wallet.CHAIN_ID, (bank.url,))


def quote(method: Cheap, bank: Bank, offer: Offer = OFFER) -> Quote:
    request = method.request(offer, network(bank))
    minted = claims.KEYS.mint(
        realm=claims.REALM,
        method="cheap",
        intent="charge",
        request=challenges.canonical(request),
        expires=challenges.timestamp(4_000_000_000_000),
        opaque=challenges.Bound(challenges.nonce(), 1, "GET", "shop/route", "", "cheapnet", "coin").encode(),
    )
    return Quote(minted, request, network(bank))


def asked(quote: Quote) -> mpp.Challenge:
    return mpp.Challenge.from_www_authenticate(challenges.www_authenticate(quote.challenge))


def signed(quote: Quote, **other: Any) -> Credential:
    return Credential(cheap_wallet.payload(cheap_wallet.transaction(asked(quote), ALICE, **other)), None)


async def verified(method: Cheap, credential: Credential, quote: Quote) -> Verified:
    found = await method.verify(credential, quote)
    assert isinstance(found, Verified), found
    return found


async def test_a_signed_transaction_is_verified_without_moving_money(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)

    found = await verified(method, signed(asking), asking)

    assert (found.mode, found.payer, found.payer_proved) == ("pull", cheap_wallet.address("alice"), True)
    assert bank.transfers() == ()


@pytest.mark.parametrize(
    "other",
    [
        {"amount": "6"},
        {"recipient": cheap_wallet.address("mallory")},
        {"challenge": "another"},
        {"chainId": 1},
        {"currency": "0x" + "00" * 20},
        {"validBefore": 1},
        {"validBefore": 4_000_000_000},
    ],
    ids=lambda other: "-".join(map(str, *other.items())),
)
async def test_a_transaction_for_something_else_is_refused(
    other: dict[str, Any], method: Cheap, bank: Bank
) -> None:
    asking = quote(method, bank)

    found = await method.verify(signed(asking, **other), asking)

    assert isinstance(found, Refused)
    assert found.problem == "verification-failed"


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "transaction"},
        {"type": "transaction", "terms": "{}", "signature": "00" * 65},
        {"type": "transaction", "terms": "[" * 1000, "signature": "00" * 65},
        {"type": "transaction", "terms": "x" * 3000, "signature": "00" * 65},
        {"type": "transaction", "terms": '{"a":1}', "signature": ALICE.sign_recoverable(b'{"a":1}').hex()},
        {"type": "proof"},
    ],
)
async def test_what_is_no_signed_transaction_is_refused(
    payload: dict[str, str], method: Cheap, bank: Bank
) -> None:
    found = await method.verify(Credential(payload, None), quote(method, bank))

    assert isinstance(found, Refused)
    assert found.problem == "invalid-payload"
    assert method.raw(Credential(payload, None)) is None


async def test_changed_terms_are_not_the_payers(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)
    honest = signed(asking)
    forged = dict(honest.payload) | {"terms": str(honest.payload["terms"]).replace("nonce", "nonce ", 1)}
    other = json.loads(str(honest.payload["terms"])) | {"nonce": "another"}
    stolen = dict(honest.payload) | {"terms": json.dumps(other)}

    assert isinstance(await method.verify(Credential(forged, None), asking), Refused)
    found = await verified(method, Credential(stolen, None), asking)
    assert found.payer != cheap_wallet.address("alice")


async def test_a_settlement_is_claimed_before_money_moves(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)
    credential = signed(asking)
    found = await verified(method, credential, asking)

    lost = await method.settle(credential, asking, found, claims.Row(settling_won=False))
    with pytest.raises(claims.Killed):
        await method.settle(credential, asking, found, claims.Row(dies_at="settling"))

    assert isinstance(lost, Unavailable)
    assert bank.transfers() == ()


async def test_a_transaction_moves_money_once(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)
    credential = signed(asking)
    found = await verified(method, credential, asking)
    row = claims.Row()

    outcome = await method.settle(credential, asking, found, row)
    raw = method.raw(credential)
    assert raw is not None
    await method.resend(raw, asking.network)

    assert outcome == Settled(found.reference or "", cheap_wallet.address("alice"))
    (transfer,) = bank.transfers()
    assert (transfer.amount, transfer.recipient, transfer.payer) == (7, PAYEE, cheap_wallet.address("alice"))
    assert (transfer.challenge, transfer.reference) == (asking.challenge.id, row.reference)
    assert await method.lookup(transfer.reference, row.valid_before, asking.network) == outcome


async def test_what_the_bank_does_not_have_can_still_come_until_its_last_moment(method: Cheap, bank: Bank) -> None:
    there = network(bank)

    assert isinstance(await method.lookup("0x00", int(bank.now()) + 60, there), NotYet)
    assert isinstance(await method.lookup("0x00", int(bank.now()) - 60, there), Never)


async def test_a_late_transaction_never_moves_money(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)
    credential = signed(asking, validBefore=int(bank.now()) - 1)
    reference = cheap_method.read(credential.payload["terms"], credential.payload["signature"]).reference
    was = Verified("pull", cheap_wallet.address("alice"), True, reference, int(bank.now()) - 1)

    assert isinstance(await method.settle(credential, asking, was, claims.Row()), Refused)
    assert bank.transfers() == ()


async def test_a_closed_bank_says_nothing_of_what_was_paid(method: Cheap, bank: Bank) -> None:
    asking = quote(method, bank)
    credential = signed(asking)
    found = await verified(method, credential, asking)
    bank.folder.rename(bank.folder.with_name("closed"))

    assert isinstance(await method.settle(credential, asking, found, claims.Row()), Unavailable)
    assert isinstance(await method.lookup("0x00", 1, asking.network), Unavailable)
    pushed = Credential({"type": "hash", "hash": "0x00"}, None)
    assert isinstance(await method.verify(pushed, asking), Unavailable)
    raw = method.raw(credential)
    assert raw is not None
    await method.resend(raw, asking.network)


async def test_a_push_pays_for_its_challenge_only(method: Cheap, bank: Bank) -> None:
    asking, other = quote(method, bank), quote(method, bank)
    transaction = cheap_wallet.transaction(asked(asking), ALICE)
    credential = Credential({"type": "hash", "hash": transaction.reference}, None)
    assert isinstance(await method.verify(credential, asking), Unavailable)
    assert bank.send(transaction)

    found = await verified(method, credential, asking)

    assert (found.mode, found.reference) == ("push", transaction.reference)
    assert isinstance(await method.settle(credential, asking, found, claims.Row()), Settled)
    assert isinstance(await method.verify(credential, other), TransferRefused)


async def test_an_offer_takes_only_its_modes(method: Cheap, bank: Bank) -> None:
    pushed = quote(method, bank, replace(OFFER, modes=("push",)))

    assert pushed.request["methodDetails"]["supportedModes"] == ["push"]
    assert isinstance(await method.verify(signed(pushed), pushed), Refused)
    assert await method.offered(OFFER, pushed.network)
    await method.aclose()


@pytest.mark.data_plane
async def test_a_gateway_takes_it_by_its_entry_point_from_pympps_own_client(
    start_gateway: gateway_process.Start, bank: Bank
) -> None:
    async with upstreams.serve() as upstream:
        gateway = await asyncio.to_thread(
            start_gateway,
            {"shop.yaml": cheap_wallet.service(upstream.port, PAYEE, 7)},
            config=cheap_wallet.network(bank),
            environ=cheap_wallet.environ(),
        )
        url = f"{gateway.url}/shop/thing"

        async with cheap_wallet.pympp(ALICE) as payer:
            answer: httpx.Response = await payer.fetch(url)
        pushed = cheap_wallet.push(await traffic.quote(url), ALICE, bank)
        status, headers, _ = await traffic.present(url, pushed)

    assert (answer.status_code, "payment-receipt" in answer.headers) == (200, True)
    assert (status, "payment-receipt" in headers) == (200, True)
    assert [transfer.amount for transfer in bank.transfers()] == [7, 7]
    assert upstream.hits[0].headers["x-mpp-payer"] == cheap_wallet.address("alice")
