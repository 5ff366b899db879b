"""Death in the worst moments, everything real: authz, Envoy and the gateway itself are killed with SIGKILL."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import aiohttp
import gateway_process
import held_rpc
import pytest
import traffic
import upstreams
import wallets
from chain import Chain

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

PRICE = 1000
#: A payer is told soon that nobody knows.
IMPATIENT = "settleWait: 1s\n"
SPONSORED = ", modes: [pull], feePayer: {secretRef: {name: sponsor, key: key}, minBalance: '0.000001'}"


@pytest.fixture
async def upstream() -> AsyncIterator[upstreams.Upstream]:
    async with upstreams.serve() as started:
        yield started


@pytest.fixture
async def node(chain: Chain) -> AsyncIterator[held_rpc.Node]:
    async with held_rpc.serve(chain.rpc_url) as started:
        yield started


@pytest.fixture
def secrets_dir(tmp_path: Path, chain: Chain) -> Path:
    """With the key of a fee payer."""
    key = tmp_path / "secrets" / "tests" / "sponsor" / "key"
    key.parent.mkdir(parents=True)
    key.write_text(chain.sponsor_key)
    return tmp_path / "secrets"


@dataclass(frozen=True, slots=True)
class Shop:
    """A gateway on the held node, and who pays whom there."""

    gateway: gateway_process.GatewayProcess
    payee: str
    key: str

    def url(self, path: str = "/shop/thing") -> str:
        return self.gateway.url + path


class Open(Protocol):
    async def __call__(
        self, name: str, offer: str = "", *, config: str = "", state_dir: Path | None = None
    ) -> Shop: ...


@pytest.fixture
def shop(
    start_gateway: gateway_process.Start,
    chain: Chain,
    node: held_rpc.Node,
    upstream: upstreams.Upstream,
    secrets_dir: Path,
) -> Open:
    """Opens shops, each with a payee and a payer of its own."""

    async def start(name: str, offer: str = "", *, config: str = "", state_dir: Path | None = None) -> Shop:
        payee, (_, key) = wallets.payee(name), wallets.funded(chain, name)
        gateway = await asyncio.to_thread(
            start_gateway,
            {"shop.yaml": traffic.service(upstream.port, payee, PRICE, offer=offer)},
            config=traffic.network(node.url) + config,
            arguments=("--secrets-dir", str(secrets_dir)),
            state_dir=state_dir,
        )
        return Shop(gateway, payee, key)

    return start


@pytest.mark.parametrize(
    ("offer", "method", "where"),
    [
        pytest.param("", held_rpc.SEND, "before", id="pull, before the broadcast"),
        pytest.param("", held_rpc.SEND, "after", id="pull, after the broadcast"),
        pytest.param(SPONSORED, "tempo_simulateV1", "after", id="sponsored, claimed and not yet co-signed"),
        pytest.param(SPONSORED, held_rpc.SEND, "before", id="sponsored, before the broadcast"),
        pytest.param(SPONSORED, held_rpc.SEND, "after", id="sponsored, after the broadcast"),
    ],
)
@pytest.mark.row("G06")
async def test_authz_dies_while_it_settles_and_the_same_credential_is_served_once(
    offer: str,
    method: str,
    where: Literal["before", "after"],
    shop: Open,
    chain: Chain,
    node: held_rpc.Node,
    upstream: upstreams.Upstream,
) -> None:
    place = await shop(f"kill {offer} {method} {where}", offer)
    credential = await traffic.credential(place.url(), chain, place.key)
    node.hold = (method, where)
    asking = asyncio.create_task(traffic.until_served(place.url(), credential))
    await asyncio.wait_for(node.held.wait(), 20)

    os.kill(place.gateway.ready["authzPid"], signal.SIGKILL)
    killed = time.monotonic()
    _, statuses = await asking

    print(f"answered {time.monotonic() - killed:.2f} s after the kill, statuses {statuses}")
    node.release.set()  # what was on its way when it died gets there, too
    assert wallets.balance(chain, place.payee) == PRICE
    assert len(upstream.hits) == 1
    status, headers, _ = await traffic.present(place.url(), credential)
    assert (status, "www-authenticate" in headers) == (403, False)


@pytest.mark.row("G06", "G12")
async def test_a_lost_answer_of_the_chain_is_503_and_the_same_credential_is_served(
    shop: Open, chain: Chain, node: held_rpc.Node, upstream: upstreams.Upstream
) -> None:
    place = await shop("lost answer", config=IMPATIENT)
    credential = await traffic.credential(place.url(), chain, place.key)
    node.lose_answer = True

    status, headers, text = await traffic.present(place.url(), credential)

    assert (status, "www-authenticate" in headers, "retry-after" in headers) == (503, False, True)
    assert "Present the same credential again; do not pay again." in text
    node.lose_answer = node.deaf = False
    seconds, statuses = await traffic.until_served(place.url(), credential)
    print(f"served {seconds:.2f} s after the chain could be asked again, statuses {statuses}")
    assert wallets.balance(chain, place.payee) == PRICE
    assert (len(node.sent), len(upstream.hits)) == (1, 1)


async def test_a_payment_whose_node_went_silent_is_found_through_the_network_as_it_is_now(
    shop: Open, chain: Chain, node: held_rpc.Node
) -> None:
    place = await shop("moved", config=IMPATIENT)
    credential = await traffic.credential(place.url(), chain, place.key)
    node.lose_answer = True
    assert (await traffic.present(place.url(), credential))[0] == 503

    place.gateway.edit("gateway.yaml", traffic.network(chain.rpc_url) + IMPATIENT)

    await traffic.until_served(place.url(), credential)
    assert wallets.balance(chain, place.payee) == PRICE


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
@pytest.mark.parametrize("path", ["/shop/big?size=50000000", "/shop/stream"], ids=["a body", "a stream"])
async def test_envoy_ends_in_the_middle_of_an_answer_and_the_same_credential_gets_it_whole(
    path: str, end: signal.Signals, shop: Open, chain: Chain, upstream: upstreams.Upstream
) -> None:
    place = await shop(f"envoy {path} {end.name}")
    url = place.url(path)
    credential = await traffic.credential(url, chain, place.key)
    async with (
        aiohttp.ClientSession() as http,
        http.get(url, headers={"Authorization": credential}) as answer,
    ):
        assert (answer.status, bool(await answer.content.readany())) == (200, True)

        os.kill(place.gateway.ready["envoyPid"], end)
        killed = time.monotonic()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()

    upstream.gate.set()
    _, statuses = await traffic.until_served(url, credential)
    print(f"served {time.monotonic() - killed:.2f} s after the kill, statuses {sorted(set(statuses))}")
    assert wallets.balance(chain, place.payee) == PRICE
    assert len(upstream.hits) == 2
    status, headers, _ = await traffic.present(url, credential)
    assert (status, "www-authenticate" in headers) == (403, False)


async def test_the_gateway_dies_and_another_one_on_its_state_serves_what_it_owed(
    shop: Open, chain: Chain, upstream: upstreams.Upstream
) -> None:
    place = await shop("gateway")
    failing, waiting = "/shop/status?code=500", "/shop/gate"
    owed = await traffic.credential(place.url(failing), chain, place.key)
    cut = await traffic.credential(place.url(waiting), chain, place.key)
    status, headers, _ = await traffic.present(place.url(failing), owed)
    assert (status, "payment-credit" in headers) == (500, True)
    asking = asyncio.create_task(traffic.present(place.url(waiting), cut))
    await traffic.until_hit(upstream, 2)

    place.gateway.process.kill()
    gone = await traffic.until_gone(place.gateway.ready["envoyPid"], place.gateway.ready["authzPid"])
    assert (await asking)[0] == 0
    began = time.monotonic()
    again = await shop("gateway", state_dir=place.gateway.state_dir)
    ready = time.monotonic() - began

    upstream.gate.set()
    seconds, statuses = await traffic.until_served(again.url(waiting), cut)
    print(f"children gone after {gone:.2f} s, ready after {ready:.2f} s, served after {seconds:.2f} s, {statuses}")
    status, headers, _ = await traffic.present(again.url(failing), owed)
    assert (status, "payment-credit" in headers, len(upstream.hits)) == (500, True, 4)
    assert wallets.balance(chain, place.payee) == 2 * PRICE


async def test_the_gateway_dies_while_it_settles_and_another_one_on_its_state_ends_it(
    shop: Open, chain: Chain, node: held_rpc.Node, upstream: upstreams.Upstream
) -> None:
    place = await shop("gateway settles")
    credential = await traffic.credential(place.url(), chain, place.key)
    node.hold = (held_rpc.SEND, "before")
    asking = asyncio.create_task(traffic.present(place.url(), credential))
    await asyncio.wait_for(node.held.wait(), 20)

    place.gateway.process.kill()
    gone = await traffic.until_gone(place.gateway.ready["envoyPid"], place.gateway.ready["authzPid"])
    assert (await asking)[0] == 0
    again = await shop("gateway settles", state_dir=place.gateway.state_dir)

    _, statuses = await traffic.until_served(again.url(), credential)
    print(f"children gone after {gone:.2f} s, statuses {statuses}")
    node.release.set()
    assert gone < 5
    assert (wallets.balance(chain, place.payee), len(upstream.hits)) == (PRICE, 1)
