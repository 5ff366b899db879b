"""A local development chain: anvil in Tempo mode, with funded test accounts. Knows no services, no Envoy.

    async with sandbox.start() as chain:
        chain.rpc_url, chain.buyer_key, chain.payee

anvil comes from npm, once, into the cache folder. Three gaps between anvil 1.7.1 and a Tempo node are filled by
a small JSON-RPC server in front of it. Everything listens on loopback and is gone when the context ends.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from eth_account import Account
from eth_hash.auto import keccak

from mpp_authz import pricing
from mpp_operator import networks, processes

ANVIL_VERSION: Final = "1.7.1"
#: The default hardfork, T0, knows no expiring nonces.
HARDFORK: Final = "T4"
CHAIN_ID: Final = networks.CHAIN_IDS[networks.LOCALNET]
#: Hardfork T4 includes no transaction that is valid for longer than 30 s; pympp signs until the challenge expires.
LONGEST_CHALLENGE: Final = 25  # seconds

#: TIP-20 tokens of the development chain, all of 6 decimals.
CURRENCIES: Final[Mapping[str, str]] = {
    name: f"0x20c0{position:036x}" for position, name in enumerate(("pathUSD", "AlphaUSD", "BetaUSD", "ThetaUSD"))
}
#: What an account gets from the faucet: a million of each token.
FAUCET: Final = 10**12

_START_LIMIT: Final = 30.0  # seconds
_INSTALL_LIMIT: Final = 300.0
_ANSWER_LIMIT: Final = 60.0
_TREASURY: Final = "0xa0ee7a142d267c1f36714e4a8f75612f20a79720"  # anvil's own development account 9
_LISTENING: Final = re.compile(rb"Listening on 127\.0\.0\.1:(\d+)")
_MAX_BODY: Final = 4 << 20


class SandboxError(Exception):
    """The environment cannot run a development chain. The message names the fix."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A running development chain. Keys are worth nothing elsewhere; anybody can compute them."""

    rpc_url: str
    chain_id: int
    buyer: str
    buyer_key: str = field(repr=False)
    sponsor: str = ""
    sponsor_key: str = field(default="", repr=False)
    payee: str = ""

    @property
    def network(self) -> pricing.Network:
        """As the pricing file has it."""
        return pricing.Network(networks.LOCALNET, "tempo", self.chain_id, (self.rpc_url,))

    def settings(self) -> dict[str, Any]:
        """The entry `localnet` of `networks` in gateway.yaml."""
        return {
            "method": "tempo",
            "chainId": self.chain_id,
            "rpcUrl": self.rpc_url,
            "currencies": dict(CURRENCIES),
        }


def account(name: str) -> tuple[str, str]:
    """Address and key of a test account, the same on every machine."""
    key = "0x" + keccak(f"mpp-gateway sandbox {name}".encode()).hex()
    return Account.from_key(key).address, key


@contextlib.asynccontextmanager
async def start(say: Callable[[str], None] | None = None, *, chain_id: int = CHAIN_ID) -> AsyncIterator[Chain]:
    """Run a fresh chain for as long as the context lasts.

    Raises:
        SandboxError: npm or anvil is missing, cannot be installed, or does not start.
    """
    say = say or _say
    binary = await find_anvil(say)
    command = processes.Command(
        (
            str(binary), "--network", "tempo", "--hardfork", HARDFORK, "--chain-id", str(chain_id),
            "--host", "127.0.0.1", "--port", "0",
        ),
        {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "TMPDIR")},
        Path(tempfile.gettempdir()),
    )  # fmt: skip
    process = await processes.spawn(command)
    try:
        upstream = await _listening(process, binary)
        async with contextlib.AsyncExitStack() as stack:
            drain = asyncio.create_task(_drain(process))
            stack.push_async_callback(_cancel, drain)
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=_ANSWER_LIMIT, trust_env=False))
            shim = _Shim(http, upstream)
            server = await asyncio.start_server(shim.serve, "127.0.0.1", 0, limit=1 << 16)
            stack.push_async_callback(shim.aclose, server)
            clock = asyncio.create_task(_mine(http, upstream))
            stack.push_async_callback(_cancel, clock)
            chain = _chain(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", chain_id)
            for holder in (chain.buyer, chain.sponsor):
                await shim.fund(holder)
            yield chain
    finally:
        await _end(process)


def _chain(rpc_url: str, chain_id: int) -> Chain:
    buyer, buyer_key = account("buyer")
    sponsor, sponsor_key = account("sponsor")
    return Chain(rpc_url, chain_id, buyer, buyer_key, sponsor, sponsor_key, account("payee")[0])


# --- anvil ---------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Where anvil is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mpp-gateway" / f"anvil-{ANVIL_VERSION}"


async def find_anvil(say: Callable[[str], None]) -> Path:
    """The anvil binary; installs it where it is missing.

    Raises:
        SandboxError: it cannot be had.
    """
    named = os.environ.get("MPP_GATEWAY_ANVIL")
    if named is not None:
        if not os.access(named, os.X_OK):
            raise SandboxError(
                f"MPP_GATEWAY_ANVIL: expected an executable file, got {named!r}; "
                "unset it to have anvil installed from npm"
            )
        return Path(named)
    target = cache_dir()
    found = _binary(target)
    if found is None:
        await _install(target, say)
        found = _binary(target)
    if found is None:
        raise SandboxError(
            f"sandbox: @foundry-rs/anvil {ANVIL_VERSION} has no binary for this machine; "
            "install anvil yourself and name it in MPP_GATEWAY_ANVIL"
        )
    return found


def _binary(folder: Path) -> Path | None:
    found = sorted(folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))
    return found[0] if found else None


