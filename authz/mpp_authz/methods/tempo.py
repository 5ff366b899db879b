"""The Tempo charge method: stablecoin transfers, settled through pympp 0.16. Knows no routes, no ledger states.

What is pympp's here: reading and checking calldata and memos, co-signing as a fee payer, simulation, sending. What
is ours: who is proved to have signed, until when a payment may settle, what is durable before money moves, and
what the chain's answer means. A payment is a signed transaction (`_pull`, sent by `_broadcast`), the hash of one
(`_push`) or, of nothing, a `proof`; `_lookup` asks what became of it.
"""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import _defaults as tempo_defaults

from mpp_authz.methods import (
    Claim,
    Credential,
    Never,
    NotYet,
    Quote,
    Refused,
    Settled,
    TransferRefused,
    Unavailable,
    Unknown,
    Verified,
    _broadcast,
    _chain,
    _charge,
    _lookup,
    _pull,
    _push,
    _sponsorship,
    _transactions,
    _transfers,
    proof,
)
from mpp_authz.methods.history import History
from mpp_authz.pricing import Network, Offer

log = logging.getLogger(__name__)

#: Seconds pympp may take to send and to see the receipt; a Check waits 10.
CONFIRMATION_TIMEOUT: Final = 9.0


class Tempo:
    """`methods.Method` for `tempo`, intent `charge`. All state is a cache."""

    name = "tempo"

    def __init__(
        self,
        fee_payer_key: Callable[[str], str | None],
        clock: Callable[[], float] = time.time,
        http: httpx.AsyncClient | None = None,
        confirmation_timeout: float = CONFIRMATION_TIMEOUT,
    ) -> None:
        """`fee_payer_key(name)` gives a sponsor's private key as it is now, None where there is none; `clock` Unix
        seconds."""
        self._fee_payer_key = fee_payer_key
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=32))
        self._confirmation_timeout = confirmation_timeout
        self._clock = clock
        self._networks: dict[str, Network] = {}  # of sponsored offers, for asking balances
        self._limits = _sponsorship.Limits(clock)
        self._purses = _sponsorship.Purses(self._purse, clock)

    # --- offering --------------------------------------------------------------------------------------

    def request(self, offer: Offer, network: Network) -> dict[str, Any]:
        """See `Method.request`. `supportedModes` only where it says something ("MUST be advertised when only
        one is accepted", draft-tempo-charge-00): mppx pulls or pushes as it likes where it is absent."""
        details: dict[str, Any] = {"chainId": network.chain_id}
        if offer.fee_payer is not None:
            details["feePayer"] = True
        if not {"pull", "push"} <= set(offer.modes) and offer.amount != "0":
            details["supportedModes"] = list(offer.modes)
        return {
            "amount": offer.amount,
            "currency": offer.currency,
            "recipient": offer.recipient,
            "methodDetails": details,
        }

    async def offered(self, offer: Offer, network: Network) -> bool:
        """See `Method.offered`. False where the sponsor has no key or less than its least balance."""
        if offer.fee_payer is None or offer.amount == "0":
            return True
        key = self._fee_payer_key(offer.fee_payer.key)
        if key is None:
            return False
        self._networks[network.name] = network
        address = TempoAccount.from_key(key).address.lower()
        return await self._purses.holds(network.name, address, int(offer.fee_payer.min_balance))

    async def _purse(self, network: str, address: str) -> int:
        """The largest balance of a token that can pay fees there, in base units."""
        known = self._networks[network]
        tokens = tempo_defaults.fee_tokens_for_chain(known.chain_id)
        return max([await _chain.balance(self._http, known.rpc_urls, token, address) for token in tokens])

    # --- judging ---------------------------------------------------------------------------------------

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        """See `Method.verify`."""
        charge = _charge.read(quote.request)
        kind = credential.payload.get("type")
        if (charge.amount == 0) != (kind == "proof"):
            return Refused("verification-failed", "A proof pays a quote of zero, and nothing else does.")
        if kind == "proof":
            return _verify_proof(credential, quote)
        if kind == "transaction":
            return await _pull.verify(credential, quote, charge, int(self._clock()))
        if kind == "hash":
            return await _push.verify(self._http, credential, quote, charge)
        return Refused("invalid-payload", "Expected a payload of type transaction, hash or proof.")

    # --- settling --------------------------------------------------------------------------------------

    async def settle(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        """See `Method.settle`. A claim that is lost gives Unavailable: this call sent nothing.

        Raises:
            Whatever the claim raised, where nothing was sent.
        """
        if verified.mode == "proof":
            if not await claim.settling(quote.challenge.id, None):
                return Unavailable("claimed elsewhere")
            return Settled(quote.challenge.id, verified.payer)
        if verified.mode == "push":
            return await self._settle_push(credential, quote, claim)
        return await self._settle_pull(credential, quote, verified, claim)

    async def _settle_pull(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        poor = await self._too_poor(credential, quote, verified)
        if poor is not None:
            return poor
        send = functools.partial(
            _broadcast.settle, self._http, self._confirmation_timeout, credential, quote, verified, claim
        )
        if not _charge.read(quote.request).fee_payer:
            return await send(None)
        terms = quote.fee_payer
        key = self._fee_payer_key(terms.key) if terms else None
        if terms is None or key is None:
            return Unavailable("the quote's sponsor has no key any more")
        try:
            with self._limits.sponsoring(terms, verified.payer or ""):
                return await send(TempoAccount.from_key(key))
        except _sponsorship.LimitReached as error:
            return Unavailable(f"sponsorship is used up for now: {error}")

    async def _too_poor(
        self, credential: Credential, quote: Quote, verified: Verified
    ) -> Refused | Unavailable | None:
        """Whether the payer cannot pay, asked before anything is claimed or sent.

        A node drops such a transaction without a trace, and the payment would stay unknown until its last valid
        moment. Where a swap comes first, the balance says nothing.
        """
        charge = _charge.read(quote.request)
        if verified.payer is None or _transactions.read(credential.payload["signature"]).calls != 1:
            return None
        urls = quote.network.rpc_urls
        try:
            held = await _chain.balance(self._http, urls, charge.currency, verified.payer)
        except _chain.Unreachable as error:
            return Unavailable(str(error))
        if held < charge.amount:
            return Refused("payment-insufficient", "The payer holds less than the amount.")
        return None

    async def _settle_push(
        self, credential: Credential, quote: Quote, claim: Claim
    ) -> Settled | Refused | Unavailable:
        """Asks the chain again: what is claimed is what was just seen, whatever time has passed since `verify`."""
        again = await _push.verify(self._http, credential, quote, _charge.read(quote.request))
        if isinstance(again, TransferRefused):
            return Unavailable("the chain changed its answer")
        if not isinstance(again, Verified):
            return again
        assert again.reference is not None  # noqa: S101 - a push payment is its hash
        if not await claim.settling(again.reference, None):
            return Unavailable("claimed elsewhere")
        return Settled(again.reference, again.payer)

    # --- afterwards ------------------------------------------------------------------------------------

    async def resend(self, raw: str, network: Network) -> None:
        """See `Method.resend`. Errors of the node are no news: "already known" is one of them."""
        timeout = self._confirmation_timeout
        milliseconds = round(timeout * 1000) * 2 // 3
        try:
            await _chain.first(self._http, network.rpc_urls, _chain.SEND, [raw, milliseconds], timeout)
        except _chain.Unreachable as error:
            log.info("resending failed", extra={"network": network.name, "reason": str(error)})

    def raw(self, credential: Credential) -> str | None:
        """See `Method.raw`."""
        signature = credential.payload.get("signature")
        if credential.payload.get("type") != "transaction" or not isinstance(signature, str):
            return None
        try:
            transaction = _transactions.read(signature)
        except _transactions.Malformed:
            return None
        return None if transaction.envelope else transaction.raw

    async def lookup(
        self, reference: str, valid_before: int | None, network: Network
    ) -> Settled | NotYet | Never | Unavailable:
        """See `Method.lookup`."""
        return await _lookup.lookup(self._http, reference, valid_before, network)

    def history(self, network: Network) -> History:
        """See `history.Auditable`."""
        return _transfers.TempoHistory(self._http, network)

    async def aclose(self) -> None:
        await self._purses.aclose()
        if self._owns_http:
            await self._http.aclose()


def _verify_proof(credential: Credential, quote: Quote) -> Verified | Refused:
    challenge, chain_id = quote.challenge, quote.request["methodDetails"]["chainId"]
    account = proof.source_address(credential.source, chain_id)
    if account is None:
        return Refused("verification-failed", "A proof needs a source that names an account on this chain.")
    if not proof.proves(
        credential.payload.get("signature"),
        account=account,
        challenge_id=challenge.id,
        realm=challenge.realm,
        chain_id=chain_id,
    ):
        return Refused("verification-failed", "The proof is not signed by its source's own key.")
    # "The receipt's reference is the challenge id" -- draft-tempo-charge-00, Zero-amount
    return Verified("proof", account, True, challenge.id)
