"""What counts as delivered: docs/payments.md, and what Envoy 1.40 was seen to say of each ending."""

import json

import pytest

from mpp_authz import delivery
from mpp_authz.delivery import Entry
from mpp_authz.ledger.transitions import Outcome

BEFORE = "upstream_reset_before_response_started{x}"
AFTER = "upstream_reset_after_response_started{x}"
ENDED = "downstream_local_disconnect(purging_socket_that_have_not_progressed_to_connections)"


def entry(
    status: int, flags: str = "-", details: str = "via_upstream", finished: bool = True, began: bool = True
) -> Entry:
    return Entry("p1", 1, status, frozenset(flags.split(",")) - {"-"}, details, finished, began)


DELIVERED, FAULT, PAYERS = "delivered", "our fault", "the payer's doing"

#: ending, entry, on an ordinary route, on a streaming one
ENDINGS = [
    ("ok", entry(200), DELIVERED, DELIVERED),
    ("created", entry(201), DELIVERED, DELIVERED),
    ("304", entry(304), DELIVERED, DELIVERED),
    ("redirect", entry(302), FAULT, FAULT),
    ("upstream 500", entry(500), FAULT, FAULT),
    ("upstream 402, made 502", entry(502, "-", "", False), FAULT, FAULT),
    ("upstream resets before headers", entry(503, "UC", BEFORE, False), FAULT, FAULT),
    ("upstream refuses", entry(503, "UF", BEFORE, False), FAULT, FAULT),
    ("circuit breaker", entry(503, "UO", BEFORE, False), FAULT, FAULT),
    ("upstream breaks the body", entry(200, "UPE", AFTER, False), FAULT, DELIVERED),
    ("upstream resets the body over HTTP/2", entry(200, "UR", AFTER, False), FAULT, DELIVERED),
    ("request timeout", entry(504, "UT", "response_timeout", False), FAULT, FAULT),
    ("stream limit before headers", entry(504, "-", "max_duration_timeout", False), FAULT, FAULT),
    ("stream limit, upstream not finished", entry(200, "-", "max_duration_timeout", False), FAULT, DELIVERED),
    ("stream limit, upstream finished", entry(200, "-", "max_duration_timeout", True), DELIVERED, DELIVERED),
    ("client gone before headers", entry(0, "DC", "downstream_remote_disconnect", False), PAYERS, PAYERS),
    ("client gone after headers", entry(200, "DC", "downstream_remote_disconnect", False), DELIVERED, DELIVERED),
    ("Envoy ends before headers", entry(0, "DC", ENDED, False), FAULT, FAULT),
    ("Envoy ends in mid-answer", entry(200, "DC", ENDED, False), FAULT, FAULT),
    ("Envoy ends, a WebSocket", entry(101, "DC", ENDED, False), FAULT, FAULT),
    ("Envoy ends, the upstream had finished", entry(200, "DC", ENDED, True), FAULT, FAULT),
    ("client gone after a broken body", entry(200, "DC,UPE", AFTER, False), FAULT, DELIVERED),
    ("client gone after a 500", entry(500, "DC", "downstream_remote_disconnect", False), FAULT, FAULT),
    ("client gone after a 429", entry(429, "DC", "downstream_remote_disconnect", False), FAULT, FAULT),
    ("WebSocket, upstream closes", entry(101, "UC", AFTER, False), DELIVERED, DELIVERED),
    ("WebSocket, client gone", entry(101, "DC", "downstream_remote_disconnect", False), DELIVERED, DELIVERED),
    ("gRPC, upstream resets before headers", entry(200, "UC", BEFORE, False, began=False), FAULT, FAULT),
    ("gRPC, no upstream", entry(200, "UH", "no_healthy_upstream", False, began=False), FAULT, FAULT),
    ("nothing went out", entry(0, "-", "", False), FAULT, FAULT),
    *((f"upstream {status}", entry(status), PAYERS, PAYERS) for status in (400, 404, 405, 409, 413, 422, 499)),
    *((f"upstream {status}", entry(status), FAULT, FAULT) for status in (401, 402, 403, 407, 408, 425, 429)),
]


def _said(outcome: Outcome) -> str:
    assert not (outcome.delivered and outcome.fault)
    return DELIVERED if outcome.delivered else FAULT if outcome.fault else PAYERS


@pytest.mark.parametrize(("seen", "ordinary", "streaming"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
def test_an_ending_is_judged(seen: Entry, ordinary: str, streaming: str) -> None:
    assert _said(delivery.judge(seen, streaming=False)) == ordinary
    assert _said(delivery.judge(seen, streaming=True)) == streaming


def test_an_outcome_keeps_attempt_status_and_flags() -> None:
    outcome = delivery.judge(entry(503, "UF,UC", BEFORE, False), streaming=False)

    assert outcome == Outcome(attempt=1, delivered=False, fault=True, status=503, flags="UC,UF")


LINE = {"payment": "p1", "attempt": "2", "status": 200, "flags": "DC,UT", "details": "x", "finished": 0}


def test_a_line_of_the_outcome_file_is_read() -> None:
    assert delivery.read_line(json.dumps(LINE)) == Entry("p1", 2, 200, frozenset({"DC", "UT"}), "x", True)


@pytest.mark.parametrize("finished", [None, "-"])
def test_an_answer_that_never_ended_has_no_end_in_the_line(finished: str | None) -> None:
    read = delivery.read_line(json.dumps(LINE | {"finished": finished, "flags": "-", "details": None}))

    assert read == Entry("p1", 2, 200, frozenset(), "", False)


@pytest.mark.parametrize(("began", "expected"), [(None, False), ("-", False), (0, True)])
def test_an_answer_that_never_began_has_no_beginning_in_the_line(began: object, expected: bool) -> None:
    read = delivery.read_line(json.dumps(LINE | {"began": began}))

    assert read is not None
    assert read.upstream_began is expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        '"text"',
        json.dumps({}),
        json.dumps(LINE | {"payment": None}),
        json.dumps(LINE | {"payment": "-"}),
        json.dumps(LINE | {"payment": ""}),
        json.dumps(LINE | {"attempt": None}),
        json.dumps(LINE | {"attempt": "-"}),
        json.dumps(LINE | {"status": "-"}),
        json.dumps(LINE)[:-4],
    ],
)
def test_a_line_that_is_cut_or_about_no_payment_is_none(line: str) -> None:
    assert delivery.read_line(line) is None
