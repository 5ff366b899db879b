"""Restarts under traffic, everything real: authz on its own, and the gateway as a whole."""

import asyncio
import os
import signal
import time

import gateway_process
import pytest
import traffic
import upstreams
import wallets
from chain import Chain

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

PRICE = 1000


async def test_authz_is_restarted_under_traffic_and_nobody_notices(
    start_gateway: gateway_process.Start, chain: Chain
) -> None:
    payee = wallets.payee("restart")
    payers = [wallets.funded(chain, f"restart {number}")[1] for number in range(3)]
    async with upstreams.serve() as upstream:
        gateway = await asyncio.to_thread(
            start_gateway,
            {"shop.yaml": traffic.service(upstream.port, payee, PRICE)},
            config=traffic.network(chain.rpc_url),
        )
        async with traffic.running(f"{gateway.url}/shop/thing", chain, payers) as load:
            restarted = time.monotonic()
            os.kill(gateway.ready["authzPid"], signal.SIGTERM)
            await asyncio.to_thread(gateway.said, "authz serves again")
            served = time.monotonic()
            await load.for_seconds(2)
        print(f"successor after {served - restarted:.2f} s; {load.figures()}")

    assert load.wrong() == []
    assert wallets.balance(chain, payee) == load.revenue() == PRICE * len(load.paid)
