"""What three witnesses saw: the chain, the upstream and the client. The checker reads these and nothing else.

Plain values, so that a run can be written down as JSON lines and judged again. Moments are seconds of one
machine's monotonic clock, so that witnesses can be compared. A *case* is what one payer wants: one request, asked
for as often as that payer's client asks. Each case has a target of its own (`?case=…`), so everything that was
seen can be sorted by case.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Mode(StrEnum):
    """Who sends the money: the gateway what the client signed, or the client before it asks."""

    PULL = "pull"
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class Case:
    """One payer's one request. `copies` are sent at once with one credential; 1: the client asks, waits, and asks
    again as it does when that failed."""

    id: str
    payer: str  # lower case address; no other case of the run has it
    method: str
    target: str  # path and query
    body_hash: str  # SHA-256 of the request's body, hex; "" without one
    price: int  # base units
    mode: Mode
    retries: str = "same"  # "same" credential, or a "new" one, as unmodified clients do
    copies: int = 1
    streaming: bool = False
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """The chain's: money that reached a recipient of ours. `challenge` is the id its memo is bound to."""

    reference: str  # transaction hash, lower case
    payer: str
    recipient: str
    amount: int
    challenge: str | None  # None: of no challenge the clients ever saw
    sent_at: float | None = None  # when a node first got the transaction; None: nobody saw that


@dataclass(frozen=True, slots=True)
class Hit:
    """The upstream's: one request that arrived there, and what became of its answer as far as it can tell."""

    at: float
    method: str
    target: str
    body_hash: str
    payment: str | None  # X-Mpp-Payment-Id
    attempt: int | None
    idempotency_key: str | None = None
    status: int = 0  # 0: it answered nothing
    finished: bool = False  # the whole answer was written


@dataclass(frozen=True, slots=True)
class Exchange:
    """The client's: one HTTP request and what it got."""

    case: str
    payer: str  # who presented it
    method: str
    target: str
    body_hash: str
    sent_at: float
    got_at: float
    credential: str | None = None  # the whole value, to present again; never printed
    challenge: str | None = None  # id of the challenge that the credential answers
    status: int = 0  # 0: no answer
    whole: bool = False  # the body arrived to its end
    hung_up: bool = False  # by this client itself, after it had the headers where status is not 0
    receipts: tuple[str, ...] = ()  # `reference` of each Payment-Receipt; "unreadable" for one that is none
    challenges: tuple[str, ...] = ()  # ids in WWW-Authenticate
    credit: str | None = None  # Payment-Credit
    final: bool = False  # presented again by the harness at the end, when every fault was healed
    other: bool = False  # a probe: somebody else's attempt to use this credential, or for another request

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "credential"}
        return f"Exchange({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@dataclass(frozen=True, slots=True)
class Listed:
    """`mpp-gateway payments`: read only for what is owed."""

    payment: str
    reference: str | None
    state: str  # OWED or LAPSED


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that was witnessed of one run, whole."""

    seed: int
    system: str
    cases: tuple[Case, ...]
    transfers: tuple[Transfer, ...]
    hits: tuple[Hit, ...]
    exchanges: tuple[Exchange, ...]
    listed: tuple[Listed, ...] = ()
    envoy_died: bool = False  # some data plane did in this run: a second delivery is allowed then
    recipient: str = ""
    faults: tuple[str, ...] = ()  # "<action> at <point>", as they came to pass
    sent: frozenset[str] = frozenset()  # payments that a data plane's own log says it sent a whole 2xx for
    notes: Mapping[str, Any] = field(default_factory=dict)


def sent_whole(logs: str) -> frozenset[str]:
    """The payments for which Envoy's request log, among other lines, says: 2xx, nothing broke, nobody left."""
    found = set()
    for line in logs.splitlines():
        _, mark, text = line.partition("envoy: {")
        if not mark:
            continue
        try:
            said = json.loads("{" + text)
        except ValueError:
            continue
        if said.get("payment") and said.get("flags") == "-" and 200 <= int(said.get("status") or 0) < 300:
            found.add(said["payment"])
    return frozenset(found)


def write(path: Path, runs: Iterable[Run]) -> None:
    """Append runs, one JSON document a line."""
    with path.open("a", encoding="utf-8") as file:
        for run in runs:
            file.write(json.dumps(dataclasses.asdict(run) | {"sent": sorted(run.sent)}, sort_keys=True) + "\n")


def read(path: Path) -> Iterator[Run]:
    """What `write` wrote."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            yield Run(
                **document
                | {
                    "cases": tuple(Case(**case | {"mode": Mode(case["mode"])}) for case in document["cases"]),
                    "transfers": tuple(Transfer(**one) for one in document["transfers"]),
                    "hits": tuple(Hit(**one) for one in document["hits"]),
                    "exchanges": tuple(
                        Exchange(
                            **one | {"receipts": tuple(one["receipts"]), "challenges": tuple(one["challenges"])}
                        )
                        for one in document["exchanges"]
                    ),
                    "listed": tuple(Listed(**one) for one in document["listed"]),
                    "faults": tuple(document["faults"]),
                    "sent": frozenset(document.get("sent", ())),
                }
            )
