"""A payment by a signed transaction: what keeps it from being one whose end we can see. Asks no node."""

from typing import Final

from mpp.errors import VerificationError
from mpp.methods.tempo import ChargeIntent
from mpp.methods.tempo.fee_payer_policy import MIN_REMAINING_VALIDITY_SECONDS
from pydantic import ValidationError

from mpp_authz.methods import Credential, Quote, Refused, Verified, _charge, _transactions, proof

#: Seconds from now in which a pull payment must have settled or be dead (mppx signs 25, pympp at most 60).
LONGEST_VALIDITY: Final = 90


async def verify(credential: Credential, quote: Quote, charge: _charge.Charge, now: int) -> Verified | Refused:
    """See `Method.verify`."""
    if "pull" not in charge.modes:
        return Refused("verification-failed", "This quote is not paid by a signed transaction.")
    raw = credential.payload.get("signature")
    try:
        transaction = _transactions.read(raw if isinstance(raw, str) else "")
    except _transactions.Malformed as error:
        return Refused("invalid-payload", f"The signed transaction cannot be read: {error}.")
    complaint = _complaint(transaction, charge, now)
    if complaint is not None:
        return Refused("verification-failed", complaint)
    if credential.source is not None and (
        transaction.claimed_sender is None
        or proof.source_address(credential.source, charge.chain_id) != transaction.claimed_sender
    ):
        return Refused("verification-failed", "The source is not the transaction's sender on this chain.")
    try:
        await ChargeIntent(rpc_url=quote.network.rpc_urls[0]).validate(
            _charge.pympp_credential(credential, quote.challenge, expires=_charge.FAR_FUTURE), dict(quote.request)
        )
    except VerificationError as error:
        # Its text is one of pympp's own sentences about calls and memos, never a part of the credential.
        return Refused("verification-failed", _charge.sentence(error))
    except ValidationError:
        return Refused("invalid-payload", "The payload does not fit its type.")
    return Verified(
        "pull",
        transaction.claimed_sender,
        transaction.proved_sender is not None,
        None if transaction.envelope else transaction.hash,
        valid_before=transaction.valid_before,
    )


def _complaint(transaction: _transactions.Transaction, charge: _charge.Charge, now: int) -> str | None:
    """What keeps a transaction from being a payment we can see the end of."""
    if transaction.envelope != charge.fee_payer:
        return (
            "Expected a fee payer envelope (0x78): this quote is sponsored."
            if charge.fee_payer
            else "Expected a signed transaction (0x76): this quote is not sponsored."
        )
    if transaction.chain_id != charge.chain_id:
        return f"Expected a transaction for chain {charge.chain_id}."
    # Without these two a payment could settle long after we gave up on it and asked for another one.
    if not transaction.expiring:
        return "Expected the expiring nonce key (2^256 - 1)."
    if transaction.valid_before is None or not now < transaction.valid_before <= now + LONGEST_VALIDITY:
        return f"Expected valid_before in the future and at most {LONGEST_VALIDITY} s from now."
    if transaction.valid_after is not None and transaction.valid_after > now:
        return "Expected a transaction that is valid now, not from valid_after on."
    if transaction.envelope and transaction.valid_before < now + MIN_REMAINING_VALIDITY_SECONDS:
        return f"Expected at least {MIN_REMAINING_VALIDITY_SECONDS} s left of a sponsored transaction's validity."
    if transaction.envelope and transaction.proved_sender is None:
        return "Expected a secp256k1 signature by the sender: other types are not sponsored."
    if transaction.claimed_sender is None:
        return "The sender cannot be told from the signature."
    return None
