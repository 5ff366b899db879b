"""A place on the disk for more rows and transfers than memory should hold, given back by transaction.

SQLite's own temporary file: it is nameless, so nothing is left of it when the process ends, however it ends.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import groupby
from operator import attrgetter, itemgetter
from types import TracebackType
from typing import Any, Final, Self

from mpp_authz.ledger import State
from mpp_authz.methods.history import Transfer
from mpp_operator.reconcile.balance import Group, Row

_values_of_row: Final = attrgetter(*(field.name for field in fields(Row)))
_values_of_transfer: Final = attrgetter(*(field.name for field in fields(Transfer)))
_ROW: Final = 0
_TRANSFER: Final = 1
_REFUSED: Final = 2


class Piles:
    """What was read, until it is compared. About 400 bytes of disk an entry, twice while they are sorted; in
    memory one transaction's."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA temp_store = FILE")
        # Appended as it comes and sorted once: hashes come in no order, and a tree would be torn on the disk.
        self._file.execute("CREATE TABLE entries (chain INTEGER, reference TEXT, kind INTEGER, document TEXT)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_rows(self, rows: Iterable[Row]) -> None:
        """What is said of a row last counts."""
        self._add((row.chain_id, row.reference, _ROW, json.dumps(_values_of_row(row))) for row in rows)

    def add_transfers(self, transfers: Iterable[Transfer]) -> None:
        self._add((t.chain_id, t.reference, _TRANSFER, json.dumps(_values_of_transfer(t))) for t in transfers)

    def add_refused(self, references: Iterable[tuple[int, str]]) -> None:
        self._add((chain_id, reference, _REFUSED, "") for chain_id, reference in references)

    def _add(self, entries: Iterable[tuple[Any, ...]]) -> None:
        self._file.execute("BEGIN")
        self._file.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", entries)
        self._file.execute("COMMIT")

    def groups(self) -> Iterator[Group]:
        """Each transaction that a row names or that holds a transfer, by chain and hash."""
        entries = self._file.execute("SELECT * FROM entries ORDER BY chain, reference, rowid")
        for (chain_id, reference), group in groupby(entries, key=itemgetter(0, 1)):
            rows: dict[str, Row] = {}
            transfers: list[Transfer] = []
            refused = False
            for _, _, kind, document in group:
                if kind == _ROW:
                    row = _row(json.loads(document))
                    rows[row.id] = row
                elif kind == _TRANSFER:
                    transfers.append(Transfer(*json.loads(document)))
                else:
                    refused = True
            if rows or transfers:
                yield Group(chain_id, reference, tuple(rows.values()), tuple(transfers), refused)


def _row(values: list[Any]) -> Row:
    payment_id, state, *rest = values
    return Row(payment_id, State(state), *rest)
