"""What is said of rows and transfers side by side: tables, and laws of a balanced world."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import payment

from mpp_authz.ledger import State, transitions
from mpp_authz.methods.history import Transfer
from mpp_operator.reconcile import balance, piles
from mpp_operator.reconcile.balance import Finding, Group, Kind, Row, Rules

CHAIN = 7
ROW = Row("c1", State.DELIVERED, CHAIN, "0x01", "0xc0", "0xaa", 50, "0xbb")
TRANSFER = Transfer(CHAIN, "0x01", 0, 9, "0xc0", "0xbb", "0xaa", 50, "ours", "mark of c1")
RULES = Rules(lambda challenge_id: f"mark of {challenge_id}")


def row(**fields: Any) -> Row:
    return dataclasses.replace(ROW, **fields)


def transfer(**fields: Any) -> Transfer:
    return dataclasses.replace(TRANSFER, **fields)


PLAIN = transfer(realm_mark=None, challenge_mark=None)


def judged(
    rows: Sequence[Row], transfers: Sequence[Transfer], rules: Rules = RULES, **fields: Any
) -> list[tuple[Kind, str | None, int]]:
    """Kind, payment and amount of each finding about one transaction."""
    group = Group(CHAIN, "0x01", tuple(rows), tuple(transfers), **fields)
    return [(one.kind, one.row.id if one.row else None, one.amount) for one in balance.compare(group, rules)]


@pytest.mark.parametrize("state", sorted(transitions.PAID))
def test_a_settled_row_and_its_transfer_match(state: State) -> None:
    assert judged([row(state=state)], [TRANSFER]) == [(Kind.MATCHED, "c1", 50)]


def test_a_transfer_without_a_memo_matches_by_what_it_moved() -> None:
    assert judged([ROW], [PLAIN]) == [(Kind.MATCHED, "c1", 50)]


def test_a_payer_the_ledger_does_not_know_is_not_compared() -> None:
    assert judged([row(payer=None)], [TRANSFER]) == [(Kind.MATCHED, "c1", 50)]


def test_a_settled_row_without_a_transfer_is_missing() -> None:
    assert judged([ROW], []) == [(Kind.MISSING, "c1", 50)]


def test_what_the_chain_says_of_a_missing_transfer_is_told() -> None:
    (finding,) = balance.compare(Group(CHAIN, "0x01", (ROW,), elsewhere="it was reverted"), RULES)

    assert (finding.kind, finding.detail) == (Kind.MISSING, "it was reverted")


def test_a_row_whose_transfer_is_not_final_yet_is_later() -> None:
    assert judged([ROW], [], later=True) == [(Kind.LATER, "c1", 50)]


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"amount": 49}, "amount: 50, the chain has 49"),
        ({"currency": "0xc1"}, "currency: 0xc0, the chain has 0xc1"),
        ({"recipient": "0xa0"}, "recipient: 0xaa, the chain has 0xa0"),
        ({"payer": "0xb0"}, "payer: 0xbb, the chain has 0xb0"),
        ({"challenge_mark": "mark of c2"}, "challenge: the transfer's memo is bound to another one"),
        ({"amount": 1, "payer": "0xb0"}, "amount: 50, the chain has 1; payer: 0xbb, the chain has 0xb0"),
    ],
)
@pytest.mark.parametrize("base", [TRANSFER, PLAIN], ids=["memo", "plain"])
def test_what_differs_is_named(base: Transfer, fields: dict[str, Any], detail: str) -> None:
    (finding,) = balance.compare(Group(CHAIN, "0x01", (ROW,), (dataclasses.replace(base, **fields),)), RULES)

    assert (finding.kind, finding.detail) == (Kind.DIFFERS, detail)


def test_two_rows_that_name_one_transfer_are_one_match_and_one_too_many() -> None:
    found = balance.compare(Group(CHAIN, "0x01", (ROW, row(id="c2")), (TRANSFER,)), RULES)

    assert [(one.kind, one.row and one.row.id) for one in found] == [(Kind.MATCHED, "c1"), (Kind.TWICE, "c2")]
    assert found[1].detail == "also named by payment c1"


def test_a_transfer_goes_to_the_row_it_is_bound_to() -> None:
    other = transfer(index=1, challenge_mark="mark of c2")

    assert judged([row(id="c2"), ROW], [TRANSFER, other]) == [(Kind.MATCHED, "c1", 50), (Kind.MATCHED, "c2", 50)]


def test_a_transfer_beside_a_payment_is_said_apart() -> None:
    tip = dataclasses.replace(PLAIN, index=1, amount=3)
    second = transfer(index=2, amount=4, challenge_mark="mark of c9")

    assert judged([ROW], [tip, TRANSFER, second]) == [
        (Kind.MATCHED, "c1", 50),
        (Kind.STRANGER, None, 3),
        (Kind.UNCLAIMED, None, 4),
    ]


def test_a_payment_in_parts_is_one_payment() -> None:
    parts = [transfer(amount=40), transfer(index=1, amount=10, recipient="0xa0", challenge_mark=None)]

    assert judged([ROW], parts) == [(Kind.MATCHED, "c1", 50)]


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 9},
        {"currency": "0xc1"},
        {"payer": "0xb0"},
        {"challenge_mark": "mark of c9"},
    ],
)
def test_parts_that_do_not_add_up_are_no_payment(fields: dict[str, Any]) -> None:
    parts = [transfer(amount=40), transfer(**({"index": 1, "amount": 10, "challenge_mark": None} | fields))]

    kinds = [kind for kind, _, _ in judged([ROW], parts)]

    assert kinds[0] is Kind.DIFFERS
    assert Kind.MATCHED not in kinds


def test_parts_of_which_none_reaches_the_recipient_are_no_payment() -> None:
    parts = [transfer(amount=40, recipient="0xa1"), transfer(index=1, amount=10, recipient="0xa2")]

    assert judged([ROW], parts)[0][0] is Kind.DIFFERS


def test_a_failed_row_that_moved_nothing_is_as_it_should_be() -> None:
    assert judged([row(state=State.FAILED)], []) == []


def test_a_failed_row_whose_transfer_exists_is_off() -> None:
    assert judged([row(state=State.FAILED)], [TRANSFER]) == [(Kind.FAILED_PAID, "c1", 50)]


def test_a_failed_row_takes_nothing_from_the_payment_that_settled() -> None:
    assert judged([row(id="c0", state=State.FAILED), ROW], [TRANSFER]) == [(Kind.MATCHED, "c1", 50)]


@pytest.mark.parametrize("state", [State.SETTLING, State.UNKNOWN])
@pytest.mark.parametrize(("idle", "kind"), [(0, Kind.OPEN), (1, Kind.OPEN_PAID)])
def test_an_open_row_that_settled_is_off_once_nobody_works_on_it(state: State, idle: int, kind: Kind) -> None:
    rules = dataclasses.replace(RULES, now=1_000 + balance.IDLE_MS + idle)

    assert judged([row(state=state, lease_until=1_000)], [TRANSFER], rules) == [(kind, "c1", 50)]


def test_an_open_row_without_a_transfer_is_open_however_old_it_is() -> None:
    rules = dataclasses.replace(RULES, now=10**15)

    assert judged([row(state=State.UNKNOWN)], [], rules) == [(Kind.OPEN, "c1", 50)]


@pytest.mark.parametrize(
    ("found", "fields", "realms", "kind"),
    [
        (TRANSFER, {}, (), Kind.UNCLAIMED),
        (TRANSFER, {}, ("ours",), Kind.UNCLAIMED),
        (TRANSFER, {}, ("another",), Kind.ELSEWHERE),
        (PLAIN, {}, (), Kind.STRANGER),
        (PLAIN, {}, ("ours",), Kind.STRANGER),
        (TRANSFER, {"refused": True}, (), Kind.REFUSED),
        (PLAIN, {"refused": True}, (), Kind.REFUSED),
    ],
)
def test_a_transfer_without_a_row(
    found: Transfer, fields: dict[str, Any], realms: tuple[str, ...], kind: Kind
) -> None:
    rules = dataclasses.replace(RULES, realms=frozenset(realms))

    assert judged([], [found], rules, **fields) == [(kind, None, 50)]


@pytest.mark.parametrize(
    "fields",
    [{"mode": "proof", "amount": "0"}, {"state": State.SPENT, "paid_by": "c0"}, {"reference": None}],
    ids=["proof", "spent", "nothing sent"],
)
def test_a_row_that_never_moved_money_is_not_compared(fields: dict[str, Any]) -> None:
    assert balance.row_of(payment(**({"state": State.DELIVERED} | fields)), CHAIN) is None


def test_a_row_is_read_in_lower_case() -> None:
    given = payment("c1", State.DELIVERED, reference="0xAB", currency="0xC0", recipient="0xAA", payer="0xBB")

    read = balance.row_of(given, CHAIN)

    assert read == Row("c1", State.DELIVERED, CHAIN, "0xab", "0xc0", "0xaa", 50_000, "0xbb")


def test_a_row_without_a_payer_is_read_without_one() -> None:
    read = balance.row_of(payment("c1", State.DELIVERED, payer=None), CHAIN)

    assert read is not None
    assert read.payer is None


# --- laws ------------------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Row], list[Transfer]]:
    """A balanced world: transactions of one or two payments each, some without memos, and FAILED rows."""
    rows: list[Row] = []
    transfers: list[Transfer] = []
    for number in range(draw(st.integers(1, 6))):
        reference = f"0x{number:02x}"
        for leg in range(draw(st.integers(1, 2))):
            payment_id = f"c{number}.{leg}"
            amount = draw(st.integers(1, 3))
            state = draw(st.sampled_from(sorted(transitions.PAID)))
            memo = leg > 0 or draw(st.booleans())
            rows.append(row(id=payment_id, reference=reference, amount=amount, state=state))
            mark = f"mark of {payment_id}" if memo else None
            transfers.append(
                transfer(
                    reference=reference,
                    index=leg,
                    amount=amount,
                    realm_mark="ours" if memo else None,
                    challenge_mark=mark,
                )
            )
    if draw(st.booleans()):
        rows.append(row(id="failed", reference="0xff", state=State.FAILED))
    return rows, transfers


def off(rows: Sequence[Row], transfers: Sequence[Transfer]) -> list[Finding]:
    """Everything that is not a match."""
    with piles.Piles() as kept:
        kept.add_rows(rows)
        kept.add_transfers(transfers)
        found = [finding for group in kept.groups() for finding in balance.compare(group, RULES)]
    return [finding for finding in found if finding.kind is not Kind.MATCHED]


def settled(rows: Sequence[Row]) -> list[Row]:
    return [one for one in rows if one.state is not State.FAILED]


@settings(deadline=None)
@given(worlds(), st.randoms())
def test_a_balanced_world_is_balanced_in_any_order(world: tuple[list[Row], list[Transfer]], random: Any) -> None:
    rows, transfers = world
    random.shuffle(rows)
    random.shuffle(transfers)

    assert off(rows, transfers) == []


@settings(deadline=None)
@given(worlds(), st.data())
def test_exactly_the_row_that_is_removed_leaves_its_transfer_behind(
    world: tuple[list[Row], list[Transfer]], data: st.DataObject
) -> None:
    rows, transfers = world
    gone = data.draw(st.sampled_from(settled(rows)))
    rows.remove(gone)

    (finding,) = off(rows, transfers)

    assert (finding.kind in (Kind.UNCLAIMED, Kind.STRANGER), finding.reference) == (True, gone.reference)
    assert (finding.row, finding.amount) == (None, gone.amount)


@settings(deadline=None)
@given(worlds(), st.data())
def test_exactly_the_row_whose_transfer_is_removed_is_missing_it(
    world: tuple[list[Row], list[Transfer]], data: st.DataObject
) -> None:
    rows, transfers = world
    alone = [t for t in transfers if sum(other.reference == t.reference for other in transfers) == 1]
    gone = data.draw(st.sampled_from(alone)) if alone else None
    if gone is None:
        return
    transfers.remove(gone)

    (finding,) = off(rows, transfers)

    assert (finding.kind, finding.reference, finding.amount) == (Kind.MISSING, gone.reference, gone.amount)


@settings(deadline=None)
@given(worlds(), st.integers(1, 9), st.booleans())
def test_exactly_the_transfer_that_is_added_is_found(
    world: tuple[list[Row], list[Transfer]], amount: int, memo: bool
) -> None:
    rows, transfers = world
    mark = "mark of nobody" if memo else None
    added = transfer(reference="0xee", amount=amount, realm_mark=mark, challenge_mark=mark)

    (finding,) = off(rows, [*transfers, added])

    assert (finding.kind, finding.transfers) == (Kind.UNCLAIMED if memo else Kind.STRANGER, (added,))


@settings(deadline=None)
@given(worlds(), st.data(), st.sampled_from(("amount", "currency", "recipient", "payer")))
def test_exactly_the_transfer_that_is_changed_differs(
    world: tuple[list[Row], list[Transfer]], data: st.DataObject, name: str
) -> None:
    rows, transfers = world
    at = data.draw(st.integers(0, len(transfers) - 1))
    value: Any = 100 if name == "amount" else "0xdd"
    transfers[at] = dataclasses.replace(transfers[at], **{name: value})

    (finding,) = off(rows, transfers)

    assert (finding.kind, finding.transfers) == (Kind.DIFFERS, (transfers[at],))
    assert finding.detail.startswith(f"{name}: ")


@settings(deadline=None)
@given(worlds(), worlds())
def test_what_is_said_of_one_transaction_depends_on_no_other(
    one: tuple[list[Row], list[Transfer]], other: tuple[list[Row], list[Transfer]]
) -> None:
    rows = [dataclasses.replace(r, chain_id=8) for r in other[0]][:3]
    transfers = [dataclasses.replace(t, chain_id=8) for t in other[1]][1:]

    together = off([*one[0], *rows], [*one[1], *transfers])

    assert together == off(*one) + off(rows, transfers)
