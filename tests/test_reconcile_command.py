"""`mpp-gateway payments reconcile`, from the command line to what a person reads. The ledger is a real one, the
nodes are doubles (`nodes`): tests/test_reconcile_live.py does the same with real payments."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nodes
import pytest
from ledgers import Store, payment
from nodes import CHAIN_ID, GENESIS, PAYER, RECIPIENT, TOKEN, Node

from mpp_authz import pricing
from mpp_authz.ledger import Payment, RefusedTransfer, State, stores
from mpp_authz.ledger.sqlite import SQLiteLedger
from mpp_operator import cli, reconcile
from mpp_operator.reconcile import audit, piles

#: When the ledger was made, in its own milliseconds.
BORN = GENESIS * 1000
OTHER = "0x" + "cc" * 20


@pytest.fixture
def node() -> Iterator[Node]:
    with nodes.serving() as served:
        yield served


def row(payment_id: str, state: State = State.DELIVERED, **fields: Any) -> Payment:
    """A payment of 50 that settled a second after its block, as `node.pay("0x01", 50)` and a block a payment make
    them; the reference is the number in the id."""
    given: dict[str, Any] = {
        "network": "net",
        "currency": TOKEN,
        "recipient": RECIPIENT,
        "payer": PAYER,
        "amount": "50",
        "chain_id": CHAIN_ID,
        "reference": nodes.hashed(payment_id.removeprefix("c")),
    }
    moment = (
        None if state in (State.SETTLING, State.UNKNOWN, State.FAILED) else BORN + 1000 * int(payment_id[1:], 16)
    )
    return payment(payment_id, state, **(given | {"settled_at": moment} | fields))


def network(*served: Node, name: str = "net", method: str = "tempo", chain_id: int = CHAIN_ID) -> str:
    return json.dumps(
        {"name": name, "method": method, "chain_id": chain_id, "rpc_urls": [one.url for one in served]}
    )


def fill(
    url: str, rows: Sequence[Payment], networks: dict[str, str], refused: Sequence[RefusedTransfer] = ()
) -> None:
    async def write() -> None:
        ledger = await stores.open_ledger(url, clock=lambda: BORN)
        assert all(await asyncio.gather(*map(ledger.insert, rows)))
        for name, document in networks.items():
            await ledger.remember_network(name, document)
        for transfer in refused:
            await ledger.refuse(transfer)
        await ledger.close()

    asyncio.run(write())


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, node: Node, capsys: pytest.CaptureFixture[str]) -> Command:
    """Fill a ledger with rows, reconcile it: exit code, stdout, stderr."""

    def command(
        rows: Sequence[Payment],
        *arguments: str,
        networks: dict[str, str] | None = None,
        refused: Sequence[RefusedTransfer] = (),
    ) -> tuple[int, str, str]:
        file = tmp_path / "ledger.db"
        known = {f"net/{CHAIN_ID}": network(node)} if networks is None else networks
        if not file.exists():
            fill(f"sqlite:{file}", rows, known, refused)
        where = () if "--state-dir" in arguments else ("--ledger", f"sqlite:{file}")
        code = cli.main(["payments", "reconcile", *where, *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return command


def kinds(out: str) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in json.loads(out)["sums"]}


# --- what is read --------------------------------------------------------------------------------------


def test_balanced_books_are_one_line_to_a_person(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.finalized = 1

    code, out, err = run([row("c1"), payment("c2", State.DELIVERED, mode="proof", amount="0", settled_at=BORN)])

    assert (code, err) == (0, "")
    assert (
        out
        == f"""\
Read net (chain 7), blocks 0 to 1, 2023-11-14T22:13:20Z to 2023-11-14T22:13:21Z: 1 recipient, 1 currency.
1 proof of an address, which move nothing.

