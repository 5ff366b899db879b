"""Files that stand where a ledger belongs and are none, or none any more."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpp_authz.ledger.sqlite import schema

#: The numbers of schemas in a message, and what stands for them on a page.
SCHEMAS: Final = (
    r"expected schema [0-9]+ or older, got [0-9]+",
    "expected schema <n> or older, got <a newer one>",
)


def made(path: Path, *statements: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def ours(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(path, connection, lambda: 1)
    connection.close()


def random_bytes(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(256)) * 64)


def truncated(path: Path) -> None:
    ours(path)
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    """The header is right, and nothing else."""
    ours(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (size - 100))


def foreign(path: Path) -> None:
    made(path, "CREATE TABLE albums (title TEXT)", "INSERT INTO albums VALUES ('Blue Train')")


def namesake(path: Path) -> None:
    made(path, "CREATE TABLE migrations (name TEXT)", "INSERT INTO migrations VALUES ('0001_initial')")


def newer(path: Path) -> None:
    ours(path)
    made(path, f"INSERT INTO migrations VALUES ({len(schema.MIGRATIONS) + 7}, 1)")


def folder(path: Path) -> None:
    path.mkdir(parents=True)


LEDGERS: Final[dict[str, Callable[[Path], None]]] = {
    "a ledger of random bytes": random_bytes,
    "a ledger of which half is missing": truncated,
    "a ledger that was overwritten": overwritten,
    "a ledger of another program": foreign,
    "a ledger of another program, with migrations": namesake,
    "a ledger of a newer version": newer,
    "a folder where the ledger belongs": folder,
}
