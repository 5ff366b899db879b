"""What is owed is given once: to the payer it is owed to, for the very request that was paid."""

import asyncio
import time
from collections.abc import Iterator

import moody
import places
import pytest
import wallets
from chain import Chain
from places import PRICE, Place, Shop

from mpp_authz.ledger import State

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        sponsor = {"feePayer": "{secretRef: {name: sponsor, key: key}, maxPerPayerPerMinute: 60}"}
        return "---".join(
            [
                places.service("sponsored", port, [places.offer(places.payee("credits", "sponsored"), **sponsor)]),
                places.service("brief", port, [places.offer(places.payee("credits", "brief"))], expires_in="15s"),
            ]
        )

    with places.opened(
        tmp_path_factory.mktemp("credits"),
        chain,
        "credits",
        places=40,
        also=also,
        timeouts="request: 2s, upload: 2s",
        environ={"SPONSOR_KEY": chain.sponsor_key},
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_leaks(shop: Shop) -> Iterator[None]:
    yield
    shop.nothing_leaked()


# --- unmodified clients that simply try again ----------------------------------------------------------


def pympp_fetches(place: Place, times: int, path: str = "/thing", key: str | None = None) -> list[int]:
    """The statuses of so many requests, each at once after the one before."""

    async def fetch() -> list[int]:
        async with place.shop.watch(wallets.pympp(place.chain, key)) as payer:
            return [(await payer.fetch(place.url(path))).status_code for _ in range(times)]

    return asyncio.run(fetch())


@pytest.mark.parametrize("mood", [moody.Says(500), moody.Resets()], ids=["500", "reset"])
def test_mppx_that_tries_again_at_once_is_served_and_pays_once(place: Place, mood: moody.Mood) -> None:
    place.moods(mood)

    failed, served = place.mppx(repeat=2)

    assert (failed.status >= 500, served.status) == (True, 200)
    assert (place.paid(), len(place.hits)) == (PRICE, 2)
    paid = place.becomes(failed.credential or "", State.DELIVERED)
    assert served.receipt["reference"] == paid.reference
    spent = place.becomes(served.credential or "", State.SPENT)
    assert (spent.paid_by, spent.reference) == (paid.id, None)


@pytest.mark.parametrize(
    ("mood", "path"),
    [
        (moody.Says(500), "/thing"),
        (moody.Says(404), "/thing"),
        (moody.Says(402), "/thing"),
        (moody.HangsUp(), "/thing"),
        (moody.Silent(), "/thing"),
        (moody.Resets(), "/live"),
    ],
    ids=["500", "404", "402", "hangup", "silence", "streaming"],
)
def test_pympp_that_tries_again_at_once_is_served_and_pays_once(place: Place, mood: moody.Mood, path: str) -> None:
    place.moods(mood)

    failed, served = pympp_fetches(place, 2, path)

    assert (failed >= 400, served) == (True, 200)
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_a_retry_follows_a_retry_and_the_next_call_pays(place: Place) -> None:
    place.moods(moody.Says(500), moody.Says(503))

    assert pympp_fetches(place, 4) == [500, 503, 200, 200]

    assert (place.paid(), len(place.hits)) == (2 * PRICE, 4)
    assert sorted(row.state for row in place.rows()) == [
        State.DELIVERED,
        State.DELIVERED,
        State.SPENT,
        State.SPENT,
    ]


def test_an_owed_payment_is_no_credit_and_the_next_call_pays(place: Place) -> None:
    place.moods(*[moody.Says(500)] * 3)

    assert pympp_fetches(place, 4) == [500, 500, 500, 200]

    assert place.paid() == 2 * PRICE
    assert sorted(row.state for row in place.rows()) == [State.DELIVERED, State.OWED, State.SPENT, State.SPENT]


def test_the_credential_that_took_a_credit_cannot_be_used_again(place: Place) -> None:
    place.moods(moody.Says(500))
    place.ask(credential=place.sign())
    credential = place.sign()

    first, second = place.ask(credential=credential), place.ask(credential=credential)

    assert (first.status_code, second.status_code) == (200, 403)
    assert "www-authenticate" not in second.headers
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_the_credential_that_took_a_credit_keeps_it_when_the_upstream_fails_again(place: Place) -> None:
    place.moods(moody.Says(500), moody.Says(500))
    old, new = place.sign(), ""
    place.ask(credential=old)
    new = place.sign()

    failed = place.ask(credential=new)
    assert (failed.status_code, failed.headers["payment-credit"]) == (500, places.challenge_id(new))

    assert place.ask(credential=new).status_code == 200
    assert place.ask(credential=old).status_code == 403
    assert (place.paid(), len(place.hits)) == (PRICE, 3)


def test_a_sponsor_pays_no_second_fee_for_a_retry(shop: Shop) -> None:
    place = shop.place("sponsored")
    place.moods(moody.Says(500))
    fees = wallets.balance(shop.chain, shop.chain.sponsor)

    assert pympp_fetches(place, 1) == [500]
    once = fees - wallets.balance(shop.chain, shop.chain.sponsor)
    assert pympp_fetches(place, 1) == [200]

    assert fees - wallets.balance(shop.chain, shop.chain.sponsor) == once > 0
    assert (place.paid(), len(place.hits)) == (PRICE, 2)
    assert {row.envelope for row in place.rows()} == {None}


def test_a_client_that_pushes_has_paid_twice_and_its_credit_stays(place: Place) -> None:
    place.moods(moody.Says(500))
    old, new = place.push(), place.push()

    assert place.ask(credential=old).status_code == 500
    assert place.ask(credential=new).status_code == 200
    place.becomes(old, State.CREDIT)
    assert place.ask(credential=old).status_code == 200
    assert (place.paid(), len(place.hits)) == (2 * PRICE, 3)


def test_mppx_in_push_mode_pays_for_each_request_it_makes(place: Place) -> None:
    place.moods(moody.Says(500))

    failed, served = place.mppx(mode="push", repeat=2)

    assert (failed.status, served.status, place.paid()) == (500, 200, 2 * PRICE)
    place.becomes(failed.credential or "", State.CREDIT)


# --- what a credit is not good for ---------------------------------------------------------------------


def test_another_wallet_pays_for_itself(place: Place) -> None:
    place.moods(moody.Says(500))
    owed = place.sign()
    place.ask(credential=owed)
    _, key = wallets.funded(place.chain, "another wallet")

    assert pympp_fetches(place, 1, key=key) == [200]

    assert place.paid() == 2 * PRICE
    place.becomes(owed, State.CREDIT)


@pytest.mark.parametrize(
    ("path", "method", "content"),
    [("/other", "GET", None), ("/thing?tier=best", "GET", None), ("/thing", "POST", b"")],
    ids=["route", "query", "method"],
)
def test_another_request_of_the_same_payer_pays(
    place: Place, path: str, method: str, content: bytes | None
) -> None:
    place.moods(moody.Says(500))
    owed = place.sign()
    place.ask(credential=owed)

    credential = place.sign(path, method=method, content=content)
    assert place.ask(path, credential=credential, method=method, content=content).status_code == 200

    assert place.paid() == 2 * PRICE
    place.becomes(owed, State.CREDIT)


def test_a_bound_body_is_a_part_of_what_is_owed(place: Place) -> None:
    place.moods(moody.Says(500))
    owed = place.sign("/sealed", method="POST", content=b"this")
    place.ask("/sealed", credential=owed, method="POST", content=b"this")

    other = place.sign("/sealed", method="POST", content=b"that")
    assert place.ask("/sealed", credential=other, method="POST", content=b"that").status_code == 200
    assert place.ask("/sealed", credential=owed, method="POST", content=b"that").status_code == 403
    assert place.ask("/sealed", credential=owed, method="POST", content=b"this").status_code == 200

    assert place.paid() == 2 * PRICE


def test_a_body_that_is_not_bound_may_be_corrected(place: Place) -> None:
    place.moods(moody.Says(422))
    credential = place.sign(method="POST", content=b"wrong")

    statuses = [
        place.ask(credential=credential, method="POST", content=body).status_code for body in (b"wrong", b"right")
    ]

    assert statuses == [422, 200]
    assert (place.paid(), [hit.body for hit in place.hits]) == (PRICE, [b"wrong", b"right"])


def test_parallel_identical_calls_each_pay(place: Place) -> None:
    gate = moody.Gate()
    place.moods(*[moody.Says(200, gate=gate)] * 3)
    credentials = [place.sign() for _ in range(3)]

    def call(credential: str) -> int:
        return place.ask(credential=credential).status_code

    def let_go() -> int:
        places.until(lambda: len(place.hits) == 3)
        gate.open()
        return 200

    assert places.together(*(lambda c=c: call(c) for c in credentials), let_go) == [200] * 4
    assert place.paid() == 3 * PRICE


def test_a_parallel_call_that_was_quoted_before_the_first_was_answered_pays(place: Place) -> None:
    gate = moody.Gate()
    place.moods(moody.Says(500, gate=gate))
    first, second = place.sign(), place.sign()

    def fail() -> int:
        return place.ask(credential=first).status_code

    def meanwhile() -> int:
        places.until(lambda: len(place.hits) == 1)
        status = place.ask(credential=second).status_code
        gate.open()
        return status

    assert places.together(fail, meanwhile) == [500, 200]
    assert place.paid() == 2 * PRICE
    place.becomes(first, State.CREDIT)


@pytest.mark.row("C04", "C12", "H01", "G09")
def test_a_payment_outlives_its_challenge_and_a_challenge_does_not(shop: Shop) -> None:
    place = shop.place("brief")
    place.moods(moody.Says(500))
    owed, pushed, unused = place.sign(), place.push(), place.sign("/other")
    assert place.ask(credential=owed).status_code == 500
    began = time.monotonic()

    places.passed(began, 16)

    answers = [place.ask(credential=owed), place.ask(credential=pushed), place.ask("/other", credential=unused)]
    assert [answer.status_code for answer in answers] == [200, 200, 402]
    assert answers[2].json()["type"].endswith("/payment-expired")
    assert (place.paid(), len(place.hits)) == (2 * PRICE, 3)


# --- Idempotency-Key -----------------------------------------------------------------------------------


@pytest.mark.row("C25")
def test_a_delivered_credential_goes_again_only_with_its_idempotency_key(place: Place) -> None:
    credential = place.sign("/once", method="POST")

    def ask(key: str | None) -> int:
        headers = {} if key is None else {"Idempotency-Key": key}
        return place.ask("/once", credential=credential, method="POST", headers=headers).status_code

    assert ask("mine") == 200
    place.becomes(credential, State.DELIVERED)
    assert [ask(None), ask("other"), ask("mine"), ask("mine"), ask("mine")] == [403, 403, 200, 200, 403]
    assert [hit.headers["idempotency-key"] for hit in place.hits] == ["mine"] * 3
    assert place.paid() == PRICE
    assert place.becomes(credential, State.DELIVERED).attempt == 3


@pytest.mark.row("C25")
def test_an_idempotency_key_means_nothing_where_the_upstream_did_not_promise(place: Place) -> None:
    credential = place.sign()
    headers = {"Idempotency-Key": "mine"}

    statuses = [place.ask(credential=credential, headers=headers).status_code for _ in range(2)]

    assert (statuses, len(place.hits)) == ([200, 403], 1)


# --- a proof -------------------------------------------------------------------------------------------


def test_a_proof_whose_answer_failed_opens_again_and_only_once(place: Place) -> None:
    place.moods(moody.Says(500))
    (failed,) = place.mppx("/known")
    credential = failed.credential or ""

    assert failed.status == 500
    assert [place.ask("/known", credential=credential).status_code for _ in range(2)] == [200, 403]
    assert (place.paid(), len(place.hits)) == (0, 2)
