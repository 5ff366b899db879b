"""The Tempo charge method: stablecoin transfers, settled through pympp 0.16. Knows no routes, no ledger states.

What is pympp's here: reading and checking calldata and memos, co-signing as a fee payer, simulation, sending. What
is ours: who is proved to have signed, until when a payment may settle, what is durable before money moves, and
what the chain's answer means. pympp's exceptions decide nothing after the claim: whether anything was sent is
seen on the wire, and `lookup` tells the rest.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
import mpp
from mpp.errors import PaymentExpiredError, VerificationError
from mpp.methods.tempo import ChargeIntent, TempoAccount, attribution
from mpp.methods.tempo import _defaults as tempo_defaults
from mpp.methods.tempo.fee_payer_policy import MIN_REMAINING_VALIDITY_SECONDS
from mpp.methods.tempo.intents import TRANSFER_TOPIC, TRANSFER_WITH_MEMO_TOPIC
from pydantic import ValidationError

from mpp_authz.challenge import Challenge
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
    _chain,
    _sponsorship,
    _transactions,
    proof,
)
from mpp_authz.pricing import FeePayer, Network, Offer

log = logging.getLogger(__name__)

#: Seconds from now in which a pull payment must have settled or be dead (mppx signs 25, pympp at most 60).
LONGEST_VALIDITY: Final = 90
#: Seconds of block time past `valid_before` before we say that a transaction can never be included.
GRACE: Final = 5
#: Seconds pympp may take to send and to see the receipt; a Check waits 10.
CONFIRMATION_TIMEOUT: Final = 9.0

#: TIP-20 tokens live under this prefix. A log of any other contract may say what it likes.
_TIP20_PREFIX: Final = "0x20c000000000000000000000"
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")
#: pympp refuses an expired challenge even when it only checks. Expiry is the caller's question, and a transfer
#: that was made in time stays good: what only checks gets this view of the challenge.
_FAR_FUTURE: Final = "9999-12-31T23:59:59Z"


class Tempo:
    """`methods.Method` for `tempo`, intent `charge`. All state is a cache."""

    name = "tempo"

    def __init__(
        self,
        fee_payer_key: Callable[[str], str | None],
        http: httpx.AsyncClient | None = None,
        confirmation_timeout: float = CONFIRMATION_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fee_payer_key(name)` gives a sponsor's private key as it is now, None where there is none."""
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
        if not _covers_both(offer.modes) and offer.amount != "0":
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
        charge = _charge(quote.request)
        kind = credential.payload.get("type")
        if (charge.amount == 0) != (kind == "proof"):
            return Refused("verification-failed", "A proof pays a quote of zero, and nothing else does.")
        if kind == "proof":
            return _verify_proof(credential, quote)
        if kind == "transaction":
            return await self._verify_pull(credential, quote, charge)
        if kind == "hash":
            return await self._verify_push(credential, quote, charge)
        return Refused("invalid-payload", "Expected a payload of type transaction, hash or proof.")

    async def _verify_pull(
        self, credential: Credential, quote: Quote, charge: "_Charge"
    ) -> Verified | Refused | Unavailable:
        if "pull" not in charge.modes:
            return Refused("verification-failed", "This quote is not paid by a signed transaction.")
        raw = credential.payload.get("signature")
        try:
            transaction = _transactions.read(raw if isinstance(raw, str) else "")
        except _transactions.Malformed as error:
            return Refused("invalid-payload", f"The signed transaction cannot be read: {error}.")
        complaint = self._complaint(transaction, charge)
        if complaint is not None:
            return Refused("verification-failed", complaint)
        if credential.source is not None and (
            transaction.claimed_sender is None
            or proof.source_address(credential.source, charge.chain_id) != transaction.claimed_sender
        ):
            return Refused("verification-failed", "The source is not the transaction's sender on this chain.")
        try:
            await ChargeIntent(rpc_url=quote.network.rpc_urls[0]).validate(
                _pympp(credential, quote.challenge, expires=_FAR_FUTURE), dict(quote.request)
            )
        except VerificationError as error:
            # Its text is one of pympp's own sentences about calls and memos, never a part of the credential.
            return Refused("verification-failed", _sentence(error))
        except ValidationError:
            return Refused("invalid-payload", "The payload does not fit its type.")
        return Verified(
            "pull",
            transaction.claimed_sender,
            transaction.proved_sender is not None,
            None if transaction.envelope else transaction.hash,
            valid_before=transaction.valid_before,
        )

    def _complaint(self, transaction: _transactions.Transaction, charge: "_Charge") -> str | None:
        """What keeps a transaction from being a payment we can see the end of."""
        now = int(self._clock())
        if transaction.envelope != charge.fee_payer:
            return (
                "Expected a fee payer envelope (0x78): this quote is sponsored."
                if charge.fee_payer
                else "Expected a signed transaction (0x76): this quote is not sponsored."
            )
        if transaction.chain_id != charge.chain_id:
            return f"Expected a transaction for chain {charge.chain_id}."
        # Without these two a payment could settle long after we gave up on it and asked for another one.
        if not transaction.expiring:
            return "Expected the expiring nonce key (2^256 - 1)."
        if transaction.valid_before is None or not now < transaction.valid_before <= now + LONGEST_VALIDITY:
            return f"Expected valid_before in the future and at most {LONGEST_VALIDITY} s from now."
        if transaction.valid_after is not None and transaction.valid_after > now:
            return "Expected a transaction that is valid now, not from valid_after on."
        if transaction.envelope and transaction.valid_before < now + MIN_REMAINING_VALIDITY_SECONDS:
            return (
                f"Expected at least {MIN_REMAINING_VALIDITY_SECONDS} s left of a sponsored transaction's validity."
            )
        if transaction.envelope and transaction.proved_sender is None:
            return "Expected a secp256k1 signature by the sender: other types are not sponsored."
        if transaction.claimed_sender is None:
            return "The sender cannot be told from the signature."
        return None

    async def _verify_push(
        self, credential: Credential, quote: Quote, charge: "_Charge"
    ) -> Verified | Refused | TransferRefused | Unavailable:
        # "Servers MUST reject hash credentials when feePayer is true" -- draft-tempo-charge-00, Verification
        if "push" not in charge.modes or charge.fee_payer:
            return Refused("verification-failed", "This quote is not paid by a transaction hash.")
        reference = credential.payload.get("hash")
        if not isinstance(reference, str) or not _HASH.fullmatch(reference):
            return Refused("invalid-payload", "Expected a transaction hash of 32 bytes.")
        reference = reference.lower()
        sender = None
        if credential.source is not None:
            sender = proof.source_address(credential.source, charge.chain_id)
            if sender is None:
                return Refused("verification-failed", "The source names no account on this chain.")
        try:
            found = await self._find(reference, quote.network)
        except _chain.Unreachable as error:
            return Unavailable(str(error))
        if found is None:
            # It may be pending: its absence does not prove that nothing was paid.
            return Unavailable("the transaction is not on the chain yet")
        receipt, moment = found
        if receipt.get("status") != "0x1":
            return Refused("verification-failed", "The transaction was reverted.")
        transfers = _transfers(receipt, charge.currency)
        to_us = [transfer for transfer in transfers if transfer.recipient == charge.recipient]
        if not to_us:
            return Refused("verification-failed", "The transaction pays nothing to the recipient.")
        for transfer in to_us:
            if transfer.pays(charge, quote.challenge) and sender in (None, transfer.sender):
                return Verified("push", transfer.sender, False, reference, transferred_at=moment)
        return TransferRefused(reference, _why_not(to_us, charge, quote.challenge))

    async def _find(self, reference: str, network: Network) -> tuple[dict[str, Any], int] | None:
        """A receipt and its block's time from the first endpoint that has it; None where all say there is none.

        Raises:
            Unreachable: none has it, and not all could be asked.
        """
        trouble: _chain.Unreachable | None = None
        for url in network.rpc_urls:
            try:
                await self._right_chain(url, network)
                receipt = await _chain.receipt(self._http, url, reference)
                if receipt is not None:
                    block = hex(_chain.quantity(receipt.get("blockNumber")))
                    return receipt, await _chain.block_time(self._http, url, block)
            except (_chain.Unreachable, _chain.RpcError) as error:
                trouble = _chain.Unreachable(f"an endpoint of {network.name} failed: {error}")
        if trouble is not None:
            raise trouble
        return None

    async def _right_chain(self, url: str, network: Network) -> None:
        """An endpoint of another chain knows none of our transactions, and must not be believed about them."""
        found = await _chain.chain_id(self._http, url)
        if found != network.chain_id:
            raise _chain.Unreachable(f"expected chain {network.chain_id}, an endpoint serves {found}")

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
        poor = await self._too_poor(credential, quote, verified)
        if poor is not None:
            return poor
        if not _charge(quote.request).fee_payer:
            return await self._settle_pull(credential, quote, verified, claim, None)
        key = None if quote.fee_payer is None else self._fee_payer_key(quote.fee_payer.key)
        if quote.fee_payer is None or key is None:
            return Unavailable("the quote's sponsor has no key any more")
        return await self._settle_sponsored(credential, quote, verified, claim, quote.fee_payer, key)

    async def _too_poor(
        self, credential: Credential, quote: Quote, verified: Verified
    ) -> Refused | Unavailable | None:
        """Whether the payer cannot pay, asked before anything is claimed or sent.

        A node drops such a transaction without a trace, and the payment would stay unknown until its last valid
        moment. Where a swap comes first, the balance says nothing.
        """
        charge = _charge(quote.request)
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
        again = await self._verify_push(credential, quote, _charge(quote.request))
        if isinstance(again, TransferRefused):
            return Unavailable("the chain changed its answer")
        if not isinstance(again, Verified):
            return again
        assert again.reference is not None  # noqa: S101 - a push payment is its hash
        if not await claim.settling(again.reference, None):
            return Unavailable("claimed elsewhere")
        return Settled(again.reference, again.payer)

    async def _settle_sponsored(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim, terms: FeePayer, key: str
    ) -> Settled | Refused | Unknown | Unavailable:
        try:
            with self._limits.sponsoring(terms, verified.payer or ""):
                return await self._settle_pull(credential, quote, verified, claim, TempoAccount.from_key(key))
        except _sponsorship.LimitReached as error:
            return Unavailable(f"sponsorship is used up for now: {error}")

    async def _settle_pull(
        self,
        credential: Credential,
        quote: Quote,
        verified: Verified,
        claim: Claim,
        fee_payer: TempoAccount | None,
    ) -> Settled | Refused | Unknown | Unavailable:
        wire = _chain.Wire(self._http, quote.network.rpc_urls)
        store = _ClaimStore(claim, verified.valid_before)
        intent = ChargeIntent(
            rpc_url=quote.network.rpc_urls[0],
            http_client=cast(httpx.AsyncClient, wire),
            store=store,
            confirmation_timeout=self._confirmation_timeout,
            fee_payer=fee_payer,
        )
        try:
            receipt = await intent.broadcast(
                _pympp(credential, quote.challenge, expires=quote.challenge.expires), dict(quote.request)
            )
        except Exception as error:
            return await self._after_failure(error, wire, store, verified, quote.network)
        return Settled(receipt.reference.lower(), verified.payer)

    async def _after_failure(
        self, error: Exception, wire: _chain.Wire, store: "_ClaimStore", verified: Verified, network: Network
    ) -> Settled | Refused | Unknown | Unavailable:
        """What a failure of pympp's means. Once something was sent only the chain's answer counts."""
        if wire.sent and store.reference is not None:
            log.info("settlement failed after sending", extra={"reason": _cause(error)})
            found = await self.lookup(store.reference, verified.valid_before, network)
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
            return Refused("verification-failed", _sentence(error) if store.reference is None else _SIMULATION)
        log.warning("settlement failed before sending", extra={"reason": _cause(error)})
        return Unavailable(_cause(error))

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
        answers = await asyncio.gather(*(self._ask(url, reference, network) for url in network.rpc_urls))
        return _conclude(reference, valid_before, answers)

    async def _ask(self, url: str, reference: str, network: Network) -> "_Answer | None":
        """What one endpoint says; None where it cannot be asked."""
        try:
            await self._right_chain(url, network)
            # The block first: a receipt that is missing after this block was there is missing in it.
            at = await _chain.block_time(self._http, url)
            receipt = await _chain.receipt(self._http, url, reference)
        except (_chain.Unreachable, _chain.RpcError) as error:
            log.info("endpoint cannot be asked", extra={"network": network.name, "reason": str(error)})
            return None
        if receipt is None:
            return _Answer(at, None, None)
        sender = receipt.get("from")
        return _Answer(at, receipt.get("status") == "0x1", sender.lower() if isinstance(sender, str) else None)

    async def aclose(self) -> None:
        await self._purses.aclose()
        if self._owns_http:
            await self._http.aclose()


