"""Several authz processes on one store, on each store: they race, one is taken for dead and goes on, one dies and
the next takes over. What `World` holds against every answer holds here too.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledgers
import pytest
from promises import (
    NETWORK,
    OFFER,
    PRICE,
    ROUTE,
    SHORT,
    TERMS,
    World,
    listening,
    make_world,
    priced,
    problem,
    read,
)

from mpp_authz.decide import Gate
from mpp_authz.ledger import Ledger, Payment, State
from mpp_authz.sweeping import Sweeper
from mpp_authz.verdicts import Allow, Verdict

BUSY = (409, "payment-in-progress")
USED = (403, "verification-failed")
UNKNOWN = (503, "internal-payment-error")
POINTS = ["verify", "before claim", "after claim", "before send", "after send"]


@pytest.fixture(params=ledgers.PARAMETERS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A gate on each store in turn."""
    url = ledgers.FACTORIES[request.param](tmp_path).url
    async with make_world(tmp_path / "state", store_url=url) as made:
        made.gate.settler.times = SHORT  # a settlement's lease ends before its transaction does
        yield made


def replica(world: World, owner: str = "authz-1/boot-1") -> Gate:
    """An authz on another machine, beside an Envoy of its own."""
    folder = world.folder.parent / owner.replace("/", "-")
    folder.mkdir(exist_ok=True)
    (folder / "envoy-2.log").touch()
    made = world.another(owner, folder=folder)
    made.settler.times = SHORT
    made.times = replace(SHORT, settle_wait=5.0)
    return made


def sweeper(gate: Gate) -> Sweeper:
    return Sweeper(gate.ledger, gate.settler, gate.closer)


async def settlement_over(world: World) -> None:
    """Nobody has a settlement's lease any more."""
    world.clock.later(world.gate.settler.times.settling_lease + 1)


async def paused(world: World, point: str, **pay: Any) -> tuple[str, "asyncio.Task[Verdict]", asyncio.Event]:
    """A credential whose process stands still at a point, its Check, and what lets it go on."""
    world.rail.stop(point)
    authorization = world.pay(await world.challenge(), **pay)
    check = asyncio.create_task(world.present(authorization))
    await world.rail.reached(point)
    return authorization, check, world.rail.forget()[point]


@pytest.mark.parametrize("sponsored", [False, True], ids=["pull", "sponsored"])
@pytest.mark.parametrize("point", POINTS)
async def test_two_replicas_settle_one_credential_once_wherever_the_first_stands(
    world: World, point: str, sponsored: bool
) -> None:
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, fee_payer=TERMS if sponsored else None),))
    world.gate.times = replace(SHORT, settle_wait=5.0)
    other = replica(world)
    authorization, first, go = await paused(world, point, sponsored=sponsored)

    second = await world.present(authorization, gate=other, data_plane="envoy-2")
    go.set()
    found = [second, await first]

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert [problem(verdict) for verdict in found if not isinstance(verdict, Allow)] == [BUSY]
    assert len(set(world.rail.sent)) == world.rail.settlements() == 1


@pytest.mark.parametrize("sponsored", [False, True], ids=["pull", "sponsored"])
@pytest.mark.parametrize("point", ["after claim", "before send", "after send"])
async def test_a_replica_that_was_paused_past_its_lease_goes_on_and_nothing_is_paid_twice(
    world: World, point: str, sponsored: bool
) -> None:
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, fee_payer=TERMS if sponsored else None),))
    other = replica(world)
    authorization, first, go = await paused(world, point, sponsored=sponsored)
    await settlement_over(world)

    second = await world.present(authorization, gate=other, data_plane="envoy-2")
    await other.settler.aclose(5)
    go.set()
    late = await first
    await world.idle()

    assert isinstance(second, Allow)
    assert problem(late) in (BUSY, UNKNOWN)  # by whether its own Check still waits
    assert len(set(world.rail.sent)) == world.rail.settlements() == 1
    await world.news(second, gate=other)
    assert await world.state(authorization) is State.DELIVERED


