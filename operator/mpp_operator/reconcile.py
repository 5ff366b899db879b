"""`mpp-gateway payments reconcile`: every transfer to us has a row, and every row its transfer. Reads only.

The ledger is read first, then the chain, then the ledger once more about what did not meet: a row is durable
before its money moves, so whatever settles meanwhile is found. What lies at the edges of the range is asked for
by its hash, so a row and its transfer meet although their clocks differ. `balance` judges; this file reads and
prints.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import yaml

from mpp_authz import pricing
from mpp_authz.ledger import Ledger, Payment, State, transitions
from mpp_authz.methods import Auditable, Block, History, HistoryUnavailable, Transfer
from mpp_operator import balance, compiler, gateway, ir, local_secrets, paidservice, sources
from mpp_operator.balance import Finding, Group, Kind, Row
from mpp_operator.compiler import offers as lowering
from mpp_operator.console import DONE, WRONG_ENVIRONMENT, WRONG_INPUT, Failure
from mpp_operator.piles import Piles

#: Exit code: something is off.
OFF_BALANCE: Final = 1

#: Rows asked for at once.
_PAGE: Final = 1_000
#: Transfers kept in memory before they go to the disk.
_BATCH: Final = 1_000
#: FAILED and open rows, and refused transfers, that are looked at; the newest.
_MOST: Final = 20_000

_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

_Edge = int | datetime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only `reconcile` takes."""
    group = parser.add_argument_group("reconcile")
    group.add_argument(
        "--since",
        metavar="WHEN",
        type=_edge,
        help="from then on: a time, 24h, or a block (default: the beginning)",
    )
    group.add_argument("--until", metavar="WHEN", type=_edge, help="until then (default: all that is final)")
    group.add_argument(
        "--confirmations",
        metavar="N",
        type=_whole,
        help="blocks that must follow (default: what the chain calls final)",
    )
    group.add_argument(
        "--realm", metavar="REALM", action="append", default=[],
        help="a realm of this ledger, where recipients are shared with others; may be given more than once",
    )  # fmt: skip
    group.add_argument("--config", metavar="FILE", type=Path, help="gateway.yaml: networks, recipients never paid")
    group.add_argument(
        "-f", "--file", dest="files", metavar="FILE", type=Path, nargs="+", action="extend", default=[],
        help="PaidServices, for the same",
    )  # fmt: skip
    group.add_argument(
        "--secrets-dir", metavar="DIR", type=Path, help="where their recipients are written, if secret"
    )


async def run(ledger: Ledger, args: argparse.Namespace, folder: Path | None) -> int:
    """Compare, print, and give the exit code: 0 balanced, 1 something is off. `folder` is the state folder whose
    pricing tells of networks and recipients, None where there is none.

    Raises:
        Failure: something that was asked for cannot be, or a chain cannot be read to its end.
        LedgerUnavailable: the store did not answer.
    """
    declared = _declared(args, folder)
    async with contextlib.AsyncExitStack() as stack:
        audit = Audit(ledger, await _known(ledger, declared), args)
        stack.push_async_callback(audit.aclose)
        try:
            report = await audit.run(declared)
        except HistoryUnavailable as error:
            raise Failure(
                WRONG_ENVIRONMENT,
                f"{error}",
                "Nothing was concluded: try again, or name other nodes with --config.",
            ) from error
        except sqlite3.Error as error:  # of the temporary file; the ledger's own are LedgerUnavailable
            raise Failure(
                WRONG_ENVIRONMENT,
                f"temporary folder: expected about two kilobytes for each payment, got: {error}",
                "Name a folder with more space in TMPDIR.",
            ) from error
    text = json.dumps(document(report), indent=2) if args.json else render(report, args.limit)
    sys.stdout.write(text + "\n")
    return DONE if report.balanced else OFF_BALANCE


# --- what is known beforehand ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody who may be paid: where and in what. Lower case."""

    chain_id: int
    currency: str
    recipient: str


@dataclass(frozen=True, slots=True)
class Declared:
    """What gateway.yaml, PaidServices or the state folder say of networks and recipients."""

    networks: tuple[pricing.Network, ...] = ()
    targets: frozenset[Target] = frozenset()


