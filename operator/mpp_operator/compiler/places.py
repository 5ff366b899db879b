"""Who holds which place: a basePath of a host. The older service wins; within one namespace places may nest."""

from mpp_operator import ir
from mpp_operator.status import Problem, Reason

#: (namespace, name).
Key = tuple[str, str]


class Places:
    """Who holds which basePath of which host. A claim costs as many look-ups as the path has segments."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, str], Key] = {}
        # (host, prefix) -> who holds something below it, the first of each namespace.
        self._below: dict[tuple[str, str], dict[str, Key]] = {}

    def claim(self, key: Key, base: str, hosts: tuple[str, ...]) -> tuple[Problem, ...]:
        """Take the places of service `key`, or say whose they are: all of them or none."""
        for host in hosts:
            winner = self._winner(host, base, key[0])
            if winner:
                message = (
                    f"expected a place of its own, got {host}{base}, which {'/'.join(winner)} has or overlaps"
                )
                return (Problem(Reason.CONFLICT, "spec.basePath", message),)
        for host in hosts:
            self._holders[host, base] = key
            for prefix in (*ir.above(base), base):
                self._below.setdefault((host, prefix), {}).setdefault(key[0], key)
        return ()

    def _winner(self, host: str, base: str, namespace: str) -> Key | None:
        if holder := self._holders.get((host, base)):
            return holder
        above = [self._holders.get((host, prefix)) for prefix in (*ir.above(base), base)]
        below = self._below.get((host, base), {}).values()
        # Within one namespace overlapping prefixes are legal: the longest is asked first.
        return next((key for key in (*above, *below) if key and key[0] != namespace), None)
