"""What one reconciliation found: counts, sums, findings, as JSON and for a person."""

import collections
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpp_authz.methods.history import Block
from mpp_operator import tables
from mpp_operator.reconcile import balance
from mpp_operator.reconcile.balance import Finding, Kind


@dataclass(frozen=True, slots=True)
class Range:
    """What was read of one chain."""

    network: str
    chain_id: int
    edges: tuple[Block, Block] | None  # the first and the last block; None: there was none in the window yet
    currencies: tuple[str, ...]
    recipients: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """Counts and sums are whole; findings are kept up to a limit for each kind."""

    limit: int
    ranges: list[Range] = field(default_factory=list)
    findings: dict[Kind, list[Finding]] = field(default_factory=dict)
    counts: collections.Counter[tuple[Kind, int, str]] = field(
        default_factory=collections.Counter
    )  # by kind, chain, currency
    sums: collections.Counter[tuple[Kind, int, str]] = field(default_factory=collections.Counter)  # base units
    proofs: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        key = (finding.kind, finding.chain_id, finding.currency)
        self.counts[key] += 1
        self.sums[key] += finding.amount
        if finding.kind is Kind.MATCHED:
            return
        kept = self.findings.setdefault(finding.kind, [])
        if len(kept) < self.limit:
            kept.append(finding)

    def count(self, kind: Kind) -> int:
        return sum(count for key, count in self.counts.items() if key[0] is kind)

    @property
    def balanced(self) -> bool:
        return not any(self.count(kind) for kind in balance.OFF)

    @property
    def compared(self) -> bool:
        """Whether any block was read: else that nothing is off says nothing."""
        return any(read.edges is not None for read in self.ranges)


def document(report: Report) -> dict[str, Any]:
    """The report as JSON. Amounts are strings of base units."""
    names = {read.chain_id: read.network for read in report.ranges}
    return {
        "balanced": report.balanced,
        "compared": report.compared,
        "ranges": [
            {
                "network": read.network,
                "chainId": read.chain_id,
                "firstBlock": read.edges[0].number if read.edges else None,
                "lastBlock": read.edges[1].number if read.edges else None,
                "from": tables.moment(read.edges[0].moment * 1000) if read.edges else None,
                "to": tables.moment(read.edges[1].moment * 1000) if read.edges else None,
                "currencies": list(read.currencies),
                "recipients": list(read.recipients),
            }
            for read in report.ranges
        ],
        "sums": [
            {
                "kind": kind.value,
                "network": names[chain_id],
                "currency": currency,
                "count": report.counts[kind, chain_id, currency],
                "amount": str(report.sums[kind, chain_id, currency]),
            }
            for kind, chain_id, currency in sorted(report.counts, key=_order)
        ],
        "proofs": report.proofs,
        "off": [_finding(one, names) for kind in balance.OFF for one in report.findings.get(kind, ())],
        "apart": [_finding(one, names) for kind in balance.APART for one in report.findings.get(kind, ())],
        "notes": report.notes,
    }


def _finding(finding: Finding, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "network": names[finding.chain_id],
        "reference": finding.reference,
        "payment": finding.row.id if finding.row is not None else None,
        "state": finding.row.state.value if finding.row is not None else None,
        "currency": finding.currency,
        "amount": str(finding.amount),
        "transfers": [
            {
                "block": transfer.block,
                "payer": transfer.payer,
                "recipient": transfer.recipient,
                "currency": transfer.currency,
                "amount": str(transfer.amount),
            }
            for transfer in finding.transfers
        ],
        "detail": finding.detail,
    }


def render(report: Report) -> str:
    """The report for a person: what is off, what stands apart, and a last line with counts and sums."""
    names = {read.chain_id: read.network for read in report.ranges}
    parts = []
    for title, kinds in (("Off:", balance.OFF), ("Apart, no error by itself:", balance.APART)):
        found = [finding for kind in kinds for finding in report.findings.get(kind, ())]
        if found:
            lines = [
                (
                    finding.kind.value,
                    names[finding.chain_id],
                    finding.reference,
                    f"{finding.amount} {finding.currency}",
                    finding.row.id if finding.row is not None else "-",
                    finding.detail or "-",
                )
                for finding in found
            ]
            table = tables.render(("WHAT", "NETWORK", "TRANSACTION", "AMOUNT", "PAYMENT", "WHY"), lines)
            cut = [kind for kind in kinds if report.count(kind) > len(report.findings.get(kind, ()))]
            more = f"\nOnly {report.limit} of each; --limit shows more." if cut else ""
            parts.append(f"{title}\n{table}{more}")
    reads = [_range(read) for read in report.ranges]
    if report.proofs:
        reads.append(f"{_plural(report.proofs, 'proof')} of an address, which move nothing.")
    parts.append(
        "\n".join([*reads, *report.notes]) or "No payment and no recipient is known: nothing was compared."
    )
    parts.append(_summary(report, names))
    return "\n\n".join(parts)


def _range(read: Range) -> str:
    blocks = "no final block in this time yet"
    if read.edges:
        first, last = read.edges
        blocks = (
            f"blocks {first.number} to {last.number}, "
            f"{tables.moment(first.moment * 1000)} to {tables.moment(last.moment * 1000)}"
        )
    watched = f"{_plural(len(read.recipients), 'recipient')}, {_plural(len(read.currencies), 'currency')}"
    return f"Read {read.network} (chain {read.chain_id}), {blocks}: {watched}."


def _summary(report: Report, names: Mapping[int, str]) -> str:
    off = sum(report.count(kind) for kind in balance.OFF)
    balanced = "Balanced: " if report.compared else "Nothing compared yet: "
    head = balanced if report.balanced else f"Not balanced, {off} off: "
    told = [
        f"{report.counts[key]} {key[0].value} ({report.sums[key]} base units of {key[2]} on {names[key[1]]})"
        for key in sorted(report.counts, key=_order)
    ]
    return head + ("; ".join(told) or "no payment, no transfer") + "."


def _order(key: tuple[Kind, int, str]) -> tuple[int, int, str]:
    return (list(Kind).index(key[0]), key[1], key[2])


def _plural(count: int, noun: str) -> str:
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"
