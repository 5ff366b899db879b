"""Quotes and claims for tests of payment methods, without a gateway around them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chain import PATH_USD, Chain

from mpp_authz import challenge as challenges
from mpp_authz.methods import Credential, Quote
from mpp_authz.methods.tempo import Tempo
from mpp_authz.pricing import FeePayer, Network, Offer

KEYS = challenges.Keyring((b"a key for tests, of 32 bytes or more",))
REALM = "shop.example"
TERMS = FeePayer("sponsor", max_per_minute=60, max_per_payer_per_minute=30, min_balance="1000000")


def offer(recipient: str, amount: str = "1500", **rest: Any) -> Offer:
    return Offer("usdc", "tempo", "localnet", rest.pop("currency", PATH_USD), recipient, amount, **rest)


def quote(
    method: Tempo, chain: Chain, asked: Offer, *, expires_in: float = 25, network: Network | None = None
) -> Quote:
    """A challenge of ours for an offer, as authz decodes it."""
    network = network or chain.network
    request = method.request(asked, network)
    now = round(time.time() * 1000)
    bound = challenges.Bound(challenges.nonce(), now, "GET", "shop/route", "", asked.network, asked.name)
    minted = KEYS.mint(
        realm=REALM,
        method=asked.method,
        intent=asked.intent,
        request=challenges.canonical(request),
        expires=challenges.timestamp(now + round(expires_in * 1000)),
        opaque=bound.encode(),
    )
    return Quote(minted, request, network, asked.fee_payer)


def presented(value: str) -> Credential:
    """What a header's value says, as authz hands it to a method."""
    read = challenges.read_credential(value.removeprefix("Payment "))
    return Credential(read.payload, read.source)


class Killed(Exception):
    """The process died at this point."""


@dataclass
class Row:
    """A claim that remembers what it was told, and can be lost or die at each point."""

    settling_won: bool = True
    envelope_won: bool = True
    dies_at: str = ""
    reference: str | None = None
    valid_before: int | None = None
    raw: str | None = field(default=None, repr=False)
    told: list[str] = field(default_factory=list)

    async def settling(self, reference: str, valid_before: int | None) -> bool:
        self.told.append("settling")
        if self.dies_at == "settling":
            raise Killed
        if self.settling_won:
            self.reference, self.valid_before = reference, valid_before
        return self.settling_won

    async def envelope(self, raw: str) -> bool:
        self.told.append("envelope")
        if self.dies_at == "envelope":
            raise Killed
        if self.envelope_won:
            self.raw = raw
        return self.envelope_won


def endpoints(chain: Chain, urls: Sequence[str]) -> Network:
    """The chain's network, seen through other endpoints."""
    return Network(chain.network.name, "tempo", chain.chain_id, tuple(urls))
