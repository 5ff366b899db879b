"""`mpp-gateway run` on a PostgreSQL: several gateways that are one, and what is said when it cannot be used.

Real: each gateway with its Envoy and authz, PostgreSQL with passwords, and where money moves the chain.
"""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import gateway_process
import httpx
import ledgers
import postgres
import pytest
import traffic
import upstreams
import wallets
from chain import Chain

pytestmark = [pytest.mark.data_plane, pytest.mark.store, pytest.mark.timeout(180)]

PRICE = 1000
#: Where the address is: in the environment of `run` alone.
STORE = "store: {postgres: {urlFrom: {name: ledger, key: url}}}\n"
#: A chain that nobody asks: no money moves where this is used.
NO_CHAIN = traffic.network("http://127.0.0.1:9")
PAYEE = "0x" + "70" * 20


@pytest.fixture
async def upstream() -> AsyncIterator[upstreams.Upstream]:
    async with upstreams.serve() as started:
        yield started


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """One of our own, to be stopped and started."""
    ledgers.needs_postgres()
    with postgres.running("fsync=off") as running:
        yield running


def environ(address: str) -> dict[str, str]:
    return {"LEDGER_URL": address, "MPP_SECRET_KEY": "the key of all replicas, of 32 bytes or more"}


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def payments(gateway: gateway_process.GatewayProcess, *arguments: str) -> Any:
    """What `mpp-gateway payments --json` says of a gateway's ledger."""
    found = subprocess.run(
        [
            *(sys.executable, "-m", "mpp_operator.cli", "payments", "--json"),
            *("--state-dir", str(gateway.state_dir), *arguments),
        ],
        capture_output=True,
        text=True,
        env=gateway_process.clean_environ(),
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.payments
async def test_two_gateways_on_one_postgres_with_one_key_are_one_gateway(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream
) -> None:
    address = await asyncio.to_thread(lambda: ledgers.postgres_server().database())
    payee = wallets.payee("two gateways")
    _, key = wallets.funded(chain, "two gateways")
    services = {"shop.yaml": traffic.service(upstream.port, payee, PRICE)}
    config = traffic.network(chain.rpc_url) + STORE
    # Started together: both find an empty database, one makes its tables.
    gateways = [start_gateway(services, config=config, environ=environ(address), wait=False) for _ in range(2)]
    for gateway in gateways:
        await asyncio.to_thread(gateway_process.wait_until_ready, gateway)
    here, there = (f"{gateway.url}/shop/thing" for gateway in gateways)

    credential = await traffic.credential(here, chain, key)
    paid = await traffic.present(there, credential)
    again = await traffic.present(here, credential)

    assert (paid[0], "payment-receipt" in paid[1]) == (200, True)
    assert (again[0], "www-authenticate" in again[1], "payment-receipt" in again[1]) == (403, False, False)
    assert len(upstream.hits) == 1
    assert wallets.balance(chain, payee) == PRICE
    deadline = time.monotonic() + 20
    for gateway in gateways:  # the access log's news may still be on its way
        while [row["state"] for row in (await asyncio.to_thread(payments, gateway))["payments"]] != ["DELIVERED"]:
            assert time.monotonic() < deadline
    ids = {(await asyncio.to_thread(payments, gateway))["payments"][0]["id"] for gateway in gateways}
    assert len(ids) == 1


def test_a_database_s_password_is_in_one_file_that_only_its_owner_reads(
    start_gateway: gateway_process.Start,
) -> None:
    address = ledgers.postgres_server().database()
    password = postgres.PASSWORD.rpartition("/")[2]  # what is the same where it is percent-encoded and where not

    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)}, config=NO_CHAIN + STORE, environ=environ(address)
    )

    holding = [
        path
        for path in gateway.state_dir.rglob("*")
        if path.is_file() and not path.is_symlink() and password.encode() in path.read_bytes()
    ]
    assert [path.name for path in holding] == ["ledger.url"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    line = command_line(gateway.ready["authzPid"])
    assert line[line.index("--ledger") + 1] == f"file:{gateway.state_dir}/secrets/ledger.url"
    for pid in (gateway.ready["authzPid"], gateway.ready["envoyPid"]):
        assert not any(password in word for word in command_line(pid))
        assert password.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert not any(password in said for said in gateway.stdout + gateway.stderr)


def test_each_replica_has_a_slot_of_its_own_and_keeps_it(start_gateway: gateway_process.Start) -> None:
    services = {"shop.yaml": traffic.service(9, PAYEE, PRICE)}

    def slot(gateway: gateway_process.GatewayProcess) -> str:
        line = command_line(gateway.ready["authzPid"])
        return line[line.index("--slot") + 1]

    first, second = (start_gateway(services, config=NO_CHAIN) for _ in range(2))
    slots = slot(first), slot(second)
    first.stop()
    again = start_gateway(services, config=NO_CHAIN, state_dir=first.state_dir)

    assert slots[0] != slots[1]
    assert all(re.fullmatch(r"authz-[0-9a-f]{16}", name) for name in slots)
    assert slot(again) == slots[0]


def refused(address: str) -> tuple[str, str]:
    return address.replace(address.split("@")[1].split("/")[0], "127.0.0.1:1"), "no connection"


def wrong_password(address: str) -> tuple[str, str]:
    password = address.split(":")[2].split("@")[0]
    return address.replace(password, f"not-{password}"), "the server refused user or password"


def newer(address: str) -> tuple[str, str]:
    database = address.rpartition("/")[2]
    ledgers.postgres_server().admin(
        "CREATE SCHEMA mpp_gateway",
        "CREATE TABLE mpp_gateway.migrations (version BIGINT, applied_at BIGINT)",
        "INSERT INTO mpp_gateway.migrations VALUES (1000, 0)",
        "GRANT ALL ON SCHEMA mpp_gateway TO gateway",
        "GRANT ALL ON ALL TABLES IN SCHEMA mpp_gateway TO gateway",
        database=database,
    )
    return address, "a newer mpp-gateway wrote it"


@pytest.mark.parametrize("spoil", [refused, wrong_password, newer], ids=lambda spoil: spoil.__name__)
def test_a_database_that_cannot_be_used_is_said_in_one_sentence(
    start_gateway: gateway_process.Start, spoil: Any
) -> None:
    address, expected = spoil(ledgers.postgres_server().database())

    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        environ=environ(address),
        wait=False,
    )

    assert gateway.process.wait(60) == 3
    line = gateway.said("error:")
    told = [said for said in gateway.stderr if "ledger" in said]
    assert told == [line]
    assert line.startswith("error: authz cannot start: ledger postgresql://127.0.0.1:")
    assert expected in line
    assert not any("Traceback" in said or "s3cret" in said for said in gateway.stderr)
    assert gateway.stdout == []


