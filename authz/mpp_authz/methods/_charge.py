"""What a quote asks for, read from our own `request`, and a credential in pympp's words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import mpp

from mpp_authz.challenge import Challenge
from mpp_authz.methods import Credential

#: pympp refuses an expired challenge even when it only checks. Expiry is the caller's question, and a transfer
#: that was made in time stays good: what only checks gets this view of the challenge.
FAR_FUTURE: Final = "9999-12-31T23:59:59Z"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a quote asks for. Addresses are lower case."""

    amount: int
    currency: str
    recipient: str
    chain_id: int
    fee_payer: bool
    modes: tuple[str, ...]


def read(request: Mapping[str, Any]) -> Charge:
    """Read our own `request`."""
    details = request["methodDetails"]
    return Charge(
        int(request["amount"]),
        request["currency"].lower(),
        request["recipient"].lower(),
        details["chainId"],
        bool(details.get("feePayer", False)),
        tuple(details.get("supportedModes", ("pull", "push"))),
    )


def pympp_credential(credential: Credential, challenge: Challenge, expires: str | None) -> mpp.Credential:
    """`credential` for pympp, with another moment of expiry."""
    echo = mpp.ChallengeEcho(
        challenge.id,
        challenge.realm,
        challenge.method,
        challenge.intent,
        challenge.request,
        expires,
        challenge.digest,
        challenge.opaque,
        challenge.header,
    )
    return mpp.Credential(echo, dict(credential.payload), credential.source)


def sentence(error: Exception) -> str:
    """What pympp says of a payment, with its full stop."""
    text = str(error).strip()
    return text if text.endswith(".") else text + "."
