"""A process that died after it let a request through may have been heard by nobody: a retry pays nothing."""

import asyncio

from promises import World, problem

from mpp_authz.decide import Gate
from mpp_authz.patience import Times
from mpp_authz.sweeping import Sweeper
from mpp_authz.verdicts import Allow

BUSY = (409, "payment-in-progress")
TIMES = Times(settle_wait=5.0, in_progress_wait=0.3)


async def let_through(world: World) -> str:
    """A payment whose request goes to the upstream, as far as the ledger knows."""
    authorization = world.pay(await world.challenge())
    assert isinstance(await world.present(authorization), Allow)
    world.clock.later(1)
    return authorization


def successor(world: World, owner: str) -> Gate:
    other = world.another(owner)
    other.times = TIMES
    return other


async def test_a_retry_of_what_a_dead_process_let_through_waits_and_pays_nothing(world: World) -> None:
    await let_through(world)

    refused = await world.present(world.pay(await world.challenge()), gate=successor(world, "authz-0/boot-2"))

    assert problem(refused) == BUSY
    assert world.rail.settlements() == 1


async def test_a_retry_elsewhere_of_what_a_silent_process_let_through_waits_and_pays_nothing(
    world: World,
) -> None:
    await let_through(world)

    refused = await world.present(
        world.pay(await world.challenge()), gate=successor(world, "authz-1/boot-1"), data_plane="envoy-2"
    )

    assert problem(refused) == BUSY
    assert world.rail.settlements() == 1


async def test_a_parallel_call_elsewhere_pays_where_the_process_says_that_it_lives(world: World) -> None:
    await let_through(world)
    new = world.pay(await world.challenge())
    other = successor(world, "authz-1/boot-1")
    parallel = asyncio.create_task(world.present(new, gate=other, data_plane="envoy-2"))
    world.clock.later(1)

    gate = world.gate
    await Sweeper(gate.ledger, gate.settler, gate.closer)._beat()

    assert isinstance(await parallel, Allow)
    assert world.rail.settlements() == 2


async def test_once_the_lease_is_over_the_retry_takes_the_credit(world: World) -> None:
    old = await let_through(world)
    world.open.clear()  # nothing reached the upstream
    world.clock.later(((await world.row(old)).lease_until - await world.ledger.now()) / 1000 + 1)

    taken = await world.present(world.pay(await world.challenge()), gate=successor(world, "authz-0/boot-2"))

    assert isinstance(taken, Allow)
    assert (taken.payment, world.rail.settlements()) == ((await world.row(old)).id, 1)
