"""The folder in which one machine keeps its gateway: who may use it, what lies where, what a crash left.

config/     rds.json, cds.json, pricing.json …   swapped by `directory`
secrets/    SDS files and authz.json             swapped, ours alone
outcomes/   <instance>.log of a live Envoy, <instance>.ended of one that is gone, <instance>.part-<n>.* put aside
run/        unix sockets (elsewhere when the path would be too long for them)
ledger.db   signing.key   replica.id   lock
"""

import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpp_authz import challenge, wire
from mpp_operator import directory

#: `sun_path` holds 108 bytes on Linux and 104 on macOS; the longest socket name is well under 30.
MAX_SOCKET_FOLDER: Final = 70

#: Shorter signing keys are refused at start.
MIN_KEY_BYTES: Final = challenge.MIN_KEY_BYTES

#: A name, and the inode of the file it was written into.
_REPLICA: Final = re.compile(rb"([0-9a-f]{16}) ([0-9]+)\n")


class StateError(Exception):
    """The state folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class State:
    """A state folder that is ours until we and every child that inherited `lock` are gone."""

    root: Path
    sockets: Path
    lock: int

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def outcomes(self) -> Path:
        return self.root / "outcomes"

    def close(self) -> None:
        """Give it back, and drop the sockets."""
        for socket in self.sockets.glob("*"):
            socket.unlink(missing_ok=True)
        if not self.sockets.is_relative_to(self.root):
            self.sockets.rmdir()
        os.close(self.lock)


def default(environ: Mapping[str, str]) -> Path:
    """Where the state lives unless told: the XDG base directory for state."""
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME", "."), ".local", "state")
    return Path(base) / "mpp-gateway"


def take(root: Path, *, limit: float, say: Callable[[str], None]) -> State:
    """Make the folder if need be and lock it; wait up to `limit` seconds for a gateway that is just ending.

    The children inherit the lock, so a folder whose Envoy still runs (its parent was killed) is not free: only
    then may `end_leftovers` say that every old Envoy is gone.

    Raises:
        StateError: another gateway runs there, or it cannot be written.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(unusable(root, error)) from error
    deadline = time.monotonic() + limit
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                raise StateError(
                    f"state folder {root}: another gateway runs there; stop it, or choose another with --state-dir"
                ) from None
            if not told:
                say(f"waiting for the gateway that is ending in {root}")
                told = True
            time.sleep(0.1)
    try:
        root.chmod(0o700)
        state = State(root, _sockets(root), lock)
        for folder in (state.config, state.secrets, state.outcomes):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        os.close(lock)
        raise StateError(unusable(root, error)) from error
    except BaseException:
        os.close(lock)
        raise
    return state


def unusable(root: Path, error: OSError) -> str:
    """What the system says of a state folder, and what to do."""
    fix = _FIXES.get(error.errno or 0, "choose another with --state-dir")
    inside = Path(error.filename) if isinstance(error.filename, str) else root
    where = f" ({inside.relative_to(root)})" if inside != root and inside.is_relative_to(root) else ""
    return f"state folder {root}: expected a folder we can write, got: {error.strerror}{where}; {fix}"


_FIXES: Final = {
    errno.ENOSPC: "free some space, or choose another with --state-dir",
    errno.EDQUOT: "free some space, or choose another with --state-dir",
    errno.EACCES: "run as the user it belongs to, or choose another with --state-dir",
    errno.EPERM: "run as the user it belongs to, or choose another with --state-dir",
}


def end_leftovers(state: State) -> None:
    """Mark the outcome file of every Envoy as ended. Only while none of them runs (`take` saw to that)."""
    for log in state.outcomes.glob(f"*{wire.OUTCOME_LIVE_SUFFIX}"):
        end(log)


def end(log: Path) -> None:
    """The Envoy that wrote `log` is gone: authz may read it to its end. Harmless when it wrote none."""
    if log.exists():
        log.rename(log.with_suffix(wire.OUTCOME_ENDED_SUFFIX))


