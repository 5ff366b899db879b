"""Request + price + ledger -> verdict: the rules of docs/payments.md, in one place. Knows no gRPC, no Envoy.

Read `Gate.check` first, then `_check`, `_first` for a credential that is new and `_known` for one that has a row.
The order of questions is HMAC, ledger, expiry. Two laws hold in every branch: nothing priced is allowed without a
settled payment or a credit for exactly this request, and once money may have moved no answer carries a challenge.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from mpp_authz import challenge, methods, problems, quotes, verdicts
from mpp_authz.challenge import Bound, MalformedCredential, Presented
from mpp_authz.closing import Begun, Closer, advance
from mpp_authz.keys import Keys
from mpp_authz.ledger import Binding, Ledger, LedgerUnavailable, Payment, RefusedTransfer, State, transitions
from mpp_authz.methods import Credential, Method, Quote, Verified
from mpp_authz.metrics import Metrics
from mpp_authz.pricing import Network, Pricing, RoutePrice
from mpp_authz.problems import Kind
from mpp_authz.quotes import Request
from mpp_authz.settlement import ClaimLost, Settlement, Settler, Waiter
from mpp_authz.verdicts import Allow, Deny, Verdict

log = logging.getLogger(__name__)

#: Between two looks at a row that another Check is busy with. Seconds.
_POLL_SECONDS: Final = 0.025
#: Checks that wait for one row. Whoever holds one answer back could else fill the lane of all who pay, with
#: requests that present one credential.
_WAIT_FOR_ONE: Final = 8

_BEFORE_THE_LEDGER: Final = "It was asked for before this ledger began."
_ANOTHER: Final = "Another credential was presented for this challenge."
_USED_UP: Final = "The attempts or the life of this payment are used up. Do not pay again; ask the operator."


class Terms(Protocol):
    """What is for sale and who signs, as it is now."""

    @property
    def pricing(self) -> Pricing: ...

    @property
    def keys(self) -> Keys: ...

    def route(self, key: str) -> RoutePrice | None: ...

    def network(self, name: str) -> Network | None: ...

    async def reload_now(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. Shorter than Envoy's ext_authz timeout, in this order."""

    settle_wait: float = 10.0  # a Check waits this long for its settlement
    in_progress_wait: float = 2.0  # and this long for somebody else's


