"""Payment methods: the seam. One module per method, found by the entry points of ENTRY_POINTS.

A method knows how money moves. It knows nothing of routes, HTTP, the ledger's states or Envoy. What moved can be
read again by the seam in `history`.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mpp_authz.challenge import Challenge
from mpp_authz.pricing import FeePayer, Network, Offer

#: The group of entry points: a name and, behind it, what makes a Method of a sponsor's keys and a clock.
ENTRY_POINTS: Final = "mpp_gateway.methods"


@dataclass(frozen=True, slots=True)
class Quote:
    """A challenge of ours that somebody answers: its id was recomputed, so `request` is what we signed."""

    challenge: Challenge
    request: Mapping[str, Any]  # decoded
    network: Network
    fee_payer: FeePayer | None = None  # today's terms of the offer it came from; None: no sponsor any more


@dataclass(frozen=True, slots=True)
class Credential:
    """What the payer presented beside the challenge: untrusted."""

    payload: Mapping[str, Any]
    source: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The payment is not acceptable, and no money moved. `problem` is a slug of `problems`; `detail` is a whole
    sentence and holds no part of the credential."""

    problem: str
    detail: str


@dataclass(frozen=True, slots=True)
class TransferRefused:
    """A push transfer that exists and pays us, but not for this: never answered with a challenge. `detail` is a
    whole sentence."""

    reference: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The credential would settle the quote, as far as can be told without side effects.

    `payer_proved` is true only where we recovered the payer from a signature ourselves; nothing less may take
    somebody's credit.
    """

    mode: str  # "pull", "push", "proof"
    payer: str | None  # lower case address
    payer_proved: bool
    reference: str | None  # pull: the hash it will have, where that is known before co-signing; push: the hash
    valid_before: int | None = None  # pull: Unix seconds
    transferred_at: int | None = None  # push: block time of the transfer, Unix seconds


@dataclass(frozen=True, slots=True)
class Settled:
    """The money is ours. `reference` is what the receipt names."""

    reference: str
    payer: str | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It was sent, or may have been; `lookup` will tell. `refused`: a node answered that it will not have it, so
    waiting is idle, although somebody may send it elsewhere."""

    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The rail cannot be asked now, and nothing was sent by this call."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotYet:
    """It has not settled, and still can."""


@dataclass(frozen=True, slots=True)
class Never:
    """It has not settled and cannot any more (reverted, or its last valid moment is past by block time)."""

    reason: str


class Claim(Protocol):
    """How a method makes its intent durable before money moves."""

    async def settling(self, reference: str, valid_before: int | None) -> bool:
        """The row is now SETTLING with this reference. False: the challenge or the transaction is claimed by
        somebody else, or nobody waits for it any more; send nothing."""
        ...

    async def envelope(self, raw: str) -> bool:
        """The co-signed transaction is stored. False: the claim was lost; send nothing."""
        ...


class Method(Hashable, Protocol):
    """One way to move money. Implementations keep no state that must survive a restart."""

    name: str

    def request(self, offer: Offer, network: Network) -> dict[str, Any]:
        """The challenge's `request` for an offer, without expiry (draft-payment-intent-charge-00). Pure."""
        ...

    async def offered(self, offer: Offer, network: Network) -> bool:
        """Whether the offer can be made now (a sponsor's balance, say). Fast: answers from what is known."""
        ...

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        """Judge a credential without side effects. Expiry of the challenge is the caller's question."""
        ...

    async def settle(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        """Move the money, or see that it moved. Calls `claim.settling` before anything is sent; after a true
        `settling`, Refused means that provably nothing was sent or that it can never settle (reverted), and
        Unavailable that provably nothing was sent. A claim that is lost gives Unavailable; what the claim
        raises is raised where nothing was sent."""
        ...

    async def resend(self, raw: str, network: Network) -> None:
        """Send the very same signed transaction again. It cannot pay twice; its outcome is `lookup`'s to tell."""
        ...

    def raw(self, credential: Credential) -> str | None:
        """The signed transaction inside an unsponsored pull credential, as it would be broadcast."""
        ...

    async def lookup(
        self, reference: str, valid_before: int | None, network: Network
    ) -> Settled | NotYet | Never | Unavailable:
        """Ask the chain, every endpoint: one that lags or fails makes it Unavailable, never Never."""
        ...

    async def aclose(self) -> None: ...
