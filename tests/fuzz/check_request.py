"""The whole decision: the bytes of a CheckRequest, through the real gate, to the bytes of a CheckResponse. The
chain is the double of `promises` and the ledger a dict; payments are there in every state before an input is read.
An input is a serialised envoy.service.auth.v3.CheckRequest; a credential in it that begins with a mark (`RESIGN`)
is signed again: whoever shares our key can sign anything.

The laws are those of docs/payments.md: nothing is let through without money moved or a proof, no challenge where
money moved, and every refusal is one of our problems.
"""

import asyncio
import copy
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import memory_ledger
import mutation
import plants
import promises
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError

from mpp_authz import challenge, problems, quotes, service, wire
from mpp_authz.challenge import Bound, Challenge, Keyring, MalformedCredential
from mpp_authz.closing import Closer
from mpp_authz.decide import Gate
from mpp_authz.ledger import Payment, State
from mpp_authz.methods import Credential, Quote, Refused, TransferRefused, Unavailable, Verified
from mpp_authz.metrics import Metrics
from mpp_authz.patience import Times
from mpp_authz.pricing import Offer, RoutePrice, Transport
from mpp_authz.settlement import Settler
from mpp_authz.verdicts import Allow, Deny, Verdict

_LISTENER: Final = plants.listen()
#: Does not exist: no outcome file is ever found.
_FOLDER: Final = Path("/nonexistent/mpp-fuzz")
#: A check waits for nobody here.
_TIMES: Final = Times(settle_wait=0.2, in_progress_wait=0.01)
_METRICS: Final = Metrics()
RESIGN: Final = "~"

ROUTES: Final[Mapping[str, RoutePrice]] = {
    promises.ROUTE: promises.PRICE,
    "shop/llm/digest": replace(promises.PRICE, digest_max_bytes=1024, idempotent=True),
    "shop/llm/header": replace(promises.PRICE, credential_header="Payment-Authorization", bind_query=False),
    "shop/llm/here": replace(promises.PRICE, realm=None, description='say "please"', not_before=1_700_000_000),
    "shop/llm/two": replace(
        promises.PRICE,
        offers=(promises.OFFER, Offer("other", "promise", "devnet", "0xC1", "0xFEED", "5", modes=("push",))),
    ),
}
KEYRING: Final = Keyring((promises.KEY, promises.NEXT_KEY))
_MEANT: Final = ("type", "tx", "payer", "proved", "sponsored", "signature")


class Rail(promises.Rail):
    """The double, which expects a payload of its own making: what it could not read is refused, as methods do."""

    async def verify(
        self, credential: Credential, quote: Quote
    ) -> Verified | Refused | TransferRefused | Unavailable:
        said = credential.payload
        needed = ("type", "tx") if said.get("type") == "hash" else ("type", "tx", "payer")
        if not all(isinstance(said.get(name), str) and str(said[name]).isalnum() for name in needed):
            return Refused("invalid-payload", "The payload does not fit its type.")
        try:
            return await super().verify(credential, quote)
        except LookupError:
            return Refused("invalid-payload", "The payload does not fit its type.")


@dataclass(frozen=True, slots=True)
class Past:
    """What had happened before the input came."""

    rows: Mapping[str, Payment]
    rail: Rail
    credentials: Mapping[str, str]  # by what became of them


def minted(nonce: str, route: str = promises.ROUTE, **changes: Any) -> Challenge:
    """A challenge of ours, the same each time."""
    price, clock = ROUTES[route], promises.Clock()
    request = promises.Rail(clock).request(price.offers[0], promises.NETWORK)
    bound = Bound(
        nonce,
        clock.ms,
        "POST",
        route,
        KEYRING.target_hash("/v1?model=a" if price.bind_query else "/v1"),
        "devnet",
        "usd",
    )
    given: dict[str, Any] = {
        "realm": price.realm or "shop.example",
        "method": "promise",
        "intent": "charge",
        "request": challenge.canonical(request),
        "expires": challenge.timestamp(clock.ms + 300_000),
        "opaque": bound.encode(),
        "digest": quotes.Request(route, "POST", "", "", "", "", "", body=b"{}").digest
        if price.digest_max_bytes
        else None,
        "header": "Payment-Authorization" if price.credential_header != "Authorization" else None,
    }
    return KEYRING.mint(**given | changes)


