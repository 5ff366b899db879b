"""Read signed Tempo transactions without trusting them: who signed, until when, which hash. Pure; knows no chain.

Layout of 0x76 transactions and of the 0x78 envelope handed to a fee payer: Tempo transaction specification, and
pympp's `fee_payer_envelope`. The sender is recovered here and not taken from pympp, because pympp reads the
account unchecked out of every signature that is not 65 bytes long.
"""

from dataclasses import dataclass, field
from typing import Final

import rlp  # type: ignore[import-untyped]  # ships no types
from eth_hash.auto import keccak
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

TRANSACTION: Final = 0x76
ENVELOPE: Final = 0x78  # signed by the sender, waiting for a fee payer: cannot be broadcast
#: "Transactions with this nonce key need no sequence and end at `valid_before`" (Tempo, expiring nonces).
EXPIRING_NONCE_KEY: Final = (1 << 256) - 1

#: A transfer is some 500 bytes; a swap before it makes that 1.5 KiB; WebAuthn signatures may have 2 KiB.
MAX_BYTES: Final = 16 * 1024

_CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

# Positions of the fields of 0x76; 0x78 has the sender's address where 0x76 has the fee payer's signature.
_CHAIN_ID, _CALLS, _NONCE_KEY, _VALID_BEFORE, _VALID_AFTER, _FEE_TOKEN, _FEE_PAYER = 0, 4, 6, 8, 9, 10, 11
_FIELDS: Final = (14, 15)  # 15 with a key authorization before the signature


class Malformed(ValueError):
    """Not a signed Tempo transaction. The message holds no part of it."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction, as far as a payment has to know it."""

    envelope: bool  # 0x78: a fee payer has to co-sign it
    chain_id: int
    expiring: bool
    valid_before: int | None  # Unix seconds, exclusive
    valid_after: int | None
    claimed_sender: str | None  # read out of the signature or the envelope, unchecked; lower case
    proved_sender: str | None  # recovered from a 65-byte secp256k1 signature; lower case
    calls: int  # how many; 1 is a transfer without a swap before it
    raw: str = field(repr=False)  # canonical encoding: what a node keeps, and hashes

    @property
    def hash(self) -> str:
        """The hash it will have on the chain. Only for transactions: an envelope gets its hash by co-signing."""
        return raw_hash(self.raw)


def read(raw: str) -> Transaction:
    """Read a signed transaction or a fee payer envelope, given as 0x and hex digits.

    Raises:
        Malformed: not hex, not 0x76 or 0x78, not canonical RLP, a field mistyped, or a malleable signature.
    """
    if not raw.startswith("0x") or len(raw) > 2 + 2 * MAX_BYTES:
        raise Malformed(f"expected 0x and at most {2 * MAX_BYTES} hex digits")
    try:
        data = bytes.fromhex(raw[2:])
    except ValueError:
        raise Malformed("expected hex digits") from None
    if data[:1] not in (bytes([TRANSACTION]), bytes([ENVELOPE])):
        raise Malformed("expected a Tempo transaction (0x76) or a fee payer envelope (0x78)")
    try:
        fields = rlp.decode(data[1:])
    except (rlp.DecodingError, RecursionError):
        raise Malformed("expected RLP") from None
    if not isinstance(fields, list) or len(fields) not in _FIELDS:
        raise Malformed(f"expected {_FIELDS[0]} or {_FIELDS[1]} fields")
    signature = fields[-1]
    if not isinstance(signature, bytes) or not signature:
        raise Malformed("expected a signature")
    canonical = [*fields[:-1], _canonical_signature(signature)]
    return Transaction(
        envelope=data[0] == ENVELOPE,
        chain_id=_number(fields[_CHAIN_ID]) or 0,
        expiring=_number(fields[_NONCE_KEY]) == EXPIRING_NONCE_KEY,
        valid_before=_number(fields[_VALID_BEFORE]),
        valid_after=_number(fields[_VALID_AFTER]),
        claimed_sender=_claimed_sender(data[0], fields),
        proved_sender=_proved_sender(data[0], fields),
        calls=len(fields[_CALLS]) if isinstance(fields[_CALLS], list) else 0,
        raw="0x" + (data[:1] + rlp.encode(canonical)).hex(),
    )


