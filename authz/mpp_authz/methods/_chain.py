"""JSON-RPC to the nodes of one network. Knows no payments.

A network has several endpoints. What may be asked of any one goes to the first that answers; what must be
agreed on is asked of every one.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import httpx

log = logging.getLogger(__name__)

#: Seconds one question may take.
TIMEOUT: Final = 5.0
SEND: Final = "eth_sendRawTransactionSync"  # EIP-7966: answers with the receipt

#: The request never left: nothing was sent.
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class Unreachable(Exception):
    """No endpoint gave a usable answer. The message names no URL: it may hold a key."""


class RpcError(Exception):
    """The node answered with an error. Its text is the node's and is for the log only."""

    def __init__(self, code: object, message: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.text = message


async def call(
    http: httpx.AsyncClient, url: str, method: str, params: Sequence[object], limit: float = TIMEOUT
) -> Any:
    """The result of one call at one endpoint, within `limit` seconds.

    Raises:
        Unreachable: no answer in time, or not JSON-RPC.
        RpcError: the node refused.
    """
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    try:
        async with asyncio.timeout(limit):
            answer = await http.post(url, json=question, timeout=limit)
            answer.raise_for_status()
            document = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        raise Unreachable(f"{method}: {type(error).__name__}") from error
    if not isinstance(document, dict) or ("result" not in document and "error" not in document):
        raise Unreachable(f"{method}: expected JSON-RPC")
    problem = document.get("error")
    if problem is not None:
        known = problem if isinstance(problem, dict) else {}
        raise RpcError(known.get("code"), str(known.get("message", "")))
    return document["result"]


async def first(
    http: httpx.AsyncClient, urls: Sequence[str], method: str, params: Sequence[object], limit: float = TIMEOUT
) -> Any:
    """The result of the first endpoint that gives one.

    Raises:
        Unreachable: none did.
    """
    for url in urls:
        try:
            return await call(http, url, method, params, limit)
        except (Unreachable, RpcError) as error:
            log.debug("endpoint failed", extra={"rpc": method, "reason": str(error)})
    raise Unreachable(f"{method}: none of {len(urls)} endpoints answered")


def quantity(value: object) -> int:
    """Read a hex quantity.

    Raises:
        Unreachable: it is none, so the endpoint cannot be understood.
    """
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise Unreachable("expected a hex quantity")


async def chain_id(http: httpx.AsyncClient, url: str) -> int:
    return quantity(await call(http, url, "eth_chainId", []))


async def block_time(http: httpx.AsyncClient, url: str, block: str = "latest") -> int:
    """When a block was made, in Unix seconds."""
    found = await call(http, url, "eth_getBlockByNumber", [block, False])
    if not isinstance(found, dict):
        raise Unreachable("eth_getBlockByNumber: expected a block")
    return quantity(found.get("timestamp"))


async def receipt(http: httpx.AsyncClient, url: str, transaction: str) -> dict[str, Any] | None:
    """The receipt of a transaction, None where this endpoint knows none."""
    found = await call(http, url, "eth_getTransactionReceipt", [transaction])
    if found is None:
        return None
    if not isinstance(found, dict) or str(found.get("transactionHash", "")).lower() != transaction.lower():
        raise Unreachable("eth_getTransactionReceipt: expected this transaction's receipt")
    return found


async def balance(http: httpx.AsyncClient, urls: Sequence[str], token: str, holder: str) -> int:
    """A TIP-20 balance in base units."""
    data = "0x70a08231" + holder.removeprefix("0x").lower().zfill(64)
    return quantity(await first(http, urls, "eth_call", [{"to": token, "data": data}, "latest"]))


class Wire:
    """What pympp gets as its HTTP client: knows whether anything was sent, and tries the next endpoint.

    `sent` is true from the moment a transaction may have reached a node. It, and not the type of pympp's
    exception, says whether money can still move. `refused` is true when a node answered that it will not have it.
    """

    def __init__(self, http: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self._http = http
        self._urls = tuple(urls)
        self.sent = False
        self.refused = False

    async def post(self, url: str, *, json: dict[str, Any]) -> httpx.Response:
        """POST to the first endpoint that takes it; `url` is only pympp's name for all of them."""
        sending = json.get("method") == SEND
        failure: Exception | None = None
        for endpoint in self._urls:
            before = self.sent
            self.sent = before or sending
            try:
                # pympp cuts a send off itself, at two thirds of the confirmation time
                answer = await self._http.post(endpoint, json=json, timeout=None if sending else TIMEOUT)
                if sending:
                    self.refused = _refusal(answer)
                if sending or answer.is_success:
                    return answer
                failure = httpx.HTTPStatusError("not 2xx", request=answer.request, response=answer)
            except NOT_SENT as error:
                self.sent = before
                failure = error
            except httpx.HTTPError as error:
                if sending:
                    raise
                failure = error
        assert failure is not None  # noqa: S101 - a network has at least one endpoint
        raise failure


#: "Transaction was added to the pool but not included in time", "its outcome is not known", "queued behind a gap"
#: -- EIP-7966, eth_sendRawTransactionSync, Errors
_TAKEN: Final = frozenset({4, 5, 6})


def _refusal(answer: httpx.Response) -> bool:
    """Whether a node's answer to a transaction is that it is not valid. A guess: it saves a wait, nothing more."""
    try:
        error = answer.json()["error"]
        return error["code"] not in _TAKEN and "already" not in str(error.get("message", "")).lower()
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
