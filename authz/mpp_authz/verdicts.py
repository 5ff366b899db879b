"""The answers: what Envoy is told to do with a request. Pure; knows no gRPC.

Every refusal a payer can get is made here, so that headers and words are the same everywhere.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mpp_authz import challenge, problems, wire
from mpp_authz.ledger import Payment, State
from mpp_authz.problems import Kind

PRESENT_AGAIN: Final = "Present the same credential again; do not pay again."


@dataclass(frozen=True, slots=True)
class Allow:
    """Let it through. The names are those of `wire`."""

    payment: str
    attempt: int
    request_headers: tuple[tuple[str, str], ...]
    response_headers: tuple[tuple[str, str], ...] = field(repr=False)
    reason: str = "paid"


@dataclass(frozen=True, slots=True)
class Deny:
    """Answer in the upstream's place."""

    kind: Kind
    body: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    @property
    def reason(self) -> str:
        return self.kind.slug


Verdict = Allow | Deny


def allow(row: Payment, challenge_id: str) -> Allow:
    """Forward with the facts. Receipt and credit note travel along; Envoy keeps the one that is true."""
    facts = {
        "payment-id": row.id,
        "attempt": str(row.attempt),
        "payer": row.payer,
        "method": row.method,
        "amount": row.amount,
        "currency": row.currency,
        "reference": row.reference,
    }
    response = [(wire.RECEIPT_HEADER, receipt(row))]
    if row.state is State.DELIVERING and row.attempt < row.attempts_allowed:
        response.append((wire.CREDIT_HEADER, challenge_id))
    return Allow(
        payment=row.id,
        attempt=row.attempt,
        request_headers=tuple((wire.FACT_PREFIX + name, value) for name, value in facts.items() if value),
        response_headers=tuple(response),
        reason="paid" if row.attempt == 1 else "credit",
    )


def receipt(row: Payment) -> str:
    """`Payment-Receipt` of a settled row: the same at every attempt (draft-httpauth-payment-00, Receipts)."""
    settled = datetime.fromtimestamp((row.settled_at or 0) / 1000, UTC)
    return challenge.canonical(
        {
            "status": "success",
            "method": row.method,
            "timestamp": settled.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reference": row.reference,
        }
    )


def deny(
    kind: Kind, detail: str, *, challenge_id: str | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> Deny:
    standard = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if kind.status == 402:
        standard.append((wire.CHALLENGE_MARKER, "1"))
    if kind.status == 503:
        standard.append(("retry-after", "1"))
    return Deny(kind, problems.body(kind, detail, challenge_id), (*standard, *headers))


def unavailable(detail: str) -> Deny:
    return deny(problems.UNAVAILABLE, detail)


def unknown() -> Deny:
    return deny(problems.OUTCOME_UNKNOWN, f"The payment may have been made. {PRESENT_AGAIN}")


def used(detail: str) -> Deny:
    return deny(problems.ALREADY_USED, detail)


def in_progress(detail: str) -> Deny:
    return deny(problems.PAYMENT_IN_PROGRESS, f"{detail} {PRESENT_AGAIN}", headers=(("retry-after", "1"),))
