"""What the chain says of a transaction. One endpoint may say yes; only all of them together may say never."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

import httpx

from mpp_authz.methods import Never, NotYet, Settled, Unavailable, _chain
from mpp_authz.pricing import Network

log = logging.getLogger(__name__)

#: Seconds of block time past `valid_before` before we say that a transaction can never be included.
GRACE: Final = 5


async def lookup(
    http: httpx.AsyncClient, reference: str, valid_before: int | None, network: Network
) -> Settled | NotYet | Never | Unavailable:
    """See `Method.lookup`."""
    answers = await asyncio.gather(*(_ask(http, url, reference, network) for url in network.rpc_urls))
    return _conclude(reference, valid_before, answers)


async def find(http: httpx.AsyncClient, reference: str, network: Network) -> tuple[dict[str, Any], int] | None:
    """A receipt and its block's time from the first endpoint that has it; None where all say there is none.

    Raises:
        Unreachable: none has it, and not all could be asked.
    """
    trouble: _chain.Unreachable | None = None
    for url in network.rpc_urls:
        try:
            await _right_chain(http, url, network)
            receipt = await _chain.receipt(http, url, reference)
            if receipt is not None:
                block = hex(_chain.quantity(receipt.get("blockNumber")))
                return receipt, await _chain.block_time(http, url, block)
        except (_chain.Unreachable, _chain.RpcError) as error:
            trouble = _chain.Unreachable(f"an endpoint of {network.name} failed: {error}")
    if trouble is not None:
        raise trouble
    return None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one endpoint says of a transaction. `succeeded` is None where it knows no receipt."""

    block_time: int
    succeeded: bool | None
    sender: str | None


async def _ask(http: httpx.AsyncClient, url: str, reference: str, network: Network) -> _Answer | None:
    """What one endpoint says; None where it cannot be asked."""
    try:
        await _right_chain(http, url, network)
        # The block first: a receipt that is missing after this block was there is missing in it.
        at = await _chain.block_time(http, url)
        receipt = await _chain.receipt(http, url, reference)
    except (_chain.Unreachable, _chain.RpcError) as error:
        log.info("endpoint cannot be asked", extra={"network": network.name, "reason": str(error)})
        return None
    if receipt is None:
        return _Answer(at, None, None)
    sender = receipt.get("from")
    return _Answer(at, receipt.get("status") == "0x1", sender.lower() if isinstance(sender, str) else None)


async def _right_chain(http: httpx.AsyncClient, url: str, network: Network) -> None:
    """An endpoint of another chain knows none of our transactions, and must not be believed about them."""
    found = await _chain.chain_id(http, url)
    if found != network.chain_id:
        raise _chain.Unreachable(f"expected chain {network.chain_id}, an endpoint serves {found}")


def _conclude(
    reference: str, valid_before: int | None, answers: list[_Answer | None]
) -> Settled | NotYet | Never | Unavailable:
    told = [answer for answer in answers if answer is not None]
    outcomes = {answer.succeeded for answer in told}
    if True in outcomes and False not in outcomes:
        return Settled(reference, next(answer.sender for answer in told if answer.succeeded))
    if len(told) < len(answers):
        return Unavailable("an endpoint cannot be asked")
    if len(outcomes) > 1:
        return Unavailable("the endpoints disagree")
    if outcomes == {False}:
        return Never("reverted")
    if valid_before is None:
        return NotYet()
    over = {answer.block_time > valid_before + GRACE for answer in told}
    if over == {True}:
        return Never("its last valid moment is past")
    return NotYet() if over == {False} else Unavailable("an endpoint lags behind")