Balanced: 1 matched (50 base units of {TOKEN} on net).
"""
    )


def test_what_is_off_is_a_table_and_the_exit_code_is_1(run: Command, node: Node) -> None:
    node.pay("0x01", 49, challenge="c1")
    node.pay("0x03", 7)
    node.finalized = 2
    bad = row("c2", reference="0x0b\x1b[2J", amount="5")

    code, out, _ = run([row("c1"), bad])

    first, third = nodes.hashed("0x01"), nodes.hashed("0x03")
    assert code == 4
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "Off:",
        "WHAT NETWORK TRANSACTION AMOUNT PAYMENT WHY",
        f"missing net 0x0b?[2j 5 {TOKEN} c2 no endpoint knows the transaction",
        f"differs net {first} 50 {TOKEN} c1 amount: 50, the chain has 49",
        "",
        "Apart, no error by itself:",
        "WHAT NETWORK TRANSACTION AMOUNT PAYMENT WHY",
        f"stranger net {third} 7 {TOKEN} - from {PAYER}, without a payment's memo",
        "",
        "Read net (chain 7), blocks 0 to 2, 2023-11-14T22:13:20Z to 2023-11-14T22:13:22Z: "
        "1 recipient, 1 currency.",
        "",
        f"Not balanced, 2 off: 1 missing (5 base units of {TOKEN} on net); "
        f"1 differs (50 base units of {TOKEN} on net); 1 stranger (7 base units of {TOKEN} on net).",
    ]


def test_json_holds_the_same(run: Command, node: Node) -> None:
    node.pay("0x01", 49, challenge="c1")
    node.pay("0x03", 7)
    node.finalized = 2

    code, out, _ = run([row("c1")], "--json")

    moved = {"payer": PAYER, "recipient": RECIPIENT, "currency": TOKEN}
    one = {"network": "net", "currency": TOKEN}
    assert code == 4
    assert json.loads(out) == {
        "balanced": False,
        "compared": True,
        "ranges": [
            {
                "network": "net",
                "chainId": 7,
                "firstBlock": 0,
                "lastBlock": 2,
                "from": "2023-11-14T22:13:20Z",
                "to": "2023-11-14T22:13:22Z",
                "currencies": [TOKEN],
                "recipients": [RECIPIENT],
            }
        ],
        "sums": [
            one | {"kind": "differs", "count": 1, "amount": "50"},
            one | {"kind": "stranger", "count": 1, "amount": "7"},
        ],
        "proofs": 0,
        "off": [
            one
            | {
                "kind": "differs",
                "reference": nodes.hashed("0x01"),
                "payment": "c1",
                "state": "DELIVERED",
                "amount": "50",
                "transfers": [moved | {"block": 1, "amount": "49"}],
                "detail": "amount: 50, the chain has 49",
            }
        ],
        "apart": [
            one
            | {
                "kind": "stranger",
                "reference": nodes.hashed("0x03"),
                "payment": None,
                "state": None,
                "amount": "7",
                "transfers": [moved | {"block": 2, "amount": "7"}],
                "detail": f"from {PAYER}, without a payment's memo",
            }
        ],
        "notes": [],
    }


def test_nothing_that_pays_or_recognises_a_credential_is_told(run: Command, node: Node) -> None:
    node.pay("0x01", 49, challenge="c1")
    node.finalized = 1
    secret: dict[str, Any] = {
        "credential_hash": "hidden-hash",
        "envelope": "0xhidden",
        "idempotency_hash": "hidden-key",
    }

    for arguments in ((), ("--json",)):
        code, out, err = run([row("c1", **secret)], *arguments)

        assert (code, "hidden" in out + err) == (4, False)


def test_an_empty_ledger_is_balanced_and_says_that_nothing_was_compared(run: Command) -> None:
    code, out, _ = run([])

    assert (code, out) == (
        0,
        "No payment and no recipient is known: nothing was compared.\n\n"
        "Nothing compared yet: no payment, no transfer.\n",
    )


def test_only_so_many_of_each_kind_are_listed_and_all_are_counted(run: Command, node: Node) -> None:
    node.pay("0x01", 50)
    for number in range(2, 7):
        node.pay(f"0x{number:x}", number, challenge=f"x{number}")
    node.finalized = node.head

    code, out, _ = run([row("c1")], "--limit", "2")

    assert (code, out.count("unclaimed  net")) == (4, 2)
    assert "Only 2 of each; --limit shows more." in out
    assert "Not balanced, 5 off: " in out
    assert "5 unclaimed (20 base units" in out


def test_more_rows_than_a_page_are_read_and_kept_on_the_disk(run: Command, node: Node) -> None:
    count = audit.PAGE * 2 + 1
    for number in range(1, count + 1):
        node.pay(f"0x{number:x}", 50, challenge=f"c{number:x}")
    node.finalized = node.head
    # All of one moment: pages go on by id where the moment is the same.
    rows = [row(f"c{number:x}", settled_at=BORN + 5) for number in range(1, count + 1)]

    code, out, _ = run(rows, "--json")

    assert (code, kinds(out)) == (0, {"matched": count})


def test_refused_transfers_stand_apart(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x02", 50, challenge="c2")
    node.finalized = 2
    refused = RefusedTransfer("c2", nodes.hashed("0x02"), "shop/llm/complete", "net", "memo-mismatch", at=BORN)

    code, out, _ = run([row("c1")], "--json", refused=[refused])

    assert (code, kinds(out)) == (0, {"matched": 1, "refused": 1})


def test_open_and_failed_rows_are_read_as_well(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x02", 50, challenge="c2")
    node.pay("0x03", 50, challenge="c3")
    node.finalized = 3
    rows = [
        row("c1", State.FAILED),
        row("c2", State.UNKNOWN),
        row("c3"),
        row("c4", State.SETTLING),
        row("c5", State.FAILED),
    ]

    code, out, _ = run(rows, "--json")

    assert (code, kinds(out)) == (4, {"matched": 1, "failed-but-paid": 1, "open-but-paid": 1, "open": 1})


def test_so_many_failed_rows_that_some_are_left_out_are_told(
    run: Command, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST", 2)

    _, out, _ = run([row(f"c{n}", State.FAILED, created_at=n) for n in range(1, 4)])

    assert "Only the newest 2 FAILED payments were looked at." in out


def test_a_temporary_folder_that_is_full_is_an_error(
    run: Command, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Narrow(piles.Piles):
        def __init__(self) -> None:
            super().__init__()
            self._file.execute("PRAGMA max_page_count = 4")  # SQLite's own error, without filling a disk

    monkeypatch.setattr(audit, "Piles", Narrow)

    code, out, err = run([row(f"c{number:x}") for number in range(1, 100)])

    assert (code, out) == (3, "")
    assert err == (
        "temporary folder: expected about two kilobytes for each payment, got: database or disk is full\n"
        "Name a folder with more space in TMPDIR.\n"
    )


def test_every_kind_of_store_is_read(store: Store, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(1, 6):
        node.pay(f"0x{number}", 50, challenge=f"c{number}")
    node.finalized = 5
    rows = [row("c1"), row("c2", State.OWED), row("c3", State.UNKNOWN), row("c4", State.FAILED)]
    fill(store.url, rows, {"net/7": network(node)})

    code = cli.main(["payments", "reconcile", "--ledger", store.url, "--json", "--since", "2023-11-14"])

    expected = {"matched": 2, "open-but-paid": 1, "failed-but-paid": 1, "unclaimed": 1}
    assert (code, kinds(capsys.readouterr().out)) == (4, expected)


# --- edges -----------------------------------------------------------------------------------------------


def test_what_is_behind_the_last_final_block_is_later(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x02", 50, challenge="c2")
    node.finalized = 1

    code, out, _ = run([row("c1"), row("c2")], "--json")

    assert (code, kinds(out)) == (0, {"matched": 1, "later": 1})


def test_a_chain_without_a_final_block_in_the_window_is_not_read(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")

    code, out, _ = run([row("c1")], "--confirmations", "0", "--since", "2024-01-01")

    assert code == 0
    assert "Read net (chain 7), no final block in this time yet: 1 recipient, 1 currency." in out
    assert node.count("eth_getLogs") == 0
    _, out, _ = run([], "--json", "--confirmations", "0", "--since", "2024-01-01")
    assert json.loads(out)["ranges"][0]["firstBlock"] is None


def test_a_transfer_in_the_window_finds_its_row_outside_of_it(run: Command, node: Node) -> None:
    for number in range(1, 5):
        node.pay(f"0x{number}", 50, challenge=f"c{number}")
    node.finalized = 4
    rows = [row(f"c{number}", settled_at=BORN + 10**9 * number) for number in range(1, 5)]

    code, out, _ = run(rows, "--json", "--since", "2", "--until", "3")

    assert (code, kinds(out)) == (0, {"matched": 2})


def test_a_row_in_the_window_finds_its_transfer_before_it(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.mine(9)
    node.finalized = 10

    code, out, _ = run([row("c1", settled_at=BORN + 9000)], "--json", "--since", "8")

    assert (code, kinds(out), node.count("eth_getTransactionReceipt")) == (0, {"matched": 1}, 1)


def test_rows_outside_of_the_window_are_not_judged(run: Command, node: Node) -> None:
    node.mine(9)
    node.finalized = 9

    code, out, _ = run([row("c1"), row("c8")], "--json", "--since", "3", "--until", "6")

    assert (code, kinds(out)) == (0, {})


def test_whoever_was_paid_before_the_window_is_watched_in_it(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.mine(5)
    node.pay("0x02", 50, challenge="lost")
    node.finalized = node.head

    code, out, _ = run([row("c1")], "--json", "--since", "5")

    assert (code, kinds(out)) == (4, {"unclaimed": 1})


def test_a_row_whose_transaction_pays_somebody_else_is_missing_and_says_so(run: Command, node: Node) -> None:
    node.pay("0x01", 50, recipient=OTHER)
    node.finalized = 1

    code, out, _ = run([row("c1")], "--json")

    (finding,) = json.loads(out)["off"]
    expected = "the transaction is in block 1 and moved nothing to a recipient of ours"
    assert (code, finding["kind"], finding["detail"]) == (4, "missing", expected)


def test_a_row_whose_transaction_was_reverted_is_missing(run: Command, node: Node) -> None:
    node.mine()
    node.finalized = 1
    node.reverted[nodes.hashed("0x01")] = 1

    code, out, _ = run([row("c1")], "--json")

    assert (code, kinds(out)) == (4, {"missing": 1})


def test_what_settles_while_we_read_is_found(run: Command, node: Node, tmp_path: Path) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x02", 50, challenge="c2")
    node.finalized = 2
    open_row = row("c1", State.UNKNOWN)

    async def settle() -> None:
        ledger = await SQLiteLedger.open(tmp_path / "ledger.db")
        assert await ledger.replace(open_row, row("c1"))
        assert await ledger.insert(row("c2"))
        await ledger.close()

    # By then the ledger was read to its end, and the chain was not begun.
    node.before["eth_getLogs"] = lambda: asyncio.run(settle())

    code, out, _ = run([open_row], "--json")

    assert (code, kinds(out), node.before) == (0, {"matched": 2}, {})


# --- nodes -----------------------------------------------------------------------------------------------


def test_a_node_that_leaves_a_transfer_out_is_an_error_and_nothing_is_concluded(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.finalized = 1
    node.hides.add(nodes.hashed("0x01"))

    code, out, err = run([row("c1")])

    assert (code, out) == (3, "")
    assert err == (
        f"network net: a node left the transfer {nodes.hashed('0x01')} out of the logs of block 1\n"
        "Nothing was concluded: try again, or name other nodes with --config.\n"
    )


def test_a_second_node_that_lags_is_an_error(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.mine(100)
    with nodes.serving() as slow:
        slow.pay("0x01", 50, challenge="c1")

        code, out, err = run([row("c1")], "--confirmations", "0", networks={"net/7": network(node, slow)})

    assert (code, out) == (3, "")
    assert "an endpoint lags 100 s of block time behind another" in err


def test_a_node_that_is_gone_is_an_error_that_names_no_url(run: Command, node: Node) -> None:
    with nodes.serving() as gone:
        pass

    code, out, err = run([row("c1")], networks={"net/7": network(node, gone)})

    assert (code, out) == (3, "")
    assert "network net: an endpoint failed: " in err
    assert gone.url not in err


def test_a_node_that_refuses_ranges_is_read_all_the_same(run: Command, node: Node) -> None:
    for number in range(1, 30):
        node.pay(f"0x{number:x}", 50, challenge=f"c{number:x}")
    node.finalized = node.head
    node.refuses_more_than = 4

    code, out, _ = run([row(f"c{number:x}") for number in range(1, 30)], "--json")

    assert (code, kinds(out)) == (0, {"matched": 29})


# --- networks --------------------------------------------------------------------------------------------


def test_rows_older_than_chain_ids_are_on_the_network_of_that_name(run: Command, node: Node) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.finalized = 1
    with_both = {"net/8": network(node, chain_id=8), "net": network(node)}

    assert run([row("c1", chain_id=0)], networks=with_both)[0] == 0


def test_rows_older_than_chain_ids_on_one_of_two_chains_are_an_error(run: Command, node: Node) -> None:
    code, _, err = run(
        [row("c1", chain_id=0)], networks={"net/8": network(node, chain_id=8), "net/7": network(node)}
    )

    assert code == 3
    assert err == ("network 'net': expected one chain for payments older than chain ids in the ledger, got 7, 8\n")


@pytest.mark.parametrize(("chain_id", "told"), [(9, "9"), (0, "unknown")])
def test_a_network_nobody_knows_is_an_error(run: Command, chain_id: int, told: str) -> None:
    code, _, err = run([row("c1", chain_id=chain_id)], networks={})

    assert code == 3
    assert err == (
        f"network 'net' (chain {told}): payments were made on it, and nothing says where its nodes are; "
        "name a gateway.yaml that has it with --config\n"
    )


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON"])
def test_a_network_that_cannot_be_read_is_an_error(run: Command, text: str) -> None:
    code, _, err = run([], networks={"net/7": text})

    assert (code, err) == (3, "ledger: network 'net/7': expected what a network was, got other JSON\n")


def test_a_method_that_is_not_installed_is_an_error(run: Command, node: Node) -> None:
    code, _, err = run([row("c1")], networks={"net/7": network(node, method="barter")})

    assert (code, err) == (3, "method 'barter': expected it installed, found none of that name\n")


def test_a_method_that_cannot_be_audited_is_an_error(
    run: Command, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Barter:
        async def aclose(self) -> None:
            pass

    monkeypatch.setattr(audit, "_method", lambda name: Barter())  # no such method is built in

    code, _, err = run([row("c1")], networks={"net/7": network(node, method="barter")})

    assert code == 3
    assert err == "network net: payments by 'barter' cannot be read again from where the money moved\n"


# --- who is watched --------------------------------------------------------------------------------------

SERVICE = f"""
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: llm}}
spec:
  upstream: {{url: "http://127.0.0.1:1/"}}
  payment: {{offers: [{{method: tempo, network: net, currency: coin, recipient: "{OTHER}"}}]}}
  routes:
    - {{name: paid, match: {{path: /paid}}, price: {{amount: "1"}}}}
    - {{name: known, match: {{path: /known}}, price: {{amount: "0"}}}}
