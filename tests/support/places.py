"""Places: paid services behind one real gateway, one for each test, each with a payee of its own on a real chain.

A module opens a shop (`mpp-gateway run`, Envoy, authz, the moody upstream) in a module-scoped fixture `shop`; each
test then gets a `place` nobody else pays at, so that the payee's balance says what was paid, exactly and how
often. After each test nothing secret may be in the gateway's logs or in a state file that is not made for it.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import gateway_process
import httpx
import moody
import pytest
import wallets
from chain import PATH_USD, Chain, rpc
from mpp.client.transport import Mpp

from mpp_authz.ledger import Ledger, Payment, State, stores
from mpp_authz.methods import proof

T = TypeVar("T")

#: Base units that every priced route of `service` costs.
PRICE: Final = 1500
SIGNING_KEY: Final = "places sign their challenges with this key, 32 bytes and more"
#: Files of the state folder that are made to hold keys.
_KEPT_SECRET: Final = ("secrets", "signing.key")

ROUTES: Final = """
    - {name: thing, match: {path: /thing}, price: {amount: "0.0015"}}
    - {name: other, match: {path: /other}, price: {amount: "0.0015"}}
    - {name: loose, match: {path: /loose}, price: {amount: "0.0015"}, bindQuery: false}
    - {name: live, match: {path: /live}, price: {amount: "0.0015"}, streaming: true}
    - {name: sealed, match: {method: POST, path: /sealed}, price: {amount: "0.0015"}, digest: {maxBytes: 65536}}
    - {name: once, match: {method: POST, path: /once}, price: {amount: "0.0015"}, idempotent: true}
    - {name: known, match: {path: /known}, price: {amount: "0"}}
    - {name: open, match: {path: /open}, free: true}
"""


def offer(recipient: str, currency: str = "pathUSD", network: str = "localnet", **rest: str) -> str:
    """An offer in YAML's flow style; `rest` is further fields as they are written."""
    fields = {"method": "tempo", "network": network, "currency": currency, "recipient": f'"{recipient}"', **rest}
    return "{" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def service(
    name: str,
    port: int,
    offers: Sequence[str],
    *,
    routes: str = ROUTES,
    timeouts: str = "request: 5s, upload: 5s",
    upstream: str = "",
    payment: str = "",
    expires_in: str = "20s",
) -> str:
    """A PaidService at /<name>, whose upstream is the place /<name> of the moody one. `upstream` and `payment` are
    further fields, in YAML's flow style."""
    return f"""
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}}}
spec:
  upstream: {{url: "http://127.0.0.1:{port}/{name}", timeouts: {{{timeouts}}}{upstream and ", " + upstream}}}
  payment: {{expiresIn: {expires_in}, offers: [{", ".join(offers)}]{payment and ", " + payment}}}
  routes:{routes}"""


# --- a shop --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Shop:
    """A gateway that runs, and all that is around it."""

    gateway: gateway_process.GatewayProcess
    chain: Chain
    upstream: moody.Upstream
    http: httpx.Client
    tag: str
    secrets: set[str] = field(default_factory=set)
    _told: int = 0
    _searched: set[str] = field(default_factory=set)
    _free: Iterator[int] = field(default_factory=itertools.count)

    def next_place(self) -> "Place":
        return self.place(f"p{next(self._free)}")

    def place(self, name: str) -> "Place":
        return Place(self, name, payee(self.tag, name))

    def watch(self, payer: Mpp) -> Mpp:
        """From now on the credentials that pympp's client makes must be found nowhere."""
        payer.on_credential_created(lambda payload: self.learn(payload["credential"]))
        return payer

    def read(self, question: Callable[[Ledger], Any]) -> Any:
        """Ask the ledger, as `mpp-gateway payments` does: from outside, while the gateway runs."""

        async def ask() -> Any:
            ledger = await stores.open_ledger(f"sqlite:{self.gateway.ledger}", read_only=True)
            try:
                return await question(ledger)
            finally:
                await ledger.close()

        return asyncio.run(ask())

    def learn(self, credential: str) -> None:
        """From now on this credential must be found nowhere."""
        token = credential.partition(" ")[2]
        self.secrets.add(token)
        signature = decoded(token)["payload"].get("signature")
        if signature is not None:
            self.secrets.add(signature.removeprefix("0x"))

    def leaks(self, secrets: set[str]) -> list[str]:
        """Where one of the secrets is and should not be."""
        texts = {"stderr": self.gateway.stderr, "stdout": self.gateway.stdout}
        places = {name: "\n".join(lines).encode() for name, lines in texts.items()}
        for path in sorted(self.gateway.state_dir.rglob("*")):
            inside = path.relative_to(self.gateway.state_dir)
            if path.is_file() and inside.parts[0] not in _KEPT_SECRET:
                with contextlib.suppress(FileNotFoundError):  # a journal that was just folded in
                    places[str(inside)] = path.read_bytes()
        return [
            f"{name} holds a secret that begins with {secret[:12]}"
            for name, content in places.items()
            for secret in secrets
            if any(form in content for form in _forms(secret))
        ]

    def nothing_leaked(self) -> None:
        """Fails where something is found that was not looked for before."""
        fresh = self.secrets - self._searched
        self._searched |= fresh
        assert self.leaks(fresh) == []


