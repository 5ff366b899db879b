"""The checklist: every rule of the drafts that binds a server, and our own rules of a gateway, by row id.

    @pytest.mark.row("C01", "C29")
    def test_a_402_can_be_answered_and_is_never_stored() -> None: ...

Rules are in our words; the drafts have the last one. A row is proved by the tests that name it. Where we do
something else on purpose the row is in `DEVIATIONS` as well, and its tests prove what we do instead. What waits
for a feature is in `NOT_BUILT`, and no test may name it. `scripts/conformance` makes a page of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """One rule."""

    id: str
    level: str  # RFC 2119's word, or OURS
    rule: str
    source: str  # the draft and its section, or GATEWAY


OURS: Final = "ours"
CORE: Final = "draft-httpauth-payment-00"
CHARGE: Final = "draft-payment-intent-charge-00"
TEMPO: Final = "draft-tempo-charge-00"
DISCOVERY: Final = "draft-payment-discovery-00"
GATEWAY: Final = "gateway rule"

#: The groups of the page: what their ids begin with, and what they are about.
GROUPS: Final = MappingProxyType(
    {
        "C": "The Payment authentication scheme",
        "H": "The charge intent, on Tempo",
        "D": "Discovery",
        "G": "A gateway in front of somebody else's API",
    }
)

_CORE: Final = (
    ("C01", "MUST", "Every 402 carries at least one Payment challenge.", "Usage of 402"),
    ("C02", "MUST", "A credential that does not pass is answered by a 402 with a challenge, too.", "Status Codes"),
    ("C03", "MUST", "An unreadable credential: 402, `malformed-credential`, a fresh challenge.", "Status Codes"),
    ("C04", "MUST", "A foreign, expired or used id: 402, `invalid-challenge`, a fresh challenge.", "Status Codes"),
    ("C05", "MUST", "A proof that is wrong: 402, `verification-failed`, a fresh challenge.", "Status Codes"),
    ("C06", "MUST", "Paid, but not allowed: 403 without a challenge.", "Status Codes"),
    ("C07", "SHOULD NOT", "402 does not stand for a missing login, right or resource.", "When NOT to Return 402"),
    ("C08", "SHOULD", "Who asks is settled before the price is named.", "Other Authentication Schemes"),
    ("C09", "MUST", "An id is never empty, is bound to its parameters, and is verified.", "Required Parameters"),
    ("C10", "MUST", "`request` is canonical JSON (JCS) in base64url without padding.", "Required Parameters"),
    ("C11", "MUST", "Method names are lowercase ASCII.", "Method Identifier Format"),
    ("C12", "SHOULD", "A challenge says when it expires, and is refused from then on.", "Optional Parameters"),
    ("C13", "MUST NOT", "`description` decides nothing.", "Optional Parameters"),
    ("C14", "MUST", "`opaque` is a flat map of strings, and bound like the rest.", "Optional Parameters"),
    ("C15", "MUST", "A challenge with a `digest` pays for no other body.", "Request Body Digest Binding"),
    ("C16", "MUST", "Parameters and fields nobody knows are ignored.", "Versioning"),
    ("C17", "SHOULD", "A challenge stays below 8 KB.", "Size Considerations"),
    ("C18", "MUST", "Credentials of 4 KB and more are read.", "Size Considerations"),
    ("C19", "MUST NOT", "No challenge leaves over plain HTTP.", "Transport Security"),
    ("C20", "MUST NOT", "No credential is logged, counted or repeated in an error.", "Credential Handling"),
    ("C21", "MUST", "The signing secret stays on the server and out of logs.", "Secret Management"),
    (
        "C22",
        "SHOULD",
        "After a rotation, challenges under the old secret are good until they expire.",
        "Secret Management",
    ),
    ("C23", "MUST", "A payment opens its resource once.", "Replay Protection"),
    ("C24", "MUST NOT", "A request that is not paid changes nothing.", "Idempotency and Side Effects"),
    (
        "C25",
        "SHOULD",
        "A retry with the same `Idempotency-Key` gets the first answer again.",
        "Idempotency and Side Effects",
    ),
    (
        "C26",
        "MUST",
        "One credential, used at the same time: one settlement, one delivery.",
        "Concurrent Request Handling",
    ),
    ("C27", "SHOULD", "Checking a credential and using it up is one atomic step.", "Concurrent Request Handling"),
    ("C28", "MUST NOT", "Nobody needs an account to pay.", "Privacy"),
    ("C29", "MUST", "A 402 is `Cache-Control: no-store`.", "Caching"),
    ("C30", "MUST", "An answer with a receipt is `Cache-Control: private`.", "Caching"),
    ("C31", "SHOULD", "Challenges and verifications are limited in rate.", "Denial of Service"),
    ("C32", "MUST NOT", "No receipt is on an error.", "Receipt Status Semantics"),
    ("C33", "MUST", "A paid 2xx has a receipt, and its status is `success`.", "Payment-Receipt Header"),
    ("C34", "SHOULD", "Refusals are problem+json of the types the draft lists.", "Error Response Format"),
    ("C35", "SHOULD", "`Retry-After` says when trying again makes sense.", "Retry Behavior"),
    (
        "C36",
        "SHOULD",
        "Accept-Payment chooses and orders the challenges; without it all are offered.",
        "Client Payment Preferences",
    ),
    ("C37", "SHOULD", "Two Payment credentials in one request: 400.", "Multiple Payment Options"),
    (
        "C38",
        "SHOULD",
        "Texts for people are in the language that Accept-Language asks for.",
        "Human-Readable Text",
    ),
    (
        "C39",
        "SHOULD NOT",
        "Nothing depends on what a proxy between does with a 402.",
        "Intermediary Handling of 402",
    ),
)

_CHARGE: Final = (
    (
        "H01",
        "MUST",
        "Id, expiry, proof, amount, currency and recipient are all verified.",
        f"{CHARGE}, Server Responsibilities",
    ),
    ("H02", "MUST", "A challenge is paid once; a repeated proof is refused.", f"{CHARGE}, Replay Protection"),
    (
        "H03",
        "SHOULD NOT",
        "A payment that does not verify opens nothing, not even partly.",
        f"{CHARGE}, Atomicity",
    ),
    ("H04", "MUST NOT", "`request` does not repeat when the challenge expires.", f"{CHARGE}, Optional Fields"),
    ("H05", "MUST", "TLS is 1.2 or newer.", f"{CHARGE}, Transport Security"),
    (
        "H06",
        "MUST",
        "Where only pull or only push is taken, `supportedModes` says so.",
        f"{TEMPO}, Submission Modes",
    ),
    (
        "H07",
        "MUST",
        "A hash is refused where we pay the fee, and so is a mode that is not offered.",
        f"{TEMPO}, Hash Settlement",
    ),
    (
        "H08",
        "MUST",
        "A transaction is read and held against the challenge before it is sent.",
        f"{TEMPO}, Transaction Verification",
    ),
    (
        "H09",
        "MUST",
        "A hash counts only with a successful receipt whose transfers pay what was asked.",
        f"{TEMPO}, Hash Verification",
    ),
    ("H10", "MUST", "Once settled there is a receipt, and never on an error.", f"{TEMPO}, Receipt Generation"),
    (
        "H11",
        "MUST",
        "Splits add up to less than the amount, each is more than zero, at most ten.",
        f"{TEMPO}, Split Payments",
    ),
    (
        "H12",
        "MUST",
        "Who pays fees for others watches the balance, and stops while it is low.",
        f"{TEMPO}, Server-Paid Fees",
    ),
    (
        "H13",
        "MUST",
        "A zero amount is answered by a proof: its source is its signer, on the right chain.",
        f"{TEMPO}, Proof Verification",
    ),
)

_DISCOVERY: Final = (
    ("D01", "MUST", "`GET /openapi.json` is an OpenAPI 3 document, as `application/json`.", "Document Location"),
    ("D02", "MUST", "It has `openapi`, `info.title`, `info.version` and `paths`.", "Required Top-Level Fields"),
    ("D03", "MUST", "Every operation that costs something has `x-payment-info`.", "Payment Extension"),
    ("D04", "SHOULD", "Offers are written as a list of offers.", "Payment Extension"),
    (
        "D05",
        "MUST",
        "An offer has an intent, a method, an amount in base units, and no unknown field.",
        "Payment Offer Object",
    ),
    ("D06", "MUST", "Every operation that costs something declares its 402.", "402 Response Declaration"),
    ("D07", "SHOULD", "Operations say what they take.", "Input Schema"),
    ("D08", "SHOULD", "The document may be kept for five minutes.", "Caching"),
    ("D09", "MUST", "Categories are a list; at most five, lowercase, with hyphens.", "Categories"),
    ("D10", "MUST", "Links to documentation are URIs.", "Documentation Links"),
    ("D11", "SHOULD", "Other origins may read the document.", "Cross-Origin Requests"),
    (
        "D12",
        "MUST",
        "Where document and 402 differ the 402 is right; ours do not differ.",
        "Relationship to the 402 Challenge",
    ),
    ("D13", "SHOULD", "A document above the 64 KB that registries read is warned of.", "Registries"),
)

_GATEWAY: Final = (
    ("G01", "A preflight costs nothing, and other origins can read a 402."),
    ("G02", "Free or paid is decided on the normalised path; an unknown path of a paid host is 404."),
    ("G03", "No credential and no payment header of a client reaches the upstream."),
    ("G04", "No payment header of an upstream reaches the client, and its own 402 becomes 502."),
    ("G05", "A receipt is on a 2xx only, and what has one is private."),
    ("G06", "No answer asks for money once money may have moved."),
    ("G07", "A payment for one service opens no other, also at the same price."),
    ("G08", "A ledger that cannot be asked means 503, before any money moves."),
    ("G09", "A quote is honoured at its price until it expires."),
    ("G10", "Challenges under the current and the previous key are both good."),
    ("G11", "A 402 does not tell whether what is behind it exists."),
    ("G12", "Settling ends before Envoy stops waiting, and Envoy before clients do."),
)

ROWS: Final[Mapping[str, Row]] = MappingProxyType(
    {
        row.id: row
        for row in (
            *(Row(id_, level, rule, f"{CORE}, {section}") for id_, level, rule, section in _CORE),
            *(Row(id_, level, rule, source) for id_, level, rule, source in _CHARGE),
            *(Row(id_, level, rule, f"{DISCOVERY}, {section}") for id_, level, rule, section in _DISCOVERY),
            *(Row(id_, OURS, rule, GATEWAY) for id_, rule in _GATEWAY),
        )
    }
)

#: What we do otherwise, on purpose, and why. The tests of such a row prove what we do.
DEVIATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "C02": (
            "As written, but where money may have moved: a credential that was used, whose transfer paid for "
            "something else, or whose outcome nobody knows yet gets 403, 409 or 503 without a challenge, because "
            "clients answer a challenge with money."
        ),
        "C04": (
            "Foreign: as the draft says. Expired: 402 with the draft's own `payment-expired`. Used: 403 without a "
            "challenge, because clients answer a challenge with money, and this payer has paid."
        ),
        "C15": (
            "Opt-in: a route with `digest` binds bodies, any other streams them. A digest is written "
            "`sha-256=<base64>`, as every SDK writes it, without the colons of RFC 9530."
        ),
        "C25": (
            "Answers are not kept. The key is forwarded; what was paid for and not delivered is delivered by "
            "presenting the same credential again; and `idempotent: true` forwards a delivered one again for the "
            "same key, so that the upstream can repeat itself."
        ),
        "C34": (
            "Beside the draft's types, those the SDKs know: `invalid-payload` for a payload of the wrong shape, "
            "`bad-request`, `internal-payment-error`. A method that is not offered is `invalid-challenge`, not "
            "`method-unsupported`: its id is verified first."
        ),
        "C38": (
            "Descriptions are what the PaidService says, and problem texts are English. Clients act on `type`, "
            "which is the same in every language."
        ),
        "H13": (
            "What is signed is version 3 of the typed data (account, challenge id, realm), as mppx and the other "
            "deployed SDKs sign it. Version 1, which the draft has, names neither realm nor account: refused."
        ),
    }
)

#: Rows that wait, by the feature they wait for.
NOT_BUILT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "C06": "policy",
        "C08": "JWT",
        "C31": "rate limits",
        "H11": "splits",
    }
)