@dataclass(slots=True)
class Gate:
    """Answers every Check."""

    terms: Terms
    ledger: Ledger
    methods: Mapping[str, Method]
    settler: Settler
    closer: Closer
    metrics: Metrics
    clock: Callable[[], float]  # Unix seconds; only for minting and expiry, never for leases
    times: Times = field(default_factory=Times)
    _waiting: dict[str, int] = field(default_factory=dict)  # Checks by the row they wait for

    async def check(self, request: Request) -> Verdict:
        """The verdict on one request.

        With a credential it is made in a task of its own: when Envoy gives up or the time is over, the task goes
        on, a settlement in it ends in a credit, and an attempt it began is taken back, because nothing reached
        the upstream.

        Raises:
            asyncio.CancelledError: Envoy gave up.
        """
        waiter = Waiter()
        if request.authorization is None and request.payment_authorization is None:
            return await self._guarded(request, waiter)  # minting touches nothing that could be left half done
        task = self.settler.shielded(self._guarded(request, waiter))
        try:
            await asyncio.wait({task}, timeout=self.times.settle_wait)
        except asyncio.CancelledError:
            self._abandon(task, waiter)
            raise
        if not task.done():
            self._abandon(task, waiter)
            return verdicts.unknown()
        verdict = task.result()
        if isinstance(verdict, Allow):
            begun = self._begun(verdict)
            if not self.closer.let_through(request.id, begun):
                self.settler.shielded(self.closer.not_sent(begun))
        return verdict

    def _begun(self, verdict: Allow) -> Begun:
        return Begun(verdict.payment, verdict.attempt, self.settler.owner)

    def _abandon(self, task: "asyncio.Task[Verdict]", waiter: Waiter) -> None:
        waiter.gone = True
        self.settler.shielded(self._afterwards(task, waiter))

    async def _afterwards(self, task: "asyncio.Task[Verdict]", waiter: Waiter) -> None:
        """What is left to write when nobody waits: that nobody does, and that nothing went to the upstream."""
        if waiter.challenge_id is not None and not task.done():
            row = await self.ledger.get(waiter.challenge_id)
            if row is not None:
                await advance(self.ledger, row, transitions.check_ended)
        verdict = await task
        if isinstance(verdict, Allow):
            await self.closer.not_sent(self._begun(verdict))

    async def _guarded(self, request: Request, waiter: Waiter) -> Verdict:
        try:
            return await self._check(request, waiter)
        except LedgerUnavailable as error:
            log.error("ledger unavailable", extra={"error": str(error)})
            return verdicts.unavailable(f"The payment ledger cannot be reached. {verdicts.PRESENT_AGAIN}")

    async def _check(self, request: Request, waiter: Waiter) -> Verdict:
        key = request.route
        price = None if key is None else self.terms.route(key)
        if key is not None and price is None:
            # Pricing is published before routes, so this is a race that one reload ends.
            await self.terms.reload_now()
            price = self.terms.route(key)
        if key is None or price is None:
            return verdicts.unavailable("This route has no price yet.")
        if price.digest_max_bytes is not None and request.body is None:
            request = replace(request, body=b"")  # no body is what is bound, then
        if not quotes.secure(request, self.terms.pricing.transport):
            return verdicts.deny(
                problems.MISDIRECTED,
                "Payments are only taken over https. Use the https address of this service.",
            )
        try:
            token = quotes.token(request)
        except quotes.BadCredentials as error:
            return verdicts.deny(problems.BAD_REQUEST, str(error))
        if token is None:
            return await self.fresh(
                request, price, problems.PAYMENT_REQUIRED, price.description or "Payment is required."
            )
        try:
            presented = challenge.read_credential(token)
        except MalformedCredential as error:
            return await self.fresh(
                request, price, problems.MALFORMED_CREDENTIAL, f"The credential cannot be read: {error}."
            )
        # HMAC first, then the ledger, then everything else.
        if not self.terms.keys.challenge.ours(presented.challenge):
            return await self.fresh(
                request, price, problems.INVALID_CHALLENGE, "This challenge was not issued by this server."
            )
        waiter.challenge_id = presented.challenge.id
        try:
            bound, fields = quotes.read(presented.challenge)
        except ValueError:
            # Signed with our key by somebody else, such as an SDK that shares the secret.
            return await self.fresh(
                request, price, problems.INVALID_CHALLENGE, "This challenge was not issued by this gateway."
            )
        case = _Case(self, request, price, presented, waiter, bound, fields)
        row = await self.ledger.get(presented.challenge.id)
        return await (self._first(case) if row is None else self._known(case, row))

    # --- a challenge ------------------------------------------------------------------------------------

    async def fresh(self, request: Request, price: RoutePrice, kind: Kind, detail: str) -> Deny:
        """402 with fresh challenges: only where no money can have moved."""
        offers = []
        for offer in price.offers:
            method, network = self.methods.get(offer.method), self.terms.network(offer.network)
            if method is not None and network is not None and await method.offered(offer, network):
                offers.append((offer, method, network))
        if not offers:
            return verdicts.unavailable("No way to pay for this is available now.")
        wanted = challenge.accepted([(o.method, o.intent) for o, _, _ in offers], request.accept_payment)
        minted = quotes.mint(
            request,
            request.route or "",
            price,
            [offers[at] for at in wanted],
            self.terms.keys.challenge,
            int(self.clock() * 1000),
        )
        lines = tuple(("www-authenticate", challenge.www_authenticate(one, price.description)) for one in minted)
        for one in minted:
            self.metrics.challenge(request.route or "", one.method)
        return verdicts.deny(kind, detail, challenge_id=minted[0].id, headers=lines)

    # --- the first time we see a credential -------------------------------------------------------------

    async def _first(self, case: "_Case", replacing: Payment | None = None) -> Verdict:
        """Verify, claim, settle, deliver."""
        method, network = case.method, case.network
        if method is None or network is None:
            if case.pushed:
                # The money may be ours, and nobody can be asked.
                return verdicts.unavailable(f"This payment cannot be checked now. {verdicts.PRESENT_AGAIN}")
            return await self._refuse(
                case,
                replacing,
                problems.INVALID_CHALLENGE,
                "The method or network of this challenge is no longer accepted.",
            )
        wrong = case.wrong()
        if wrong is not None and not case.pushed:
            return await self._refuse(case, replacing, *wrong)
        settlement = case.settlement(method, network)
        begun = time.perf_counter()
        verified = await method.verify(settlement.credential, settlement.quote)
        self.metrics.verified(method.name, type(verified).__name__.lower(), time.perf_counter() - begun)
        match verified:
            case methods.Refused(slug, detail):
                return await self._refuse(case, replacing, problems.REFUSALS[slug], detail)
            case methods.TransferRefused(reference, detail):
                return await self._refuse_transfer(case, reference, detail)
            case methods.Unavailable():
                return verdicts.unavailable(f"The payment cannot be checked now. {verdicts.PRESENT_AGAIN}")
        if case.pushed:
            # The money moved before we heard of it: expiry and revocation are asked of the transfer's moment.
            wrong = case.wrong(verified.transferred_at)
            if wrong is not None:
                return await self._refuse_transfer(case, verified.reference or "", wrong[1])
            if case.bound.minted_at < await self.ledger.born_at():
                # A ledger that was lost knows nothing of it: it may have been delivered.
                return await self._refuse_transfer(case, verified.reference or "", _BEFORE_THE_LEDGER)
        elif verified.mode == "pull" and verified.payer_proved and replacing is None:
            # Where it starts again its challenge has a row, so it cannot stand for another payment's credit.
            taken = await self._take_credit(case, verified)
            if taken is not None:
                return taken
        return await self._settle(case, settlement, verified, replacing)

    async def _settle(
        self, case: "_Case", settlement: Settlement, verified: Verified, replacing: Payment | None
    ) -> Verdict:
        try:
            result = await self.settler.settle(settlement, verified, replacing)
        except ClaimLost:
            row = await self.ledger.get(case.presented.challenge.id)
            if row is not None and row != replacing:
                return await self._known(case, row)
            return verdicts.used("This transaction has already been used for another challenge.")
        match result:
            case methods.Refused(slug, detail):
                return await self._refuse(case, replacing, problems.REFUSALS[slug], detail)
            case methods.Unavailable():
                return verdicts.unavailable(f"The payment cannot be settled now. {verdicts.PRESENT_AGAIN}")
            case Payment(state=State.UNKNOWN):
                # One more look where a node refused it: forged signatures must not fill the lane of those who pay.
                seconds = 0.0 if case.waiter.idle else self.times.settle_wait
                result = await self.settler.outcome(result, settlement, seconds)
                if result.state is State.UNKNOWN:
                    return verdicts.unknown()
        return await self._known(case, result)

    async def _refuse(self, case: "_Case", replacing: Payment | None, kind: Kind, detail: str) -> Verdict:
        """This Check moved no money. Another one of the same credential may have, meanwhile: a payer may be poor
        because this payment was taken. Then its row is the answer."""
        row = await self.ledger.get(case.presented.challenge.id)
        if row is not None and row != replacing:
            return await self._known(case, row)
        return await case.refuse(kind, detail)

    async def _refuse_transfer(self, case: "_Case", reference: str, detail: str) -> Deny:
        """A push transfer that pays us, but not for this: no challenge, and a person gets to see it."""
        await self.ledger.refuse(
            RefusedTransfer(
                case.presented.challenge.id,
                reference,
                case.request.route or "",
                case.bound.network,
                detail,
                int(self.clock() * 1000),
            )
        )
        return verdicts.used(
            f"This transfer cannot pay for this request. {detail} Do not pay again; ask the operator."
        )

    # --- a credential we have seen ----------------------------------------------------------------------

    async def _known(self, case: "_Case", row: Payment) -> Verdict:
        """The table of docs/payments.md: the row's state decides."""
        if row.credential_hash != case.presented.fingerprint:
            if row.state is State.FAILED and row.mode == "pull" and case.pushed:
                return await self._first(case, replacing=row)
            if case.pushed:
                return await self._second_payment(case, row)
            return verdicts.used(_ANOTHER)
        if row.state is State.SPENT:
            paid = await self.ledger.get(row.paid_by or "")
            if paid is None:
                raise LedgerUnavailable(f"payment {row.id}: the row that paid it is missing")
            row = paid
        if row.state is State.FAILED:
            return await case.refuse(problems.VERIFICATION_FAILED, "The payment did not settle.")
        wrong = quotes.elsewhere(case.request, case.price, case.presented.challenge) or quotes.mismatch(
            case.request, row.binding, self.terms.keys.challenge
        )
        if wrong is not None:
            return verdicts.used(f"This payment is for another request: {wrong}.")
        if await self._never_sent(case, row):
            return await self._first(case, replacing=row)
        again = await self._asked_again(case, row)
        if again is not None:
            return again
        with self._patience(row) as seconds:
            row = await self._at_rest(case, row, seconds)
        match row.state:
            case State.CREDIT:
                return await self._deliver(case, row)
            case State.DELIVERED:
                return await self._again(case, row)
            case State.OWED | State.LAPSED:
                return verdicts.used(_USED_UP)
            case State.FAILED:
                return await case.refuse(problems.VERIFICATION_FAILED, "The payment did not settle.")
            case State.UNKNOWN:
                return verdicts.unknown()
        return verdicts.in_progress("This payment is being used by another request.")

    async def _second_payment(self, case: "_Case", row: Payment) -> Deny:
        """A push credential for a challenge that another credential holds: a transfer that exists is a second
        payment, and a person gets to see it."""
        verified = None
        if case.method is not None and case.network is not None:
            verified = await case.method.verify(case.credential, case.quote(case.network))
        if isinstance(verified, Verified | methods.TransferRefused) and verified.reference != row.reference:
            return await self._refuse_transfer(case, verified.reference or "", _ANOTHER)
        if isinstance(verified, methods.Unavailable):
            return verdicts.unavailable(f"The payment cannot be checked now. {verdicts.PRESENT_AGAIN}")
        return verdicts.used(_ANOTHER)

    async def _asked_again(self, case: "_Case", row: Payment) -> Allow | None:
        """Answer for an attempt that another process began and did not live to answer."""
        now = await self.ledger.now()
        following = transitions.asked_again(row, now, case.lease(now))
        if following is None or not await self.ledger.replace(row, following):
            return None
        return verdicts.allow(following, case.presented.challenge.id)

    @contextlib.contextmanager
    def _patience(self, row: Payment) -> Iterator[float]:
        """How many seconds a Check may wait for a row. Where many wait already, one look is all."""
        before = self._waiting.get(row.id, 0)
        self._waiting[row.id] = before + 1
        try:
            yield self.times.in_progress_wait if before < _WAIT_FOR_ONE else 0.0
        finally:
            self._waiting[row.id] -= 1
            if not self._waiting[row.id]:
                del self._waiting[row.id]

    async def _at_rest(self, case: "_Case", row: Payment, seconds: float) -> Payment:
        """The row once nobody is busy with it; as it is, when that takes longer than we wait."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            over = transitions.is_over(row, await self.ledger.now(), self.settler.owner)
            if row.state is State.UNKNOWN or (row.state is State.SETTLING and over):
                return await self._resolved(case, row, seconds)
            if row.state is State.DELIVERING:
                row = await self._delivered(row)
            if row.state not in (State.SETTLING, State.DELIVERING) or loop.time() >= deadline:
                return row
            await asyncio.sleep(_POLL_SECONDS)
            row = await self.ledger.get(row.id) or row

    async def _delivered(self, seen: Payment) -> Payment:
        """A DELIVERING row after all that its Envoy has written of it was read."""
        gone = await self.closer.read(seen.data_plane)
        row = await self.ledger.get(seen.id) or seen
        if row.state is not State.DELIVERING or row.attempt != seen.attempt:
            return row  # news came, or another attempt has begun, with a lease of its own
        if gone or row.lease_until <= await self.ledger.now():
            row = await self.closer.end_lease(row) or await self.ledger.get(row.id) or row
        return row

    async def _never_sent(self, case: "_Case", row: Payment) -> bool:
        """A sponsored payment whose process died between the claim and the co-signed envelope: nothing could be
        sent without it, so it starts again as if it were absent."""
        if row.mode != "pull" or row.envelope or case.method is None:
            return False
        if case.method.raw(case.credential) is not None:
            return False  # not sponsored: the payer's own transaction is all it takes
        if row.state is State.UNKNOWN:
            return True  # an envelope is stored in SETTLING only: there will be none
        over = transitions.is_over(row, await self.ledger.now(), self.settler.owner)
        return row.state is State.SETTLING and over

    async def _resolved(self, case: "_Case", row: Payment, seconds: float) -> Payment:
        """SETTLING whose process died, or UNKNOWN: what the chain says of it."""
        if row.id != case.presented.challenge.id or case.method is None or case.network is None:
            return await self.settler.outcome(row, None, seconds)
        settlement = case.settlement(case.method, case.network)
        return await self.settler.outcome(row, settlement, seconds)

    async def _again(self, case: "_Case", row: Payment) -> Verdict:
        """DELIVERED. Forwarded again only where the upstream promises to answer an Idempotency-Key once."""
        if case.price.idempotent and row.idempotency_hash and row.idempotency_hash == case.idempotency_hash:
            return await self._deliver(case, row)
        return verdicts.used("This credential has already been used.")

    # --- letting it through -----------------------------------------------------------------------------

    async def _deliver(self, case: "_Case", row: Payment) -> Verdict:
        """CREDIT -> DELIVERING, by compare-and-set: the winner's request goes to the upstream."""
        if case.waiter.gone:
            return verdicts.unknown()
        now = await self.ledger.now()
        following = transitions.delivering(row, now, case.lease(now), case.idempotency_hash)
        if following is None:
            await advance(self.ledger, row, lambda r: transitions.life_over(r, now))
            return verdicts.used(_USED_UP)
        if not await self.ledger.replace(row, following):
            # By the credential's own row: a SPENT one leads to the row that paid it once more.
            changed = await self.ledger.get(case.presented.challenge.id)
            if changed is None:
                raise LedgerUnavailable(f"payment {row.id}: expected a row, found none")
            return await self._known(case, changed)
        return verdicts.allow(following, case.presented.challenge.id)

    # --- unmodified clients get their credit too --------------------------------------------------------

    async def _take_credit(self, case: "_Case", verified: Verified) -> Verdict | None:
        """A signed, unbroadcast payment by a payer to whom this very request is owed: take the credit instead.

        None: nothing is owed, the new payment settles. The old credit's delivery and the new challenge's row
        are written in one transaction, so neither credential can be used twice.
        """
        paid_for, currency = case.binding, str(case.request_fields["currency"]).lower()
        asked = int(case.request_fields["amount"])
        deadline = asyncio.get_running_loop().time() + self.times.in_progress_wait  # for all rows together
        for query_hash in case.query_hashes():
            rows = await self.ledger.unfinished(
                verified.payer or "", replace(paid_for, query_hash=query_hash), currency
            )
            for row in sorted(rows, key=lambda r: r.state is not State.CREDIT):
                # A test network's money has the same name as the real one's.
                same_rail = (row.method, row.network) == (case.presented.challenge.method, case.bound.network)
                if not same_rail or int(row.amount) < asked or row.id == case.presented.challenge.id:
                    continue
                settled = await self._if_retry(case, row, deadline)
                if isinstance(settled, Deny):
                    return settled
                if settled is None or settled.state is not State.CREDIT:
                    continue
                taken = await self._take(case, verified, settled)
                if taken is not None:
                    return taken
        return None

    async def _if_retry(self, case: "_Case", row: Payment, deadline: float) -> Payment | Deny | None:
        """Whether an unfinished row is what this request retries. None: it is a parallel call, which pays."""
        loop = asyncio.get_running_loop()
        if transitions.promised(row, await self.ledger.now()):
            return None
        if row.state is State.CREDIT and row.attempt > 0 and case.bound.minted_at < (row.answered_at or 0):
            return None  # minted before the answer that failed: whoever retries has that credential
        if row.state is State.SETTLING and not row.check_ended:
            if not transitions.is_over(row, await self.ledger.now(), self.settler.owner):
                return None
            # Its process died. Whoever still waits for its Check has it asked again in moments, and comes first.
            while row.state is State.SETTLING and loop.time() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
                row = await self.ledger.get(row.id) or row
            if transitions.promised(row, await self.ledger.now()):
                return None
        if row.state in (State.SETTLING, State.UNKNOWN):
            row = await self.settler.outcome(row, None, max(0.0, deadline - loop.time()))
            return (
                verdicts.in_progress("An earlier payment for this request is still being settled.")
                if row.state in (State.SETTLING, State.UNKNOWN)
                else row
            )
        while row.state is State.DELIVERING:
            # A challenge minted before the row's Check was answered is a parallel call's.
            if case.bound.minted_at < max(row.answered_at or 0, row.minted_at):
                return None
            row = await self._delivered(row)
            if row.state is State.DELIVERING:
                if loop.time() >= deadline:
                    return None  # no news while its Envoy lives: the answer is still going out
                await asyncio.sleep(_POLL_SECONDS)
        return row

    async def _take(self, case: "_Case", verified: Verified, row: Payment) -> Verdict | None:
        now = await self.ledger.now()
        following = transitions.delivering(row, now, case.lease(now), case.idempotency_hash)
        if following is None:
            return None
        spent = replace(
            row,
            id=case.presented.challenge.id,
            state=State.SPENT,
            credential_hash=case.presented.fingerprint,
            payer=verified.payer,
            reference=None,
            valid_before=verified.valid_before,
            minted_at=case.bound.minted_at,
            created_at=now,
            paid_by=row.id,
            version=0,
        )
        if not await self.ledger.replace(row, following, also=spent):
            known = await self.ledger.get(case.presented.challenge.id)
            return None if known is None else await self._known(case, known)
        log.info("credit taken by a new credential", extra={"payment": row.id, "challenge": spent.id})
        return verdicts.allow(following, case.presented.challenge.id)


