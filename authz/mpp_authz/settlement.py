"""Move the money once, and find out what became of it. Owns the claim on a row while it settles. Knows no HTTP.

A settlement outlives its Check: it runs in a task of its own, and when nobody waits any more it ends in a
credit. After something may have been sent, only the chain's answer decides.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, TypeVar

from mpp_authz import methods, quotes
from mpp_authz.challenge import Bound, Presented
from mpp_authz.closing import advance
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, State, transitions
from mpp_authz.methods import Credential, Method, Quote, Verified
from mpp_authz.metrics import Metrics
from mpp_authz.pricing import Network, RoutePrice

log = logging.getLogger(__name__)

T = TypeVar("T")

#: A settlement's lease: longer than any method waits for a confirmation. Milliseconds.
_SETTLING_LEASE_MS: Final = 60_000
#: Pauses between two questions of the sweeper about one open payment. Milliseconds.
_FIRST_PAUSE_MS: Final = 1_000
_LONGEST_PAUSE_MS: Final = 300_000
#: Between two questions to the chain about one open payment. Seconds.
_POLL_SECONDS: Final = 0.25


@dataclass(slots=True)
class Waiter:
    """Whether the Check that asked still waits, and with which challenge."""

    gone: bool = False
    idle: bool = False  # a node refused its transaction: there is nothing to wait for
    challenge_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """One credential on its way to be settled."""

    presented: Presented
    bound: Bound
    quote: Quote
    method: Method
    price: RoutePrice
    waiter: Waiter

    @property
    def credential(self) -> Credential:
        return Credential(self.presented.payload, self.presented.source)


class ClaimLost(Exception):
    """Somebody else holds this challenge, or this transaction."""


@dataclass(slots=True)
class _Claim:
    """`methods.Claim` on one row of the ledger."""

    ledger: Ledger
    fresh: Payment  # the row to insert, all but its lease
    replacing: Payment | None  # a FAILED row, or one whose owner died before anything was sent
    waiter: Waiter
    row: Payment | None = None
    lost: bool = False

    async def settling(self, reference: str, valid_before: int | None) -> bool:
        now = await self.ledger.now()
        row = replace(
            self.fresh,
            reference=reference,
            valid_before=valid_before,
            created_at=now,
            lease_until=now + _SETTLING_LEASE_MS,
            check_ended=self.waiter.gone,
        )
        if self.row is not None:
            return self.row.reference == row.reference  # asked twice by one settlement
        if self.replacing is None:
            won = await self.ledger.insert(row)
        else:
            won = await self.ledger.replace(self.replacing, row)
            row = replace(row, version=self.replacing.version + 1)
        if won:
            self.row = row
            if self.waiter.gone:  # it left while we wrote, and found no row to say so in
                await advance(self.ledger, row, transitions.check_ended)
        self.lost = not won
        return won

    def holds(self, row: Payment) -> bool:
        """Whether the row is this claim's still: one whose lease was over may have been taken by another."""
        mine = self.row
        return mine is not None and (row.lease_owner, row.created_at, row.reference) == (
            mine.lease_owner,
            mine.created_at,
            mine.reference,
        )

    async def envelope(self, raw: str) -> bool:
        if self.row is None:
            return False

        def stored(row: Payment) -> Payment | None:
            # Another process may have begun again where we were taken for dead: then it sends, and we do not.
            still = row.state is State.SETTLING and row.envelope is None and self.holds(row)
            return replace(row, envelope=raw) if still else None

        written = await advance(self.ledger, self.row, stored)
        if written is not None:
            self.row = written
        return written is not None