def credential(asked: Challenge, number: int, **payload: Any) -> str:
    """The header's value that pays it. The planted secret stands where a signature would."""
    said = {
        "type": "transaction",
        "tx": f"0x{number:064x}",
        "payer": "0xa11ce",
        "proved": True,
        "sponsored": False,
        "signature": plants.SECRET,
    }
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "header", "opaque")
    echo = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    return promises.credential(echo, said | payload, source=plants.SECRET)


def message(route: str | None, headers: Mapping[str, str], body: bytes = b"", **http: str) -> Any:
    """A CheckRequest as Envoy fills it in."""
    made = external_auth_pb2.CheckRequest()
    attributes = made.attributes
    attributes.source.address.socket_address.address = "203.0.113.9"
    if route is not None:
        attributes.context_extensions[wire.ROUTE_CONTEXT] = route
    given = {"method": "POST", "host": "shop.example:8443", "scheme": "https", "path": "/v1?model=a"} | http
    for name, value in given.items():
        setattr(attributes.request.http, name, value)
    attributes.request.http.raw_body = body
    attributes.request.http.headers.update({"x-request-id": "r-1", **headers})
    return made


def _gate(rail: Rail, ledger: Any) -> Gate:
    terms = promises.Terms(dict(ROUTES), {"devnet": promises.NETWORK}, KEYRING, Transport())
    closer = Closer(ledger, _FOLDER, _METRICS, owner="authz-0/boot-1")
    settler = Settler(ledger, {rail.name: rail}, "authz-0/boot-1", _METRICS, _TIMES)
    return Gate(terms, ledger, {rail.name: rail}, settler, closer, _METRICS, _TIMES)


async def _past() -> Past:
    """One payment of each kind, made by the real gate."""
    clock = promises.Clock()
    rail = Rail(clock)
    ledger = memory_ledger.MemoryLedger(clock)
    gate = _gate(rail, ledger)
    credentials = {}
    for number, state in enumerate(
        (State.DELIVERED, State.CREDIT, State.DELIVERING, State.FAILED, State.UNKNOWN, State.OWED), start=1
    ):
        asked = minted(f"past-{state}")
        header = credentials[str(state)] = credential(asked, number, payer=f"0xb0b{number}")
        rail.sends = {State.FAILED: "reverts", State.UNKNOWN: "lost"}.get(state, "settles")
        await gate.check(service.read(message(promises.ROUTE, {"authorization": header}), promises.ENVOY))
        row = ledger.rows[asked.id]
        if state in (State.DELIVERED, State.CREDIT, State.OWED):
            row = replace(row, state=state)
        assert row.state is state, row
        ledger.rows[asked.id] = row
    rail.sends = "settles"
    rail.transfers["0x" + "77" * 32] = promises.Transfer(
        minted("pushed").id, "0xa11ce", int(clock.seconds()), "1000"
    )
    for name, asked in (
        ("fresh", minted("fresh")),
        ("digest", minted("fresh", "shop/llm/digest")),
        ("header", minted("fresh", "shop/llm/header")),
        ("here", minted("fresh", "shop/llm/here")),
        ("expired", minted("fresh", expires="2020-01-01T00:00:00.000Z")),
        ("foreign", replace(minted("fresh"), id="A" * 43)),
    ):
        credentials[name] = credential(asked, 100)
    credentials["sponsored"] = credential(minted("fresh"), 101, sponsored=True)
    credentials["forged"] = credential(minted("fresh"), 102, signature="wrong")
    credentials["proof"] = credential(minted("fresh"), 103, type="proof")
    credentials["pushed"] = credential(minted("pushed"), 0, type="hash", tx="0x" + "77" * 32)
    credentials["taken"] = credential(minted("fresh"), 1)  # the transaction of another payment
    return Past(dict(ledger.rows), rail, credentials)


PAST: Final = asyncio.run(_past())


def one(data: bytes) -> None:
    answer(data)


def answer(data: bytes) -> Verdict | None:
    """The verdict on an input; None: it is no CheckRequest."""
    made = external_auth_pb2.CheckRequest()
    try:
        made.MergeFromString(data)
    except DecodeError:
        return None
    headers = made.attributes.request.http.headers
    for name in ("authorization", wire.CREDENTIAL_HEADER):
        if headers.get(name, "").startswith(RESIGN):
            headers[name] = resigned(headers[name].removeprefix(RESIGN))
    _LISTENER.lines.clear()
    verdict, shown = asyncio.run(_decided(made))
    if not _public(made):
        plants.not_shown(*shown, *_LISTENER.lines)
    return verdict


