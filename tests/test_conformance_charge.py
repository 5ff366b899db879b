"""The charge intent on Tempo, rule by rule, through a real Envoy and on a real chain: rows H01 to H13."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import moody
import places
import pytest
import wallets
from chain import ALPHA_USD, PATH_USD, Chain, rpc
from eth_account import Account
from eth_account.messages import encode_typed_data
from places import PRICE, Place, Shop

from mpp_authz.challenge import Challenge
from mpp_authz.methods import proof
from mpp_operator import sandbox

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

TAG: Final = "charge"
STRANGER: Final = "0x" + "7e" * 32


def _sponsor(**limits: str) -> dict[str, str]:
    fields = ", ".join(
        ["secretRef: {name: sponsor, key: key}", *(f"{name}: {value}" for name, value in limits.items())]
    )
    return {"feePayer": "{" + fields + "}"}


#: What is special about the one offer of each of these places.
OFFERS: Final[Mapping[str, Mapping[str, str]]] = {
    "pulls": {"modes": "[pull]"},
    "pushes": {"modes": "[push]"},
    "sponsored": _sponsor(maxPerPayerPerMinute="60"),
    "seldom": _sponsor(maxPerPayerPerMinute="1"),
    "broke": _sponsor(minBalance='"99999999999"'),
}


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        return "---".join(
            places.service(name, port, [places.offer(places.payee(TAG, name), **rest)])
            for name, rest in OFFERS.items()
        )

    with places.opened(
        tmp_path_factory.mktemp(TAG), chain, TAG, places=40, also=also, environ={"SPONSOR_KEY": chain.sponsor_key}
    ) as opened:
        yield opened


def asked(place: Place, path: str = "/thing") -> tuple[Challenge, dict[str, Any]]:
    """A fresh challenge, and its decoded request."""
    challenge = wallets.challenge_of(place.challenges(path)[0])
    return challenge, places.decoded(challenge.request)


def signed(place: Place, challenge: Challenge, **changes: Any) -> str:
    """A transaction for a challenge, but for the changes; its credential."""
    request = places.decoded(challenge.request)
    terms = {
        "memo": wallets.memo(challenge),
        "recipient": request["recipient"],
        "amount": int(request["amount"]),
        "token": request["currency"],
    } | changes
    data = wallets.transfer(place.chain, **terms).sign(place.chain.buyer_key).encode()
    payload = {"type": "transaction", "signature": "0x" + data.hex()}
    value = wallets.authorization(challenge, payload, proof.source(place.chain.buyer, place.chain.chain_id))
    place.shop.learn(value)
    return value


def pushed(place: Place, challenge: Challenge, **changes: Any) -> str:
    """A transfer that was made, but for the changes as the challenge asks; its credential."""
    sent = rpc(
        place.chain,
        "eth_sendRawTransactionSync",
        places.decoded(signed(place, challenge, **changes).partition(" ")[2])["payload"]["signature"],
    )
    return hashed(place, challenge, sent["transactionHash"])


def hashed(place: Place, challenge: Challenge, reference: str) -> str:
    source = proof.source(place.chain.buyer, place.chain.chain_id)
    return wallets.authorization(challenge, {"type": "hash", "hash": reference}, source)


def problem(answer: Any) -> str:
    found: str = answer.json()["type"].rpartition("/")[2]
    return found


def nothing_happened(place: Place) -> bool:
    """No row, no hit, no payment."""
    return (place.rows(), place.hits, place.paid(), place.paid(ALPHA_USD)) == ((), [], 0, 0)


# --- what is verified --------------------------------------------------------------------------------------

WRONG: Final[Mapping[str, Mapping[str, Any]]] = {
    "less": {"amount": PRICE - 1},
    "more": {"amount": PRICE + 1},
    "another recipient": {"recipient": wallets.payee("somebody else in charge")},
    "another token": {"token": ALPHA_USD},
    "another chain": {"chain_id": 4217},
    "no memo": {"memo": None},
    "another challenge's memo": {"memo": "0x" + "00" * 32},
    "a nonce that can be used later": {"nonce_key": 0},
    "no end": {"valid_before": 0},
}


@pytest.mark.row("H01", "H03", "H08")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_transaction_that_does_not_pay_what_was_asked_is_neither_sent_nor_served(
    place: Place, wrong: str
) -> None:
    challenge, _ = asked(place)
    held = [wallets.balance(place.chain, place.chain.buyer, token) for token in (PATH_USD, ALPHA_USD)]

    answer = place.ask(credential=signed(place, challenge, **WRONG[wrong]))

    assert (answer.status_code, problem(answer)) == (402, "verification-failed")
    assert "payment-receipt" not in answer.headers
    assert nothing_happened(place)
    assert held == [wallets.balance(place.chain, place.chain.buyer, token) for token in (PATH_USD, ALPHA_USD)]


@pytest.mark.row("H01", "H08")
@pytest.mark.parametrize("payload", [{"type": "transaction", "signature": "0x76c0"}, {"type": "transaction"}, {}])
def test_what_is_no_transaction_is_refused(place: Place, payload: dict[str, Any]) -> None:
    challenge, _ = asked(place)

    answer = place.ask(credential=wallets.authorization(challenge, payload))

    assert (answer.status_code, problem(answer)) == (402, "invalid-payload")
    assert nothing_happened(place)


@pytest.mark.row("H02")
@pytest.mark.parametrize("mode", ["pull", "push"])
def test_a_challenge_is_paid_once(place: Place, mode: str) -> None:
    credential = place.sign() if mode == "pull" else place.push()
    payload = places.decoded(credential.partition(" ")[2])["payload"]
    assert place.ask(credential=credential).status_code == 200

    again = place.ask(credential=credential)
    elsewhere = place.ask(credential=wallets.authorization(asked(place)[0], payload))

    assert (again.status_code, "www-authenticate" in again.headers) == (403, False)
    assert elsewhere.status_code in (402, 403)
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


# --- the request -------------------------------------------------------------------------------------------


@pytest.mark.row("H04")
def test_no_request_repeats_when_its_challenge_expires(shop: Shop, place: Place) -> None:
    everywhere = [place, *(shop.place(name) for name in OFFERS if name != "broke")]
    for somewhere in everywhere:
        challenge, request = asked(somewhere)

        assert challenge.expires is not None
        assert set(request) <= {"amount", "currency", "recipient", "description", "externalId", "methodDetails"}
        assert set(request["methodDetails"]) <= {"chainId", "feePayer", "memo", "splits", "supportedModes"}
        assert challenge.expires not in str(request)


@pytest.mark.row("H06")
@pytest.mark.parametrize(("name", "modes"), [("pulls", ["pull"]), ("pushes", ["push"]), (None, None)])
def test_modes_are_named_where_not_both_are_taken(
    shop: Shop, place: Place, name: str | None, modes: list[str] | None
) -> None:
    _, request = asked(place if name is None else shop.place(name))

    assert request["methodDetails"].get("supportedModes") == modes


# --- modes -------------------------------------------------------------------------------------------------


@pytest.mark.row("H07")
@pytest.mark.parametrize("name", ["pulls", "sponsored"])
def test_a_hash_is_refused_where_it_was_not_asked_for(shop: Shop, name: str) -> None:
    place = shop.place(name)
    challenge, _ = asked(place)
    before = place.paid()

    made = place.ask(credential=pushed(place, challenge))
    unmade = place.ask(credential=hashed(place, asked(place)[0], "0x" + "5a" * 32))

    # Who pushed all the same has paid, and is not asked to pay again: a person sees it.
    assert (made.status_code, "www-authenticate" in made.headers) == (403, False)
    assert (unmade.status_code, problem(unmade)) == (402, "verification-failed")
    assert place.paid() == before + PRICE
    assert place.hits == []
    assert shop.read(lambda ledger: ledger.refused(100))[0].challenge_id == challenge.id


@pytest.mark.row("H07")
def test_a_transaction_is_refused_where_only_push_is_taken(shop: Shop) -> None:
    place = shop.place("pushes")
    challenge, _ = asked(place)

    answer = place.ask(credential=signed(place, challenge))

    assert (answer.status_code, problem(answer)) == (402, "verification-failed")
    assert nothing_happened(place)
    assert place.ask(credential=place.push()).status_code == 200


# --- hashes ------------------------------------------------------------------------------------------------

#: Status of the answer. 403: it pays us, but not for this; nobody is asked to pay again.
UNPAID: Final[Mapping[str, tuple[Mapping[str, Any], int]]] = {
    "less": ({"amount": PRICE - 1}, 403),
    "another recipient": ({"recipient": wallets.payee("somebody else in charge")}, 402),
    "another token": ({"token": ALPHA_USD}, 403),
    "no memo": ({"memo": None}, 403),
    "reverted": ({"amount": 10**15}, 402),
}


@pytest.mark.row("H01", "H03", "H09")
@pytest.mark.parametrize("wrong", UNPAID)
def test_a_transfer_that_does_not_pay_what_was_asked_opens_nothing(place: Place, wrong: str) -> None:
    changes, status = UNPAID[wrong]
    challenge, _ = asked(place)

    answer = place.ask(credential=pushed(place, challenge, **changes))

    assert (answer.status_code, "www-authenticate" in answer.headers) == (status, status == 402), answer.text
    assert (place.hits, place.rows()) == ([], ())


@pytest.mark.row("H09")
def test_a_transfer_that_pays_what_was_asked_opens_it(place: Place) -> None:
    challenge, _ = asked(place)

    answer = place.ask(credential=pushed(place, challenge))

    assert (answer.status_code, place.paid(), len(place.hits)) == (200, PRICE, 1)


# --- receipts ----------------------------------------------------------------------------------------------


@pytest.mark.row("H10")
@pytest.mark.parametrize("mode", ["pull", "push"])
def test_a_receipt_names_the_transaction_and_is_on_no_error(place: Place, mode: str) -> None:
    place.moods(moody.Says(500))
    credential = place.sign() if mode == "pull" else place.push()

    failed, served = place.ask(credential=credential), place.ask(credential=credential)

    assert (failed.status_code, "payment-receipt" in failed.headers) == (500, False)
    receipt = places.receipt(served)
    assert {name: receipt[name] for name in ("status", "method")} == {"status": "success", "method": "tempo"}
    settled = rpc(place.chain, "eth_getTransactionReceipt", receipt["reference"])
    assert settled["status"] == "0x1"
    assert place.payee[2:].lower() in "".join(topic for log in settled["logs"] for topic in log["topics"])


# --- who pays the fee --------------------------------------------------------------------------------------


@pytest.mark.row("H12")
def test_a_sponsor_with_too_little_is_offered_by_nobody_and_keeps_nothing_else_from_being_sold(
    shop: Shop, place: Place
) -> None:
    """Its route is the first of all: the one that the gateway asks for when it starts."""
    broke = shop.place("broke")

    answer = broke.ask()

    assert place.ask(credential=place.sign()).status_code == 200

    assert (answer.status_code, "www-authenticate" in answer.headers) == (503, False)
    assert "retry-after" in answer.headers
    assert nothing_happened(broke)


@pytest.mark.row("H12")
def test_a_payer_is_sponsored_so_often_and_no_more(shop: Shop) -> None:
    place = shop.place("seldom")
    sponsor, _ = sandbox.account("sponsor")

    (first,) = place.mppx()
    held = wallets.balance(shop.chain, sponsor)
    (second,) = place.mppx()

    assert (first.status, second.status) == (200, 503)
    assert "www-authenticate" not in second.headers
    assert (place.paid(), len(place.hits)) == (PRICE, 1)
    assert wallets.balance(shop.chain, sponsor) == held


# --- proofs ------------------------------------------------------------------------------------------------


def proved(place: Place, challenge: Challenge, *, signer: str, chain_id: int, source: str | None) -> str:
    signature, _ = proof.sign(signer, challenge_id=challenge.id, realm=challenge.realm, chain_id=chain_id)
    value = wallets.authorization(challenge, {"type": "proof", "signature": signature}, source)
    place.shop.learn(value)
    return value


@pytest.mark.row("H13")
def test_a_proof_opens_what_costs_nothing(place: Place) -> None:
    challenge, request = asked(place, "/known")
    chain_id = place.chain.chain_id
    credential = proved(
        place,
        challenge,
        signer=place.chain.buyer_key,
        chain_id=chain_id,
        source=proof.source(place.chain.buyer, chain_id),
    )

    answer = place.ask("/known", credential=credential)

    assert (request["amount"], answer.status_code) == ("0", 200)
    assert places.receipt(answer)["reference"] == challenge.id
    assert place.hits[0].headers["x-mpp-payer"] == place.chain.buyer.lower()


@pytest.mark.row("H13")
@pytest.mark.parametrize(
    "wrong", ["no source", "no account", "another chain", "another signer", "a chain of its own"]
)
def test_a_proof_that_does_not_prove_its_source_opens_nothing(place: Place, wrong: str) -> None:
    challenge, _ = asked(place, "/known")
    chain_id, buyer = place.chain.chain_id, place.chain.buyer
    sources = {
        "no source": None,
        "no account": f"did:pkh:eip155:{chain_id}",
        "another chain": proof.source(buyer, 4217),
        "a chain of its own": proof.source(buyer, 4217),
    }
    credential = proved(
        place,
        challenge,
        signer=STRANGER if wrong == "another signer" else place.chain.buyer_key,
        chain_id=4217 if wrong == "a chain of its own" else chain_id,
        source=sources.get(wrong, proof.source(buyer, chain_id)),
    )

    answer = place.ask("/known", credential=credential)

    assert (answer.status_code, problem(answer)) == (402, "verification-failed")
    assert (place.hits, place.rows()) == ([], ())


@pytest.mark.row("H13")
def test_a_proof_pays_for_nothing_that_costs_something(place: Place) -> None:
    challenge, _ = asked(place)
    chain_id = place.chain.chain_id
    source = proof.source(place.chain.buyer, chain_id)

    answer = place.ask(
        credential=proved(place, challenge, signer=place.chain.buyer_key, chain_id=chain_id, source=source)
    )

    assert (answer.status_code, "www-authenticate" in answer.headers) == (402, True)
    assert nothing_happened(place)


@pytest.mark.row("H13")
def test_a_transfer_of_nothing_is_no_proof(place: Place) -> None:
    challenge, _ = asked(place, "/known")

    answer = place.ask("/known", credential=signed(place, challenge))

    assert (answer.status_code, "www-authenticate" in answer.headers) == (402, True)
    assert nothing_happened(place)


@pytest.mark.row("H13")
def test_a_proof_of_the_drafts_first_version_is_refused(place: Place) -> None:
    """It names no realm: whoever got it could show it to somebody else under the same challenge id."""
    challenge, _ = asked(place, "/known")
    chain_id = place.chain.chain_id
    draft = encode_typed_data(
        {"name": "MPP", "version": "1", "chainId": chain_id},
        {"Proof": [{"name": "challengeId", "type": "string"}]},
        {"challengeId": challenge.id},
    )
    signature = Account.sign_message(draft, place.chain.buyer_key).signature.to_0x_hex()
    source = proof.source(place.chain.buyer, chain_id)
    credential = wallets.authorization(challenge, {"type": "proof", "signature": signature}, source)

    answer = place.ask("/known", credential=credential)

    assert (answer.status_code, problem(answer)) == (402, "verification-failed")
    assert (place.hits, place.rows()) == ([], ())
