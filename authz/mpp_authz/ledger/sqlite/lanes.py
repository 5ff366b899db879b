"""Threads that hold the connections: reads each for itself, writes in groups that share one flush of the disk."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from mpp_authz.ledger import LedgerUnavailable
from mpp_authz.ledger.sqlite import faults

#: Writes of one transaction. More would only make the first of them wait.
GROUP: Final = 256
#: Writes that may wait. A disk that hangs must not fill the memory.
PENDING: Final = 10_000

T = TypeVar("T")
Outcome = tuple[Any, Exception | None]


@dataclass(frozen=True, slots=True)
class Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]


class Lane:
    """One thread with one connection. Takes whatever jobs wait, runs them together, answers them together."""

    def __init__(
        self,
        name: str,
        path: Path,
        connection: sqlite3.Connection,
        loop: asyncio.AbstractEventLoop,
        run: Callable[[sqlite3.Connection, Sequence[Job]], list[Outcome]],
    ) -> None:
        self._path = path
        self._connection = connection
        self._loop = loop
        self._run = run
        self._identity = _identity(path)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        # A daemon: a program that dies without `close` must not hang on it. What returned is on the disk.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise LedgerUnavailable(f"ledger {self._path}: it is closed")
        if self._jobs.qsize() >= PENDING:
            raise LedgerUnavailable(
                f"ledger {self._path}: {PENDING} requests wait for the disk; check its health and its load"
            )
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(Job(work, future))
        return await future

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._gather()
            if not jobs:
                continue
            # What is written into a file that has lost its name is lost when the process ends.
            if _identity(self._path) == self._identity:
                outcomes = self._run(self._connection, jobs)
            else:
                outcomes = [(None, faults.Replaced())] * len(jobs)
            try:
                self._loop.call_soon_threadsafe(self._resolve, jobs, outcomes)
            except RuntimeError:  # the loop is gone, and everybody who waited with it
                open_ = False
        self._connection.close()

    def _gather(self) -> tuple[list[Job], bool]:
        """All jobs that wait, at least one; False with them when there will be no more."""
        jobs: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == GROUP:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _resolve(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        for job, (value, error) in zip(jobs, outcomes, strict=True):
            if job.future.done():  # its caller was cancelled; the work is done all the same
                continue
            if error is None:
                job.future.set_result(value)
            else:
                unavailable = LedgerUnavailable(faults.explain(self._path, error))
                unavailable.__cause__ = error
                job.future.set_exception(unavailable)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name; None where none has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def answer(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    """Reads: each for itself."""
    return [_outcome(connection, job) for job in jobs]


def commit(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Outcome]:
    """Writes: one transaction for all. A job that fails by itself leaves its neighbours in; when the store fails,
    nothing of the group is kept and all are told."""
    try:
        if connection.in_transaction:  # the last rollback failed, too
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_outcome(connection, job) for job in jobs]
        sick = next((error for _, error in outcomes if _sick(error)), None)
        if sick is not None:
            raise sick
        connection.execute("COMMIT")
    except Exception as error:  # the thread must live: the next group may find the disk freed
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return [(None, error)] * len(jobs)
    return outcomes


def _outcome(connection: sqlite3.Connection, job: Job) -> Outcome:
    try:
        return job.work(connection), None
    except Exception as error:  # one job's fault is one caller's error, never the end of the thread
        return None, error


def _sick(error: Exception | None) -> bool:
    """Whether it is the store that failed, rather than the values of one job."""
    single = sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.ProgrammingError | sqlite3.DataError
    return isinstance(error, sqlite3.Error) and not isinstance(error, single)
