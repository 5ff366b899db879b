"""The transfers of a Tempo chain, for an audit: whole, final and the same at every endpoint, or an error.

A node that is behind answers a question about blocks it does not have with nothing, and nothing is the worst
answer here: it would look like a payment that never was. So every endpoint must have the blocks, agree on the last
one's hash, and give the very same transfers.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

import httpx
from mpp.methods.tempo import attribution
from mpp.methods.tempo.intents import TRANSFER_TOPIC, TRANSFER_WITH_MEMO_TOPIC

from mpp_authz.methods import _chain
from mpp_authz.methods.history import Block, HistoryUnavailable, Transfer
from mpp_authz.pricing import Network

T = TypeVar("T")

#: Blocks asked for at once: to begin with, and at most. Nodes limit the range, or the number of logs in an answer.
FIRST_PAGE: Final = 2_000
LONGEST_PAGE: Final = 20_000
#: Failures in a row before a page is given up. Each halves the page: 20,000 blocks are one block after 15.
TRIES: Final = 16
#: Recipients in one question; nodes limit the topics of a filter.
_RECIPIENTS: Final = 100
#: Blocks below the newest that count as final where a network has no finalized block to tell of.
DEEP: Final = 32
#: Seconds of block time by which endpoints may differ.
LAG: Final = 60
_LOGS_LIMIT: Final = 20.0  # seconds

#: Topics of an event's log: the event itself, sender, recipient and, indexed, the memo.
_TOPICS: Final = {TRANSFER_TOPIC: 3, TRANSFER_WITH_MEMO_TOPIC: 4}
_HASH: Final = re.compile(r"0x[0-9a-f]{64}")


class TempoHistory:
    """`History` of one network. `pause` waits so many seconds before a failed question is asked again."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        network: Network,
        pause: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._network = network
        self._pause = pause

    async def final(self, confirmations: int | None) -> Block:
        """See `History.final`. The lowest of all endpoints, if the others are not far ahead."""
        for found in await self._everywhere(lambda url: _chain.chain_id(self._http, url)):
            if found != self._network.chain_id:
                raise self._trouble(f"expected chain {self._network.chain_id}, an endpoint serves {found}")
        blocks = await self._everywhere(lambda url: self._final_at(url, confirmations))
        last = min(blocks, key=lambda block: block.number)
        behind = max(block.moment for block in blocks) - last.moment
        if behind > LAG:
            raise self._trouble(f"an endpoint lags {behind} s of block time behind another")
        return await self.block(last.number)

    async def _final_at(self, url: str, confirmations: int | None) -> Block:
        if confirmations is None:
            try:
                found = await self._block_at(url, "finalized")
            except _chain.RpcError:  # an unknown tag
                found = None
            if found is not None:
                return found
        newest = _chain.quantity(await _chain.call(self._http, url, "eth_blockNumber", []))
        below = DEEP if confirmations is None else confirmations
        return await self._must(url, max(newest - below, 0))

    async def block(self, number: int) -> Block:
        """See `History.block`."""
        blocks = await self._everywhere(lambda url: self._must(url, number))
        if len(set(blocks)) > 1:
            raise self._trouble(f"the endpoints disagree about block {number}")
        return blocks[0]

    async def first_from(self, moment: int, last: Block) -> Block | None:
        """See `History.first_from`: a search by halves."""
        if last.moment < moment:
            return None
        low, high = 0, last.number
        while low < high:
            middle = (low + high) // 2
            if (await self.block(middle)).moment < moment:
                low = middle + 1
            else:
                high = middle
        return await self.block(low)

    async def transfers(
        self, currencies: Collection[str], recipients: Collection[str], first: int, last: int
    ) -> AsyncIterator[Transfer]:
        """See `History.transfers`."""
        size, failures, number, ordered = FIRST_PAGE, 0, first, sorted(recipients)
        groups = [ordered[at : at + _RECIPIENTS] for at in range(0, len(ordered), _RECIPIENTS)]
        while number <= last and currencies:
            end = min(number + size - 1, last)
            try:
                pages = [await self._page(sorted(currencies), group, number, end) for group in groups]
            except (_chain.Unreachable, _chain.RpcError) as error:
                failures += 1
                refused = isinstance(error, _chain.RpcError)
                if failures >= TRIES or (refused and end == number):
                    raise self._trouble(f"blocks {number} to {end} cannot be read: {error}") from error
                size = max((end - number + 1) // 2, 1)
                if not refused:
                    await self._pause(min(0.1 * 2**failures, 5.0))
                continue
            for transfer in sorted((t for page in pages for t in page), key=lambda t: (t.block, t.index)):
                yield transfer
            failures, number = 0, end + 1
            size = min(size + max(size // 4, 1), LONGEST_PAGE)

    async def _page(
        self, currencies: Sequence[str], recipients: Sequence[str], first: int, last: int
    ) -> tuple[Transfer, ...]:
        """The transfers in these blocks, the same from every endpoint."""
        question = {
            "address": list(currencies),
            "fromBlock": hex(first),
            "toBlock": hex(last),
            "topics": [
                [TRANSFER_TOPIC, TRANSFER_WITH_MEMO_TOPIC],
                None,
                ["0x" + recipient.removeprefix("0x").zfill(64) for recipient in recipients],
            ],
        }

        async def ask(url: str) -> tuple[Block, tuple[Transfer, ...]]:
            # The block first: what is missing after the last block was there is missing in it.
            block = await self._must(url, last)
            logs = await _chain.call(self._http, url, "eth_getLogs", [question], _LOGS_LIMIT)
            if not isinstance(logs, list):
                raise _chain.Unreachable("eth_getLogs: expected a list")
            found = _read(logs, self._network.chain_id, currencies)
            if not all(first <= transfer.block <= last for transfer in found):
                raise _chain.Unreachable("eth_getLogs: expected logs of the blocks asked for")
            return block, found

        answers = await asyncio.gather(*(ask(url) for url in self._network.rpc_urls))
        if len({(block, _essence(found)) for block, found in answers}) > 1:
            raise self._trouble(f"the endpoints disagree about the transfers of blocks {first} to {last}")
        return answers[0][1]

    async def transaction(
        self, reference: str, currencies: Collection[str]
    ) -> tuple[Block, tuple[Transfer, ...]] | None:
        """See `History.transaction`."""
        answers = await self._everywhere(lambda url: self._receipt(url, reference, currencies))
        known = [answer for answer in answers if answer is not None]
        if not known:
            return None
        number, found = known[0]
        if len(known) < len(answers):
            raise self._trouble(f"an endpoint knows the transaction {reference}, another does not: one lags")
        if len({(answer[0], _essence(answer[1])) for answer in known}) > 1:
            raise self._trouble(f"the endpoints disagree about the transaction {reference}")
        return await self.block(number), found

    async def _receipt(
        self, url: str, reference: str, currencies: Collection[str]
    ) -> tuple[int, tuple[Transfer, ...]] | None:
        found = await _chain.receipt(self._http, url, reference)
        if found is None:
            return None
        number = _chain.quantity(found.get("blockNumber"))
        logs = found.get("logs")
        if found.get("status") != "0x1":
            return number, ()
        if not isinstance(logs, list):
            raise _chain.Unreachable("eth_getTransactionReceipt: expected logs")
        return number, _read(logs, self._network.chain_id, currencies)

    def realm_mark(self, realm: str) -> str:
        """See `History.realm_mark`."""
        decoded = attribution.decode(attribution.encode("", realm))
        assert decoded is not None  # noqa: S101 - it was encoded just now
        return decoded.server_fingerprint

    def challenge_mark(self, challenge_id: str) -> str:
        """See `History.challenge_mark`."""
        decoded = attribution.decode(attribution.encode(challenge_id, ""))
        assert decoded is not None  # noqa: S101
        return decoded.nonce

    # --- endpoints -------------------------------------------------------------------------------------

    async def _everywhere(self, ask: Callable[[str], Coroutine[Any, Any, T]]) -> list[T]:
        """One question to every endpoint, each a few times."""
        return await asyncio.gather(*(self._patiently(ask, url) for url in self._network.rpc_urls))

    async def _patiently(self, ask: Callable[[str], Coroutine[Any, Any, T]], url: str) -> T:
        for pause in (0.2, 1.0):
            try:
                return await ask(url)
            except (_chain.Unreachable, _chain.RpcError):
                await self._pause(pause)
        try:
            return await ask(url)
        except (_chain.Unreachable, _chain.RpcError) as error:
            raise self._trouble(f"an endpoint failed: {error}") from error

    async def _must(self, url: str, number: int) -> Block:
        found = await self._block_at(url, hex(number))
        if found is None or found.number != number:
            raise _chain.Unreachable(f"eth_getBlockByNumber: expected block {number}, the endpoint has none")
        return found

    async def _block_at(self, url: str, name: str) -> Block | None:
        found = await _chain.call(self._http, url, "eth_getBlockByNumber", [name, False])
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("hash"), str):
            raise _chain.Unreachable("eth_getBlockByNumber: expected a block")
        return Block(_chain.quantity(found.get("number")), _chain.quantity(found.get("timestamp")), found["hash"])

    def _trouble(self, what: str) -> HistoryUnavailable:
        return HistoryUnavailable(f"network {self._network.name}: {what}")


def _essence(transfers: Collection[Transfer]) -> frozenset[tuple[object, ...]]:
    """What two endpoints must agree on; whether a log carries its block's time is a matter of taste."""
    return frozenset(
        (one.reference, one.index, one.block, one.currency, one.payer, one.recipient, one.amount)
        for one in transfers
    )


def _read(logs: Sequence[Any], chain_id: int, currencies: Collection[str]) -> tuple[Transfer, ...]:
    """The transfers of these tokens. One with a memo is told twice, by Transfer and by TransferWithMemo; it is one
    movement, and given once, with its memo.

    Raises:
        Unreachable: a log cannot be understood, so the answer cannot be trusted to be whole.
    """
    plain: dict[tuple[object, ...], list[Transfer]] = {}
    noted: list[tuple[tuple[object, ...], Transfer]] = []
    for entry in logs:
        try:
            topics = entry["topics"]
            event = topics[0] if topics else ""
            if entry["address"].lower() not in currencies or len(topics) != _TOPICS.get(event):
                continue  # another token, another event
            if entry.get("removed") is True:
                raise ValueError("removed")
            transfer = _transfer(entry, topics, chain_id)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _chain.Unreachable(f"a transfer's log cannot be read: {type(error).__name__}") from error
        key = (transfer.reference, transfer.currency, transfer.payer, transfer.recipient, transfer.amount)
        if event == TRANSFER_TOPIC:
            plain.setdefault(key, []).append(transfer)
        else:
            noted.append((key, transfer))
    for noted_key, _ in noted:
        companions = plain.get(noted_key)
        if companions:
            companions.pop()
    return (*(transfer for _, transfer in noted), *(left for some in plain.values() for left in some))


def _transfer(entry: Any, topics: Sequence[str], chain_id: int) -> Transfer:
    reference = entry["transactionHash"].lower()
    if not _HASH.fullmatch(reference):
        raise ValueError("transactionHash")
    memo = attribution.decode(topics[3].lower()) if len(topics) == 4 else None
    moment = entry.get("blockTimestamp")
    return Transfer(
        chain_id,
        reference,
        int(entry["logIndex"], 16),
        int(entry["blockNumber"], 16),
        entry["address"].lower(),
        "0x" + topics[1][-40:].lower(),
        "0x" + topics[2][-40:].lower(),
        int(entry["data"][:66], 16),
        memo.server_fingerprint if memo else None,
        memo.nonce if memo else None,
        int(moment, 16) if isinstance(moment, str) else None,
    )
