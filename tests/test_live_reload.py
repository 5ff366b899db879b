"""Changes under traffic, everything real: a price, services that come and go, edits that are wrong."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import gateway_process
import pytest
import traffic
import upstreams
import wallets
from chain import Chain

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

OLD, NEW = 1000, 1500
#: "New 402s carry the new price within one second of the edit." Seconds.
SOON = 1.0


@pytest.fixture
async def upstream() -> AsyncIterator[upstreams.Upstream]:
    async with upstreams.serve() as started:
        yield started


async def start(
    start_gateway: gateway_process.Start, chain: Chain, services: dict[str, str]
) -> gateway_process.GatewayProcess:
    return await asyncio.to_thread(start_gateway, services, config=traffic.network(chain.rpc_url))


@pytest.mark.row("G09")
async def test_a_price_changes_under_traffic_and_every_quote_is_honoured(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream
) -> None:
    payee = wallets.payee("reload")
    payers = [wallets.funded(chain, f"reload {number}")[1] for number in range(3)]
    gateway = await start(start_gateway, chain, {"shop.yaml": traffic.service(upstream.port, payee, OLD)})

    async with traffic.running(f"{gateway.url}/shop/thing", chain, payers) as load:
        edited = time.monotonic()
        gateway.edit("shop.yaml", traffic.service(upstream.port, payee, NEW))
        await load.until(lambda: any(answer.price == NEW for answer in load.paid))
        await load.for_seconds(1)

    asked_old = max(answer.sent for answer in load.looked if answer.price == OLD) - edited
    asked_new = min(answer.got for answer in load.looked if answer.price == NEW) - edited
    late = [
        answer for answer in load.paid if answer.price == OLD and answer.sent > edited + max(asked_old, asked_new)
    ]
    print(f"first new price after {asked_new:.3f} s, last old price asked for after {asked_old:.3f} s")
    print(f"{len(late)} old quotes paid after the change; {load.figures()}")
    assert load.wrong() == []
    assert late != []
    assert load.rates() > (45, 0)
    assert load.rates()[1] >= 10
    assert max(asked_old, asked_new) < SOON
    assert wallets.balance(chain, payee) == load.revenue()


async def test_of_many_edits_the_last_one_counts_and_no_request_fails(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream
) -> None:
    payee = wallets.payee("many edits")
    _, key = wallets.funded(chain, "many edits")
    gateway = await start(start_gateway, chain, {"shop.yaml": traffic.service(upstream.port, payee, OLD)})

    async with traffic.running(f"{gateway.url}/shop/thing", chain, [key]) as load:
        for change in range(40):
            others = [
                traffic.service(upstream.port, payee, OLD + change, name=f"other-{number}")
                for number in range(change % 5)
            ]
            shop = traffic.service(upstream.port, payee, OLD + change)
            gateway.edit("shop.yaml", "---\n".join([shop, *others]))
            await load.for_seconds(0.04)
        os.unlink(gateway.folder / "shop.yaml")
        await asyncio.to_thread(gateway.said, "shop.yaml: expected a file we can read")
        gateway.edit("shop.yaml", traffic.service(upstream.port, payee, NEW))
        last = await load.asked(NEW)
        await load.until(lambda: any(answer.price == NEW for answer in load.paid))

    prices = sorted({answer.price for answer in load.looked})
    print(f"{len(prices)} prices were asked for; {load.figures()}")
    assert load.wrong() == []
    assert {answer.price for answer in load.looked if answer.sent > last.got} == {NEW}
    assert wallets.balance(chain, payee) == load.revenue()


async def test_services_come_and_go_while_a_paid_stream_runs_to_its_end(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream
) -> None:
    payee = wallets.payee("streams")
    _, key = wallets.funded(chain, "streams")
    shop = traffic.service(upstream.port, payee, OLD)
    gateway = await start(start_gateway, chain, {"shop.yaml": shop})
    stream = f"{gateway.url}/shop/stream"
    credential = await traffic.credential(stream, chain, key)
    async with (
        aiohttp.ClientSession() as http,
        traffic.running(f"{gateway.url}/shop/thing", chain, [key]) as load,
        http.get(stream, headers={"Authorization": credential}) as answer,
    ):
        assert await answer.content.readline() == b"data: started\n"

        other = traffic.service(upstream.port, payee, NEW, name="other")
        gateway.edit("shop.yaml", f"{shop}---\n{other}")
        added = await until_status(f"{gateway.url}/other/thing", 402)
        paid = await traffic.credential(f"{gateway.url}/other/thing", chain, key)
        async with http.get(f"{gateway.url}/other/thing", headers={"Authorization": paid}) as bought:
            assert bought.status == 200
        gateway.edit("shop.yaml", shop)
        removed = await until_status(f"{gateway.url}/other/thing", 404)

        upstream.gate.set()
        rest = await answer.text()

    print(f"served {added:.3f} s after it was added, gone {removed:.3f} s after it was removed; {load.figures()}")
    assert rest.endswith("data: ended\n\n")
    assert load.wrong() == []
    assert wallets.balance(chain, payee) == load.revenue() + OLD + NEW


async def test_a_service_that_is_removed_lets_its_own_stream_end(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream
) -> None:
    payee = wallets.payee("removed")
    _, key = wallets.funded(chain, "removed")
    shop = traffic.service(upstream.port, payee, OLD)
    other = traffic.service(upstream.port, payee, OLD, name="other")
    gateway = await start(start_gateway, chain, {"shop.yaml": f"{shop}---\n{other}"})
    stream = f"{gateway.url}/other/stream"
    credential = await traffic.credential(stream, chain, key)
    async with aiohttp.ClientSession() as http, http.get(stream, headers={"Authorization": credential}) as answer:
        assert await answer.content.readline() == b"data: started\n"

        gateway.edit("shop.yaml", shop)
        await until_status(stream, 404)
        upstream.gate.set()

        assert (await answer.text()).endswith("data: ended\n\n")
    assert wallets.balance(chain, payee) == OLD


async def test_edits_that_are_wrong_are_said_and_traffic_goes_on(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream, tmp_path: Path
) -> None:
    payee = wallets.payee("wrong edits")
    _, key = wallets.funded(chain, "wrong edits")
    secret = tmp_path / "secrets" / "tests" / "upstream" / "key"
    secret.parent.mkdir(parents=True)
    secret.write_text("first\n")
    auth = '", auth: {bearer: {secretRef: {name: upstream, key: key}}}, timeouts'
    shop = traffic.service(upstream.port, payee, OLD).replace('", timeouts', auth)
    gateway = await asyncio.to_thread(
        start_gateway,
        {"shop.yaml": shop},
        config=traffic.network(chain.rpc_url),
        arguments=("--secrets-dir", str(tmp_path / "secrets")),
    )

    async with traffic.running(f"{gateway.url}/shop/thing", chain, [key]) as load:
        wrong = shop.replace(f'"{OLD}"', '"1.5"')
        await refused(
            gateway, lambda: gateway.edit("shop.yaml", wrong), "spec.routes[0].price.baseUnits: expected"
        )
        await refused(gateway, lambda: gateway.edit("shop.yaml", "no: [yaml"), "shop.yaml: expected YAML")
        gateway.edit("shop.yaml", shop)
        await refused(gateway, lambda: secret.write_text(""), "secret tests/upstream key key: expected a value")
        secret.write_text("second\n")
        await load.until(lambda: upstream.last.headers.get("authorization") == "Bearer second")

        since = len(gateway.stderr)
        swap(
            gateway.state_dir / "config", "rds.json", '{"resources": [{"no": "route"}], "version_info": "broken"}'
        )
        words = await asyncio.to_thread(gateway.said, "envoy refused the configuration:", since=since)
        await load.for_seconds(0.5)
        gateway.edit("shop.yaml", shop.replace(f'"{OLD}"', f'"{NEW}"'))
        await load.until(lambda: any(answer.price == NEW for answer in load.paid))

    assert "in config/rds.json, Unable to parse JSON as proto" in words
    assert load.wrong() == []
    assert wallets.balance(chain, payee) == load.revenue()
    assert not any("first" in line or "second" in line for line in gateway.stderr + gateway.stdout)


async def refused(gateway: gateway_process.GatewayProcess, edit: Callable[[], object], text: str) -> None:
    """Make a wrong edit, and wait until it was said that it is wrong and that what was good goes on."""
    since = len(gateway.stderr)
    edit()
    await asyncio.to_thread(gateway.said, text, since=since)
    await asyncio.to_thread(gateway.said, f"still serving revision {gateway.ready['revision']}", since=since)


def swap(folder: Path, name: str, text: str) -> None:
    """Put another generation in place by hand, as the gateway does it, with one file changed."""
    broken = folder / "..999"
    broken.mkdir()
    for file in (folder / "..data").iterdir():
        (broken / file.name).write_text(text if file.name == name else file.read_text())
    (folder / "..new").symlink_to(broken.name)
    (folder / "..new").rename(folder / "..data")


async def until_status(url: str, wanted: int, limit: float = 15) -> float:
    """Wait for a status; the seconds it took."""
    began = time.monotonic()
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(url) as answer:
                found = answer.status
            if found == wanted:
                return time.monotonic() - began
            assert time.monotonic() - began < limit, f"still {found}"
            await asyncio.sleep(0.01)
