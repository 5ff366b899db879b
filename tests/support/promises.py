"""A payment method whose chain is a dict of the test, and a gateway core around it. A test double, and no more:
nothing here checks a signature. The ledger, the gate, the settler and the closer are the real ones.

    world.rail.stop("after claim")       the next settlement waits there until `world.rail.go()`
    world.rail.sends = "lost"            what the chain does with the next transactions
    credential = world.pay(await world.challenge())
    await world.present(credential)

`World.present` holds two laws against every answer: no challenge once the chain moved money for that challenge id;
nothing let through without money moved (or a proof), nor while another delivery of the same payment is open.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import mpp
import pytest

from mpp_authz import challenge, wire
from mpp_authz.challenge import Keyring
from mpp_authz.closing import Closer
from mpp_authz.decide import Gate
from mpp_authz.delivery import Entry
from mpp_authz.keys import Keys
from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, State, stores
from mpp_authz.methods import (
    Claim,
    Credential,
    Never,
    NotYet,
    Quote,
    Refused,
    Settled,
    TransferRefused,
    Unavailable,
    Unknown,
    Verified,
)
from mpp_authz.metrics import Metrics
from mpp_authz.patience import Times
from mpp_authz.pricing import VERSION, FeePayer, Network, Offer, Pricing, RoutePrice, Transport
from mpp_authz.quotes import Request
from mpp_authz.settlement import Settler
from mpp_authz.verdicts import Allow, Deny, Verdict

KEY: Final = b"a key for tests, of 32 bytes or more"
NEXT_KEY: Final = b"another key for tests, of 32 bytes or more"
ROUTE: Final = "shop/llm/complete"
ENVOY: Final = "envoy-1"
LIMIT: Final = 10.0  # seconds a test waits for anything
ALICE, BOB = "0xa11ce", "0xb0b"
SHORT: Final = Times(settle_wait=0.4, in_progress_wait=0.1)


@dataclass(slots=True)
class Clock:
    """Moved by the test. One clock for the store and for minting."""

    ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def seconds(self) -> float:
        return self.ms / 1000

    def later(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a push transfer did, as the chain tells it."""

    challenge_id: str
    payer: str
    at: int  # Unix seconds of block time
    amount: str
    reverted: bool = False


