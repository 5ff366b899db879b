"""What waits for the store: written once it is back, in bounded memory."""

import asyncio
from dataclasses import replace
from typing import Any

import ledgers
import pytest
from promises import FailingLedger

from mpp_authz import unwritten
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment
from mpp_authz.unwritten import Unwritten


def flagged(flag: str) -> unwritten.TimedStep:
    def step(row: Payment, now: int) -> Payment | None:
        return None if flag in row.last_flags else replace(row, last_flags=row.last_flags + flag)

    return step


async def flags(ledger: Ledger, payment: str = "p1") -> str:
    row = await ledger.get(payment)
    assert row is not None
    return row.last_flags


async def kept(ledger: Ledger) -> tuple[Unwritten, FailingLedger]:
    await ledger.insert(ledgers.payment())
    failing = FailingLedger(ledger)
    return Unwritten(failing), failing


async def test_it_is_written_when_the_store_is_back(ledger: Ledger) -> None:
    waiting, store = await kept(ledger)
    store.arm(1, lasting=True)
    await waiting.soon("p1", flagged("a"))
    waiting.later("p1", flagged("b"))
    with pytest.raises(LedgerUnavailable):
        await waiting.write()
    before = await flags(ledger)

    store.disarm()
    await waiting.write()

    assert (before, await flags(ledger), len(waiting)) == ("", "ab", 0)


async def test_what_can_be_written_now_is(ledger: Ledger) -> None:
    waiting, _ = await kept(ledger)

    await waiting.soon("p1", flagged("a"))

    assert (await flags(ledger), "p1" in waiting) == ("a", False)


async def test_a_step_that_follows_no_more_is_dropped(ledger: Ledger) -> None:
    waiting, _ = await kept(ledger)
    waiting.later("p1", lambda row, now: None)
    waiting.later("gone", flagged("a"))

    await waiting.write()

    assert len(waiting) == 0


async def test_a_write_that_may_still_be_carried_out_is_waited_for(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unwritten, "_LATE_WRITE_SECONDS", 60.0)
    waiting, _ = await kept(ledger)
    waiting.later("p2", flagged("a"), uncertain=True)
    await waiting.write()
    still = "p2" in waiting

    await ledger.insert(ledgers.payment("p2"))  # the insert whose answer was lost
    await waiting.write()

    assert still
    assert (await flags(ledger, "p2"), len(waiting)) == ("a", 0)


async def test_whoever_asks_finds_it_written_though_another_is_writing_it(ledger: Ledger) -> None:
    await ledger.insert(ledgers.payment())
    reached, go = asyncio.Event(), asyncio.Event()

    class Held:
        def __getattr__(self, name: str) -> Any:
            return getattr(ledger, name)

        async def replace(self, *arguments: Any, **named: Any) -> bool:
            reached.set()
            await go.wait()
            return await ledger.replace(*arguments, **named)

    waiting = Unwritten(Held())
    waiting.later("p1", flagged("a"))
    writing = asyncio.create_task(waiting.write())
    await reached.wait()
    asking = asyncio.create_task(waiting.of("p1"))
    await asyncio.sleep(0)
    early = asking.done()
    go.set()
    await asyncio.gather(writing, asking)

    assert not early
    assert await flags(ledger) == "a"


async def test_a_store_that_stays_away_fills_no_memory(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    waiting = Unwritten(ledger)

    for number in range(5_000):
        waiting.later(f"p{number}", flagged("a"))
    for _ in range(100):
        waiting.later("p4999", flagged("a"))

    assert len(waiting) == 4_096
    assert "p0" not in waiting
    assert len(waiting._notes["p4999"].steps) == 16
    assert "left to the end of a lease" in caplog.text
