"""Nobody fills the lane of those who pay, with however many streams."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from promises import SHORT, World, make_world, problem

from mpp_authz.patience import WAIT_IN_ALL
from mpp_authz.verdicts import Allow
from mpp_operator.bootstrap import BootstrapSettings

BUSY = (409, "payment-in-progress")


async def test_many_open_streams_hold_a_quarter_of_the_lane_and_no_more(world: World) -> None:
    streams = [world.pay(await world.challenge(), payer=f"0x{number:040x}") for number in range(20)]
    for one in streams:
        assert isinstance(await world.present(one), Allow)
    world.gate.times = replace(SHORT, settle_wait=9.0, in_progress_wait=8.0)

    waiting = [asyncio.create_task(world.present(one)) for one in streams for _ in range(8)]
    async with asyncio.timeout(7):
        while sum(task.done() for task in waiting) < len(waiting) - WAIT_IN_ALL:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    still = [task for task in waiting if not task.done()]
    answered = [task.result() for task in waiting if task.done()]
    for task in still:
        task.cancel()
    await asyncio.gather(*still, return_exceptions=True)

    lane: Any = next(field.default for field in fields(BootstrapSettings) if field.name == "paying_requests")
    assert len(still) == WAIT_IN_ALL == lane // 4
    assert {problem(one) for one in answered} == {BUSY}


async def test_a_check_that_left_waits_for_nothing(world: World) -> None:
    credential = world.pay(await world.challenge())
    assert isinstance(await world.present(credential), Allow)
    world.gate.times = replace(SHORT, settle_wait=9.0, in_progress_wait=8.0)
    again = asyncio.create_task(world.present(credential))
    async with asyncio.timeout(4):
        while not world.gate._patience._waiting:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.001)

    again.cancel()
    await asyncio.gather(again, return_exceptions=True)

    async with asyncio.timeout(4):
        await world.idle()


async def test_a_row_that_is_busy_for_long_is_looked_at_ever_more_rarely(tmp_path: Path) -> None:
    async with make_world(tmp_path / "state", failing=True) as world:
        credential = world.pay(await world.challenge())
        assert isinstance(await world.present(credential), Allow)
        world.gate.times = replace(SHORT, settle_wait=5.0, in_progress_wait=2.0)
        before = world.ledger.calls

        refused = await world.present(credential)

        assert problem(refused) == BUSY
        assert 10 < world.ledger.calls - before < 100  # 320 at the pace it begins with
