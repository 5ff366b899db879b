"""Read the ledger and the chains, and bring what names one transaction together. Judges nothing, prints nothing.

The ledger is read first, then the chain, then the ledger once more about what did not meet: a row is durable
before its money moves, so whatever settles meanwhile is found. What lies at the edges of the range is asked for
by its hash, so a row and its transfer meet although their clocks differ.
"""

import collections
import dataclasses
import functools
import importlib.metadata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mpp_authz import methods
from mpp_authz.ledger import Ledger, Payment, State, transitions
from mpp_authz.methods import Method
from mpp_authz.methods.history import Auditable, Block, History, HistoryUnavailable, Transfer
from mpp_operator import tables
from mpp_operator.console import WRONG_ENVIRONMENT, WRONG_INPUT, Failure
from mpp_operator.reconcile import balance
from mpp_operator.reconcile.balance import Group, Row
from mpp_operator.reconcile.declared import Target
from mpp_operator.reconcile.networks import Networks
from mpp_operator.reconcile.piles import Piles
from mpp_operator.reconcile.report import Range, Report

#: Rows asked for at once.
PAGE: Final = 1_000
#: Transfers kept in memory before they go to the disk.
_BATCH: Final = 1_000
#: FAILED and open rows, and refused transfers, that are looked at; the newest.
MOST: Final = 20_000

#: Where a range begins or ends: a block's number, or a moment with its zone.
Edge = int | datetime


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked for."""

    since: Edge | None  # None: since the ledger was made
    until: Edge | None  # None: all that is final
    confirmations: int | None  # None: what the chain calls final
    realms: tuple[str, ...]  # none: any memo of the protocol is one of this ledger's
    limit: int  # findings listed of each kind


class Audit:
    """One run. Memory: pages of rows and blocks, and one transaction at a time; the rest is on the disk."""

    def __init__(self, ledger: Ledger, networks: Networks, scope: Scope) -> None:
        self._ledger = ledger
        self._networks = networks
        self._scope = scope
        self._methods: dict[str, Method] = {}
        self._histories: dict[int, History] = {}
        self._currencies: dict[int, set[str]] = {}
        self._recipients: dict[int, set[str]] = {}
        self._read: dict[int, range] = {}
        self._finals: dict[int, Block] = {}

    async def run(self, targets: Iterable[Target]) -> Report:
        """Read, compare, count. `targets` are watched though no row of the ledger pays them."""
        report = Report(self._scope.limit)
        for target in targets:
            self._watch(target)
        windowed = self._scope.since is not None or self._scope.until is not None
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
        return balance.Rules(mark, frozenset(map(history.realm_mark, self._scope.realms)), now)

    async def aclose(self) -> None:
        for method in self._methods.values():
            await method.aclose()

    async def _window(self) -> tuple[int, int | None]:
        """The range in milliseconds; until None: all that is final."""
        given = (self._scope.since, self._scope.until)
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

    async def _moment(self, edge: Edge, chains: Sequence[int], last: bool = False) -> int:
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
        first = 0 if self._scope.since is None else since
        async for page in self._settled(first, until):
            report.proofs += sum(payment.mode == "proof" for payment in page)
            piles.add_rows(self._watched(page))
        for states in (frozenset({State.SETTLING, State.UNKNOWN}), frozenset({State.FAILED})):
            found = await self._ledger.listing(states, MOST)
            if len(found) == MOST:
                report.notes.append(
                    f"Only the newest {MOST} {' and '.join(sorted(states))} payments were looked at."
                )
            piles.add_rows(self._watched(found))
        refused = await self._ledger.refused(MOST)
        piles.add_refused(
            (chain_id, transfer.reference.lower())
            for transfer in refused
            for chain_id in self._networks
            if self._networks[chain_id].name == transfer.network
        )

    async def _settled(self, since: int, until: int | None) -> AsyncIterator[Sequence[Payment]]:
        moment, after = since, ""
        while True:
            page = await self._ledger.settled_since(moment, after, PAGE)
            wanted = [row for row in page if until is None or (row.settled_at or 0) <= until]
            yield wanted
            if len(page) < PAGE or len(wanted) < len(page):
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
                f"--until: expected a moment up to {tables.moment(last.moment * 1000)}, when the last block that "
                f"counts on {self._networks[chain_id].name} was made; wait, or leave it out",
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
            self._finals[chain_id] = await self._history(chain_id).final(self._scope.confirmations)
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


def _method(name: str) -> Method:
    for entry in importlib.metadata.entry_points(group=methods.ENTRY_POINTS, name=name):
        make: Callable[[Callable[[str], None]], Method] = entry.load()
        return make(lambda _: None)  # no sponsor's key: nothing is paid here
    raise Failure(WRONG_ENVIRONMENT, f"method {name!r}: expected it installed, found none of that name")