@dataclass(slots=True)
class Rail:
    """The payment method "promise" and its chain. One class: the double has nothing to keep apart.

    Named points of `settle`: "before claim", "after claim" (sponsored: before the envelope), "before send",
    "after send". `stop` makes the next settlement wait at one; `dies_at` raises there, as a method's bug would.
    """

    clock: Clock
    name: str = "promise"
    sends: str = "settles"  # or "reverts", "lost" (accepted, not in a block until `include`)
    answers: str = "truth"  # or "unknown", "refused", "unavailable": what settle says after sending
    reachable: bool = True
    available: bool = True  # of `offered`
    dies_at: str = ""
    verify_says: Refused | TransferRefused | Unavailable | None = None
    blocks: dict[str, str] = field(default_factory=dict)  # transaction -> "settled" | "reverted"
    payers: dict[str, str] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # transaction -> challenge id
    sent: list[str] = field(default_factory=list)  # every broadcast, also of the same transaction
    verified: int = 0
    closed: bool = False
    _stops: dict[str, asyncio.Event] = field(default_factory=dict)
    _reached: dict[str, asyncio.Event] = field(default_factory=dict)
    _stopped: list[asyncio.Event] = field(default_factory=list)

    __hash__ = object.__hash__

    # --- for tests ---

    def stop(self, point: str) -> None:
        self._stops[point], self._reached[point] = asyncio.Event(), asyncio.Event()
        self._stopped.append(self._stops[point])

    async def reached(self, point: str) -> None:
        async with asyncio.timeout(LIMIT):
            await self._reached[point].wait()

    def go(self) -> None:
        for event in self._stopped:
            event.set()
        self._stops.clear()

    def forget(self) -> dict[str, asyncio.Event]:
        """Those who wait stay where they are, as in a dead process; nobody else stops. The points' events."""
        held = dict(self._stops)
        self._stops.clear()
        return held

    def include(self, transaction: str, state: str = "settled") -> None:
        self.blocks[transaction] = state

    def moved(self, challenge_id: str) -> bool:
        """Whether money moved, or still may, for a challenge."""
        pulled = any(self.owners[tx] == challenge_id and self.blocks.get(tx) != "reverted" for tx in self.sent)
        pushed = any(t.challenge_id == challenge_id and not t.reverted for t in self.transfers.values())
        return pulled or pushed

    def settlements(self) -> int:
        return sum(state == "settled" for state in self.blocks.values())

    async def _at(self, point: str) -> None:
        if self.dies_at == point:
            raise RuntimeError("the double was told to fail here")
        if point in self._stops:
            self._reached[point].set()
            await self._stops[point].wait()

    # --- methods.Method ---

    def request(self, offer: Offer, network: Network) -> dict[str, Any]:
        return {
            "amount": offer.amount,
            "currency": offer.currency,
            "recipient": offer.recipient,
            "methodDetails": {"chainId": network.chain_id},
        }

    async def offered(self, offer: Offer, network: Network) -> bool:
        return self.available

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        self.verified += 1
        await self._at("verify")
        if self.verify_says is not None:
            return self.verify_says
        said = credential.payload
        match said.get("type"):
            case "transaction":
                if said.get("signature") == "wrong":
                    return Refused("verification-failed", "The signature is wrong.")
                reference = None if said.get("sponsored") else str(said["tx"])
                valid_before = int(self.clock.seconds()) + 60
                return Verified("pull", said["payer"], bool(said["proved"]), reference, valid_before)
            case "hash":
                transfer = self.transfers.get(str(said["tx"]))
                if transfer is None:
                    return Unavailable("no such transaction yet")
                if transfer.reverted:
                    return Refused("verification-failed", "The transfer was reverted.")
                if transfer.amount != quote.request["amount"] or transfer.challenge_id != quote.challenge.id:
                    return TransferRefused(str(said["tx"]), "It pays for something else.")
                return Verified("push", transfer.payer, True, str(said["tx"]), None, transfer.at)
            case "proof":
                return Verified("proof", said["payer"], True, quote.challenge.id)
        return Refused("invalid-payload", "The payload's type is none of transaction, hash, proof.")

    async def settle(
        self, credential: Credential, quote: Quote, verified: Verified, claim: Claim
    ) -> Settled | Refused | Unknown | Unavailable:
        said = credential.payload
        transaction = verified.reference or str(said["tx"])
        self.owners[transaction] = quote.challenge.id
        self.payers[transaction] = str(verified.payer)
        await self._at("before claim")
        if not await claim.settling(transaction, verified.valid_before):
            return Refused("verification-failed", "claimed by another")
        await self._at("after claim")
        if verified.mode != "pull":
            return Settled(transaction, verified.payer)
        if said.get("sponsored") and not await claim.envelope(f"co-signed {transaction}"):
            return Refused("verification-failed", "the envelope was not stored")
        if self.answers == "refused":
            return Refused("verification-failed", "It was simulated, and would fail.")
        if self.answers == "unavailable":
            return Unavailable("the endpoint is down")
        await self._at("before send")
        self._send(transaction)
        await self._at("after send")
        if self.answers == "unknown" or transaction not in self.blocks:
            return Unknown("no receipt in time")
        if self.blocks[transaction] == "reverted":
            return Unknown("reverted")
        return Settled(transaction, verified.payer)

    def _send(self, transaction: str) -> None:
        self.sent.append(transaction)
        if self.sends != "lost" and transaction not in self.blocks:
            self.blocks[transaction] = {"settles": "settled", "reverts": "reverted"}[self.sends]

    async def resend(self, raw: str, network: Network) -> None:
        await self._at("resend")
        self._send(raw.removeprefix("co-signed "))

    def raw(self, credential: Credential) -> str | None:
        said = credential.payload
        return None if said.get("sponsored") else str(said["tx"])

    async def lookup(
        self, reference: str, valid_before: int | None, network: Network
    ) -> Settled | NotYet | Never | Unavailable:
        await self._at("lookup")
        if not self.reachable:
            return Unavailable("the endpoint does not answer")
        if reference in self.transfers:
            return Settled(reference, self.transfers[reference].payer)
        match self.blocks.get(reference):
            case "settled":
                return Settled(reference, self.payers.get(reference))
            case "reverted":
                return Never("reverted")
        if valid_before is not None and self.clock.seconds() > valid_before:
            return Never("its last valid moment is past")
        return NotYet()

    async def aclose(self) -> None:
        self.closed = True


