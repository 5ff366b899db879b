"""Unmodified clients pay Tempo quotes on a real chain."""

import asyncio
from collections.abc import AsyncIterator

import mpp
import pytest
import quotes
import wallets
from aiohttp import web
from chain import Chain
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo_client
from mpp.runtime import CredentialParams

from mpp_authz import challenge as challenges
from mpp_authz.methods import Quote, Settled, Verified
from mpp_authz.methods.tempo import Tempo


@pytest.fixture
async def method(chain: Chain) -> AsyncIterator[Tempo]:
    tempo = Tempo({"sponsor": chain.sponsor_key}.get)
    yield tempo
    await tempo.aclose()


async def by_pympp(chain: Chain, quote: Quote) -> str:
    account = TempoAccount.from_key(chain.buyer_key)
    client = tempo_client.charge(account=account, chain_id=chain.chain_id, rpc_url=chain.rpc_url)
    read = mpp.Challenge.from_www_authenticate(challenges.www_authenticate(quote.challenge))
    return await client.create_credential(CredentialParams(challenge=read))


def by_mppx(chain: Chain, quote: Quote, mode: str | None = None) -> str:
    question = {
        "wwwAuthenticate": challenges.www_authenticate(quote.challenge),
        "rpcUrl": chain.rpc_url,
        "chainId": chain.chain_id,
        "key": chain.buyer_key,
        "mode": mode,
    }
    answer: str = wallets.node("credential.mjs", question)["credential"]
    return answer


async def settled(method: Tempo, quote: Quote, value: str, row: quotes.Row | None = None) -> Settled:
    credential = quotes.presented(value)
    verified = await method.verify(credential, quote)
    assert isinstance(verified, Verified), verified
    outcome = await method.settle(credential, quote, verified, row or quotes.Row())
    assert isinstance(outcome, Settled), outcome
    return outcome


async def test_pympp_pays_by_a_signed_transaction(chain: Chain, method: Tempo) -> None:
    payee = wallets.payee("pympp pull")
    quote = quotes.quote(method, chain, quotes.offer(payee))
    row = quotes.Row()

    outcome = await settled(method, quote, await by_pympp(chain, quote), row)

    assert outcome == Settled(row.reference or "", chain.buyer.lower())
    assert wallets.balance(chain, payee) == 1500


async def test_pympp_pays_a_sponsored_quote(chain: Chain, method: Tempo) -> None:
    payee = wallets.payee("pympp sponsored")
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))
    row = quotes.Row()
    held = wallets.balance(chain, chain.buyer)

    outcome = await settled(method, quote, await by_pympp(chain, quote), row)

    assert outcome.reference == row.reference
    assert row.told == ["settling", "envelope"]
    assert held - wallets.balance(chain, chain.buyer) == 1500 == wallets.balance(chain, payee)


async def test_mppx_pays_by_a_signed_transaction(chain: Chain, method: Tempo) -> None:
    payee = wallets.payee("mppx pull")
    quote = quotes.quote(method, chain, quotes.offer(payee))

    outcome = await settled(method, quote, by_mppx(chain, quote, "pull"))

    assert outcome.payer == chain.buyer.lower()
    assert wallets.balance(chain, payee) == 1500


async def test_mppx_pays_by_a_transfer_of_its_own(chain: Chain, method: Tempo) -> None:
    payee = wallets.payee("mppx push")
    quote = quotes.quote(method, chain, quotes.offer(payee))
    row = quotes.Row()

    outcome = await settled(method, quote, by_mppx(chain, quote, "push"), row)

    assert (row.reference, row.valid_before) == (outcome.reference, None)
    assert wallets.balance(chain, payee) == 1500


@pytest.mark.parametrize("mode", ["pull", "push"])
async def test_mppx_follows_the_modes_a_quote_allows(chain: Chain, method: Tempo, mode: str) -> None:
    quote = quotes.quote(method, chain, quotes.offer(wallets.payee(f"mppx only {mode}"), modes=(mode,)))

    value = by_mppx(chain, quote)

    assert quotes.presented(value).payload["type"] == {"pull": "transaction", "push": "hash"}[mode]
    await settled(method, quote, value)


async def test_mppx_pays_a_sponsored_quote(chain: Chain, method: Tempo) -> None:
    payee = wallets.payee("mppx sponsored")
    quote = quotes.quote(method, chain, quotes.offer(payee, fee_payer=quotes.TERMS))

    await settled(method, quote, by_mppx(chain, quote))

    assert wallets.balance(chain, payee) == 1500


async def test_mppx_proves_its_address_for_a_quote_of_zero(chain: Chain, method: Tempo) -> None:
    quote = quotes.quote(method, chain, quotes.offer(wallets.payee("zero"), "0"))
    row = quotes.Row()

    outcome = await settled(method, quote, by_mppx(chain, quote), row)

    assert outcome == Settled(quote.challenge.id, chain.buyer.lower())
    assert (row.reference, row.valid_before) == (quote.challenge.id, None)


# --- over HTTP, as the end-to-end tests use them -------------------------------------------------------


@pytest.fixture
async def shop(chain: Chain, method: Tempo) -> AsyncIterator[str]:
    """The URL of a server that sells its echo."""
    minted: dict[str, Quote] = {}

    async def sell(request: web.Request) -> web.Response:
        value = request.headers.get("authorization")
        if value is None:
            quote = quotes.quote(method, chain, quotes.offer(wallets.payee("shop")))
            minted[quote.challenge.id] = quote
            return web.Response(
                status=402, headers={"www-authenticate": challenges.www_authenticate(quote.challenge)}
            )
        read = challenges.read_credential(value.removeprefix("Payment "))
        outcome = await settled(method, minted[read.challenge.id], value)
        receipt = challenges.canonical({"status": "success", "reference": outcome.reference})
        return web.Response(body=await request.read() or b"goods", headers={"payment-receipt": receipt})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", sell)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/thing"
    await runner.cleanup()


@pytest.mark.parametrize("mode", ["pull", "push"])
async def test_mppx_buys_over_http(mode: str, shop: str, chain: Chain) -> None:
    answers = await asyncio.to_thread(
        wallets.mppx, shop, chain, mode=mode, method="POST", body="question", repeat=2
    )

    assert [(answer.status, answer.body) for answer in answers] == [(200, "question")] * 2
    assert len({answer.credential for answer in answers} - {None}) == 2
    assert len({answer.receipt["reference"] for answer in answers}) == 2


async def test_pympp_buys_over_http(shop: str, chain: Chain) -> None:
    async with wallets.pympp(chain) as payer:
        answer = await payer.fetch(shop)

    assert (answer.status_code, answer.text) == (200, "goods")


async def test_credentials_made_in_bulk_are_good(chain: Chain, method: Tempo) -> None:
    asked = [quotes.quote(method, chain, quotes.offer(wallets.payee("bulk"))) for _ in range(5)]

    values = wallets.sign_all(chain, [challenges.www_authenticate(quote.challenge) for quote in asked])

    for quote, value in zip(asked, values, strict=True):
        await settled(method, quote, value)
    assert wallets.balance(chain, wallets.payee("bulk")) == 5 * 1500