@pytest.mark.parametrize("answers", ["refused", "unavailable"])
async def test_a_replica_that_was_paused_calls_nothing_failed_that_another_sent(
    world: World, answers: str
) -> None:
    world.rail.sends = "lost"
    other = replica(world)
    patient, other.times = other.times, SHORT
    authorization, first, go = await paused(world, "after claim")
    await settlement_over(world)
    unknown = await world.present(authorization, gate=other, data_plane="envoy-2")
    await other.settler.aclose(5)

    world.rail.answers = answers
    go.set()
    await first
    await world.idle()
    state = await world.state(authorization)
    world.rail.include((await world.row(authorization)).reference or "")
    other.times = patient
    allowed = await world.present(authorization, gate=other, data_plane="envoy-2")

    assert problem(unknown) == UNKNOWN
    assert state is State.UNKNOWN
    assert isinstance(allowed, Allow)


async def test_what_was_called_failed_is_not_sent_by_another(world: World) -> None:
    world.rail.answers = "refused"
    other = replica(world)
    authorization, first, go = await paused(world, "after claim")
    await settlement_over(world)
    world.rail.stop("lookup")
    second = asyncio.create_task(world.present(authorization, gate=other, data_plane="envoy-2"))
    await world.rail.reached("lookup")

    go.set()
    await first
    await world.idle()
    world.rail.go()

    assert problem(await second) == (402, "verification-failed")
    assert (await world.state(authorization), world.rail.sent) == (State.FAILED, [])


@pytest.mark.parametrize("point", ["after claim", "before send", "after send"])
async def test_a_replica_takes_over_from_one_that_died(world: World, point: str) -> None:
    other = replica(world)
    authorization, first, _ = await paused(world, point)
    first.cancel()  # its Envoy is there no more, and it never goes on

    early = await world.present(authorization, gate=other, data_plane="envoy-2")
    await settlement_over(world)
    late = await world.present(authorization, gate=other, data_plane="envoy-2")

    assert problem(early) == BUSY
    assert isinstance(late, Allow)
    assert len(set(world.rail.sent)) == world.rail.settlements() == 1


async def test_a_late_delivered_closes_the_payment_while_another_attempt_is_out(world: World) -> None:
    other = replica(world)
    authorization = world.pay(await world.challenge())
    first = await world.present(authorization)
    assert isinstance(first, Allow)
    await listening(other, world.clock, PRICE.lease + other.closer.times.silence + 1)
    world.open.clear()
    second = await world.present(authorization, gate=other, data_plane="envoy-2")
    assert isinstance(second, Allow)

    await world.news(first)
    await world.news(second, 500, gate=other)

    row = await world.row(authorization)
    assert (row.state, row.attempt) == (State.DELIVERED, 2)
    assert problem(await world.present(authorization)) == USED


@pytest.mark.parametrize("point", ["after claim", "before send", "after send"])
async def test_a_sweeper_of_another_replica_leaves_a_settlement_alone(world: World, point: str) -> None:
    world.gate.times = replace(SHORT, settle_wait=5.0)
    other = replica(world)
    authorization, first, go = await paused(world, point)

    await sweeper(other).round()
    before = await world.state(authorization)
    go.set()

    assert before is State.SETTLING
    assert isinstance(await first, Allow)


async def test_a_sweeper_asks_the_chain_once_a_settlement_is_over(world: World) -> None:
    other = replica(world)
    authorization, first, go = await paused(world, "after send")
    await settlement_over(world)

    await sweeper(other).round()
    state = await world.state(authorization)
    go.set()

    assert state is State.CREDIT
    assert isinstance(await first, Allow)  # it waits still, and its payment settled
    assert world.rail.settlements() == 1


async def test_a_credit_of_a_failure_here_is_taken_there(world: World) -> None:
    other = replica(world)
    old = world.pay(await world.challenge())
    await world.news(await world.present(old), 500)
    world.clock.later(1)

    taken = await world.present(world.pay(await world.challenge()), gate=other, data_plane="envoy-2")

    assert isinstance(taken, Allow)
    assert (taken.payment, taken.attempt) == (read(old), 2)
    assert world.rail.settlements() == 1


async def test_32_uses_over_three_replicas_settle_once_and_deliver_once(world: World) -> None:
    gates = [world.gate, replica(world), replica(world, "authz-2/boot-1")]
    authorization = world.pay(await world.challenge())

    found = await asyncio.gather(*(world.present(authorization, gate=gates[at % 3]) for at in range(32)))

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert {problem(verdict) for verdict in found if not isinstance(verdict, Allow)} <= {BUSY, UNKNOWN}
    assert (len(world.rail.sent), world.rail.settlements()) == (1, 1)


