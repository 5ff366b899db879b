"""Whether the ledger and the chain say the same: rows and transfers in, what is off out. Pure.

Everything is judged by transaction: the rows that name it, and the transfers to our recipients that it holds. So a
million payments can be compared a handful at a time, in any order, and what is said of one does not depend on
another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import Final

from mpp_authz.ledger import Payment, State, transitions
from mpp_authz.methods.history import Transfer

#: Milliseconds past the end of its lease for which an open row may still be somebody's work.
IDLE_MS: Final = 60_000


class Kind(StrEnum):
    """What can be said of a row, a transfer, or both."""

    MATCHED = "matched"
    # Off: the books are not balanced
    MISSING = "missing"  # settled by the ledger, and the chain has no such transfer
    DIFFERS = "differs"  # amount, currency, recipient, payer or challenge
    TWICE = "named-twice"  # another row has taken the transfer that this one names
    FAILED_PAID = "failed-but-paid"  # the row says that it moved no money, and it did
    OPEN_PAID = "open-but-paid"  # the chain settled it, and nobody works on the row
    UNCLAIMED = "unclaimed"  # a transfer bound to a challenge, and no row: nobody was served for it
    # Apart: no error by itself
    REFUSED = "refused"  # listed by `payments` already: it paid us, but not for what was asked
    ELSEWHERE = "elsewhere"  # bound to a challenge of a realm that is not this ledger's
    STRANGER = "stranger"  # no memo of the payment protocol: nobody asked for it
    OPEN = "open"  # the outcome is not known yet, or was learned this minute
    LATER = "later"  # its transfer lies behind the last block that counts


OFF: Final = (Kind.MISSING, Kind.DIFFERS, Kind.TWICE, Kind.FAILED_PAID, Kind.OPEN_PAID, Kind.UNCLAIMED)
APART: Final = (Kind.REFUSED, Kind.ELSEWHERE, Kind.STRANGER, Kind.OPEN, Kind.LATER)


@dataclass(frozen=True, slots=True)
class Row:
    """Of a payment, what the chain can confirm. Addresses and hashes are lower case."""

    id: str
    state: State
    chain_id: int
    reference: str
    currency: str
    recipient: str
    amount: int
    payer: str | None
    lease_until: int = 0  # store milliseconds


@dataclass(frozen=True, slots=True)
class Group:
    """One transaction: all that names it."""

    chain_id: int
    reference: str
    rows: tuple[Row, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    refused: bool = False  # the ledger lists it as a refused transfer
    later: bool = False  # the chain has it behind the last block that counts
    elsewhere: str = ""  # what else the chain says of it, where it holds no transfer to us


@dataclass(frozen=True, slots=True)
class Finding:
    """One row, its transfers, or both."""

    kind: Kind
    chain_id: int
    reference: str
    row: Row | None
    transfers: tuple[Transfer, ...] = ()
    detail: str = ""

    @property
    def currency(self) -> str:
        return self.row.currency if self.row is not None else self.transfers[0].currency

    @property
    def amount(self) -> int:
        """Base units: what the ledger says, or else the chain."""
        return self.row.amount if self.row is not None else sum(transfer.amount for transfer in self.transfers)


@dataclass(frozen=True, slots=True)
class Rules:
    """`challenge_mark` is what a memo says of a challenge id. `realms` are the marks of this ledger's realms;
    empty: not told, and then every memo counts as ours. `now` is the store's clock."""

    challenge_mark: Callable[[str], str]
    realms: frozenset[str] = frozenset()
    now: int = 0


def row_of(payment: Payment, chain_id: int) -> Row | None:
    """What of a payment the chain can confirm; None where it never moved money: a proof, a credit that was taken,
    a row that names no transaction."""
    if payment.mode == "proof" or payment.state is State.SPENT or payment.reference is None:
        return None
    return Row(
        payment.id,
        payment.state,
        chain_id,
        payment.reference.lower(),
        payment.currency.lower(),
        payment.recipient.lower(),
        int(payment.amount),
        payment.payer.lower() if payment.payer is not None else None,
        payment.lease_until,
    )


def compare(group: Group, rules: Rules) -> tuple[Finding, ...]:
    """What is to be said of one transaction: each row and each transfer is in exactly one finding, but a transfer
    that a second row names."""
    left = sorted(group.transfers, key=attrgetter("block", "index"))
    findings: list[Finding] = []
    rows = sorted(group.rows, key=attrgetter("id"))
    # What is settled has the first choice: a FAILED row and a payment may name one transaction.
    for states in (transitions.PAID, {State.SETTLING, State.UNKNOWN}, {State.FAILED}):
        chosen = [row for row in rows if row.state in states]
        taken = _taken(chosen, left, rules)
        for row in chosen:
            finding = _of_row(row, taken.get(row.id, ()), group, rules)
            if finding is not None:
                findings.append(finding)
    return (*findings, *(_of_transfer(transfer, group, rules) for transfer in left))


