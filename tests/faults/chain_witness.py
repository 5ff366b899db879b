"""The chain's witness: every TIP-20 transfer to a recipient, read from the logs, and the challenge it pays.

    since = await chain_witness.head(rpc_url)
    ...
    transfers = await chain_witness.transfers(rpc_url, recipient, challenges=ids_that_clients_saw, since=since)

Asks the chain directly, never through the proxy that misbehaves, and uses nothing of the gateway's own code.
"""

import collections
from collections.abc import Collection, Mapping
from typing import Any, Final

import httpx
from eth_hash.auto import keccak
from witnesses import Transfer

_TRANSFER: Final = "0x" + keccak(b"Transfer(address,address,uint256)").hex()
_WITH_MEMO: Final = "0x" + keccak(b"TransferWithMemo(address,address,uint256,bytes32)").hex()
#: TAG = keccak256("mpp")[:4] and version 1; then 10 bytes of the realm's hash, 10 of the client's, and 7 of the
#: challenge id's (mpp's tempo charge, attribution memo).
_TAG: Final = keccak(b"mpp")[:4].hex() + "01"
_NONCE_BYTES: Final = 7


async def head(rpc_url: str) -> int:
    """The number of the last block."""
    return int(await _call(rpc_url, "eth_blockNumber"), 16)


async def transfers(
    rpc_url: str,
    recipient: str,
    *,
    challenges: Collection[str],
    since: int = 0,
    sent_at: Mapping[str, float] | None = None,
) -> tuple[Transfer, ...]:
    """Transfers to a recipient in blocks after `since`, in the order of the chain, of every token.

    `challenges` are the ids that clients saw; `sent_at` says by transaction hash when a node first got one. A
    transaction that reverted has no logs, so it is none.

    Raises:
        RuntimeError: the node refuses the question.
    """
    if await head(rpc_url) <= since:
        return ()  # a node refuses to look into blocks that are not there yet
    logs = await _call(
        rpc_url,
        "eth_getLogs",
        {
            "fromBlock": hex(since + 1),
            "toBlock": "latest",
            "topics": [[_TRANSFER, _WITH_MEMO], None, "0x" + recipient.lower().removeprefix("0x").zfill(64)],
        },
    )
    return read(logs, {nonce(one): one for one in challenges}, sent_at or {})


def read(
    logs: list[dict[str, Any]], by_nonce: Mapping[str, str], sent_at: Mapping[str, float]
) -> tuple[Transfer, ...]:
    """Transfers in a node's logs. One with a memo logs both events; it is one."""
    found: list[Transfer] = []
    told: collections.Counter[tuple[str, str, str, int]] = collections.Counter()
    plain: list[Transfer] = []
    for log in logs:
        reference, topics = log["transactionHash"].lower(), log["topics"]
        payer, recipient = ("0x" + topic[-40:].lower() for topic in topics[1:3])
        data = log["data"].removeprefix("0x")
        amount, memo = int(data[:64], 16), topics[3].removeprefix("0x") if len(topics) > 3 else data[64:128]
        transfer = Transfer(reference, payer, recipient, amount, None, sent_at.get(reference))
        if topics[0].lower() == _WITH_MEMO:
            told[reference, payer, recipient, amount] += 1
            challenge = by_nonce.get(memo[-2 * _NONCE_BYTES :]) if memo.startswith(_TAG) else None
            found.append(Transfer(reference, payer, recipient, amount, challenge, sent_at.get(reference)))
        else:
            plain.append(transfer)
    for transfer in plain:
        of = transfer.reference, transfer.payer, transfer.recipient, transfer.amount
        if told[of]:
            told[of] -= 1
        else:
            found.append(transfer)
    order = {log["transactionHash"].lower(): at for at, log in reversed(list(enumerate(logs)))}
    return tuple(sorted(found, key=lambda one: order[one.reference]))


def nonce(challenge: str) -> str:
    """What binds a memo to a challenge: the hex of its last bytes."""
    return keccak(challenge.encode())[:_NONCE_BYTES].hex()


def reference_of(raw: str) -> str:
    """The hash of a signed transaction as it is sent: what the chain will call it."""
    return "0x" + keccak(bytes.fromhex(raw.removeprefix("0x"))).hex()


async def _call(rpc_url: str, method: str, *params: object) -> Any:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        document = (await http.post(rpc_url, json=question)).json()
    if "error" in document:
        raise RuntimeError(f"{method}: {document['error']}")
    return document["result"]
