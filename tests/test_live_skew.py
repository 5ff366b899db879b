"""Replicas whose clocks are two minutes wrong, one behind and one ahead: the store's clock is what counts.

Real: two `mpp-gateway run`, each with its authz and its Envoy, one PostgreSQL, one signing key. A double: the
wrong clock, which is authz's alone (skew/sitecustomize.py). The method is `cheap`, because a development chain
takes no transaction that is valid for minutes.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import barrage
import cheap_wallet
import gateway_process
import ledgers
import mpp
import pytest
import replicas
from cheap.cheap_method import Bank

pytestmark = [pytest.mark.data_plane, pytest.mark.store, pytest.mark.timeout(120)]

SKEW = 120
SITE = Path(__file__).parent / "support" / "skew"
#: Leases of 9 s: 2 s of checkTimeout, 1 s each for request and upload, 5 s of margin.
SHORT = "checkTimeout: 2s\nsettleWait: 1s\n"
LEASE = 9.0
#: The test notices a death a moment after the lease began, and a replica is given up as silent a while after its
#: last sign of life. Both are far less than the skew. Seconds.
EARLY, LATE = 4.0, 45.0
#: Which one asks or pays first, and which one then: the first is behind, the second is ahead.
WAYS = {"behind-first": (0, 1), "ahead-first": (1, 0)}


@dataclass(slots=True)
class Skewed:
    """Two replicas: the first is behind, the second ahead."""

    gateways: list[gateway_process.GatewayProcess]
    clients: list[barrage.Client]
    bank: Bank
    upstream: barrage.Upstream

    async def quote(self, at: int, case: str) -> str:
        """The `WWW-Authenticate` value of a 402."""
        answer = await self.clients[at].get(f"/shop/thing?case={case}")
        assert answer.status == 402, answer
        return answer.headers["www-authenticate"]

    def transfers(self, www_authenticate: str) -> int:
        """How often money moved for a quote."""
        asked = mpp.Challenge.from_www_authenticate(www_authenticate).id
        return sum(transfer.challenge == asked for transfer in self.bank.transfers())

    async def pay(self, at: int, case: str, credential: str) -> barrage.Answer:
        return await self.clients[at].get(f"/shop/thing?case={case}", credential)


Open = Callable[..., Awaitable[Skewed]]


@pytest.fixture
async def upstream() -> AsyncIterator[barrage.Upstream]:
    async with barrage.serve() as started:
        yield started


@pytest.fixture
async def skewed(
    start_gateway: gateway_process.Start, tmp_path: Path, upstream: barrage.Upstream
) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, config: str = "", expires_in: str = "5m", request: str = "10s") -> Skewed:
            bank = cheap_wallet.bank(tmp_path)
            store = replicas.postgres(await asyncio.to_thread(lambda: ledgers.postgres_server().database()))
            gateways = await asyncio.to_thread(
                replicas.start,
                start_gateway,
                2,
                upstream.port,
                bank,
                store,
                config=config,
                expires_in=expires_in,
                request=request,
                environs=[cheap_wallet.environ(SITE, PYTHON_CLOCK_SKEW=str(seconds)) for seconds in (-SKEW, SKEW)],
            )
            clients = [await stack.enter_async_context(barrage.Client(gateway.url)) for gateway in gateways]
            return Skewed(gateways, clients, bank, upstream)

        yield start


PAYER = cheap_wallet.key("a payer of skewed replicas")


def expiry(www_authenticate: str) -> float:
    """Unix seconds."""
    return datetime.fromisoformat(mpp.Challenge.from_www_authenticate(www_authenticate).expires or "").timestamp()


async def served(ask: Callable[[], Awaitable[barrage.Answer]], limit: float) -> float:
    """Present a credential until it is answered, as a payer does who was told to; the seconds it took."""
    began = time.monotonic()
    while True:
        answer = await ask()
        assert not answer.asked, answer
        if answer.status == 200:
            return time.monotonic() - began
        assert answer.status in (409, 503), answer
        assert time.monotonic() - began < limit, answer
        await asyncio.sleep(0.1)


async def test_a_quote_of_one_replica_is_paid_at_another_whose_clock_is_four_minutes_off(skewed: Open) -> None:
    shop = await skewed()
    for case, (first, second) in WAYS.items():
        asked = await shop.quote(first, case)
        credential = cheap_wallet.sign(asked, PAYER)

        answer = await shop.pay(second, case, credential)

        assert abs(expiry(asked) - time.time() - 300) < 10
        assert (answer.status, answer.receipt) == (200, True)
        again = await shop.pay(first, case, credential)
        assert (again.status, again.asked) == (403, False)
        assert shop.transfers(asked) == len(shop.upstream.hits(case)) == 1


async def test_a_quote_ends_for_all_replicas_when_the_stores_clock_says_so(skewed: Open) -> None:
    shop = await skewed(expires_in="15s")
    early, late = [await shop.quote(at, "early") for at in (0, 1)], [await shop.quote(at, "late") for at in (0, 1)]

    good = [await shop.pay(1 - at, "early", cheap_wallet.sign(early[at], PAYER)) for at in (0, 1)]
    ends = max(map(expiry, late))
    await until(lambda: time.time() > ends + 0.5)
    bad = [await shop.pay(at, "late", cheap_wallet.sign(one, PAYER)) for one in late for at in (0, 1)]

    assert [answer.status for answer in good] == [200, 200], good
    assert [(answer.status, b"payment-expired" in answer.body) for answer in bad] == [(402, True)] * 4
    assert len(shop.bank.transfers()) == 2


async def test_a_retry_at_another_replica_takes_the_credit(skewed: Open) -> None:
    shop = await skewed()
    for case, (first, second) in WAYS.items():
        shop.upstream.fails(case, 500)
        asked = await shop.quote(first, case)
        failed = await shop.pay(first, case, cheap_wallet.sign(asked, PAYER))

        # A client that knows nothing of credits: another 402, another signature.
        again = await shop.quote(second, case)
        answer = await shop.pay(second, case, cheap_wallet.sign(again, PAYER))

        assert (failed.status, "payment-credit" in failed.headers) == (500, True)
        assert (answer.status, answer.receipt) == (200, True)
        assert (shop.transfers(asked), shop.transfers(again)) == (1, 0)
        assert [hit.status for hit in shop.upstream.hits(case)] == [500, 200]


async def test_a_call_that_ran_beside_a_failed_one_at_another_replica_pays_for_itself(skewed: Open) -> None:
    shop = await skewed()
    for case, (first, second) in WAYS.items():
        shop.upstream.fails(case, 500)
        beside = await shop.quote(second, case)
        asked = await shop.quote(first, case)
        await shop.pay(first, case, cheap_wallet.sign(asked, PAYER))

        answer = await shop.pay(second, case, cheap_wallet.sign(beside, PAYER))

        assert (answer.status, answer.receipt) == (200, True)
        assert (shop.transfers(asked), shop.transfers(beside)) == (1, 1)


async def test_no_replica_ends_the_lease_of_a_delivery_that_runs(skewed: Open) -> None:
    shop = await skewed()
    for case, (first, second) in WAYS.items():
        shop.upstream.hold(case)
        asked = await shop.quote(first, case)
        credential = cheap_wallet.sign(asked, PAYER)
        delivering = asyncio.create_task(shop.pay(first, case, credential))
        await until(functools.partial(shop.upstream.began, case))

        meanwhile = await shop.pay(second, case, credential)
        shop.upstream.release(case)

        assert (meanwhile.status, meanwhile.asked) == (409, False)
        assert (await delivering).status == 200
        after = await shop.pay(second, case, credential)
        assert (after.status, after.asked) == (403, False)
        assert len(shop.upstream.hits(case)) == shop.transfers(asked) == 1


@pytest.mark.parametrize(("first", "second"), [pytest.param(*way, id=name) for name, way in WAYS.items()])
async def test_the_lease_of_a_dead_replicas_delivery_ends_at_its_end_and_not_with_the_skew(
    first: int, second: int, skewed: Open
) -> None:
    shop = await skewed(config=SHORT, request="1s")
    shop.upstream.hold("a")
    asked = await shop.quote(first, "a")
    credential = cheap_wallet.sign(asked, PAYER)
    delivering = asyncio.create_task(shop.pay(first, "a", credential))
    await until(functools.partial(shop.upstream.began, "a"))

    shop.gateways[first].process.kill()  # its authz and its Envoy end with it, and nobody reads what it wrote
    assert (await delivering).status == 0
    shop.upstream.release("a")

    taken = await served(lambda: shop.pay(second, "a", credential), LEASE + LATE)
    print(f"served by the other replica {taken:.1f} s after the death; the lease was {LEASE:g} s")
    assert taken > LEASE - EARLY
    assert shop.transfers(asked) == 1
    assert [hit.attempt for hit in shop.upstream.hits("a")] == [1, 2]


async def until(condition: Callable[[], bool], limit: float = 30) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 - what is waited for comes from other tasks
            await asyncio.sleep(0.01)
