"""One request with one credential: what it says, what it is bound to, and what is wrong with it. Asks no store."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mpp_authz import problems, quotes
from mpp_authz.challenge import Bound, Presented
from mpp_authz.keys import Keys
from mpp_authz.ledger import Binding
from mpp_authz.ledger.transitions import Lease
from mpp_authz.methods import Credential, Method, Quote
from mpp_authz.pricing import Network, Pricing, RoutePrice
from mpp_authz.problems import Kind
from mpp_authz.quotes import Request
from mpp_authz.settlement import Settlement, Settler, Waiter


class Terms(Protocol):
    """What is for sale and who signs, as it is now."""

    @property
    def pricing(self) -> Pricing: ...

    @property
    def keys(self) -> Keys: ...

    def route(self, key: str) -> RoutePrice | None: ...

    def network(self, name: str) -> Network | None: ...

    async def reload_now(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Case:
    """A credential whose challenge is ours: its id was verified, so what it says we said."""

    terms: Terms
    settler: Settler
    clock: Callable[[], int]  # milliseconds of the store's time; only for expiry, never for leases
    request: Request
    price: RoutePrice
    presented: Presented
    waiter: Waiter
    bound: Bound
    request_fields: Mapping[str, Any]

    @property
    def pushed(self) -> bool:
        """The payer sent the money before asking us (payload type "hash", draft-tempo-charge-00)."""
        return self.presented.payload.get("type") == "hash"

    @property
    def credential(self) -> Credential:
        return Credential(self.presented.payload, self.presented.source)

    @property
    def method(self) -> Method | None:
        return self.settler.by_name.get(self.presented.challenge.method)

    @property
    def network(self) -> Network | None:
        """The network it names, while that is the chain it was signed for. One that became another chain's under
        the same name is not there any more."""
        today, signed = self.terms.network(self.bound.network), quotes.chain_id(self.request_fields)
        return None if today is None or (signed is not None and signed != today.chain_id) else today

    def quote(self, network: Network) -> Quote:
        """What we signed, with today's terms of the sponsor."""
        offer = next((o for o in self.price.offers if o.name == self.bound.offer), None)
        return Quote(self.presented.challenge, self.request_fields, network, offer.fee_payer if offer else None)

    def settlement(self, method: Method, network: Network) -> Settlement:
        return Settlement(self.presented, self.bound, self.quote(network), method, self.price, self.waiter)

    @property
    def binding(self) -> Binding:
        return quotes.binding(self.presented.challenge, self.bound)

    def target_hashes(self) -> tuple[str, ...]:
        """What an older row for the same target may say, whichever key signed it."""
        return quotes.target_hashes(self.request, self.bound.target_hash, self.terms.keys.challenge)

    @property
    def idempotency_hash(self) -> str:
        key = self.request.idempotency_key
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest() if key else ""

    def lease(self, now: int) -> Lease:
        until = now + self.settler.lease(self.price.lease)
        return Lease(self.settler.owner, until, self.request.data_plane, self.request.id)

    def wrong(self, transferred_at: int | None = None) -> tuple[Kind, str] | None:
        """Why this challenge does not open this request now, or did not at the moment of its transfer."""
        echo = self.presented.challenge
        misplaced = quotes.foreign(self.request, self.price, echo) or quotes.mismatch(
            self.request, self.binding, self.terms.keys.challenge
        )
        if misplaced is not None:
            return problems.INVALID_CHALLENGE, f"This challenge does not belong here: {misplaced}."
        moment = self.clock() / 1000 if transferred_at is None else transferred_at
        if moment >= quotes.expires_at(echo):
            return problems.PAYMENT_EXPIRED, f"The challenge expired at {echo.expires}."
        revoked = self.price.not_before
        if revoked is not None and self.bound.minted_at < revoked * 1000 and moment >= revoked:
            return problems.INVALID_CHALLENGE, "This quote was revoked."
        return None
