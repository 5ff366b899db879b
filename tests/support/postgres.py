"""PostgreSQL servers for tests: real ones, on loopback, with a password, in folders of their own.

Works from synchronous and asynchronous code, inside and outside of pytest: `with postgres.running() as server:
url = server.database()`. Everything ends with the block, by process id.
"""

import asyncio
import atexit
import contextlib
import functools
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

#: How long anything here may take.
LIMIT: Final = 60.0
ADMIN: Final = "postgres"
#: Not a superuser: what the gateway's user may do is what databases' owners may do.
USER: Final = "gateway"
#: With a character that must be encoded in an address.
PASSWORD: Final = "pg-s3cret/" + secrets.token_hex(8)

T = TypeVar("T")


class MissingPostgres(RuntimeError):
    """There is no initdb; the message says how to get it."""


def find(name: str) -> Path:
    """A program of the server's: on PATH, or where Debian keeps it.

    Raises:
        MissingPostgres: it is nowhere.
    """
    found = shutil.which(name)
    candidates = [Path(found).resolve()] if found else []
    # The links' folder may hold a few of the programs only; the real one holds all of them.
    candidates += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    for candidate in candidates:
        if (candidate.parent / "postgres").exists() or name == "postgres":
            return candidate
    raise MissingPostgres(f"these tests need PostgreSQL's {name}: install the package postgresql (Debian: apt)")


@dataclass(slots=True)
class Server:
    """One server process and its data folder. `port` stays the same over its stops and starts."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.folder / "log"

    def url(self, database: str, *, user: str = USER, port: int | None = None) -> str:
        password = PASSWORD.replace("/", "%2F")
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def database(self) -> str:
        """The address of a fresh, empty database."""
        name = f"ledger{next(self._numbers)}"
        self.admin(f'CREATE DATABASE "{name}" OWNER {USER}')
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.admin(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def admin(self, *statements: str, database: str = ADMIN) -> list[Any]:
        """Run statements as the superuser; the last one's rows."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.url(database, user=ADMIN), timeout=10)
            try:
                rows: list[Any] = []
                for statement in statements:
                    rows = await connection.fetch(statement)
                return rows
            finally:
                await connection.close(timeout=10)

        return _apart(run)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(find("postgres")),
                    *("-D", str(self.folder / "data"), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    *itertools.chain.from_iterable(("-c", option) for option in self.options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
                **_owner(),
            )
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + LIMIT
        while True:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"PostgreSQL ended ({self._process.returncode}):\n{self.log.read_text()[-2000:]}"
                )
            try:
                self.admin("SELECT 1")
                return
            except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}") from None
            time.sleep(0.02)

    def stop(self) -> None:
        """As an administrator does it: connections are closed, what was committed is on the disk."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(LIMIT / 2)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill -9, all its processes at once, as when the machine goes down."""
        if self._process is None:
            return
        processes = self._processes()
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(LIMIT)
        deadline = time.monotonic() + LIMIT
        while any(map(_lives, processes)) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._process = None

    def restart(self) -> None:
        """Stop it where it runs, and start it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It hangs: connections stay, nobody answers."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._processes(stop=False):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def terminate_connections(self, url: str) -> int:
        """Have the server end every connection to one database; how many there were."""
        rows = self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{url.rpartition('/')[2]}' AND backend_type = 'client backend'"
        )
        return len(rows)

    def connections(self, url: str) -> list[Any]:
        """(pid, state, wait_event, query) of each connection to one database."""
        return self.admin(
            "SELECT pid, state, wait_event, query FROM pg_stat_activity "
            f"WHERE datname = '{url.rpartition('/')[2]}' AND backend_type = 'client backend'"
        )

    def promote(self) -> None:
        """Make a standby the primary, and wait until it is."""
        (row,) = self.admin("SELECT pg_promote(true, 30)")
        if not row[0]:
            raise RuntimeError(f"the standby was not promoted:\n{self.log.read_text()[-2000:]}")

    def _processes(self, *, stop: bool = True) -> list[int]:
        """The server and its children. It is stopped first, so that none is born meanwhile."""
        if self._process is None or self._process.poll() is not None:
            return []
        pid = self._process.pid
        if stop:
            os.kill(pid, signal.SIGSTOP)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


@contextlib.contextmanager
def running(*options: str, folder: Path | None = None) -> Iterator[Server]:
    """A server of one's own. `options` are settings, "fsync=off" for one; `folder` holds its data where the disk
    matters, else a temporary one does."""
    with _folder(folder) as home:
        shutil.copytree(_template() / "data", home / "data")
        give(home)
        server = Server(home, free_port(), options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary, and a standby that has every commit before it is acknowledged."""

    primary: Server
    standby: Server

    def database(self) -> str:
        """The address of a fresh database, naming both hosts."""
        url = self.primary.database()
        return url.replace(f":{self.primary.port}/", f":{self.primary.port},127.0.0.1:{self.standby.port}/")

    def fail_over(self) -> None:
        """The primary goes down with everything it has, and the standby takes over."""
        self.primary.kill()
        self.standby.promote()


