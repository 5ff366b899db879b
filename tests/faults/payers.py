"""Clients as they are, with every exchange written down: mppx, pympp's own, and one that keeps its credential.

    async with payers.mppx(chain.rpc_url, chain.chain_id) as payer:
        exchanges = await payer.want(case, lambda n: urls[n % 3], key=key, body=b"", patience=payers.Patience())
    again = await payers.present(url, exchanges[-1])

mppx and pympp are not changed: their HTTP is watched. A client tries again as its user would: with a new
request, after what `Retry-After` says. `sent_at` is when a request left, `got_at` when its headers came, or when
it was clear that none will. Uses nothing of the gateway's own code.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import httpx
import mpp
import rlp  # type: ignore[import-untyped]  # ships no types
import wallets
from mpp.client.transport import PaymentTransport
from mpp.methods.tempo import TempoAccount, attribution
from mpp.methods.tempo import client as tempo_client
from pytempo import Call, TempoTransaction  # type: ignore[import-untyped]
from witnesses import Case, Exchange, Mode

#: What Retry-After says at the most, for tests that have no day to wait. Seconds.
LONGEST_PAUSE: Final = 0.3
_FIRST_PAUSE: Final = 0.05
_ID: Final = re.compile(r'(?:^|[\s,])id="([^"]+)"')

#: Base URL, without a slash at the end, of the n-th try: what a balancer in front of replicas does.
Urls = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Patience:
    """When a client gives up: so many tries, or so many seconds, whichever comes first; `each` is one request's
    time limit."""

    tries: int = 20
    seconds: float = 30.0
    each: float = 15.0


@dataclass(frozen=True, slots=True)
class HangUp:
    """Leave a request with a credential, once. `when` is awaited from the moment it was sent, and the client
    leaves when it returns; None: it leaves as soon as it has the headers."""

    when: Callable[[], Awaitable[object]] | None = None


class Payer(Protocol):
    """One kind of client. One case at a time each `want`; many at once on one payer."""

    async def want(
        self,
        case: Case,
        urls: Urls,
        *,
        key: str,
        body: bytes = b"",
        patience: Patience = ...,
        idempotency_key: str | None = None,
        hang_up: HangUp | None = None,
    ) -> tuple[Exchange, ...]:
        """Ask until a 2xx is whole, or until patience ends; every exchange, in the order of sending."""
        ...


# --- what is seen --------------------------------------------------------------------------------------


def challenge_ids(www_authenticate: str) -> tuple[str, ...]:
    """The ids in `WWW-Authenticate`; several values may be joined by commas."""
    return tuple(_ID.findall(www_authenticate)) if "payment" in www_authenticate.lower() else ()


def challenge_of(credential: str) -> str | None:
    """The id of the challenge that a credential answers; None: it cannot be read."""
    document = _decoded(credential.partition(" ")[2].strip())
    challenge = document.get("challenge") if document is not None else None
    return str(challenge["id"]) if isinstance(challenge, dict) and "id" in challenge else None


def references(receipts: str) -> tuple[str, ...]:
    """`reference` of each receipt in `Payment-Receipt`, lower case; several values may be joined by commas."""
    found = []
    for value in filter(None, (part.strip() for part in receipts.split(","))):
        document = _decoded(value)
        reference = document.get("reference") if document is not None else None
        found.append(reference.lower() if isinstance(reference, str) and reference else "unreadable")
    return tuple(found)


def body_hash(body: bytes) -> str:
    """As `witnesses.Case` has it."""
    return hashlib.sha256(body).hexdigest() if body else ""


def address(key: str) -> str:
    """Lower case."""
    return str(TempoAccount.from_key(key).address).lower()


def _decoded(token: str) -> dict[str, Any] | None:
    try:
        document = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _answered(exchange: Exchange, status: int, headers: Mapping[str, str]) -> Exchange:
    """With what the head of an answer says; names are lower case, repeated ones joined by commas."""
    return replace(
        exchange,
        status=status,
        receipts=references(headers.get("payment-receipt", "")),
        challenges=challenge_ids(headers.get("www-authenticate", "")),
        credit=headers.get("payment-credit"),
    )


def _served(exchange: Exchange) -> bool:
    return 200 <= exchange.status < 300 and exchange.whole


def _credential_of(headers: Mapping[str, str]) -> str | None:
    for name in ("payment-authorization", "authorization"):
        value = headers.get(name, "")
        if value.lower().startswith("payment "):
            return value
    return None


def _blank(case: Case, payer: str, sent_at: float, credential: str | None) -> Exchange:
    return Exchange(
        case.id,
        payer,
        case.method,
        case.target,
        case.body_hash,
        sent_at,
        sent_at,
        credential=credential,
        challenge=None if credential is None else challenge_of(credential),
    )


# --- trying again --------------------------------------------------------------------------------------

#: One try: its number, and whether to hang up in it. Gives its exchanges and the last Retry-After.
_Try = Callable[[int, HangUp | None], Awaitable[tuple[list[Exchange], str | None]]]


async def _patiently(patience: Patience, hang_up: HangUp | None, attempt: _Try) -> tuple[Exchange, ...]:
    """Try until one is served; hang up in the first try that presents a credential, and in no other."""
    deadline = time.monotonic() + patience.seconds
    seen: list[Exchange] = []
    for number in range(patience.tries):
        exchanges, retry_after = await attempt(number, hang_up)
        seen += exchanges
        if any(map(_served, exchanges)) or time.monotonic() > deadline:
            break
        if any(exchange.credential for exchange in exchanges):
            hang_up = None
        await asyncio.sleep(_pause(retry_after, number))
    return tuple(sorted(seen, key=lambda exchange: exchange.sent_at))


def _pause(retry_after: str | None, number: int) -> float:
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), LONGEST_PAUSE)
    return min(_FIRST_PAUSE * 2.0 ** min(number, 8), LONGEST_PAUSE)


# --- mppx ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Mppx:
    """Unmodified mppx in one Node process. Its credentials are new at each try, as it makes them."""

    process: asyncio.subprocess.Process
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)
    _asked: dict[int, asyncio.Event] = field(default_factory=dict)
    _done: dict[int, "asyncio.Future[dict[str, Any]]"] = field(default_factory=dict)

    async def want(
        self,
        case: Case,
        urls: Urls,
        *,
        key: str,
        body: bytes = b"",
        patience: Patience = Patience(),
        idempotency_key: str | None = None,
        hang_up: HangUp | None = None,
    ) -> tuple[Exchange, ...]:
        """See `Payer.want`."""

        async def attempt(number: int, leaving: HangUp | None) -> tuple[list[Exchange], str | None]:
            question = {
                "url": urls(number) + case.target,
                "method": case.method,
                "headers": {} if idempotency_key is None else {"Idempotency-Key": idempotency_key},
                "body": body.decode() if body else None,
                "mode": str(case.mode),
                "key": key,
                "limit": patience.each,
                "leave": "headers" if leaving is not None and leaving.when is None else None,
            }
            seen = await self._try(question, leaving)
            exchanges = [
                _answered(
                    replace(
                        _blank(case, address(key), one["sent_at"], one["credential"]),
                        got_at=one["got_at"],
                        whole=one["whole"],
                        hung_up=one["hung_up"],
                    ),
                    one["status"],
                    one["headers"],
                )
                for one in seen
            ]
            return exchanges, seen[-1]["headers"].get("retry-after") if seen else None

        return await _patiently(patience, hang_up, attempt)

    async def _try(self, question: dict[str, Any], leaving: HangUp | None) -> list[dict[str, Any]]:
        number = next(self._ids)
        self._asked[number] = asyncio.Event()
        done = self._done[number] = asyncio.get_running_loop().create_future()
        await self._say({"id": number} | question)
        watching = asyncio.create_task(self._leave(number, leaving))
        try:
            exchanges: list[dict[str, Any]] = (await done)["exchanges"]
            return exchanges
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            del self._asked[number], self._done[number]

    async def _leave(self, number: int, leaving: HangUp | None) -> None:
        if leaving is not None and leaving.when is not None:
            await self._asked[number].wait()
            await leaving.when()
            await self._say({"id": number, "abort": True})

    async def _say(self, document: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document).encode() + b"\n")
        await self.process.stdin.drain()

    async def read(self) -> None:
        """Take what the process says, until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            document = json.loads(line)
            if document["event"] == "asked":
                self._asked[document["id"]].set()
            else:
                self._done[document["id"]].set_result(document)
        for waiting in self._done.values():
            if not waiting.done():
                waiting.set_exception(RuntimeError("the Node process of mppx ended; what it said is on stderr"))