async def _decided(made: Any) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and all that it leaves for others to see."""
    failures: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    rail = copy.copy(PAST.rail)
    for name in ("blocks", "payers", "transfers", "owners"):
        setattr(rail, name, dict(getattr(rail, name)))
    rail.sent = list(rail.sent)
    ledger = memory_ledger.MemoryLedger(rail.clock)
    for row in PAST.rows.values():
        assert await ledger.insert(row)
    gate = _gate(rail, ledger)
    world = promises.World(_FOLDER, rail.clock, rail, gate.terms, ledger, gate)  # type: ignore[arg-type]
    request = service.read(made, promises.ENVOY)
    verdict = await gate.check(request)
    told = presented(request)
    if told is not None:
        said = challenge.read_credential(told).payload
        if said.get("type") != "hash" or str(said.get("tx")) not in rail.transfers:
            rail.transfers.clear()  # nobody said that money was sent for this challenge
        await world.hold(verdict, f"Payment {told}")
    response = service.write(verdict)
    response = external_auth_pb2.CheckResponse.FromString(response.SerializeToString())
    assert (response.status.code == 0) == isinstance(verdict, Allow)
    match verdict:
        case Allow():
            assert told is not None, "let through without a credential"
            assert request.route in ROUTES
            row = ledger.rows[verdict.payment]
            assert row.binding.route == request.route
            assert row.binding.http_method == request.http_method
            assert row.state is State.DELIVERING, "let through, and nobody knows"
        case Deny():
            _is_ours(verdict)
            assert response.denied_response.body == verdict.body
    await gate.settler.aclose(1.0)
    assert not failures, failures
    return verdict, (str(response), repr(verdict), *map(repr, ledger.rows.values()))


def _public(made: Any) -> bool:
    """Whether the planted secret is where none is: in the request beside its credential, or in its challenge."""
    rest = external_auth_pb2.CheckRequest()
    rest.CopyFrom(made)
    http = rest.attributes.request.http
    tokens = []
    for name in ("authorization", wire.CREDENTIAL_HEADER):
        tokens += [part.rpartition(" ")[2] for part in http.headers.pop(name, "").split(",")]
    said = [str(rest)]
    for token in tokens:
        try:
            echo = challenge.read_credential(token).challenge
        except MalformedCredential:
            continue
        said += [repr(echo)]
        for text in (echo.request, echo.opaque or ""):
            try:
                said += [repr(challenge._object(text))]
            except (ValueError, RecursionError):
                continue
    return plants.open_in(*said)


def presented(request: quotes.Request) -> str | None:
    """The token of its credential, where it echoes a challenge of ours: another with the same id is nobody's."""
    try:
        token = quotes.token(request)
        ours = token is not None and KEYRING.ours(challenge.read_credential(token).challenge)
    except (quotes.BadCredentials, MalformedCredential):
        return None
    return token if ours else None


def _is_ours(verdict: Deny) -> None:
    document = json.loads(verdict.body)
    known = {kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)}
    assert verdict.kind in known
    assert document["type"] == problems.BASE + verdict.kind.slug
    assert (document["status"], document["title"]) == (verdict.kind.status, verdict.kind.title)
    assert isinstance(document["detail"], str)
    assert document["detail"]
    lines = promises.challenges(verdict)
    assert bool(lines) == (verdict.kind.status == 402), "a 402 asks for money, and nothing else does"
    for name, value in verdict.headers:
        assert value.isascii(), name
        assert value.isprintable(), name


def resigned(header: str) -> str:
    """The credential, with the id that its challenge would have from us."""
    scheme, _, token = header.partition(" ")
    try:
        document = challenge._object(token)
        said = document["challenge"]
        document["challenge"]["id"] = KEYRING.mint(
            realm=said["realm"],
            method=said["method"],
            intent=said["intent"],
            request=said["request"],
            expires=said.get("expires") or "",
            opaque=said.get("opaque") or "",
            digest=said.get("digest") or None,
            header=said.get("header") or None,
        ).id
        return f"{scheme} {challenge.b64url(json.dumps(document).encode())}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return header


