"""The server's clock, as this machine knows it: samples of the difference, and which to believe. Asks nobody.

The difference is kept against CLOCK_BOOTTIME, which nobody sets and which goes on while a process is stopped and
while the machine sleeps: a process that wakes up after a minute knows at once that a minute has passed.
"""

import time
from dataclasses import dataclass
from typing import Final

#: After this long the next question for the time has a new sample taken.
REFRESH_SECONDS: Final = 1.0
#: After this long without a sample the time is not known any more.
STALE_SECONDS: Final = 10.0
#: How far two clocks may drift apart, as a share of the time between: more than any that is disciplined.
DRIFT: Final = 5e-4


@dataclass(frozen=True, slots=True)
class Sample:
    """The server's Unix time less this machine's since boot, true within `error`. All in seconds."""

    server: str  # which server: two servers' clocks have nothing to do with one another
    offset: float
    error: float  # half of the round trip
    taken_at: float


def since_boot() -> float:
    """Seconds, also those in which this process or the machine slept."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def sample(server: str, asked_at: float, answered_at: float, server_time: float) -> Sample:
    """The server read its clock between the two moments; the middle is never wrong by more than half of it."""
    return Sample(server, server_time - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2, answered_at)


def better(known: Sample | None, new: Sample) -> Sample:
    """The one to go by. A new one whose round trip was long says less than a recent one, unless the two
    contradict each other: then the server's clock was set."""
    if known is None or new.server != known.server:
        return new
    age = max(0.0, new.taken_at - known.taken_at)
    error = known.error + age * DRIFT
    if age >= STALE_SECONDS or new.error <= error or abs(new.offset - known.offset) > new.error + error:
        return new
    return known


def milliseconds(known: Sample, at: float) -> int:
    """The server's Unix time at a moment since boot."""
    return int((known.offset + at) * 1000)
