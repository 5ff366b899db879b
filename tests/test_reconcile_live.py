"""Real payments through a real gateway on a real chain, and then the ledger held against that chain."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moody
import places
import pytest
import wallets
from chain import PATH_USD, Chain, rpc
from mpp.methods.tempo import attribution
from places import PRICE, Shop
from pytempo import Call, TempoTransaction  # type: ignore[import-untyped]

from mpp_authz.ledger import State
from mpp_operator import cli, console

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]


@dataclass(frozen=True, slots=True)
class Books:
    """A gateway whose payments are made, and the last block of their time."""

    shop: Shop
    last: int
    delivered: tuple[str, ...]  # ids of payments that were settled and delivered, one each kind


@pytest.fixture(scope="module")
def books(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """One payment of each kind: pulled, pushed, sponsored, a retry on a credit, a proof, one that was refused."""

    def also(port: int) -> str:
        sponsor = {"feePayer": "{secretRef: {name: sponsor, key: key}, maxPerPayerPerMinute: 60}"}
        return places.service("sponsored", port, [places.offer(places.payee("books", "sponsored"), **sponsor)])

    folder = tmp_path_factory.mktemp("books")
    key = {"SPONSOR_KEY": chain.sponsor_key}
    with places.opened(folder, chain, "books", places=5, also=also, environ=key) as shop:
        pulled, pushed, tried, wrong, _ = (shop.next_place() for _ in range(5))
        sponsored = shop.place("sponsored")
        (answer,) = pulled.mppx()
        push = pushed.push()
        assert (answer.status, pushed.ask(credential=push).status_code) == (200, 200)
        assert pulled.mppx("/known")[0].status == 200
        tried.moods(moody.Says(500))
        assert [again.status for again in tried.mppx(repeat=2)] == [500, 200]
        asyncio.run(fetch(shop, sponsored.url()))
        refuse(wrong)
        delivered = tuple(map(first_delivered, (pulled, pushed, tried, sponsored)))
        yield Books(shop, second_over(chain), delivered)


def first_delivered(place: places.Place) -> str:
    """The id of the place's oldest payment, once Envoy's news of it is there."""
    return places.until(lambda: [row.id for row in place.rows() if row.state is State.DELIVERED])[-1]


async def fetch(shop: Shop, url: str) -> None:
    async with shop.watch(wallets.pympp(shop.chain)) as payer:
        assert (await payer.fetch(url)).status_code == 200


def refuse(place: places.Place) -> None:
    """A push that pays the right one for the right challenge, but too little: listed, and not served."""
    challenge = wallets.challenge_of(place.challenges()[0])
    short = wallets.transfer(place.chain, memo=wallets.memo(challenge), recipient=place.payee, amount=1)
    reference = send(place.chain, short)
    credential = wallets.authorization(challenge, {"type": "hash", "hash": reference})
    assert place.ask(credential=credential).status_code == 403


def send(chain: Chain, transaction: TempoTransaction) -> str:
    """The hash of a transaction that was carried out."""
    receipt = rpc(chain, "eth_sendRawTransactionSync", "0x" + transaction.sign(chain.buyer_key).encode().hex())
    assert receipt["status"] == "0x1"
    return str(receipt["transactionHash"])


def head(chain: Chain) -> tuple[int, int]:
    block = rpc(chain, "eth_getBlockByNumber", "latest", False)
    return int(block["number"], 16), int(block["timestamp"], 16)


def second_over(chain: Chain) -> int:
    """The newest block, once the chain's time has left its second: what comes now is later."""
    number, moment = head(chain)
    places.until(lambda: head(chain)[1] > moment)
    return number


Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def reconcile(books: Books, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on a ledger's file: its exit code, and its JSON."""

    def run(file: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = cli.main(
            ["payments", "reconcile", "--ledger", f"sqlite:{file}", "--json", "--confirmations", "0", *arguments]
        )
        out = capsys.readouterr()
        assert out.err == ""
        assert books.shop.secrets.isdisjoint(out.out.split('"'))
        return code, json.loads(out.out)

    return run


@pytest.fixture
def copy(books: Books, tmp_path: Path) -> Path:
    """A copy of the ledger, to be spoilt."""
    target = tmp_path / "copy.db"
    with closing(sqlite3.connect(books.shop.gateway.ledger)) as source, closing(sqlite3.connect(target)) as kept:
        source.backup(kept)
    return target


def spoil(file: Path, *statements: tuple[str, Sequence[Any]]) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP INDEX payments_reference")
        for statement, values in statements:
            connection.execute(statement, values)


def off(document: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(one["kind"], one["payment"]) for one in document["off"]]


# --- balanced --------------------------------------------------------------------------------------------


def test_after_real_payments_of_every_kind_the_books_are_balanced(books: Books, reconcile: Command) -> None:
    code, document = reconcile(books.shop.gateway.ledger, "--until", str(books.last), *watching(books))

    assert (document["off"], document["balanced"], code) == ([], True, 0)
    assert {one["kind"]: (one["count"], one["amount"]) for one in document["sums"]} == {
        "matched": (4, str(4 * PRICE)),
        "refused": (1, "1"),
    }
    assert document["proofs"] == 1


def test_the_state_folder_is_enough_and_what_it_serves_is_watched(
    books: Books, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--confirmations", "0", "--until", str(books.last)]

    code = cli.main(["payments", "reconcile", "--state-dir", str(books.shop.gateway.state_dir), *arguments])

    told = capsys.readouterr().out
    assert code == 0, told
    assert "6 recipients, 1 currency" in told  # of them one was never paid
    assert told.splitlines()[-1] == (
        f"Balanced: 4 matched ({4 * PRICE} base units of {PATH_USD} on localnet); "
        f"1 refused (1 base units of {PATH_USD} on localnet)."
    )


def test_what_is_not_final_yet_is_later_and_no_error(books: Books, reconcile: Command, chain: Chain) -> None:
    number, _ = head(chain)

    code, document = reconcile(books.shop.gateway.ledger, "--confirmations", str(number))

    assert (code, {one["kind"]: one["count"] for one in document["sums"]}) == (0, {"later": 4})


def test_rows_whose_transfers_lie_before_the_range_are_found_by_hash(
    books: Books, copy: Path, reconcile: Command
) -> None:
    late = 10**13  # the ledger learned of them long after they were in a block
    spoil(copy, ("UPDATE payments SET settled_at = ? WHERE settled_at IS NOT NULL", (late,)))

    code, document = reconcile(copy, "--since", str(books.last + 1))

    assert (code, {one["kind"]: one["count"] for one in document["sums"]}["matched"]) == (0, 4)


# --- off -------------------------------------------------------------------------------------------------


def test_a_row_that_was_lost_leaves_an_unclaimed_transfer(books: Books, copy: Path, reconcile: Command) -> None:
    for lost in books.delivered:
        spoil_one = ("DELETE FROM payments WHERE id = ? OR paid_by = ?", (lost, lost))
        with closing(sqlite3.connect(copy)) as connection:
            (reference,) = connection.execute("SELECT reference FROM payments WHERE id = ?", (lost,)).fetchone()
        fresh = copy.with_suffix(f".{lost[:6]}")
        fresh.write_bytes(copy.read_bytes())
        spoil(fresh, spoil_one)

        code, document = reconcile(fresh, "--until", str(books.last), *watching(books))

        assert (code, [(one["kind"], one["reference"]) for one in document["off"]]) == (
            console.OFF_BALANCE,
            [("unclaimed", reference)],
        )


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        ("amount = '1501'", "differs", "amount: 1501, the chain has 1500"),
        ("payer = '0x" + "12" * 20 + "'", "differs", "payer: 0x12"),
        ("currency = '0x20c0" + "0" * 35 + "1'", "differs", "currency: 0x20c0"),
        ("state = 'FAILED'", "failed-but-paid", "the row is FAILED"),
        ("state = 'UNKNOWN', lease_until = 0", "open-but-paid", "the row is UNKNOWN"),
        ("state = 'SETTLING', lease_until = 0", "open-but-paid", "the row is SETTLING"),
    ],
)
def test_a_row_that_was_changed_is_named(
    books: Books, copy: Path, reconcile: Command, change: str, kind: str, detail: str
) -> None:
    changed = books.delivered[0]
    spoil(copy, (f"UPDATE payments SET {change} WHERE id = ?", (changed,)))

    code, document = reconcile(copy, "--until", str(books.last), *watching(books))

    (finding,) = document["off"]
    assert (code, finding["kind"], finding["payment"]) == (console.OFF_BALANCE, kind, changed)
    assert finding["detail"].startswith(detail)


def test_a_row_that_names_a_transaction_nobody_made_is_missing_its_transfer(
    books: Books, copy: Path, reconcile: Command
) -> None:
    changed = books.delivered[1]
    spoil(copy, ("UPDATE payments SET reference = ? WHERE id = ?", ("0x" + "34" * 32, changed)))

    code, document = reconcile(copy, "--until", str(books.last))

    assert (code, off(document)) == (console.OFF_BALANCE, [("missing", changed), ("unclaimed", None)])


def test_two_rows_that_name_one_transfer_are_found(books: Books, copy: Path, reconcile: Command) -> None:
    first, second = books.delivered[:2]
    same = "UPDATE payments SET reference = (SELECT reference FROM payments WHERE id = ?) WHERE id = ?"
    spoil(copy, (same, (first, second)))

    code, document = reconcile(copy, "--until", str(books.last))

    assert (code, off(document)) == (console.OFF_BALANCE, [("named-twice", second), ("unclaimed", None)])


# --- transfers nobody asked for --------------------------------------------------------------------------


def test_a_strangers_transfer_is_listed_apart_and_is_no_error(
    books: Books, reconcile: Command, chain: Chain
) -> None:
    since = second_over(chain) + 1
    payee = places.payee("books", "p0")
    reference = send(chain, wallets.transfer(chain, memo=None, recipient=payee, amount=9))

    code, document = reconcile(books.shop.gateway.ledger, "--since", str(since))

    assert (code, document["off"]) == (0, [])
    assert [(one["kind"], one["reference"], one["amount"]) for one in document["apart"]] == [
        ("stranger", reference, "9")
    ]


def test_a_payment_nobody_presented_is_unclaimed_until_its_realm_is_said_to_be_anothers(
    books: Books, reconcile: Command, chain: Chain
) -> None:
    since = second_over(chain) + 1
    payee = places.payee("books", "p0")
    memo = attribution.encode("never presented", "127.0.0.1")
    reference = send(chain, wallets.transfer(chain, memo=memo, recipient=payee, amount=9))
    ledger = books.shop.gateway.ledger
    second_over(chain)

    for arguments, expected in (
        ((), (console.OFF_BALANCE, "unclaimed")),
        (("--realm", "127.0.0.1"), (console.OFF_BALANCE, "unclaimed")),
        (("--realm", "api.example.com"), (0, "elsewhere")),
    ):
        code, document = reconcile(ledger, "--since", str(since), "--until", str(head(chain)[0]), *arguments)

        (finding,) = [one for one in (*document["off"], *document["apart"]) if one["reference"] == reference]
        assert (code, finding["kind"]) == expected


def test_two_transfers_of_one_transaction_are_told_apart(books: Books, reconcile: Command, chain: Chain) -> None:
    since = second_over(chain) + 1
    payee = places.payee("books", "p1")
    memo = attribution.encode("never presented either", "127.0.0.1")
    legs = [wallets.transfer(chain, memo=m, recipient=payee, amount=a).calls[0] for m, a in ((memo, 3), (None, 4))]
    reference = send(chain, pair(chain, legs))

    code, document = reconcile(books.shop.gateway.ledger, "--since", str(since))

    assert code == console.OFF_BALANCE
    assert [(one["kind"], one["amount"]) for one in document["off"] if one["reference"] == reference] == [
        ("unclaimed", "3")
    ]
    assert [(one["kind"], one["amount"]) for one in document["apart"] if one["reference"] == reference] == [
        ("stranger", "4")
    ]


def pair(chain: Chain, calls: Sequence[Call]) -> TempoTransaction:
    """One transaction with several transfers."""
    return TempoTransaction.create(
        chain_id=chain.chain_id,
        gas_limit=2_000_000,
        max_fee_per_gas=25_000_000_000,
        max_priority_fee_per_gas=1_000_000_000,
        nonce=0,
        nonce_key=(1 << 256) - 1,
        fee_token=PATH_USD,
        valid_before=int(time.time()) + 25,
        calls=tuple(calls),
    )


def watching(books: Books) -> tuple[str, ...]:
    """The services' files: whom they pay is watched, whatever became of the rows."""
    folder = books.shop.gateway.folder
    return (
        "-f",
        *map(str, sorted(folder.glob("p*.yaml"))),
        str(folder / "also.yaml"),
        "--config",
        str(folder / "gateway.yaml"),
    )
