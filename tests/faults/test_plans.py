"""A plan is the same for ever, and says only what can happen."""

import collections

import plans
import points
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside import Mood
from system import Shape
from witnesses import Mode

SEEDS = st.integers(0, 10**9)
MPPX = Shape("mppx", "file", 1)


@given(SEEDS)
def test_a_seed_gives_the_same_plan_each_time(seed: int) -> None:
    assert plans.plan(seed) == plans.plan(seed)
    assert str(plans.plan(seed)) == str(plans.plan(seed))


def test_a_plan_of_today_is_the_plan_of_tomorrow() -> None:
    """A seed in an old report must mean what it meant: who changes plans says so by changing this line."""
    assert str(plans.plan(4)) == TODAY


@given(SEEDS)
def test_every_fault_is_at_a_named_point(seed: int) -> None:
    for fault in plans.plan(seed).faults:
        assert fault.point in points.ALL
        assert not fault.until or fault.until in points.ALL


@given(SEEDS)
def test_every_fault_is_bounded_in_time(seed: int) -> None:
    assert all(0 <= fault.seconds <= 6 for fault in plans.plan(seed).faults)


@given(SEEDS)
def test_nobody_plays_two_parts_and_copies_are_of_one_pull_credential(seed: int) -> None:
    players = plans.plan(seed).players
    assert len({player.name for player in players}) == len(players) <= 3
    for player in players:
        assert player.copies == 1 or (player.kind, player.mode, player.probe) == ("keeper", Mode.PULL, "")


@given(SEEDS)
def test_a_payer_whose_fee_is_paid_signs_and_does_not_send(seed: int) -> None:
    assert all(player.mode is Mode.PULL for player in plans.plan(seed).players if player.service == "gift")


@given(SEEDS)
def test_what_strikes_the_store_is_what_that_store_can_suffer(seed: int) -> None:
    plan = plans.plan(seed)
    actions = {fault.action for fault in plan.faults if fault.target == "store"}
    assert (
        actions
        <= {
            "sqlite": {"pause"},
            "postgres": {"kill", "pause", "cut"},
            "standby": {"failover", "cut"},
        }[plan.shape.store]
    )


@given(SEEDS)
def test_a_stranger_to_us_gets_the_same_plan_as_far_as_its_points_exist(seed: int) -> None:
    ours, theirs = plans.plan(seed), plans.plan(seed, MPPX)
    assert [(p.kind, p.mode, p.route, p.moods) for p in theirs.players] == [
        (p.kind, p.mode, p.route, p.moods) for p in ours.players
    ]
    assert set(theirs.faults) <= set(ours.faults)
    assert all(fault.point in points.OUTSIDE and fault.target != "store" for fault in theirs.faults)


def test_a_thousand_plans_name_every_point_and_every_mood() -> None:
    made = [plans.plan(seed) for seed in range(1000)]
    named = collections.Counter(fault.point for plan in made for fault in plan.faults)
    assert set(points.ALL) - set(named) == set()
    moods = {mood for plan in made for player in plan.players for mood in player.moods}
    assert moods | {Mood.WELL} == set(Mood)
    assert {plan.shape for plan in made} == set(plans._SHAPES)


@given(st.integers(0, 5000), st.integers(0, 120))
def test_batches_hold_every_seed_once(first: int, count: int) -> None:
    wanted = range(first, first + count)
    batches = list(plans.batches(wanted))
    assert sorted(seed for batch in batches for seed in batch) == list(wanted)
    for batch in batches:
        assert 1 <= len(batch) <= plans.LONGEST
        assert list(batch) == sorted(batch)
        assert len({plans.shape(seed) for seed in batch}) == 1
        assert len(batch) == 1 or not any(map(plans.expires, batch))


@pytest.mark.parametrize("on", [None, MPPX])
def test_a_run_that_plays_with_block_time_is_alone(on: Shape | None) -> None:
    alone = plans.EXPIRY_EVERY - 1
    assert (alone,) in plans.batches(range(alone - 3, alone + 3), on)


TODAY = (
    "seed 4 on sqlite x 1: a: pympp pull /shop/thing (503) probed by stranger; "
    "pause authz at ledger.settling.before 2.5 s; pause envoy at check.received 1 s"
)
