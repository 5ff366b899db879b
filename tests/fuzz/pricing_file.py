"""The files that authz reads while it runs, pricing.json and authz.json: the parsers, and the reload that keeps
the last good value. An input is the bytes of one file; it is read as both."""

import asyncio
import json
import random
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mutation
import plants

from mpp_authz import keys, pricing, reload
from mpp_authz.keys import KeysError
from mpp_authz.metrics import Metrics
from mpp_authz.pricing import FeePayer, Network, Offer, Pricing, PricingError, RoutePrice

_LISTENER: Final = plants.listen()
_RUNNER: Final = asyncio.Runner()
_METRICS: Final = Metrics()
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="mpp-fuzz-pricing-")

GOOD: Final = Pricing(
    pricing.VERSION,
    "r1",
    {
        "shop/llm/complete": RoutePrice(
            (
                Offer(
                    "usd", "tempo", "devnet", "0xC0", "0xFEED", "1000", fee_payer=FeePayer("sponsor", 60, 30, "1")
                ),
            ),
            expires_in=300,
            lease=60,
        )
    },
    {"devnet": Network("devnet", "tempo", 31337, ("http://127.0.0.1:8545",))},
)
GOOD_KEYS: Final = '{"version":1,"challengeKeys":["a key for tests, of 32 bytes or more"]}'


def one(data: bytes) -> None:
    _LISTENER.lines.clear()
    text = data.decode("utf-8", "replace")
    try:
        found = pricing.load(text)
    except PricingError as error:
        told = str(error)
    else:
        told = "pricing: "
        assert pricing.load(pricing.dump(found)) == found
    assert told.startswith("pricing: ")
    try:
        kept = keys.load(text)
    except KeysError as error:
        plants.not_shown(str(error), repr(error.__cause__))
    else:
        again = keys.load(keys.dump(kept))
        assert (again.challenge, dict(again.fee_payers)) == (kept.challenge, dict(kept.fee_payers))
        plants.not_shown(repr(kept), str(kept))
    if zlib.crc32(data) % 8 == 0:  # it takes ten times as long
        _RUNNER.run(_reloaded(data))


async def _reloaded(data: bytes) -> None:
    """A bad file changes nothing, and a good one is in force."""
    folder = Path(_FOLDER.name)
    prices, secrets = folder / pricing.FILE_NAME, folder / keys.FILE_NAME
    prices.write_text(pricing.dump(GOOD))
    secrets.write_text(GOOD_KEYS)
    watched = await reload.Watched.start(folder, folder, _METRICS)
    before = watched.keys
    secrets.write_bytes(data)
    await watched.reload_now()
    plants.not_shown(*_LISTENER.lines)  # no secret is in pricing.json
    assert watched.pricing == GOOD
    try:
        expected = keys.load(data.decode("utf-8"))
    except ValueError:
        assert watched.keys is before
    else:
        assert watched.keys.challenge == expected.challenge
    secrets.write_text(GOOD_KEYS)
    prices.write_bytes(data)
    await watched.reload_now()
    try:
        there = pricing.load(data.decode("utf-8"))
    except ValueError:
        assert watched.pricing == GOOD
    else:
        assert watched.pricing == there
    assert watched.route("shop/llm/complete") is not None, "a price is served on for a while"


def grown(text: str) -> Iterator[bytes]:
    yield text.encode()
    yield json.dumps({"version": 1, "revision": text, "routes": {text: {}}, "networks": {}}).encode()
    yield json.dumps({"version": 1, "challengeKeys": [text], "feePayers": {text: text}}).encode()


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    return mutation.as_json(data, chosen, WORDS)


WORDS: Final = (
    *("version", "revision", "routes", "networks", "transport", "offers", "expiresIn", "lease", "realm"),
    *("credentialHeader", "notBefore", "bindQuery", "digestMaxBytes", "streaming", "idempotent", "creditAttempts"),
    *("creditLife", "description", "name", "method", "network", "currency", "recipient", "amount", "intent"),
    *("modes", "feePayer", "key", "maxPerMinute", "maxPerPayerPerMinute", "minBalance", "chainId", "rpcUrls"),
    *("insecureHttp", "terminatedBy", "challengeKeys", "feePayers", "0x" + "11" * 32, plants.SECRET),
)
