"""A process that leaves says that all its answers were given, and only where that is so."""

from pathlib import Path

from promises import FailingLedger, World, make_world

from mpp_authz.ledger import DataPlane, LedgerUnavailable
from mpp_authz.sweeping import Sweeper
from mpp_authz.verdicts import Allow

OWNER = "authz-0/boot-1"


def sweeper(world: World) -> Sweeper:
    return Sweeper(world.ledger, world.gate.settler, world.gate.closer)


async def last_word(world: World) -> DataPlane | None:
    return await world.inner.data_plane(OWNER)


async def test_a_process_whose_answers_were_all_given_says_so_when_it_leaves(world: World) -> None:
    assert isinstance(await world.present(world.pay(await world.challenge())), Allow)

    await sweeper(world).leave()

    word = await last_word(world)
    assert word is not None
    assert word.ended


async def test_a_process_that_may_have_begun_an_attempt_nobody_heard_of_does_not_say_that_it_left_in_order(
    tmp_path: Path,
) -> None:
    async with make_world(tmp_path / "state", failing=True, owner=OWNER) as world:
        authorization = world.pay(await world.challenge())
        held: FailingLedger = world.ledger
        replace = held.inner.replace

        async def lost(old: object, new: object, **also: object) -> bool:
            if getattr(new, "attempt", 0) == 1:
                raise LedgerUnavailable("its answer was lost")
            return await replace(old, new, **also)  # type: ignore[arg-type]

        held.inner.replace = lost  # type: ignore[method-assign]
        await world.present(authorization)
        held.inner.replace = replace  # type: ignore[method-assign]

        await sweeper(world).leave()

        assert await last_word(world) is None
