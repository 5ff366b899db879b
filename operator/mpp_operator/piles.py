"""A place on the disk for more rows and transfers than memory should hold, given back by transaction.

SQLite's own temporary file: it is nameless, so nothing is left of it when the process ends, however it ends.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, Self

from mpp_authz.ledger import State
from mpp_authz.methods import Transfer
from mpp_operator.balance import Group, Row

_ROW: Final = 0
_TRANSFER: Final = 1
_REFUSED: Final = 2


class Piles:
    """What was read, until it is compared. A few hundred bytes of disk an entry; in memory one transaction's."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA temp_store = FILE")
        # WITHOUT ROWID: kept in the order in which it is read again
        self._file.execute(
            "CREATE TABLE entries (chain INTEGER, reference TEXT, kind INTEGER, id TEXT, document TEXT, "
            "PRIMARY KEY (chain, reference, kind, id)) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Later news of a row replaces what was known of it."""
        self._add((row.chain_id, row.reference, _ROW, row.id, json.dumps(astuple(row))) for row in rows)

    def add_transfers(self, transfers: Iterable[Transfer]) -> None:
        self._add((t.chain_id, t.reference, _TRANSFER, str(t.index), json.dumps(astuple(t))) for t in transfers)

    def add_refused(self, references: Iterable[tuple[int, str]]) -> None:
        self._add((chain_id, reference, _REFUSED, "", "") for chain_id, reference in references)

    def _add(self, entries: Iterable[tuple[Any, ...]]) -> None:
        self._file.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", entries)

    def groups(self) -> Iterator[Group]:
        """Each transaction that a row names or that holds a transfer, by chain and hash."""
        entries = self._file.execute("SELECT * FROM entries ORDER BY chain, reference, kind, id")
        for (chain_id, reference), group in groupby(entries, key=itemgetter(0, 1)):
            rows, transfers, refused = [], [], False
            for _, _, kind, _, document in group:
                if kind == _ROW:
                    rows.append(_row(json.loads(document)))
                elif kind == _TRANSFER:
                    transfers.append(Transfer(*json.loads(document)))
                else:
                    refused = True
            if rows or transfers:
                yield Group(chain_id, reference, tuple(rows), tuple(transfers), refused)


def _row(values: list[Any]) -> Row:
    payment_id, state, *rest = values
    return Row(payment_id, State(state), *rest)