@contextlib.asynccontextmanager
async def mppx(rpc_url: str, chain_id: int) -> AsyncIterator[Mppx]:
    """mppx for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        wallets.node_program(),
        str(wallets.JS / "payer.mjs"),
        rpc_url,
        str(chain_id),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    payer = Mppx(process)
    reading = asyncio.create_task(payer.read())
    try:
        yield payer
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await reading
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


# --- over httpx: what is watched -----------------------------------------------------------------------


class _Watched(httpx.AsyncBaseTransport):
    """Writes down what passes, and hands it on as it is."""

    def __init__(self, case: Case, payer: str, hang_up: HangUp | None) -> None:
        self._inner = httpx.AsyncHTTPTransport(retries=0)
        self._case, self._payer = case, payer
        self.leaves_after_headers = hang_up is not None and hang_up.when is None
        self.seen: list[Exchange] = []
        self.retry_after: str | None = None
        self.asked = asyncio.Event()
        self.left = False  # by the client's own decision

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        at = len(self.seen)
        credential = _credential_of(request.headers)
        self.seen.append(_blank(self._case, self._payer, time.monotonic(), credential))
        if credential is not None:
            self.asked.set()
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException as error:
            gave_up = isinstance(error, asyncio.CancelledError | httpx.TimeoutException)
            self.seen[at] = replace(self.seen[at], got_at=time.monotonic(), hung_up=gave_up)
            raise
        self.seen[at] = _answered(
            replace(self.seen[at], got_at=time.monotonic()), response.status_code, response.headers
        )
        self.retry_after = response.headers.get("retry-after")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, self, at)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Body(httpx.AsyncByteStream):
    """A body that says whether it arrived to its end."""

    def __init__(self, inner: httpx.AsyncByteStream, watched: _Watched, at: int) -> None:
        self._inner, self._watched, self._at = inner, watched, at

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._inner:
                yield part
        except (asyncio.CancelledError, httpx.TimeoutException):
            self._mark(hung_up=True)
            raise
        self._mark(whole=True)

    async def aclose(self) -> None:
        seen = self._watched.seen[self._at]
        if self._watched.left and not seen.whole:
            self._mark(hung_up=True)
        await self._inner.aclose()

    def _mark(self, *, whole: bool = False, hung_up: bool = False) -> None:
        self._watched.seen[self._at] = replace(self._watched.seen[self._at], whole=whole, hung_up=hung_up)


async def _sent(
    client: httpx.AsyncClient, watched: _Watched, request: httpx.Request, leaving: HangUp | None
) -> None:
    """Send one request and read its answer; leave when told to."""

    async def whole() -> None:
        response = await client.send(request, stream=True)
        if watched.leaves_after_headers and watched.asked.is_set():
            watched.left = True
        else:
            await response.aread()
        await response.aclose()

    asking = asyncio.create_task(whole())
    leave = asyncio.create_task(_leave(watched, leaving, asking))
    try:
        await asking
    except asyncio.CancelledError:
        if not watched.left:
            raise
    except Exception:
        # Of whatever kind: the client has no answer, which its exchange says.
        return
    finally:
        leave.cancel()
        await asyncio.gather(leave, return_exceptions=True)


async def _leave(watched: _Watched, leaving: HangUp | None, asking: "asyncio.Task[None]") -> None:
    if leaving is not None and leaving.when is not None:
        await watched.asked.wait()
        await leaving.when()
        watched.left = True
        asking.cancel()


def _headers(body: bytes, idempotency_key: str | None) -> dict[str, str]:
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    return headers | ({"Content-Type": "text/plain"} if body else {})


# --- pympp ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pympp:
    """pympp's own client: a new credential at each try. Pull mode only, as it is."""

    rpc_url: str
    chain_id: int

    async def want(
        self,
        case: Case,
        urls: Urls,
        *,
        key: str,
        body: bytes = b"",
        patience: Patience = Patience(),
        idempotency_key: str | None = None,
        hang_up: HangUp | None = None,
    ) -> tuple[Exchange, ...]:
        """See `Payer.want`."""

        async def attempt(number: int, leaving: HangUp | None) -> tuple[list[Exchange], str | None]:
            watched = _Watched(case, address(key), leaving)
            # Of itself it would wait 35 s for a paid request, whatever the client's own limit is.
            transport = PaymentTransport(
                [_method(key, self.rpc_url, self.chain_id)], watched, paid_retry_timeout=patience.each
            )
            async with httpx.AsyncClient(transport=transport, timeout=patience.each) as client:
                request = client.build_request(
                    case.method,
                    urls(number) + case.target,
                    content=body or None,
                    headers=_headers(body, idempotency_key),
                )
                await _sent(client, watched, request, leaving)
            return watched.seen, watched.retry_after

        return await _patiently(patience, hang_up, attempt)