def _taken(rows: Sequence[Row], left: list[Transfer], rules: Rules) -> dict[str, tuple[Transfer, ...]]:
    """The transfers of each row, out of `left`: what is bound to it first, then what fits it whole, then in
    parts, then what went the same way, then any that is left."""
    ways: tuple[Callable[[Row, list[Transfer]], list[Transfer]], ...] = (
        lambda row, some: [t for t in some if _bound(row, t, rules) and not _differences(row, (t,), rules)][:1],
        lambda row, some: [t for t in some if not _differences(row, (t,), rules)][:1],
        lambda row, some: _parts(row, some, rules),
        lambda row, some: [t for t in some if _bound(row, t, rules)][:1],
        lambda row, some: [t for t in some if (t.currency, t.recipient) == (row.currency, row.recipient)][:1],
        lambda row, some: some[:1],
    )
    taken: dict[str, tuple[Transfer, ...]] = {}
    for way in ways:
        for row in rows:
            if row.id in taken:
                continue
            found = way(row, left)
            if found:
                taken[row.id] = tuple(found)
                left[:] = [transfer for transfer in left if transfer not in found]
    return taken


def _bound(row: Row, transfer: Transfer, rules: Rules) -> bool:
    return transfer.challenge_mark is not None and transfer.challenge_mark == rules.challenge_mark(row.id)


def _parts(row: Row, left: list[Transfer], rules: Rules) -> list[Transfer]:
    """A payment that was split: everything this transaction moved to us, where that is the amount."""
    parts = [t for t in left if t.currency == row.currency and not _foreign(row, t, rules)]
    whole = len(parts) > 1 and sum(part.amount for part in parts) == row.amount
    ours = any(part.recipient == row.recipient for part in parts)
    payers = {part.payer for part in parts}
    return parts if whole and ours and (row.payer is None or payers == {row.payer}) else []


def _foreign(row: Row, transfer: Transfer, rules: Rules) -> bool:
    return transfer.challenge_mark is not None and not _bound(row, transfer, rules)


def _differences(row: Row, transfers: Sequence[Transfer], rules: Rules) -> tuple[str, ...]:
    """What the ledger says and the chain does not: "<field>: <ledger's>, the chain has <chain's>"."""
    first = transfers[0]
    total = sum(transfer.amount for transfer in transfers)
    told: list[tuple[str, object, object]] = [
        ("amount", row.amount, total),
        ("currency", row.currency, first.currency),
    ]
    if not any(transfer.recipient == row.recipient for transfer in transfers):
        told.append(("recipient", row.recipient, first.recipient))
    if row.payer is not None:
        told.append(("payer", row.payer, first.payer))
    different = [f"{name}: {ours}, the chain has {theirs}" for name, ours, theirs in told if ours != theirs]
    if any(_foreign(row, transfer, rules) for transfer in transfers):
        different.append("challenge: the transfer's memo is bound to another one")
    return tuple(different)


def _of_row(row: Row, transfers: tuple[Transfer, ...], group: Group, rules: Rules) -> Finding | None:
    """None: a FAILED row without a transfer, which is as it should be."""
    finding = Finding(Kind.MATCHED, group.chain_id, group.reference, row, transfers)
    if row.state is State.FAILED:
        return replace(finding, kind=Kind.FAILED_PAID, detail="the row is FAILED") if transfers else None
    if row.state in (State.SETTLING, State.UNKNOWN):
        idle = rules.now > row.lease_until + IDLE_MS
        kind = Kind.OPEN_PAID if transfers and idle else Kind.OPEN
        return replace(finding, kind=kind, detail=f"the row is {row.state.value}")
    if not transfers and group.later:
        return replace(finding, kind=Kind.LATER)
    if not transfers and group.transfers:
        others = sorted(other.id for other in group.rows if other is not row and other.state in transitions.PAID)
        return replace(finding, kind=Kind.TWICE, detail=f"also named by payment {', '.join(others)}")
    if not transfers:
        return replace(finding, kind=Kind.MISSING, detail=group.elsewhere or "no endpoint knows the transaction")
    different = _differences(row, transfers, rules)
    return replace(finding, kind=Kind.DIFFERS, detail="; ".join(different)) if different else finding


def _of_transfer(transfer: Transfer, group: Group, rules: Rules) -> Finding:
    finding = Finding(Kind.UNCLAIMED, group.chain_id, group.reference, None, (transfer,))
    if group.refused:
        return replace(finding, kind=Kind.REFUSED, detail=f"from {transfer.payer}")
    if transfer.challenge_mark is None:
        return replace(finding, kind=Kind.STRANGER, detail=f"from {transfer.payer}, without a payment's memo")
    if rules.realms and transfer.realm_mark not in rules.realms:
        return replace(finding, kind=Kind.ELSEWHERE, detail=f"from {transfer.payer}, for another realm")
    return replace(
        finding, detail=f"from {transfer.payer}, bound to a challenge; no payment names the transaction"
    )