def _declared(args: argparse.Namespace, folder: Path | None) -> Declared:
    """
    Raises:
        Failure: a file that was named cannot be used.
    """
    if args.files:
        found = sources.load(sources.expand(args.files), args.config)
        secrets = local_secrets.Folder(args.secrets_dir, os.environ)
        compiled = sources.build(found, sources.recipients_only(found, secrets))
        return _of_pricing(compiled.compilation.artifacts[pricing.FILE_NAME])
    if args.config is not None:
        return _of_config(args.config, args.secrets_dir)
    file = folder / "config" / pricing.FILE_NAME if folder is not None else None
    if file is None or not file.exists():
        return Declared()
    try:
        return _of_pricing(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pricing.PricingError) as error:
        raise Failure(WRONG_ENVIRONMENT, f"{file}: expected the gateway's pricing, got: {error}") from error


def _of_pricing(text: str) -> Declared:
    known = pricing.load(text)
    offers = [offer for route in known.routes.values() for offer in route.offers]
    return Declared(
        tuple(known.networks.values()),
        frozenset(
            Target(known.networks[offer.network].chain_id, offer.currency.lower(), offer.recipient.lower())
            for offer in offers
            if offer.amount != "0"
        ),
    )


def _of_config(file: Path, secrets_dir: Path | None) -> Declared:
    """Of gateway.yaml alone: its networks, and its default offers."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        config = gateway.parse(content if isinstance(content, Mapping) else {"": content})
    except OSError as error:
        raise Failure(WRONG_INPUT, f"{file}: expected a file we can read, got: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise Failure(WRONG_INPUT, f"{file}: expected YAML, got: {type(error).__name__}") from error
    except paidservice.SpecError as error:
        raise Failure(WRONG_INPUT, *(f"{file}: {problem}" for problem in error.problems)) from error
    found = sources.Sources((), config, False, {}, file)
    values = sources.recipients_only(found, local_secrets.Folder(secrets_dir, os.environ))
    recipients = {
        source: values[key]
        for source in compiler.gateway_recipient_sources(config)
        if (key := ir.SecretSource(source.namespace, source.name, source.key)) in values
    }
    targets = set()
    for position, offer in enumerate(config.offers):
        try:
            way = lowering.resolve(offer, f"defaults.offers[{position}]", config.namespace, config, recipients)
        except lowering.Unusable as error:
            raise Failure(WRONG_INPUT, f"{file}: {error}") from error
        targets.add(Target(way.network.chain_id, way.currency, way.recipient))
    networks = tuple(
        pricing.Network(network.name, network.method, network.chain_id, tuple(network.rpc_urls))
        for network in config.networks
    )
    return Declared(networks, frozenset(targets))


class Networks:
    """Which chain a row's network was, and how it is asked. What was declared comes before what was remembered."""

    def __init__(self, declared: Sequence[pricing.Network], remembered: Mapping[str, str]) -> None:
        self._declared = declared
        self._chains: dict[int, pricing.Network] = {}
        self._names: dict[str, set[int]] = {}
        old = {name: _network(name, text) for name, text in remembered.items()}
        for network in (*old.values(), *reversed(declared)):
            self._chains[network.chain_id] = network
            self._names.setdefault(network.name, set()).add(network.chain_id)
        self._older = {name: network.chain_id for name, network in old.items() if "/" not in name}

    def chain_id(self, name: str, chain_id: int) -> int:
        """Of a row. Rows from before the ledger wrote it down say 0: then there must be one such network.

        Raises:
            Failure: none, or several.
        """
        if chain_id == 0:
            known = {self._older[name]} if name in self._older else self._names.get(name, set())
            if len(known) > 1:
                raise Failure(
                    WRONG_ENVIRONMENT,
                    f"network {name!r}: expected one chain for payments older than chain ids in the ledger, "
                    f"got {', '.join(map(str, sorted(known)))}",
                )
            chain_id = next(iter(known), 0)
        if chain_id not in self._chains:
            raise Failure(
                WRONG_ENVIRONMENT,
                f"network {name!r} (chain {chain_id or 'unknown'}): payments were made on it, and nothing says "
                "where its nodes are; name a gateway.yaml that has it with --config",
            )
        return chain_id

    def __getitem__(self, chain_id: int) -> pricing.Network:
        return self._chains[chain_id]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._chains))


