"""What a refusal says: one problem type, title and sentence for each, in one table. RFC 9457.

Slugs and statuses are those of draft-httpauth-payment-00 (§Error Responses) and of the deployed SDKs; a refusal
that must not invite another payment has no challenge. No text here ever holds a part of a credential.
"""

import json
from dataclasses import dataclass
from typing import Final

BASE: Final = "https://paymentauth.org/problems/"


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem type."""

    slug: str
    status: int
    title: str


PAYMENT_REQUIRED: Final = Kind("payment-required", 402, "Payment Required")
MALFORMED_CREDENTIAL: Final = Kind("malformed-credential", 402, "Malformed Credential")
INVALID_CHALLENGE: Final = Kind("invalid-challenge", 402, "Invalid Challenge")
PAYMENT_EXPIRED: Final = Kind("payment-expired", 402, "Payment Expired")
VERIFICATION_FAILED: Final = Kind("verification-failed", 402, "Verification Failed")
INVALID_PAYLOAD: Final = Kind("invalid-payload", 402, "Invalid Payload")
PAYMENT_INSUFFICIENT: Final = Kind("payment-insufficient", 402, "Payment Insufficient")

BAD_REQUEST: Final = Kind("bad-request", 400, "Bad Request")
ALREADY_USED: Final = Kind("verification-failed", 403, "Verification Failed")
PAYMENT_IN_PROGRESS: Final = Kind("payment-in-progress", 409, "Payment In Progress")
HEADERS_TOO_LARGE: Final = Kind("request-header-fields-too-large", 431, "Request Header Fields Too Large")
MISDIRECTED: Final = Kind("insecure-transport", 421, "Misdirected Request")
OUTCOME_UNKNOWN: Final = Kind("internal-payment-error", 503, "Payment Outcome Unknown")
UNAVAILABLE: Final = Kind("service-unavailable", 503, "Service Unavailable")

#: What a method may answer (`methods.Refused.problem`).
REFUSALS: Final = {
    kind.slug: kind
    for kind in (
        MALFORMED_CREDENTIAL,
        INVALID_CHALLENGE,
        PAYMENT_EXPIRED,
        VERIFICATION_FAILED,
        INVALID_PAYLOAD,
        PAYMENT_INSUFFICIENT,
    )
}


def body(kind: Kind, detail: str, challenge_id: str | None = None) -> str:
    """The `application/problem+json` text."""
    document: dict[str, str | int] = {
        "type": BASE + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    if challenge_id is not None:
        document["challengeId"] = challenge_id
    return json.dumps(document, separators=(",", ":"))
