"""Nobody is served for nothing, twice, or for another's money: credentials forged, moved, repeated, tampered."""

import json
import socket
from collections.abc import Callable, Iterator

import httpx
import moody
import places
import pytest
import rlp  # type: ignore[import-untyped]  # ships no types
import wallets
from chain import PATH_USD, Chain
from eth_account import Account
from mpp.methods.tempo import TempoAccount
from places import PRICE, Place, Shop

from mpp_authz.challenge import b64url
from mpp_authz.ledger import State
from mpp_authz.methods import _chain, proof

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]


#: The chain here takes keychain signatures into its pool and never mines them: not ten seconds for each.
QUICK = "checkTimeout: 5s\nsettleWait: 2s\n"


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with places.opened(
        tmp_path_factory.mktemp("abuse"), chain, "abuse", places=80, config=QUICK, log_level="debug"
    ) as opened:
        yield opened


def refused_without_a_challenge(answer: httpx.Response) -> bool:
    return answer.status_code >= 400 and answer.status_code != 402 and "www-authenticate" not in answer.headers


# --- forged senders ------------------------------------------------------------------------------------

#: Somebody with money of their own, and somebody else's credit in mind.
THIEF = Account.from_key("0x" + "7e" * 32)


def _word(seed: int) -> bytes:
    return seed.to_bytes(32, "big")


def foreign_key(victim: str, signature: bytes) -> bytes:
    return signature


def keychain(kind: int) -> Callable[[str, bytes], bytes]:
    """An access key's signature in the name of an account: the account is written there, unchecked."""
    return lambda victim, signature: bytes([kind]) + bytes.fromhex(victim[2:]) + signature


def p256(victim: str, signature: bytes) -> bytes:
    """r, s, public key, flag: the account is a hash of the key, which a thief cannot choose."""
    return b"\x01" + signature[:64] + _word(3) + _word(4) + b"\x00"


def web_authn(victim: str, signature: bytes) -> bytes:
    return b"\x02" + b"authenticator data and client data" + signature[:64] + _word(3) + _word(4)


def multisig(victim: str, signature: bytes) -> bytes:
    account: bytes = rlp.encode([bytes.fromhex(victim[2:]), [signature]])
    return b"\x05" + account


FORGERIES = {
    "secp256k1": foreign_key,
    "keychain 0x03": keychain(0x03),
    "keychain 0x04": keychain(0x04),
    "p256": p256,
    "webauthn": web_authn,
    "multisig": multisig,
}


def forge(place: Place, www_authenticate: str, way: str, *, names_victim: bool) -> str:
    """A credential for a challenge, signed by the thief in the victim's name."""
    challenge = wallets.challenge_of(www_authenticate)
    request = places.decoded(challenge.request)
    unsigned = wallets.transfer(
        place.chain, memo=wallets.memo(challenge), recipient=request["recipient"], amount=int(request["amount"])
    )
    data = unsigned.sign("0x" + THIEF.key.hex().removeprefix("0x")).encode()
    fields = rlp.decode(data[1:])
    fields[-1] = FORGERIES[way](place.chain.buyer, fields[-1])
    payload = {"type": "transaction", "signature": "0x" + (data[:1] + rlp.encode(fields)).hex()}
    source = proof.source(place.chain.buyer, place.chain.chain_id) if names_victim else None
    return wallets.authorization(challenge, payload, source)


@pytest.mark.parametrize("names_victim", [True, False], ids=["with source", "without source"])
@pytest.mark.parametrize("way", FORGERIES)
def test_a_forged_sender_takes_nobodys_credit(place: Place, way: str, names_victim: bool) -> None:
    place.moods(moody.Says(500))
    owed = place.sign()
    place.ask(credential=owed)
    place.becomes(owed, State.CREDIT)
    held = wallets.balance(place.chain, place.chain.buyer)

    forged = forge(place, place.challenges()[0], way, names_victim=names_victim)
    place.shop.learn(forged)
    answer = place.ask(credential=forged)

    assert answer.status_code in (402, 403, 503), answer.text
    if not way.startswith("keychain"):  # the node refused it: a lane full of forgeries must not stand still
        assert answer.elapsed.total_seconds() < 1.5
    assert "payment-receipt" not in answer.headers
    assert (place.paid(), len(place.hits)) == (PRICE, 1)
    assert wallets.balance(place.chain, place.chain.buyer) == held
    place.becomes(owed, State.CREDIT)
    assert place.ask(credential=owed).status_code == 200


@pytest.mark.parametrize("way", ["keychain 0x03", "multisig"])
def test_a_forged_sender_holds_nobody_up(place: Place, way: str) -> None:
    forged = forge(place, place.challenges()[0], way, names_victim=True)
    place.shop.learn(forged)
    place.ask(credential=forged)

    assert place.ask(credential=place.sign()).status_code == 200

    assert (place.paid(), len(place.hits)) == (PRICE, 1)


