"""Move the money once, and find out what became of it. Owns the claim on a row while it settles. Knows no HTTP.

A settlement outlives its Check: it runs in a task of its own, and when nobody waits any more it ends in a
credit. After something may have been sent, only the chain's answer decides. What the store could not take is
written once it is back.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from mpp_authz import methods, quotes
from mpp_authz.challenge import Bound, Presented
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, State, transitions
from mpp_authz.methods import Credential, Method, Quote, Verified
from mpp_authz.metrics import Metrics
from mpp_authz.networks import Networks
from mpp_authz.patience import Times
from mpp_authz.pricing import Network, RoutePrice
from mpp_authz.unwritten import TimedStep, Unwritten, advance

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Pauses between two questions of the sweeper about one open payment. Milliseconds.
_FIRST_PAUSE_MS: Final = 1_000
_LONGEST_PAUSE_MS: Final = 300_000
#: Between two questions to the chain about one open payment. Seconds.
_POLL_SECONDS: Final = 0.25
#: Between two tries to write an outcome that a store would not take.
_RETRY_SECONDS: Final = 0.1


@dataclass(slots=True)
class Waiter:
    """Whether the Check that asked still waits, and with which challenge."""

    gone: bool = False
    idle: bool = False  # a node refused its transaction: there is nothing to wait for
    challenge_id: str | None = None
    claimed: bool = False  # the row, if there is one, is its own to deliver


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
    lease: int  # milliseconds
    tried: Payment | None = None  # what was asked of the store, whatever it answered
    row: Payment | None = None
    lost: bool = False

    async def settling(self, reference: str, valid_before: int | None) -> bool:
        if self.waiter.gone:
            return False  # whoever asked may ask with another payment by now: this one is not begun
        now = await self.ledger.now()
        row = replace(
            self.fresh,
            reference=reference,
            valid_before=valid_before,
            created_at=now,
            lease_until=now + self.lease,
            check_ended=self.waiter.gone,  # it left while the store told the time
        )
        if self.row is not None:
            return self.row.reference == row.reference  # asked twice by one settlement
        self.tried, self.waiter.claimed = row, True
        if self.replacing is None:
            won = await self.ledger.insert(row)
        else:
            won = await self.ledger.replace(self.replacing, row)
            row = replace(row, version=self.replacing.version + 1)
        if won:
            self.row = row
            if self.waiter.gone and row.mode == "pull":
                # It left while we wrote. It may have asked again, found no row, and paid with another credential.
                await advance(self.ledger, row, transitions.given_up)
                won = False
            elif self.waiter.gone:  # the money has moved: only that nobody waits is left to say
                await advance(self.ledger, row, transitions.check_ended)
        self.lost = not won
        return won

    def holds(self, row: Payment) -> bool:
        """Whether the row is this claim's still: one whose lease was over may have been taken by another."""
        mine = self.tried
        return (
            mine is not None
            and row.state is State.SETTLING
            and (row.lease_owner, row.lease_until, row.reference)
            == (mine.lease_owner, mine.lease_until, mine.reference)
        )

    async def envelope(self, raw: str) -> bool:
        if self.row is None:
            return False

        def stored(row: Payment) -> Payment | None:
            # Another process may have begun again where we were taken for dead: then it sends, and we do not.
            still = row.envelope is None and self.holds(row)
            return replace(row, envelope=raw) if still else None

        written = await advance(self.ledger, self.row, stored)
        if written is not None:
            self.row = written
        return written is not None

    def given_up(self, row: Payment, now: int) -> Payment | None:
        """It ended before anything was sent."""
        return transitions.given_up(row) if self.holds(row) else None