_SIMULATION: Final = "The sponsored transaction would fail, or too little is left of its validity."


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


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a quote asks for. Addresses are lower case."""

    amount: int
    currency: str
    recipient: str
    chain_id: int
    fee_payer: bool
    modes: tuple[str, ...]


def _charge(request: Mapping[str, Any]) -> _Charge:
    """Read our own `request`."""
    details = request["methodDetails"]
    return _Charge(
        int(request["amount"]),
        request["currency"].lower(),
        request["recipient"].lower(),
        details["chainId"],
        bool(details.get("feePayer", False)),
        tuple(details.get("supportedModes", ("pull", "push"))),
    )


def _covers_both(modes: tuple[str, ...]) -> bool:
    return {"pull", "push"} <= set(modes)


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


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One movement of a TIP-20 token, as its log says. Addresses are lower case."""

    token: str
    sender: str
    recipient: str
    amount: int
    memo: str | None

    def pays(self, charge: _Charge, challenge: Challenge) -> bool:
        return (self.token, self.amount) == (charge.currency, charge.amount) and self.names(challenge)

    def names(self, challenge: Challenge) -> bool:
        """Whether the memo binds the transfer to this challenge of this realm."""
        return (
            self.memo is not None
            and attribution.verify_server(self.memo, challenge.realm)
            and attribution.verify_challenge_binding(self.memo, challenge.id)
        )


