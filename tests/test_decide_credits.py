"""Unmodified clients: a retry brings a new challenge and a new credential, and takes the credit that is owed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from promises import (
    ALICE,
    BOB,
    ENVOY,
    KEY,
    NETWORK,
    NEXT_KEY,
    OFFER,
    PRICE,
    ROUTE,
    World,
    priced,
    problem,
    read,
)

from mpp_authz import wire
from mpp_authz.challenge import Keyring
from mpp_authz.ledger import Ledger, Payment, State
from mpp_authz.verdicts import Allow, Verdict

USED = (403, "verification-failed")
BUSY = (409, "payment-in-progress")


async def bought(world: World, **fields: Any) -> tuple[str, Verdict]:
    authorization = world.pay(await world.challenge(**fields))
    return authorization, await world.present(authorization, **fields)


async def credit(world: World, **fields: Any) -> str:
    """Paid, and the upstream failed."""
    authorization, allowed = await bought(world, **fields)
    await world.news(allowed, 500)
    world.clock.later(1)
    return authorization


async def retry(world: World, *, payer: str = ALICE, pay: dict[str, Any] | None = None, **fields: Any) -> Verdict:
    """What an unmodified client does: ask again, sign again."""
    return await world.present(world.pay(await world.challenge(**fields), payer=payer, **(pay or {})), **fields)


async def test_a_retry_takes_the_credit_and_sends_nothing(world: World) -> None:
    old = await credit(world)
    sent = len(world.rail.sent)
    new = world.pay(await world.challenge())

    allowed = await world.present(new)

    assert isinstance(allowed, Allow)
    assert (allowed.payment, allowed.attempt) == (read(old), 2)
    assert len(world.rail.sent) == sent
    spent = await world.row(new)
    assert (spent.state, spent.paid_by, spent.reference) == (State.SPENT, read(old), None)
    assert dict(allowed.response_headers)[wire.CREDIT_HEADER] == read(new)


async def test_the_credential_that_took_a_credit_is_answered_as_the_old_one_would_be(world: World) -> None:
    await credit(world)
    new = world.pay(await world.challenge())
    second = await world.present(new)

    busy = await world.present(new)
    await world.news(second, 500)
    third = await world.present(new)
    await world.news(third)
    used = await world.present(new)

    assert problem(busy) == BUSY
    assert isinstance(third, Allow)
    assert third.attempt == 3
    assert problem(used) == USED
    assert world.rail.settlements() == 1


async def test_many_uses_of_a_credential_that_took_a_credit_deliver_once(world: World) -> None:
    world.gate.times = replace(world.gate.times, settle_wait=5.0)
    await credit(world)
    new = world.pay(await world.challenge())
    second = await world.present(new)
    await world.news(second, 500)

    found = await asyncio.gather(*(world.present(new) for _ in range(12)))

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert {problem(v) for v in found if not isinstance(v, Allow)} <= {BUSY}


async def test_one_credit_is_taken_by_one_of_two_retries_and_the_other_pays(world: World) -> None:
    await credit(world)
    credentials = [world.pay(await world.challenge()) for _ in range(2)]

    found = await asyncio.gather(*(world.present(one) for one in credentials))

    assert all(isinstance(verdict, Allow) for verdict in found)
    assert world.rail.settlements() == 2


@pytest.mark.parametrize(
    ("pay", "fields"),
    [
        ({"payer": BOB}, {}),
        ({"pay": {"proved": False}}, {}),
        ({}, {"query": "model=b"}),
        ({}, {"path": "/llm/other"}),
        ({}, {"http_method": "GET"}),
        ({}, {"route": "shop/llm/other"}),
    ],
    ids=[
        "another payer",
        "a payer that is not proved",
        "another query",
        "another path",
        "another HTTP method",
        "another route",
    ],
)
async def test_a_credit_is_not_taken_by(world: World, pay: dict[str, Any], fields: dict[str, Any]) -> None:
    world.terms.routes["shop/llm/other"] = PRICE
    old = await credit(world)

    allowed = await retry(world, **pay, **fields)

    assert isinstance(allowed, Allow)
    assert world.rail.settlements() == 2
    assert await world.state(old) is State.CREDIT


async def test_a_credit_is_not_taken_by_another_body(world: World) -> None:
    world.terms.routes[ROUTE] = priced(digest_max_bytes=99)
    old = await credit(world, body=b"one")

    await retry(world, body=b"two")
    assert await world.state(old) is State.CREDIT
    await retry(world, body=b"one")

    assert await world.state(old) is State.DELIVERING
    assert world.rail.settlements() == 2


async def test_a_credit_is_not_taken_by_a_transfer_which_has_paid_already(world: World) -> None:
    old = await credit(world)

    allowed = await world.present(world.push(await world.challenge()))

    assert isinstance(allowed, Allow)
    assert allowed.payment != read(old)
    assert await world.state(old) is State.CREDIT


async def test_a_credit_of_a_test_network_does_not_pay_on_another(world: World) -> None:
    old = await credit(world)
    world.terms.networks["mainnet"] = replace(NETWORK, name="mainnet", chain_id=8)
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, network="mainnet"),))

    await retry(world)

    assert world.rail.settlements() == 2
    assert await world.state(old) is State.CREDIT


async def test_a_credit_in_another_currency_is_not_taken(world: World) -> None:
    old = await credit(world)
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, currency="0xD0"),))

    await retry(world)

    assert await world.state(old) is State.CREDIT


@pytest.mark.parametrize(("amount", "settlements"), [("999", 1), ("1000", 1), ("1001", 2)])
async def test_a_credit_pays_for_at_most_its_amount(world: World, amount: str, settlements: int) -> None:
    await credit(world)
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, amount=amount),))

    assert isinstance(await retry(world), Allow)
    assert world.rail.settlements() == settlements


async def test_a_credit_is_found_after_the_key_has_changed(world: World) -> None:
    await credit(world)
    world.terms.keyring = Keyring((NEXT_KEY, KEY))

    assert isinstance(await retry(world), Allow)
    assert world.rail.settlements() == 1


async def test_a_credit_whose_life_is_over_is_not_taken(world: World) -> None:
    await credit(world)
    world.clock.later(PRICE.credit_life)

    assert isinstance(await retry(world), Allow)
    assert world.rail.settlements() == 2


async def test_a_credit_is_taken_before_an_unknown_payment_is_waited_for(world: World) -> None:
    world.rail.sends, world.rail.reachable = "lost", False
    await bought(world)
    await world.idle()
    world.rail.sends = "settles"
    parallel = await retry(world)
    assert problem(parallel) == BUSY
    world.rail.reachable = True
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, amount="1001"),))
    dearer = await credit(world)
    world.rail.reachable = False

    allowed = await retry(world)

    assert isinstance(allowed, Allow)
    assert allowed.payment == read(dearer)


async def test_a_retry_of_a_live_settlement_is_a_parallel_call_and_pays(world: World) -> None:
    world.gate.times = replace(world.gate.times, settle_wait=5.0)
    world.rail.stop("after send")
    first = asyncio.create_task(world.present(world.pay(await world.challenge())))
    await world.rail.reached("after send")
    held = world.rail.forget()

    second = await retry(world)
    held["after send"].set()

    assert isinstance(second, Allow)
    assert isinstance(await first, Allow)
    assert world.rail.settlements() == 2


async def test_a_retry_of_a_settlement_whose_check_was_given_up_takes_its_credit(world: World) -> None:
    world.rail.sends = "lost"
    world.rail.stop("after send")
    old = world.pay(await world.challenge())
    check = asyncio.create_task(world.gate.check(world.request(authorization=old)))
    await world.rail.reached("after send")
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    await world.check_ended(old)
    new = world.pay(await world.challenge())

    waits = await world.present(new)
    world.rail.include((await world.row(old)).reference or "")
    takes = await world.present(new)

    assert problem(waits) == BUSY
    assert isinstance(takes, Allow)
    assert takes.payment == read(old)
    assert world.rail.settlements() == 1
    assert await world.inner.get(read(new)) is not None


async def test_a_retry_of_a_settlement_whose_process_died_takes_its_credit(world: World) -> None:
    world.rail.stop("after send")
    await world.present(world.pay(await world.challenge()))
    world.rail.forget()
    other = world.another("authz-0/boot-2")

    allowed = await world.present(world.pay(await world.challenge()), gate=other)

    assert isinstance(allowed, Allow)
    assert world.rail.settlements() == 1


async def test_after_a_crash_the_check_that_is_asked_again_comes_before_a_parallel_call(world: World) -> None:
    world.rail.stop("after send")
    old = world.pay(await world.challenge())
    world.gate.times = replace(world.gate.times, settle_wait=60.0)
    died = asyncio.create_task(world.present(old))  # Envoy, for a client that waits, asks the next one again
    await world.rail.reached("after send")
    world.rail.forget()
    other = world.another("authz-0/boot-2")
    other.times = replace(other.times, in_progress_wait=5.0, settle_wait=9.0)
    parallel = asyncio.create_task(world.present(world.pay(await world.challenge()), gate=other))
    async with asyncio.timeout(10):
        while world.rail.verified < 2:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.001)

    world.clock.later(0.1)
    again = await world.present(old, gate=other)

    assert isinstance(again, Allow)
    assert again.payment == read(old)
    assert isinstance(await parallel, Allow)
    assert world.rail.settlements() == 2
    died.cancel()
    await asyncio.gather(died, return_exceptions=True)


async def test_a_sponsored_payment_that_starts_again_takes_no_credit_and_settles(world: World) -> None:
    world.rail.stop("after claim")
    sponsored = world.pay(await world.challenge(), sponsored=True)
    await world.present(sponsored)  # its process dies before there was anything to send
    world.rail.forget()
    row, now = await world.row(sponsored), world.clock.ms
    owed = replace(
        row,
        id="owed",
        state=State.CREDIT,
        reference="0xowed",
        settled_at=now,
        answered_at=now,
        life_until=now + row.credit_life,
        attempt=1,
        version=0,
    )
    assert await world.inner.insert(owed)

    again = await world.present(sponsored, gate=world.another("authz-0/boot-2"))

    assert isinstance(again, Allow)
    assert again.payment == read(sponsored)
    assert await world.inner.get("owed") == owed


async def test_a_retry_of_an_unknown_payment_waits_and_sends_nothing(world: World) -> None:
    world.rail.sends = "lost"
    old, _ = await bought(world)
    await world.idle()
    sent = len(world.rail.sent)

    verdict = await retry(world)

    assert problem(verdict) == BUSY
    assert len(world.rail.sent) == sent
    assert await world.state(old) is State.UNKNOWN


async def test_a_retry_of_a_payment_that_then_fails_pays(world: World) -> None:
    world.rail.sends = "lost"
    old, _ = await bought(world)
    await world.idle()
    world.rail.include((await world.row(old)).reference or "", "reverted")
    world.rail.sends = "settles"

    assert isinstance(await retry(world), Allow)
    assert await world.state(old) is State.FAILED


async def test_a_challenge_minted_before_the_answer_is_a_parallel_call(world: World) -> None:
    asked = await world.challenge()
    world.clock.later(1)
    await bought(world)

    second = await world.present(world.pay(asked))

    assert isinstance(second, Allow)
    assert world.rail.settlements() == 2


async def test_a_challenge_minted_before_an_answer_that_failed_takes_no_credit_and_pays(world: World) -> None:
    early = world.pay(await world.challenge())
    world.clock.later(1)
    old = world.pay(await world.challenge())
    await world.news(await world.present(old), 500)

    parallel = await world.present(early)
    again = await world.present(old)

    assert isinstance(parallel, Allow)
    assert parallel.payment == read(early)
    assert isinstance(again, Allow)
    assert again.payment == read(old)
    assert world.rail.settlements() == 2


async def test_a_challenge_minted_after_the_answer_waits_for_news_and_then_takes_the_credit(world: World) -> None:
    world.gate.times = replace(world.gate.times, in_progress_wait=4.0, settle_wait=5.0)
    _, first = await bought(world)
    world.clock.later(1)
    second = asyncio.create_task(retry(world))
    await asyncio.sleep(0)

    await world.news(first, 500)

    allowed = await second
    assert isinstance(allowed, Allow)
    assert isinstance(first, Allow)
    assert (allowed.payment, allowed.attempt) == (first.payment, 2)
    assert world.rail.settlements() == 1


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_retry_of_a_delivery_that_goes_well_pays(world: World, delivered: bool) -> None:
    _, first = await bought(world)
    world.clock.later(1)
    if delivered:
        await world.news(first)

    assert isinstance(await retry(world), Allow)
    assert world.rail.settlements() == 2


async def test_a_retry_reads_the_outcome_file_first(world: World) -> None:
    _, first = await bought(world)
    assert isinstance(first, Allow)
    world.clock.later(1)
    line = f'{{"payment":"{first.payment}","attempt":"1","status":503,"flags":"UC","finished":null}}\n'
    (world.folder / f"{ENVOY}.log").write_text(line)
    world.open.clear()

    allowed = await retry(world)

    assert isinstance(allowed, Allow)
    assert (allowed.payment, world.rail.settlements()) == (first.payment, 1)


async def test_a_retry_after_its_envoy_died_takes_the_credit(world: World) -> None:
    _, first = await bought(world)
    world.clock.later(1)
    (world.folder / f"{ENVOY}.log").rename(world.folder / f"{ENVOY}.ended")
    world.open.clear()

    allowed = await retry(world, data_plane="envoy-2")

    assert isinstance(allowed, Allow)
    assert isinstance(first, Allow)
    assert allowed.payment == first.payment


async def test_many_open_deliveries_are_waited_for_together(world: World) -> None:
    world.gate.times = replace(world.gate.times, in_progress_wait=0.3, settle_wait=3.0)
    asked = [await world.challenge() for _ in range(8)]
    for one in asked:
        await world.present(world.pay(one))
    world.clock.later(1)
    loop = asyncio.get_running_loop()
    begun = loop.time()

    assert isinstance(await retry(world), Allow)
    assert loop.time() - begun < 8 * 0.3
    assert world.rail.settlements() == 9


async def test_a_lost_race_for_a_credit_by_its_own_credential_pays(world: World) -> None:
    old = await credit(world)
    new = world.pay(await world.challenge())

    found = await asyncio.gather(world.present(old), world.present(new))

    assert sum(isinstance(verdict, Allow) for verdict in found) == 2
    assert world.rail.settlements() in (1, 2)
    assert await world.state(old) is State.DELIVERING


class HeldBeforeDelivery:
    """A ledger whose first delivery waits to be written until it is told to."""

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


async def test_a_parallel_call_does_not_take_what_a_check_is_about_to_deliver(world: World) -> None:
    held: Any = HeldBeforeDelivery(world.inner)
    gate = world.another("authz-0/boot-1", ledger=held)
    first = world.pay(await world.challenge())
    delivering = asyncio.create_task(world.present(first, gate=gate))
    async with asyncio.timeout(10):
        await held.reached.wait()

    second = await retry(world)
    held.go.set()

    assert isinstance(second, Allow)
    assert second.payment != read(first)
    assert isinstance(await delivering, Allow)
    assert world.rail.settlements() == 2


async def test_what_a_dead_check_was_about_to_deliver_is_taken_a_little_later(world: World) -> None:
    held: Any = HeldBeforeDelivery(world.inner)
    gate = world.another("authz-0/boot-1", ledger=held)
    first = world.pay(await world.challenge())
    dead = asyncio.create_task(world.present(first, gate=gate))
    async with asyncio.timeout(10):
        await held.reached.wait()
    world.clock.later(6)

    taken = await retry(world)
    held.go.set()

    assert isinstance(taken, Allow)
    assert taken.payment == read(first)
    assert problem(await dead)[0] in (409, 503)


async def test_what_a_check_that_was_given_up_was_about_to_deliver_is_taken_at_once(world: World) -> None:
    held: Any = HeldBeforeDelivery(world.inner)
    gate = world.another("authz-0/boot-1", ledger=held)
    first = world.pay(await world.challenge())
    check = asyncio.create_task(gate.check(world.request(authorization=first)))
    async with asyncio.timeout(10):
        await held.reached.wait()
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    await world.check_ended(first)

    taken = await retry(world)
    held.go.set()
    await world.idle(gate)

    assert isinstance(taken, Allow)
    assert taken.payment == read(first)
    assert world.rail.settlements() == 1