def test_a_thief_with_money_pays_and_leaves_the_credit_where_it_is(place: Place) -> None:
    place.moods(moody.Says(500))
    owed = place.sign()
    place.ask(credential=owed)
    _, key = wallets.funded(place.chain, "honest thief")

    assert place.ask(credential=place.sign(key=key)).status_code == 200

    place.becomes(owed, State.CREDIT)
    assert place.paid() == 2 * PRICE


def test_another_wallets_signature_under_the_victims_challenge_is_refused(place: Place) -> None:
    place.moods(moody.Says(500))
    www_authenticate = place.challenges()[0]
    challenge = wallets.challenge_of(www_authenticate)
    owed = wallets.sign(place.chain, challenge)
    place.shop.learn(owed)
    place.ask(credential=owed)
    _, key = wallets.funded(place.chain, "second signer")

    stolen = wallets.sign(place.chain, challenge, key)
    answer = place.ask(credential=stolen)

    assert answer.status_code == 403
    assert refused_without_a_challenge(answer)
    place.becomes(owed, State.CREDIT)
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


@pytest.mark.row("H13")
def test_a_proof_in_anothers_name_is_refused(place: Place) -> None:
    challenge = wallets.challenge_of(place.challenges("/known")[0])
    key = "0x" + THIEF.key.hex().removeprefix("0x")
    signature, _ = proof.sign(key, challenge_id=challenge.id, realm=challenge.realm, chain_id=place.chain.chain_id)
    source = proof.source(place.chain.buyer, place.chain.chain_id)

    forged = wallets.authorization(challenge, {"type": "proof", "signature": signature}, source)

    assert place.ask("/known", credential=forged).status_code == 402
    assert place.hits == []


# --- elsewhere -----------------------------------------------------------------------------------------

ELSEWHERE: dict[str, tuple[str, str, dict[str, str]]] = {
    "route": ("GET", "/other", {}),
    "query": ("GET", "/thing?tier=best", {}),
    "method": ("POST", "/thing", {}),
    "head": ("HEAD", "/thing", {}),
    "host": ("GET", "/thing", {"Host": "localhost"}),
}


@pytest.mark.row("C09")
@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.row("G07")
def test_a_credential_opens_nothing_elsewhere_and_keeps_its_worth(place: Place, where: str) -> None:
    method, path, headers = ELSEWHERE[where]
    credential = place.sign()

    answer = place.ask(path, credential=credential, method=method, headers=headers)

    assert (answer.status_code, place.paid(), place.hits) == (402, 0, [])
    assert place.ask(credential=credential).status_code == 200
    assert place.paid() == PRICE


@pytest.mark.row("C02", "C23")
@pytest.mark.parametrize("state", [State.CREDIT, State.DELIVERED])
@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.row("G06")
def test_a_credential_whose_money_moved_opens_nothing_elsewhere_and_no_challenge_is_made(
    place: Place, where: str, state: State
) -> None:
    method, path, headers = ELSEWHERE[where]
    place.moods(*[moody.Says(500)] * (state is State.CREDIT))
    credential = place.sign()
    place.ask(credential=credential)
    place.becomes(credential, state)

    answer = place.ask(path, credential=credential, method=method, headers=headers)

    assert refused_without_a_challenge(answer), answer.text
    assert (place.paid(), len(place.hits)) == (PRICE, 1)
    place.becomes(credential, state)


@pytest.mark.row("C15")
def test_a_credential_opens_no_other_body_than_the_bound_one(place: Place) -> None:
    credential = place.sign("/sealed", method="POST", content=b"this")

    def ask(content: bytes) -> int:
        return place.ask("/sealed", credential=credential, method="POST", content=content).status_code

    assert ask(b"that") == 402
    assert ask(b"") == 402
    assert (place.paid(), place.hits) == (0, [])
    assert ask(b"this") == 200
    assert ask(b"that") == 403
    assert (place.paid(), [hit.body for hit in place.hits]) == (PRICE, [b"this"])


def test_a_body_too_large_to_bind_costs_nothing(place: Place) -> None:
    credential = place.sign("/sealed", method="POST", content=b"x" * 65_536)

    assert place.ask("/sealed", credential=credential, method="POST", content=b"x" * 65_537).status_code == 413
    assert (place.paid(), place.hits) == (0, [])
    assert place.ask("/sealed", credential=credential, method="POST", content=b"x" * 65_536).status_code == 200


def test_a_query_that_is_not_bound_may_be_another(place: Place) -> None:
    credential = place.sign("/loose?page=1")

    statuses = [place.ask(f"/loose?page={page}", credential=credential).status_code for page in (2, 3)]

    assert (statuses, place.paid()) == ([200, 403], PRICE)
    assert place.hits[0].target.endswith("/loose?page=2")