def _transfers(receipt: Mapping[str, Any], currency: str) -> tuple[_Transfer, ...]:
    """Every TIP-20 transfer a receipt tells of. One with a memo is there twice: with it and without."""
    found = []
    for entry in receipt.get("logs") or ():
        try:
            token, topics, data = entry["address"].lower(), entry["topics"], entry["data"]
            memo = {TRANSFER_TOPIC: None, TRANSFER_WITH_MEMO_TOPIC: topics[3] if len(topics) == 4 else None}
            if topics[0] not in memo or not (token == currency or token.startswith(_TIP20_PREFIX)):
                continue
            sender, recipient = ("0x" + topic[-40:].lower() for topic in topics[1:3])
            found.append(_Transfer(token, sender, recipient, int(data[:66], 16), memo[topics[0]]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            continue  # another contract's idea of a log
    return tuple(found)


def _why_not(transfers: list[_Transfer], charge: _Charge, challenge: Challenge) -> str:
    if not any(transfer.token == charge.currency for transfer in transfers):
        return "The transfer is of another token."
    if not any(transfer.names(challenge) for transfer in transfers):
        return "The transfer's memo is not bound to this challenge."
    if not any(transfer.pays(charge, challenge) for transfer in transfers):
        return "The transfer is of another amount."
    return "The transfer is not by the credential's source."


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one endpoint says of a transaction. `succeeded` is None where it knows no receipt."""

    block_time: int
    succeeded: bool | None
    sender: str | None


def _conclude(
    reference: str, valid_before: int | None, answers: list[_Answer | None]
) -> Settled | NotYet | Never | Unavailable:
    """One endpoint may say yes; only all of them together may say never."""
    told = [answer for answer in answers if answer is not None]
    outcomes = {answer.succeeded for answer in told}
    if True in outcomes and False not in outcomes:
        return Settled(reference, next(answer.sender for answer in told if answer.succeeded))
    if len(told) < len(answers):
        return Unavailable("an endpoint cannot be asked")
    if len(outcomes) > 1:
        return Unavailable("the endpoints disagree")
    if outcomes == {False}:
        return Never("reverted")
    if valid_before is None:
        return NotYet()
    over = {answer.block_time > valid_before + GRACE for answer in told}
    if over == {True}:
        return Never("its last valid moment is past")
    return NotYet() if over == {False} else Unavailable("an endpoint lags behind")


def _pympp(credential: Credential, challenge: Challenge, expires: str | None) -> mpp.Credential:
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


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    return text if text.endswith(".") else text + "."


def _cause(error: BaseException) -> str:
    """The kind of an error and of its causes, without their texts: those may quote a transaction."""
    kinds: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(kinds) < 4:
        kinds.append(type(seen).__name__)
        seen = seen.__cause__
    return " from ".join(kinds)
