"""How long is waited for what, and by how many at once. Decides nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

#: Checks that wait for one thing. Whoever holds one answer back, or has one stream open, could else fill the lane
#: of all who pay.
WAIT_FOR_ONE: Final = 8
#: Checks that wait for other Checks of their credentials, in all: a quarter of the lane (`paying_requests` of the
#: bootstrap). Whoever has many streams open could else fill it, at no cost.
WAIT_IN_ALL: Final = 64


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. The first two are settings, in the order of Envoy's ext_authz timeout; what follows is made of
    them, so that a test scales everything together."""

    settle_wait: float = 10.0  # a Check waits this long for its settlement
    in_progress_wait: float = 2.0  # and this long for somebody else's
    confirmation: float = 9.0  # no method waits longer for a chain; a test holds the methods to it

    @property
    def settling_lease(self) -> float:
        """A settlement is its process's for so long: a minute, where a Check waits 10 s. Never shorter than a
        method takes."""
        return max(6 * self.settle_wait, self.confirmation * 4 / 3)

    @property
    def promised(self) -> float:
        """A Check delivers what it settled within this time, or its process died in between."""
        return self.settle_wait / 2

    @property
    def renewal(self) -> float:
        """A periodic access log entry of a stream keeps its lease for so long."""
        return 6 * self.settle_wait

    @property
    def silence(self) -> float:
        """An Envoy that no authz has said to live for so long is not waited for any more."""
        return 3 * self.settle_wait

    @property
    def beat(self) -> float:
        """Between two words to the store that the Envoys beside us live."""
        return self.silence / 10


@dataclass(slots=True)
class Patience:
    """Counts who waits for what: WAIT_FOR_ONE wait for one thing, the others look once."""

    in_all: int | None = None  # how many may wait for anything; None: any number
    _waiting: dict[str, int] = field(default_factory=dict)
    _patient: int = 0

    @contextlib.contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[float]:
        """How many of `seconds` may be waited: all, or none where many wait for the same, or in all, already."""
        before = self._waiting.get(what, 0)
        self._waiting[what] = before + 1
        waits = before < WAIT_FOR_ONE and (self.in_all is None or self._patient < self.in_all)
        self._patient += waits
        try:
            yield seconds if waits else 0.0
        finally:
            self._patient -= waits
            self._waiting[what] -= 1
            if not self._waiting[what]:
                del self._waiting[what]