NETWORK: Final = Network("devnet", "promise", 7, ("http://127.0.0.1:1",))
OFFER: Final = Offer("usd", "promise", "devnet", "0xC0", "0xFEED", "1000")
PRICE: Final = RoutePrice((OFFER,), expires_in=300, lease=60, realm="shop.example")
TERMS: Final = FeePayer("sponsor", max_per_minute=60, max_per_payer_per_minute=30, min_balance="1")


@dataclass(slots=True)
class Terms:
    """`cases.Terms` that a test edits."""

    routes: dict[str, RoutePrice]
    networks: dict[str, Network]
    keyring: Keyring
    transport: Transport = field(default_factory=Transport)
    after_reload: Callable[[], None] | None = None
    reloads: int = 0

    @property
    def pricing(self) -> Pricing:
        return Pricing(VERSION, "r1", self.routes, self.networks, self.transport)

    @property
    def keys(self) -> Keys:
        return Keys(self.keyring)

    def route(self, key: str) -> RoutePrice | None:
        return self.routes.get(key)

    def network(self, name: str) -> Network | None:
        return self.networks.get(name)

    async def reload_now(self) -> object:
        self.reloads += 1
        if self.after_reload is not None:
            self.after_reload()
        return None


class FailingLedger:
    """A ledger that is unavailable at its n-th call (from 1), before or after it did what was asked; `lasting`:
    and at every call from then on, until it is disarmed."""

    def __init__(self, inner: Ledger) -> None:
        self.inner = inner
        self.calls = 0
        self.fail_at: int | None = None
        self.after: bool = False
        self.lasting = False
        self.failed = False

    def arm(self, nth: int, *, after: bool = False, lasting: bool = False) -> None:
        self.calls, self.fail_at, self.after, self.failed = 0, nth, after, False
        self.lasting = lasting

    def disarm(self) -> None:
        self.fail_at = None

    def clock(self) -> int:
        """Asks nobody, so it cannot fail."""
        return self.inner.clock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            at = self.fail_at
            down = self.lasting and at is not None and self.calls > at
            fails = self.calls == at or down
            if fails and (down or not self.after):
                self.failed = True
                raise LedgerUnavailable("the store does not answer")
            result = await method(*arguments, **named)
            if fails:
                self.failed = True
                raise LedgerUnavailable("the store did not answer in time")
            return result

        return call


