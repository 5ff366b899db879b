"""What a PaidService is told about itself: conditions, reasons, the summary columns. Knows no Kubernetes client.

`Condition` is metav1.Condition without `lastTransitionTime`: who writes it knows when it changed.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ConditionType(StrEnum):
    """The questions a status answers, in this order."""

    ACCEPTED = "Accepted"  # the spec is valid, allowed, and nobody older claims its place
    RESOLVED_REFS = "ResolvedRefs"  # every Secret, ConfigMap, Service and port it names exists
    DESCRIBED = "Described"  # the discovery documents say all that they should: paths and prices they say anyway
    PROGRAMMED = "Programmed"  # every ready gateway serves this revision
    BYPASS_POSSIBLE = "BypassPossible"  # sidecars only: the app answers around the gateway


class Reason(StrEnum):
    """One CamelCase noun phrase per outcome."""

    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    CONFLICT = "Conflict"
    HOST_NOT_ALLOWED = "HostNotAllowed"
    RECIPIENT_NOT_ALLOWED = "RecipientNotAllowed"
    UPSTREAM_NOT_ALLOWED = "UpstreamNotAllowed"
    UNKNOWN_METHOD = "UnknownMethod"
    UNKNOWN_NETWORK = "UnknownNetwork"
    UNKNOWN_CURRENCY = "UnknownCurrency"
    INVALID_AMOUNT = "InvalidAmount"

    RESOLVED = "Resolved"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 -- a reason, no password
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    KEY_NOT_FOUND = "KeyNotFound"
    SERVICE_NOT_FOUND = "ServiceNotFound"
    PORT_NOT_FOUND = "PortNotFound"

    DOCUMENT_NOT_FOUND = "DocumentNotFound"
    INVALID_DOCUMENT = "InvalidDocument"
    DOCUMENT_TOO_LARGE = "DocumentTooLarge"

    PROGRAMMED = "Programmed"
    PENDING = "Pending"
    NO_GATEWAY = "NoGateway"
    REJECTED = "Rejected"

    PORT_OPEN = "PortOpen"
    CLOSED = "Closed"


#: A service that was served stops at these: its place, target or payee is not its own any more. At every other
#: reason its last good version goes on.
STOPS_SERVING: Final = frozenset(
    {Reason.CONFLICT, Reason.HOST_NOT_ALLOWED, Reason.UPSTREAM_NOT_ALLOWED, Reason.RECIPIENT_NOT_ALLOWED}
)

#: metav1.Condition: the longest message the API server takes.
MAX_MESSAGE: Final = 32768


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `message` says what was expected and what was found, and holds no secret."""

    reason: Reason
    field: str  # "spec.routes[0].price.amount"
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class Condition:
    """metav1.Condition, less the time of its last change."""

    type: ConditionType
    status: bool
    reason: Reason
    message: str
    observed_generation: int


def accepted(generation: int) -> Condition:
    """The spec is valid, allowed and without conflict."""
    return Condition(ConditionType.ACCEPTED, True, Reason.ACCEPTED, "", generation)


def refused(problems: tuple[Problem, ...], generation: int) -> Condition:
    """Accepted=False for `problems`, of which there is at least one. A reason that stops serving goes before one
    that does not, else the first problem gives the reason; the message lists all."""
    reason = next((p.reason for p in problems if p.reason in STOPS_SERVING), problems[0].reason)
    return Condition(ConditionType.ACCEPTED, False, reason, _message(problems), generation)


def unresolved(problems: tuple[Problem, ...], generation: int) -> Condition:
    """ResolvedRefs=False for `problems`, of which there is at least one."""
    return Condition(ConditionType.RESOLVED_REFS, False, problems[0].reason, _message(problems), generation)


def undescribed(problems: tuple[Problem, ...], generation: int) -> Condition:
    """Described=False for `problems`, of which there is at least one. The service is served all the same."""
    return Condition(ConditionType.DESCRIBED, False, problems[0].reason, _message(problems), generation)


def _message(problems: tuple[Problem, ...]) -> str:
    text = "; ".join(map(str, problems))
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


@dataclass(frozen=True, slots=True)
class Summary:
    """What `kubectl get psvc` and the ready line show."""

    url: str
    price: str  # "0.05-0.5 USDC.e", "free"
    realm: str  # "" is the request's host
    paid_routes: int
    free_routes: int