async def test_a_credit_is_taken_once_by_retries_at_two_replicas(world: World) -> None:
    other = replica(world)
    old = world.pay(await world.challenge())
    await world.news(await world.present(old), 500)
    world.clock.later(1)
    credentials = [world.pay(await world.challenge()) for _ in range(2)]
    world.clock.later(1)

    found = await asyncio.gather(
        *(world.present(one, gate=gate) for one, gate in zip(credentials, (world.gate, other), strict=True))
    )

    assert all(isinstance(verdict, Allow) for verdict in found)
    assert world.rail.settlements() == 2
    assert sorted(isinstance(v, Allow) and v.payment == read(old) for v in found) == [False, True]


# --- networks ------------------------------------------------------------------------------------------


def moved(world: World) -> None:
    """The network of that name becomes another chain's."""
    world.terms.networks = {NETWORK.name: replace(NETWORK, chain_id=8)}


async def test_a_row_knows_the_chain_it_was_paid_on(world: World) -> None:
    authorization = world.pay(await world.challenge())
    await world.present(authorization)

    assert (await world.row(authorization)).chain_id == 7


async def test_a_signed_payment_for_the_chain_before_is_not_sent(world: World) -> None:
    authorization = world.pay(await world.challenge())
    moved(world)

    assert problem(await world.present(authorization)) == (402, "invalid-challenge")
    assert world.rail.sent == []


async def test_a_transfer_on_the_chain_before_is_not_asked_for_again(world: World) -> None:
    authorization = world.push(await world.challenge())
    moved(world)

    assert problem(await world.present(authorization)) == (503, "service-unavailable")


async def test_an_open_payment_is_looked_up_on_the_chain_it_was_made_on(world: World) -> None:
    asked_of = []
    inner = world.rail.lookup

    async def lookup(reference: str, valid_before: int | None, network: Any) -> Any:
        asked_of.append(network.chain_id)
        return await inner(reference, valid_before, network)

    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    row = await world.row(authorization)
    moved(world)
    await world.gate.settler.networks.remember(world.terms.networks)
    world.rail.include(row.reference or "")
    world.clock.later(70)  # past its last valid moment: a chain that never saw it would say never

    class Asked:
        """The rail, and which chain it is asked about."""

        def __getattr__(self, name: str) -> Any:
            return lookup if name == "lookup" else getattr(world.rail, name)

    world.gate.settler.by_name = {"promise": Asked()}
    allowed = await world.present(authorization)

    assert isinstance(allowed, Allow)
    assert set(asked_of) == {7}


async def test_a_credit_on_the_chain_before_does_not_pay_on_this_one(world: World) -> None:
    old = world.pay(await world.challenge())
    await world.news(await world.present(old), 500)
    world.clock.later(1)
    moved(world)

    assert isinstance(await world.present(world.pay(await world.challenge())), Allow)
    assert world.rail.settlements() == 2
    assert await world.state(old) is State.CREDIT


@pytest.mark.parametrize(("chain_id", "settlements"), [(0, 1), (8, 2)])
async def test_a_credit_older_than_chain_ids_is_good_where_its_network_was(
    world: World, chain_id: int, settlements: int
) -> None:
    old = world.pay(await world.challenge())
    await world.news(await world.present(old), 500)
    row: Payment = await world.row(old)
    assert await world.ledger.replace(row, replace(row, chain_id=chain_id))
    world.clock.later(1)

    assert isinstance(await world.present(world.pay(await world.challenge())), Allow)
    assert world.rail.settlements() == settlements


# --- one payer does not fill the lane ------------------------------------------------------------------


async def test_one_payer_with_an_open_stream_holds_eight_checks_and_no_more(world: World) -> None:
    await world.present(world.pay(await world.challenge()))
    world.clock.later(1)
    world.gate.times = replace(SHORT, settle_wait=5.0, in_progress_wait=4.0)
    credentials = [world.pay(await world.challenge()) for _ in range(20)]

    waiting = [asyncio.create_task(world.present(one)) for one in credentials]
    async with asyncio.timeout(10):
        while sum(task.done() for task in waiting) < 12:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
    still = [task for task in waiting if not task.done()]

    assert all(isinstance(task.result(), Allow) for task in waiting if task.done())
    assert len(still) == 8
    for task in still:
        task.cancel()
    await asyncio.gather(*still, return_exceptions=True)


