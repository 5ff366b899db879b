"""What a slow answer of the chain says of one transaction is not said of another that has its row by then."""

import asyncio

from promises import World

from mpp_authz.ledger import State
from mpp_authz.verdicts import Allow


async def test_a_late_answer_about_a_failed_transaction_says_nothing_of_the_next_one(world: World) -> None:
    world.rail.sends = "lost"
    asked = await world.challenge()
    pulled = world.pay(asked)
    await world.present(pulled)
    await world.idle()
    row = await world.until(pulled, State.UNKNOWN)
    world.clock.later(61)
    other = world.another("authz-1/boot-1")
    world.rail.stop("lookup")
    slow = asyncio.create_task(other.settler.resolve(row))
    await world.rail.reached("lookup")
    held = world.rail.forget()
    await world.gate.settler.resolve(row)
    failed = await world.state(pulled)
    world.rail.stop("after claim")
    pushed = asyncio.create_task(world.present(world.push(asked)))
    await world.rail.reached("after claim")

    held["lookup"].set()
    await slow
    world.rail.go()

    assert failed is State.FAILED
    assert isinstance(await pushed, Allow)
