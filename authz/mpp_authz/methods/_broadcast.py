"""Sending a signed transaction through pympp: what is durable before money moves, and what a failure means.

pympp's exceptions decide nothing after the claim: whether anything was sent is seen on the wire, and `_lookup`
tells the rest.
"""

import logging
from typing import Any, Final, cast

import httpx
from mpp.errors import PaymentExpiredError, VerificationError
from mpp.methods.tempo import ChargeIntent, TempoAccount

from mpp_authz.methods import (
    Claim,
    Credential,
    Never,
    Quote,
    Refused,
    Settled,
    Unavailable,
    Unknown,
    Verified,
    _chain,
    _charge,
    _lookup,
)
from mpp_authz.pricing import Network

log = logging.getLogger(__name__)

_SIMULATION: Final = "The sponsored transaction would fail, or too little is left of its validity."


async def settle(
    http: httpx.AsyncClient,
    confirmation_timeout: float,
    credential: Credential,
    quote: Quote,
    verified: Verified,
    claim: Claim,
    fee_payer: TempoAccount | None,
) -> Settled | Refused | Unknown | Unavailable:
    """See `Method.settle`. `fee_payer` co-signs."""
    wire = _chain.Wire(http, quote.network.rpc_urls)
    store = _ClaimStore(claim, verified.valid_before)
    intent = ChargeIntent(
        rpc_url=quote.network.rpc_urls[0],
        http_client=cast(httpx.AsyncClient, wire),
        store=store,
        confirmation_timeout=confirmation_timeout,
        fee_payer=fee_payer,
    )
    try:
        receipt = await intent.broadcast(
            _charge.pympp_credential(credential, quote.challenge, expires=quote.challenge.expires),
            dict(quote.request),
        )
    except Exception as error:
        return await _after_failure(http, error, wire, store, verified, quote.network)
    return Settled(receipt.reference.lower(), verified.payer)


class _ClaimStore:
    """pympp's store keys, as far as they say something about our one row.

    `mpp:charge:<hash>` and, for sponsored payments, `mpp:charge-client:<hash>` before it: the row is SETTLING.
    `mpp:charge-broadcast:<hash>`: the co-signed transaction is stored. pympp deletes keys when it fails; nothing
    that was claimed is given back here.
    """

    def __init__(self, claim: Claim, valid_before: int | None) -> None:
        self._claim = claim
        self._valid_before = valid_before
        self._envelope: str | None = None
        self.reference: str | None = None  # set once the row is SETTLING
        self.lost = False
        self.failure: Exception | None = None

    async def get(self, key: str) -> str | None:
        if key.startswith("mpp:charge-broadcast:"):
            return self._envelope
        return None  # whether a payment was used is the caller's question, and answered before

    async def put(self, key: str, value: object) -> None:
        raise NotImplementedError("pympp 0.16 claims with put_if_absent only")

    async def delete(self, key: str) -> None:
        pass

    async def put_if_absent(self, key: str, value: Any) -> bool:
        try:
            if key.startswith("mpp:charge-broadcast:"):
                won = await self._claim.envelope(value)
                self._envelope = value if won else None
            elif self.reference is not None:
                won = self.reference == value.lower()
            else:
                won = await self._claim.settling(value.lower(), self._valid_before)
                self.reference = value.lower() if won else None
        except Exception as error:
            self.failure = error
            raise
        self.lost = self.lost or not won
        return won


async def _after_failure(
    http: httpx.AsyncClient,
    error: Exception,
    wire: _chain.Wire,
    store: _ClaimStore,
    verified: Verified,
    network: Network,
) -> Settled | Refused | Unknown | Unavailable:
    """What a failure of pympp's means. Once something was sent only the chain's answer counts."""
    if wire.sent and store.reference is not None:
        log.info("settlement failed after sending", extra={"reason": _cause(error)})
        found = await _lookup.lookup(http, store.reference, verified.valid_before, network)
        if isinstance(found, Settled):
            return Settled(found.reference, verified.payer)
        if isinstance(found, Never):
            return Refused("verification-failed", f"The transaction did not settle: {found.reason}.")
        return Unknown(_cause(error), wire.refused)
    if store.failure is not None:
        raise store.failure
    if store.lost:
        return Unavailable("claimed elsewhere")
    if isinstance(error, PaymentExpiredError):
        return Refused("payment-expired", "The challenge expired before the payment was sent.")
    if isinstance(error, VerificationError):
        return Refused("verification-failed", _charge.sentence(error) if store.reference is None else _SIMULATION)
    log.warning("settlement failed before sending", extra={"reason": _cause(error)})
    return Unavailable(_cause(error))


def _cause(error: BaseException) -> str:
    """The kind of an error and of its causes, without their texts: those may quote a transaction."""
    kinds: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(kinds) < 4:
        kinds.append(type(seen).__name__)
        seen = seen.__cause__
    return " from ".join(kinds)
