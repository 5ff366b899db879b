"""Request + price + ledger -> verdict: the rules of docs/payments.md, in one place. Knows no gRPC, no Envoy.

Read `Gate.check` first, then `_check`, `_first` for a credential that is new and `_known` for one that has a row.
The order of questions is HMAC, ledger, expiry. Two laws hold in every branch: nothing priced is allowed without a
settled payment or a credit for exactly this request, and once money may have moved no answer carries a challenge.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mpp_authz import challenge, methods, problems, quotes, verdicts, wire
from mpp_authz.cases import Case, Terms
from mpp_authz.challenge import MalformedCredential, Presented
from mpp_authz.closing import Begun, Closer
from mpp_authz.credits import POLL_SECONDS, Credits
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, RefusedTransfer, State, transitions
from mpp_authz.methods import Method, Verified
from mpp_authz.metrics import Metrics
from mpp_authz.patience import WAIT_IN_ALL, Patience, Times
from mpp_authz.pricing import RoutePrice
from mpp_authz.problems import Kind
from mpp_authz.quotes import Request
from mpp_authz.settlement import ClaimLost, Settlement, Settler, Waiter
from mpp_authz.unwritten import advance
from mpp_authz.verdicts import Allow, Deny, Verdict

log = logging.getLogger(__name__)

#: Between two looks at a row that has been busy for long: whoever has many streams open can have each looked at.
_LONGEST_PAUSE_SECONDS: Final = 0.2

_BEFORE_THE_LEDGER: Final = "It was asked for before this ledger began."
_ANOTHER: Final = "Another credential was presented for this challenge."
_NOT_READABLE: Final = (
    "There is a payment for this challenge, but not with these parameters, or by a key or a version that this "
    "gateway does not have. Do not pay again; present it as and where it was paid, or ask the operator."
)
_USED_UP: Final = "The attempts or the life of this payment are used up. Do not pay again; ask the operator."


@dataclass(slots=True)
class Gate:
    """Answers every Check."""

    terms: Terms
    ledger: Ledger
    methods: Mapping[str, Method]
    settler: Settler
    closer: Closer
    metrics: Metrics
    times: Times = field(default_factory=Times)
    _patience: Patience = field(default_factory=lambda: Patience(WAIT_IN_ALL))  # by row
    _by_payer: Patience = field(default_factory=Patience)  # anybody may have a stream open

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
        with self.settler.telling():
            if not task.done():
                await self.settler.check_ended(waiter)
            verdict = await task
            if isinstance(verdict, Allow):
                await self.closer.not_sent(self._begun(verdict))

    async def _guarded(self, request: Request, waiter: Waiter) -> Verdict:
        try:
            return await self._check(request, waiter)
        except LedgerUnavailable as error:
            log.error("ledger unavailable", extra={"error": str(error)})
            if waiter.claimed:
                with self.settler.telling():
                    await self.settler.check_ended(waiter)
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
            return await self._foreign(request, price, presented, "This challenge was not issued by this server.")
        waiter.challenge_id = presented.challenge.id
        try:
            bound, fields = quotes.read(presented.challenge)
        except ValueError:
            # Signed with our key by somebody else, such as an SDK that shares the secret, or by another version.
            return await self._foreign(request, price, presented, "This challenge was not issued by this gateway.")
        clock = self.ledger.clock
        case = Case(self.terms, self.settler, clock, request, price, presented, waiter, bound, fields)
        row = await self._row(presented.challenge.id)
        return await (self._first(case) if row is None else self._known(case, row))

    async def _foreign(self, request: Request, price: RoutePrice, presented: Presented, detail: str) -> Deny:
        """A challenge of which nothing can be believed: a key was taken away, or it is another gateway's. Where
        there is a payment for its id nobody is asked to pay again."""
        echoed = presented.challenge.id
        row = await self._row(echoed) if challenge.ID.fullmatch(echoed) else None  # no store is asked for nonsense
        if row is not None and row.state is not State.FAILED:
            return verdicts.used(_NOT_READABLE)
        return await self.fresh(request, price, problems.INVALID_CHALLENGE, detail)

    # --- a challenge ------------------------------------------------------------------------------------

    async def fresh(self, request: Request, price: RoutePrice, kind: Kind, detail: str) -> Deny:
        """402 with fresh challenges: only where no money can have moved."""
        offers = []
        for offer in price.offers:
            method, network = self.methods.get(offer.method), self.terms.network(offer.network)
            if method is not None and network is not None and await method.offered(offer, network):
                offers.append((offer, method, network))
        if not offers:
            return verdicts.unavailable(wire.NO_OFFER)
        wanted = challenge.accepted([(o.method, o.intent) for o, _, _ in offers], request.accept_payment)
        minted = quotes.mint(
            request,
            request.route or "",
            price,
            [offers[at] for at in wanted],
            self.terms.keys.challenge,
            self.ledger.clock(),
        )
        lines = challenge.www_authenticate_lines(minted, price.description)
        for one in minted:
            self.metrics.challenge(request.route or "", one.method)
        headers = tuple(("www-authenticate", line) for line in lines)
        return verdicts.deny(kind, detail, challenge_id=minted[0].id, headers=headers)

    async def _refused(self, case: Case, kind: Kind, detail: str) -> Deny:
        """No money moved: say why, with fresh challenges."""
        return await self.fresh(case.request, case.price, kind, detail)

    # --- the first time we see a credential -------------------------------------------------------------

    async def _first(self, case: Case, replacing: Payment | None = None) -> Verdict:
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
            taken = await self._credits.take(case, verified)
            if isinstance(taken, Payment):
                return await self._known(case, taken)
            if taken is not None:
                return taken
        return await self._settle(case, settlement, verified, replacing)

    async def _settle(
        self, case: Case, settlement: Settlement, verified: Verified, replacing: Payment | None
    ) -> Verdict:
        try:
            result = await self.settler.settle(settlement, verified, replacing)
        except ClaimLost:
            if case.waiter.gone:
                return verdicts.unknown()
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

    async def _refuse(self, case: Case, replacing: Payment | None, kind: Kind, detail: str) -> Verdict:
        """This Check moved no money. Another one of the same credential may have, meanwhile: a payer may be poor
        because this payment was taken. Then its row is the answer."""
        row = await self.ledger.get(case.presented.challenge.id)
        if row is not None and row != replacing:
            return await self._known(case, row)
        return await self._refused(case, kind, detail)

    async def _refuse_transfer(self, case: Case, reference: str, detail: str) -> Deny:
        """A push transfer that pays us, but not for this: no challenge, and a person gets to see it."""
        await self.ledger.refuse(
            RefusedTransfer(
                case.presented.challenge.id,
                reference,
                case.request.route or "",
                case.bound.network,
                detail,
                self.ledger.clock(),
            )
        )
        return verdicts.used(
            f"This transfer cannot pay for this request. {detail} Do not pay again; ask the operator."
        )

    # --- a credential we have seen ----------------------------------------------------------------------

    async def _known(self, case: Case, row: Payment) -> Verdict:
        """The table of docs/payments.md: the row's state decides."""
        if row.credential_hash != case.presented.fingerprint:
            if row.state is State.FAILED and row.mode == "pull" and case.pushed:
                return await self._first(case, replacing=row)
            if case.pushed:
                return await self._second_payment(case, row)
            return verdicts.used(_ANOTHER)
        if row.state is State.SPENT:
            paid = await self._row(row.paid_by or "")
            if paid is None:
                raise LedgerUnavailable(f"payment {row.id}: the row that paid it is missing")
            row = paid
        if row.state is State.FAILED:
            return await self._refused(case, problems.VERIFICATION_FAILED, "The payment did not settle.")
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
        with self._patience.waiting(row.id, self.times.in_progress_wait) as seconds:
            row = await self._at_rest(case, row, seconds)
        match row.state:
            case State.CREDIT:
                return await self._deliver(case, row)
            case State.DELIVERED:
                return await self._again(case, row)
            case State.OWED | State.LAPSED:
                return verdicts.used(_USED_UP)
            case State.FAILED:
                return await self._refused(case, problems.VERIFICATION_FAILED, "The payment did not settle.")
            case State.UNKNOWN:
                return verdicts.unknown()
        return verdicts.in_progress("This payment is being used by another request.")

    async def _second_payment(self, case: Case, row: Payment) -> Deny:
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

    async def _asked_again(self, case: Case, row: Payment) -> Allow | None:
        """Answer for an attempt that another process began and did not live to answer."""
        now = await self.ledger.now()
        following = transitions.asked_again(row, now, case.lease(now))
        if following is None or not await self.closer.begin(row, following):
            return None
        return verdicts.allow(following, case.presented.challenge.id)

    async def _at_rest(self, case: Case, row: Payment, seconds: float) -> Payment:
        """The row once nobody is busy with it; as it is, when that takes longer than we wait."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + seconds, POLL_SECONDS
        while True:
            over = transitions.is_over(row, await self.ledger.now(), self.settler.owner)
            if row.state is State.UNKNOWN or (row.state is State.SETTLING and over):
                return await self._resolved(case, row, seconds)
            if row.state is State.DELIVERING:
                row = await self.closer.heard_out(row)
            late = case.waiter.gone or loop.time() >= deadline
            if late or row.state not in (State.SETTLING, State.DELIVERING):
                return row
            await asyncio.sleep(pause)
            pause = min(pause * 3 / 2, _LONGEST_PAUSE_SECONDS)
            row = await self.ledger.get(row.id) or row

    async def _never_sent(self, case: Case, row: Payment) -> bool:
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

    async def _resolved(self, case: Case, row: Payment, seconds: float) -> Payment:
        """SETTLING whose process died, or UNKNOWN: what the chain says of it."""
        if row.id != case.presented.challenge.id or case.method is None or case.network is None:
            return await self.settler.outcome(row, None, seconds)
        settlement = case.settlement(case.method, case.network)
        return await self.settler.outcome(row, settlement, seconds)

    async def _again(self, case: Case, row: Payment) -> Verdict:
        """DELIVERED. Forwarded again only where the upstream promises to answer an Idempotency-Key once."""
        if case.price.idempotent and row.idempotency_hash and row.idempotency_hash == case.idempotency_hash:
            return await self._deliver(case, row)
        return verdicts.used("This credential has already been used.")

    # --- letting it through -----------------------------------------------------------------------------

    async def _deliver(self, case: Case, row: Payment) -> Verdict:
        """CREDIT -> DELIVERING, by compare-and-set: the winner's request goes to the upstream."""
        if case.waiter.gone:
            return verdicts.unknown()
        now = await self.ledger.now()
        following = transitions.delivering(row, now, case.lease(now), case.idempotency_hash)
        if following is None:
            await advance(self.ledger, row, lambda r: transitions.life_over(r, now))
            return verdicts.used(_USED_UP)
        if not await self.closer.begin(row, following):
            # By the credential's own row: a SPENT one leads to the row that paid it once more.
            changed = await self.ledger.get(case.presented.challenge.id)
            if changed is None:
                raise LedgerUnavailable(f"payment {row.id}: expected a row, found none")
            return await self._known(case, changed)
        return verdicts.allow(following, case.presented.challenge.id)

    @property
    def _credits(self) -> Credits:
        return Credits(self.ledger, self.settler, self.closer, self.times, self._by_payer)

    async def _row(self, payment_id: str) -> Payment | None:
        """A row, with everything in it that we know and could not write before."""
        await self.settler.unwritten.of(payment_id)
        await self.closer.unwritten.of(payment_id)
        return await self.ledger.get(payment_id)
