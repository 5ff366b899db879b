"""Limits of sponsorship, and what is remembered of a purse. No chain: the clock and the answers are the test's."""

import asyncio
import dataclasses

import pytest

from mpp_authz.methods import _sponsorship
from mpp_authz.pricing import FeePayer

TERMS = FeePayer("sponsor", max_per_minute=3, max_per_payer_per_minute=2, min_balance="10")


@dataclasses.dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def sponsor(limits: _sponsorship.Limits, payer: str, terms: FeePayer = TERMS) -> None:
    with limits.sponsoring(terms, payer):
        pass


def test_a_payer_has_its_own_limit() -> None:
    limits = _sponsorship.Limits(Clock())
    sponsor(limits, "a")
    sponsor(limits, "a")

    with pytest.raises(_sponsorship.LimitReached, match="2 sponsored payments a minute and payer"):
        sponsor(limits, "a")
    sponsor(limits, "b")


def test_all_payers_together_have_a_limit() -> None:
    limits = _sponsorship.Limits(Clock())
    for payer in "abc":
        sponsor(limits, payer)

    with pytest.raises(_sponsorship.LimitReached, match="3 sponsored payments a minute"):
        sponsor(limits, "d")


def test_a_limit_is_free_again_after_a_minute() -> None:
    clock = Clock()
    limits = _sponsorship.Limits(clock)
    sponsor(limits, "a")
    sponsor(limits, "a")

    clock.now += _sponsorship.WINDOW

    sponsor(limits, "a")


def test_what_failed_counts_too() -> None:
    limits = _sponsorship.Limits(Clock())
    terms = dataclasses.replace(TERMS, max_per_minute=1)

    with pytest.raises(RuntimeError), limits.sponsoring(terms, "a"):
        raise RuntimeError

    with pytest.raises(_sponsorship.LimitReached):
        sponsor(limits, "b", terms)


def test_only_so_many_are_under_way_at_once() -> None:
    limits = _sponsorship.Limits(Clock(), in_flight=1)

    with limits.sponsoring(TERMS, "a"), pytest.raises(_sponsorship.LimitReached, match="under way"):
        sponsor(limits, "b")
    sponsor(limits, "b")


def test_sponsors_do_not_share_their_limits() -> None:
    limits = _sponsorship.Limits(Clock(), in_flight=1)

    with limits.sponsoring(TERMS, "a"):
        sponsor(limits, "a", dataclasses.replace(TERMS, key="other"))


class Bank:
    """Answers balances when it is told to."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0
        self.broken = False

    async def __call__(self, network: str, address: str) -> int:
        self.asked += 1
        await self.open.wait()
        if self.broken:
            raise ConnectionError
        return self.amount


async def settled() -> None:
    """Let background tasks run to their next wait."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_balance_is_asked_once_for_many_offers() -> None:
    bank, clock = Bank(10), Clock()
    purses = _sponsorship.Purses(bank, clock)

    assert [await purses.holds("net", "0xa", least) for least in (10, 11, 1)] == [True, False, True]
    assert bank.asked == 1


async def test_an_old_balance_is_used_while_it_is_asked_again() -> None:
    bank, clock = Bank(10), Clock()
    purses = _sponsorship.Purses(bank, clock)
    await purses.holds("net", "0xa", 10)
    clock.now += _sponsorship.REFRESH_AFTER + 1
    bank.amount = 0
    bank.open.clear()

    assert await purses.holds("net", "0xa", 10)
    bank.open.set()
    await settled()

    assert not await purses.holds("net", "0xa", 10)
    assert bank.asked == 2


async def test_a_balance_nobody_can_refresh_is_worth_nothing_in_the_end() -> None:
    bank, clock = Bank(10), Clock()
    purses = _sponsorship.Purses(bank, clock)
    await purses.holds("net", "0xa", 10)
    bank.broken = True

    clock.now += _sponsorship.STALE_AFTER
    assert await purses.holds("net", "0xa", 10)
    await settled()
    clock.now += 1
    assert not await purses.holds("net", "0xa", 10)


async def test_closing_ends_the_question() -> None:
    bank, clock = Bank(10), Clock()
    purses = _sponsorship.Purses(bank, clock)
    await purses.holds("net", "0xa", 10)
    bank.open.clear()
    clock.now += _sponsorship.REFRESH_AFTER + 1
    await purses.holds("net", "0xa", 10)

    await purses.aclose()

    assert len(asyncio.all_tasks()) == 1
