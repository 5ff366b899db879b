"""The rules of payments, one by one: `Gate` with the real SQLite ledger and a chain that is a dict of the test."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mpp
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
    TERMS,
    World,
    challenges,
    credential,
    echo,
    header,
    make_world,
    priced,
    problem,
    read,
)

from mpp_authz import challenge, verdicts, wire
from mpp_authz.challenge import Keyring
from mpp_authz.ledger import State, stores
from mpp_authz.methods import Refused, TransferRefused, Unavailable
from mpp_authz.patience import Times
from mpp_authz.pricing import Transport
from mpp_authz.verdicts import Allow, Deny

USED = (403, "verification-failed")
BUSY = (409, "payment-in-progress")
UNKNOWN = (503, "internal-payment-error")
UNAVAILABLE = (503, "service-unavailable")
FAILED = (402, "verification-failed")


async def paid(world: World, **fields: Any) -> tuple[str, Allow]:
    """A credential that was let through."""
    authorization = world.pay(await world.challenge(**fields))
    allowed = await world.present(authorization, **fields)
    assert isinstance(allowed, Allow), allowed
    return authorization, allowed


async def owed(world: World, **fields: Any) -> str:
    """A credential whose request the upstream failed: a credit."""
    authorization, allowed = await paid(world, **fields)
    await world.news(allowed, 500)
    assert await world.state(authorization) is State.CREDIT
    return authorization


# --- challenges ----------------------------------------------------------------------------------------


async def test_a_request_without_a_credential_is_asked_to_pay(world: World) -> None:
    verdict = await world.gate.check(world.request())

    assert isinstance(verdict, Deny)
    assert problem(verdict) == (402, "payment-required")
    assert header(verdict, "cache-control") == "no-store"
    assert header(verdict, "content-type") == "application/problem+json"
    assert header(verdict, wire.CHALLENGE_MARKER) == "1"
    (line,) = challenges(verdict)
    asked = mpp.Challenge.from_www_authenticate(line)
    assert asked.verify(KEY.decode(), "shop.example")
    assert asked.request["amount"] == "1000"
    assert json.loads(verdict.body)["challengeId"] == asked.id


async def test_minting_touches_no_store(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with make_world(tmp_path / "s", failing=True) as world:
        world.ledger.arm(1)

        await world.challenge()

        assert world.ledger.calls == 0


async def test_each_offer_is_a_line_of_its_own_in_the_order_the_client_prefers(world: World) -> None:
    dear = replace(OFFER, name="dear", amount="2000")
    world.terms.routes[ROUTE] = priced(offers=(OFFER, dear))

    verdict = await world.gate.check(world.request(accept_payment="promise/charge"))

    assert isinstance(verdict, Deny)
    amounts = [mpp.Challenge.from_www_authenticate(line).request["amount"] for line in challenges(verdict)]
    assert amounts == ["1000", "2000"]


async def test_no_offer_that_can_be_made_is_503_without_a_challenge(world: World) -> None:
    world.rail.available = False

    verdict = await world.gate.check(world.request())

    assert problem(verdict) == UNAVAILABLE
    assert challenges(verdict) == ()


@pytest.mark.parametrize("route", [None, "shop/llm/other"])
async def test_an_unknown_route_is_503_after_one_reload(world: World, route: str | None) -> None:
    verdict = await world.gate.check(world.request(route=route))

    assert problem(verdict) == UNAVAILABLE
    assert isinstance(verdict, Deny)
    assert header(verdict, "retry-after") == "1"
    assert world.terms.reloads == (0 if route is None else 1)


async def test_a_route_that_one_reload_brings_is_served(world: World) -> None:
    world.terms.after_reload = lambda: world.terms.routes.update({"shop/new/x": PRICE})

    verdict = await world.gate.check(world.request(route="shop/new/x"))

    assert problem(verdict) == (402, "payment-required")


async def test_plain_http_is_misdirected_and_gets_no_challenge(world: World) -> None:
    verdict = await world.gate.check(world.request(scheme="http"))

    assert problem(verdict)[0] == 421
    assert challenges(verdict) == ()


async def test_plain_http_behind_a_trusted_terminator_is_asked_to_pay(world: World) -> None:
    world.terms.transport = Transport(terminated_by=("10.0.0.0/8",))

    trusted = await world.gate.check(world.request(scheme="http", peer="10.1.2.3", forwarded_proto="https"))
    stranger = await world.gate.check(world.request(scheme="http", peer="11.1.2.3", forwarded_proto="https"))
    plain = await world.gate.check(world.request(scheme="http", peer="10.1.2.3", forwarded_proto="http"))

    assert [problem(v)[0] for v in (trusted, stranger, plain)] == [402, 421, 421]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Payment aaaa, Payment bbbb"},
        {"authorization": "Payment aaaa", "payment_authorization": "Payment bbbb"},
        {"authorization": "Bearer x, Payment aaaa"},
        {"payment_authorization": "Payment aaaa,Payment bbbb"},
    ],
)
async def test_not_exactly_one_credential_is_a_bad_request(world: World, headers: dict[str, Any]) -> None:
    verdict = await world.gate.check(world.request(**headers))

    assert problem(verdict) == (400, "bad-request")
    assert challenges(verdict) == ()


async def test_a_malformed_credential_is_asked_again(world: World) -> None:
    verdict = await world.gate.check(world.request(authorization="Payment dGhpcyBpcyBnYXJiYWdl"))

    assert problem(verdict) == (402, "malformed-credential")
    assert len(challenges(verdict)) == 1


async def test_another_scheme_alone_is_no_credential(world: World) -> None:
    verdict = await world.gate.check(world.request(authorization="Bearer abc"))

    assert problem(verdict) == (402, "payment-required")


async def test_a_challenge_somebody_else_signed_with_our_key_is_not_ours(world: World) -> None:
    foreign = mpp.Challenge.create(
        secret_key=KEY.decode(),
        realm="shop.example",
        method="promise",
        intent="charge",
        request={"amount": "1", "currency": "0xc0", "recipient": "0xfeed"},
        expires="2099-01-01T00:00:00Z",
        meta={"nonce": "x"},
    )

    verdict = await world.present(world.pay(foreign))

    assert problem(verdict) == (402, "invalid-challenge")


# --- the first time ------------------------------------------------------------------------------------


async def test_a_payment_is_settled_once_and_let_through_with_the_facts(world: World) -> None:
    authorization, allowed = await paid(world)

    assert (allowed.attempt, allowed.reason) == (1, "paid")
    row = await world.row(authorization)
    assert row.state is State.DELIVERING
    assert dict(allowed.request_headers) == {
        "x-mpp-payment-id": row.id,
        "x-mpp-attempt": "1",
        "x-mpp-payer": ALICE,
        "x-mpp-method": "promise",
        "x-mpp-amount": "1000",
        "x-mpp-currency": "0xc0",
        "x-mpp-reference": row.reference,
    }
    assert (row.data_plane, row.recipient) == (ENVOY, "0xfeed")
    assert world.rail.settlements() == 1


async def test_the_receipt_names_the_transaction_that_paid(world: World) -> None:
    authorization, allowed = await paid(world)

    receipt = mpp.Receipt.from_payment_receipt(dict(allowed.response_headers)[wire.RECEIPT_HEADER])

    assert (receipt.status, receipt.reference) == ("success", (await world.row(authorization)).reference)


async def test_the_credit_note_names_the_challenge_until_the_last_attempt(world: World) -> None:
    world.terms.routes[ROUTE] = priced(credit_attempts=2)
    authorization, first = await paid(world)
    await world.news(first, 500)

    second = await world.present(authorization)

    assert dict(first.response_headers)[wire.CREDIT_HEADER] == read(authorization)
    assert isinstance(second, Allow)
    assert wire.CREDIT_HEADER not in dict(second.response_headers)


async def test_news_of_a_delivery_closes_the_payment(world: World) -> None:
    authorization, allowed = await paid(world)

    await world.news(allowed)

    assert await world.state(authorization) is State.DELIVERED
    assert problem(await world.present(authorization)) == USED


@pytest.mark.parametrize(
    ("slug", "says"),
    [
        ("verification-failed", {"signature": "wrong"}),
        ("invalid-payload", {"type": "nonsense"}),
    ],
)
async def test_a_refused_proof_is_asked_again(world: World, slug: str, says: dict[str, Any]) -> None:
    verdict = await world.present(world.pay(await world.challenge(), **says))

    assert problem(verdict) == (402, slug)
    assert len(challenges(verdict)) == 1


async def test_a_rail_that_cannot_be_asked_is_503_without_a_challenge(world: World) -> None:
    world.rail.verify_says = Unavailable("down")

    assert problem(await world.present(world.pay(await world.challenge()))) == UNAVAILABLE


@pytest.mark.parametrize(
    "change",
    [
        {"http_method": "GET"},
        {"query": "model=b"},
        {"query": ""},
        {"route": "shop/llm/other"},
    ],
)
async def test_a_credential_is_good_for_its_own_request_only(world: World, change: dict[str, Any]) -> None:
    world.terms.routes["shop/llm/other"] = PRICE

    verdict = await world.present(world.pay(await world.challenge()), **change)

    assert problem(verdict) == (402, "invalid-challenge")
    assert world.rail.sent == []


async def test_a_credential_of_another_realm_is_refused(world: World) -> None:
    asked = await world.challenge()
    world.terms.routes[ROUTE] = priced(realm="other.example")

    assert problem(await world.present(world.pay(asked))) == (402, "invalid-challenge")


async def test_the_realm_is_the_host_where_none_is_configured(world: World) -> None:
    world.terms.routes[ROUTE] = priced(realm=None)
    authorization = world.pay(await world.challenge(host="a.example"))

    elsewhere = await world.present(authorization, host="b.example")
    here = await world.present(authorization, host="a.example")

    assert problem(elsewhere) == (402, "invalid-challenge")
    assert isinstance(here, Allow)


async def test_a_bound_body_must_be_the_one_that_was_quoted(world: World) -> None:
    world.terms.routes[ROUTE] = priced(digest_max_bytes=1024)
    authorization = world.pay(await world.challenge(body=b"one"))

    other = await world.present(authorization, body=b"two")
    none = await world.present(authorization, body=None)
    same = await world.present(authorization, body=b"one")

    assert [problem(other), problem(none)] == [(402, "invalid-challenge")] * 2
    assert isinstance(same, Allow)


async def test_a_query_is_free_where_it_is_not_bound(world: World) -> None:
    world.terms.routes[ROUTE] = priced(bind_query=False)
    authorization = world.pay(await world.challenge())

    assert isinstance(await world.present(authorization, query="model=b"), Allow)


@pytest.mark.parametrize("bind_query", [True, False])
async def test_a_quote_for_one_path_of_a_pattern_opens_no_other(world: World, bind_query: bool) -> None:
    world.terms.routes[ROUTE] = priced(bind_query=bind_query)
    authorization = world.pay(await world.challenge(path="/users/1"))

    other = await world.present(authorization, path="/users/2")

    assert problem(other) == (402, "invalid-challenge")
    assert isinstance(await world.present(authorization, path="/users/1"), Allow)


async def test_a_quote_without_its_query_is_good_for_every_query_after_an_edit(world: World) -> None:
    world.terms.routes[ROUTE] = priced(bind_query=False)
    authorization = world.pay(await world.challenge())
    world.terms.routes[ROUTE] = priced(bind_query=True)

    assert isinstance(await world.present(authorization, query="model=b"), Allow)


async def test_an_expired_challenge_is_asked_again(world: World) -> None:
    authorization = world.pay(await world.challenge())
    world.clock.later(PRICE.expires_in)

    assert problem(await world.present(authorization)) == (402, "payment-expired")
    assert world.rail.sent == []


async def test_a_quote_is_honoured_after_the_price_has_changed(world: World) -> None:
    authorization = world.pay(await world.challenge())
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, amount="9000", recipient="0xBAD"),))

    allowed = await world.present(authorization)

    assert isinstance(allowed, Allow)
    row = await world.row(authorization)
    assert (row.amount, row.recipient) == ("1000", "0xfeed")


async def test_a_quote_is_honoured_after_its_offer_was_removed(world: World) -> None:
    authorization = world.pay(await world.challenge())
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, name="new"),))

    assert isinstance(await world.present(authorization), Allow)


async def test_a_quote_of_the_key_before_is_honoured(world: World) -> None:
    authorization = world.pay(await world.challenge())
    world.terms.keyring = Keyring((NEXT_KEY, KEY))

    assert isinstance(await world.present(authorization), Allow)


async def test_a_quote_of_a_removed_key_is_not_ours(world: World) -> None:
    authorization = world.pay(await world.challenge())
    world.terms.keyring = Keyring((NEXT_KEY,))

    assert problem(await world.present(authorization)) == (402, "invalid-challenge")


async def test_what_was_paid_for_by_a_removed_key_is_not_asked_for_again(world: World) -> None:
    authorization = await owed(world)
    world.terms.keyring = Keyring((NEXT_KEY,))

    refused = await world.present(authorization)
    assert problem(refused) == (403, "verification-failed")
    assert challenges(refused) == ()
    world.terms.keyring = Keyring((NEXT_KEY, KEY))
    assert isinstance(await world.present(authorization), Allow)


async def test_no_store_is_asked_for_an_id_that_is_none(world: World) -> None:
    asked = await world.challenge()
    world.inner.get = None  # type: ignore[assignment]  # whoever asks it fails

    verdict = await world.present(world.pay(replace(asked, id="\0" * 43)))

    assert problem(verdict) == (402, "invalid-challenge")


async def test_what_was_paid_for_by_another_version_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorization = await owed(world)

    def unreadable(_opaque: str) -> object:
        raise KeyError("a field that this version does not know")

    monkeypatch.setattr(challenge.Bound, "decode", unreadable)
    refused = await world.present(authorization)

    assert problem(refused) == (403, "verification-failed")
    assert challenges(refused) == ()


async def test_a_payment_that_failed_under_a_removed_key_is_asked_for_again(world: World) -> None:
    world.rail.sends = "reverts"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    world.terms.keyring = Keyring((NEXT_KEY,))

    assert problem(await world.present(authorization)) == (402, "invalid-challenge")


async def test_a_revoked_quote_is_refused_and_newer_ones_are_not(world: World) -> None:
    old = world.pay(await world.challenge())
    world.clock.later(5)
    world.terms.routes[ROUTE] = priced(not_before=int(world.clock.seconds()))
    new = world.pay(await world.challenge())

    assert problem(await world.present(old)) == (402, "invalid-challenge")
    assert isinstance(await world.present(new), Allow)


async def test_a_revocation_says_nothing_of_a_payment_that_was_made(world: World) -> None:
    authorization = await owed(world)
    world.clock.later(5)
    world.terms.routes[ROUTE] = priced(not_before=int(world.clock.seconds()))

    assert isinstance(await world.present(authorization), Allow)


async def test_a_removed_route_is_503_and_comes_back_with_its_credits(world: World) -> None:
    authorization = await owed(world)
    del world.terms.routes[ROUTE]

    assert problem(await world.present(authorization)) == UNAVAILABLE
    world.terms.routes[ROUTE] = PRICE
    assert isinstance(await world.present(authorization), Allow)


async def test_a_signed_payment_on_a_removed_network_is_not_sent(world: World) -> None:
    authorization = world.pay(await world.challenge())
    other = replace(NETWORK, name="mainnet")
    world.terms.networks = {"mainnet": other}
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, network="mainnet"),))

    assert problem(await world.present(authorization)) == (402, "invalid-challenge")


async def test_a_transfer_on_a_removed_network_is_not_asked_for_again(world: World) -> None:
    authorization = world.push(await world.challenge())
    world.terms.networks = {"mainnet": replace(NETWORK, name="mainnet")}
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, network="mainnet"),))

    assert problem(await world.present(authorization)) == UNAVAILABLE


async def test_a_proof_opens_a_route_that_costs_nothing(world: World) -> None:
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, amount="0"),))
    authorization = world.pay(await world.challenge(), kind="proof")

    allowed = await world.present(authorization)
    again = await world.present(authorization)

    assert isinstance(allowed, Allow)
    assert problem(again) == BUSY
    assert (await world.row(authorization)).reference == read(authorization)


# --- what a settlement may come to ---------------------------------------------------------------------


async def test_a_reverted_payment_is_asked_again(world: World) -> None:
    world.rail.sends = "reverts"
    authorization = world.pay(await world.challenge())

    first = await world.present(authorization)
    again = await world.present(authorization)

    assert [problem(first), problem(again)] == [FAILED] * 2
    assert await world.state(authorization) is State.FAILED


@pytest.mark.parametrize("answers", ["refused", "unavailable"])
async def test_a_claim_of_which_provably_nothing_was_sent_fails(world: World, answers: str) -> None:
    world.rail.answers = answers
    authorization = world.pay(await world.challenge())

    verdict = await world.present(authorization)

    assert problem(verdict) == FAILED
    assert await world.state(authorization) is State.FAILED
    assert world.rail.sent == []


async def test_an_unknown_answer_is_resolved_by_the_chain(world: World) -> None:
    world.rail.answers = "unknown"

    allowed = await world.present(world.pay(await world.challenge()))

    assert isinstance(allowed, Allow)
    assert world.rail.settlements() == 1


async def test_an_outcome_nobody_knows_is_503_and_then_delivered_once(world: World) -> None:
    world.rail.sends, world.rail.reachable = "lost", False
    authorization = world.pay(await world.challenge())

    first = await world.present(authorization)
    second = await world.present(authorization)
    await world.idle()
    world.rail.reachable = True
    world.rail.include((await world.row(authorization)).reference or "")
    third = await world.present(authorization)

    assert [problem(first), problem(second)] == [UNKNOWN, UNKNOWN]
    assert isinstance(first, Deny)
    assert header(first, "retry-after") == "1"
    assert isinstance(third, Allow)
    assert world.rail.settlements() == 1


async def test_a_lost_payment_is_sent_again_while_it_can_settle(world: World) -> None:
    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    world.rail.sends = "settles"

    allowed = await world.present(authorization)

    assert isinstance(allowed, Allow)
    assert len(set(world.rail.sent)) == 1
    assert world.rail.settlements() == 1


async def test_a_lost_payment_fails_past_its_last_valid_moment(world: World) -> None:
    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    first = await world.present(authorization)
    await world.idle()
    world.clock.later(61)
    world.rail.sent.clear()  # the chain's own view: it can never be included

    verdict = await world.present(authorization)

    assert problem(first) == UNKNOWN
    assert problem(verdict) == FAILED
    assert await world.state(authorization) is State.FAILED


@pytest.mark.parametrize("point", ["before claim", "after claim", "before send", "after send"])
async def test_a_method_that_raises_never_leads_to_a_second_payment(world: World, point: str) -> None:
    world.rail.dies_at = point
    authorization = world.pay(await world.challenge())

    first = await world.present(authorization)
    await world.idle()
    world.rail.dies_at = ""
    second = await world.present(authorization)

    assert isinstance(second, Allow) or isinstance(first, Allow)
    assert world.rail.settlements() == 1


async def test_a_slow_settlement_is_503_and_ends_in_a_credit(world: World) -> None:
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())

    first = await world.present(authorization)
    await world.check_ended(authorization)
    world.rail.go()
    await world.until(authorization, State.CREDIT)
    second = await world.present(authorization)

    assert problem(first) == UNKNOWN
    assert isinstance(second, Allow)
    assert second.attempt == 1
    assert world.rail.settlements() == 1


async def test_a_payment_whose_check_ended_before_it_was_claimed_is_not_sent(world: World) -> None:
    world.rail.stop("before claim")
    authorization = world.pay(await world.challenge())

    first = await world.present(authorization)
    world.rail.go()
    await world.idle()
    sent = list(world.rail.sent)
    second = await world.present(authorization)

    assert problem(first) == UNKNOWN
    assert sent == []
    assert isinstance(second, Allow)


# --- a credential arrives and there is a row -----------------------------------------------------------


async def test_a_credential_that_is_settling_is_in_progress(world: World) -> None:
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    first = asyncio.create_task(world.present(authorization))
    await world.rail.reached("after send")

    second = await world.present(authorization)
    world.rail.go()

    assert problem(second) == BUSY
    assert isinstance(second, Deny)
    assert header(second, "retry-after") == "1"
    assert isinstance(await first, Allow)


async def test_a_credential_waits_for_a_settlement_that_ends_in_time(world: World) -> None:
    world.gate.times = Times(settle_wait=5, in_progress_wait=4)
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    first = asyncio.create_task(world.present(authorization))
    await world.rail.reached("after send")

    second = asyncio.create_task(world.gate.check(world.request(authorization=authorization)))
    first.cancel()
    world.rail.go()

    assert isinstance(await second, Allow)
    assert world.rail.settlements() == 1


async def test_a_credential_that_is_out_for_delivery_is_in_progress(world: World) -> None:
    authorization, _ = await paid(world)

    assert problem(await world.present(authorization)) == BUSY


@pytest.mark.parametrize("state", [State.DELIVERING, State.UNKNOWN])
async def test_one_credential_does_not_fill_the_lane_of_those_who_pay(world: World, state: State) -> None:
    if state is State.UNKNOWN:
        world.rail.sends = "lost"
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    assert await world.state(authorization) is state
    world.gate.times = Times(settle_wait=5, in_progress_wait=4)

    waiting = [asyncio.create_task(world.present(authorization)) for _ in range(64)]
    done, still = await asyncio.wait(waiting, timeout=3)

    assert {problem(task.result()) for task in done} == {BUSY if state is State.DELIVERING else UNKNOWN}
    assert (len(done), len(still)) == (56, 8)
    for task in still:
        task.cancel()
    await asyncio.gather(*still, return_exceptions=True)


async def test_a_delivery_without_news_is_owed_when_its_lease_ends(world: World) -> None:
    authorization, _ = await paid(world)
    world.lease_ends()

    again = await world.present(authorization)

    assert isinstance(again, Allow)
    assert again.attempt == 2
    assert (await world.row(authorization)).faults == 1
    assert world.rail.settlements() == 1


async def test_the_outcome_file_is_read_before_a_lease_is_ended(world: World) -> None:
    authorization, allowed = await paid(world)
    line = {"payment": allowed.payment, "attempt": "1", "status": 200, "flags": "-", "finished": 3}
    (world.folder / f"{ENVOY}.log").write_text(json.dumps(line) + "\n")
    world.lease_ends()

    assert problem(await world.present(authorization)) == USED
    assert await world.state(authorization) is State.DELIVERED


async def test_a_delivery_of_an_envoy_that_is_gone_is_owed_at_once(world: World) -> None:
    authorization, allowed = await paid(world)
    (world.folder / f"{ENVOY}.log").rename(world.folder / f"{ENVOY}.ended")
    world.open.clear()

    again = await world.present(authorization, data_plane="envoy-2")

    assert isinstance(again, Allow)
    assert again.attempt == allowed.attempt + 1


async def test_a_lease_that_ended_is_ended_once_by_many(world: World) -> None:
    authorization, _ = await paid(world)
    world.lease_ends()

    found = await asyncio.gather(*(world.present(authorization) for _ in range(8)))

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert (await world.row(authorization)).attempt == 2


async def test_a_credit_is_delivered_without_another_settlement_and_with_the_same_receipt(world: World) -> None:
    authorization, first = await paid(world)
    await world.news(first, 500)
    world.clock.later(30)

    second = await world.present(authorization)

    assert isinstance(second, Allow)
    assert (second.attempt, second.reason) == (2, "credit")
    assert dict(second.response_headers)[wire.RECEIPT_HEADER] == dict(first.response_headers)[wire.RECEIPT_HEADER]
    assert world.rail.settlements() == 1


async def test_a_credit_outlives_its_challenge(world: World) -> None:
    authorization = await owed(world)
    world.clock.later(PRICE.expires_in + 1)

    assert isinstance(await world.present(authorization), Allow)


@pytest.mark.parametrize("change", [{"http_method": "GET"}, {"query": "model=b"}, {"route": "shop/llm/other"}])
async def test_a_credit_is_good_for_its_own_request_only(world: World, change: dict[str, Any]) -> None:
    world.terms.routes["shop/llm/other"] = PRICE
    authorization = await owed(world)

    assert problem(await world.present(authorization, **change)) == USED


async def test_a_credit_with_a_bound_body_is_good_for_that_body(world: World) -> None:
    world.terms.routes[ROUTE] = priced(digest_max_bytes=1024)
    authorization = await owed(world, body=b"one")

    assert problem(await world.present(authorization, body=b"two")) == USED
    assert isinstance(await world.present(authorization, body=b"one"), Allow)


async def test_attempts_that_failed_end_in_a_debt(world: World) -> None:
    authorization, allowed = await paid(world)
    await world.news(allowed, 500)
    for _ in range(2):
        await world.news(await world.present(authorization), 500)

    assert await world.state(authorization) is State.OWED
    assert problem(await world.present(authorization)) == USED


async def test_attempts_the_payer_ended_lapse(world: World) -> None:
    authorization, allowed = await paid(world)
    await world.news(allowed, 404)
    await world.news(await world.present(authorization), 0, flags=frozenset({"DC"}), upstream_finished=False)
    await world.news(await world.present(authorization), 422)

    assert await world.state(authorization) is State.LAPSED
    assert problem(await world.present(authorization)) == USED


async def test_a_credit_nobody_used_in_its_life_is_used_up_when_it_comes(world: World) -> None:
    authorization = await owed(world)
    world.clock.later(PRICE.credit_life + 1)

    assert problem(await world.present(authorization)) == USED
    assert await world.state(authorization) is State.OWED


async def test_another_credential_for_the_same_challenge_is_refused(world: World) -> None:
    asked = await world.challenge()
    first = await world.present(world.pay(asked))

    second = await world.present(world.pay(asked))

    assert isinstance(first, Allow)
    assert problem(second) == USED
    assert world.rail.settlements() == 1


async def test_one_transaction_pays_one_challenge(world: World) -> None:
    transaction = world.transaction()
    first = await world.present(world.pay(await world.challenge(), tx=transaction))

    second = await world.present(world.pay(await world.challenge(), tx=transaction, payer=BOB))

    assert isinstance(first, Allow)
    assert problem(second) == USED


async def test_a_settlement_whose_process_died_is_resolved_once_its_lease_is_over(world: World) -> None:
    world.rail.sends = "lost"
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    world.rail.include((await world.row(authorization)).reference or "")
    other = world.another("authz-1/boot-9")

    early = await world.present(authorization, gate=other)
    world.clock.later(61)
    late = await world.present(authorization, gate=other)

    assert problem(early) == BUSY
    assert isinstance(late, Allow)
    assert world.rail.settlements() == 1


async def test_a_new_boot_of_the_same_slot_resolves_settlements_at_once(world: World) -> None:
    world.rail.stop("after send")
    authorization = world.pay(await world.challenge())
    await world.present(authorization)

    verdict = await world.present(authorization, gate=world.another("authz-0/boot-2"))

    assert isinstance(verdict, Allow)
    assert world.rail.settlements() == 1


async def test_a_settling_row_whose_chain_is_unreachable_is_503(world: World) -> None:
    world.rail.stop("after claim")
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    world.rail.reachable = False

    verdict = await world.present(authorization, gate=world.another("authz-0/boot-2"))

    assert problem(verdict) == UNKNOWN


async def test_an_open_payment_on_a_removed_network_is_still_resolved(world: World) -> None:
    world.rail.sends, world.rail.reachable = "lost", False
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    world.rail.include((await world.row(authorization)).reference or "")
    world.rail.reachable = True
    world.terms.networks.clear()

    assert isinstance(await world.present(authorization), Allow)


async def test_an_open_payment_on_a_network_nobody_knows_is_503_and_never_failed(world: World) -> None:
    world.rail.stop("after claim")
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    world.terms.networks.clear()
    other = world.another("authz-0/boot-2")
    await world.ledger.remember_network("devnet", json.dumps({**_document(), "name": "devnet"}))
    row = await world.row(authorization)
    await world.ledger.replace(row, replace(row, network="gone"))

    verdict = await world.present(authorization, gate=other)

    assert problem(verdict) == UNKNOWN
    assert await world.state(authorization) is State.UNKNOWN


def _document() -> dict[str, object]:
    return {"name": "devnet", "method": "promise", "chain_id": 7, "rpc_urls": ["http://127.0.0.1:1"]}


async def test_an_attempt_whose_process_died_before_it_answered_is_answered_by_the_next(world: World) -> None:
    authorization = world.pay(await world.challenge())
    lost = await world.present(authorization, id="r1")
    world.open.clear()  # its answer died with its process: Envoy asks again for the same request

    again = await world.present(authorization, gate=world.another("authz-0/boot-2"), id="r1")

    assert isinstance(lost, Allow)
    assert isinstance(again, Allow)
    assert (again.payment, again.attempt) == (lost.payment, lost.attempt)
    assert (await world.row(authorization)).lease_owner == "authz-0/boot-2"
    assert world.rail.settlements() == 1


@pytest.mark.parametrize(
    ("owner", "fields"),
    [
        ("authz-0/boot-2", {"id": "r2"}),
        ("authz-0/boot-2", {"id": ""}),
        ("authz-0/boot-2", {"id": "r1", "data_plane": "envoy-9"}),
        (None, {"id": "r1"}),
    ],
    ids=["another request", "no id", "another Envoy", "the same process"],
)
async def test_an_attempt_that_is_out_is_not_answered_twice(
    world: World, owner: str | None, fields: dict[str, str]
) -> None:
    authorization = world.pay(await world.challenge())
    await world.present(authorization, id="r1")
    gate = world.gate if owner is None else world.another(owner)
    (world.folder / "envoy-9.log").touch()

    verdict = await world.present(authorization, gate=gate, **fields)

    assert problem(verdict) == BUSY


async def test_a_process_that_was_taken_for_dead_takes_no_attempt_back(world: World) -> None:
    authorization = world.pay(await world.challenge())
    lost = await world.present(authorization, id="r1")
    assert isinstance(lost, Allow)
    world.open.clear()
    await world.present(authorization, gate=world.another("authz-0/boot-2"), id="r1")

    await world.gate.closer.not_sent(world.gate._begun(lost))

    assert await world.state(authorization) is State.DELIVERING


async def test_a_transfer_for_a_challenge_older_than_the_ledger_is_refused_and_listed(
    world: World, tmp_path: Path
) -> None:
    asked = await world.challenge()
    authorization = world.push(asked)
    world.clock.later(5)
    lost = await stores.open_ledger(f"sqlite:{tmp_path / 'a new one.db'}", clock=lambda: world.clock.ms)

    try:
        verdict = await world.another("authz-0/boot-2", ledger=lost).check(
            world.request(authorization=authorization)
        )
        noted = await lost.refused(9)
    finally:
        await lost.close()

    assert problem(verdict) == USED
    assert [each.challenge_id for each in noted] == [asked.id]


# --- many at once, and giving up -----------------------------------------------------------------------


async def test_32_uses_of_one_credential_settle_once_and_deliver_once(world: World) -> None:
    authorization = world.pay(await world.challenge())

    found = await asyncio.gather(*(world.present(authorization) for _ in range(32)))

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert {problem(verdict) for verdict in found if isinstance(verdict, Deny)} <= {BUSY}
    assert world.rail.settlements() == 1
    assert len(world.rail.sent) == 1


@pytest.mark.parametrize("problem_slug", ["payment-insufficient", "verification-failed"])
async def test_a_refusal_that_comes_after_the_payment_asks_for_no_other(world: World, problem_slug: str) -> None:
    authorization = world.pay(await world.challenge())
    world.rail.stop("verify")
    slow = asyncio.create_task(world.present(authorization))
    await world.rail.reached("verify")
    held = world.rail.forget()
    assert isinstance(await world.present(authorization), Allow)

    world.rail.verify_says = Refused(problem_slug, "The payer holds less than the amount.")
    held["verify"].set()

    assert problem(await slow) == BUSY


async def test_two_processes_settle_one_credential_once(world: World) -> None:
    other = world.another("authz-1/boot-1")
    authorization = world.pay(await world.challenge())

    found = await asyncio.gather(
        *(world.present(authorization, gate=gate) for gate in (world.gate, other) for _ in range(8))
    )

    assert sum(isinstance(verdict, Allow) for verdict in found) == 1
    assert len(world.rail.sent) == 1


async def test_parallel_calls_with_credentials_of_their_own_each_pay(world: World) -> None:
    credentials = [world.pay(await world.challenge()) for _ in range(6)]

    found = await asyncio.gather(*(world.present(one) for one in credentials))

    assert all(isinstance(verdict, Allow) for verdict in found)
    assert world.rail.settlements() == 6


async def _cancelled_after(world: World, steps: int, authorization: str, **fields: Any) -> bool:
    """Present, and give up after so many turns of the loop. False: it had ended by then."""
    check = asyncio.create_task(world.gate.check(world.request(authorization=authorization, **fields)))
    for _ in range(steps):
        await asyncio.sleep(0)
        if check.done():
            break
    if check.done():
        await world.hold(check.result(), authorization)
        return False
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    await world.idle()
    return True


async def test_a_check_that_is_given_up_at_any_point_leaves_its_payment_whole(world: World) -> None:
    steps = 0
    while True:
        authorization = world.pay(await world.challenge(), payer=f"0x{steps}")
        given_up = await _cancelled_after(world, steps, authorization)
        if not given_up:
            break
        row = await world.inner.get(read(authorization))
        nothing_sent = row is not None and row.state is State.SETTLING and not row.lease_owner
        assert row is None or nothing_sent or row.state is State.CREDIT, steps
        assert row is None or not nothing_sent or row.reference not in world.rail.sent

        allowed = await world.present(authorization)

        assert isinstance(allowed, Allow), (steps, allowed)
        assert allowed.attempt == 1
        await world.news(allowed)
        assert world.rail.settlements() == len(set(world.rail.sent)) == steps + 1
        steps += 1
    assert steps > 3


async def test_a_credit_whose_check_is_given_up_at_any_point_stays_a_credit(world: World) -> None:
    steps = 0
    while True:
        authorization = await owed(world, query=f"n={steps}")
        given_up = await _cancelled_after(world, steps, authorization, query=f"n={steps}")
        if not given_up:
            break
        row = await world.row(authorization)
        assert (row.state, row.attempt, row.faults) == (State.CREDIT, 1, 1), steps

        assert isinstance(await world.present(authorization, query=f"n={steps}"), Allow)
        steps += 1
    assert steps > 3


async def test_a_taken_credit_whose_check_is_given_up_at_any_point_is_delivered_later(world: World) -> None:
    steps = 0
    while True:
        query = f"n={steps}"
        await owed(world, query=query)
        world.clock.later(1)
        settled = world.rail.settlements()
        retry = world.pay(await world.challenge(query=query))
        given_up = await _cancelled_after(world, steps, retry, query=query)
        if not given_up:
            break

        allowed = await world.present(retry, query=query)

        assert isinstance(allowed, Allow), (steps, allowed)
        assert allowed.attempt == 2
        assert world.rail.settlements() == settled
        steps += 1
    assert steps > 3


# --- push ----------------------------------------------------------------------------------------------


async def test_a_transfer_that_was_made_is_let_through_once(world: World) -> None:
    authorization = world.push(await world.challenge())

    allowed = await world.present(authorization)
    await world.news(allowed)

    assert isinstance(allowed, Allow)
    assert problem(await world.present(authorization)) == USED


async def test_a_transfer_that_is_not_there_yet_is_503_without_a_row(world: World) -> None:
    asked = await world.challenge()
    authorization = credential(echo(asked), {"type": "hash", "tx": world.transaction()})

    assert problem(await world.present(authorization)) == UNAVAILABLE
    assert await world.inner.get(asked.id) is None


async def test_a_reverted_transfer_is_asked_again(world: World) -> None:
    authorization = world.push(await world.challenge(), reverted=True)

    assert problem(await world.present(authorization)) == FAILED


@pytest.mark.parametrize("change", [{"http_method": "GET"}, {"query": "model=b"}, {"route": "shop/llm/other"}])
async def test_a_transfer_for_another_request_is_refused_and_listed(world: World, change: dict[str, Any]) -> None:
    world.terms.routes["shop/llm/other"] = PRICE
    authorization = world.push(await world.challenge())

    verdict = await world.present(authorization, **change)

    assert problem(verdict) == USED
    (listed,) = await world.ledger.refused(9)
    assert (listed.challenge_id, listed.network) == (read(authorization), "devnet")
    assert isinstance(await world.present(authorization), Allow)  # where it belongs it is still good


async def test_a_transfer_of_the_wrong_amount_is_refused_and_listed(world: World) -> None:
    authorization = world.push(await world.challenge(), amount="1")

    assert problem(await world.present(authorization)) == USED
    assert len(await world.ledger.refused(9)) == 1


async def test_a_transfer_in_time_is_good_after_its_challenge_expired(world: World) -> None:
    authorization = world.push(await world.challenge())
    world.clock.later(PRICE.expires_in + 10)

    assert isinstance(await world.present(authorization), Allow)


async def test_a_transfer_after_the_challenge_expired_is_refused_and_listed(world: World) -> None:
    asked = await world.challenge()
    world.clock.later(PRICE.expires_in + 10)

    assert problem(await world.present(world.push(asked))) == USED
    assert len(await world.ledger.refused(9)) == 1


async def test_a_transfer_before_the_revocation_is_good_and_one_after_it_is_not(world: World) -> None:
    before, late = await world.challenge(), await world.challenge()
    early = world.push(before)
    world.clock.later(5)
    world.terms.routes[ROUTE] = priced(not_before=int(world.clock.seconds()))

    assert isinstance(await world.present(early), Allow)
    assert problem(await world.present(world.push(late))) == USED


async def test_a_failed_signed_payment_does_not_block_a_transfer_for_the_same_challenge(world: World) -> None:
    world.rail.sends = "reverts"
    asked = await world.challenge()
    failed = await world.present(world.pay(asked))

    allowed = await world.present(world.push(asked))

    assert problem(failed) == FAILED
    assert isinstance(allowed, Allow)


async def test_a_transfer_for_a_challenge_that_was_paid_otherwise_is_listed(world: World) -> None:
    asked = await world.challenge()
    await world.present(world.pay(asked))

    verdict = await world.present(world.push(asked))

    assert problem(verdict) == USED
    (listed,) = await world.ledger.refused(9)
    assert listed.challenge_id == asked.id


async def test_one_transfer_told_in_two_ways_is_not_listed_as_two(world: World) -> None:
    asked = await world.challenge()
    authorization = world.push(asked)
    await world.present(authorization)
    (transaction,) = world.rail.transfers
    retold = credential(echo(asked), {"type": "hash", "tx": transaction}, source="did:pkh:eip155:7:0x1")

    assert problem(await world.present(retold)) == USED
    assert await world.ledger.refused(9) == ()


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (Unavailable("down"), UNAVAILABLE),
        (Refused("verification-failed", "no"), USED),
        (TransferRefused("0xother", "no"), USED),
    ],
)
async def test_a_second_transfer_is_never_answered_with_a_challenge(
    world: World, says: Refused | Unavailable | TransferRefused, expected: tuple[int, str]
) -> None:
    asked = await world.challenge()
    await world.present(world.pay(asked))
    pushed = world.push(asked)
    world.rail.verify_says = says

    assert problem(await world.present(pushed)) == expected


# --- sponsored -----------------------------------------------------------------------------------------


async def test_a_sponsored_payment_keeps_its_envelope_while_it_is_open(world: World) -> None:
    world.terms.routes[ROUTE] = priced(offers=(replace(OFFER, fee_payer=TERMS),))
    world.rail.stop("before send")
    authorization = world.pay(await world.challenge(), sponsored=True)
    check = asyncio.create_task(world.present(authorization))
    await world.rail.reached("before send")
    kept = (await world.row(authorization)).envelope
    world.rail.go()

    assert isinstance(await check, Allow)
    assert kept is not None
    assert (await world.row(authorization)).envelope is None


async def test_a_sponsored_payment_that_died_before_its_envelope_starts_again(world: World) -> None:
    world.rail.stop("after claim")
    authorization = world.pay(await world.challenge(), sponsored=True)
    await world.present(authorization)
    other = world.another("authz-0/boot-2")
    world.rail.forget()  # the first one stays where it is: its process is dead

    allowed = await world.present(authorization, gate=other)

    assert isinstance(allowed, Allow)
    assert len(world.rail.sent) == 1


async def test_a_sponsored_payment_whose_method_failed_before_its_envelope_starts_again(world: World) -> None:
    world.rail.dies_at = "after claim"
    authorization = world.pay(await world.challenge(), sponsored=True)
    first = await world.present(authorization)
    await world.idle()
    world.rail.dies_at = ""

    second = await world.present(authorization)

    assert problem(first)[0] == 503
    assert isinstance(second, Allow)
    assert len(world.rail.sent) == 1


async def test_a_sponsored_payment_taken_over_is_not_sent_by_the_one_that_was_taken_for_dead(world: World) -> None:
    world.rail.stop("after claim")
    authorization = world.pay(await world.challenge(), sponsored=True)
    await world.present(authorization)
    world.clock.later(1)
    held = world.rail.forget()
    world.rail.stop("before send")
    other = world.another("authz-0/boot-2")
    second = asyncio.create_task(world.present(authorization, gate=other))
    await world.rail.reached("before send")

    envelope = (await world.row(authorization)).envelope
    held["after claim"].set()
    await world.idle()
    assert await world.state(authorization) is not State.FAILED
    world.rail.go()
    await second

    assert envelope is not None
    assert set(world.rail.sent) == {envelope.removeprefix("co-signed ")}


async def test_a_sponsored_payment_is_sent_again_from_its_envelope(world: World) -> None:
    world.rail.sends = "lost"
    authorization = world.pay(await world.challenge(), sponsored=True)
    await world.present(authorization)
    await world.idle()
    world.rail.sends = "settles"
    world.terms.networks = dict(world.terms.networks)

    assert isinstance(await world.present(authorization), Allow)
    assert len(set(world.rail.sent)) == 1


# --- Idempotency-Key -----------------------------------------------------------------------------------


async def test_a_delivered_payment_is_forwarded_again_for_its_key_where_the_route_says_so(world: World) -> None:
    world.terms.routes[ROUTE] = priced(idempotent=True)
    authorization = world.pay(await world.challenge())
    first = await world.present(authorization, idempotency_key="k1")
    await world.news(first)

    again = await world.present(authorization, idempotency_key="k1")

    assert isinstance(again, Allow)
    assert again.attempt == 2
    assert await world.state(authorization) is State.DELIVERED


@pytest.mark.parametrize(("idempotent", "key"), [(False, "k1"), (True, "k2"), (True, None), (True, "")], ids=str)
async def test_a_delivered_payment_is_used_up_otherwise(world: World, idempotent: bool, key: str | None) -> None:
    world.terms.routes[ROUTE] = priced(idempotent=idempotent)
    authorization = world.pay(await world.challenge())
    await world.news(await world.present(authorization, idempotency_key="k1"))

    assert problem(await world.present(authorization, idempotency_key=key)) == USED


async def test_forwarding_again_ends_with_the_attempts_and_never_becomes_a_credit(world: World) -> None:
    world.terms.routes[ROUTE] = priced(idempotent=True)
    authorization = world.pay(await world.challenge())
    await world.news(await world.present(authorization, idempotency_key="k"))
    for _ in range(2):
        await world.news(await world.present(authorization, idempotency_key="k"), 500)

    assert problem(await world.present(authorization, idempotency_key="k")) == USED
    assert await world.state(authorization) is State.DELIVERED


async def test_without_a_key_nothing_is_forwarded_again(world: World) -> None:
    world.terms.routes[ROUTE] = priced(idempotent=True)
    authorization, allowed = await paid(world)
    await world.news(allowed)

    assert problem(await world.present(authorization)) == USED


def test_every_answer_that_asks_for_patience_says_when_to_come_back() -> None:
    for verdict in (verdicts.unknown(), verdicts.in_progress("x"), verdicts.unavailable("x")):
        assert header(verdict, "retry-after") == "1"
        assert header(verdict, "cache-control") == "no-store"
