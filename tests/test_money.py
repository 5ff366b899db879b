"""Amounts are exact or refused."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpp_operator import money


@pytest.mark.parametrize(
    ("amount", "decimals", "units"),
    [
        ("0.05", 6, 50_000),
        ("0", 6, 0),
        ("1", 0, 1),
        ("1.50", 6, 1_500_000),
        ("0.000001", 6, 1),
        ("0.0000010", 6, 1),
        ("0.10", 2, 10),
        ("123456789012345678901.5", 6, 123456789012345678901500000),
    ],
)
def test_an_amount_is_whole_base_units(amount: str, decimals: int, units: int) -> None:
    assert money.base_units(amount, decimals) == units


@pytest.mark.parametrize(
    "amount",
    ["", "-1", "+1", "1e3", ".5", "5.", "01", "1,5", "0x1", " 1", "1 ", "1\n", "\u0661", "NaN", "1_000", "1.1.1"],
)
def test_what_is_no_decimal_number_is_refused(amount: str) -> None:
    with pytest.raises(money.AmountError, match="expected a decimal string"):
        money.base_units(amount, 6)


def test_a_price_below_one_base_unit_is_refused_and_not_rounded_to_nothing() -> None:
    with pytest.raises(money.AmountError, match="at most 6 decimal places"):
        money.base_units("0.0000001", 6)


def test_an_amount_that_no_token_can_hold_is_refused() -> None:
    with pytest.raises(money.AmountError, match="38 digits"):
        money.base_units("9" * 30, 18)


def test_base_units_are_read_as_they_are() -> None:
    assert money.parse_base_units("50000") == 50_000


@pytest.mark.parametrize("text", ["", "0.5", "-1", "007", "1e3", "9" * 39, "1\n", "\u0661"])
def test_what_is_no_whole_number_is_no_base_units(text: str) -> None:
    with pytest.raises(money.AmountError, match="whole base units"):
        money.parse_base_units(text)


@given(st.integers(0, 10**30 - 1), st.integers(0, 18))
def test_an_amount_survives_the_way_there_and_back(units: int, decimals: int) -> None:
    assert money.base_units(money.decimal(units, decimals), decimals) == units


@given(st.from_regex(money.DECIMAL, fullmatch=True), st.integers(0, 18))
def test_an_amount_is_exactly_what_was_written_or_refused(amount: str, decimals: int) -> None:
    exact = Fraction(amount) * 10**decimals
    try:
        units = money.base_units(amount, decimals)
    except money.AmountError:
        assert exact.denominator != 1 or exact >= 10**38
    else:
        assert units == exact