def _method(key: str, rpc_url: str, chain_id: int) -> Any:
    return tempo_client.charge(account=TempoAccount.from_key(key), chain_id=chain_id, rpc_url=rpc_url)


# --- one that keeps its credential ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keeper:
    """Pays once, and presents that credential until it is served, as a payer does who was told to. With
    `case.copies`, all of them at once first, the n-th at `urls(n)`. Signs as pympp does; in push mode it sends the
    transfer itself and presents the hash."""

    rpc_url: str
    chain_id: int

    async def want(
        self,
        case: Case,
        urls: Urls,
        *,
        key: str,
        body: bytes = b"",
        patience: Patience = Patience(),
        idempotency_key: str | None = None,
        hang_up: HangUp | None = None,
    ) -> tuple[Exchange, ...]:
        """See `Payer.want`."""
        kept: list[str] = []

        async def ask(number: int, credential: str | None, leaving: HangUp | None) -> _Asked:
            return await _ask(case, urls(number), key, credential, body, idempotency_key, patience.each, leaving)

        async def attempt(number: int, leaving: HangUp | None) -> tuple[list[Exchange], str | None]:
            if not kept:
                first = await ask(number, None, None)
                if not first.offers:
                    return [first.exchange], first.retry_after
                kept.append(await self._pay(first.offers, case.mode, key))
                copies = await asyncio.gather(*(ask(n, kept[0], leaving) for n in range(case.copies)))
                return [first.exchange, *(one.exchange for one in copies)], copies[-1].retry_after
            again = await ask(number, kept[0], leaving)
            if again.exchange.challenges:
                kept.clear()  # told to pay anew: nothing was taken
            return [again.exchange], again.retry_after

        return await _patiently(patience, hang_up, attempt)

    async def _pay(self, offers: tuple[str, ...], mode: Mode, key: str) -> str:
        challenge = mpp.Challenge.from_www_authenticate(offers[0])
        if mode is Mode.PULL:
            credential = await tempo_client.TempoMethod(
                account=TempoAccount.from_key(key), chain_id=self.chain_id, rpc_url=self.rpc_url
            ).create_credential(challenge)
            return credential.to_authorization()
        reference = await self._send(challenge, key)
        source = f"did:pkh:eip155:{self.chain_id}:{TempoAccount.from_key(key).address}"
        return mpp.Credential(challenge.to_echo(), {"type": "hash", "hash": reference}, source).to_authorization()

    async def _send(self, challenge: mpp.Challenge, key: str) -> str:
        """A transfer that is bound to the challenge; its hash, once it is in a block."""
        memo = attribution.encode(challenge.id, challenge.realm)
        words = [challenge.request["recipient"][2:].lower().zfill(64), f"{int(challenge.request['amount']):064x}"]
        unsigned = TempoTransaction.create(
            chain_id=self.chain_id,
            gas_limit=1_000_000,
            max_fee_per_gas=25_000_000_000,
            max_priority_fee_per_gas=1_000_000_000,
            nonce=0,
            nonce_key=(1 << 256) - 1,  # expiring: no counter to read
            fee_token=challenge.request["currency"],
            valid_before=int(time.time()) + 25,
            calls=(
                Call.create(
                    to=challenge.request["currency"], value=0, data="0x95777d59" + "".join([*words, memo[2:]])
                ),
            ),
        )
        raw = "0x" + unsigned.sign(key).encode().hex()
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransactionSync", "params": [raw]}
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            document = (await http.post(self.rpc_url, json=call)).json()
        return str(document["result"]["transactionHash"])


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request's exchange, and what to do next: the challenges as they came, and when to come back."""

    exchange: Exchange
    offers: tuple[str, ...]
    retry_after: str | None