@pytest.mark.row("G07")
def test_a_credential_of_one_service_opens_no_other(shop: Shop, place: Place) -> None:
    other = shop.next_place()

    answer = other.ask(credential=place.sign())

    assert (answer.status_code, other.hits, other.paid()) == (402, [], 0)


# --- how many ------------------------------------------------------------------------------------------


def raw(place: Place, *lines: str) -> bytes:
    """The status line for a GET of /thing with these header lines."""
    url = httpx.URL(place.shop.gateway.url)
    request = [f"GET /{place.name}/thing HTTP/1.1", f"host: {url.host}", "connection: close", *lines, "", ""]
    with socket.create_connection((url.host, url.port or 80), timeout=30) as sock:
        sock.sendall("\r\n".join(request).encode())
        return sock.makefile("rb").readline().strip()


@pytest.mark.row("C37")
@pytest.mark.parametrize(
    "lines",
    [
        ("authorization: {0}", "authorization: {1}"),
        ("authorization: {0}, {1}",),
        ("authorization: {0}", "payment-authorization: {1}"),
        ("authorization: {0}", "payment-authorization: {0}"),
        ("payment-authorization: {0}", "payment-authorization: {1}"),
        ("authorization: Bearer abc, {0}",),
        ("authorization: {0}, Bearer abc",),
        ("authorization: Bearer abc", "authorization: {0}"),
        ("authorization: Basic YTpi", "authorization: {0}"),
    ],
)
def test_anything_but_one_credential_alone_is_a_bad_request(place: Place, lines: tuple[str, ...]) -> None:
    first, second = place.sign(), place.sign()

    answer = raw(place, *(line.format(first, second) for line in lines))

    assert answer.startswith(b"HTTP/1.1 400")
    assert (place.paid(), place.hits, place.rows()) == (0, [], ())


@pytest.mark.row("C26", "C27", "H02")
def test_32_presentations_of_one_credential_are_one_payment_and_one_delivery(place: Place) -> None:
    credential = place.sign()

    answers = places.together(*[lambda: place.ask(credential=credential)] * 32)

    assert sorted(answer.status_code for answer in answers).count(200) == 1
    assert {answer.status_code for answer in answers} <= {200, 403, 409}
    assert not any("www-authenticate" in answer.headers for answer in answers)
    place.becomes(credential, State.DELIVERED)
    assert (place.paid(), len(place.hits), len(place.rows())) == (PRICE, 1, 1)


def test_16_presentations_of_one_credit_are_one_delivery(place: Place) -> None:
    place.moods(moody.Says(500))
    credential = place.sign()
    assert place.ask(credential=credential).status_code == 500

    answers = places.together(*[lambda: place.ask(credential=credential)] * 16)

    assert [answer.status_code for answer in answers].count(200) == 1
    assert not any("www-authenticate" in answer.headers for answer in answers)
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_8_new_credentials_take_one_credit_once(place: Place) -> None:
    place.moods(moody.Says(500))
    owed = place.sign()
    assert place.ask(credential=owed).status_code == 500
    credentials = [place.sign() for _ in range(8)]

    answers = places.together(*(lambda c=c: place.ask(credential=c) for c in credentials))

    assert {answer.status_code for answer in answers} == {200}
    assert place.paid() == 8 * PRICE  # eight answers, of which one was paid before
    assert len(place.hits) == 9
    assert [row.state for row in place.rows()].count(State.SPENT) == 1


@pytest.mark.row("C26", "H02")
def test_one_transfer_presented_32_times_is_one_delivery(place: Place) -> None:
    credential = place.push()

    answers = places.together(*[lambda: place.ask(credential=credential)] * 32)
    if {answer.status_code for answer in answers} == {503}:  # 32 questions at once were too many for a busy node
        answers.append(place.insist(credential, 503))

    assert [answer.status_code for answer in answers].count(200) == 1
    assert not any("www-authenticate" in answer.headers for answer in answers)
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


# --- tampered with -------------------------------------------------------------------------------------


def tampered(credential: str, **changes: str) -> str:
    document = places.decoded(credential.partition(" ")[2])
    document["challenge"] |= changes
    return "Payment " + b64url(json.dumps(document).encode())


@pytest.mark.row("C04", "C09")
@pytest.mark.parametrize("field", ["request", "expires", "realm", "opaque", "id", "digest"])
@pytest.mark.row("H01")
def test_a_challenge_that_was_changed_is_not_ours(place: Place, field: str) -> None:
    credential = place.sign()
    cheap = {"amount": "1", "currency": PATH_USD, "recipient": place.payee, "methodDetails": {"chainId": 31337}}
    change = {
        "request": b64url(json.dumps(cheap).encode()),
        "expires": "2099-01-01T00:00:00Z",
        "realm": "localhost",
        "opaque": b64url(b"{}"),
        "id": "A" * 43,
        "digest": "sha-256=AAAA",
    }[field]

    answer = place.ask(credential=tampered(credential, **{field: change}))

    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (402, "invalid-challenge")
    assert (place.paid(), place.hits, place.rows()) == (0, [], ())


