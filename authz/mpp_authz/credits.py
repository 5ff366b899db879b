"""Unmodified clients get their credit too: a signed payment that nobody has sent takes what its payer is owed for
this very request. Knows no HTTP.
"""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Final

from mpp_authz import verdicts
from mpp_authz.cases import Case
from mpp_authz.closing import Closer
from mpp_authz.ledger import Ledger, Payment, State, transitions
from mpp_authz.methods import Verified
from mpp_authz.patience import Patience, Times
from mpp_authz.settlement import Settler
from mpp_authz.verdicts import Allow, Deny

log = logging.getLogger(__name__)

#: Between two looks at a row that another Check is busy with. Seconds.
POLL_SECONDS: Final = 0.025

#: That a client left, or how its answer ended, is known within this time to the authz beside its Envoy.
_NOTICED_MS: Final = 500

_BUSY: Final = verdicts.in_progress("An earlier payment for this request is still being settled.")


@dataclass(slots=True)
class Credits:
    """Finds and takes credits."""

    ledger: Ledger
    settler: Settler
    closer: Closer
    times: Times
    _patience: Patience = field(default_factory=Patience)  # by payer: anybody may have a stream open

    async def take(self, case: Case, verified: Verified) -> Allow | Deny | Payment | None:
        """A signed, unbroadcast payment by a payer to whom this very request is owed: take the credit instead.

        None: nothing is owed, the new payment settles. Deny: whether something is owed cannot be known yet. A row:
        another Check of this credential was faster, and has its answer. The old credit's delivery and the new
        challenge's row are written in one transaction, so neither credential can be used twice.
        """
        rows = await self._candidates(case, verified)
        if not rows:
            return None
        with self._patience.waiting(verified.payer or "", self.times.in_progress_wait) as seconds:
            deadline = asyncio.get_running_loop().time() + seconds  # for all rows together
            for row in rows:
                taken = await self._from(row, case, verified, deadline)
                if taken is not None:
                    return taken
        return None

    async def _from(
        self, row: Payment, case: Case, verified: Verified, deadline: float
    ) -> Allow | Deny | Payment | None:
        """What one unfinished row gives; None: nothing."""
        while True:
            settled = await self._if_retry(case, row, deadline)
            if settled is None or isinstance(settled, Deny):
                return settled
            taken = await self._take(case, verified, settled)
            if taken is not None:
                return taken
            found = await self.ledger.get(settled.id)
            if found is None or found.version == settled.version:
                return None  # nothing is left of it
            row = found  # somebody was faster: an attempt that may be taken back, and then it is owed again

    async def _candidates(self, case: Case, verified: Verified) -> list[Payment]:
        """Unfinished rows of this payer that would pay for this request, credits first."""
        currency, asked = str(case.request_fields["currency"]).lower(), int(case.request_fields["amount"])
        found = []
        for target_hash in case.target_hashes():
            binding = replace(case.binding, target_hash=target_hash)
            rows = await self.ledger.unfinished(verified.payer or "", binding, currency)
            found += [
                row
                for row in sorted(rows, key=lambda r: r.state is not State.CREDIT)
                if int(row.amount) >= asked
                and row.id != case.presented.challenge.id
                and await self._same_rail(case, row)
            ]
        return found

    async def _same_rail(self, case: Case, row: Payment) -> bool:
        """A test network's money has the same name as the real one's; a network's name may become another's."""
        if case.network is None or (row.method, row.network) != (
            case.presented.challenge.method,
            case.bound.network,
        ):
            return False
        made_on = row.chain_id
        if not made_on:  # older than the column
            known = await self.settler.network(row)
            made_on = known.chain_id if known is not None else 0
        return made_on == case.network.chain_id

    async def _if_retry(self, case: Case, row: Payment, deadline: float) -> Payment | Deny | None:
        """Whether an unfinished row is what this request retries: then the row at rest. None: it is a parallel
        call's, or nothing comes of it, and the new payment settles. Deny: that cannot be known yet."""
        loop = asyncio.get_running_loop()
        row = await self._kept(case, await self._written(row), deadline)
        if row.state is State.CREDIT and row.attempt > 0 and case.bound.minted_at < (row.answered_at or 0):
            return None  # minted before the answer that failed: whoever retries has that credential
        if await self._promised(row):
            # Minted after it settled, and its Check delivers no more: maybe it died, maybe the store was away.
            return _BUSY if case.bound.minted_at > (row.settled_at or 0) else None
        if row.state is State.SETTLING and not row.check_ended:
            if not await self._over(row):
                return await self._waited_for(case, row, deadline)
            # Its process died. Whoever still waits for its Check has it asked again in moments, and comes first.
            while row.state is State.SETTLING and loop.time() < deadline:
                await asyncio.sleep(POLL_SECONDS)
                row = await self.ledger.get(row.id) or row
            if await self._promised(row):
                return None
        never = transitions.superseded(row)
        if never is not None and await self.ledger.replace(row, never):
            return None
        if row.state in (State.SETTLING, State.UNKNOWN):
            row = await self.settler.outcome(row, None, max(0.0, deadline - loop.time()))
            return _BUSY if row.state in (State.SETTLING, State.UNKNOWN) else row
        while row.state is State.DELIVERING:
            # A challenge minted before the row's Check was answered is a parallel call's.
            if case.bound.minted_at < max(row.answered_at or 0, row.minted_at):
                return None
            late = loop.time() >= deadline  # asked before: what is decided then has heard all there was by then
            row = await self.closer.heard_out(row)
            if row.state is State.DELIVERING:
                if late:
                    # No news while its Envoy lives: the answer is still going out. But where it may never have
                    # been told, nothing is on its way.
                    return None if await self._speaks(case, row) else _BUSY
                await asyncio.sleep(POLL_SECONDS)
        return row

    async def _speaks(self, case: Case, row: Payment) -> bool:
        """Whether Envoy was told of a delivery for sure: by us; by a process that has lived since this challenge
        was made; or by one that left in order, with all its answers given."""
        if row.lease_owner == self.settler.owner:
            return self.closer.is_out(row)
        word = await self.ledger.data_plane(row.lease_owner)
        return word is not None and (word.ended or word.seen_at > case.bound.minted_at + _NOTICED_MS)

    async def _waited_for(self, case: Case, row: Payment, deadline: float) -> Payment | Deny | None:
        """Of a settlement under way: whether its Check still waits, so that this is a parallel call.

        Ours is noted in a moment where it does not. Where it is another process's, a word of that process is
        waited for that is newer than this challenge: it would have noted by then that whoever asked has left. A
        process that died says nothing.
        """
        if case.bound.minted_at < row.created_at or self.settler.waits(row):
            return None
        loop = asyncio.get_running_loop()
        while True:
            word = await self.ledger.data_plane(row.lease_owner)
            row = await self.ledger.get(row.id) or row
            if row.state is not State.SETTLING or row.check_ended or await self._over(row):
                return await self._if_retry(case, row, deadline)
            others = row.lease_owner != self.settler.owner
            if others and word is not None and word.seen_at > case.bound.minted_at + _NOTICED_MS:
                return None
            if loop.time() >= deadline:
                return _BUSY
            await asyncio.sleep(POLL_SECONDS)

    async def _over(self, row: Payment) -> bool:
        return transitions.is_over(row, await self.ledger.now(), self.settler.owner)

    async def _kept(self, case: Case, row: Payment, deadline: float) -> Payment:
        """A promised credit once its Check has delivered it, in no time; or could not, and says so when it can."""
        while (
            case.bound.minted_at > (row.settled_at or 0)
            and await self._promised(row)
            and asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.sleep(POLL_SECONDS)
            row = await self.ledger.get(row.id) or row
        return row

    async def _promised(self, row: Payment) -> bool:
        if row.state is not State.CREDIT or row.attempt > 0:
            return False
        return transitions.promised(row, await self.ledger.now(), round(self.times.promised * 1000))

    async def _written(self, row: Payment) -> Payment:
        """The row with everything in it that we know and could not write before."""
        if row.id not in self.settler.unwritten and row.id not in self.closer.unwritten:
            return row
        await self.settler.unwritten.of(row.id)
        await self.closer.unwritten.of(row.id)
        return await self.ledger.get(row.id) or row

    async def _take(self, case: Case, verified: Verified, row: Payment) -> Allow | Payment | None:
        """None: it is not to be had, or nobody waits for it any more."""
        if row.state is not State.CREDIT or case.waiter.gone:
            return None
        now = await self.ledger.now()
        following = transitions.delivering(row, now, case.lease(now), case.idempotency_hash)
        if following is None:
            return None
        spent = transitions.spent(
            row,
            now,
            challenge_id=case.presented.challenge.id,
            credential_hash=case.presented.fingerprint,
            payer=verified.payer,
            valid_before=verified.valid_before,
            minted_at=case.bound.minted_at,
        )
        if not await self.closer.begin(row, following, spent):
            return await self.ledger.get(case.presented.challenge.id)
        log.info("credit taken by a new credential", extra={"payment": row.id, "challenge": spent.id})
        return verdicts.allow(following, case.presented.challenge.id)