@dataclass(slots=True)
class World:
    """A gate, its ledger, its chain and a payer. `gates` are other processes on the same ledger file."""

    folder: Path
    clock: Clock
    rail: Rail
    terms: Terms
    ledger: Any
    gate: Gate
    open: dict[str, int] = field(default_factory=dict)  # payment -> attempt that is out
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def another(self, owner: str, ledger: Ledger | None = None, folder: Path | None = None) -> Gate:
        """Another process: its own settler and closer, the same store, the same chain. `folder`: on another
        machine, where it has that folder of outcome files and does not see ours."""
        return make_gate(folder or self.folder, self.clock, self.rail, self.terms, ledger or self.ledger, owner)

    def request(self, **fields: Any) -> Request:
        given: dict[str, Any] = {
            "route": ROUTE,
            "http_method": "POST",
            "host": "shop.example",
            "scheme": "https",
            "peer": "203.0.113.9",
            "path": "/v1/complete",
            "query": "model=a",
            "data_plane": ENVOY,
        }
        return Request(**(given | fields))

    async def challenge(self, **fields: Any) -> mpp.Challenge:
        """The first challenge of a 402, as a client reads it (pympp's parser)."""
        verdict = await self.gate.check(self.request(**fields))
        assert isinstance(verdict, Deny), verdict
        lines = challenges(verdict)
        assert lines, verdict
        return mpp.Challenge.from_www_authenticate(lines[0])

    def transaction(self) -> str:
        return f"0x{next(self._numbers):064x}"

    def pay(self, asked: mpp.Challenge, *, kind: str = "transaction", payer: str = ALICE, **payload: Any) -> str:
        """A credential for a challenge: the value of an Authorization header."""
        said = {"type": kind, "tx": self.transaction(), "payer": payer, "proved": True, "sponsored": False}
        return credential(echo(asked), said | payload)

    def push(self, asked: mpp.Challenge, *, payer: str = ALICE, **fields: Any) -> str:
        """Move the money first, then make a credential that says so."""
        transaction = self.transaction()
        given = {"at": int(self.clock.seconds()), "amount": asked.request["amount"], "challenge_id": asked.id}
        self.rail.transfers[transaction] = Transfer(payer=payer, **(given | fields))
        return credential(echo(asked), {"type": "hash", "tx": transaction})

    async def present(self, authorization: str, *, gate: Gate | None = None, **fields: Any) -> Verdict:
        """Send a request with a credential; the answer is held against the laws."""
        request = self.request(authorization=authorization, **fields)
        verdict = await (gate or self.gate).check(request)
        await self.hold(verdict, authorization)
        return verdict

    async def hold(self, verdict: Verdict, authorization: str) -> None:
        """The laws of docs/payments.md, on one answer."""
        presented = read(authorization)
        match verdict:
            case Deny():
                if challenges(verdict):
                    assert not self.rail.moved(presented), f"asked twice: {verdict}"
            case Allow():
                row = await self.inner.get(verdict.payment)
                assert row is not None
                assert row.mode == "proof" or self.rail.moved(row.id), f"a free ride: {verdict}"
                assert row.state in (State.DELIVERING, State.DELIVERED), row
                if row.state is State.DELIVERING:
                    assert verdict.payment not in self.open, f"delivered twice at once: {verdict}"
                    self.open[verdict.payment] = verdict.attempt

    @property
    def inner(self) -> Ledger:
        """The store itself, also where a test makes it fail."""
        found: Ledger = self.ledger.inner if isinstance(self.ledger, FailingLedger) else self.ledger
        return found

    async def row(self, authorization: str) -> Payment:
        found = await self.inner.get(read(authorization))
        assert found is not None
        return found

    async def state(self, authorization: str) -> State:
        return (await self.row(authorization)).state

    async def news(self, allowed: Verdict, status: int = 200, *, gate: Gate | None = None, **fields: Any) -> None:
        """Envoy's access log of a request that was let through."""
        assert isinstance(allowed, Allow), allowed
        given: dict[str, Any] = {"flags": frozenset(), "details": "via_upstream", "upstream_finished": True}
        entry = Entry(allowed.payment, allowed.attempt, status, **(given | fields))
        self.open.pop(allowed.payment, None)
        await (gate or self.gate).closer.record(entry)

    def lease_ends(self) -> None:
        """Time passes, and every delivery that is out counts as lost."""
        self.clock.later(PRICE.lease + 1)
        self.open.clear()

    async def idle(self, gate: Gate | None = None) -> None:
        """Settlements that run have come to an end."""
        async with asyncio.timeout(LIMIT):
            while (gate or self.gate).settler.busy:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.001)

    async def check_ended(self, authorization: str) -> None:
        """The row says that nobody waits for its settlement."""
        async with asyncio.timeout(LIMIT):
            while not (await self.row(authorization)).check_ended:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.001)

    async def until(self, authorization: str, *states: State) -> Payment:
        async with asyncio.timeout(LIMIT):
            while True:
                row = await self.inner.get(read(authorization))
                if row is not None and row.state in states:
                    return row
                await asyncio.sleep(0.001)


