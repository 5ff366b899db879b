"""The payment method "cheap": a charge that settles in microseconds, for tests and benchmarks.

Real: a secp256k1 signature by the payer over all that is paid, and a bank outside of every process that takes a
transaction once. Not real: the money, which everybody has. No chain, no node, no network.

A payer presents a signed transaction, which the gateway brings to the bank ("pull"), or the reference of one that
the payer has brought there ("push"). A network's `rpcUrl` is `http://cheap.invalid/<folder of the bank>`.

With the folder of this file on PYTHONPATH, `mpp-gateway run` finds the method as it finds an installed one: by the
entry point that `cheap_method.dist-info` declares.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak

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
)
from mpp_authz.pricing import Network, Offer

NAME: Final = "cheap"
#: Seconds from now in which a transaction must have settled or be dead.
LONGEST_VALIDITY: Final = 3600
#: A symbolic link holds 4095 bytes.
_MAX_TERMS: Final = 2000
_TERMS: Final = frozenset({"amount", "chainId", "challenge", "currency", "nonce", "recipient", "validBefore"})


class Malformed(ValueError):
    """Not a signed transaction. The message holds no part of it."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction whose signature was checked: `payer` (lower case address) is who signed."""

    terms: str  # what was signed: a JSON object
    signature: str = field(repr=False)
    payer: str

    @property
    def reference(self) -> str:
        """Its hash. The signature is not in it: there are two good ones for every terms and key."""
        return "0x" + hashlib.sha256(f"{self.terms}|{self.payer}".encode()).hexdigest()

    @property
    def valid_before(self) -> int:
        """Unix seconds of the bank's time from which on the bank does not take it."""
        return int(json.loads(self.terms)["validBefore"])

    @property
    def raw(self) -> str:
        return json.dumps([self.terms, self.signature])


def sign(terms: dict[str, Any], key: PrivateKey) -> Transaction:
    """What a payer makes."""
    text = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    return Transaction(text, key.sign_recoverable(text.encode()).hex(), address(key.public_key))


def read(terms: object, signature: object) -> Transaction:
    """A signed transaction, its payer recovered from the signature.

    Raises:
        Malformed: a field is missing or mistyped, or the signature is none.
    """
    if not isinstance(terms, str) or not isinstance(signature, str) or len(terms) > _MAX_TERMS:
        raise Malformed(f"expected terms of at most {_MAX_TERMS} characters, and a signature")
    try:
        document = json.loads(terms)
        key = PublicKey.from_signature_and_message(bytes.fromhex(signature), terms.encode())
    except Exception as error:  # coincurve's own are plain Exceptions
        raise Malformed("expected JSON, signed by secp256k1") from error
    if not isinstance(document, dict) or set(document) != _TERMS or not isinstance(document["validBefore"], int):
        raise Malformed(f"expected the terms {', '.join(sorted(_TERMS))}")
    return Transaction(terms, signature, address(key))


def address(key: PublicKey) -> str:
    """As Ethereum has it, lower case."""
    return "0x" + keccak(key.format(compressed=False)[1:])[12:].hex()


# --- the bank ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that moved."""

    reference: str
    payer: str
    recipient: str
    amount: int
    challenge: str
    terms: str
    at: float  # Unix seconds of the bank's clock


class Closed(Exception):
    """The bank cannot be asked: its folder is not there."""


@dataclass(frozen=True, slots=True)
class Bank:
    """A folder with one symbolic link for each transaction, whose target is its text. One system call makes a link
    with all it says, or finds that it is there: a transaction is paid or not, and never twice, whoever dies when.

    Its clock is the machine's, not a process's idea of it: a bank is another machine.
    """

    folder: Path

    @classmethod
    def of(cls, network: Network) -> "Bank":
        return cls(Path(unquote(urlsplit(network.rpc_urls[0]).path)))

    @property
    def url(self) -> str:
        return f"http://cheap.invalid{self.folder}"

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_REALTIME)

    def send(self, transaction: Transaction) -> bool:
        """Move the money, if it has not moved yet. False: it has not, and its last valid moment is past.

        Raises:
            Closed: nothing moved by this call.
        """
        entry = self.folder / transaction.reference
        if self.now() >= transaction.valid_before:
            return self.transfer(transaction.reference) is not None
        try:
            os.symlink(json.dumps({"payer": transaction.payer, "terms": transaction.terms}), entry)
        except FileExistsError:
            return True
        except FileNotFoundError as error:
            raise Closed from error
        return True

    def transfer(self, reference: str) -> Transfer | None:
        """What a reference did; None: nothing.

        Raises:
            Closed.
        """
        entry = self.folder / os.path.basename(reference)
        try:
            text, at = os.readlink(entry), os.lstat(entry).st_mtime
        except OSError as error:
            if not self.folder.is_dir():
                raise Closed from error
            return None
        document = json.loads(text)
        terms = json.loads(document["terms"])
        return Transfer(
            reference,
            document["payer"],
            terms["recipient"],
            int(terms["amount"]),
            terms["challenge"],
            document["terms"],
            at,
        )

    def transfers(self) -> tuple[Transfer, ...]:
        """All of them, oldest first."""
        found = (self.transfer(name) for name in os.listdir(self.folder))
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.at))


