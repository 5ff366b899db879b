"""Payments as rows of the file: its questions, and what taking an id or a reference twice gives."""

import sqlite3
from typing import Any, Final

from mpp_authz.ledger import table

#: What is asked of payments. A test holds each against its index.
QUERIES: Final = table.queries("rowid", "IN (SELECT value FROM json_each(?1))")
REFUSED: Final = table.refused("rowid")

#: What an insert or an update says when an id or a reference is taken. Other constraints are our bugs.
_TAKEN: Final = frozenset({"SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE"})


def insert(connection: sqlite3.Connection, row: tuple[Any, ...]) -> bool:
    """False where the id or the reference is taken."""
    return _changed(connection, table.INSERT, row)


def update(connection: sqlite3.Connection, values: tuple[Any, ...]) -> bool:
    """False where the row is another version by now, or the reference is taken."""
    return _changed(connection, table.UPDATE, values)


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
