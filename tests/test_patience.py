"""Times follow from two settings, and nobody waits in crowds."""

import pytest

from mpp_authz.methods import tempo
from mpp_authz.patience import WAIT_FOR_ONE, Patience, Times


def test_everything_else_follows_from_how_long_a_check_waits() -> None:
    times = Times()

    assert (times.settling_lease, times.silence, times.promised, times.renewal, times.beat) == (60, 30, 5, 60, 3)


@pytest.mark.parametrize("settle_wait", [0.2, 1.0, 10.0, 60.0])
def test_a_settlement_is_its_process_longer_than_a_method_takes(settle_wait: float) -> None:
    times = Times(settle_wait)

    assert times.settling_lease >= times.confirmation + 2
    assert times.settling_lease > times.settle_wait
    assert times.silence > 2 * times.beat


def test_no_method_waits_longer_for_its_chain_than_leases_think() -> None:
    assert Times().confirmation >= tempo.CONFIRMATION_TIMEOUT


def test_a_few_wait_and_the_others_look_once() -> None:
    patience = Patience()
    waits = [patience.waiting("a", 2.0) for _ in range(WAIT_FOR_ONE + 1)]

    seconds = [each.__enter__() for each in waits]
    with patience.waiting("b", 2.0) as other:
        pass
    for each in waits:
        each.__exit__(None, None, None)
    with patience.waiting("a", 2.0) as again:
        pass

    assert seconds == [2.0] * WAIT_FOR_ONE + [0.0]
    assert (other, again) == (2.0, 2.0)
