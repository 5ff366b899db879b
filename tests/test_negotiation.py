"""Which challenges an answer has, in which order, and how much room they take."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_authz import challenge
from mpp_authz.challenge import Challenge

#: draft-httpauth-payment-00, "Challenge Negotiation with Accept-Payment": what a server has, in its order, what a
#: client says, and what the answer offers.
EXAMPLES = [
    (
        "solana/charge stripe/charge tempo/charge tempo/session",
        "tempo/charge, tempo/session, stripe/charge;q=0.5, solana/charge;q=0.3",
        "tempo/charge tempo/session stripe/charge solana/charge",
    ),
    ("solana/charge tempo/charge", "tempo/charge, solana/charge", "solana/charge tempo/charge"),
    (
        "tempo/session tempo/charge solana/charge stripe/charge",
        "tempo/*, solana/*;q=0.6, stripe/charge;q=0.2",
        "tempo/session tempo/charge solana/charge stripe/charge",
    ),
    (
        "tempo/charge tempo/session solana/charge stripe/charge",
        "tempo/charge, tempo/session;q=0, solana/charge;q=0.8, stripe/charge;q=0.4",
        "tempo/charge solana/charge stripe/charge",
    ),
]


@pytest.mark.row("C36")
@pytest.mark.parametrize(("offered", "accept", "expected"), EXAMPLES)
def test_the_drafts_examples_of_accept_payment_are_answered_as_it_says(
    offered: str, accept: str, expected: str
) -> None:
    kinds = [(method, intent) for method, _, intent in (kind.partition("/") for kind in offered.split())]

    chosen = challenge.accepted(kinds, accept)

    assert expected.split() == ["/".join(kinds[at]) for at in chosen]


def some(count: int) -> list[Challenge]:
    return [Challenge(f"id-{at}", "shop.example", "tempo", "charge", "e30", "2030-01-01") for at in range(count)]


def described(lines: tuple[str, ...]) -> list[bool]:
    return ["description=" in line for line in lines]


@pytest.mark.parametrize(
    ("count", "length", "expected"),
    [
        (1, 100, [True]),
        (5, 1000, [True] * 5),
        (5, 2000, [True, False, False, False, False]),
        (2, 10_000, [False, False]),
    ],
)
def test_a_description_is_left_out_where_it_would_take_too_much_room(
    count: int, length: int, expected: list[bool]
) -> None:
    lines = challenge.www_authenticate_lines(some(count), "d" * length)

    assert expected == described(lines)
    assert all("description" not in line for line in challenge.www_authenticate_lines(some(count), None))


@given(count=st.integers(1, 8), description=st.text(max_size=2000))
def test_what_one_answer_asks_can_be_read_and_no_challenge_is_lost(count: int, description: str) -> None:
    lines = challenge.www_authenticate_lines(some(count), description)

    assert [f"id-{at}" for at in range(count)] == [re.findall(r'id="(.*?)"', line)[0] for line in lines]
    assert sum(map(len, lines)) <= challenge.MAX_ANSWER_CHARS