def _forms(secret: str) -> list[bytes]:
    """As text, and as the bytes that hex digits stand for."""
    forms = [secret.encode()]
    with contextlib.suppress(ValueError):
        forms.append(bytes.fromhex(secret))
    return forms


def payee(tag: str, name: str) -> str:
    """The address that a place of a module's shop is paid at."""
    return wallets.payee(f"{tag} {name}")


@contextlib.contextmanager
def opened(
    folder: Path,
    chain: Chain,
    tag: str,
    *,
    places: int,
    timeouts: str = "request: 5s, upload: 5s",
    also: Callable[[int], str] = lambda port: "",
    config: str = "",
    networks: str = "",
    environ: Mapping[str, str] | None = None,
    log_level: str = "warning",
) -> Iterator[Shop]:
    """A shop with so many places; `also` gives further services for the upstream's port, `networks` further lines
    of gateway.yaml's `networks`. A 402 that its client gets must be one."""
    secrets = {SIGNING_KEY, chain.buyer_key.removeprefix("0x"), chain.sponsor_key.removeprefix("0x")}
    given = dict(environ or {}) | {"MPP_SECRET_KEY": SIGNING_KEY}
    client = httpx.Client(trust_env=False, timeout=30, event_hooks={"response": [_hold_to_the_draft]})
    with moody.serving() as upstream, client as http:
        names = [f"p{number}" for number in range(places)]
        files = {
            f"{name}.yaml": service(name, upstream.port, [offer(payee(tag, name))], timeouts=timeouts)
            for name in names
        }
        further = also(upstream.port)
        if further:
            files["also.yaml"] = further
        gateway = gateway_process.launch(
            folder,
            files,
            config=gateway_yaml(chain, networks) + config,
            environ=given,
            arguments=("--drain", "1", "--log-level", log_level),
        )
        try:
            gateway_process.wait_until_ready(gateway)
            shop = Shop(gateway, chain, upstream, http, tag, secrets)
            yield shop
        finally:
            gateway.stop()
        shop.secrets |= {value.removeprefix("0x") for value in (environ or {}).values()}
        assert shop.leaks(shop.secrets) == []


def gateway_yaml(chain: Chain, networks: str = "") -> str:
    settings = json.dumps(chain.settings())
    return f"networks:\n  localnet: {settings}\n{networks}maxChallengeLife: 25s\n"


def _hold_to_the_draft(answer: httpx.Response) -> None:
    """Every 402 of every test carries a Payment challenge, and nobody may store it."""
    if answer.status_code == 402:
        lines = answer.headers.get_list("www-authenticate")
        assert lines, "a 402 without a challenge"
        assert all(wallets.challenge_of(line).id for line in lines)
        assert answer.headers["cache-control"] == "no-store"


