"""One gateway with all that is around it and can fail, for tests that play single scenes rather than a matrix.

async with stages.opened(chain, folder, "tag") as stage:
    (case, key), since = await stage.case(Mood.S500), await stage.block()
    exchanges = await stage.keeper.want(case, stage.shop.url, key=key, patience=stages.patience())
    run = await stage.ended(case, since, list(exchanges))
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import chain_witness
import control
import outside
import payers
import system
import wallets
from chain import Chain
from outside import Mood
from witnesses import Case, Exchange, Mode, Run, Transfer


def patience(tries: int = 6) -> payers.Patience:
    """A client that does not wait long."""
    return payers.Patience(tries=tries, seconds=10, each=6)


@dataclass(slots=True)
class Stage:
    """One gateway, and all that is around it."""

    chain: Chain
    points: control.Control
    node: outside.Node
    upstream: outside.Upstream
    shop: system.Gateways
    tag: str
    cases: int = 0
    #: Until a credential whose money moved has an answer, when nothing is broken any more. Seconds.
    end_limit: float = 10.0

    async def case(
        self,
        *moods: Mood,
        mode: Mode = Mode.PULL,
        copies: int = 1,
        retries: str = "same",
        route: str = "thing",
        body: bytes = b"",
    ) -> tuple[Case, str]:
        """A new payer with money, who wants something whose upstream has these moods; and its key."""
        self.cases += 1
        name = f"{self.tag}-{self.cases}"
        address, key = await asyncio.to_thread(wallets.funded, self.chain, name)
        self.points.begin(name)
        self.upstream.moods(name, moods)
        return (
            Case(
                name,
                address.lower(),
                "POST" if body else "GET",
                f"{system.PREFIX}/{route}?case={name}",
                payers.body_hash(body),
                system.PRICE,
                mode,
                retries,
                copies,
            ),
            key,
        )

    async def block(self) -> int:
        """Where the chain is: what comes after it is a run's own."""
        return await chain_witness.head(self.chain.rpc_url)

    @property
    def keeper(self) -> payers.Keeper:
        return payers.Keeper(self.chain.rpc_url, self.chain.chain_id)

    async def ended(self, case: Case, since: int, exchanges: list[Exchange]) -> Run:
        """Present what was paid and is not served, then read the witnesses."""
        self.points.disarm()
        self.upstream.well()
        served = {one for e in exchanges if e.whole and 200 <= e.status < 300 for one in e.receipts}
        for transfer in await self.transfers(exchanges, since):
            known = [e for e in exchanges if e.challenge == transfer.challenge and not e.other]
            if transfer.reference not in served and known:
                exchanges += await self.present(known[-1])
        transfers = await self.transfers(exchanges, since)
        owed = {transfer.reference for transfer in transfers} - {
            one for e in exchanges if e.whole and 200 <= e.status < 300 for one in e.receipts
        }
        return Run(
            seed=0,
            system="gateway",
            cases=(case,),
            transfers=transfers,
            hits=self.upstream.take(),
            exchanges=tuple(exchanges),
            listed=await self.shop.listed() if owed else (),
            recipient=self.shop.recipient,
        )

    async def present(self, exchange: Exchange) -> list[Exchange]:
        """Present a credential again at the end, until there is a last word."""
        seen: list[Exchange] = []
        deadline = time.monotonic() + self.end_limit
        while True:
            seen.append(await payers.present(self.shop.url(0), exchange))
            if seen[-1].status in (200, 402, 403) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(0.1)  # what the answer's Retry-After asks for, and more

    async def transfers(self, exchanges: Iterable[Exchange], since: int) -> tuple[Transfer, ...]:
        """What the chain has of these exchanges, and of anybody else who paid the recipient since."""
        ids = {challenge for e in exchanges for challenge in e.challenges}
        return await chain_witness.transfers(
            self.chain.rpc_url, self.shop.recipient, challenges=ids, since=since, sent_at=self.node.sent_at
        )


@contextlib.asynccontextmanager
async def opened(
    chain: Chain, folder: Path, tag: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """A stage for the length of the block; `tag` names its recipient and its payers."""
    with tempfile.TemporaryDirectory() as sockets:  # a unix socket's path is short
        socket = Path(sockets) / "points"
        async with (
            control.listening(socket) as points,
            outside.node(chain.rpc_url, points) as node,
            outside.upstream(points, system.PREFIX) as upstream,
            system.store(system.Shape(), folder) as store,
            system.gateways(
                system.Shape(), chain, node.url, upstream.port, socket, folder, store, tag=tag, environ=environ
            ) as shop,
        ):
            yield Stage(chain, points, node, upstream, shop, tag)