def put_aside(log: Path, reopen: Callable[[], None], longest: int) -> None:
    """Let a live Envoy's outcome file begin anew when it is longer than `longest` bytes. `reopen` makes Envoy open
    its logs again, which it does at its next line.

    Parts that were put aside before are called ended once the new file is there: Envoy has closed them, and authz
    reads them to their end and takes them away. Call it now and then.
    """
    if not log.exists():
        return
    for part in log.parent.glob(f"{glob.escape(log.stem)}{wire.OUTCOME_PART}*{wire.OUTCOME_LIVE_SUFFIX}"):
        end(part)
    if log.stat().st_size > longest:
        log.rename(log.with_name(f"{log.stem}{wire.OUTCOME_PART}{time.time_ns()}{wire.OUTCOME_LIVE_SUFFIX}"))
        reopen()


def signing_key(state: State, given: str | None) -> tuple[str, bool]:
    """The key that signs challenges, and whether it was made just now. `given` (MPP_SECRET_KEY) wins.

    Raises:
        StateError: it is too short, or the kept one cannot be read.
    """
    if given:
        given = given.removesuffix("\n").removesuffix("\r")
        if len(given.encode()) < MIN_KEY_BYTES:
            raise StateError(
                f"MPP_SECRET_KEY: expected at least {MIN_KEY_BYTES} bytes, got {len(given.encode())}; "
                "make one with: openssl rand -hex 32"
            )
        return given, False
    path = state.root / "signing.key"
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        key = secrets.token_hex(32)
        try:
            directory.write(path, key + "\n", mode=0o600, durable=True)
        except OSError as error:
            path.unlink(missing_ok=True)  # half a key would be another one
            raise StateError(unusable(state.root, error)) from error
        return key, True
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "other bytes than text"
        raise StateError(
            f"{path}: expected a key we can read, got: {reason}; "
            "restore it, or delete it: quotes and credits it signed are then void"
        ) from error
    if len(key.encode()) < MIN_KEY_BYTES:
        raise StateError(
            f"{path}: expected at least {MIN_KEY_BYTES} bytes, got {len(key.encode())}; "
            "restore it, or delete it: quotes and credits it signed are then void"
        )
    return key, False


def replica(state: State) -> str:
    """The name of this folder's gateway among those that share its store: the same at each start, but another in a
    copy of the folder. A file is told from its copy by the inode, which is kept beside the name.

    A name that is lost or damaged is replaced: what its processes had begun is then waited for, where else it
    would be known that they are gone.

    Raises:
        StateError: the file cannot be read or written.
    """
    path = state.root / "replica.id"
    try:
        with path.open("rb") as file:
            kept = _REPLICA.fullmatch(file.read(64))
            if kept and int(kept[2]) == os.fstat(file.fileno()).st_ino:
                return kept[1].decode("ascii")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateError(f"{path}: expected a file we can read, got: {error.strerror}; remove it") from error
    name = secrets.token_hex(8)
    fresh = path.with_name(".replica.id.new")
    try:
        fresh.unlink(missing_ok=True)
        directory.write(fresh, "", mode=0o600)
        with fresh.open("w", encoding="ascii") as file:
            file.write(f"{name} {os.fstat(file.fileno()).st_ino}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        directory.sync(state.root)
    except OSError as error:
        raise StateError(unusable(state.root, error)) from error
    return name


def _sockets(root: Path) -> Path:
    """`run/` in the state folder, or a private folder under the temporary one when that path is too long."""
    folder = root / "run"
    if len(os.fsencode(folder)) > MAX_SOCKET_FOLDER:
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
        folder = Path("/tmp") / f"mpp-gateway-{os.getuid()}-{name}"  # noqa: S108 - private, and checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StateError(f"{folder}: expected a folder of ours that nobody else can enter; remove it")
    return folder