async def _known(ledger: Ledger, declared: Declared) -> Networks:
    return Networks(declared.networks, await ledger.networks())


def _network(name: str, text: str) -> pricing.Network:
    try:
        fields = json.loads(text)
        return pricing.Network(**fields | {"rpc_urls": tuple(fields["rpc_urls"])})
    except (ValueError, TypeError, KeyError) as error:
        raise Failure(
            WRONG_ENVIRONMENT, f"ledger: network {name!r}: expected what a network was, got other JSON"
        ) from error


# --- the report --------------------------------------------------------------------------------------------


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


# --- reading -----------------------------------------------------------------------------------------------


class Audit:
    """One run. Memory: pages of rows and blocks, and one transaction at a time; the rest is on the disk."""

    def __init__(self, ledger: Ledger, networks: Networks, args: argparse.Namespace) -> None:
        self._ledger = ledger
        self._networks = networks
        self._args = args
        self._methods: dict[str, Any] = {}
        self._histories: dict[int, History] = {}
        self._currencies: dict[int, set[str]] = {}
        self._recipients: dict[int, set[str]] = {}
        self._read: dict[int, range] = {}
        self._finals: dict[int, Block] = {}

    async def run(self, declared: Declared) -> Report:
        """Read, compare, count."""
        report = Report(self._args.limit)
        for target in declared.targets:
            self._watch(target)
        windowed = self._args.since is not None or self._args.until is not None
        if windowed:  # whoever was paid before may be paid again, and by nobody's row
            async for page in self._settled(0, None):
                collections.deque(self._watched(page), maxlen=0)
        since, until = await self._window()
        with Piles() as piles:
            await self._rows(piles, report, since, until)
            for chain_id in sorted(self._recipients):
                await self._chain(piles, report, chain_id, since, until)
            now = await self._ledger.now()
            rules = {chain_id: self._rules(chain_id, now) for chain_id in self._read}
            for group in piles.groups():
                for finding in balance.compare(await self._complete(group), rules[group.chain_id]):
                    report.add(finding)
        return report

    def _rules(self, chain_id: int, now: int) -> balance.Rules:
        history = self._histories[chain_id]
        mark = functools.lru_cache(maxsize=1_000)(history.challenge_mark)
        return balance.Rules(mark, frozenset(map(history.realm_mark, self._args.realm)), now)

    async def aclose(self) -> None:
        for method in self._methods.values():
            await method.aclose()

    async def _window(self) -> tuple[int, int | None]:
        """The range in milliseconds; until None: all that is final."""
        given = (self._args.since, self._args.until)
        chains = sorted(self._recipients)
        if any(isinstance(edge, int) for edge in given) and len(chains) != 1:
            raise Failure(
                WRONG_INPUT,
                f"--since, --until: expected a time, got a block: payments are known on {len(chains)} chains, "
                "and each counts its own",
            )
        since = await self._moment(given[0], chains) if given[0] is not None else await self._ledger.born_at()
        until = await self._moment(given[1], chains, last=True) if given[1] is not None else None
        if until is not None and until < since:
            raise Failure(WRONG_INPUT, "--until: expected a moment after --since, got an earlier one")
        return since, until

    async def _moment(self, edge: _Edge, chains: Sequence[int], last: bool = False) -> int:
        """In milliseconds; of a block its own second, from beginning to end."""
        if isinstance(edge, datetime):
            return round(edge.timestamp() * 1000)
        final = await self._final(chains[0])
        if edge > final.number:
            raise Failure(
                WRONG_INPUT,
                f"--since, --until: expected a block up to {final.number}, the last that counts, got {edge}",
            )
        block = await self._history(chains[0]).block(edge)
        return block.moment * 1000 + (999 if last else 0)

    # --- the ledger ------------------------------------------------------------------------------------

    async def _rows(self, piles: Piles, report: Report, since: int, until: int | None) -> None:
        """What the ledger says: all that settled in the window, and what is FAILED or open now."""
        first = 0 if self._args.since is None else since
        async for page in self._settled(first, until):
            report.proofs += sum(payment.mode == "proof" for payment in page)
            piles.add_rows(self._watched(page))
        for states in (frozenset({State.SETTLING, State.UNKNOWN}), frozenset({State.FAILED})):
            found = await self._ledger.listing(states, _MOST)
            if len(found) == _MOST:
                report.notes.append(
                    f"Only the newest {_MOST} {' and '.join(sorted(states))} payments were looked at."
                )
            piles.add_rows(self._watched(found))
        refused = await self._ledger.refused(_MOST)
        piles.add_refused(
            (chain_id, transfer.reference.lower())
            for transfer in refused
            for chain_id in self._networks
            if self._networks[chain_id].name == transfer.network
        )

    async def _settled(self, since: int, until: int | None) -> AsyncIterator[Sequence[Payment]]:
        moment, after = since, ""
        while True:
            page = await self._ledger.settled_since(moment, after, _PAGE)
            wanted = [row for row in page if until is None or (row.settled_at or 0) <= until]
            yield wanted
            if len(page) < _PAGE or len(wanted) < len(page):
                return
            moment, after = page[-1].settled_at or 0, page[-1].id

    def _watched(self, payments: Iterable[Payment]) -> Iterator[Row]:
        """The rows that name a transaction; whom they pay is watched from now on."""
        for payment in payments:
            row = self._row(payment)
            if row is not None:
                self._watch(Target(row.chain_id, row.currency, row.recipient))
                yield row

    def _row(self, payment: Payment) -> Row | None:
        if balance.row_of(payment, 0) is None:
            return None
        return balance.row_of(payment, self._networks.chain_id(payment.network, payment.chain_id))

    def _watch(self, target: Target) -> None:
        self._currencies.setdefault(target.chain_id, set()).add(target.currency)
        self._recipients.setdefault(target.chain_id, set()).add(target.recipient)

    # --- the chain -------------------------------------------------------------------------------------

    async def _chain(self, piles: Piles, report: Report, chain_id: int, since: int, until: int | None) -> None:
        """Every transfer to those we watch, in the blocks of the window."""
        history, last = self._history(chain_id), await self._final(chain_id)
        if until is not None and until // 1000 > last.moment:
            raise Failure(
                WRONG_ENVIRONMENT,
                f"--until: expected a moment up to {_moment(last.moment * 1000)}, when the last block that counts "
                f"on {self._networks[chain_id].name} was made; wait, or leave it out",
            )
        # Block time is in whole seconds: what settled within one may be in a block of its beginning.
        first = await history.first_from(since // 1000, last)
        beyond = await history.first_from(until // 1000 + 1, last) if until is not None else None
        blocks = range(
            first.number if first is not None else last.number + 1,
            beyond.number if beyond is not None else last.number + 1,
        )
        self._read[chain_id] = blocks
        currencies, recipients = sorted(self._currencies[chain_id]), sorted(self._recipients[chain_id])
        if blocks:
            batch: list[Transfer] = []
            async for transfer in history.transfers(currencies, recipients, blocks[0], blocks[-1]):
                batch.append(transfer)
                if len(batch) >= _BATCH:
                    piles.add_transfers(batch)
                    batch = []
            piles.add_transfers(batch)
        network = self._networks[chain_id].name
        edges = (await history.block(blocks[0]), await history.block(blocks[-1])) if blocks else None
        report.ranges.append(Range(network, chain_id, edges, tuple(currencies), tuple(recipients)))

    async def _complete(self, group: Group) -> Group:
        """Ask once more about what has not met: rows as they are by now, and what lies beyond the range."""
        rows = {row.id: row for row in group.rows}
        for row in group.rows:
            if row.state in (State.SETTLING, State.UNKNOWN):
                payment = await self._ledger.get(row.id)
                again = self._row(payment) if payment is not None else None
                if again is not None and again.reference == group.reference:
                    rows[row.id] = again
        if group.transfers and not any(row.state in transitions.PAID for row in rows.values()):
            payment = await self._ledger.by_reference(group.reference)
            found = self._row(payment) if payment is not None else None
            if found is not None and found.chain_id == group.chain_id:
                rows[found.id] = found
        group = dataclasses.replace(group, rows=tuple(rows.values()))
        return group if group.transfers else await self._asked(group)

    async def _asked(self, group: Group) -> Group:
        """The same with what the chain says of its transaction by hash."""
        history, name = self._histories[group.chain_id], self._networks[group.chain_id].name
        found = await history.transaction(group.reference, self._currencies[group.chain_id])
        if found is None:
            return group
        block, transfers = found
        ours = tuple(t for t in transfers if t.recipient in self._recipients[group.chain_id])
        if block.number > self._finals[group.chain_id].number:
            return dataclasses.replace(group, later=True)
        if ours and block.number in self._read[group.chain_id]:
            raise HistoryUnavailable(
                f"network {name}: a node left the transfer {group.reference} out of the logs of block "
                f"{block.number}"
            )
        said = f"the transaction is in block {block.number} and moved nothing to a recipient of ours"
        return dataclasses.replace(group, transfers=ours, elsewhere="" if ours else said)

    async def _final(self, chain_id: int) -> Block:
        if chain_id not in self._finals:
            self._finals[chain_id] = await self._history(chain_id).final(self._args.confirmations)
        return self._finals[chain_id]

    def _history(self, chain_id: int) -> History:
        """
        Raises:
            Failure: the network's method cannot be audited.
        """
        if chain_id not in self._histories:
            network = self._networks[chain_id]
            if network.method not in self._methods:
                self._methods[network.method] = _method(network.method)
            method = self._methods[network.method]
            if not isinstance(method, Auditable):
                raise Failure(
                    WRONG_ENVIRONMENT,
                    f"network {network.name}: payments by {network.method!r} cannot be read again from where the "
                    "money moved",
                )
            self._histories[chain_id] = method.history(network)
        return self._histories[chain_id]


def _method(name: str) -> Any:
    for entry in importlib.metadata.entry_points(group="mpp_gateway.methods", name=name):
        make: Callable[[Callable[[str], None]], Any] = entry.load()
        return make(lambda _: None)  # no sponsor's key: nothing is paid here
    raise Failure(WRONG_ENVIRONMENT, f"method {name!r}: expected it installed, found none of that name")


# --- printing ----------------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    """The report as JSON. Amounts are strings of base units."""
    names = {read.chain_id: read.network for read in report.ranges}
    return {
        "balanced": report.balanced,
        "ranges": [
            {
                "network": read.network,
                "chainId": read.chain_id,
                "firstBlock": read.edges[0].number if read.edges else None,
                "lastBlock": read.edges[1].number if read.edges else None,
                "from": _moment(read.edges[0].moment * 1000) if read.edges else None,
                "to": _moment(read.edges[1].moment * 1000) if read.edges else None,
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


def render(report: Report, limit: int) -> str:
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
            table = _table(("WHAT", "NETWORK", "TRANSACTION", "AMOUNT", "PAYMENT", "WHY"), lines)
            cut = [kind for kind in kinds if report.count(kind) > len(report.findings.get(kind, ()))]
            more = f"\nOnly {limit} of each; --limit shows more." if cut else ""
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
            f"{_moment(first.moment * 1000)} to {_moment(last.moment * 1000)}"
        )
    watched = f"{_plural(len(read.recipients), 'recipient')}, {_plural(len(read.currencies), 'currency')}"
    return f"Read {read.network} (chain {read.chain_id}), {blocks}: {watched}."


def _summary(report: Report, names: Mapping[int, str]) -> str:
    off = sum(report.count(kind) for kind in balance.OFF)
    head = "Balanced: " if report.balanced else f"Not balanced, {off} off: "
    told = [
        f"{report.counts[key]} {key[0].value} ({report.sums[key]} base units of {key[2]} on {names[key[1]]})"
        for key in sorted(report.counts, key=_order)
    ]
    return head + ("; ".join(told) or "no payment, no transfer") + "."


def _order(key: tuple[Kind, int, str]) -> tuple[int, int, str]:
    return (list(Kind).index(key[0]), key[1], key[2])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [tuple(head), *(tuple(map(_printable, row)) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _printable(text: str) -> str:
    """A cell must not move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _plural(count: int, noun: str) -> str:
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# --- arguments ---------------------------------------------------------------------------------------------


def _edge(text: str) -> _Edge:
    """A block's number, or a moment: RFC 3339, a date, or so long ago."""
    if text.isdecimal():
        return int(text)
    ago = _AGO.fullmatch(text)
    if ago:
        seconds = int(ago[1]) * _UNITS[ago[2]]
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC)
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 2030-01-31T12:00:00Z, so long ago such as 24h, or a block, got {text!r}"
        ) from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)
