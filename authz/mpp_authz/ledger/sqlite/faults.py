"""What went wrong with the file, and what to do about it, in words that hold no row."""

from pathlib import Path
from typing import Final

#: How long a write waits for another process's write before it is given up.
BUSY_SECONDS: Final = 5.0

#: By SQLite's primary error name: what is wrong, and what to do.
_FIXES: Final = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_READONLY": "it is read-only; make the file and its folder writable for this user",
    "SQLITE_BUSY": f"another process has held it for more than {BUSY_SECONDS:g} s; end that one",
    "SQLITE_LOCKED": f"another process has held it for more than {BUSY_SECONDS:g} s; end that one",
    "SQLITE_CANTOPEN": "it cannot be opened; to read it, it must be there, and its folder writable for this user",
    "SQLITE_NOTADB": "it is not a SQLite file; name another path, or restore a copy",
    "SQLITE_CORRUPT": "it is damaged; restore a copy",
    "SQLITE_IOERR": "the disk failed to read or write; check its health and its free space",
}


class Replaced(Exception):
    """The path names another file by now, or none."""


def explain(path: Path, error: Exception) -> str:
    if isinstance(error, Replaced):
        return (
            f"ledger {path}: the file was removed or replaced while it was in use; "
            "put it and its companions (-wal, -shm) back, or start the gateway again to go on with what is there"
        )
    if path.is_dir():
        return f"ledger {path}: expected a file, got a folder; name another path"
    if isinstance(error, OSError):
        return f"ledger {path}: {error.strerror or error}; its folder must exist and be writable for this user"
    name = getattr(error, "sqlite_errorname", None) or ""
    if name == "SQLITE_ERROR":  # about our SQL or the schema; values are parameters and not part of it
        return f"ledger {path}: {error}; the file's schema is not what this program made: restore a copy"
    fix = next((fix for code, fix in _FIXES.items() if name.startswith(code)), None)
    if fix is None:
        # The words of a value that could not be stored may be the value: only the kind of error is told.
        return f"ledger {path}: {name or type(error).__name__}; the row could not be read or written"
    return f"ledger {path}: {fix} ({name})"
