"""An event loop whose clock only its owner moves: nothing in it waits for real time, and nothing runs unasked.

It offers what tasks, futures, locks and timeouts need, and no files, sockets or threads. `drain` runs what is
ready, `advance` moves the clock and fires what is due by then, in order.
"""

import asyncio
import contextvars
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.AbstractEventLoop):
    """`milliseconds` and `move` are its clock: what it says, and how it is set."""

    def __init__(self, milliseconds: Callable[[], int], move: Callable[[int], None]) -> None:
        self._milliseconds = milliseconds
        self._move = move
        self._start = milliseconds()
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        #: Told of every new task, and the context it was given, if any.
        self.made: Callable[[asyncio.Task[Any], contextvars.Context | None], None] = lambda task, context: None
        self.failures: list[dict[str, Any]] = []  # what nobody caught

    # --- for its owner ---

    @contextmanager
    def running(self) -> Iterator[None]:
        """Make it the running loop of this thread for a block."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def drain(self) -> None:
        """Run until nothing is ready."""
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled():
                handle._run()

    def timers(self) -> list[float]:
        """When the clock has something to do, earliest first."""
        return sorted(when for when, _, handle in self._timers if not handle.cancelled())

    def to_next_timer(self) -> bool:
        """Move the clock to the next timer and run what it starts. False: there is none."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            return False
        self.advance(max(0, self._due(self._timers[0][0]) - self._milliseconds()))
        return True

    def advance(self, milliseconds: int) -> None:
        """Move the clock; timers fire in their order, each at the new time: nobody ran in between."""
        self._move(self._milliseconds() + milliseconds)
        now = self._milliseconds()
        due = []
        while self._timers and self._due(self._timers[0][0]) <= now:
            due.append(heapq.heappop(self._timers)[2])
        for handle in due:
            if not handle.cancelled():
                handle._run()
                self.drain()

    def _due(self, when: float) -> int:
        return self._start + math.ceil(when * 1000 - 1e-6)

    # --- what asyncio asks of a loop ---

    def time(self) -> float:
        return (self._milliseconds() - self._start) / 1000

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.made(task, context)
        return task

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # dropped when its time comes

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)
