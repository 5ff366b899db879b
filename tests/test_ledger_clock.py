"""The server's clock as this machine knows it: whatever the round trips were, the truth is within the error."""

from hypothesis import given
from hypothesis import strategies as st

from mpp_authz.ledger.postgres import clock

_SECONDS = st.floats(0, 100, allow_nan=False)
#: (wait before the question, way there, way back), in seconds.
_TRIPS = st.lists(st.tuples(_SECONDS, st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=20)


@given(_TRIPS, st.floats(-1e9, 1e9))
def test_the_truth_is_within_the_error(trips: list[tuple[float, float, float]], offset: float) -> None:
    known: clock.Sample | None = None
    now = 1_000.0
    for wait, there, back in trips:
        now += wait
        taken = clock.sample("a", now, now + there + back, now + there + offset)
        now += there + back
        known = clock.better(known, taken)

        assert abs(known.offset - offset) <= known.error + 1e-5
        # and never much worse than the sample just taken
        assert known.error <= taken.error


def test_a_long_round_trip_says_less_than_a_recent_short_one() -> None:
    short = clock.sample("a", 100.0, 100.002, 5_000.001)
    long = clock.sample("a", 101.0, 104.0, 5_003.9)

    assert clock.better(short, long) is short


def test_a_long_round_trip_is_taken_when_nothing_recent_is_known() -> None:
    short = clock.sample("a", 100.0, 100.002, 5_000.001)
    long = clock.sample("a", 110.0, 113.0, 5_011.5)

    assert clock.better(short, long) is long


def test_a_clock_that_was_set_is_believed_at_once() -> None:
    known = clock.sample("a", 100.0, 100.002, 5_000.001)
    after = clock.sample("a", 101.0, 101.5, 9_000.25)

    assert clock.better(known, after) is after


def test_another_server_s_clock_is_another_clock() -> None:
    known = clock.sample("a", 100.0, 100.002, 5_000.001)
    other = clock.sample("b", 101.0, 101.5, 5_001.25)

    assert clock.better(known, other) is other


def test_time_goes_on_between_samples() -> None:
    known = clock.sample("a", 100.0, 100.0, 5_000.0)

    assert clock.milliseconds(known, 100.0) == 5_000_000
    assert clock.milliseconds(known, 103.5) == 5_003_500


def test_the_time_since_boot_rises() -> None:
    assert 0 < clock.since_boot() <= clock.since_boot()