@contextlib.contextmanager
def pair(*options: str) -> Iterator[Pair]:
    """Two servers, the second a synchronous streaming standby of the first."""
    with running(*options) as primary, _folder(None) as home:
        give(home)
        subprocess.run(
            [
                str(find("pg_basebackup")),
                *("-D", str(home / "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync"),
                *("-d", f"host=127.0.0.1 port={primary.port} user={ADMIN} application_name=standby"),
            ],
            check=True,
            capture_output=True,
            timeout=LIMIT,
            env=os.environ | {"PGPASSWORD": PASSWORD},
            cwd=home,
            **_owner(),
        )
        standby = Server(home, free_port(), options)
        try:
            standby.start()
            primary.admin("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
            deadline = time.monotonic() + LIMIT
            while primary.admin("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
                if time.monotonic() > deadline:
                    raise RuntimeError("the standby is not synchronous")
                time.sleep(0.02)
            yield Pair(primary, standby)
        finally:
            standby.kill()


class Proxy:
    """A TCP proxy in a thread of its own, that cuts and holds connections: `with Proxy(server.port) as proxy`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._ready = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._held_answers = False
        self.port = 0

    def __enter__(self) -> "Proxy":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._live(),))
        self._thread.start()
        self._ready.wait(LIMIT)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def through(self, url: str) -> str:
        """The address by way of this proxy."""
        return url.replace(f":{self._upstream}/", f":{self.port}/")

    def cut(self) -> None:
        """Break every connection, without a word."""
        self._do(self._cut)

    def hold_answers(self) -> None:
        """From now on requests pass and answers wait."""
        self._do(functools.partial(setattr, self, "_held_answers", True))

    def let_go(self) -> None:
        """Answers pass again, also those that waited."""

        def go() -> None:
            self._held_answers = False
            self._flowing.set()

        self._do(go)

    def _do(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            if self._held_answers:
                self._flowing.clear()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait(LIMIT)

    def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _live(self) -> None:
        self._stop = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._cut()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            self._writers.add(there_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, there_writer, answers=False))
                    group.create_task(self._pump(there_reader, writer, answers=True))
            finally:
                self._writers.discard(there_writer)
                there_writer.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65_536):
            if answers:
                await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # one side ended: so does the other


def _apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a thread of its own: the caller may have a loop that runs."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work()))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@functools.cache
def _template() -> Path:
    """A data folder as initdb makes it, with the gateway's user; made once a process, copied for each server."""
    home = Path(tempfile.mkdtemp(prefix="mpp-postgres-template-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "password").write_text(PASSWORD)
    give(home)
    subprocess.run(
        [
            str(find("initdb")),
            *("-D", str(home / "data"), "-U", ADMIN, "-E", "UTF8", "--locale=C", "--no-sync"),
            *("--auth=scram-sha-256", f"--pwfile={home / 'password'}"),
        ],
        check=True,
        capture_output=True,
        timeout=LIMIT,
        cwd=home,
        **_owner(),
    )
    server = Server(home, free_port(), ("fsync=off",))
    try:
        server.start()
        server.admin(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    finally:
        server.stop()
    return home


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    # Not pytest's: a server that is not root's must be able to walk there.
    home = Path(tempfile.mkdtemp(prefix="mpp-postgres-", dir=given))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _owner() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; the package brings a user of its own."""
    return {"user": ADMIN, "group": ADMIN, "extra_groups": []} if os.geteuid() == 0 else {}


def give(folder: Path) -> None:
    """Make a folder the server's, where the tests are root's."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(ADMIN)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