async def _ask(
    case: Case,
    url: str,
    key: str,
    credential: str | None,
    body: bytes,
    idempotency_key: str | None,
    limit: float,
    leaving: HangUp | None = None,
) -> _Asked:
    watched = _Watched(case, address(key), leaving)
    offers: list[str] = []

    async def seen(response: httpx.Response) -> None:
        offers.extend(response.headers.get_list("www-authenticate"))

    async with httpx.AsyncClient(transport=watched, timeout=limit, event_hooks={"response": [seen]}) as client:
        headers = _headers(body, idempotency_key)
        if credential is not None:
            headers["Authorization"] = credential
        request = client.build_request(case.method, url + case.target, content=body or None, headers=headers)
        await _sent(client, watched, request, leaving)
    return _Asked(watched.seen[0], tuple(offers), watched.retry_after)


# --- at the end, and by others -------------------------------------------------------------------------


async def present(
    url: str,
    exchange: Exchange,
    *,
    body: bytes = b"",
    final: bool = True,
    other: bool = False,
    method: str | None = None,
    target: str | None = None,
    payer: str | None = None,
    idempotency_key: str | None = None,
    limit: float = 20.0,
) -> Exchange:
    """Present an exchange's credential once more, at `url` (a base URL). `body` is what it was paid for, where
    that has one. `other`: a probe, by somebody else (`payer`), or for another `method`, `target` or body."""
    assert exchange.credential is not None, exchange
    watched = _Watched(_as_case(exchange, method, target, body), payer or exchange.payer, None)
    async with httpx.AsyncClient(transport=watched, timeout=limit) as client:
        headers = _headers(body, idempotency_key) | {"Authorization": exchange.credential}
        request = client.build_request(
            method or exchange.method, url + (target or exchange.target), content=body or None, headers=headers
        )
        await _sent(client, watched, request, None)
    return replace(watched.seen[0], final=final and not other, other=other)


