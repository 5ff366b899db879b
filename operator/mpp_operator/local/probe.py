"""One real question through the listener, whose answer shows that the gateway serves."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import httpx

from mpp_authz import wire
from mpp_operator import bootstrap, console
from mpp_operator.local.inputs import Inputs

#: Seconds.
_LIMIT: Final = 15.0
_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the statuses that show that the gateway serves."""

    method: str
    host: str
    path: str
    expected: tuple[int, ...]


def question(inputs: Inputs) -> Question:
    """A service's first route, where that is priced: 402, or 421 where challenges may not be issued this way. No
    earlier route can take the request, so wildcards may hold anything. Else the health path."""
    for service in inputs.compiled.compilation.gateway.services:
        route = service.routes[0]
        if route.price is None:
            continue
        path = "".join(f"/{segment or 'x'}" for segment in route.path.segments)
        tail = "/" if route.path.trailing_slash or not path else ""
        return Question(route.methods[0], service.hosts[0], f"{service.prefix}{path}{tail}", (402, 421))
    return Question("GET", "localhost", bootstrap.HEALTH_PATH, (200,))


async def ask(base: str, asked: Question, limit: float = _LIMIT) -> None:
    """Ask as a stranger, until it is answered as expected: listener, filters and authz answer, no upstream is
    bothered.

    Raises:
        Failure: nothing sensible came back in time.
    """
    deadline = time.monotonic() + limit
    found = "nothing"
    async with httpx.AsyncClient(trust_env=False, timeout=5, verify=False) as client:  # noqa: S501 - it is us
        while time.monotonic() < deadline:
            try:
                answer = await client.request(asked.method, base + asked.path, headers={"Host": asked.host})
            except httpx.HTTPError as error:
                found = repr(error)
            else:
                if answer.status_code in asked.expected or _nothing_on_offer(answer):
                    return
                found = f"{answer.status_code} {answer.text[:200]}"
            await asyncio.sleep(_POLL)
    raise console.Failure(
        console.WRONG_ENVIRONMENT,
        f"listener: expected {asked.method} {asked.path} to be answered with {asked.expected[0]}, got {found}",
    )


def _nothing_on_offer(answer: httpx.Response) -> bool:
    """authz answers, and this one service cannot be paid for now: no reason to keep the others from serving."""
    return answer.status_code == 503 and wire.NO_OFFER in answer.text
