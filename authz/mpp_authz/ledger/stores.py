"""Which store a ledger's address names. The one place that knows them all."""

from collections.abc import Callable
from typing import Final

from mpp_authz.ledger import Ledger
from mpp_authz.ledger import sqlite as sqlite_store

#: What an address may look like, for messages.
KNOWN: Final = ("sqlite:/path/to/ledger.db",)


async def open_ledger(
    url: str, *, clock: Callable[[], int] = sqlite_store.wall_clock, read_only: bool = False
) -> Ledger:
    """Open the store at `sqlite:/path`; what follows the scheme is a path as it is, nothing is unquoted.

    `clock` gives Unix milliseconds to stores that have no clock of their own.

    Raises:
        ValueError: an address of no known kind; the message shows its scheme only, the rest may hold a password.
        LedgerUnavailable: the store is not there, or is not ours.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme != "sqlite":
        raise ValueError(f"ledger: expected {' or '.join(KNOWN)}, got the scheme {scheme if colon else ''!r}")
    path = rest.removeprefix("//")  # sqlite:///path, as other tools write it
    if not path:
        raise ValueError(f"ledger: expected {KNOWN[0]}, got no path")
    return await sqlite_store.SQLiteLedger.open(path, clock=clock, read_only=read_only)