# --- a place -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """One service, one payee."""

    shop: Shop
    name: str
    payee: str

    @property
    def chain(self) -> Chain:
        return self.shop.chain

    def url(self, path: str = "/thing") -> str:
        return f"{self.shop.gateway.url}/{self.name}{path}"

    def moods(self, *moods: moody.Mood) -> None:
        self.shop.upstream.moods(f"/{self.name}", *moods)

    @property
    def hits(self) -> list[moody.Hit]:
        return self.shop.upstream.hits(f"/{self.name}")

    @property
    def begun(self) -> int:
        return self.shop.upstream.begun(f"/{self.name}")

    def paid(self, token: str = PATH_USD) -> int:
        """Base units the payee holds."""
        return wallets.balance(self.chain, self.payee, token)

    # --- asking ------------------------------------------------------------------------------------------

    def ask(
        self,
        path: str = "/thing",
        credential: str | None = None,
        *,
        method: str = "GET",
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request, and its whole answer."""
        sent = dict(headers or {}) | ({} if credential is None else {"Authorization": credential})
        return self.shop.http.request(method, self.url(path), content=content, headers=sent)

    def insist(self, credential: str, busy: int, path: str = "/thing", limit: float = 10) -> httpx.Response:
        """Present a credential again and again while the answer is `busy`; the first other answer."""
        deadline = time.monotonic() + limit
        while (
            answer := self.ask(path, credential=credential)
        ).status_code == busy and time.monotonic() < deadline:
            time.sleep(0.05)
        return answer

    def challenges(self, path: str = "/thing", **request: Any) -> list[str]:
        """The `WWW-Authenticate` values of a 402."""
        answer = self.ask(path, **request)
        assert answer.status_code == 402, answer.text
        return answer.headers.get_list("www-authenticate")

    def sign(self, path: str = "/thing", *, key: str | None = None, at: int = 0, **request: Any) -> str:
        """Ask, and sign a payment for the challenge; the credential is not presented."""
        value = wallets.sign(
            self.chain, wallets.challenge_of(self.challenges(path, **request)[at]), key or self.chain.buyer_key
        )
        self.shop.learn(value)
        return value

    def push(self, path: str = "/thing", **request: Any) -> str:
        """Ask, and pay at once; the credential names the transfer."""
        challenge = wallets.challenge_of(self.challenges(path, **request)[0])
        charge = decoded(challenge.request)
        signed = wallets.transfer(
            self.chain,
            memo=wallets.memo(challenge),
            recipient=charge["recipient"],
            amount=int(charge["amount"]),
            token=charge["currency"],
        ).sign(self.chain.buyer_key)
        receipt = rpc(self.chain, "eth_sendRawTransactionSync", "0x" + signed.encode().hex())
        source = proof.source(self.chain.buyer, self.chain.chain_id)
        payload = {"type": "hash", "hash": receipt["transactionHash"]}
        value = wallets.authorization(challenge, payload, source)
        self.shop.learn(value)
        return value

    def mppx(self, path: str = "/thing", **question: Any) -> list[wallets.Answer]:
        """Unmodified mppx; its credentials are remembered."""
        answers = wallets.mppx(self.url(path), self.chain, **question)
        for answer in answers:
            if answer.credential is not None:
                self.shop.learn(answer.credential)
        return answers

    # --- the ledger --------------------------------------------------------------------------------------

    def payment(self, credential: str) -> Payment | None:
        """The row of a credential, or of a challenge id."""
        key = challenge_id(credential) if " " in credential else credential
        found: Payment | None = self.shop.read(lambda ledger: ledger.get(key))
        return found

    def rows(self) -> tuple[Payment, ...]:
        """All payments for this place, newest first."""
        found: tuple[Payment, ...] = self.shop.read(lambda ledger: ledger.listing(frozenset(), 10_000))
        return tuple(row for row in found if row.binding.route.split("/")[1] == self.name)

    def becomes(self, credential: str, state: State, limit: float = 10) -> Payment:
        """The payment's row once it is in this state: news from Envoy takes its time."""
        deadline = time.monotonic() + limit
        while True:
            row = self.payment(credential)
            if row is not None and row.state is state:
                return row
            if time.monotonic() > deadline:
                pytest.fail(
                    f"expected a payment in {state}, got {row}\n" + "\n".join(self.shop.gateway.stderr[-20:])
                )
            time.sleep(0.02)


def decoded(token: str) -> dict[str, Any]:
    """A base64url JSON document: a credential's token, a receipt, a challenge's request."""
    document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return document


def challenge_id(credential: str) -> str:
    found: str = decoded(credential.partition(" ")[2])["challenge"]["id"]
    return found


def receipt(answer: httpx.Response) -> dict[str, Any]:
    """The one receipt of an answer."""
    (value,) = answer.headers.get_list("payment-receipt")
    return decoded(value)


def until(condition: Callable[[], T | None], limit: float = 10, found: Callable[[], object] = lambda: "") -> T:
    """What the condition gives, once it is true. Fails after `limit` seconds and says what is `found` then."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {limit} s: {found()}")
        time.sleep(0.01)
    return value


def passed(began: float, seconds: float) -> None:
    """Returns when so many seconds have passed since `began` (monotonic): slowness is what is tested here."""
    until(lambda: time.monotonic() - began > seconds, seconds + 1)


def together(*work: Callable[[], T]) -> list[T]:
    """All at once, each in a thread of its own; their results in order. An exception of one is raised."""
    results: list[T | BaseException] = [AssertionError("did not end")] * len(work)
    begin = threading.Barrier(len(work))

    def run(at: int) -> None:
        begin.wait()
        try:
            results[at] = work[at]()
        except BaseException as error:
            results[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


@pytest.fixture
def place(shop: Shop) -> Iterator[Place]:
    """A place nobody else pays at. Whatever the test presents is nowhere in the gateway's files afterwards."""
    yield shop.next_place()
    shop.nothing_leaked()
