"""The settler by itself: what a method answers, what claims hold, what the chain is asked."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from promises import LIMIT, NETWORK, World, read

from mpp_authz import challenge, methods, quotes
from mpp_authz.ledger import State
from mpp_authz.methods import Quote, Verified
from mpp_authz.settlement import ClaimLost, Settlement, Waiter


async def settlement(world: World, **payload: Any) -> tuple[Settlement, Verified]:
    """A credential as the gate hands it to the settler."""
    authorization = world.pay(await world.challenge(), **payload)
    presented = challenge.read_credential(authorization.removeprefix("Payment "))
    bound, request = quotes.read(presented.challenge)
    quote = Quote(presented.challenge, request, NETWORK)
    made = Settlement(presented, bound, quote, world.rail, world.terms.routes["shop/llm/complete"], Waiter())
    verified = await world.rail.verify(made.credential, quote)
    assert isinstance(verified, Verified)
    return made, verified


async def test_a_payment_becomes_a_credit_first(world: World) -> None:
    made, verified = await settlement(world)

    row = await world.gate.settler.settle(made, verified)

    assert not isinstance(row, methods.Refused | methods.Unavailable)
    assert (row.state, row.attempt, row.answered_at) == (State.CREDIT, 0, world.clock.ms)


async def test_a_challenge_that_is_taken_is_a_lost_claim_and_nothing_is_sent(world: World) -> None:
    made, verified = await settlement(world)
    await world.gate.settler.settle(made, verified)

    with pytest.raises(ClaimLost):
        await world.gate.settler.settle(made, verified)

    assert len(world.rail.sent) == 1


class Odd:
    """A method that answers without doing its part."""

    name = "odd"

    def __init__(self, answer: Any, *, claims: int = 0, raises: Exception | None = None) -> None:
        self.answer, self.claims, self.raises = answer, claims, raises
        self.held: list[bool] = []

    async def settle(self, credential: Any, quote: Any, verified: Any, claim: Any) -> Any:
        self.held.append(await claim.envelope("too early"))
        for _ in range(self.claims):
            self.held.append(await claim.settling("0xAB", None))
        if self.claims:
            self.held.append(await claim.settling("0xOTHER", None))
            self.held.append(await claim.envelope("0x76"))
            self.held.append(await claim.envelope("0x77"))
        if self.raises is not None:
            raise self.raises
        return self.answer


async def test_a_method_that_settles_without_a_claim_is_a_bug_that_stops_there(world: World) -> None:
    made, verified = await settlement(world)
    odd: Any = Odd(methods.Settled("0x1", None))

    with pytest.raises(RuntimeError, match="method odd settled without a claim"):
        await world.gate.settler.settle(replace(made, method=odd), verified)


@pytest.mark.parametrize(
    "answer", [methods.Refused("verification-failed", "no"), methods.Unavailable("down")], ids=str
)
async def test_a_refusal_before_the_claim_leaves_no_row(world: World, answer: Any) -> None:
    made, verified = await settlement(world)
    odd: Any = Odd(answer)

    assert await world.gate.settler.settle(replace(made, method=odd), verified) == answer
    assert await world.ledger.get(made.presented.challenge.id) is None


async def test_an_error_before_the_claim_means_that_nothing_was_sent(world: World) -> None:
    made, verified = await settlement(world)
    odd: Any = Odd(None, raises=ValueError("x"))

    found = await world.gate.settler.settle(replace(made, method=odd), verified)

    assert found == methods.Unavailable("ValueError")


async def test_a_claim_is_asked_twice_for_one_transaction_and_keeps_one_envelope(world: World) -> None:
    made, verified = await settlement(world)
    odd: Any = Odd(methods.Unknown("?"), claims=2)

    row = await world.gate.settler.settle(replace(made, method=odd), verified)

    assert odd.held == [False, True, True, False, True, False]
    assert not isinstance(row, methods.Refused | methods.Unavailable)
    assert (row.state, row.reference, row.envelope) == (State.UNKNOWN, "0xAB", "0x76")


async def test_only_one_question_about_a_payment_is_asked_at_a_time(world: World) -> None:
    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    row = await world.row(authorization)
    world.rail.stop("lookup")
    settler = world.gate.settler
    questions = [asyncio.create_task(settler.resolve(row)) for _ in range(5)]
    await world.rail.reached("lookup")
    questions[0].cancel()  # who asked first may leave: the others get their answer
    world.rail.include(row.reference or "")
    world.rail.go()

    answers = await asyncio.gather(*questions, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.state for answer in answers[1:] if not isinstance(answer, BaseException) and answer] == [
        State.CREDIT
    ] * 4


@pytest.mark.parametrize("changes", [{"reference": None}, {"method": "gone"}, {"network": "gone"}], ids=str)
async def test_a_payment_nobody_can_be_asked_about_stays_unknown(world: World, changes: dict[str, Any]) -> None:
    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    row = await world.row(authorization)
    await world.ledger.replace(row, replace(row, **changes))
    world.clock.later(3600)

    assert await world.gate.settler.resolve(await world.row(authorization)) is None
    assert await world.state(authorization) is State.UNKNOWN


async def test_a_proof_whose_process_died_is_settled_by_its_claim(world: World) -> None:
    world.rail.stop("after claim")
    authorization = world.pay(await world.challenge(), kind="proof")
    await world.present(authorization)

    row = await world.another("authz-0/boot-2").settler.resolve(await world.row(authorization))

    assert row is not None
    assert (row.state, row.reference) == (State.CREDIT, read(authorization))


async def test_what_is_known_is_not_written_over(world: World) -> None:
    made, verified = await settlement(world)
    row = await world.gate.settler.settle(made, verified)
    assert not isinstance(row, methods.Refused | methods.Unavailable)
    stale = replace(row, state=State.UNKNOWN, version=0)

    assert await world.gate.settler.resolve(stale) == await world.ledger.get(row.id)


async def test_closing_waits_for_settlements_that_run(world: World) -> None:
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    closing = asyncio.create_task(world.gate.settler.aclose(LIMIT))
    await asyncio.sleep(0)
    world.rail.go()

    await closing

    assert await world.state(authorization) is State.CREDIT
    assert not world.gate.settler.busy
    await world.gate.settler.aclose(LIMIT)
