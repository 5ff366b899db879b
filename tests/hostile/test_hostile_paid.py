"""A payment opens the request it was made for, once: dressed up in any way, it is served or refused with nothing
lost, and the credential stays with the gateway."""

import re
from typing import Final

import cheap_wallet
import hostile_cases
import hostile_paid
import hostile_targets
import pytest

pytestmark = pytest.mark.data_plane


#: Ours: a client's own would be short.
_FACT: Final = re.compile(r"(?i)x-mpp-payment-id[\n|][^\n|]{20,}")


def bought(target: hostile_targets.Target) -> str:
    """A fresh credential for `GET /shop/thing`."""
    (asked,) = target.exchange(hostile_cases.request("/shop/thing")).answers
    assert asked.status == 402
    return cheap_wallet.sign(asked.said("www-authenticate")[0], cheap_wallet.key("hostile"))


@pytest.mark.row("G03")
@pytest.mark.parametrize(
    "case",
    hostile_paid.ALL,
    ids=[f"{n}-{re.sub('[^A-Za-z0-9]+', '-', case.name)}" for n, case in enumerate(hostile_paid.ALL)],
)
def test_a_payment_opens_its_own_request_once_whatever_is_around_it(
    hostile_target: hostile_targets.Target, case: hostile_paid.Case
) -> None:
    credential = bought(hostile_target)
    token = credential.partition(" ")[2]

    first = hostile_target.exchange(case.build(credential), waits=case.waits, head=case.head)
    again = hostile_target.exchange(hostile_cases.request("/shop/thing", f"Authorization: {credential}"))

    receipts = [answer for answer in first.answers if answer.said("payment-receipt")]
    hits = first.paid_hits if receipts or case.becomes != "owed" else ()
    assert [hit.resource for hit in hits] in ([], ["paid:thing"])
    assert case.becomes in ("served" if hits else "refused", "either", "owed")
    assert [hit for hit in first.hits if token in hit.headers] == []
    assert [hit for hit in hits if not _FACT.search(hit.headers)] == []  # nobody talks the gateway out of its own
    assert max((*first.statuses, *again.statuses)) < 500
    assert len(receipts) <= len(hits)
    if hits:
        assert again.paid_hits == ()
    else:
        assert again.statuses == (200,)  # nothing was lost
        assert again.paid_hits[-1:] != ()