def test_a_database_that_hangs_ends_the_start_soon(
    start_gateway: gateway_process.Start, server: postgres.Server
) -> None:
    address = server.database()
    server.pause()

    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        environ=environ(address),
        wait=False,
    )

    assert gateway.process.wait(25) == 3
    assert "the server did not answer in time" in gateway.said("error: authz cannot start: ledger postgresql://")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LEDGER_URL": "mysql://root:s3cret@db/x"}, "expected one line like postgresql://"),
        ({}, "expected a value in <--secrets-dir>/default/ledger/url or in the environment as LEDGER_URL"),
    ],
)
def test_an_address_that_is_none_is_said_before_anything_starts(
    start_gateway: gateway_process.Start, variables: Mapping[str, str], expected: str
) -> None:
    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)}, config=NO_CHAIN + STORE, environ=variables, wait=False
    )

    assert gateway.process.wait(30) == 3
    line = gateway.said("secret default/ledger key url:")
    assert expected in line
    assert "s3cret" not in "".join(gateway.stderr)


def test_a_changed_address_waits_for_the_next_start_and_that_is_said(
    start_gateway: gateway_process.Start, tmp_path: Path
) -> None:
    before, after = (ledgers.postgres_server().database() for _ in range(2))
    secret = tmp_path / "secrets" / "default" / "ledger" / "url"
    secret.parent.mkdir(parents=True)
    secret.write_text(before)
    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        arguments=("--secrets-dir", str(tmp_path / "secrets")),
    )

    secret.write_text(after)
    gateway.said("another store, or address of it, takes effect at the next start")
    gateway.edit("shop.yaml", traffic.service(9, PAYEE, PRICE + 1))
    gateway.printed("ready", since=1)

    assert (gateway.state_dir / "secrets" / "ledger.url").read_text().strip() == before
    assert sum("takes effect at the next start" in said for said in gateway.stderr) == 1
    assert gateway.stop() == 0
    again = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        arguments=("--secrets-dir", str(tmp_path / "secrets")),
        state_dir=gateway.state_dir,
    )
    assert (again.state_dir / "secrets" / "ledger.url").read_text().strip() == after


