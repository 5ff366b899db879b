"""The ledger fails at any call of a Check: 503 without a challenge, and the payment is whole afterwards."""

from pathlib import Path
from typing import Any

import pytest
from promises import PRICE, World, challenges, make_world, problem, read

from mpp_authz.ledger import State
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
