"""Amounts of money: decimal strings to whole base units and back, exactly. No float, ever, and no rounding."""

import re
from typing import Final

#: A decimal number as people write a price: no sign, no exponent, no leading zero, no bare point.
DECIMAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,29})(?:\.[0-9]{1,18})?", re.ASCII)
#: Whole base units. 38 digits are below 2**127: they fit the uint128 of a TIP-20 token.
BASE_UNITS: Final = re.compile(r"0|[1-9][0-9]{0,37}", re.ASCII)
#: More than any token has.
MAX_DECIMALS: Final = 18


class AmountError(ValueError):
    """Not an amount of that currency. The message says what was expected and what was got."""


def base_units(amount: str, decimals: int) -> int:
    """`amount` units of a currency with `decimals` places, in base units: "0.05" with 6 is 50000.

    Raises:
        AmountError: not a decimal string, not a whole number of base units, or more than 38 digits of them.
    """
    if not DECIMAL.fullmatch(amount):
        raise AmountError(f'expected a decimal string such as "0.05", got {amount!r}')
    whole, _, fraction = amount.partition(".")
    if fraction[decimals:].strip("0"):
        # Never rounded: a price that rounds to 0 gives the service away.
        raise AmountError(f"expected at most {decimals} decimal places (one base unit), got {amount!r}")
    units = int(whole + fraction[:decimals].ljust(decimals, "0"))
    return _bounded(units, amount)


def parse_base_units(text: str) -> int:
    """`text` as whole base units.

    Raises:
        AmountError: not a whole number without sign, or more than 38 digits.
    """
    if not BASE_UNITS.fullmatch(text):
        raise AmountError(f'expected whole base units such as "50000", got {text!r}')
    return int(text)


def decimal(units: int, decimals: int) -> str:
    """The shortest decimal string of `units` base units: 50000 with 6 decimals is "0.05"."""
    digits = str(units).rjust(decimals + 1, "0")
    whole, fraction = digits[: len(digits) - decimals], digits[len(digits) - decimals :].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _bounded(units: int, amount: str) -> int:
    if not BASE_UNITS.fullmatch(str(units)):
        raise AmountError(f"expected at most 38 digits of base units, got {amount!r}")
    return units
