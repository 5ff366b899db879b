"""Payments as rows: the columns, every statement about them, and what taking an id or a reference twice gives."""

import dataclasses
import sqlite3
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

from mpp_authz.ledger import Binding, Payment, State

_BINDING: Final = tuple(field.name for field in dataclasses.fields(Binding))
_REST: Final = tuple(
    field.name for field in dataclasses.fields(Payment) if field.name not in ("id", "state", "binding")
)
#: The columns in the order in which rows are read and written.
COLUMNS: Final = ("id", "state", *_BINDING, *_REST)
_FLAGS: Final = tuple(COLUMNS.index(name) for name in ("check_ended", "streaming"))
binding_of: Final = attrgetter(*_BINDING)
_rest_of: Final = attrgetter(*_REST)

# Column and table names are ours, from the dataclasses above; every value is a parameter.
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM payments "  # noqa: S608
_INSERT: Final = f"INSERT INTO payments ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_UPDATE: Final = (
    f"UPDATE payments SET {', '.join(f'{name} = ?' for name in COLUMNS[1:])} WHERE id = ? AND version = ?"  # noqa: S608
)
#: What is asked of payments. A test holds each against its index.
QUERIES: Final = {
    "get": _SELECT + "WHERE id = ?",
    "by_reference": _SELECT + "WHERE reference = ? AND state <> 'FAILED'",
    "unfinished": _SELECT
    + "WHERE payer = ? AND route = ? AND http_method = ? AND query_hash = ? AND digest = ? AND currency = ? "
    "AND state IN ('SETTLING', 'UNKNOWN', 'DELIVERING', 'CREDIT') ORDER BY created_at, rowid",
    # One branch an index, each cut to the limit, so that a pile of waiting rows is never read through.
    "due": " UNION ALL ".join(  # noqa: S608
        f"SELECT * FROM ({_SELECT}{where} LIMIT :limit)"  # noqa: S608
        for where in (
            "WHERE state = 'SETTLING' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'DELIVERING' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'UNKNOWN' AND lease_until <= :now ORDER BY lease_until, id",
            "WHERE state = 'CREDIT' AND life_until <= :now ORDER BY lease_until, id",
        )
    )
    + " ORDER BY lease_until, id LIMIT :limit",
    "delivering_at": _SELECT + "WHERE state = 'DELIVERING' AND data_plane = ? ORDER BY created_at, rowid",
    "settled_since": _SELECT + "WHERE settled_at IS NOT NULL AND state <> 'SPENT' AND (settled_at, id) > (?, ?) "
    "ORDER BY settled_at, id LIMIT ?",
    "listing": _SELECT + "ORDER BY created_at DESC, rowid DESC LIMIT ?",
    "listing_of": _SELECT  # noqa: S608
    + "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY created_at DESC, rowid DESC LIMIT ?",
    "counts": "SELECT state, count(*) FROM payments GROUP BY state",
}


def row_of(payment: Payment) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (payment.id, payment.state.value, *binding_of(payment.binding), *_rest_of(payment))


def payment_of(row: Sequence[Any]) -> Payment:
    """What `row_of` made a row of."""
    values = list(row)
    for at in _FLAGS:
        values[at] = bool(values[at])
    return Payment(values[0], State(values[1]), Binding(*values[2:6]), *values[6:])


#: What an insert or an update says when an id or a reference is taken. Other constraints are our bugs.
_TAKEN: Final = frozenset({"SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"})


def insert(connection: sqlite3.Connection, row: tuple[Any, ...]) -> bool:
    """False where the id or the reference is taken."""
    return _changed(connection, _INSERT, row)


def update(connection: sqlite3.Connection, values: tuple[Any, ...]) -> bool:
    """False where the row is another version by now, or the reference is taken."""
    return _changed(connection, _UPDATE, values)


def update_with(connection: sqlite3.Connection, values: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Both or neither. The update goes first: the other row may take the reference that it lets go."""
    connection.execute("SAVEPOINT pair")
    done = False
    try:
        done = update(connection, values) and insert(connection, other)
    finally:
        if connection.in_transaction:  # else SQLite itself has rolled the whole group back
            if not done:
                connection.execute("ROLLBACK TO pair")
            connection.execute("RELEASE pair")
    return done


def _changed(connection: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> bool:
    try:
        return connection.execute(statement, values).rowcount == 1
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname not in _TAKEN:
            raise
        return False
