"""Signed transactions are read without trust: whatever is not exactly one is malformed, and nothing crashes."""

import contextlib

import hypothesis
import hypothesis.strategies as st
import pytest
import rlp  # type: ignore[import-untyped]
from eth_account import Account
from eth_hash.auto import keccak

from mpp_authz.methods import _transactions

KEY = "0x" + "01" * 32


def fields(signature: bytes = b"\x01" * 65) -> list[object]:
    return [b"\x01", b"", b"", b"\x01", [], [], b"\xff" * 32, b"", b"\x10", b"", b"", b"", [], signature]


def raw(items: object, kind: int = 0x76) -> str:
    encoded: bytes = rlp.encode(items)
    return "0x" + (bytes([kind]) + encoded).hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "76c0",
        "0x",
        "0x7",
        "0x76",
        "0x02c0",
        "0x76c0",
        raw([b""] * 14),
        raw([*fields()[:-1], b""]),
        raw([*fields()[:-1], [b"list"]]),
        raw([b"\x00\x01", *fields()[1:]]),
        raw([b"\x01" * 33, *fields()[1:]]),
        raw([[b"\x01"], *fields()[1:]]),
        raw(fields()) + "00",
        "0x76" + "00" * _transactions.MAX_BYTES,
        "0x76" + "c1" * 5000,
    ],
)
def test_what_is_no_signed_transaction_is_malformed(text: str) -> None:
    with pytest.raises(_transactions.Malformed):
        _transactions.read(text)


@hypothesis.given(st.binary(max_size=300), st.sampled_from([0x76, 0x78]))
def test_no_bytes_make_reading_crash(body: bytes, kind: int) -> None:
    with contextlib.suppress(_transactions.Malformed):
        _transactions.read("0x" + bytes([kind]).hex() + body.hex())


@hypothesis.given(st.binary(min_size=1, max_size=200), st.sampled_from([0x76, 0x78]))
def test_only_65_bytes_can_prove_a_sender(signature: bytes, kind: int) -> None:
    hypothesis.assume(len(signature) != 65)
    with contextlib.suppress(_transactions.Malformed):
        assert _transactions.read(raw(fields(signature), kind)).proved_sender is None


@hypothesis.given(st.binary(min_size=1, max_size=300))
def test_reading_what_was_read_changes_nothing(signature: bytes) -> None:
    with contextlib.suppress(_transactions.Malformed):
        first = _transactions.read(raw(fields(signature)))
        assert _transactions.read(first.raw) == first


@pytest.mark.parametrize(
    "signature",
    [
        b"\x03" + b"\x02" * 10,
        b"\x01" + b"\x02" * 128,
        b"\x02" + b"\x02" * 127,
        b"\x05\xff\xff",
        b"\x05" + rlp.encode([]),
        b"\x05" + rlp.encode(b"text"),
        b"\x05" + rlp.encode([b"\x01" * 19]),
        b"\x06" + b"\x02" * 100,
    ],
    ids=bytes.hex,
)
def test_a_signature_of_no_known_shape_names_nobody(signature: bytes) -> None:
    assert _transactions.read(raw(fields(signature))).claimed_sender is None


def test_an_envelope_names_its_sender_only_where_the_signature_does() -> None:
    victim, other = b"\x11" * 20, b"\x22" * 20
    items = fields(b"\x04" + victim + b"\x01" * 65)
    items[11] = other

    assert _transactions.read(raw(items, 0x78)).claimed_sender is None
    items[11] = victim
    assert _transactions.read(raw(items, 0x78)).claimed_sender == "0x" + victim.hex()


def test_the_recovery_id_of_an_access_key_is_canonical_too() -> None:
    inner = b"\x11" * 32 + b"\x22" * 32

    read = _transactions.read(raw(fields(b"\x04" + b"\x33" * 20 + inner + b"\x00")))

    assert read.raw.endswith((inner + b"\x1b").hex())


@pytest.mark.parametrize("v", [0, 1, 27, 28])
def test_a_digest_s_signer_is_recovered(v: int) -> None:
    account = Account.from_key(KEY)
    for salt in range(20):
        digest = keccak(bytes([salt]))
        signature = bytes(account.unsafe_sign_hash(digest).signature)
        if signature[64] == (v if v >= 27 else v + 27):
            found = _transactions.recover(digest, signature[:64] + bytes([v]))
            assert found == account.address.lower()
            return
    raise AssertionError("no salt gave this recovery id")


@pytest.mark.parametrize("v", [2, 26, 29, 255])
def test_other_recovery_ids_are_nobody_s(v: int) -> None:
    digest = keccak(b"")
    signature = bytes(Account.from_key(KEY).unsafe_sign_hash(digest).signature)

    assert _transactions.recover(digest, signature[:64] + bytes([v])) is None
