"""What a payer presents beside the challenge, as the payment method tempo judges it: transactions, envelopes,
hashes and proofs. No chain can be reached. An input is a line that chooses the quote and a JSON object
`{"payload": …, "source": …}`."""

import asyncio
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
import mutation
import plants

from mpp_authz import challenge, problems
from mpp_authz.methods import Credential, Quote, Refused, TransferRefused, Unavailable, Verified, _transactions
from mpp_authz.methods.tempo import Tempo
from mpp_authz.pricing import FeePayer, Network, Offer

KEY: Final = b"a key for tests, of 32 bytes or more"
NOW: Final = 1_800_000_000.0
NETWORK: Final = Network("devnet", "tempo", 31337, ("http://127.0.0.1:9",))
_TOKEN: Final = "0x20c0000000000000000000000000000000000000"
_PAYEE: Final = "0x" + "fe" * 20
_SPONSOR: Final = FeePayer("sponsor", 60, 30, "1")
OFFERS: Final[Mapping[str, Offer]] = {
    "plain": Offer("usd", "tempo", "devnet", _TOKEN, _PAYEE, "1000"),
    "sponsored": Offer("usd", "tempo", "devnet", _TOKEN, _PAYEE, "1000", fee_payer=_SPONSOR),
    "proof": Offer("usd", "tempo", "devnet", _TOKEN, _PAYEE, "0"),
    "pull": Offer("usd", "tempo", "devnet", _TOKEN, _PAYEE, "1000", modes=("pull",)),
    "push": Offer("usd", "tempo", "devnet", _TOKEN, _PAYEE, "1000", modes=("push",)),
}


def _nobody(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody is there", request=request)


def _method() -> Tempo:
    return Tempo(lambda name: None, lambda: NOW, http=httpx.AsyncClient(transport=httpx.MockTransport(_nobody)))


def quote(name: str) -> Quote:
    """A quote that is always the same."""
    request = _METHOD.request(OFFERS[name], NETWORK)
    minted = challenge.Keyring((KEY,)).mint(
        realm="shop.example",
        method="tempo",
        intent="charge",
        request=challenge.canonical(request),
        expires="2027-01-15T08:05:00.000Z",
        opaque=challenge.b64url(b"{}"),
    )
    return Quote(minted, request, NETWORK, OFFERS[name].fee_payer)


_METHOD: Final = _method()
QUOTES: Final = {name: quote(name) for name in OFFERS}


def one(data: bytes) -> None:
    chosen, _, text = data.partition(b"\n")
    quoted = QUOTES.get(chosen.decode("ascii", "replace"), QUOTES["plain"])
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict) or not isinstance(document.get("payload"), dict):
        return
    source = document.get("source")
    credential = Credential(document["payload"], source if isinstance(source, str) else None)
    verdict = asyncio.run(_judged(credential, quoted))
    match verdict:
        case Refused(slug, detail):
            assert slug in problems.REFUSALS
            plants.not_shown(detail)
            assert detail.endswith(".")
        case Unavailable(reason):
            plants.not_shown(reason)
        case Verified():
            _is_what_was_signed(credential, quoted, verdict)
        case TransferRefused():
            raise AssertionError("a transfer was judged that nobody could see")
    raw = _METHOD.raw(credential)
    if raw is not None:
        again = _transactions.read(raw)
        assert again.raw == raw, "what a node keeps is not what we hash"


async def _judged(credential: Credential, quoted: Quote) -> Verified | Refused | TransferRefused | Unavailable:
    return await _method().verify(credential, quoted)


def _is_what_was_signed(credential: Credential, quoted: Quote, verified: Verified) -> None:
    """A proof is by the source's own key for this challenge; a transaction pays this quote, in time."""
    free = quoted.request["amount"] == "0"
    assert verified.mode == ("proof" if free else "pull"), "a transfer that nobody saw was believed"
    assert verified.payer is not None
    assert verified.payer == verified.payer.lower()
    if free:
        assert verified.reference == quoted.challenge.id
        return
    transaction = _transactions.read(credential.payload["signature"])
    assert verified.valid_before is not None
    assert verified.valid_before > NOW
    assert _PAYEE[2:] in transaction.raw, "it does not name the payee"
    assert verified.reference == (None if transaction.envelope else transaction.hash)


def grown(text: str) -> Iterator[bytes]:
    for signature in (text, f"0x{text}", f"0x76{text.encode().hex()}", f"0x78{text.encode().hex()}"):
        for kind in ("transaction", "proof", "hash"):
            for name in ("plain", "proof"):
                document = {"payload": {"type": kind, "signature": signature, "hash": signature}, "source": text}
                yield f"{name}\n{json.dumps(document)}".encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    name, _, text = data.partition(b"\n")
    if chosen.random() < 0.2:
        name = chosen.choice([*OFFERS]).encode()
    if chosen.random() < 0.5:
        return name + b"\n" + mutation.as_json(text, chosen, WORDS)
    return name + b"\n" + _bitten(text, chosen)


def _bitten(text: bytes, chosen: random.Random) -> bytes:
    """Some digits of the signed bytes changed, in place."""
    try:
        document: Any = json.loads(text)
        raw = bytearray.fromhex(document["payload"]["signature"][2:])
        for _ in range(chosen.randint(1, 4)):
            at = chosen.randrange(len(raw))
            raw[at] = chosen.choice(
                (0, 1, 0x7F, 0x80, 0xB8, 0xC0, 0xF8, 0xFF, raw[at] ^ (1 << chosen.randrange(8)))
            )
        if chosen.random() < 0.3:
            at = chosen.randrange(len(raw))
            raw[at : at + chosen.randrange(4)] = chosen.randbytes(chosen.randrange(6))
        document["payload"]["signature"] = "0x" + raw.hex()
    except (ValueError, LookupError, TypeError, RecursionError):
        return text
    return json.dumps(document).encode()


WORDS: Final = (
    *("payload", "source", "type", "transaction", "hash", "proof", "signature", "0x76", "0x78", "0x" + "00" * 65),
    *("0x" + "ff" * 65, "0x76c0", "0x78f8", "0x" + "ab" * 32, "did:pkh:eip155:31337:0x" + "ab" * 20),
    plants.SECRET,
)
