"""A payment opens the request it was made for, once: dressed up in any way, it is served or refused with nothing
lost, and the credential stays with the gateway."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cheap_wallet
import hostile_cases
import hostile_paid
import hostile_targets
import hostile_wire
import pytest

pytestmark = pytest.mark.data_plane


#: Ours: a client's own would be short.
_FACT: Final = re.compile(r"(?i)x-mpp-payment-id[\n|][^\n|]{20,}")


@dataclass(frozen=True, slots=True)
class Presented:
    """A case with a fresh credential, and then `GET /shop/thing` with the same one."""

    token: str
    first: hostile_targets.Outcome
    again: hostile_targets.Outcome

    @property
    def receipts(self) -> list[hostile_wire.Answer]:
        return [answer for answer in self.first.answers if answer.said("payment-receipt")]


Present = Callable[[hostile_paid.Case], Presented]


@pytest.fixture(scope="module")
def present(hostile_target: hostile_targets.Target) -> Present:
    """Presents a case, once for all tests that ask what became of it."""

    @functools.cache
    def once(case: hostile_paid.Case) -> Presented:
        credential = bought(hostile_target)
        first = hostile_target.exchange(
            case.build(credential), waits=case.waits, silent=case.waits, head=case.head
        )
        again = hostile_target.exchange(hostile_cases.request("/shop/thing", f"Authorization: {credential}"))
        return Presented(credential.partition(" ")[2], first, again)

    return once


def bought(target: hostile_targets.Target) -> str:
    """A fresh credential for `GET /shop/thing`."""
    (asked,) = target.exchange(hostile_cases.request("/shop/thing")).answers
    assert asked.status == 402
    return cheap_wallet.sign(asked.said("www-authenticate")[0], cheap_wallet.key("hostile"))


def _becoming(*ends: hostile_paid.Becomes) -> pytest.MarkDecorator:
    cases = [case for case in hostile_paid.ALL if case.becomes in ends]
    ids = [f"{n}-{re.sub('[^A-Za-z0-9]+', '-', case.name)}" for n, case in enumerate(cases)]
    return pytest.mark.parametrize("case", cases, ids=ids)


@pytest.mark.row("C23")
@_becoming("served")
def test_a_payment_opens_its_own_request_once_whatever_is_around_it(
    present: Present, case: hostile_paid.Case
) -> None:
    done = present(case)

    assert [hit.resource for hit in done.first.paid_hits] == ["paid:thing"]
    assert len(done.receipts) == 1
    assert max(done.first.statuses) < 500
    assert set(done.again.statuses) <= {403, 409}
    assert len(done.again.statuses) == 1
    assert done.again.hits == ()


@_becoming("refused")
def test_a_payment_that_opens_nothing_is_refused_and_not_lost(present: Present, case: hostile_paid.Case) -> None:
    done = present(case)

    (status,) = done.first.statuses
    assert 400 <= status < 500
    assert done.first.hits == ()
    assert done.receipts == []
    assert done.again.statuses == (200,)
    assert [hit.resource for hit in done.again.paid_hits] == ["paid:thing"]


@_becoming("owed")
def test_a_payment_whose_request_is_not_answered_is_owed(present: Present, case: hostile_paid.Case) -> None:
    done = present(case)

    assert {hit.resource for hit in done.first.paid_hits} <= {"paid:thing"}
    assert (len(done.receipts), done.again.statuses) in [(0, (200,)), (1, (403,)), (1, (409,))]


@pytest.mark.row("G03")
@_becoming("served", "owed")
def test_an_upstream_reads_our_facts_and_no_credential(present: Present, case: hostile_paid.Case) -> None:
    done = present(case)

    assert [hit for hit in done.first.hits if done.token in hit.headers] == []
    # Nobody talks the gateway out of its own.
    assert [hit for hit in done.first.paid_hits if not _FACT.search(hit.headers)] == []
