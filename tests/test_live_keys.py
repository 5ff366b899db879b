"""The signing key is rotated under traffic, everything real."""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import gateway_process
import pytest
import traffic
import upstreams
import wallets
from chain import Chain

from mpp_authz import challenge

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

PRICE = 1000
#: The quotes of the traffic are used one second after they were given.
HOLD = 1.0


def config(chain: Chain, keys: Sequence[str]) -> str:
    return f"{traffic.network(chain.rpc_url)}challengeKeys: [{', '.join(keys)}]\n"


async def present(url: str, credential: str, limit: float = 10) -> tuple[int, str]:
    """The status, and the challenge that came with it."""
    headers = {"Authorization": credential}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(limit)) as http,
        http.get(url, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status, answer.headers.get("WWW-Authenticate", "")


async def until_signed_by(key: str, url: str, limit: float = 15) -> float:
    """Wait until a fresh challenge is signed by a key; the seconds it took."""
    began = time.monotonic()
    keyring = challenge.Keyring((key.encode(),))
    while not keyring.ours(wallets.challenge_of(await traffic.quote(url))):
        assert time.monotonic() - began < limit
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def until_foreign(url: str, credential: str, limit: float = 15) -> float:
    """Wait until what is wrong with a credential is its challenge, no longer its payload; the seconds it took."""
    began = time.monotonic()
    while "/invalid-challenge" not in (await traffic.present(url, credential))[2]:
        assert time.monotonic() - began < limit
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.row("C21", "C22", "G10")
async def test_the_signing_key_is_rotated_under_traffic_and_nothing_is_refused_but_what_the_removed_key_signed(
    start_gateway: gateway_process.Start, chain: Chain, tmp_path: Path
) -> None:
    payee = wallets.payee("keys")
    _, key = wallets.funded(chain, "keys")
    old, new = "o" * 40, "n" * 40
    secrets = tmp_path / "secrets" / "default" / "mpp-challenge-keys"
    secrets.mkdir(parents=True)
    (secrets / "old").write_text(old)
    async with upstreams.serve() as upstream:
        gateway = await asyncio.to_thread(
            start_gateway,
            {"shop.yaml": traffic.service(upstream.port, payee, PRICE)},
            config=config(chain, ["old"]),
            arguments=("--secrets-dir", str(tmp_path / "secrets")),
        )
        url, gate = f"{gateway.url}/shop/thing", f"{gateway.url}/shop/gate"

        async with traffic.running(url, chain, [key], hold=HOLD) as load:
            quote, unused = await traffic.credential(url, chain, key), await traffic.credential(url, chain, key)
            credit = await traffic.credential(gate, chain, key)
            spoiled = wallets.authorization(wallets.challenge_of(await traffic.quote(url)), {"type": "none"})
            with pytest.raises(TimeoutError):
                await present(gate, credit, 0.5)  # the payer hangs up before there is an answer
            upstream.gate.set()

            (secrets / "new").write_text(new)
            gateway.edit("gateway.yaml", config(chain, ["old", "new"]))
            await asyncio.to_thread(gateway.printed, "ready", since=1)
            gateway.edit("gateway.yaml", config(chain, ["new", "old"]))
            rotated = await until_signed_by(new, url)

            assert await present(url, quote) == (200, "")
            assert await present(gate, credit) == (200, "")

            await load.for_seconds(2 * HOLD)  # what the old key signed for the traffic has been used by then
            gateway.edit("gateway.yaml", config(chain, ["new"]))
            os.unlink(secrets / "old")
            removed = await until_foreign(url, spoiled)

            assert await present(url, quote) == (403, "")  # it was used, and nobody is asked twice
            status, asked = await present(url, unused)
            assert status == 402
            assert challenge.Keyring((new.encode(),)).ours(wallets.challenge_of(asked))
            await load.for_seconds(HOLD)

    print(f"signs with the new key after {rotated:.3f} s, refuses the old one's after {removed:.3f} s")
    print(load.figures())
    assert load.wrong() == []
    assert wallets.balance(chain, payee) == load.revenue() + 2 * PRICE
    everything = "\n".join(gateway.stdout + gateway.stderr)
    assert not any(secret in everything for secret in (old, new))
