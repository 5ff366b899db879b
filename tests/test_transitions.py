"""What may follow what: every state with every event, and the laws that hold on every path."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from ledgers import payment

from mpp_authz.ledger import Payment, State, transitions
from mpp_authz.ledger.transitions import Lease, Outcome, Whereabouts

NOW = 1_000_000
LEASE = Lease("authz-0/b1", NOW + 60_000, "envoy-1")

#: A row of each state, as it would be: settled a while ago, on its first of three attempts.
ROWS = {
    state: payment(
        state=state,
        attempt=0 if state in (State.SETTLING, State.UNKNOWN, State.FAILED) else 1,
        life_until=NOW + 1,
        lease_until=NOW,
        lease_owner="authz-0/b1",
        settled_at=1,
    )
    for state in State
}
EVENTS: dict[str, Callable[[Payment], Payment | None]] = {
    "unknown": lambda row: transitions.unknown(row, "why", NOW + 9),
    "failed": lambda row: transitions.failed(row, "why"),
    "check ended": transitions.check_ended,
    "settled": lambda row: transitions.settled(row, NOW, reference="0x1", payer="0xbb"),
    "delivering": lambda row: transitions.delivering(row, NOW, LEASE, ""),
    "given up": transitions.given_up,
    "superseded": transitions.superseded,
    "not sent": lambda row: transitions.not_sent(row, 1, LEASE.owner),
    "delivered": lambda row: transitions.ended(row, Outcome(1, True, False, 200), NOW),
    "undelivered": lambda row: transitions.ended(row, Outcome(1, False, True, 500), NOW),
    "lease over": lambda row: transitions.lease_over(row, NOW),
    "renewed": lambda row: transitions.renewed(row, 1, NOW + 9),
    "life over": lambda row: transitions.life_over(row, NOW + 1),
}
#: What follows; a pair that is not here: nothing does.
FOLLOWS = {
    (State.SETTLING, "unknown"): State.UNKNOWN,
    (State.SETTLING, "failed"): State.FAILED,
    (State.SETTLING, "check ended"): State.SETTLING,
    (State.SETTLING, "settled"): State.CREDIT,
    (State.SETTLING, "given up"): State.SETTLING,
    (State.UNKNOWN, "unknown"): State.UNKNOWN,
    (State.UNKNOWN, "failed"): State.FAILED,
    (State.UNKNOWN, "settled"): State.CREDIT,
    (State.CREDIT, "delivering"): State.DELIVERING,
    (State.CREDIT, "delivered"): State.DELIVERED,
    (State.CREDIT, "life over"): State.LAPSED,
    (State.DELIVERED, "delivering"): State.DELIVERED,
    (State.DELIVERING, "not sent"): State.CREDIT,
    (State.DELIVERING, "delivered"): State.DELIVERED,
    (State.DELIVERING, "undelivered"): State.CREDIT,
    (State.DELIVERING, "lease over"): State.CREDIT,
    (State.DELIVERING, "renewed"): State.DELIVERING,
    (State.OWED, "delivered"): State.DELIVERED,
    (State.LAPSED, "delivered"): State.DELIVERED,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", EVENTS)
def test_every_state_follows_every_event_as_the_table_says(state: State, event: str) -> None:
    following = EVENTS[event](ROWS[state])

    assert (following and following.state) == FOLLOWS.get((state, event))


def test_a_settlement_sets_the_life_the_route_promised_and_drops_the_envelope() -> None:
    row = replace(ROWS[State.SETTLING], envelope="0x76", credit_life=500, payer=None)

    credit = transitions.settled(row, NOW, reference="0x2", payer="0xcc")

    assert credit is not None
    assert (credit.life_until, credit.envelope, credit.payer, credit.reference) == (NOW + 500, None, "0xcc", "0x2")


def test_a_check_that_ended_is_noted_once() -> None:
    noted = transitions.check_ended(ROWS[State.SETTLING])

    assert noted is not None
    assert transitions.check_ended(noted) is None


@pytest.mark.parametrize(
    "changes", [{"attempt": 3}, {"life_until": NOW}, {"attempt": 3, "state": State.DELIVERED}], ids=str
)
def test_nothing_is_delivered_without_attempts_or_life(changes: dict[str, int]) -> None:
    assert transitions.delivering(replace(ROWS[State.CREDIT], **changes), NOW, LEASE, "") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [State.DELIVERING, State.CREDIT, State.OWED, State.LAPSED])
def test_a_late_delivered_of_any_attempt_closes_the_payment(state: State) -> None:
    row = replace(ROWS[state], attempt=3)

    closed = transitions.ended(row, Outcome(1, True, False, 200), NOW)

    assert closed is not None
    assert (closed.state, closed.delivered_at) == (State.DELIVERED, NOW)


def test_a_late_undelivered_of_an_older_attempt_is_ignored() -> None:
    row = replace(ROWS[State.DELIVERING], attempt=2)

    assert transitions.ended(row, Outcome(1, False, True, 500), NOW) is None


def test_an_attempt_taken_back_does_not_count() -> None:
    row = replace(ROWS[State.DELIVERING], attempt=2, faults=1)

    back = transitions.not_sent(row, 2, LEASE.owner)

    assert back is not None
    assert (back.state, back.attempt, back.faults) == (State.CREDIT, 1, 1)
    assert transitions.not_sent(row, 1, LEASE.owner) is None


@pytest.mark.parametrize(
    ("attempt", "faults", "state"),
    [(0, 0, State.OWED), (1, 0, State.LAPSED), (1, 1, State.OWED), (3, 0, State.LAPSED), (3, 2, State.OWED)],
)
def test_a_credit_at_its_end_lapses_only_by_the_payers_doing(attempt: int, faults: int, state: State) -> None:
    row = replace(ROWS[State.CREDIT], attempt=attempt, faults=faults)

    over = transitions.life_over(row, row.life_until)

    assert over is not None
    assert over.state is state


def test_a_credit_with_life_and_attempts_left_goes_on() -> None:
    assert transitions.life_over(ROWS[State.CREDIT], NOW) is None


@pytest.mark.parametrize(
    ("attempt", "until"), [(2, NOW + 9), (1, NOW)], ids=["another attempt", "not later than it is"]
)
def test_a_lease_is_renewed_only_forward_and_by_its_own_attempt(attempt: int, until: int) -> None:
    assert transitions.renewed(ROWS[State.DELIVERING], attempt, until) is None


@pytest.mark.parametrize(
    ("row", "owner", "expected"),
    [
        (payment(lease_until=NOW, lease_owner="a/1"), "a/1", True),
        (payment(lease_until=NOW + 1, lease_owner="a/1"), "a/1", False),
        (payment(lease_until=NOW + 1, lease_owner="a/1"), "a/2", True),
        (payment(lease_until=NOW + 1, lease_owner="b/1"), "a/2", False),
        (payment(lease_until=NOW + 1, lease_owner="zone/a/1"), "zone/a/2", True),
        (payment(state=State.DELIVERING, lease_until=NOW + 1, lease_owner="a/1"), "a/2", False),
        (payment(lease_until=NOW + 1, lease_owner=""), "a/2", True),
        (payment(state=State.DELIVERING, lease_until=NOW + 1, lease_owner=""), "a/2", False),
    ],
    ids=[
        "over",
        "live",
        "slot booted again",
        "another slot",
        "a slot with a slash",
        "a delivery outlives authz",
        "a settlement that was given up",
        "a delivery without an owner",
    ],
)
def test_a_lease_is_over_in_time_or_when_its_slot_has_booted_again(
    row: Payment, owner: str, expected: bool
) -> None:
    assert transitions.is_over(row, NOW, owner) is expected


BESIDE, GONE, AWAY = Whereabouts.BESIDE, Whereabouts.GONE, Whereabouts.AWAY
SILENCE = 30
LIVE, OVER = {"lease_until": NOW + 1}, {"lease_until": NOW}


@pytest.mark.parametrize(
    ("envoy", "lease", "answered_at", "seen_at", "expected"),
    [
        (BESIDE, LIVE, 0, 0, False),
        (BESIDE, OVER, NOW, 0, True),
        (GONE, LIVE, NOW, NOW, True),
        (GONE, OVER, NOW, NOW, True),
        (AWAY, LIVE, 0, 0, False),
        (AWAY, OVER, 0, 0, True),
        (AWAY, OVER, NOW - SILENCE, NOW - SILENCE, True),
        (AWAY, OVER, NOW - SILENCE + 1, 0, False),
        (AWAY, OVER, 0, NOW - SILENCE + 1, False),
        (AWAY, OVER, None, 0, True),
    ],
    ids=[
        "beside us, and its lease goes on",
        "beside us, and no news by the end of the lease",
        "gone, and its lease goes on",
        "gone, at the end of the lease",
        "never heard of, and its lease goes on",
        "never heard of, and its Check was answered long ago",
        "silent",
        "never heard of, and its Check was answered just now",
        "heard of a moment ago",
        "never heard of, in a row of an older version",
    ],
)
def test_a_lease_is_ended_by_whoever_knows_that_no_news_can_come(
    envoy: Whereabouts, lease: dict[str, int], answered_at: int | None, seen_at: int, expected: bool
) -> None:
    row = replace(ROWS[State.DELIVERING], answered_at=answered_at, **lease)  # type: ignore[arg-type]

    assert transitions.may_end(row, NOW, envoy, seen_at, SILENCE) is expected


@pytest.mark.parametrize("state", [state for state in State if state is not State.DELIVERING])
def test_only_a_delivery_has_a_lease_that_an_envoy_holds(state: State) -> None:
    assert not transitions.may_end(ROWS[state], NOW, GONE, 0, SILENCE)


@pytest.mark.parametrize(("mode", "state"), [("pull", State.FAILED), ("push", None), ("proof", None)])
def test_only_a_payment_that_nobody_sent_gives_way_to_another(mode: str, state: State | None) -> None:
    row = transitions.given_up(replace(ROWS[State.SETTLING], mode=mode, envelope="0x76"))
    assert row is not None

    following = transitions.superseded(row)

    assert (following and following.state) == state
    assert row.check_ended
    assert transitions.superseded(replace(row, lease_owner="authz-0/b1")) is None


def test_an_attempt_is_taken_back_by_its_own_lease_where_it_matters() -> None:
    row = replace(ROWS[State.DELIVERING], lease_until=NOW + 5)

    assert transitions.not_sent(row, 1, LEASE.owner, NOW + 4) is None
    assert transitions.not_sent(row, 1, LEASE.owner, NOW + 5) is not None


def test_a_credential_that_takes_a_credit_leaves_a_row_that_names_no_transaction() -> None:
    row = replace(ROWS[State.CREDIT], reference="0x1", version=4)

    spent = transitions.spent(
        row, NOW, challenge_id="c2", credential_hash="h2", payer="0xbb", valid_before=9, minted_at=8
    )

    assert (spent.id, spent.state, spent.paid_by, spent.reference) == ("c2", State.SPENT, row.id, None)
    assert (spent.credential_hash, spent.created_at, spent.version) == ("h2", NOW, 0)
    assert spent.binding == row.binding


class Paths(RuleBasedStateMachine):
    """Any events in any order, news of any attempt among them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.row = payment(credit_life=50, attempts_allowed=3)
        self.states = [self.row.state]
        self.blameless: list[bool] = []  # of each attempt that ended: a client abort, or a 4xx of the payer's

    def _take(self, following: Payment | None) -> bool:
        if following is not None:
            assert following.id == self.row.id
            self.row = following
            self.states.append(following.state)
        return following is not None

    @rule(ms=st.integers(1, 30))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule()
    def unknown(self) -> None:
        self._take(transitions.unknown(self.row, "w", self.now))

    @rule()
    def failed(self) -> None:
        self._take(transitions.failed(self.row, "w"))

    @rule()
    def settled(self) -> None:
        self._take(transitions.settled(self.row, self.now, reference="0x1", payer=None))

    @rule()
    def delivering(self) -> None:
        self._take(transitions.delivering(self.row, self.now, replace(LEASE, until=self.now + 20), ""))

    @rule()
    def given_up(self) -> None:
        self._take(transitions.given_up(self.row))

    @rule()
    def superseded(self) -> None:
        self._take(transitions.superseded(self.row))

    @rule()
    def not_sent(self) -> None:
        self._take(transitions.not_sent(self.row, self.row.attempt, LEASE.owner))

    @rule(attempt=st.integers(1, 3), delivered=st.booleans(), fault=st.booleans())
    def news(self, attempt: int, delivered: bool, fault: bool) -> None:
        counted = self.row.state is State.DELIVERING and attempt == self.row.attempt
        if (
            self._take(transitions.ended(self.row, Outcome(attempt, delivered, fault, 500), self.now))
            and not delivered
        ):
            assert counted
            self.blameless.append(not fault)

    @rule()
    def lease_over(self) -> None:
        if self._take(transitions.lease_over(self.row, self.now)):
            self.blameless.append(False)

    @rule()
    def life_over(self) -> None:
        self._take(transitions.life_over(self.row, self.now))

    @invariant()
    def money_that_was_taken_is_never_forgotten(self) -> None:
        paid = [state in transitions.PAID for state in self.states]
        assert paid == sorted(paid)

    @invariant()
    def attempts_never_exceed_what_was_promised(self) -> None:
        assert 0 <= self.row.attempt <= self.row.attempts_allowed
        assert 0 <= self.row.faults <= self.row.attempts_allowed

    @invariant()
    def it_lapses_only_if_every_attempt_ended_by_the_payers_doing(self) -> None:
        if self.row.state is State.LAPSED:
            assert self.blameless
            assert all(self.blameless)
        if self.row.state is State.OWED:
            assert not self.blameless or not all(self.blameless)

    @invariant()
    def delivered_and_failed_are_for_ever(self) -> None:
        for final in (State.DELIVERED, State.FAILED):
            assert set(_after(self.states, final)) <= {final}


def _after(states: Iterable[State], first: State) -> list[State]:
    states = list(states)
    return states[states.index(first) :] if first in states else []


TestPaths = Paths.TestCase
TestPaths.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