def raw_hash(raw: str) -> str:
    """The hash of a canonical raw transaction, lower case."""
    return "0x" + keccak(bytes.fromhex(raw.removeprefix("0x"))).hex()


def recover(digest: bytes, signature: bytes) -> str | None:
    """The address whose key made this 65-byte signature (r, s, v), lower case; None: nobody's.

    Recovery ids 0 and 1 are read as 27 and 28. A high s is nobody's: every signature would have a twin (EIP-2).
    """
    if len(signature) != 65 or int.from_bytes(signature[32:64], "big") > _CURVE_ORDER // 2:
        return None
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    try:
        key = Signature(signature[:64] + bytes([v])).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError):
        return None
    return key.to_address().lower()


def _number(value: object) -> int | None:
    """An RLP integer; None where the field is empty."""
    if not isinstance(value, bytes) or len(value) > 32 or value[:1] == b"\x00":
        raise Malformed("expected a number")
    return int.from_bytes(value, "big") if value else None


def _canonical_signature(signature: bytes) -> bytes:
    """Recovery ids as 27 and 28, also inside keychain signatures: nodes do the same before they hash."""
    if len(signature) == 65:
        if int.from_bytes(signature[32:64], "big") > _CURVE_ORDER // 2:
            raise Malformed("expected a signature with a low s")
        return signature[:64] + bytes([signature[64] + 27]) if signature[64] in (0, 1) else signature
    if len(signature) > 21 and signature[0] in (0x03, 0x04):
        return signature[:21] + _canonical_signature(signature[21:])
    return signature


def _proved_sender(kind: int, fields: list[object]) -> str | None:
    """Recover the sender of a 65-byte secp256k1 signature; None for every other type.

    "If a fee payer is present, the sender signs over an empty fee token and the byte 0x00 in the place of the
    fee payer's signature" (Tempo transaction specification, signature details).
    """
    signature = fields[-1]
    if not isinstance(signature, bytes) or len(signature) != 65:
        return None
    sponsored = kind == ENVELOPE or fields[_FEE_PAYER] != b""
    signed = [
        *fields[:_FEE_TOKEN],
        b"" if sponsored else fields[_FEE_TOKEN],
        b"\x00" if sponsored else b"",
        *fields[_FEE_PAYER + 1 : -1],
    ]
    sender = recover(keccak(bytes([TRANSACTION]) + rlp.encode(signed)), signature)
    if sender is not None and kind == ENVELOPE and fields[_FEE_PAYER] != bytes.fromhex(sender[2:]):
        return None
    return sender


def _claimed_sender(kind: int, fields: list[object]) -> str | None:
    """Whom a signature names. Only the chain can tell whether it may speak for that account."""
    signature = fields[-1]
    assert isinstance(signature, bytes)  # noqa: S101 - `read` has checked
    if len(signature) == 65:
        return _proved_sender(kind, fields)
    scheme, body = signature[0], signature[1:]
    account: object = None
    if scheme in (0x03, 0x04) and len(body) > 20:  # keychain: the account, then the access key's signature
        account = body[:20]
    elif scheme == 0x01 and len(body) == 129:  # P256: r, s, public key, flag
        account = keccak(body[64:128])[-20:]
    elif scheme == 0x02 and len(body) >= 128:  # WebAuthn: ..., r, s, public key
        account = keccak(body[-64:])[-20:]
    elif scheme == 0x05:  # multisig: rlp([account, ...])
        account = _first(body)
    if not isinstance(account, bytes) or len(account) != 20:
        return None
    if kind == ENVELOPE and fields[_FEE_PAYER] != account:
        return None
    return "0x" + account.hex()


def _first(data: bytes) -> object:
    try:
        items = rlp.decode(data)
    except (rlp.DecodingError, RecursionError):
        return None
    return items[0] if isinstance(items, list) and items else None
