"""Zero-amount proofs: the payer shows an address and pays nothing. Pure; knows no chain.

EIP-712 domain {MPP, 3, chain id} and message {account, challengeId, realm}, as mppx 0.11 and mpp-rs sign them.
draft-tempo-charge-00 still has version 1, without the realm and the account; nobody deploys it.
"""

import re
from typing import Final

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak

from mpp_authz.methods import _transactions

_SOURCE: Final = re.compile(r"did:pkh:eip155:(0|[1-9][0-9]{0,15}):(0x[0-9a-fA-F]{40})")
_SIGNATURE: Final = re.compile(r"0x[0-9a-fA-F]{130}")


def source_address(source: str | None, chain_id: int) -> str | None:
    """The lower case address a credential's source names on this chain; None: it names none."""
    match = _SOURCE.fullmatch(source or "")
    return match[2].lower() if match and int(match[1]) == chain_id else None


def source(address: str, chain_id: int) -> str:
    """The DID of an account ("did:pkh:eip155:...", draft-tempo-charge-00, Credential)."""
    return f"did:pkh:eip155:{chain_id}:{address}"


def digest(*, account: str, challenge_id: str, realm: str, chain_id: int) -> bytes:
    """The 32 bytes that are signed."""
    message = encode_typed_data(
        domain_data={"name": "MPP", "version": "3", "chainId": chain_id},
        message_types={
            "Proof": [
                {"name": "account", "type": "address"},
                {"name": "challengeId", "type": "string"},
                {"name": "realm", "type": "string"},
            ]
        },
        message_data={"account": account, "challengeId": challenge_id, "realm": realm},
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


def proves(signature: object, *, account: str, challenge_id: str, realm: str, chain_id: int) -> bool:
    """Whether this account's own secp256k1 key signed. Access keys and passkeys cannot be checked offline."""
    if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
        return False
    expected = digest(account=account, challenge_id=challenge_id, realm=realm, chain_id=chain_id)
    return _transactions.recover(expected, bytes.fromhex(signature[2:])) == account.lower()


def sign(key: str, *, challenge_id: str, realm: str, chain_id: int) -> tuple[str, str]:
    """The signature and the source of a proof, as a payer makes them."""
    account = Account.from_key(key)
    expected = digest(account=account.address, challenge_id=challenge_id, realm=realm, chain_id=chain_id)
    signed = account.unsafe_sign_hash(expected)
    return "0x" + bytes(signed.signature).hex(), source(account.address, chain_id)