@dataclass(slots=True)
class Settler:
    """Runs settlements and resolves open ones."""

    ledger: Ledger
    by_name: Mapping[str, Method]
    owner: str  # "<slot>/<boot id>"
    metrics: Metrics
    times: Times = field(default_factory=Times)
    unwritten: Unwritten = field(init=False)  # outcomes, claims of which nothing came, Checks that ended
    networks: Networks = field(init=False)
    _offsets: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(500)))
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _resolving: dict[str, asyncio.Task[Payment | None]] = field(default_factory=dict)
    _claims: dict[str, _Claim] = field(default_factory=dict)  # settlements that run, by payment
    _unsaid: int = 0  # Checks that ended, and their rows may not say so yet

    def __post_init__(self) -> None:
        self.unwritten = Unwritten(self.ledger)
        self.networks = Networks(self.ledger)

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

    def lease(self, seconds: float) -> int:
        """A lease in milliseconds, some of them more than asked for: two of this process never end together, which
        is how it knows what it wrote itself."""
        return round(seconds * 1000) + next(self._offsets)

    async def beat(self, delivers: bool = False) -> None:
        """Tell the store that this process lives, while others may ask it of a settlement of ours, or (`delivers`)
        of a delivery."""
        if self._unsaid or self.unwritten:
            return  # who reads our word believes that we have nothing else to say
        if self.busy or delivers:
            await self.ledger.beat((self.owner,))

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """We have something to write about a payment, and give no word before it is written."""
        self._unsaid += 1
        try:
            yield
        finally:
            self._unsaid -= 1

    def waits(self, row: Payment) -> bool:
        """Whether a settlement is ours, and its Check still waits."""
        claim = self._claims.get(row.id)
        return claim is not None and claim.holds(row) and not claim.waiter.gone

    async def check_ended(self, waiter: Waiter) -> None:
        """Nobody waits for a settlement any more: a retry of the payer may have its outcome."""
        waiter.gone = True
        if waiter.challenge_id is None:
            return
        try:
            row = await self.ledger.get(waiter.challenge_id)
            if row is not None:
                await advance(self.ledger, row, transitions.check_ended)
        except LedgerUnavailable:
            if waiter.claimed:
                self.unwritten.later(
                    waiter.challenge_id, lambda row, _: transitions.check_ended(row), uncertain=True
                )

    async def settle(
        self, settlement: Settlement, verified: Verified, replacing: Payment | None = None
    ) -> Payment | methods.Refused | methods.Unavailable:
        """Claim the row, move the money, and write down what became of it.

        Returns the row as it is now (CREDIT, UNKNOWN or FAILED), or why nothing was claimed.

        Raises:
            ClaimLost: the row, or the transaction, is somebody else's; nothing was sent.
            LedgerUnavailable: nothing was sent, or the outcome is written when the store is back.
        """
        row, lease = self._row(settlement, verified), self.lease(self.times.settling_lease)
        claim = _Claim(self.ledger, row, replacing, settlement.waiter, lease)
        self._claims[row.id] = claim
        try:
            return await self._settle(claim, settlement, verified)
        finally:
            if self._claims.get(row.id) is claim:
                del self._claims[row.id]

    async def _settle(
        self, claim: _Claim, settlement: Settlement, verified: Verified
    ) -> Payment | methods.Refused | methods.Unavailable:
        loop = asyncio.get_running_loop()
        begun, result = loop.time(), "error"
        try:
            outcome = await settlement.method.settle(settlement.credential, settlement.quote, verified, claim)
            result = type(outcome).__name__.lower()
        except LedgerUnavailable:
            # Nothing was sent. Where the claim was written all the same, nobody has to wait for its lease.
            await self._give_up(claim)
            raise
        except Exception as error:
            # A method may fail in any way; once the row is there, only the chain knows.
            log.exception("settlement failed", extra={"payment": settlement.presented.challenge.id})
            if claim.row is None and not claim.lost:
                await self._give_up(claim)
                return methods.Unavailable(type(error).__name__)
            outcome = methods.Unknown(type(error).__name__)
        finally:
            self.metrics.settled(settlement.method.name, result, loop.time() - begun)
        if claim.lost:
            raise ClaimLost
        if claim.row is None:
            if isinstance(outcome, methods.Refused | methods.Unavailable):
                return outcome
            raise RuntimeError(f"method {settlement.method.name} settled without a claim")
        if isinstance(outcome, methods.Unknown):
            settlement.waiter.idle = outcome.refused
        return await self._insist(claim, self._outcome_of(claim, outcome))

    async def _give_up(self, claim: _Claim) -> None:
        if claim.tried is not None:
            await self.unwritten.soon(claim.tried.id, claim.given_up, uncertain=True)

    def _outcome_of(
        self, claim: _Claim, outcome: methods.Settled | methods.Refused | methods.Unavailable | methods.Unknown
    ) -> TimedStep:
        """What a settlement's end makes of its row."""
        match outcome:
            case methods.Settled():
                return self._as_settled(outcome, claim.waiter)
            case methods.Refused() | methods.Unavailable():
                # Provably nothing was sent by this claim. Whoever sends for another one has said UNKNOWN before.
                reason = outcome.detail if isinstance(outcome, methods.Refused) else outcome.reason
                return lambda row, _: transitions.failed(row, reason) if claim.holds(row) else None
        return lambda row, now: _opened(row, now, outcome.reason) if claim.holds(row) else None

    async def _insist(self, claim: _Claim, step: TimedStep) -> Payment:
        """Write an outcome while somebody waits for it, however often the store refuses; afterwards it is written
        when the store is back."""
        assert claim.row is not None  # noqa: S101 - its caller asked
        row, loop = claim.row, asyncio.get_running_loop()
        try:
            return await self._written(row, step)
        except LedgerUnavailable:
            self.unwritten.later(row.id, step)
        deadline = loop.time() + self.times.settle_wait
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                await self.unwritten.of(row.id)
                return await self._found(row.id)
            except LedgerUnavailable:
                if claim.waiter.gone or loop.time() >= deadline:
                    raise

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
            chain_id=quotes.chain_id(request) or settlement.quote.network.chain_id,
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

    def _as_settled(self, outcome: methods.Settled, waiter: Waiter | None = None) -> TimedStep:
        return lambda row, now: transitions.settled(
            row,
            now,
            reference=outcome.reference,
            payer=outcome.payer,
            awaited=waiter is not None and not waiter.gone,
        )

    async def _written(self, row: Payment, step: TimedStep) -> Payment:
        """The row after a step; where another was faster, the row as that one left it."""
        now = await self.ledger.now()
        written = await advance(self.ledger, row, lambda r: step(r, now))
        if written is None:
            return await self._found(row.id)
        self.metrics.payment(written.binding.route, written.method, written.state)
        return written

    async def _found(self, payment_id: str) -> Payment:
        row = await self.ledger.get(payment_id)
        if row is None:
            raise LedgerUnavailable(f"payment {payment_id}: expected a row, found none")
        return row

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
            # Nobody sends for who has left: it may have paid with another credential meanwhile.
            waits = settlement is not None and not settlement.waiter.gone
            raw = row.envelope or (method.raw(settlement.credential) if settlement is not None and waits else None)
            if raw is not None and row.mode == "pull":
                if row.state is State.SETTLING:
                    # Said before it is sent: whoever claimed it may live, and believe that nothing was.
                    row = await self._open(row, "sent again")
                if row.state is not State.UNKNOWN:
                    return row
                await method.resend(raw, network)
                found = await method.lookup(row.reference or "", row.valid_before, network)
        match found:
            case methods.Settled():
                waiter = settlement.waiter if settlement is not None else None
                if waiter is not None:
                    waiter.claimed = True
                return await self._written(row, _only_of(row.reference, self._as_settled(found, waiter)))
            case methods.Never(reason):
                never = _only_of(row.reference, lambda r, _: transitions.failed(r, reason))
                return await self._written(row, never)
            case methods.NotYet():
                return await self._open(row, "not on the chain yet")
        await self._open(row, "the chain cannot be asked")
        return None

    async def _open(self, row: Payment, reason: str) -> Payment:
        """Write that nobody knows yet."""
        return await self._written(row, _only_of(row.reference, lambda r, now: _opened(r, now, reason)))

    async def outcome(self, row: Payment, settlement: Settlement | None, seconds: float) -> Payment:
        """Resolve until the outcome is known or the time is up; the row as it is then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            row = await self.resolve(row, settlement) or await self.ledger.get(row.id) or row
            if row.state not in (State.SETTLING, State.UNKNOWN) or loop.time() + _POLL_SECONDS > deadline:
                return row
            await asyncio.sleep(_POLL_SECONDS)

    async def network(self, row: Payment, settlement: Settlement | None = None) -> Network | None:
        """The chain a payment was made on: today's network, or as it was when it was removed, or became another
        chain's, while payments were open on it."""
        if settlement is not None:
            return settlement.quote.network
        return await self.networks.of(row)

    async def write(self) -> None:
        """Write what the store could not take while it was away.

        Raises:
            LedgerUnavailable: it still cannot.
        """
        await self.unwritten.write()
        await self.networks.write()

    async def aclose(self, grace_seconds: float) -> None:
        """Let settlements that run come to an end, for a bounded time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)


def _only_of(reference: str | None, step: TimedStep) -> TimedStep:
    """What the chain's answer about a transaction leads to, while the row is that transaction's: when a node
    answers late, the row of a failed payment may be another's."""
    return lambda row, now: step(row, now) if row.reference == reference else None


def _opened(row: Payment, now: int, reason: str) -> Payment | None:
    """Nobody knows yet. The longer it is open, the rarer the chain is asked without a payer asking us."""
    pause = min(max(now - row.created_at, _FIRST_PAUSE_MS), _LONGEST_PAUSE_MS)
    return transitions.unknown(row, reason, now + pause)
