"""Which store a ledger's address names. The one place that knows them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from mpp_authz.ledger import Ledger
from mpp_authz.ledger.postgres import PostgresLedger
from mpp_authz.ledger.sqlite import SQLiteLedger

#: What an address may look like, for messages.
KNOWN: Final = (
    "sqlite:/path/to/ledger.db",
    "postgresql://user:password@host:port/database",
    "file:/path/to/a/file/that/holds/the/address",
)


async def open_ledger(url: str, *, clock: Callable[[], int] | None = None, read_only: bool = False) -> Ledger:
    """Open the store that one of KNOWN names. What follows `sqlite:` and `file:` is a path as it is, nothing is
    unquoted; a file's content is an address, without the white space around it.

    `clock` gives Unix milliseconds in place of the store's own clock.

    Raises:
        ValueError: an address of no known kind, or a file that cannot be read. The message shows the scheme and
            the file's name only: the rest may hold a password.
        LedgerUnavailable: the store is not there, or is not ours.
    """
    scheme, colon, rest = url.partition(":")
    scheme = scheme if colon else ""
    if scheme == "file":
        return await _open(_content(_path(rest, KNOWN[2])), f"ledger: the file {rest}", clock, read_only)
    return await _open(url, "ledger", clock, read_only)


async def _open(url: str, where: str, clock: Callable[[], int] | None, read_only: bool) -> Ledger:
    scheme, colon, rest = url.partition(":")
    if colon and scheme in ("postgresql", "postgres"):
        try:
            return await PostgresLedger.open(url, clock=clock, read_only=read_only)
        except ValueError as error:
            raise ValueError(f"{where}{str(error).removeprefix('ledger')}") from None
    if not colon or scheme != "sqlite":
        # A file's content is shown not even by its beginning.
        found = f"got the scheme {scheme if colon else ''!r}" if where == "ledger" else "got something else"
        raise ValueError(f"{where}: expected {', '.join(KNOWN[:2])} or {KNOWN[2]}, {found}")
    return await SQLiteLedger.open(_path(rest, KNOWN[0]), clock=clock, read_only=read_only)


def _path(rest: str, expected: str) -> str:
    path = rest.removeprefix("//")  # sqlite:///path, as other tools write it
    if not path:
        raise ValueError(f"ledger: expected {expected}, got no path")
    return path


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"ledger: the file {path} cannot be read: {error.strerror}; correct the path") from None
    except UnicodeError:
        raise ValueError(f"ledger: the file {path}: expected an address as text, got other bytes") from None
