"""One credential, presented to three replicas at the same moment, again and again: one settlement, one delivery.

Real: three `mpp-gateway run`, each with its authz and its Envoy, one PostgreSQL, one signing key. The payment
method is `cheap`, which settles at once: the narrower the gap between claim and delivery, the closer the race.
`MPP_TEST_RACES=200` says how often.
"""

import asyncio
import collections
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import barrage
import cheap_wallet
import gateway_process
import ledgers
import pytest
import replicas
from cheap.cheap_method import Bank

pytestmark = [pytest.mark.data_plane, pytest.mark.store, pytest.mark.timeout(300)]

RACES = int(os.environ.get("MPP_TEST_RACES", "200"))
AT_ONCE, REPLICAS = 32, 3


@pytest.fixture
async def upstream() -> AsyncIterator[barrage.Upstream]:
    async with barrage.serve() as started:
        yield started


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return cheap_wallet.bank(tmp_path)


@pytest.mark.row("C26", "C27")
async def test_parallel_uses_of_one_credential_are_one_settlement_and_one_delivery(
    start_gateway: gateway_process.Start, bank: Bank, upstream: barrage.Upstream
) -> None:
    store = replicas.postgres(await asyncio.to_thread(lambda: ledgers.postgres_server().database()))
    gateways = await asyncio.to_thread(replicas.start, start_gateway, REPLICAS, upstream.port, bank, store)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(barrage.Client(gateway.url)) for gateway in gateways]
        await race(clients, bank, upstream)


async def race(clients: Sequence[barrage.Client], bank: Bank, upstream: barrage.Upstream) -> None:
    payer = cheap_wallet.key("racer")
    won: collections.Counter[int] = collections.Counter()
    refused: collections.Counter[int] = collections.Counter()
    began = time.monotonic()
    for number in range(RACES):
        target = f"/shop/thing?case={number}"
        asked = await clients[number % REPLICAS].get(target)
        credential = cheap_wallet.sign(asked.headers["www-authenticate"], payer)

        answers = await asyncio.gather(
            *(clients[at % REPLICAS].get(target, credential) for at in range(AT_ONCE)),
        )

        served = [at for at, answer in enumerate(answers) if (answer.status, answer.receipt) == (200, True)]
        others = [answer for at, answer in enumerate(answers) if at not in served]
        assert len(served) == 1, (number, answers)
        assert {(answer.status, answer.asked, answer.receipt) for answer in others} <= {
            (403, False, False),
            (409, False, False),
        }, (number, others)
        assert len(os.listdir(bank.folder)) == number + 1
        assert [hit.status for hit in upstream.hits(str(number))] == [200]
        won[served[0] % REPLICAS] += 1
        refused.update(answer.status for answer in others)

    taken = time.monotonic() - began
    print(f"{RACES} races in {taken:.1f} s, won by replica {dict(won)}, others {dict(refused)}")
    transfers = bank.transfers()
    assert len({transfer.challenge for transfer in transfers}) == len(transfers) == RACES
    assert {(transfer.amount, transfer.recipient) for transfer in transfers} == {(replicas.PRICE, replicas.PAYEE)}