def seeds() -> Mapping[str, bytes]:
    """An input for each answer there is, by name."""
    route = promises.ROUTE
    found = {name: message(route, {"authorization": header}) for name, header in PAST.credentials.items()}
    found["header"] = message("shop/llm/header", {"payment-authorization": PAST.credentials["header"]})
    found["here"] = message("shop/llm/here", {"authorization": PAST.credentials["here"]})
    found["digest"] = message(
        "shop/llm/digest", {"authorization": PAST.credentials["digest"], "idempotency-key": "k-1"}, b"{}"
    )
    found["other-body"] = message("shop/llm/digest", {"authorization": PAST.credentials["digest"]}, b"{ }")
    found["other-route"] = message("shop/llm/here", {"authorization": PAST.credentials["fresh"]})
    found["other-query"] = message(route, {"authorization": PAST.credentials["fresh"]}, path="/v1?model=b")
    found["other-method"] = message(route, {"authorization": PAST.credentials["fresh"]}, method="GET")
    found["other-host"] = message("shop/llm/here", {"authorization": PAST.credentials["here"]}, host="x.example")
    found["none"] = message(route, {"accept-payment": "promise/charge;q=0.5, */*;q=0.1"})
    found["two-offers"] = message("shop/llm/two", {})
    found["plain-http"] = message(route, {}, scheme="http")
    found["no-route"] = message(None, {})
    found["unknown-route"] = message("shop/llm/gone", {"authorization": PAST.credentials["fresh"]})
    found["twice"] = message(route, {"authorization": ",".join([PAST.credentials["fresh"]] * 2)})
    found["beside-another"] = message(route, {"authorization": f"Bearer x, {PAST.credentials['fresh']}"})
    found["unreadable"] = message(route, {"authorization": "Payment e30"})
    no_amount = credential(minted("fresh", request=challenge.canonical({"methodDetails": {"chainId": 7}})), 100)
    found["signed-without-an-amount"] = message(route, {"authorization": no_amount})
    found["signed-again"] = message(route, {"authorization": RESIGN + PAST.credentials["fresh"]})
    return {name: made.SerializeToString(deterministic=True) for name, made in found.items()}


def grown(text: str) -> Iterator[bytes]:
    made = [message(promises.ROUTE, {"authorization": f"Payment {challenge.b64url(text.encode())}"})]
    made += [message(promises.ROUTE, {name: text}) for name in NAMES]
    made += [message(promises.ROUTE, {}, path=f"/?{text}"), message(None, {}, host=text), message(text, {})]
    made += [message("shop/llm/digest", {}, text.encode())]
    for one_message in made:
        found: bytes = one_message.SerializeToString()
        yield found


def MUTATE(data: bytes, chosen: random.Random) -> bytes:
    made = external_auth_pb2.CheckRequest()
    try:
        made.MergeFromString(data)
    except DecodeError:
        return data
    http = made.attributes.request.http
    match chosen.randrange(6):
        case 0:
            route = chosen.choice([*ROUTES, "", "shop/llm/gone"])
            made.attributes.context_extensions[wire.ROUTE_CONTEXT] = route
        case 1:
            name = chosen.choice(("method", "host", "scheme", "path"))
            setattr(
                http, name, chosen.choice(("GET", "POST", "http", "", "shop.example", "/v1?model=a", "x?", "é"))
            )
        case 2:
            http.headers[chosen.choice(NAMES)] = chosen.choice((*PAST.credentials.values(), "Payment", "", ","))
        case _:
            name = chosen.choice(list(http.headers) or ["authorization"])
            scheme, space, token = http.headers[name].partition(" ")
            changed = mutation.as_token(token.encode("utf-8", "replace"), chosen, WORDS)
            scheme = chosen.choice((scheme, "Payment", f"{RESIGN}Payment", f"{RESIGN}Payment"))
            http.headers[name] = f"{scheme}{space}{changed.decode('utf-8', 'replace')}"
    found: bytes = made.SerializeToString(deterministic=True)
    return found


NAMES: Final = (
    *("authorization", "payment-authorization", "accept-payment", "idempotency-key", "x-request-id"),
    *("mpp-forwarded-proto", "x-mpp-payment-id"),
)
WORDS: Final = (
    *("challenge", "payload", "source", "id", "realm", "method", "intent", "request", "expires", "digest"),
    *("header", "opaque", "Payment-Authorization", *_MEANT, "transaction", "hash", "proof", "0xa11ce", "0xb0b2"),
    *(f"0x{number:064x}" for number in range(1, 7)),
    *(minted("fresh").request, minted("fresh").opaque, minted("fresh", "shop/llm/here").opaque, plants.SECRET),
)
