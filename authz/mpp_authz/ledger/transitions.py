"""What may follow what. Pure: a row and what happened give the next row, or None where nothing follows.

Rule 1: everything that decides the next state of a payment is in this file. Stores compare and set; nobody else
writes `state`. The picture is in docs/payments.md and must change with this file.

    SETTLING ----> CREDIT <----> DELIVERING ----> DELIVERED
     |    |         ^  |             |                ^
     |    v         |  |             v                |
     |  UNKNOWN ----+  +--------> OWED | LAPSED ------+  late news
     v    v
     FAILED                     SPENT: this challenge took another row's credit

A payment that settles while its Check waits is a credit `promised` to that Check, which delivers at once.
"""

from dataclasses import dataclass, replace
from enum import Enum

from mpp_authz.ledger import Payment, State

#: Settled, so the money is ours and the payer is owed something or got it.
PAID = frozenset({State.DELIVERING, State.DELIVERED, State.CREDIT, State.OWED, State.LAPSED})


@dataclass(frozen=True, slots=True)
class Lease:
    """Who delivers now, until when (store milliseconds), through which Envoy, for which HTTP request of its."""

    owner: str
    until: int
    data_plane: str
    request_id: str = ""


class Whereabouts(Enum):
    """Where the Envoy of a delivery is, for the process that asks."""

    BESIDE = "beside"  # its outcome file was read just now as far as it goes, and may grow
    GONE = "gone"  # it writes no more, and all that it wrote was read, by us or by another
    AWAY = "away"  # nobody here can read what it writes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one delivery ended. `fault`: by us or the upstream, not by the payer or a 4xx of the payer's making."""

    attempt: int
    delivered: bool
    fault: bool
    status: int
    flags: str = ""


def unknown(row: Payment, reason: str, ask_again_at: int) -> Payment | None:
    """It was sent, or may have been, and nobody knows the outcome yet."""
    if row.state not in (State.SETTLING, State.UNKNOWN):
        return None
    return replace(row, state=State.UNKNOWN, reason=reason, check_ended=True, lease_until=ask_again_at)


def failed(row: Payment, reason: str) -> Payment | None:
    """It can never settle. Its transaction may be named by another row again."""
    if row.state not in (State.SETTLING, State.UNKNOWN):
        return None
    return replace(row, state=State.FAILED, reason=reason, envelope=None, check_ended=True)


def given_up(row: Payment) -> Payment | None:
    """The claim on it ended before anything was sent, or the store never said that it was made: it is nobody's,
    and whoever has the credential may go on at once."""
    if row.state is not State.SETTLING:
        return None
    return replace(row, lease_owner="", check_ended=True)


def superseded(row: Payment) -> Payment | None:
    """Another payment takes the place of one that was given up. Never of a transfer that was made before we heard
    of it."""
    if row.lease_owner or row.mode != "pull" or row.state is not State.SETTLING:
        return None
    return failed(row, "it was given up before anything was sent")


def check_ended(row: Payment) -> Payment | None:
    """Nobody waits for this settlement any more; a retry of the payer may have its outcome."""
    open_ = row.state is State.SETTLING or (row.state is State.CREDIT and row.attempt == 0)
    if not open_ or row.check_ended:
        return None
    return replace(row, check_ended=True)


def settled(row: Payment, now: int, *, reference: str, payer: str | None, awaited: bool = False) -> Payment | None:
    """The money is ours: a credit, until the request is handed to the upstream.

    `awaited`: its own Check is about to do that.
    """
    if row.state not in (State.SETTLING, State.UNKNOWN):
        return None
    return replace(
        row,
        state=State.CREDIT,
        reference=reference,
        payer=payer or row.payer,
        settled_at=now,
        answered_at=now,
        life_until=now + row.credit_life,
        envelope=None,
        check_ended=not awaited,
        reason="",
    )


def delivering(row: Payment, now: int, lease: Lease, idempotency_hash: str) -> Payment | None:
    """Hand the request to the upstream once more. None: no attempts or no life left, or nothing is owed."""
    if row.state not in (State.CREDIT, State.DELIVERED):
        return None
    if row.attempt >= row.attempts_allowed or now >= row.life_until:
        return None
    return replace(
        row,
        # A delivered payment forwarded again for its Idempotency-Key stays delivered: no credit can come of it.
        state=row.state if row.state is State.DELIVERED else State.DELIVERING,
        attempt=row.attempt + 1,
        answered_at=now,
        lease_owner=lease.owner,
        lease_until=lease.until,
        data_plane=lease.data_plane,
        request_id=lease.request_id,
        idempotency_hash=idempotency_hash,
    )


def spent(
    row: Payment,
    now: int,
    *,
    challenge_id: str,
    credential_hash: str,
    payer: str | None,
    valid_before: int | None,
    minted_at: int,
) -> Payment:
    """The row of a challenge whose credential takes `row`'s credit. It names no transaction: none was sent."""
    return replace(
        row,
        id=challenge_id,
        state=State.SPENT,
        credential_hash=credential_hash,
        payer=payer,
        reference=None,
        valid_before=valid_before,
        minted_at=minted_at,
        created_at=now,
        paid_by=row.id,
        version=0,
    )