# --- the method ----------------------------------------------------------------------------------------


class Cheap:
    """`methods.Method` for `cheap`, intent `charge`. Asking the bank takes microseconds, so nothing is awaited."""

    name = NAME

    def __init__(self, _secret: Callable[[str], str | None], clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds: the gateway's idea of the time."""
        self._clock = clock

    def request(self, offer: Offer, network: Network) -> dict[str, Any]:
        """See `Method.request`."""
        details: dict[str, Any] = {"chainId": network.chain_id}
        if not {"pull", "push"} <= set(offer.modes):
            details["supportedModes"] = list(offer.modes)
        return {
            "amount": offer.amount,
            "currency": offer.currency,
            "recipient": offer.recipient,
            "methodDetails": details,
        }

    async def offered(self, offer: Offer, network: Network) -> bool:
        """See `Method.offered`."""
        return True

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        """See `Method.verify`."""
        modes = quote.request["methodDetails"].get("supportedModes", ["pull", "push"])
        match credential.payload.get("type"):
            case "transaction" if "pull" in modes:
                return self._verify_pull(credential, quote)
            case "hash" if "push" in modes:
                return self._verify_push(credential, quote)
        return Refused("invalid-payload", f"Expected a payload of {' or '.join(modes)} mode.")

    def _verify_pull(self, credential: Credential, quote: Quote) -> Verified | Refused:
        try:
            transaction = _presented(credential)
        except Malformed as error:
            return Refused("invalid-payload", f"The signed transaction cannot be read: {error}.")
        complaint = _complaint(transaction.terms, quote)
        if complaint is not None:
            return Refused("verification-failed", complaint)
        now = self._clock()
        if not now < transaction.valid_before <= now + LONGEST_VALIDITY:
            return Refused(
                "verification-failed",
                f"Expected validBefore in the future, at most {LONGEST_VALIDITY} s from now.",
            )
        return Verified("pull", transaction.payer, True, transaction.reference, transaction.valid_before)

    def _verify_push(self, credential: Credential, quote: Quote) -> Verified | TransferRefused | Unavailable:
        try:
            found = Bank.of(quote.network).transfer(str(credential.payload.get("hash")))
        except Closed:
            return Unavailable("the bank is closed")
        if found is None:
            return Unavailable("the bank has no such transfer yet")
        complaint = _complaint(found.terms, quote)
        if complaint is not None:
            return TransferRefused(found.reference, complaint)
        return Verified("push", found.payer, True, found.reference, transferred_at=int(found.at))

    async def settle(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        """See `Method.settle`."""
        assert verified.reference is not None
        if not await claim.settling(verified.reference, verified.valid_before):
            return Unavailable("claimed elsewhere")
        if verified.mode == "push":
            return Settled(verified.reference, verified.payer)
        try:
            taken = Bank.of(quote.network).send(_presented(credential))
        except Closed:
            return Unavailable("the bank is closed")
        if not taken:
            return Refused("verification-failed", "The transaction's last valid moment is past.")
        return Settled(verified.reference, verified.payer)

    async def resend(self, raw: str, network: Network) -> None:
        """See `Method.resend`."""
        with contextlib.suppress(Closed):
            Bank.of(network).send(read(*json.loads(raw)))

    def raw(self, credential: Credential) -> str | None:
        """See `Method.raw`."""
        try:
            return _presented(credential).raw
        except Malformed:
            return None

    async def lookup(
        self, reference: str, valid_before: int | None, network: Network
    ) -> Settled | NotYet | Never | Unavailable:
        """See `Method.lookup`."""
        bank = Bank.of(network)
        try:
            now = bank.now()  # first: what the bank does not have now, it will not take after `valid_before`
            found = bank.transfer(reference)
        except Closed:
            return Unavailable("the bank is closed")
        if found is not None:
            return Settled(found.reference, found.payer)
        # A second for whoever read the clock just before and has not made the link yet.
        if valid_before is not None and now > valid_before + 1:
            return Never("its last valid moment is past")
        return NotYet()

    async def aclose(self) -> None:
        """Nothing is open."""


def _presented(credential: Credential) -> Transaction:
    if credential.payload.get("type") != "transaction":
        raise Malformed("expected a payload of type transaction")
    return read(credential.payload.get("terms"), credential.payload.get("signature"))


def _complaint(terms: str, quote: Quote) -> str | None:
    """Why terms are not what the quote asks for."""
    said, asked = json.loads(terms), quote.request
    expected = {
        "amount": asked["amount"],
        "chainId": quote.network.chain_id,
        "challenge": quote.challenge.id,
        "currency": asked["currency"],
        "recipient": asked["recipient"],
    }
    wrong = sorted(name for name, value in expected.items() if said[name] != value)
    return f"The transaction's {' and '.join(wrong)} is not the quote's." if wrong else None
