"""What happened to each payment: the row, its states, and the seam to the stores. Knows no HTTP, no Envoy.

One row per challenge id. Stores are dumb on purpose: they insert, compare-and-set and query. What may follow
what is decided by the pure functions of `transitions`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol


class State(StrEnum):
    """See docs/payments.md for the picture."""

    SETTLING = "SETTLING"  # durable before anything is broadcast
    UNKNOWN = "UNKNOWN"  # sent, and nobody knows yet whether it settled
    FAILED = "FAILED"  # it can never settle
    DELIVERING = "DELIVERING"  # settled; the request is with the upstream
    DELIVERED = "DELIVERED"  # the answer went out
    CREDIT = "CREDIT"  # settled, not delivered: the payer is owed the request
    OWED = "OWED"  # attempts or life used up, our or the upstream's fault: a person pays back
    LAPSED = "LAPSED"  # attempts used up by 4xx answers and client aborts
    SPENT = "SPENT"  # this credential's challenge took another payment's credit (`paid_by`); nothing was sent


@dataclass(frozen=True, slots=True)
class Binding:
    """What exactly was paid for. A credit is good for this and nothing else."""

    route: str  # route key
    http_method: str
    target_hash: str  # keyed hash of the path and, where it is bound, the raw query
    digest: str  # of the body; "" where it is not bound


@dataclass(frozen=True, slots=True)
class Payment:
    """One row. Times are milliseconds of the store's clock, amounts base units as decimal strings.

    No credential is in it: `credential_hash` recognises one. `envelope` holds a sponsored payment's co-signed
    transaction while its outcome is open, and nothing else.
    """

    id: str  # challenge id
    state: State
    binding: Binding
    method: str
    intent: str
    network: str
    currency: str
    recipient: str
    amount: str
    mode: str  # "pull", "push", "proof"
    credential_hash: str
    payer: str | None = None  # lower case address; None where the method could not tell
    reference: str | None = None  # transaction hash, lower case; unique among rows that are not FAILED
    valid_before: int | None = None  # Unix seconds of block time after which it cannot settle any more
    chain_id: int = 0  # of `network` when it was paid; 0 in rows older than this column
    envelope: str | None = None
    minted_at: int = 0  # from the challenge
    expires_at: int = 0
    created_at: int = 0
    settled_at: int | None = None
    answered_at: int | None = None  # when its last Check let it through; before that, when it settled
    delivered_at: int | None = None
    lease_until: int = 0
    lease_owner: str = ""  # "<authz slot>/<boot id>": the process whose Check it is
    check_ended: bool = False  # its first Check is over: nobody waits for its settlement, or is about to deliver
    data_plane: str = ""  # instance id of the Envoy that delivers
    request_id: str = ""  # that Envoy's own id of the HTTP request it delivers for
    attempt: int = 0  # deliveries begun
    attempts_allowed: int = 3
    credit_life: int = 86_400_000  # milliseconds, as the route promised when it was paid
    life_until: int = 0  # end of the credit's life; 0 until it is settled
    streaming: bool = False
    faults: int = 0  # attempts that ended by our or the upstream's fault
    last_status: int | None = None
    last_flags: str = ""
    idempotency_hash: str = ""  # of the Idempotency-Key it was delivered with
    paid_by: str | None = None  # SPENT: the row whose credit it took
    reason: str = ""  # why it FAILED, or is UNKNOWN; never a credential
    version: int = 0  # rises by one at each replace


@dataclass(frozen=True, slots=True)
class RefusedTransfer:
    """A push credential whose money may have reached us and which we refused: for a person to look at."""

    challenge_id: str
    reference: str
    route: str
    network: str
    reason: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class DataPlane:
    """What the store knows of one Envoy, for authz processes that cannot read its outcome file themselves; or of
    one of those processes, by its "<slot>/<boot id>"."""

    seen_at: int  # when an authz beside it, or the process itself, last said that it lives
    ended: bool  # an Envoy's outcome file was read to the end and will not grow; a process gave all its answers


#: How often one transfer is noted as refused.
MAX_REFUSALS: Final = 16


class LedgerUnavailable(Exception):
    """The store did not answer or did not take the write: fail closed."""


class Ledger(Protocol):
    """A store of payments. Every write is durable when it returns (it may share a commit with others).

    Raises:
        LedgerUnavailable: from every method, whatever the store's own error was.
    """

    async def now(self) -> int:
        """The store's clock, in Unix milliseconds. The only clock for leases and lives."""
        ...

    def clock(self) -> int:
        """The store's clock as well as this process knows it, asking nobody: for minting, so that processes whose
        own clocks differ sign moments that can be compared."""
        ...

    async def get(self, payment_id: str) -> Payment | None: ...

    async def insert(self, payment: Payment) -> bool:
        """Add a row. False: its id is taken, or its reference is held by a row that is not FAILED."""
        ...

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        """Put `new` where `old` is, if the row is still `old` (by version); `new.version` becomes
        `old.version + 1`. With `also`, that row is inserted in the same transaction. False: nothing changed,
        somebody else was first (or `also`'s id or reference is taken)."""
        ...

    async def by_reference(self, reference: str) -> Payment | None:
        """The row that holds this transaction and is not FAILED."""
        ...

    async def unfinished(self, payer: str, binding: Binding, currency: str) -> tuple[Payment, ...]:
        """SETTLING, UNKNOWN, DELIVERING and CREDIT rows of one payer for one request, oldest first."""
        ...

    async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
        """Rows that time has something to say about, oldest lease first: SETTLING, UNKNOWN and DELIVERING whose
        lease is over (of an UNKNOWN: the time it is next asked about), CREDIT whose life is over."""
        ...

    async def delivering_at(self, data_plane: str) -> tuple[Payment, ...]: ...

    async def settled_since(self, moment: int, after: str, limit: int) -> tuple[Payment, ...]:
        """Rows that settled, but SPENT ones, by (settled_at, id), those beyond (`moment`, `after`): a page."""
        ...

    async def beat(self, data_planes: Collection[str]) -> None:
        """These Envoys live, and we read their outcome files; or this process lives. What ended stays ended."""
        ...

    async def end_data_plane(self, data_plane: str) -> None:
        """An Envoy's outcome file was read to the end, and it will write no more; or whatever else beat under this
        name left in order."""
        ...

    async def data_plane(self, data_plane: str) -> DataPlane | None: ...

    async def living(self, prefix: str, since: int) -> tuple[str, ...]:
        """Who beat since a moment and did not end, of the names that begin so; sorted."""
        ...

    async def forget_data_planes(self, before: int, limit: int) -> int:
        """Remove those last seen before a moment, at most `limit`; how many."""
        ...

    async def listing(self, states: frozenset[State], limit: int) -> tuple[Payment, ...]:
        """Newest first; an empty set means every state."""
        ...

    async def counts(self) -> dict[State, int]: ...

    async def born_at(self) -> int:
        """When this store was made: of what was paid before, it knows nothing."""
        ...

    async def forget_failed(self, before: int, limit: int) -> int:
        """Remove FAILED rows made before a moment, at most `limit`; how many. They moved no money."""
        ...

    async def refuse(self, transfer: RefusedTransfer) -> None:
        """Note a refused transfer once per (challenge id, reference), and MAX_REFUSALS times per reference:
        challenges are free, so one transfer could else fill the store."""
        ...

    async def refused(self, limit: int) -> tuple[RefusedTransfer, ...]: ...

    async def remember_network(self, name: str, document: str) -> None:
        """Keep what a network was, so that a removed one can still be asked about open payments. `name` is the
        network's and its chain id, "<name>/<chain id>": one that is edited to another chain is another."""
        ...

    async def networks(self) -> dict[str, str]: ...

    async def close(self) -> None: ...