async def _install(target: Path, say: Callable[[str], None]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SandboxError(
            "sandbox: anvil is not installed and npm is missing; install Node.js (with npm), "
            "or name an anvil binary in MPP_GATEWAY_ANVIL"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder of our own, then one rename: somebody else may be installing at the same time.
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    except OSError as error:
        raise SandboxError(
            f"sandbox: cannot write to the cache folder ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    try:
        await _npm(npm, partial, say)
        with contextlib.suppress(OSError):  # somebody was faster: theirs is as good
            partial.rename(target)  # noqa: ASYNC240 - one rename
    finally:
        shutil.rmtree(partial, ignore_errors=True)


async def _npm(npm: str, folder: Path, say: Callable[[str], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts",
        f"@foundry-rs/anvil@{ANVIL_VERSION}",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    notice = asyncio.create_task(_after(1.0, lambda: say(f"installing anvil {ANVIL_VERSION} from npm, once ...")))
    try:
        async with asyncio.timeout(_INSTALL_LIMIT):
            output, _ = await process.communicate()
    except TimeoutError:
        raise SandboxError(f"sandbox: npm did not install anvil within {_INSTALL_LIMIT:g} s; try again") from None
    finally:
        await _cancel(notice)
        await _end(process)
    if process.returncode != 0:
        last = output.decode(errors="replace").strip().splitlines()[-3:]
        raise SandboxError(
            f"sandbox: npm could not install @foundry-rs/anvil {ANVIL_VERSION} "
            f"({processes.describe(process.returncode or 0)}): {' | '.join(last)}; check npm's registry settings"
        )


async def _listening(process: asyncio.subprocess.Process, binary: Path) -> str:
    """The URL anvil listens on, as it prints it."""
    assert process.stdout is not None  # noqa: S101 - spawn makes it a pipe
    lines: list[bytes] = []
    try:
        async with asyncio.timeout(_START_LIMIT):
            async for line in process.stdout:
                lines.append(line)
                match = _LISTENING.search(line)
                if match:
                    return f"http://127.0.0.1:{int(match[1])}"
    except TimeoutError:
        raise SandboxError(f"sandbox: anvil did not listen within {_START_LIMIT:g} s") from None
    code = await process.wait()
    last = b"".join(lines[-3:]).decode(errors="replace").strip()
    raise SandboxError(
        f"sandbox: {binary.name} ended at start ({processes.describe(code)}): {last}; "
        "remove its folder from the cache to have it installed again"
    )


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read what anvil prints, or it stops when the pipe is full."""
    assert process.stdout is not None  # noqa: S101
    while await process.stdout.read(1 << 16):
        pass


async def _mine(http: httpx.AsyncClient, upstream: str) -> None:
    """One empty block a second: block time goes on without transactions, so that payments can expire."""
    while True:
        await asyncio.sleep(1.0)
        with contextlib.suppress(httpx.HTTPError):
            await http.post(upstream, json={"jsonrpc": "2.0", "id": 1, "method": "evm_mine", "params": []})


# --- the JSON-RPC server in front ----------------------------------------------------------------------


class _Shim:
    """Speaks HTTP/1.1 to clients, forwards JSON-RPC to anvil, and answers itself what anvil cannot."""

    def __init__(self, http: httpx.AsyncClient, upstream: str) -> None:
        self._http = http
        self._upstream = upstream
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - start_server runs us in one
        self._clients.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client went away, or we do
        finally:
            self._clients.discard(task)
            writer.close()

    async def aclose(self, server: asyncio.Server) -> None:
        server.close()
        for task in tuple(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(tuple(self._clients))
        await server.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. False: the connection ends here."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        length = headers.get("content-length", "")
        if not lines[0].startswith("POST ") or not length.isdigit() or int(length) > _MAX_BODY:
            _write(writer, "400 Bad Request", b'{"error":"expected POST with Content-Length"}', close=True)
            return False
        body = await reader.readexactly(int(length))
        try:
            answer = await self._answer(json.loads(body))
        except (ValueError, TypeError, AttributeError, IndexError):
            _write(writer, "400 Bad Request", b'{"error":"expected JSON-RPC"}', close=True)
            return False
        except httpx.HTTPError as error:
            _write(writer, "502 Bad Gateway", json.dumps({"error": type(error).__name__}).encode())
            await writer.drain()
            return True
        _write(writer, "200 OK", json.dumps(answer).encode())
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _answer(self, message: Any) -> Any:
        if isinstance(message, list):
            return [await self._one(entry) for entry in message]
        return await self._one(message)

    async def _one(self, call: dict[str, Any]) -> Any:
        match call.get("method"):
            case "eth_sendRawTransactionSync":  # anvil takes no timeout (EIP-7966's second parameter)
                return await self._forward({**call, "params": call["params"][:1]})
            case "tempo_simulateV1":
                return await self._simulate(call)
            case "tempo_fundAddress":
                return {"jsonrpc": "2.0", "id": call.get("id"), "result": await self.fund(call["params"][0])}
            case _:
                return await self._forward(call)

    async def _forward(self, call: dict[str, Any]) -> Any:
        return (await self._http.post(self._upstream, json=call)).json()

    async def _simulate(self, call: dict[str, Any]) -> Any:
        """Try each call on its own: anvil has no tempo_simulateV1, and its eth_simulateV1 aborts anvil when it
        meets a Tempo transaction."""
        results = []
        for transaction in call["params"][0]["blockStateCalls"][0]["calls"]:
            legs = [*transaction.get("calls", ()), transaction]
            trouble = None
            for leg in legs:
                question = {"from": transaction["from"], "to": leg["to"], "data": leg["data"]}
                answer = await self._forward(
                    {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [question, "latest"]}
                )
                trouble = trouble or answer.get("error")
            results.append({"status": "0x0", "error": trouble} if trouble else {"status": "0x1"})
        return {"jsonrpc": "2.0", "id": call.get("id"), "result": {"blocks": [{"calls": results}]}}

    async def fund(self, holder: str) -> list[str]:
        """The faucet: a million of each token, and the transactions' hashes."""
        hashes = []
        for token in CURRENCIES.values():
            data = "0xa9059cbb" + holder.removeprefix("0x").lower().zfill(64) + f"{FAUCET:064x}"
            transaction = {"from": _TREASURY, "to": token, "data": data, "gas": "0x100000"}
            answer = await self._forward(
                {"jsonrpc": "2.0", "id": 1, "method": "eth_sendTransaction", "params": [transaction]}
            )
            if "result" not in answer:
                raise SandboxError(f"sandbox: the faucet failed: {answer.get('error')}")
            hashes.append(answer["result"])
        return hashes


def _write(writer: asyncio.StreamWriter, status: str, body: bytes, close: bool = False) -> None:
    connection = "close" if close else "keep-alive"
    writer.write(
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"connection: {connection}\r\n\r\n".encode()
        + body
    )


async def _after(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a child and wait for it. A development chain has nothing to save."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()  # or its pipe is collected by the garbage collector, with a warning


def _say(text: str) -> None:
    sys.stderr.write(f"mpp-gateway: {text}\n")
