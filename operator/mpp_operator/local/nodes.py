"""What the nodes that gateway.yaml names say at a start: which chain they serve, and what time it is there.

A person learns of a mistake before a payer does. Payments do not rest on it: authz asks again for each. The
built-in networks' public nodes are not asked: nobody has mistyped them, and a start calls nobody unasked.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from mpp_operator.gateway import BUILT_IN, Network

#: Seconds that all of them together may take.
LIMIT: Final = 2.0
#: Seconds that the newest block may be ahead of our clock, or behind it. Tempo makes more than one a second.
AHEAD: Final = 15
BEHIND: Final = 120


@dataclass(frozen=True, slots=True)
class Findings:
    """Lines for people. With `problems` nothing that is paid could be settled; `warnings` may pass."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one node says; `trouble` where it says nothing that can be used."""

    chain_id: int = 0
    block_time: int = 0  # Unix seconds, of the newest block
    trouble: str = ""


async def ask(
    networks: Iterable[Network], *, limit: float = LIMIT, clock: Callable[[], float] = time.time
) -> Findings:
    """Ask every node of these networks at once."""
    places = [
        (network, f"gateway.yaml: networks.{network.name}.{_field(network, index)}", url)
        for network in networks
        for index, url in enumerate(network.rpc_urls)
        if network.name not in BUILT_IN or url not in BUILT_IN[network.name].rpc_urls
    ]
    async with httpx.AsyncClient(trust_env=False, timeout=limit) as http:
        answers = await asyncio.gather(*(_ask(http, url, limit) for _, _, url in places))
    return judge(
        [(network, field, answer) for (network, field, _), answer in zip(places, answers, strict=True)], clock()
    )


def judge(answers: Iterable[tuple[Network, str, Answer]], now: float) -> Findings:
    """What people should know of these answers: of which network, from which field's node."""
    problems, warnings = [], []
    for network, field, answer in answers:
        if answer.trouble:
            warnings.append(
                f"{field}: expected a node that answers, got {answer.trouble}; while no node of {network.name} "
                "does, its payments wait, and new ones are refused"
            )
            continue
        if answer.chain_id != network.chain_id:
            problems.append(
                f"{field}: expected a node of chain {network.chain_id}, got one of chain {answer.chain_id}; "
                "correct the URL or chainId"
            )
            continue
        skew = round(answer.block_time - now)
        if skew > AHEAD:
            warnings.append(
                f"{field}: expected a newest block of this moment, got one {skew} s ahead of our clock; "
                "set this machine's clock (NTP), or payments are taken for too late or too early"
            )
        elif skew < -BEHIND:
            warnings.append(
                f"{field}: expected a newest block of this moment, got one {-skew} s behind our clock; "
                "set this machine's clock (NTP) if it is wrong, else name a node that keeps up"
            )
    return Findings(tuple(problems), tuple(warnings))


def _field(network: Network, index: int) -> str:
    return f"rpcUrls[{index}]" if len(network.rpc_urls) > 1 else "rpcUrl"


async def _ask(http: httpx.AsyncClient, url: str, limit: float) -> Answer:
    """The URL is in no message: it may hold a key."""
    try:
        async with asyncio.timeout(limit):
            chain_id, block = await asyncio.gather(
                _call(http, url, "eth_chainId", []), _call(http, url, "eth_getBlockByNumber", ["latest", False])
            )
        return Answer(int(chain_id, 16), int(block["timestamp"], 16))
    except TimeoutError:
        return Answer(trouble=f"no answer within {limit:g} s")
    except httpx.HTTPStatusError as error:
        return Answer(trouble=f"HTTP status {error.response.status_code}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(trouble=type(error).__name__)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Answer(trouble="something else than Ethereum's JSON-RPC")


async def _call(http: httpx.AsyncClient, url: str, method: str, params: list[object]) -> Any:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = (await http.post(url, json=question)).raise_for_status().json()
    if not isinstance(answer, Mapping):
        raise TypeError("expected an object")
    return answer["result"]
