"""What went wrong with the server, and what to do about it, in words that hold no password and no row."""

import errno
import os
import socket
import ssl
from typing import Final

import asyncpg

#: How long a statement waits for a lock before the server gives it up.
LOCK_SECONDS: Final = 3.0
#: How long the server may take for a statement. Its commit, which waits for disks and standbys, is not counted.
STATEMENT_SECONDS: Final = 4.0

#: By SQLSTATE, or the class that it begins with: what is wrong, and what to do.
_FIXES: Final = {
    "53100": "the server's disk is full; free some space there",
    "53200": "the server is out of memory; give it more, or less to do",
    "53300": "the server has no connection left; raise its max_connections, or close what holds them",
    "53": "the server lacks a resource; look at its log",
    "25006": "the server is read-only, a standby perhaps; name the primary, or all hosts, in the address",
    "28": "the server refused user or password; correct them in the address",
    "3D000": "the database does not exist; create it, or name another in the address",
    "42P01": "a table is not there, or the user may not see it; name the gateway's database and user, "
    "or restore a copy",
    "42501": "the user may not do this; make it the owner of the database",
    "42704": "the address has an option that the server does not know; remove it",
    "42": "the database's schema is not what this program made, or a pooler between does not keep sessions; "
    "restore a copy, or set the pooler to session mode",
    "3F": "the database's schema is not what this program made; restore a copy",
    "55P03": f"another transaction has held a lock for more than {LOCK_SECONDS:g} s; end that one",
    "57014": f"the server took more than {STATEMENT_SECONDS:g} s, or somebody cancelled it; look at its load",
    "57P03": "the server is starting or stopping; wait until it serves",
    "57P": "the server was stopped; start it, or name a standby that takes over in the address",
    "40": "another transaction was in the way; ask again",
    "58": "the server failed to read or write its files; check its disk",
    "XX": "the server's files are damaged; restore a copy",
    "08": "the connection broke; check the server and the network",
    "22": "the row could not be read or written",
    "23": "the row could not be read or written",
}
#: What says nothing about the server or the connection: one job's values, or one lost race.
_HARMLESS: Final = ("22", "23", "40", "55P03")


def explain(error: BaseException) -> str:
    """The words after "ledger NAME: ". PostgreSQL's own are not used: its details quote rows."""
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "the server is read-only, a standby perhaps; name the primary, or all hosts, in the address"
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        fix = next((_FIXES[code[:length]] for length in (5, 3, 2) if code[:length] in _FIXES), None)
        return f"{fix or 'the server failed; look at its log'} ({code or type(error).__name__})"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time; check it and the network"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or type(error).__name__
        return f"TLS failed ({reason}); check certificates and sslmode"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known; correct the address, or check DNS"
    if isinstance(error, asyncpg.ClientConfigurationError):
        if "root certificate" in str(error):
            return "sslmode needs a file of the certificates to trust; add sslrootcert=FILE to the address"
        return "the address has an option whose value cannot be used; correct it"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return (
            f"a file is not there ({os.strerror(error.errno or errno.ENOENT)}); check sslrootcert, sslcert and "
            "sslkey in the address, or that the server runs, if it names a socket"
        )
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "the server has no TLS, and the address asks for it; switch it on there, or correct sslmode"
    if isinstance(error, OSError):
        words = os.strerror(error.errno) if error.errno else type(error).__name__
        return f"no connection ({words}); check that the server runs, the address, and its sslmode if it has one"
    return f"{type(error).__name__}; correct the address, or check what is between here and the server"


def is_harmless(error: BaseException) -> bool:
    """Whether the connection it happened on is as good as before."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_HARMLESS)