# --- a payer asks elsewhere while a settlement is under way --------------------------------------------


async def asked_elsewhere(world: World, gate: Gate, *, settle_wait: float = 5.0) -> "asyncio.Task[Verdict]":
    """The same payer asks again at another replica, and signs a new payment."""
    gate.times = replace(SHORT, settle_wait=settle_wait, in_progress_wait=1.0)
    world.clock.later(1)
    new = world.pay(await world.challenge())
    return asyncio.create_task(world.present(new, gate=gate, data_plane="envoy-2"))


async def test_a_replica_that_died_with_a_settlement_lets_nobody_pay_again_elsewhere(world: World) -> None:
    world.gate.times = replace(SHORT, settle_wait=60.0)  # it says nothing any more
    other = replica(world)
    old, first, _ = await paused(world, "after send")

    refused = await (await asked_elsewhere(world, other))
    await settlement_over(world)
    taken = await (await asked_elsewhere(world, other))
    first.cancel()

    assert problem(refused) == BUSY
    assert isinstance(taken, Allow)
    assert (taken.payment, world.rail.settlements()) == (read(old), 1)


async def test_a_parallel_call_elsewhere_pays_once_the_settlements_process_says_that_it_lives(
    world: World,
) -> None:
    world.gate.times = replace(SHORT, settle_wait=9.0)
    other = replica(world)
    _, first, go = await paused(world, "after send")
    parallel = await asked_elsewhere(world, other)
    world.clock.later(1)

    await sweeper(world.gate)._beat()
    allowed = await parallel
    go.set()

    assert isinstance(allowed, Allow)
    assert isinstance(await first, Allow)
    assert world.rail.settlements() == 2


async def test_a_retry_elsewhere_takes_the_credit_of_a_settlement_that_nobody_waits_for_any_more(
    world: World,
) -> None:
    world.gate.times = replace(SHORT, settle_wait=9.0)
    other = replica(world)
    old, first, go = await paused(world, "after send")
    elsewhere = await asked_elsewhere(world, other)
    await asyncio.sleep(0)

    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await world.check_ended(old)
    go.set()
    taken = await elsewhere

    assert isinstance(taken, Allow)
    assert (taken.payment, world.rail.settlements()) == (read(old), 1)


async def test_a_challenge_from_before_the_settlement_is_a_parallel_call_anywhere(world: World) -> None:
    early = world.pay(await world.challenge())
    world.clock.later(1)
    _, first, go = await paused(world, "after send")

    allowed = await world.present(early, gate=replica(world), data_plane="envoy-2")
    go.set()
    await first

    assert isinstance(allowed, Allow)
    assert world.rail.settlements() == 2


class Held:
    """A ledger at which a delivery is not written until it is told to go on."""

    def __init__(self, inner: Ledger) -> None:
        self.inner = inner
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def replace(self, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        if new.state is State.DELIVERING:
            self.reached.set()
            await self.go.wait()
        return await self.inner.replace(old, new, also=also)


@pytest.mark.parametrize("delivers", [True, False], ids=["its process lives", "its process died"])
async def test_a_credit_its_own_check_is_about_to_deliver_is_waited_for(world: World, delivers: bool) -> None:
    held: Any = Held(world.ledger)
    gate = world.another("authz-0/boot-1", ledger=held)
    gate.times = replace(SHORT, settle_wait=9.0)
    old = world.pay(await world.challenge())
    first = asyncio.create_task(world.present(old, gate=gate))
    async with asyncio.timeout(10):
        await held.reached.wait()
    elsewhere = await asked_elsewhere(world, replica(world))
    await asyncio.sleep(0)
    if delivers:
        world.clock.later(1)
        held.go.set()
        assert isinstance(await first, Allow)
        await sweeper(gate)._beat()

    answer = await elsewhere

    if delivers:
        assert isinstance(answer, Allow)
        assert world.rail.settlements() == 2  # a parallel call, which pays
    else:
        assert problem(answer) == BUSY
        assert world.rail.settlements() == 1
        first.cancel()
    held.go.set()
    await world.idle(gate)


async def test_a_process_without_work_says_nothing(world: World) -> None:
    await sweeper(world.gate).round()

    assert await world.ledger.data_plane(world.gate.settler.owner) is None
