"""The ledger fails at any call of a Check: 503 without a challenge, and the payment is whole afterwards."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promises import NETWORK, PRICE, SHORT, World, challenges, make_world, problem, read

from mpp_authz.ledger import LedgerUnavailable, State
from mpp_authz.sweeping import Sweeper
from mpp_authz.verdicts import Allow

UNAVAILABLE = (503, "service-unavailable")


async def _settled_at_last(world: World, authorization: str, **fields: Any) -> Allow | None:
    """Present until it is let through, as a patient client would; time passes in between. None: it was never sent
    and cannot settle any more, so it is asked again."""
    for _ in range(6):
        verdict = await world.present(authorization, **fields)
        await world.idle()
        if isinstance(verdict, Allow):
            return verdict
        if challenges(verdict):
            assert (world.rail.sent, await world.state(authorization)) == ([], State.FAILED)
            return None
        world.clock.later(PRICE.lease + 1)
        world.open.clear()
    raise AssertionError(f"never let through: {verdict}")


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("sponsored", [False, True], ids=["pull", "sponsored"])
async def test_a_payment_survives_a_ledger_that_fails_at_any_call(
    tmp_path: Path, after: bool, sponsored: bool
) -> None:
    nth = 1
    while True:
        async with make_world(tmp_path / str(nth), failing=True) as world:
            authorization = world.pay(await world.challenge(), sponsored=sponsored)
            world.ledger.arm(nth, after=after)

            first = await world.present(authorization)
            await world.idle()
            if not world.ledger.failed:
                break
            world.ledger.disarm()

            # What failed once its outcome was known is written again while the Check waits.
            assert isinstance(first, Allow) or problem(first)[0] == 503, nth
            assert challenges(first) == ()
            allowed = first if isinstance(first, Allow) else await _settled_at_last(world, authorization)
            if allowed is not None:
                assert allowed.payment == read(authorization)
                assert world.rail.settlements() == 1
                assert len(set(world.rail.sent)) == 1
        nth += 1
    assert nth > 6


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_credit_survives_a_ledger_that_fails_at_any_call(tmp_path: Path, after: bool) -> None:
    nth = 1
    while True:
        async with make_world(tmp_path / str(nth), failing=True) as world:
            authorization = world.pay(await world.challenge())
            await world.news(await world.present(authorization), 500)
            world.ledger.arm(nth, after=after)

            first = await world.present(authorization)
            if not world.ledger.failed:
                break
            world.ledger.disarm()

            assert problem(first)[0] == 503
            assert await _settled_at_last(world, authorization) is not None
            assert world.rail.settlements() == 1
        nth += 1
    assert nth > 2


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_taking_a_credit_survives_a_ledger_that_fails_at_any_call(tmp_path: Path, after: bool) -> None:
    nth = 1
    while True:
        async with make_world(tmp_path / str(nth), failing=True) as world:
            old = world.pay(await world.challenge())
            await world.news(await world.present(old), 500)
            world.clock.later(1)
            new = world.pay(await world.challenge())
            world.ledger.arm(nth, after=after)

            first = await world.present(new)
            if not world.ledger.failed:
                break
            world.ledger.disarm()

            assert problem(first)[0] == 503
            allowed = await _settled_at_last(world, new)
            assert allowed is not None
            assert allowed.payment == read(old)
            assert world.rail.settlements() == 1
        nth += 1
    assert nth > 3


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("kind", ["pull", "sponsored", "push", "proof", "credit", "a credit taken"])
async def test_a_store_that_goes_away_at_any_call_and_comes_back_loses_nothing(
    tmp_path: Path, kind: str, after: bool
) -> None:
    """No time passes: whatever was under way is known as soon as the store is back, not at the end of a lease."""
    nth = 1
    while True:
        async with make_world(tmp_path / str(nth), failing=True) as world:
            authorization = await _ready(world, kind)
            before = world.rail.settlements()
            world.ledger.arm(nth, after=after, lasting=True)

            first = await world.present(authorization)
            await world.idle()
            if not world.ledger.failed:
                break
            world.ledger.disarm()
            assert challenges(first) == ()
            world.open.clear()  # an answer of 503 let nothing through
            second = first if isinstance(first, Allow) else await world.present(authorization)

            assert isinstance(second, Allow), (nth, second)
            assert second.attempt == (1 if before == 0 or kind == "push" else 2)
            assert world.rail.settlements() == max(before, 1 if kind in ("pull", "sponsored") else 0)
            assert len(set(world.rail.sent)) == world.rail.settlements()
            await world.news(second)
            assert (await world.inner.counts()).get(State.DELIVERED) == 1
        nth += 1
    assert nth > 4


async def _ready(world: World, kind: str) -> str:
    """A credential of a kind, that nobody has seen yet or that is owed its request."""
    if kind == "push":
        return world.push(await world.challenge())
    if kind == "proof":
        return world.pay(await world.challenge(), kind="proof")
    if kind in ("pull", "sponsored"):
        return world.pay(await world.challenge(), sponsored=kind == "sponsored")
    authorization = world.pay(await world.challenge())
    await world.news(await world.present(authorization), 500)
    world.clock.later(1)
    return authorization if kind == "credit" else world.pay(await world.challenge())


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("sponsored", [False, True], ids=["pull", "sponsored"])
async def test_a_client_that_signs_anew_after_the_store_went_away_pays_once(
    tmp_path: Path, sponsored: bool, after: bool
) -> None:
    nth = 1
    while True:
        async with make_world(tmp_path / str(nth), failing=True) as world:
            authorization = world.pay(await world.challenge(), sponsored=sponsored)
            world.ledger.arm(nth, after=after, lasting=True)
            first = await world.present(authorization)
            await world.idle()
            if not world.ledger.failed:
                break
            world.ledger.disarm()
            if isinstance(first, Allow):
                await world.news(first)
            else:
                world.clock.later(1)
                world.open.clear()

                second = await world.present(world.pay(await world.challenge(), sponsored=sponsored))

                assert isinstance(second, Allow), (nth, second)
            assert world.rail.settlements() == len(set(world.rail.sent)) == 1, nth
        nth += 1
    assert nth > 6


async def test_the_sweeper_writes_what_the_store_missed(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        world.rail.stop("after send")
        authorization = world.pay(await world.challenge())
        check = asyncio.create_task(world.present(authorization))
        await world.rail.reached("after send")
        world.ledger.arm(1, lasting=True)
        world.rail.go()
        first = await check
        await world.idle()
        sweeping = Sweeper(world.ledger, world.gate.settler, world.gate.closer)
        with pytest.raises(LedgerUnavailable):
            await sweeping.round()
        before = await world.state(authorization)

        world.ledger.disarm()
        await sweeping.round()

        row = await world.row(authorization)
        assert problem(first)[0] == 503
        assert before is State.SETTLING
        assert (row.state, row.check_ended) == (State.CREDIT, True)


async def test_an_outcome_is_written_while_its_check_waits_when_the_store_is_back_in_time(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        world.gate.times = world.gate.settler.times = replace(SHORT, settle_wait=9.0)
        world.rail.stop("after send")
        check = asyncio.create_task(world.present(world.pay(await world.challenge())))
        await world.rail.reached("after send")
        world.ledger.arm(1, lasting=True)
        world.rail.go()
        async with asyncio.timeout(10):
            while world.ledger.calls < 4:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.01)

        world.ledger.disarm()

        assert isinstance(await check, Allow)


async def test_an_attempt_that_could_not_be_taken_back_is_taken_back_later(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        authorization = world.pay(await world.challenge())
        allowed = await world.present(authorization, id="r1")
        assert isinstance(allowed, Allow)
        world.ledger.arm(1, lasting=True)
        await world.gate.closer.unanswered("r1")
        world.ledger.disarm()
        world.open.clear()

        again = await world.present(authorization)

        assert isinstance(again, Allow)
        assert again.attempt == 1


async def test_a_network_that_could_not_be_remembered_is_remembered_later(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        moved = replace(NETWORK, chain_id=8)
        world.ledger.arm(1)
        with pytest.raises(LedgerUnavailable):
            await world.gate.settler.networks.remember({moved.name: moved})
        world.ledger.disarm()

        await Sweeper(world.ledger, world.gate.settler, world.gate.closer).round()

        assert set(await world.inner.networks()) == {"devnet/7", "devnet/8"}


async def test_a_refused_transfer_that_cannot_be_noted_is_503(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        authorization = world.push(await world.challenge(), amount="1")
        world.ledger.arm(2)

        first = await world.present(authorization)
        world.ledger.disarm()

        assert problem(first) == UNAVAILABLE
        assert problem(await world.present(authorization)) == (403, "verification-failed")
        assert len(await world.ledger.refused(9)) == 1


async def test_news_the_ledger_could_not_take_is_in_the_outcome_file(tmp_path: Path) -> None:
    async with make_world(tmp_path / "s", failing=True) as world:
        authorization = world.pay(await world.challenge())
        allowed = await world.present(authorization)
        assert isinstance(allowed, Allow)
        line = f'{{"payment":"{allowed.payment}","attempt":"1","status":200,"flags":"-","finished":1}}\n'
        (world.folder / "envoy-1.log").write_text(line)
        world.ledger.arm(2)
        with pytest.raises(Exception, match="does not answer"):
            await world.gate.closer.read("envoy-1")
        world.ledger.disarm()

        await world.gate.closer.read("envoy-1")

        assert await world.state(authorization) is State.DELIVERED