async def listening(gate: Gate, clock: Clock, seconds: float) -> None:
    """Time passes while a process hears of other machines' Envoys, and can say that it would have."""
    until = clock.ms + round(seconds * 1000)
    while clock.ms < until:
        await gate.closer.beat()
        clock.later(min(gate.closer.times.beat, (until - clock.ms) / 1000))
    await gate.closer.beat()


def make_gate(
    folder: Path,
    clock: Clock,
    rail: Rail,
    terms: Terms,
    ledger: Any,
    owner: str,
    times: Times = SHORT,
) -> Gate:
    counters = Metrics()
    # Checks are made to wait for moments; leases and the like are as long as they are for real.
    closer = Closer(ledger, folder, counters, owner=owner)
    settler = Settler(ledger, {rail.name: rail}, owner, counters)
    return Gate(terms, ledger, {rail.name: rail}, settler, closer, counters, times)


@asynccontextmanager
async def make_world(
    folder: Path,
    *,
    price: RoutePrice = PRICE,
    failing: bool = False,
    owner: str = "authz-0/boot-1",
    store_url: str | None = None,
) -> AsyncIterator[World]:
    """`store_url`: a store of `ledgers.FACTORIES`, which reads the world's clock; else a file in `folder`."""
    clock = Clock()
    rail = Rail(clock)
    terms = Terms({ROUTE: price}, {NETWORK.name: NETWORK}, Keyring((KEY,)))
    _prepare(folder)
    store = await stores.open_ledger(store_url or f"sqlite:{folder / 'ledger.db'}", clock=clock)
    ledger: Any = FailingLedger(store) if failing else store
    gate = make_gate(folder, clock, rail, terms, ledger, owner)
    await gate.settler.networks.remember(terms.networks)
    world = World(folder, clock, rail, terms, ledger, gate)
    try:
        yield world
    finally:
        rail.go()
        await gate.settler.aclose(LIMIT)
        await store.close()


def _prepare(folder: Path) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{ENVOY}{wire.OUTCOME_LIVE_SUFFIX}").touch()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A fresh gate on a fresh ledger, its chain and its clock."""
    async with make_world(tmp_path / "state") as made:
        yield made


# --- on the wire ---------------------------------------------------------------------------------------


def challenges(verdict: Verdict) -> tuple[str, ...]:
    """The `www-authenticate` lines of an answer."""
    if isinstance(verdict, Allow):
        return ()
    return tuple(value for name, value in verdict.headers if name == "www-authenticate")


def header(verdict: Deny, name: str) -> str | None:
    return next((value for key, value in verdict.headers if key == name), None)


def problem(verdict: Verdict) -> tuple[int, str]:
    """Status and slug of a refusal."""
    assert isinstance(verdict, Deny), verdict
    document = json.loads(verdict.body)
    slug = document["type"].rpartition("/")[2]
    assert (verdict.kind.status, verdict.kind.slug) == (document["status"], slug)
    return verdict.kind.status, slug


def echo(asked: mpp.Challenge, **changes: Any) -> dict[str, Any]:
    """The `challenge` object of a credential, as pympp writes it."""
    said = asked.to_echo()
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "opaque", "header")
    document = {name: getattr(said, name) for name in names if getattr(said, name) is not None}
    return document | changes


def credential(challenge_echo: Mapping[str, Any], payload: Mapping[str, Any], **rest: Any) -> str:
    document = {"challenge": dict(challenge_echo), "payload": dict(payload), **rest}
    return "Payment " + challenge.b64url(json.dumps(document).encode())


def read(authorization: str) -> str:
    """The challenge id a credential echoes."""
    return challenge.read_credential(authorization.removeprefix("Payment ")).challenge.id


def priced(price: RoutePrice = PRICE, **changes: Any) -> RoutePrice:
    return replace(price, **changes)
