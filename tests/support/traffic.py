"""Steady traffic of lookers and payers, and the inputs of gateways they go to.

    async with traffic.running(url, chain, payers) as load:
        ...                                  # change, restart or kill something
    assert not load.wrong()

Open loop: each request leaves at its own moment, whatever became of those before it. A gateway that stops
answering is seen as late and failed answers, never as fewer questions.
"""

import asyncio
import base64
import collections
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import mpp
import upstreams
import wallets
from chain import Chain
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo.fee_payer_envelope import encode_fee_payer_envelope

from mpp_authz import challenge as challenges
from mpp_authz.methods import proof
from mpp_operator import sandbox

#: An answer that takes longer than this counts as none. Seconds.
LIMIT: Final = 20.0
#: Hardfork T4 takes no transaction that is valid for longer, so a quote of tests is used within this time.
_OLDEST_QUOTE: Final = 15.0

_SERVICE: Final = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}, namespace: tests}}
spec:
  upstream: {{url: "http://127.0.0.1:{upstream}", timeouts: {{request: 10s, upload: 5s}}}}
  payment:
    expiresIn: 20s
    offers:
      - {{method: tempo, network: devnet, currency: pathUSD, recipient: "{recipient}"{offer}}}
  routes:
    - {{name: thing, match: {{method: GET, path: /thing}}, price: {{baseUnits: "{price}"}}}}
    - {{name: gate, match: {{method: GET, path: /gate}}, price: {{baseUnits: "{price}"}}}}
    - {{name: stream, match: {{method: GET, path: /stream}}, price: {{baseUnits: "{price}"}}, streaming: true}}
    - {{name: big, match: {{method: GET, path: /big}}, price: {{baseUnits: "{price}"}}}}
    - {{name: status, match: {{method: GET, path: /status}}, price: {{baseUnits: "{price}"}}}}
"""


def service(upstream: int, recipient: str, price: int, *, name: str = "shop", offer: str = "") -> str:
    """A PaidService on an upstream of `upstreams`; every route costs `price` base units. `offer` is more fields of
    its one offer, after a comma."""
    return _SERVICE.format(upstream=upstream, recipient=recipient, price=price, name=name, offer=offer)


def network(rpc_url: str) -> str:
    """gateway.yaml's `networks`, with the chain at that address."""
    return f'networks:\n  devnet: {{method: tempo, chainId: {sandbox.CHAIN_ID}, rpcUrl: "{rpc_url}"}}\n'


def price_of(www_authenticate: str) -> int:
    """Base units a challenge asks for."""
    text = wallets.challenge_of(www_authenticate).request
    document = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return int(document["amount"])


async def quote(url: str) -> str:
    """The `WWW-Authenticate` value of a 402."""
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.status == 402, (answer.status, await answer.text())
        return answer.headers["WWW-Authenticate"]


async def credential(url: str, chain: Chain, key: str) -> str:
    """A signed payment for `url` that nobody has presented yet; an envelope where the gateway pays the fee."""
    challenge = wallets.challenge_of(await quote(url))
    request = mpp.Challenge.from_www_authenticate(challenges.www_authenticate(challenge)).request
    if not request["methodDetails"].get("feePayer"):
        return wallets.sign(chain, challenge, key)
    unsigned = wallets.transfer(
        chain,
        memo=wallets.memo(challenge),
        recipient=request["recipient"],
        amount=int(request["amount"]),
        token=request["currency"],
        sponsored=True,
    )
    payload = {"type": "transaction", "signature": "0x" + encode_fee_payer_envelope(unsigned.sign(key)).hex()}
    payer = TempoAccount.from_key(key).address
    return wallets.authorization(challenge, payload, proof.source(payer, chain.chain_id))


async def present(url: str, credential: str) -> tuple[int, dict[str, str], str]:
    """Status, headers (lower case) and body; status 0 where the connection broke."""
    limit = aiohttp.ClientTimeout(30)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as http,
            http.get(url, headers={"Authorization": credential}) as answer,
        ):
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.text()
    except aiohttp.ClientError as error:
        return 0, {}, repr(error)


async def until_served(url: str, credential: str, limit: float = 20) -> tuple[float, list[int]]:
    """Present a credential until it is answered, as a payer does who was told to; no answer may ask for money.

    Gives the seconds it took and the statuses on the way.
    """
    began = time.monotonic()
    statuses: list[int] = []
    while True:
        status, headers, text = await present(url, credential)
        assert "www-authenticate" not in headers, (status, text)
        assert status in (0, 200, 409, 503), (status, text)
        statuses.append(status)
        if status == 200:
            assert "payment-receipt" in headers
            return time.monotonic() - began, statuses
        assert time.monotonic() - began < limit, statuses
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # not there, or gone while it was read
        return False


async def until_gone(*pids: int, limit: float = 20) -> float:
    """Seconds until none of them lives."""
    began = time.monotonic()
    while any(map(alive, pids)):
        assert time.monotonic() - began < limit, [pid for pid in pids if alive(pid)]
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def until_hit(upstream: upstreams.Upstream, hits: int, limit: float = 20) -> None:
    """Wait until the upstream was asked that often."""
    async with asyncio.timeout(limit):
        while len(upstream.hits) < hits:  # noqa: ASYNC110 - the upstream has no event for it
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request of the traffic got. Moments are seconds of the loop's clock."""

    sent: float
    got: float
    paid: bool  # it carried a credential
    price: int  # of its quote, paid or asked for now; 0 where there is none
    status: int  # 0: no answer
    asked: bool  # it carries a challenge
    receipt: bool
    text: str  # of the body's beginning, or of the error
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Quote:
    at: float
    price: int
    credential: str