"""


def gateway_yaml(node: Node, offers: str = "") -> str:
    return f"""
networks:
  net: {{method: tempo, chainId: 7, rpcUrl: "{node.url}", currencies: {{coin: "{TOKEN}"}}}}
{offers and f"defaults: {{offers: [{offers}]}}"}
"""


def test_a_recipient_of_a_service_is_watched_before_anybody_paid(run: Command, node: Node, tmp_path: Path) -> None:
    node.pay("0x01", 50, challenge="lost", recipient=OTHER)
    node.finalized = 1
    (tmp_path / "llm.yaml").write_text(SERVICE)
    (tmp_path / "gateway.yaml").write_text(gateway_yaml(node))

    code, out, _ = run(
        [], "--json", "-f", str(tmp_path / "llm.yaml"), "--config", str(tmp_path / "gateway.yaml"), networks={}
    )

    assert (code, kinds(out), json.loads(out)["ranges"][0]["recipients"]) == (4, {"unclaimed": 1}, [OTHER])


@pytest.mark.parametrize(
    "recipient", [f'recipient: "{OTHER}"', "recipientFrom: {secretRef: {name: till, key: address}}"]
)
def test_a_recipient_of_a_default_offer_is_watched(
    run: Command, node: Node, tmp_path: Path, recipient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.pay("0x01", 50, challenge="lost", recipient=OTHER)
    node.finalized = 1
    monkeypatch.setenv("TILL_ADDRESS", OTHER)
    offer = f"{{method: tempo, network: net, currency: coin, {recipient}}}"
    (tmp_path / "gateway.yaml").write_text(gateway_yaml(node, offer))

    code, out, _ = run([], "--json", "--config", str(tmp_path / "gateway.yaml"), networks={})

    assert (code, kinds(out)) == (4, {"unclaimed": 1})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "expected YAML, got: line 1, column 5"),
        ("- 1", "expected an object, got a list"),
        ("networks: {net: {chainId: x}}", "networks.net"),
        (
            'defaults: {offers: [{method: tempo, network: net, currency: "0x1", recipient: "' + OTHER + '"}]}',
            "defaults.offers",
        ),
        (
            'defaults: {offers: [{method: tempo, network: moderato, currency: doubloon, recipient: "'
            + OTHER
            + '"}]}',
            "defaults.offers[0].currency: expected one of ",
        ),
        (None, "expected a file we can read, got: No such file or directory"),
    ],
)
def test_a_gateway_yaml_that_cannot_be_used_is_an_error(
    run: Command, tmp_path: Path, text: str | None, told: str
) -> None:
    file = tmp_path / "gateway.yaml"
    if text is not None:
        file.write_text(text)

    code, out, err = run([], "--config", str(file))

    assert (code, out) == (1, "")
    assert err.startswith(f"{file}: ")
    assert told in err


def test_what_the_state_folder_serves_is_watched(run: Command, node: Node, tmp_path: Path) -> None:
    node.pay("0x01", 50, challenge="c1")
    node.pay("0x02", 7, challenge="lost", recipient=OTHER)
    node.finalized = 2
    run([row("c1")], networks={"net/7": network(name="net")})  # remembered without a node
    offers = (
        pricing.Offer("tempo", "tempo", "net", TOKEN.upper().replace("0X", "0x"), OTHER, "5"),
        pricing.Offer("proof", "tempo", "net", TOKEN, "0x" + "dd" * 20, "0"),
    )
    served = pricing.Pricing(
        pricing.VERSION,
        "r1",
        {"shop/llm/complete": pricing.RoutePrice(offers, 300, 60)},
        {"net": pricing.Network("net", "tempo", CHAIN_ID, (node.url,))},
    )
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / pricing.FILE_NAME).write_text(pricing.dump(served))

    code, out, _ = run([], "--json", "--state-dir", str(tmp_path))

    assert (code, kinds(out)) == (4, {"matched": 1, "unclaimed": 1})
    assert json.loads(out)["ranges"][0]["recipients"] == [RECIPIENT, OTHER]


def test_a_pricing_that_cannot_be_read_is_an_error(run: Command, tmp_path: Path) -> None:
    run([])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / pricing.FILE_NAME).write_text("{}")

    code, out, err = run([], "--state-dir", str(tmp_path))

    assert (code, out) == (3, "")
    assert "expected the gateway's pricing, got: pricing: version: expected 1, got None" in err


# --- when ------------------------------------------------------------------------------------------------


def test_a_block_is_a_moment_of_one_chain_only(run: Command, node: Node) -> None:
    both = {"net/7": network(node), "net/8": network(node, chain_id=8)}

    code, out, err = run([row("c1"), row("c2", chain_id=8)], "--since", "1", networks=both)

    assert (code, out) == (1, "")
    assert err == (
        "--since, --until: expected a time, got a block: payments are known on 2 chains, and each counts its own\n"
    )


def test_a_block_that_is_not_there_yet_is_an_error(run: Command, node: Node) -> None:
    node.finalized = 0

    code, _, err = run([row("c1")], "--since", "4")

    assert (code, err) == (
        1,
        "--since, --until: expected a block up to 0, the last that counts, got 4\n",
    )


def test_a_window_that_ends_before_it_begins_is_an_error(run: Command) -> None:
    code, _, err = run([row("c1")], "--since", "2024-01-02", "--until", "2024-01-01T00:00:00Z")

    assert (code, err) == (1, "--until: expected a moment after --since, got an earlier one\n")


def test_a_window_that_ends_behind_the_last_final_block_is_an_error(run: Command, node: Node) -> None:
    node.finalized = 0

    code, _, err = run([row("c1")], "--until", "2024-01-01")

    assert code == 3
    assert err == (
        "--until: expected a moment up to 2023-11-14T22:13:20Z, when the last block that counts on net was made; "
        "wait, or leave it out\n"
    )


def test_so_long_ago_is_a_moment() -> None:
    found = reconcile._edge("90m")

    assert isinstance(found, datetime)
    assert abs((datetime.now(UTC) - found).total_seconds() - 5400) < 60


def test_a_time_without_a_zone_is_utc() -> None:
    assert reconcile._edge("2024-01-01T12:00") == datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert reconcile._edge("2024-01-01T12:00:00+02:00") == datetime(2024, 1, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--since", "yesterday"), "expected a time such as 2030-01-31T12:00:00Z"),
        (("--confirmations", "-1"), "expected"),
        (("--confirmations", "few"), "expected a number from 0, got 'few'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_usage(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["payments", "reconcile", *arguments])

    assert ended.value.code == 2
    assert told in capsys.readouterr().err