@dataclass(frozen=True, slots=True)
class _Case:
    """One request with one credential whose challenge is ours: its id was verified, so what it says we said."""

    gate: Gate
    request: Request
    price: RoutePrice
    presented: Presented
    waiter: Waiter
    bound: Bound
    request_fields: Mapping[str, Any]

    @property
    def pushed(self) -> bool:
        """The payer sent the money before asking us (payload type "hash", draft-tempo-charge-00)."""
        return self.presented.payload.get("type") == "hash"

    @property
    def credential(self) -> Credential:
        return Credential(self.presented.payload, self.presented.source)

    @property
    def method(self) -> Method | None:
        return self.gate.methods.get(self.presented.challenge.method)

    @property
    def network(self) -> Network | None:
        return self.gate.terms.network(self.bound.network)

    def quote(self, network: Network) -> Quote:
        """What we signed, with today's terms of the sponsor."""
        offer = next((o for o in self.price.offers if o.name == self.bound.offer), None)
        return Quote(self.presented.challenge, self.request_fields, network, offer.fee_payer if offer else None)

    def settlement(self, method: Method, network: Network) -> Settlement:
        return Settlement(self.presented, self.bound, self.quote(network), method, self.price, self.waiter)

    @property
    def binding(self) -> Binding:
        return quotes.binding(self.presented.challenge, self.bound)

    def query_hashes(self) -> tuple[str, ...]:
        """What an older row for the same query may say, whichever key signed it."""
        return self.gate.terms.keys.challenge.query_hashes(self.request.query) if self.bound.query_hash else ("",)

    @property
    def idempotency_hash(self) -> str:
        key = self.request.idempotency_key
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest() if key else ""

    def lease(self, now: int) -> transitions.Lease:
        return transitions.Lease(
            self.gate.settler.owner, now + self.price.lease * 1000, self.request.data_plane, self.request.id
        )

    def wrong(self, transferred_at: int | None = None) -> tuple[Kind, str] | None:
        """Why this challenge does not open this request now, or did not at the moment of its transfer."""
        echo = self.presented.challenge
        misplaced = quotes.foreign(self.request, self.price, echo) or quotes.mismatch(
            self.request, self.binding, self.gate.terms.keys.challenge
        )
        if misplaced is not None:
            return problems.INVALID_CHALLENGE, f"This challenge does not belong here: {misplaced}."
        moment = self.gate.clock() if transferred_at is None else transferred_at
        if moment >= quotes.expires_at(echo):
            return problems.PAYMENT_EXPIRED, f"The challenge expired at {echo.expires}."
        revoked = self.price.not_before
        if revoked is not None and self.bound.minted_at < revoked * 1000 and moment >= revoked:
            return problems.INVALID_CHALLENGE, "This quote was revoked."
        return None

    async def refuse(self, kind: Kind, detail: str) -> Deny:
        """No money moved: say why, with fresh challenges."""
        return await self.gate.fresh(self.request, self.price, kind, detail)
