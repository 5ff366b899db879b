"""The development chain: found, installed, started, and what stands in front of it."""

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import wallets
from chain import PATH_USD, Chain, rpc

from mpp_operator import sandbox


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_test_accounts_are_funded_and_the_payee_is_empty(chain: Chain) -> None:
    assert wallets.balance(chain, sandbox.account("sponsor")[0]) > 0
    assert wallets.balance(chain, chain.buyer) > 0
    assert wallets.balance(chain, chain.payee) == 0


def test_the_chain_is_what_its_settings_say(chain: Chain) -> None:
    assert int(rpc(chain, "eth_chainId"), 16) == chain.chain_id == chain.network.chain_id
    assert chain.settings() == {
        "method": "tempo",
        "chainId": 31337,
        "rpcUrl": chain.rpc_url,
        "currencies": dict(sandbox.CURRENCIES),
    }
    assert chain.network.rpc_urls == (chain.rpc_url,)


def test_keys_are_in_no_representation(chain: Chain) -> None:
    assert chain.buyer_key not in repr(chain)
    assert chain.sponsor_key not in repr(chain)


def test_block_time_goes_on_without_transactions(chain: Chain) -> None:
    def newest() -> int:
        return int(rpc(chain, "eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    before, limit = newest(), time.monotonic() + 10
    while newest() == before and time.monotonic() < limit:
        time.sleep(0.1)

    assert newest() > before


def test_the_faucet_gives_a_million_of_each_token(chain: Chain) -> None:
    holder = wallets.payee("faucet")

    hashes = rpc(chain, "tempo_fundAddress", holder)

    assert len(hashes) == len(sandbox.CURRENCIES)
    assert [wallets.balance(chain, holder, token) for token in sandbox.CURRENCIES.values()] == [10**12] * 4


@pytest.mark.parametrize(("amount", "status"), [(1, "0x1"), (10**15, "0x0")])
def test_a_simulation_says_whether_the_transfer_would_work(chain: Chain, amount: int, status: str) -> None:
    data = "0xa9059cbb" + "11".zfill(64) + f"{amount:064x}"
    call = {"from": chain.buyer, "to": PATH_USD, "data": data, "type": "0x76"}

    outcome = rpc(chain, "tempo_simulateV1", {"blockStateCalls": [{"calls": [call]}]}, "latest")

    assert outcome["blocks"][0]["calls"][0]["status"] == status


def test_several_calls_are_answered_in_order(chain: Chain) -> None:
    one, two = ({"jsonrpc": "2.0", "id": n, "method": "eth_chainId", "params": ()} for n in (1, 2))

    answers = httpx.post(chain.rpc_url, json=[one, two], trust_env=False).json()

    assert [answer["id"] for answer in answers] == [1, 2]


@pytest.mark.parametrize("content", [b"not JSON", b"7"])
def test_what_is_no_json_rpc_is_refused(chain: Chain, content: bytes) -> None:
    assert httpx.post(chain.rpc_url, content=content, trust_env=False).status_code == 400


def test_what_is_no_post_is_refused(chain: Chain) -> None:
    assert httpx.get(chain.rpc_url, trust_env=False).status_code == 400


async def test_nothing_is_left_of_a_chain_that_ended() -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": ()}
    async with httpx.AsyncClient(trust_env=False) as client:  # keeps its connection open
        async with sandbox.start() as chain:
            await client.post(chain.rpc_url, json=call)

        with pytest.raises(httpx.HTTPError):
            await client.post(chain.rpc_url, json=call)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_anvil_dies_with_its_parent() -> None:
    program = """
import asyncio, os, sys
from mpp_operator import sandbox
async def main():
    async with sandbox.start():
        children = open(f"/proc/self/task/{os.getpid()}/children").read()
        print(children, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        anvil = int(parent.stdout.readline())
    parent.kill()
    parent.wait()

    limit = time.monotonic() + 10
    while alive(anvil) and time.monotonic() < limit:
        time.sleep(0.05)

    assert not alive(anvil)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- finding and installing ----------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MPP_GATEWAY_ANVIL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


async def test_a_named_anvil_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    named = script(tmp_path / "anvil", "")
    monkeypatch.setenv("MPP_GATEWAY_ANVIL", str(named))

    assert await sandbox.find_anvil(said.append) == named


async def test_a_named_anvil_that_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setenv("MPP_GATEWAY_ANVIL", str(tmp_path / "nothing"))

    with pytest.raises(sandbox.SandboxError, match="MPP_GATEWAY_ANVIL: expected an executable file"):
        await sandbox.find_anvil(said.append)


async def test_without_npm_the_error_names_the_fix(empty_cache: Path, said: list[str]) -> None:
    with pytest.raises(sandbox.SandboxError, match=r"install Node\.js"):
        await sandbox.find_anvil(said.append)


INSTALLS = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1])
binary = folder / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
binary.parent.mkdir(parents=True)
binary.write_text(sys.argv[-1])
"""


async def test_anvil_is_installed_once_at_its_exact_version(empty_cache: Path, said: list[str]) -> None:
    npm = script(empty_cache / "bin" / "npm", INSTALLS)

    first = await sandbox.find_anvil(said.append)
    npm.unlink()
    second = await sandbox.find_anvil(said.append)

    assert first == second
    assert first.read_text() == "@foundry-rs/anvil@1.7.1"
    assert [path.name for path in (empty_cache / "cache" / "mpp-gateway").iterdir()] == ["anvil-1.7.1"]


async def test_two_installations_at_once_do_not_disturb_each_other(empty_cache: Path, said: list[str]) -> None:
    script(empty_cache / "bin" / "npm", INSTALLS)

    found = await asyncio.gather(*(sandbox.find_anvil(said.append) for _ in range(3)))

    assert len(set(found)) == 1
    assert [path.name for path in (empty_cache / "cache" / "mpp-gateway").iterdir()] == ["anvil-1.7.1"]


async def test_an_installation_that_takes_long_says_so(empty_cache: Path, said: list[str]) -> None:
    script(empty_cache / "bin" / "npm", "import time\ntime.sleep(1.3)\n" + INSTALLS)

    await sandbox.find_anvil(said.append)

    assert said == ["installing anvil 1.7.1 from npm, once ..."]


async def test_an_installation_that_fails_shows_npm_s_last_words(empty_cache: Path, said: list[str]) -> None:
    script(empty_cache / "bin" / "npm", "import sys\nprint('npm error E404 no such package')\nsys.exit(1)")

    with pytest.raises(sandbox.SandboxError, match="E404 no such package"):
        await sandbox.find_anvil(said.append)
    assert list((empty_cache / "cache" / "mpp-gateway").iterdir()) == []


async def test_a_machine_without_a_binary_is_told_what_to_do(empty_cache: Path, said: list[str]) -> None:
    script(empty_cache / "bin" / "npm", INSTALLS.replace("binary.write_text", "str"))

    with pytest.raises(sandbox.SandboxError, match="name it in MPP_GATEWAY_ANVIL"):
        await sandbox.find_anvil(said.append)


async def test_a_cache_that_cannot_be_written_is_an_error(empty_cache: Path, said: list[str]) -> None:
    script(empty_cache / "bin" / "npm", INSTALLS)
    (empty_cache / "cache").write_text("a file")

    with pytest.raises(sandbox.SandboxError, match="set XDG_CACHE_HOME"):
        await sandbox.find_anvil(said.append)


async def test_an_anvil_that_does_not_start_shows_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = script(tmp_path / "anvil", "import sys\nprint('address in use')\nsys.exit(3)")
    monkeypatch.setenv("MPP_GATEWAY_ANVIL", str(broken))

    with pytest.raises(sandbox.SandboxError, match=r"exit code 3\): address in use"):
        async with sandbox.start():
            pass


def test_the_cache_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sandbox.cache_dir() == tmp_path / "mpp-gateway" / "anvil-1.7.1"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sandbox.cache_dir().is_relative_to(Path(os.environ["HOME"]))