def asked_again(row: Payment, now: int, lease: Lease) -> Payment | None:
    """The same Envoy asks again for the same HTTP request: it never got the answer of the process that began this
    attempt, so nothing reached the upstream, and the attempt is ours to answer."""
    if row.state is not State.DELIVERING or row.lease_owner == lease.owner or not lease.request_id:
        return None
    if (row.data_plane, row.request_id) != (lease.data_plane, lease.request_id):
        return None
    return replace(row, lease_owner=lease.owner, lease_until=lease.until, answered_at=now)


def not_sent(row: Payment, attempt: int, owner: str, until: int | None = None) -> Payment | None:
    """The Check that would have let this attempt through was never answered: nothing reached the upstream.
    `until`: the end of that attempt's lease, where it must be this very one."""
    if row.state is not State.DELIVERING or (row.attempt, row.lease_owner) != (attempt, owner):
        return None
    if until is not None and row.lease_until != until:
        return None
    return replace(row, state=State.CREDIT, attempt=attempt - 1, lease_until=0, check_ended=True)


def ended(row: Payment, outcome: Outcome, now: int) -> Payment | None:
    """News of a delivery. A late *not delivered* of an older attempt is ignored; a late *delivered* of any attempt
    closes the payment, an owed or lapsed one too."""
    if row.state not in PAID or row.state is State.DELIVERED:
        return None
    if outcome.delivered:
        return replace(
            row,
            state=State.DELIVERED,
            delivered_at=now,
            lease_until=0,
            last_status=outcome.status,
            last_flags=outcome.flags,
        )
    if row.state is not State.DELIVERING or outcome.attempt != row.attempt:
        return None
    undelivered = replace(
        row,
        state=State.CREDIT,
        faults=row.faults + outcome.fault,
        lease_until=0,
        last_status=outcome.status,
        last_flags=outcome.flags,
    )
    return undelivered if row.attempt < row.attempts_allowed else _used_up(undelivered)


def lease_over(row: Payment, now: int) -> Payment | None:
    """No news by the end of the lease: not delivered, and not by the payer's doing."""
    if row.state is not State.DELIVERING:
        return None
    return ended(row, Outcome(row.attempt, delivered=False, fault=True, status=0, flags="NO_NEWS"), now)


def renewed(row: Payment, attempt: int, until: int, owner: str = "") -> Payment | None:
    """A delivery is alive: its lease goes on, and is `owner`'s, who heard so from its Envoy."""
    if row.state is not State.DELIVERING or row.attempt != attempt:
        return None
    heir = owner or row.lease_owner
    if until <= row.lease_until and heir == row.lease_owner:
        return None
    return replace(row, lease_until=max(until, row.lease_until), lease_owner=heir)


def life_over(row: Payment, now: int) -> Payment | None:
    """A credit nobody used in its life, or whose attempts are used up."""
    if row.state is not State.CREDIT or (now < row.life_until and row.attempt < row.attempts_allowed):
        return None
    return _used_up(row)


def _used_up(row: Payment) -> Payment:
    """OWED, or LAPSED where every attempt ended by a 4xx of the payer's making or the payer hanging up."""
    lapsed = row.attempt > 0 and row.faults == 0
    return replace(row, state=State.LAPSED if lapsed else State.OWED, lease_until=0)


def promised(row: Payment, now: int, within: int) -> bool:
    """Whether a credit is its own Check's, which is about to deliver it: no other credential may take it. A Check
    does so in `within` milliseconds, or its process died in between."""
    fresh = now < (row.settled_at or 0) + within
    return row.state is State.CREDIT and row.attempt == 0 and not row.check_ended and fresh


def may_end(row: Payment, now: int, envoy: Whereabouts, seen_at: int, silence: int) -> bool:
    """Whether no news of a delivery means by now that it was not delivered.

    `seen_at`: when the store last heard that its Envoy lives, 0 for never; `silence`: milliseconds after which
    that is too long ago. Only whoever reads what an Envoy writes knows before, or at, the end of the lease.
    """
    if row.state is not State.DELIVERING:
        return False
    if envoy is Whereabouts.GONE:
        return True
    if now < row.lease_until:
        return False
    return envoy is Whereabouts.BESIDE or now >= max(seen_at, row.answered_at or 0) + silence


def is_over(row: Payment, now: int, owner: str) -> bool:
    """Whether the lease of a row has ended for `owner` ("<slot>/<boot>").

    A settlement is bound to the process that began it: when the same slot has booted again, that process is
    gone, and one that was given up is nobody's. A delivery is bound to its Envoy, which lives on when authz does
    not.
    """
    if now >= row.lease_until or (row.state is State.SETTLING and not row.lease_owner):
        return True
    slot, boot = owner.rsplit("/", 1)
    held_slot, _, held_boot = row.lease_owner.rpartition("/")
    return row.state is State.SETTLING and held_slot == slot and held_boot != boot