@dataclass(slots=True)
class Traffic:
    """What has been sent and answered so far."""

    url: str
    chain: Chain
    payers: Sequence[str]  # private keys
    rate: float
    paying: float
    hold: float
    answers: list[Answer] = field(default_factory=list)
    sent: int = 0
    _quotes: collections.deque[_Quote] = field(default_factory=collections.deque)

    @property
    def paid(self) -> list[Answer]:
        """Answers to credentials."""
        return [answer for answer in self.answers if answer.paid]

    @property
    def looked(self) -> list[Answer]:
        """Answers to requests without one."""
        return [answer for answer in self.answers if not answer.paid]

    def wrong(self) -> list[Answer]:
        """Answers that are not what was asked for: a payer who was not served, or was asked again, a looker who
        got no price."""
        return [
            answer
            for answer in self.answers
            if (answer.status, answer.asked, answer.receipt)
            != ((200, False, True) if answer.paid else (402, True, False))
        ]

    def revenue(self) -> int:
        """Base units that the payee has to have: the quoted price of each call that was served."""
        return sum(answer.price for answer in self.paid if answer.status == 200)

    def rates(self) -> tuple[float, float]:
        """Requests a second and payments a second, from the first payment on."""
        first = min(answer.sent for answer in self.paid)
        sent = [answer for answer in self.answers if answer.sent >= first]
        seconds = max(answer.sent for answer in sent) - first
        return len(sent) / seconds, len(self.paid) / seconds

    def figures(self) -> str:
        """One line for a report; there have been payments."""
        waits = sorted(answer.got - answer.sent for answer in self.answers)
        requests, payments = self.rates()
        return (
            f"{len(self.answers)} requests at {requests:.1f}/s, {len(self.paid)} paid at {payments:.1f}/s, "
            f"wait p50 {waits[len(waits) // 2] * 1000:.0f} ms, p99 {waits[len(waits) * 99 // 100] * 1000:.0f} ms, "
            f"longest {waits[-1] * 1000:.0f} ms"
        )

    async def until(self, condition: Callable[[], bool], limit: float = 20) -> None:
        """Wait for something the traffic shows."""
        async with asyncio.timeout(limit):
            while not condition():  # noqa: ASYNC110 - the answers come from other tasks
                await asyncio.sleep(0.01)

    async def asked(self, price: int) -> Answer:
        """The first answer that asks for a price; waits for it."""
        await self.until(lambda: any(answer.price == price for answer in self.looked))
        return min((answer for answer in self.looked if answer.price == price), key=lambda answer: answer.got)

    async def for_seconds(self, seconds: float) -> None:
        """Let it go on: the traffic is what takes this long."""
        wanted = self.sent + round(seconds * self.rate)
        await self.until(lambda: self.sent >= wanted, seconds + LIMIT)

    async def _run(self, http: aiohttp.ClientSession, ended: asyncio.Event) -> None:
        """`rate` requests a second, `paying` of them with a credential that was signed `hold` seconds before."""
        began = time.monotonic()
        owed = 0.0
        async with asyncio.TaskGroup() as tasks:
            while not ended.is_set():
                await asyncio.sleep(max(0.0, began + self.sent / self.rate - time.monotonic()))
                self.sent += 1
                owed = min(owed + self.paying / self.rate, 5.0)
                found = self._ripe() if owed >= 1 else None
                if found is not None:
                    owed -= 1
                tasks.create_task(self._ask(http, found))

    def _ripe(self) -> _Quote | None:
        now = time.monotonic()
        while self._quotes and now - self._quotes[0].at > _OLDEST_QUOTE:
            self._quotes.popleft()
        return self._quotes.popleft() if self._quotes and now - self._quotes[0].at >= self.hold else None

    async def _ask(self, http: aiohttp.ClientSession, found: _Quote | None) -> None:
        sent = time.monotonic()
        headers = {"Authorization": found.credential} if found else {}
        price, asks = found.price if found else 0, ""
        try:
            async with http.get(self.url, headers=headers) as answer:
                status, text = answer.status, await answer.text()
                asks = answer.headers.get("WWW-Authenticate", "")
                receipt = "Payment-Receipt" in answer.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            status, text, receipt = 0, repr(error), False
        got = time.monotonic()
        if asks and not found:
            price = price_of(asks)
            if len(self._quotes) < self.paying * (self.hold + 1):
                key = self.payers[self.sent % len(self.payers)]
                self._quotes.append(_Quote(got, price, wallets.sign(self.chain, wallets.challenge_of(asks), key)))
        credential = found.credential if found else ""
        self.answers.append(
            Answer(sent, got, found is not None, price, status, bool(asks), receipt, text[:200], credential)
        )


@contextlib.asynccontextmanager
async def running(
    url: str, chain: Chain, payers: Sequence[str], *, rate: float = 50, paying: float = 15, hold: float = 1.0
) -> AsyncIterator[Traffic]:
    """Traffic for as long as the block lasts, from when the first payments are answered; every answer is in when
    it ends."""
    load = Traffic(url, chain, payers, rate, paying, hold)
    ended = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(LIMIT)) as http:
        task = asyncio.create_task(load._run(http, ended))
        try:
            await load.until(lambda: len(load.paid) >= paying)
            yield load
        finally:
            ended.set()
            await task
