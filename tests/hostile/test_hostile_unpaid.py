"""Nothing paid is reached without a payment, and nothing free costs: raw bytes, a real gateway, three real
upstreams that each read a path in a way of their own and say what they were asked for."""

import re
from typing import Final

import hostile_cases
import hostile_http2
import hostile_targets
import hostile_upstreams
import hostile_wire
import pytest

pytestmark = pytest.mark.data_plane

#: What may be answered to a request that does not pay. No 5xx is among them.
_STATUSES: Final = frozenset({200, 400, 402, 403, 404, 405, 413, 417, 426, 431})


@pytest.fixture(scope="module")
def over_http2(
    hostile_target: hostile_targets.Target,
) -> tuple[dict[str, tuple[hostile_wire.Answer, ...]], tuple[hostile_upstreams.Hit, ...]]:
    """All HTTP/2 cases at once: the answers by name, and what the upstream was asked for."""
    hostile_target.settled()
    return hostile_http2.together(hostile_target.port), hostile_target.settled()


def _slugs(names: list[str]) -> list[str]:
    return [f"{number}-{re.sub('[^A-Za-z0-9]+', '-', name)}" for number, name in enumerate(names)]


@pytest.mark.row("G02", "C24")
@pytest.mark.parametrize("case", hostile_cases.ALL, ids=_slugs([case.id for case in hostile_cases.ALL]))
def test_a_hostile_request_gets_nothing_paid_and_pays_for_nothing_free(
    hostile_target: hostile_targets.Target, case: hostile_cases.Case
) -> None:
    outcome = hostile_target.send(case)

    assert outcome.statuses or case.silent
    assert outcome.paid_hits == ()
    assert case.asks != "free" or 402 not in outcome.statuses
    assert set(outcome.statuses) <= _STATUSES
    served = [answer for answer in outcome.answers if answer.status == 200 and answer.body]
    assert len(served) <= len(outcome.hits)
    assert [answer for answer in outcome.answers if answer.said("payment-receipt")] == []


def _of_http2(silent: bool) -> pytest.MarkDecorator:
    cases = [case for case in hostile_http2.ALL if case.silent is silent]
    return pytest.mark.parametrize("case", cases, ids=_slugs([case.name for case in cases]))


@_of_http2(silent=True)
def test_a_malformed_header_list_of_http2_gets_no_answer(
    over_http2: tuple[dict[str, tuple[hostile_wire.Answer, ...]], object], case: hostile_http2.Case
) -> None:
    answers, _ = over_http2

    assert answers[case.name] == ()


@_of_http2(silent=False)
def test_a_hostile_header_list_of_http2_is_answered_as_any_other(
    over_http2: tuple[dict[str, tuple[hostile_wire.Answer, ...]], object], case: hostile_http2.Case
) -> None:
    answers, _ = over_http2

    statuses = [answer.status for answer in answers[case.name]]
    assert statuses != []
    assert set(statuses) <= _STATUSES
    assert case.asks != "free" or 402 not in statuses


@pytest.mark.row("G02", "C24")
def test_no_header_list_of_http2_reaches_what_is_paid(
    over_http2: tuple[object, tuple[hostile_upstreams.Hit, ...]],
) -> None:
    _, hits = over_http2

    assert [hit for hit in hits if hit.paid] == []
    assert len(hits) >= 3  # the free ones among the cases did arrive


@pytest.mark.parametrize(
    "path",
    [
        "/shop/free/x",
        "/shop/caf%C3%A9",
        "/shop/a%20b",
        "/shop/100%25",
        "/shop/other;v=1",
        "/shop/things",
        "/shop/thing-2",
        "/shop/thing/sub",
        "/shop/things.json",
        "/shop/users/1",
        "/shop/users/1/reports",
        "/shop/%E6%97%A5%E6%9C%AC",
        "/shop/v1.0/x~y",
        "/shop/a:b@c",
        "/shop/x/..hidden/..y",
        "/shop/...",
        "/strict/free/THING",
    ],
)
def test_an_ordinary_free_path_beside_priced_ones_is_served(
    hostile_target: hostile_targets.Target, path: str
) -> None:
    outcome = hostile_target.exchange(hostile_cases.request(path))

    assert outcome.statuses == (200,)
    assert [hit.resource for hit in outcome.hits] == ["free"]


@pytest.mark.parametrize(
    "path", ["/shop/THING", "/shop/thing/", "/shop/thing;x", "/shop/thing.json", "/shop/Premium/x"]
)
def test_another_spelling_of_a_priced_path_is_a_404_that_says_so(
    hostile_target: hostile_targets.Target, path: str
) -> None:
    (answer,) = hostile_target.exchange(hostile_cases.request(path)).answers

    assert answer.status == 404
    assert b"another spelling of a path that has a price" in answer.body


@pytest.mark.parametrize(
    "path",
    ["/shop/free/%2e%2e;/thing", "/strict/free/..%252fx", "/strict/free/%c0%ae%c0%ae/x", "/nothing/..%20/x"],
)
def test_a_hidden_parent_segment_is_a_400_on_every_path(hostile_target: hostile_targets.Target, path: str) -> None:
    (answer,) = hostile_target.exchange(hostile_cases.request(path)).answers

    assert answer.status == 400
    assert answer.said("content-type") == ["application/problem+json"]
