"""0x addresses as people write them: the capitals of one in mixed case are a checksum of its digits (EIP-55)."""

import re
from typing import Final

from eth_hash.auto import keccak

from mpp_operator import patterns

ZERO: Final = "0x" + 40 * "0"
#: Completes "expected ..." where `mistyped`.
EXPECTED: Final = "an address whose EIP-55 checksum is right (copy it again; in one case alone it has none)"


def mistyped(text: str) -> bool:
    """Whether `text` is an address in mixed case that is not the one its capitals were made for. What is paid to
    an address nobody has is lost for ever; all-lower or all-upper there is nothing to compare."""
    digits = text[2:]
    if not re.fullmatch(patterns.ADDRESS, text) or digits in (digits.lower(), digits.upper()):
        return False
    # "convert the address to hex, but if the ith digit is a letter (ie. it's one of abcdef) print it in uppercase
    # if the 4*ith bit of the hash of the lowercase hexadecimal address is 1 otherwise print it in lowercase"
    # -- EIP-55
    digest = keccak(digits.lower().encode()).hex()
    return any(
        digit.isupper() != (bits >= "8") for digit, bits in zip(digits, digest, strict=False) if digit.isalpha()
    )