@pytest.mark.payments
async def test_a_gateway_that_loses_its_database_refuses_payments_and_takes_them_when_it_is_back(
    start_gateway: gateway_process.Start, chain: Chain, upstream: upstreams.Upstream, server: postgres.Server
) -> None:
    payee = wallets.payee("database lost")
    _, key = wallets.funded(chain, "database lost")
    gateway = await asyncio.to_thread(
        start_gateway,
        {"shop.yaml": traffic.service(upstream.port, payee, PRICE)},
        config=traffic.network(chain.rpc_url) + STORE,
        environ=environ(await asyncio.to_thread(server.database)),
    )
    url = f"{gateway.url}/shop/thing"
    credential = await traffic.credential(url, chain, key)

    await asyncio.to_thread(server.stop)
    status, headers, _ = await traffic.present(url, credential)

    assert (status, "www-authenticate" in headers, "retry-after" in headers) == (503, False, True)
    assert wallets.balance(chain, payee) == 0
    assert upstream.hits == []

    await asyncio.to_thread(server.start)
    await traffic.until_served(url, credential)

    assert wallets.balance(chain, payee) == PRICE
    assert traffic.alive(gateway.ready["authzPid"])
    assert not any("died" in said for said in gateway.stderr)


def test_an_authz_that_dies_while_the_database_is_gone_is_started_until_it_is_back(
    start_gateway: gateway_process.Start, server: postgres.Server
) -> None:
    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        environ=environ(server.database()),
    )
    server.stop()

    os.kill(gateway.ready["authzPid"], signal.SIGKILL)

    gateway.said("authz ended at start (exit code 3)")
    server.start()
    gateway.said("authz serves again", limit=60)
    assert gateway.process.poll() is None


def test_payments_names_the_database_that_is_gone_and_not_its_password(
    start_gateway: gateway_process.Start, server: postgres.Server
) -> None:
    gateway = start_gateway(
        {"shop.yaml": traffic.service(9, PAYEE, PRICE)},
        config=NO_CHAIN + STORE,
        environ=environ(server.database()),
    )
    assert httpx.get(f"{gateway.url}/shop/thing", trust_env=False).status_code == 402
    server.stop()

    found = subprocess.run(
        [sys.executable, "-m", "mpp_operator.cli", "payments", "--state-dir", str(gateway.state_dir)],
        capture_output=True,
        text=True,
        env=gateway_process.clean_environ(),
        timeout=60,
    )

    assert found.returncode == 3
    assert f"ledger postgresql://127.0.0.1:{server.port}/" in found.stderr
    assert "Traceback" not in found.stderr
    assert "s3cret" not in found.stderr
    os.kill(gateway.ready["authzPid"], 0)  # and the gateway did not mind