@dataclass(slots=True)
class Settler:
    """Runs settlements and resolves open ones."""

    ledger: Ledger
    by_name: Mapping[str, Method]
    owner: str  # "<slot>/<boot id>"
    metrics: Metrics
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _resolving: dict[str, asyncio.Task[Payment | None]] = field(default_factory=dict)
    _removed: dict[str, Network] = field(default_factory=dict)

    # --- settling --------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether shielded work runs."""
        return bool(self._tasks)

    def shielded(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run to the end whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(
        self, settlement: Settlement, verified: Verified, replacing: Payment | None = None
    ) -> Payment | methods.Refused | methods.Unavailable:
        """Claim the row, move the money, and write down what became of it.

        Returns the row as it is now (CREDIT, UNKNOWN or FAILED), or why nothing was claimed.

        Raises:
            ClaimLost: the row, or the transaction, is somebody else's; nothing was sent.
            LedgerUnavailable: nothing was sent, or the row says SETTLING and is resolved later.
        """
        claim = _Claim(self.ledger, self._row(settlement, verified), replacing, settlement.waiter)
        loop = asyncio.get_running_loop()
        begun, result = loop.time(), "error"
        try:
            outcome = await settlement.method.settle(settlement.credential, settlement.quote, verified, claim)
            result = type(outcome).__name__.lower()
        except LedgerUnavailable:
            raise
        except Exception as error:
            # A method may fail in any way; once the row is there, only the chain knows.
            log.exception("settlement failed", extra={"payment": settlement.presented.challenge.id})
            if claim.row is None and not claim.lost:
                return methods.Unavailable(type(error).__name__)
            outcome = methods.Unknown(type(error).__name__)
        finally:
            self.metrics.settled(settlement.method.name, result, loop.time() - begun)
        if claim.lost:
            raise ClaimLost
        row = claim.row
        if row is None:
            if isinstance(outcome, methods.Refused | methods.Unavailable):
                return outcome
            raise RuntimeError(f"method {settlement.method.name} settled without a claim")
        match outcome:
            case methods.Settled():
                now = await self.ledger.now()
                return await self._written(row, self._as_settled(outcome, now, settlement.waiter))
            case methods.Refused() | methods.Unavailable():
                # Provably nothing was sent by this claim.
                reason = outcome.detail if isinstance(outcome, methods.Refused) else outcome.reason
                return await self._written(
                    row, lambda r: transitions.failed(r, reason) if claim.holds(r) else None
                )
            case methods.Unknown():
                settlement.waiter.idle = outcome.refused
                return await self._open(row, outcome.reason)

    def _row(self, settlement: Settlement, verified: Verified) -> Payment:
        challenge, request = settlement.presented.challenge, settlement.quote.request
        return Payment(
            id=challenge.id,
            state=State.SETTLING,
            binding=quotes.binding(challenge, settlement.bound),
            method=challenge.method,
            intent=challenge.intent,
            network=settlement.bound.network,
            currency=str(request["currency"]).lower(),
            recipient=str(request["recipient"]).lower(),
            amount=str(request["amount"]),
            mode=verified.mode,
            credential_hash=settlement.presented.fingerprint,
            # Anybody can write a name into a signature nobody checked: until the chain has, it is not whose retry
            # would have to wait for this row.
            payer=verified.payer if verified.payer_proved else None,
            minted_at=settlement.bound.minted_at,
            expires_at=settlement.bound.minted_at + settlement.price.expires_in * 1000,
            lease_owner=self.owner,
            attempts_allowed=settlement.price.credit_attempts,
            credit_life=settlement.price.credit_life * 1000,
            streaming=settlement.price.streaming,
        )

    def _as_settled(
        self, outcome: methods.Settled, now: int, waiter: Waiter | None = None
    ) -> Callable[[Payment], Payment | None]:
        return lambda row: transitions.settled(
            row,
            now,
            reference=outcome.reference,
            payer=outcome.payer,
            awaited=waiter is not None and not waiter.gone,
        )

    async def _written(self, row: Payment, step: Callable[[Payment], Payment | None]) -> Payment:
        """The row after a step; where another was faster, the row as that one left it."""
        written = await advance(self.ledger, row, step)
        if written is not None:
            self.metrics.payment(written.binding.route, written.method, written.state)
        else:
            written = await self.ledger.get(row.id)
        if written is None:
            raise LedgerUnavailable(f"payment {row.id}: expected a row, found none")
        return written

    # --- resolving -------------------------------------------------------------------------------------

    async def resolve(self, row: Payment, settlement: Settlement | None = None) -> Payment | None:
        """Ask the chain what became of an open payment, once at a time per payment.

        With the credential's `settlement`, the same transaction is sent again where it can still settle: it
        cannot pay twice. Returns the row as it is now, or None when the chain could not be asked.
        """
        task = self._resolving.get(row.id)
        if task is None:
            task = self.shielded(self._resolve(row, settlement))
            self._resolving[row.id] = task
            task.add_done_callback(lambda _: self._resolving.pop(row.id, None))
        return await asyncio.shield(task)

    async def _resolve(self, row: Payment, settlement: Settlement | None) -> Payment | None:
        method, network = self.by_name.get(row.method), await self.network(row, settlement)
        if method is None or network is None or row.reference is None:
            log.error("open payment without its network", extra={"payment": row.id, "network": row.network})
            await self._open(row, "its network is not known any more")
            return None
        if row.mode == "proof":  # nothing moves: its claim was all there is
            found: methods.Settled | methods.NotYet | methods.Never | methods.Unavailable = methods.Settled(
                row.reference, row.payer
            )
        else:
            found = await method.lookup(row.reference, row.valid_before, network)
        if isinstance(found, methods.NotYet):
            raw = row.envelope or (method.raw(settlement.credential) if settlement is not None else None)
            if raw is not None and row.mode == "pull":
                await method.resend(raw, network)
                found = await method.lookup(row.reference, row.valid_before, network)
        now = await self.ledger.now()
        match found:
            case methods.Settled():
                waiter = settlement.waiter if settlement is not None else None
                return await self._written(row, self._as_settled(found, now, waiter))
            case methods.Never(reason):
                return await self._written(row, lambda r: transitions.failed(r, reason))
            case methods.NotYet():
                return await self._open(row, "not on the chain yet")
        await self._open(row, "the chain cannot be asked")
        return None

    async def _open(self, row: Payment, reason: str) -> Payment:
        """Nobody knows yet. The longer it is open, the rarer the chain is asked without a payer asking us."""
        now = await self.ledger.now()
        pause = min(max(now - row.created_at, _FIRST_PAUSE_MS), _LONGEST_PAUSE_MS)
        return await self._written(row, lambda r: transitions.unknown(r, reason, now + pause))

    async def outcome(self, row: Payment, settlement: Settlement | None, seconds: float) -> Payment:
        """Resolve until the outcome is known or the time is up; the row as it is then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            row = await self.resolve(row, settlement) or await self.ledger.get(row.id) or row
            if row.state not in (State.SETTLING, State.UNKNOWN) or loop.time() + _POLL_SECONDS > deadline:
                return row
            await asyncio.sleep(_POLL_SECONDS)

    # --- networks --------------------------------------------------------------------------------------

    async def network(self, row: Payment, settlement: Settlement | None) -> Network | None:
        """The row's network: today's, or as it was when it was removed while payments were open on it."""
        if settlement is not None:
            return settlement.quote.network
        if row.network not in self._removed:
            documents = await self.ledger.networks()
            self._removed = {name: Network(**_fields(text)) for name, text in documents.items()}
        return self._removed.get(row.network)

    async def remember(self, networks: Mapping[str, Network]) -> None:
        """Keep what networks are, so that one can be asked about open payments after it was removed."""
        for network in networks.values():
            await self.ledger.remember_network(network.name, json.dumps(asdict(network), sort_keys=True))
        self._removed = {}

    async def aclose(self, grace_seconds: float) -> None:
        """Let settlements that run come to an end, for a bounded time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)


def _fields(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    return document | {"rpc_urls": tuple(document["rpc_urls"])}
