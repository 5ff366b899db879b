"""A payment by the hash of a transaction that is on the chain: whether one of its transfers is this quote's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from mpp.methods.tempo import attribution
from mpp.methods.tempo.intents import TRANSFER_TOPIC, TRANSFER_WITH_MEMO_TOPIC

from mpp_authz.challenge import Challenge
from mpp_authz.methods import (
    Credential,
    Quote,
    Refused,
    TransferRefused,
    Unavailable,
    Verified,
    _chain,
    _lookup,
    proof,
)
from mpp_authz.methods._charge import Charge

#: TIP-20 tokens live under this prefix. A log of any other contract may say what it likes.
_TIP20_PREFIX: Final = "0x20c000000000000000000000"
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")

_UNWANTED: Final = "This quote is not paid by a transaction hash."


async def verify(
    http: httpx.AsyncClient, credential: Credential, quote: Quote, charge: Charge
) -> Verified | Refused | TransferRefused | Unavailable:
    """See `Method.verify`."""
    # "Servers MUST reject hash credentials when feePayer is true" -- draft-tempo-charge-00, Verification. Yet who
    # pushed all the same has paid, and must not be asked to pay again.
    unwanted = "push" not in charge.modes or charge.fee_payer
    reference = credential.payload.get("hash")
    if not isinstance(reference, str) or not _HASH.fullmatch(reference):
        return Refused("invalid-payload", "Expected a transaction hash of 32 bytes.")
    reference = reference.lower()
    sender = None
    if credential.source is not None:
        sender = proof.source_address(credential.source, charge.chain_id)
        if sender is None:
            return Refused("verification-failed", "The source names no account on this chain.")
    try:
        found = await _lookup.find(http, reference, quote.network)
    except _chain.Unreachable as error:
        return Unavailable(str(error))
    if found is None and unwanted:
        return Refused("verification-failed", _UNWANTED)
    if found is None:
        # It may be pending: its absence does not prove that nothing was paid.
        return Unavailable("the transaction is not on the chain yet")
    receipt, moment = found
    if receipt.get("status") != "0x1":
        return Refused("verification-failed", "The transaction was reverted.")
    transfers = _transfers(receipt, charge.currency)
    to_us = [transfer for transfer in transfers if transfer.recipient == charge.recipient]
    if not to_us:
        return Refused("verification-failed", "The transaction pays nothing to the recipient.")
    if unwanted:
        return TransferRefused(reference, _UNWANTED)
    for transfer in to_us:
        if transfer.pays(charge, quote.challenge) and sender in (None, transfer.sender):
            return Verified("push", transfer.sender, False, reference, transferred_at=moment)
    return TransferRefused(reference, _why_not(to_us, charge, quote.challenge))


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One movement of a TIP-20 token, as its log says. Addresses are lower case."""

    token: str
    sender: str
    recipient: str
    amount: int
    memo: str | None

    def pays(self, charge: Charge, challenge: Challenge) -> bool:
        return (self.token, self.amount) == (charge.currency, charge.amount) and self.names(challenge)

    def names(self, challenge: Challenge) -> bool:
        """Whether the memo binds the transfer to this challenge of this realm."""
        return (
            self.memo is not None
            and attribution.verify_server(self.memo, challenge.realm)
            and attribution.verify_challenge_binding(self.memo, challenge.id)
        )


def _transfers(receipt: Mapping[str, Any], currency: str) -> tuple[_Transfer, ...]:
    """Every TIP-20 transfer a receipt tells of. One with a memo is there twice: with it and without."""
    found = []
    for entry in receipt.get("logs") or ():
        try:
            token, topics, data = entry["address"].lower(), entry["topics"], entry["data"]
            memo = {TRANSFER_TOPIC: None, TRANSFER_WITH_MEMO_TOPIC: topics[3] if len(topics) == 4 else None}
            if topics[0] not in memo or not (token == currency or token.startswith(_TIP20_PREFIX)):
                continue
            sender, recipient = ("0x" + topic[-40:].lower() for topic in topics[1:3])
            found.append(_Transfer(token, sender, recipient, int(data[:66], 16), memo[topics[0]]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            continue  # another contract's idea of a log
    return tuple(found)


def _why_not(transfers: list[_Transfer], charge: Charge, challenge: Challenge) -> str:
    if not any(transfer.token == charge.currency for transfer in transfers):
        return "The transfer is of another token."
    if not any(transfer.names(challenge) for transfer in transfers):
        return "The transfer's memo is not bound to this challenge."
    if not any(transfer.pays(charge, challenge) for transfer in transfers):
        return "The transfer is of another amount."
    return "The transfer is not by the credential's source."
