"""Unmodified clients pay through a real Envoy, on a real chain: the payee's balance says what was paid."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import moody
import mpp
import places
import pytest
import wallets
import websockets.exceptions
import websockets.sync.client
from chain import ALPHA_USD, PATH_USD, Chain
from mpp.client.transport import Mpp
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo_client
from mpp.runtime import CredentialParams
from places import PRICE, Place, Shop

from mpp_authz.ledger import State

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

#: The upstream's own bearer token, of a client that has one.
BEARER = "the-clients-own-token-for-the-api"


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        def at(name: str) -> str:
            return places.payee("clients", name)

        sponsor = {"feePayer": "{secretRef: {name: sponsor, key: key}, maxPerPayerPerMinute: 60}"}
        both = [
            places.offer(at("choice"), network="moderato", name="far"),
            places.offer(at("choice"), currency="AlphaUSD", name="alpha"),
            places.offer(at("choice"), name="path"),
        ]
        return "---".join(
            [
                places.service("sponsored", port, [places.offer(at("sponsored"), **sponsor)]),
                places.service("choice", port, both),
                places.service(
                    "bearer",
                    port,
                    [places.offer(at("bearer"))],
                    payment="credentialHeader: Payment-Authorization",
                ),
            ]
        )

    with places.opened(
        tmp_path_factory.mktemp("clients"),
        chain,
        "clients",
        places=20,
        also=also,
        environ={"SPONSOR_KEY": chain.sponsor_key},
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_leaks(shop: Shop) -> Iterator[None]:
    yield
    shop.nothing_leaked()


# --- mppx ----------------------------------------------------------------------------------------------


@pytest.mark.row("C30", "C33")
@pytest.mark.parametrize("mode", ["pull", "push"])
@pytest.mark.row("H10")
def test_mppx_pays_for_a_get_and_a_post(place: Place, mode: str) -> None:
    (got,) = place.mppx("/thing", mode=mode)
    (posted,) = place.mppx("/thing", mode=mode, method="POST", body='{"question": "why"}')

    assert (got.status, posted.status) == (200, 200)
    assert '"body": "{\\"question\\": \\"why\\"}"' in posted.body
    assert place.paid() == 2 * PRICE
    assert [hit.method for hit in place.hits] == ["GET", "POST"]
    assert got.receipt["status"] == "success"
    assert got.receipt["method"] == "tempo"
    assert got.headers["cache-control"] == "private"


def test_mppx_pays_for_a_stream(place: Place) -> None:
    place.moods(moody.Streams())

    (answer,) = place.mppx("/live")

    assert (answer.status, answer.body) == (200, "data: started\n\ndata: ended\n\n")
    assert answer.receipt["reference"] == place.becomes(answer.credential or "", State.DELIVERED).reference
    assert place.paid() == PRICE


@pytest.mark.row("C15")
def test_mppx_pays_for_a_body_it_binds(place: Place) -> None:
    (answer,) = place.mppx("/sealed", method="POST", body="bound")

    assert answer.status == 200
    assert places.decoded((answer.credential or "").split()[1])["challenge"]["digest"].startswith("sha-256=")
    assert (place.hits[0].body, place.paid()) == (b"bound", PRICE)


@pytest.mark.row("H13")
def test_mppx_proves_its_address_and_pays_nothing(place: Place) -> None:
    (answer,) = place.mppx("/known")

    assert answer.status == 200
    assert answer.receipt["reference"] == places.challenge_id(answer.credential or "")
    assert place.hits[0].headers["x-mpp-payer"] == place.chain.buyer.lower()
    assert place.paid() == 0


def test_mppx_pays_only_the_price_where_the_fee_is_sponsored(shop: Shop) -> None:
    place = shop.place("sponsored")
    held = wallets.balance(shop.chain, shop.chain.buyer)

    (answer,) = place.mppx()

    assert answer.status == 200
    assert held - wallets.balance(shop.chain, shop.chain.buyer) == PRICE == place.paid()
    row = place.becomes(answer.credential or "", State.DELIVERED)
    assert row.envelope is None


def test_mppx_sends_its_credential_beside_the_apis_own_token(shop: Shop) -> None:
    place = shop.place("bearer")
    shop.secrets.add(BEARER)

    (answer,) = place.mppx(headers={"Authorization": f"Bearer {BEARER}"})

    assert (answer.status, place.paid()) == (200, PRICE)
    (hit,) = place.hits
    assert hit.headers["authorization"] == f"Bearer {BEARER}"
    assert "payment-authorization" not in hit.headers


def test_mppx_takes_the_network_and_currency_it_prefers(shop: Shop) -> None:
    place = shop.place("choice")
    before = place.paid(ALPHA_USD)
    question = {
        "url": place.url(),
        "currency": ALPHA_USD,
        "rpcUrl": shop.chain.rpc_url,
        "chainId": shop.chain.chain_id,
        "key": shop.chain.buyer_key,
    }

    answer = wallets.node("choose.mjs", question)

    shop.learn(answer["credential"])
    assert answer["status"] == 200
    assert place.paid(ALPHA_USD) - before == PRICE


# --- pympp ---------------------------------------------------------------------------------------------


def test_pympp_pays_for_a_get_and_a_post(place: Place) -> None:
    async def both() -> list[httpx.Response]:
        async with place.shop.watch(wallets.pympp(place.chain)) as payer:
            return [await payer.fetch(place.url()), await payer.fetch(place.url(), method="POST", content=b"why")]

    got, posted = asyncio.run(both())

    assert (got.status_code, posted.status_code) == (200, 200)
    assert posted.json()["body"] == "why"
    assert places.receipt(got)["status"] == "success"
    assert (place.paid(), len(place.hits)) == (2 * PRICE, 2)


def test_pympp_reads_a_stream_while_it_goes_on(place: Place) -> None:
    gate = moody.Gate()
    place.moods(moody.Streams(gate))

    async def read() -> list[str]:
        seen: list[str] = []
        async with (
            place.shop.watch(wallets.pympp(place.chain)) as payer,
            payer.client(trust_env=False, timeout=30) as client,
            client.stream("GET", place.url("/live")) as answer,
        ):
            assert answer.status_code == 200
            async for text in answer.aiter_text():
                seen.append(text)
                gate.open()  # the upstream ends only once its first event was seen
        return seen

    assert "".join(asyncio.run(read())) == "data: started\n\ndata: ended\n\n"
    assert place.paid() == PRICE


def test_pympp_pays_only_the_price_where_the_fee_is_sponsored(shop: Shop) -> None:
    place = shop.place("sponsored")
    held, before = wallets.balance(shop.chain, shop.chain.buyer), place.paid()

    async def fetch() -> httpx.Response:
        async with shop.watch(wallets.pympp(shop.chain)) as payer:
            return await payer.fetch(place.url())

    assert asyncio.run(fetch()).status_code == 200
    assert held - wallets.balance(shop.chain, shop.chain.buyer) == PRICE == place.paid() - before


def test_pympp_pays_in_the_currency_and_network_it_is_for(shop: Shop) -> None:
    place = shop.place("choice")
    before = place.paid()

    async def fetch() -> httpx.Response:
        method = tempo_client.charge(
            account=TempoAccount.from_key(shop.chain.buyer_key),
            chain_id=shop.chain.chain_id,
            rpc_url=shop.chain.rpc_url,
            currency=PATH_USD,
        )
        async with shop.watch(Mpp([method])) as payer:
            return await payer.fetch(place.url())

    assert asyncio.run(fetch()).status_code == 200
    assert place.paid() - before == PRICE


@pytest.mark.row("C23")
def test_a_transfer_that_was_made_before_asking_is_taken_once(place: Place) -> None:
    credential = place.push()

    first, second = place.ask(credential=credential), place.ask(credential=credential)

    assert (first.status_code, second.status_code) == (200, 403)
    assert "www-authenticate" not in second.headers
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


def test_many_payers_at_once_each_pay_exactly_and_are_served(place: Place) -> None:
    credentials = [place.sign(f"/thing?of={number}") for number in range(24)]

    answers = places.together(
        *(lambda n=n, c=c: place.ask(f"/thing?of={n}", credential=c) for n, c in enumerate(credentials))
    )

    assert [answer.status_code for answer in answers] == [200] * 24
    assert len({places.receipt(answer)["reference"] for answer in answers}) == 24
    assert place.paid() == 24 * PRICE


# --- a WebSocket ---------------------------------------------------------------------------------------


def by_pympp(chain: Chain, www_authenticate: str) -> str:
    method = tempo_client.charge(
        account=TempoAccount.from_key(chain.buyer_key), chain_id=chain.chain_id, rpc_url=chain.rpc_url
    )
    challenge = mpp.Challenge.from_www_authenticate(www_authenticate)

    async def create() -> str:
        return await method.create_credential(CredentialParams(challenge=challenge))

    return asyncio.run(create())


def by_mppx(chain: Chain, www_authenticate: str) -> str:
    question = {
        "wwwAuthenticate": www_authenticate,
        "rpcUrl": chain.rpc_url,
        "chainId": chain.chain_id,
        "key": chain.buyer_key,
        "mode": "pull",
    }
    credential: str = wallets.node("credential.mjs", question)["credential"]
    return credential


@pytest.mark.parametrize("client", [by_pympp, by_mppx])
def test_a_websocket_opens_for_a_payment_on_its_handshake(
    place: Place, client: Callable[[Chain, str], str]
) -> None:
    url = place.url("/live").replace("http://", "ws://")
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        websockets.sync.client.connect(url, proxy=None).close()
    assert refused.value.response.status_code == 402
    place.moods(moody.Echoes())

    credential = client(place.chain, refused.value.response.headers["www-authenticate"])
    place.shop.learn(credential)
    with websockets.sync.client.connect(
        url, additional_headers={"Authorization": credential}, proxy=None
    ) as socket:
        socket.send("knock")
        assert socket.recv(timeout=10) == "knock"

    assert place.paid() == PRICE
    assert place.becomes(credential, State.DELIVERED).last_status == 101


# --- a 402 with several challenges ---------------------------------------------------------------------


@pytest.mark.row("C01")
def test_every_offer_is_a_line_of_its_own_and_each_can_be_paid(shop: Shop) -> None:
    place = shop.place("choice")
    before = place.paid(PATH_USD), place.paid(ALPHA_USD)

    lines = place.challenges()
    answers = [place.ask(credential=place.sign(at=at)) for at in (1, 2)]

    requests = [places.decoded(wallets.challenge_of(line).request) for line in lines]
    assert [(r["methodDetails"]["chainId"], r["currency"]) for r in requests] == [
        (42431, PATH_USD),
        (shop.chain.chain_id, ALPHA_USD),
        (shop.chain.chain_id, PATH_USD),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert (place.paid(PATH_USD), place.paid(ALPHA_USD)) == (before[0] + PRICE, before[1] + PRICE)


@pytest.mark.row("C36")
def test_accept_payment_orders_and_filters_but_never_empties(shop: Shop) -> None:
    place = shop.place("choice")

    def kinds(accept: str) -> int:
        return len(place.challenges(headers={"Accept-Payment": accept}))

    assert kinds("tempo/charge;q=0.5, stripe/charge") == 3
    assert kinds("stripe/charge") == 3
    assert kinds("not a preference") == 3


# --- headers -------------------------------------------------------------------------------------------


@pytest.mark.row("G03")
def test_a_free_route_asks_nothing_and_still_keeps_credentials_back(place: Place) -> None:
    answer = place.ask("/open", credential=place.sign())

    assert (answer.status_code, place.paid()) == (200, 0)
    assert "authorization" not in place.hits[0].headers
    assert "payment-receipt" not in answer.headers


def test_a_bearer_token_alone_is_asked_for_payment_in_the_other_header(shop: Shop) -> None:
    place = shop.place("bearer")
    shop.secrets.add(BEARER)
    hits = len(place.hits)

    answer = place.ask(headers={"Authorization": f"Bearer {BEARER}"})

    assert answer.status_code == 402
    assert wallets.challenge_of(answer.headers["www-authenticate"]).header == "Payment-Authorization"
    assert len(place.hits) == hits


@pytest.mark.row("G03")
def test_the_upstream_learns_who_paid_what_and_no_credential(place: Place) -> None:
    credential = place.sign()

    place.ask(credential=credential, headers={"X-Mpp-Payer": "somebody else", "X-Mpp-Anything": "1"})

    facts = {name: value for name, value in place.hits[0].headers.items() if name.startswith("x-mpp-")}
    row = place.becomes(credential, State.DELIVERED)
    assert facts == {
        "x-mpp-payment-id": row.id,
        "x-mpp-attempt": "1",
        "x-mpp-payer": place.chain.buyer.lower(),
        "x-mpp-method": "tempo",
        "x-mpp-amount": str(PRICE),
        "x-mpp-currency": PATH_USD,
        "x-mpp-reference": row.reference,
    }
    assert "authorization" not in place.hits[0].headers


# --- mpp-gateway pay -----------------------------------------------------------------------------------


def buy(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpp_operator.cli", "pay", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ) | {"MPP_PRIVATE_KEY": place.chain.buyer_key, "MPP_RPC_URL": place.chain.rpc_url},
    )


def test_the_gateways_own_buyer_looks_first_and_then_pays_once(place: Place) -> None:
    seen = buy(place, place.url(), "--inspect")
    assert (seen.returncode, place.paid()) == (0, 0)
    assert f"{PRICE} of {PATH_USD}" in seen.stdout

    place.moods(moody.Says(500), moody.Says(200, b"here you are"))
    bought = buy(place, place.url(), "-d", "please")

    assert (bought.returncode, bought.stdout) == (0, "here you are"), bought.stderr
    assert '"status": "success"' in bought.stderr
    assert place.chain.buyer_key.removeprefix("0x") not in bought.stderr
    assert (place.paid(), [hit.body for hit in place.hits]) == (PRICE, [b"please", b"please"])


def test_the_gateways_own_buyer_proves_an_address(place: Place) -> None:
    bought = buy(place, place.url("/known"))

    assert bought.returncode == 0, bought.stderr
    assert (place.paid(), place.hits[0].headers["x-mpp-payer"]) == (0, place.chain.buyer.lower())


def test_the_gateways_own_buyer_keeps_the_apis_own_token(shop: Shop) -> None:
    place = shop.place("bearer")
    before = place.paid()

    bought = buy(place, place.url(), "-H", f"Authorization: Bearer {BEARER}")

    assert (bought.returncode, place.paid() - before) == (0, PRICE), bought.stderr
    assert place.hits[-1].headers["authorization"] == f"Bearer {BEARER}"


@pytest.mark.row("C20")
def test_what_the_operator_is_shown_of_payments_holds_no_credential(place: Place) -> None:
    credentials = [place.sign(), place.push()]
    for credential in credentials:
        place.ask(credential=credential)
    command = [
        sys.executable,
        "-m",
        "mpp_operator.cli",
        "payments",
        "--state-dir",
        str(place.shop.gateway.state_dir),
    ]

    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60, check=True).stdout

    listed = {row["id"]: row for row in json.loads(shown)["payments"]}
    assert {listed[places.challenge_id(credential)]["mode"] for credential in credentials} == {"pull", "push"}
    assert not [secret for secret in place.shop.secrets if secret in shown]


# --- the witness of these tests ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["the token", "the signature's bytes"])
def test_a_credential_that_lies_about_is_found(place: Place, form: str) -> None:
    credential = place.sign()
    token = credential.partition(" ")[2]
    signature = places.decoded(token)["payload"]["signature"].removeprefix("0x")
    stray = place.shop.gateway.state_dir / "config" / "stray"

    stray.write_bytes(token.encode() if form == "the token" else b"..." + bytes.fromhex(signature))
    try:
        found = place.shop.leaks({token, signature})
    finally:
        stray.unlink()

    assert [line.split()[0] for line in found] == ["config/stray"]