@pytest.mark.row("C03")
@pytest.mark.parametrize(
    "value", ["Payment", "Payment x", "Payment !!!", "Payment e30", "payment " + "A" * 40_000]
)
def test_what_cannot_be_read_is_answered_with_a_challenge_and_reaches_nobody(place: Place, value: str) -> None:
    answer = place.ask(credential=value)

    assert answer.status_code == 402
    assert (place.hits, place.rows()) == ([], ())


@pytest.mark.row("C23", "H02")
def test_a_transaction_pays_for_one_challenge_only(place: Place) -> None:
    first, second = place.sign(), place.challenges()[0]
    assert place.ask(credential=first).status_code == 200
    payload = places.decoded(first.partition(" ")[2])["payload"]

    again = wallets.authorization(wallets.challenge_of(second), payload)

    assert place.ask(credential=again).status_code in (402, 403)
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


@pytest.mark.row("C02", "H09")
def test_somebody_elses_transfer_pays_for_nothing_and_is_listed(place: Place) -> None:
    paid = place.push()
    reference = places.decoded(paid.partition(" ")[2])["payload"]["hash"]
    challenge = wallets.challenge_of(place.challenges()[0])

    answer = place.ask(credential=wallets.authorization(challenge, {"type": "hash", "hash": reference}))

    assert answer.status_code == 403
    assert refused_without_a_challenge(answer)
    listed = place.shop.read(lambda ledger: ledger.refused(100))
    assert reference in {transfer.reference for transfer in listed}
    assert place.ask(credential=paid).status_code == 200  # and the payer's own credential is still good
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


@pytest.mark.row("C02", "C35", "H09", "G06")
def test_a_transfer_that_is_not_there_is_neither_served_nor_asked_for_again(place: Place) -> None:
    challenge = wallets.challenge_of(place.challenges()[0])

    answer = place.ask(credential=wallets.authorization(challenge, {"type": "hash", "hash": "0x" + "5a" * 32}))

    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert refused_without_a_challenge(answer)
    assert (place.hits, place.rows()) == ([], ())


@pytest.mark.row("C05", "H03")
def test_a_payer_without_money_is_not_served(place: Place) -> None:
    key = "0x" + "0d" * 32
    assert wallets.balance(place.chain, TempoAccount.from_key(key).address) == 0

    answer = place.ask(credential=place.sign(key=key))

    assert (answer.status_code, place.hits, place.paid()) == (402, [], 0)


@pytest.mark.row("C05")
@pytest.mark.parametrize("amount", [PRICE - 1, PRICE + 1])
def test_a_transfer_of_another_amount_is_refused_before_it_is_made(place: Place, amount: int) -> None:
    challenge = wallets.challenge_of(place.challenges()[0])
    signed = wallets.transfer(
        place.chain, memo=wallets.memo(challenge), recipient=place.payee, amount=amount
    ).sign(place.chain.buyer_key)
    payload = {"type": "transaction", "signature": "0x" + signed.encode().hex()}

    answer = place.ask(credential=wallets.authorization(challenge, payload))

    assert (answer.status_code, place.hits, place.paid()) == (402, [], 0)


def test_a_clients_own_request_id_is_not_believed(place: Place) -> None:
    """authz knows a request by it: a client that chose it could end somebody else's delivery."""
    place.ask(credential=place.sign(), headers={"X-Request-Id": "mine"})

    assert place.hits[0].headers["x-request-id"] != "mine"


def test_a_head_request_is_no_free_look(place: Place) -> None:
    assert place.ask(method="HEAD").status_code == 402

    assert place.ask(method="HEAD", credential=place.sign(method="HEAD")).status_code == 200
    assert (place.paid(), [hit.method for hit in place.hits]) == (PRICE, ["HEAD"])


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ({"result": {"status": "0x1"}}, False),
        ({"error": {"code": -32003, "message": "transaction rejected"}}, True),
        ({"error": {"code": -32000, "message": "already known"}}, False),
        ({"error": {"code": 4, "message": "not included in time"}}, False),
        ({"error": "no"}, False),
        (["no"], False),
    ],
)
async def test_a_node_that_may_have_taken_a_transaction_has_not_refused_it(answer: object, refused: bool) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    async with httpx.AsyncClient(transport=transport) as http:
        wire = _chain.Wire(http, ["http://node.example"])

        await wire.post("http://node.example", json={"method": _chain.SEND})

    assert (wire.sent, wire.refused) == (True, refused)
