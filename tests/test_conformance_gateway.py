"""Rules of a gateway that no draft has, through a real Envoy and on a real chain: rows G08 and G11.

The other rows are proved by tests that were here before: `scripts/conformance` says which.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import places
import pytest
import wallets
from chain import Chain
from places import PRICE, Place, Shop

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

TAG: Final = "gateway rules"
ITEMS: Final = """
    - {name: item, match: {path: "/items/{id}"}, price: {amount: "0.0015"}}
    - {name: rest, match: {path: /files/**}, price: {amount: "0.0015"}}
"""


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        return places.service("items", port, [places.offer(places.payee(TAG, "items"))], routes=ITEMS)

    with places.opened(tmp_path_factory.mktemp("gateway"), chain, TAG, places=10, also=also) as opened:
        yield opened


# --- a ledger that cannot be asked -------------------------------------------------------------------------


@contextlib.contextmanager
def held(ledger: Path) -> Iterator[None]:
    """Another process writes to the ledger for as long as the block lasts."""
    with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.row("G06", "G08")
def test_a_ledger_that_takes_no_writes_is_503_before_money_moves(place: Place) -> None:
    credential = place.sign()
    held_before = wallets.balance(place.chain, place.chain.buyer)

    with held(place.shop.gateway.ledger):
        answer = place.ask(credential=credential)

        assert (answer.status_code, "www-authenticate" in answer.headers) == (503, False), answer.text
        assert "retry-after" in answer.headers
        assert wallets.balance(place.chain, place.chain.buyer) == held_before
        assert place.hits == []
        assert place.ask().status_code == 402  # what costs nothing to say is still said
    assert place.insist(credential, busy=503).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


# --- what a 402 tells --------------------------------------------------------------------------------------


def told(answer: httpx.Response) -> dict[str, Any]:
    """All that a 402 says, but for what is made anew for each, and the hash of what the client asked for."""
    challenge = wallets.challenge_of(answer.headers["www-authenticate"])
    opaque = places.decoded(challenge.opaque or "")
    bound = {name: value for name, value in opaque.items() if name not in ("nonce", "mintedAt", "target")}
    headers = {k: v for k, v in answer.headers.items() if k not in ("www-authenticate", "date", "content-length")}
    return {
        "status": answer.status_code,
        "headers": headers,
        "body": {name: value for name, value in answer.json().items() if name != "challengeId"},
        "request": challenge.request,
        "realm": challenge.realm,
        "bound": bound,
    }


@pytest.mark.row("G11")
@pytest.mark.parametrize(
    ("there", "missing"),
    [("/items/1", "/items/no-such-item"), ("/files/a/b", "/files/nothing/at/all"), ("/items/1", "/items/%2500")],
)
def test_a_402_does_not_tell_what_is_there(shop: Shop, there: str, missing: str) -> None:
    place = shop.place("items")

    assert told(place.ask(there)) == told(place.ask(missing))
    assert place.hits == []