async def stranger(
    case: Case,
    url: str,
    rpc_url: str,
    chain_id: int,
    *,
    key: str,
    forged: bool = False,
    body: bytes = b"",
    limit: float = 20.0,
) -> tuple[Exchange, ...]:
    """Somebody who has no money asks for what a case asks for, with a credential of its own: a credit that is owed
    to the case's payer must not serve it. It is rightly signed, or names the case's payer as its sender with a
    signature of a kind that only the chain can judge. Two exchanges, or one where there was no quote."""
    first = await _ask(case, url, key, None, body, None, limit)
    if not first.offers:
        return (replace(first.exchange, other=True),)
    credential = await Keeper(rpc_url, chain_id)._pay(first.offers, Mode.PULL, key)
    if forged:
        credential = _forged(credential, case.payer)
    second = await _ask(case, url, key, credential, body, None, limit)
    return tuple(replace(one.exchange, other=True) for one in (first, second))


def _forged(credential: str, victim: str) -> str:
    """The same transaction in the name of a multisig account: 0x05, then rlp([account, signatures])."""
    document = _decoded(credential.partition(" ")[2])
    assert document is not None
    raw = bytes.fromhex(document["payload"]["signature"][2:])
    fields = rlp.decode(raw[1:])
    fields[-1] = b"\x05" + rlp.encode([bytes.fromhex(victim[2:]), [fields[-1]]])
    document["payload"]["signature"] = "0x" + (raw[:1] + rlp.encode(fields)).hex()
    document["source"] = document["source"].rpartition(":")[0] + ":" + victim
    return "Payment " + base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def _as_case(exchange: Exchange, method: str | None, target: str | None, body: bytes) -> Case:
    return Case(
        exchange.case,
        exchange.payer,
        method or exchange.method,
        target or exchange.target,
        body_hash(body),
        0,
        Mode.PULL,
    )
