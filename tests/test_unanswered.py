"""Requests that were gone when their Check let them through: nothing reached the upstream, and nobody waits."""

from typing import Any

import ledgers
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from mpp_authz.closing import Begun, Closer
from mpp_authz.ledger import Ledger, State
from mpp_authz.metrics import Metrics
from mpp_authz.outcomes import AccessLog

OWNER = "authz-0/b1"


async def delivering(ledger: Ledger, attempt: int = 1) -> Closer:
    await ledger.insert(ledgers.payment("p1", State.DELIVERING, attempt=attempt, lease_owner=OWNER))
    return Closer(ledger, None, Metrics())


async def state(ledger: Ledger) -> tuple[State, int]:
    row = await ledger.get("p1")
    assert row is not None
    return row.state, row.attempt


def unpaid(request: str) -> Any:
    logged = accesslog_pb2.HTTPAccessLogEntry()
    logged.request.request_id = request
    logged.common_properties.access_log_type = accesslog_pb2.DownstreamEnd
    logged.common_properties.response_flags.downstream_connection_termination = True
    return logged


async def test_a_request_that_ended_before_its_check_was_answered_gives_its_attempt_back(ledger: Ledger) -> None:
    closer = await delivering(ledger, attempt=2)

    assert closer.let_through("r1", Begun("p1", 2, OWNER))
    await AccessLog(closer)._record(unpaid("r1"))

    assert await state(ledger) == (State.CREDIT, 1)


async def test_the_end_may_be_heard_of_before_the_answer(ledger: Ledger) -> None:
    closer = await delivering(ledger)

    await closer.unanswered("r1")

    assert not closer.let_through("r1", Begun("p1", 1, OWNER))


@pytest.mark.parametrize("request_id", ["r2", ""])
async def test_the_end_of_another_request_says_nothing(ledger: Ledger, request_id: str) -> None:
    closer = await delivering(ledger)

    assert closer.let_through("r1", Begun("p1", 1, OWNER))
    await AccessLog(closer)._record(unpaid(request_id))

    assert await state(ledger) == (State.DELIVERING, 1)
    assert closer.let_through("", Begun("p1", 1, OWNER))


async def test_a_request_that_still_waits_for_its_check_has_not_ended(ledger: Ledger) -> None:
    closer = await delivering(ledger)
    waiting = unpaid("r1")
    waiting.common_properties.access_log_type = accesslog_pb2.DownstreamPeriodic

    await AccessLog(closer)._record(waiting)

    assert closer.let_through("r1", Begun("p1", 1, OWNER))
    await AccessLog(closer)._record(waiting)
    assert await state(ledger) == (State.DELIVERING, 1)


async def test_an_older_attempts_end_takes_nothing_from_the_next(ledger: Ledger) -> None:
    closer = await delivering(ledger, attempt=2)

    closer.let_through("r1", Begun("p1", 1, OWNER))
    await closer.unanswered("r1")

    assert await state(ledger) == (State.DELIVERING, 2)


async def test_it_remembers_a_bounded_number_of_requests(ledger: Ledger) -> None:
    closer = await delivering(ledger)

    for number in range(10_000):
        closer.let_through(f"t{number}", Begun("p1", 1, OWNER))
        await closer.unanswered(f"u{number}")

    assert len(closer._calls.through) == len(closer._calls.unanswered) == 8192
    assert not closer.let_through("u9999", Begun("p1", 1, OWNER))
    assert closer.let_through("u0", Begun("p1", 1, OWNER))
