"""Rows of the Payment scheme that no other test is about, each through a real Envoy, a real authz, a real chain.

Beside them, tests all over the suite name the rows they prove; docs/conformance.md lists all.
"""

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cheap_wallet
import gateway_process
import httpx
import moody
import places
import pytest
import wallets
from chain import Chain
from places import PRICE, Place, Shop

from mpp_authz import challenge as challenges
from mpp_authz.challenge import Challenge
from mpp_operator import envoy
from mpp_operator.bootstrap import LISTENER

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

#: The longest description there may be, of characters that must be escaped.
LONG_TEXT = '"\\' * 1000


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    bank = cheap_wallet.bank(tmp_path_factory.mktemp("bank"))

    def also(port: int) -> str:
        def at(name: str) -> str:
            return places.payee("core", name)

        cheap = f'{{method: cheap, network: cheapnet, currency: coin, recipient: "{at("two")}"}}'
        said = json.dumps(LONG_TEXT)
        described = f'\n    - {{match: {{path: /thing}}, price: {{amount: "0.0015"}}, description: {said}}}\n'
        five = [
            places.offer(at("five"), currency=f'"0x20c0{number:036x}"', name=f"o{number}") for number in range(5)
        ]
        header = "credentialHeader: Payment-Authorization"
        return "---".join(
            [
                places.service("two", port, [places.offer(at("two")), cheap]),
                places.service("five", port, five, routes=described),
                places.service("said", port, [places.offer(at("said"))], routes=described),
                places.service("other", port, [places.offer(at("other"))], payment=header),
            ]
        )

    with places.opened(
        tmp_path_factory.mktemp("core"),
        chain,
        "core",
        places=50,
        also=also,
        networks=cheap_wallet.network(bank).partition("\n")[2],
        environ=cheap_wallet.environ(),
        log_level="debug",
    ) as opened:
        yield opened


def slug(answer: httpx.Response) -> str:
    """The problem type, after the draft's base URI."""
    assert answer.headers["content-type"] == "application/problem+json"
    kind: str = answer.json()["type"]
    assert kind.startswith("https://paymentauth.org/problems/")
    return kind.rpartition("/")[2]


def ids(answer: httpx.Response) -> set[str]:
    return {wallets.challenge_of(line).id for line in answer.headers.get_list("www-authenticate")}


def changed(credential: str, change: Callable[[dict[str, Any]], None]) -> str:
    """The same credential with its JSON document changed."""
    document = places.decoded(credential.partition(" ")[2])
    change(document)
    return "Payment " + challenges.b64url(json.dumps(document).encode())


def echo(**parameters: str | None) -> Callable[[dict[str, Any]], None]:
    """Changes parameters of the echoed challenge; None takes one away."""

    def change(document: dict[str, Any]) -> None:
        document["challenge"] |= parameters
        document["challenge"] = {name: value for name, value in document["challenge"].items() if value is not None}

    return change


# --- what a 402 says -----------------------------------------------------------------------------------

PARAMETER = re.compile(r'([a-z]+)="((?:[^"\\]|\\.)*)"')


def parameters(line: str) -> dict[str, str]:
    """The auth-params of one challenge, read by nobody's parser but this one."""
    scheme, _, rest = line.partition(" ")
    assert scheme == "Payment"
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in PARAMETER.findall(rest)}


@pytest.mark.row("C01", "C09", "C11", "C12", "C29")
def test_a_402_has_a_challenge_whose_parameters_are_whole_and_nobody_may_store_it(shop: Shop) -> None:
    place = shop.place("two")
    answer = place.ask()

    lines = [parameters(line) for line in answer.headers.get_list("www-authenticate")]
    assert (answer.status_code, answer.headers["cache-control"]) == (402, "no-store")
    assert [(line["method"], line["intent"]) for line in lines] == [("tempo", "charge"), ("cheap", "charge")]
    for line in lines:
        assert all(line[name] for name in ("id", "realm", "request", "opaque"))
        assert re.fullmatch(r"[a-z]+", line["method"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["expires"])
    assert len({line["id"] for line in lines}) == 2
    assert {line["id"] for line in lines}.isdisjoint(ids(place.ask()))


@pytest.mark.row("C10", "C14")
def test_request_and_opaque_are_canonical_json_and_opaque_is_a_flat_map_of_strings(shop: Shop) -> None:
    for line in map(parameters, shop.place("two").challenges("/thing?a=1&b=%C3%A9")):
        for text in (line["request"], line["opaque"]):
            assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
            document = places.decoded(text)
            # Of strings and small integers JCS is what Python writes with sorted names and no spaces.
            again = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert challenges.b64url(again.encode()) == text
        assert all(type(value) is str for value in places.decoded(line["opaque"]).values())


@pytest.mark.row("C17")
def test_challenges_are_small_whatever_the_request_and_the_service_say(shop: Shop, place: Place) -> None:
    plain = place.challenges()
    asked = place.challenges("/thing?" + "q=" + "x" * 40_000)
    most = shop.place("five").challenges()

    assert [len(line) for line in asked] == [len(line) for line in plain]
    assert ["description" in parameters(line) for line in most] == [True, False, False, False, False]
    assert sum(map(len, most)) <= challenges.MAX_ANSWER_CHARS == 8192


@pytest.mark.row("C38")
def test_texts_are_the_same_in_every_language(shop: Shop) -> None:
    place = shop.place("said")

    answers = [place.ask(headers={"Accept-Language": language}) for language in ("en", "de", "*")]

    bodies = [answer.json() | {"challengeId": ""} for answer in answers]
    assert bodies[0] == bodies[1] == bodies[2]
    assert {parameters(answer.headers["www-authenticate"])["description"] for answer in answers} == {LONG_TEXT}


@pytest.mark.row("C07")
def test_what_is_not_there_asks_for_no_money_with_or_without_a_credential(place: Place) -> None:
    credential = place.sign()

    for answer in (place.ask("/nowhere"), place.ask("/nowhere", credential=credential)):
        assert (answer.status_code, "www-authenticate" in answer.headers) == (404, False)
    wrong_method = place.ask("/sealed", credential=credential)
    assert (wrong_method.status_code, "www-authenticate" in wrong_method.headers) == (405, False)
    elsewhere = place.ask(credential=credential, headers={"Host": "unknown.example"})
    assert (elsewhere.status_code, "www-authenticate" in elsewhere.headers) == (404, False)
    assert (place.hits, place.paid()) == ([], 0)


@pytest.mark.row("C24")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_request_that_is_not_paid_reaches_nobody_and_is_kept_nowhere(place: Place, method: str) -> None:
    content = None if method in ("GET", "HEAD") else b"x" * 100_000

    assert place.ask(method=method, content=content).status_code == 402
    assert place.ask(method=method, content=content, credential="Payment e30").status_code == 402

    assert (place.begun, place.rows(), place.paid()) == (0, (), 0)


@pytest.mark.row("C28", "C33", "C30")
def test_a_wallet_nobody_has_seen_before_pays_and_that_is_all_it_takes(place: Place) -> None:
    place.moods(moody.Says(200, headers=(("cache-control", "public, s-maxage=3600, max-age=60"),)))
    _, key = wallets.funded(place.chain, f"newcomer of {place.name}")

    asked = place.ask()
    answer = place.ask(credential=place.sign(key=key))

    assert answer.status_code == 200
    assert "set-cookie" not in {*asked.headers, *answer.headers}
    receipt = places.receipt(answer)
    assert (receipt["status"], receipt["method"]) == ("success", "tempo")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", receipt["timestamp"])
    directives = {directive.strip() for directive in answer.headers["cache-control"].split(",")}
    assert "private" in directives
    assert not any(directive.startswith(("public", "s-maxage")) for directive in directives)


# --- credentials that do not pass ----------------------------------------------------------------------


def _wrong_amount(place: Place) -> str:
    challenge = wallets.challenge_of(place.challenges()[0])
    transaction = wallets.transfer(
        place.chain, memo=wallets.memo(challenge), recipient=place.payee, amount=PRICE - 1
    ).sign(place.chain.buyer_key)
    payload = {"type": "transaction", "signature": "0x" + transaction.encode().hex()}
    return wallets.authorization(challenge, payload)


def _payload(**fields: str) -> Callable[[Place], str]:
    return lambda place: wallets.authorization(wallets.challenge_of(place.challenges()[0]), fields)


#: What is presented, and the problem it is answered with.
REFUSED: dict[str, tuple[Callable[[Place], str], str]] = {
    "not base64url": (lambda place: "Payment !!!", "malformed-credential"),
    "not JSON": (lambda place: "Payment dGhpcyBpcyBnYXJiYWdl", "malformed-credential"),
    "no challenge": (lambda place: "Payment e30", "malformed-credential"),
    "foreign id": (lambda place: changed(place.sign(), echo(id="A" * 43)), "invalid-challenge"),
    "method that is not offered": (
        lambda place: changed(place.sign(), echo(method="stripe")),
        "invalid-challenge",
    ),
    "another amount": (_wrong_amount, "verification-failed"),
    "no transaction": (_payload(type="transaction", signature="0x76c0ffee"), "invalid-payload"),
    "unknown payload": (_payload(type="cheque", number="1"), "invalid-payload"),
    "empty payload": (_payload(), "invalid-payload"),
}


@pytest.mark.row("C02", "C03", "C04", "C05", "C34")
@pytest.mark.parametrize("case", REFUSED)
def test_a_credential_that_does_not_pass_is_told_why_and_given_a_fresh_challenge(place: Place, case: str) -> None:
    present, problem = REFUSED[case]
    credential = present(place)

    answer = place.ask(credential=credential)

    assert (answer.status_code, slug(answer), answer.json()["status"]) == (402, problem, 402)
    assert answer.json()["title"]
    assert answer.json()["detail"]
    assert answer.json()["challengeId"] in ids(answer)
    assert ids(answer).isdisjoint({str(word) for word in re.findall(r"[A-Za-z0-9_-]{43}", credential)})
    assert {"retry-after", "payment-receipt"}.isdisjoint(answer.headers)  # a fresh payment may come at once
    assert (place.begun, place.rows(), place.paid()) == (0, (), 0)
    assert place.ask(credential=place.sign()).status_code == 200


@pytest.mark.row("C04", "C23", "C35", "G06")
def test_a_used_credential_is_refused_without_a_challenge_for_its_payer_has_paid(place: Place) -> None:
    credential = place.sign()
    assert place.ask(credential=credential).status_code == 200

    answer = place.ask(credential=credential)

    assert (answer.status_code, slug(answer)) == (403, "verification-failed")
    assert {"www-authenticate", "payment-receipt", "retry-after"}.isdisjoint(answer.headers)
    assert (len(place.hits), place.paid()) == (1, PRICE)


Echo = dict[str, str]
Flip = Callable[[Echo], Mapping[str, str | None]]


def _says(**parameters: str | None) -> Flip:
    return lambda said: parameters


def _inside(parameter: str, **fields: str) -> Flip:
    """Changes the JSON document that a parameter holds, and leaves it as well-formed as it was."""
    return lambda said: {parameter: challenges.canonical(places.decoded(said[parameter]) | fields)}


EMPTY_BODY = "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
#: One change each of what a challenge said, and the route it was asked for.
FLIPS: dict[str, tuple[str, Flip]] = {
    "id": ("thing", lambda said: {"id": ("B" if said["id"][0] == "A" else "A") + said["id"][1:]}),
    "id, empty": ("thing", _says(id="")),
    "realm": ("thing", _says(realm="localhost")),
    "method": ("thing", _says(method="cheap")),
    "method, upper case": ("thing", _says(method="TEMPO")),
    "intent": ("thing", _says(intent="session")),
    "request, amount": ("thing", _inside("request", amount="1")),
    "request, padded": ("thing", lambda said: {"request": said["request"] + "="}),
    "expires, later": ("thing", _says(expires="2099-01-01T00:00:00.000Z")),
    "expires, away": ("thing", _says(expires=None)),
    "digest, added": ("thing", _says(digest=EMPTY_BODY)),
    "digest, another": ("sealed", _says(digest=EMPTY_BODY)),
    "digest, away": ("sealed", _says(digest=None)),
    "opaque, nonce": ("thing", _inside("opaque", nonce="another")),
    "opaque, another member": ("thing", _inside("opaque", more="x")),
    "opaque, away": ("thing", _says(opaque=None)),
    "header, added": ("thing", _says(header="Payment-Authorization")),
    "header, away": ("other", _says(header=None)),
    "header, moved into digest": ("other", _says(header=None, digest="|Payment-Authorization")),
}


@pytest.mark.row("C09", "C14", "C04")
@pytest.mark.parametrize("case", FLIPS)
def test_a_challenge_with_one_parameter_changed_is_none_of_ours(shop: Shop, place: Place, case: str) -> None:
    where, flip = FLIPS[case]
    header = "Authorization"
    if where == "other":
        place, where, header = shop.place("other"), "thing", "Payment-Authorization"
    before = len(place.hits), place.paid()
    request: dict[str, Any] = {"method": "POST", "content": b"body"}
    credential = place.sign(f"/{where}", **request)
    change = flip(places.decoded(credential.partition(" ")[2])["challenge"])
    # Whatever it says now would be right here: nothing but the id can tell.
    realm = change.get("realm")
    host = {} if realm is None else {"Host": realm}

    flipped = changed(credential, echo(**change))
    answer = place.ask(f"/{where}", headers={header: flipped, **host}, **request)

    assert (answer.status_code, slug(answer)) == (402, "invalid-challenge")
    assert "was not issued by this server" in answer.json()["detail"]
    assert (len(place.hits), place.paid(), place.payment(credential)) == (*before, None)
    assert place.ask(f"/{where}", headers={header: credential}, **request).status_code == 200


@pytest.mark.row("C13")
@pytest.mark.parametrize("description", [None, "something cheaper", 17])
def test_what_a_credential_echoes_as_description_decides_nothing(shop: Shop, description: Any) -> None:
    place = shop.place("said")
    before = place.paid()
    line = place.challenges()[0]
    credential = changed(wallets.sign(place.chain, wallets.challenge_of(line)), echo(description=description))
    place.shop.learn(credential)

    assert parameters(line)["description"] == LONG_TEXT
    assert place.ask(credential=credential).status_code == 200
    assert place.paid() - before == PRICE


def _add_to_the_document(document: dict[str, Any]) -> None:
    document["version"] = 2
    document["extensions"] = [{"a": None}]


def _add_to_the_challenge(document: dict[str, Any]) -> None:
    document["challenge"] |= {"version": "2", "nested": {"a": [1.5, True]}}


@pytest.mark.row("C16")
@pytest.mark.parametrize("change", [_add_to_the_document, _add_to_the_challenge])
def test_fields_nobody_knows_are_ignored(place: Place, change: Callable[[dict[str, Any]], None]) -> None:
    credential = changed(place.sign(), change)
    place.shop.learn(credential)

    assert place.ask(credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


@pytest.mark.row("C18")
@pytest.mark.parametrize("kib", [4, 8, 16, 32, 48])
def test_a_large_credential_is_read(place: Place, kib: int) -> None:
    credential = place.sign()
    missing = kib * 1024 - len(credential)
    large = changed(credential, lambda document: document.update(note="x" * (missing * 3 // 4)))
    place.shop.learn(large)

    assert len(large) >= kib * 1000
    assert place.ask(credential=large).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


# --- Accept-Payment ------------------------------------------------------------------------------------


@pytest.mark.row("C36")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, ["tempo", "cheap"]),
        ("cheap/charge, tempo/charge;q=0.5", ["cheap", "tempo"]),
        ("tempo/charge;q=0.5, cheap/charge", ["cheap", "tempo"]),
        ("cheap/charge, tempo/charge", ["tempo", "cheap"]),
        ("cheap/*, */charge;q=0.1", ["cheap", "tempo"]),
        ("*/*, cheap/charge;q=0", ["tempo"]),
        ("*/*, tempo/*;q=0, tempo/charge;q=0.1", ["cheap", "tempo"]),
        ("cheap/charge", ["cheap"]),
        ("tempo/charge, tempo/session, stripe/charge;q=0.5, solana/charge;q=0.3", ["tempo"]),
        ("*/session", ["tempo", "cheap"]),
        ("cheap/charge;q=high", ["tempo", "cheap"]),
    ],
)
def test_accept_payment_chooses_and_orders(shop: Shop, accept: str | None, expected: list[str]) -> None:
    headers = {} if accept is None else {"Accept-Payment": accept}

    lines = shop.place("two").challenges(headers=headers)

    assert [parameters(line)["method"] for line in lines] == expected


# --- the way it travels --------------------------------------------------------------------------------


def own_address() -> str:
    """An address of this machine that is not loopback: what is sent there never leaves the machine, and yet comes
    from elsewhere as far as anybody can tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # for documentation (RFC 5737); of a datagram socket, sends nothing
        except OSError:
            pytest.fail(
                "expected a network interface beside loopback; a container needs one, too, without a way out"
            )
        return str(sock.getsockname()[0])


@pytest.mark.row("C19")
def test_no_challenge_leaves_over_plain_http_and_no_credential_is_taken(
    start_gateway: gateway_process.Start, chain: Chain
) -> None:
    address = own_address()
    listen = f"listen: {{address: {address}}}\ntls: {{terminatedBy: [{address}/32]}}\n"
    with moody.serving() as upstream, httpx.Client(trust_env=False, headers={"Host": "localhost"}) as http:
        text = places.service("shop", upstream.port, [places.offer(wallets.payee("plain http"))])
        gateway = start_gateway({"shop.yaml": text}, config=places.gateway_yaml(chain) + listen)
        url = f"http://{address}:{httpx.URL(gateway.url).port}/shop/thing"

        def ask(**headers: str) -> httpx.Response:
            return http.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

        secured = ask(x_forwarded_proto="https")
        credential = wallets.sign(chain, wallets.challenge_of(secured.headers["www-authenticate"]))
        plain = [
            ask(),
            ask(x_forwarded_proto="http"),
            ask(authorization=credential),
            ask(authorization="Payment garbage"),
        ]

        assert secured.status_code == 402
        for answer in plain:
            assert (answer.status_code, slug(answer)) == (421, "insecure-transport")
            assert "www-authenticate" not in answer.headers
        assert upstream.hits("/shop") == []
        assert ask(authorization=credential, x_forwarded_proto="https").status_code == 200


@dataclass(frozen=True, slots=True)
class Hop:
    """A proxy between client and gateway that has never heard of payments: a plain Envoy."""

    url: str


@pytest.fixture
def hop(shop: Shop, tmp_path: Path) -> Iterator[Hop]:
    inner = httpx.URL(shop.gateway.url)
    address = {"socket_address": {"address": inner.host, "port_value": inner.port}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "hop",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    bootstrap = {
        "admin": {"address": {"pipe": {"path": str(tmp_path / "admin.sock")}}},
        "static_resources": {
            "listeners": [
                {
                    "name": LISTENER,
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "next",
                    "load_assignment": {
                        "cluster_name": "next",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
                    },
                }
            ],
        },
    }
    (tmp_path / "hop.json").write_text(json.dumps(bootstrap))
    with (tmp_path / "hop.log").open("wb") as log:
        process = subprocess.Popen(envoy.argv("hop.json"), cwd=tmp_path, stdout=log, stderr=log)
    try:
        port = places.until(lambda: _port(process, tmp_path), 20)
        yield Hop(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)


def _port(process: subprocess.Popen[bytes], home: Path) -> int | None:
    assert process.poll() is None, (home / "hop.log").read_text()
    try:
        return envoy.Admin(home / "admin.sock").port()
    except envoy.EnvoyError:  # not there yet
        return None


@pytest.mark.row("C39")
def test_a_402_is_paid_through_a_proxy_that_does_not_know_what_it_is(place: Place, hop: Hop) -> None:
    (answer,) = wallets.mppx(f"{hop.url}/{place.name}/thing", place.chain)

    place.shop.learn(answer.credential or "")
    assert (answer.status, place.paid(), len(place.hits)) == (200, PRICE, 1)
    assert answer.receipt["status"] == "success"


# --- what is told to nobody ----------------------------------------------------------------------------


def said(shop: Shop) -> dict[str, str]:
    """What the gateway says about itself: metrics, logs, and all that Envoy's admin interface shows."""
    transport = httpx.HTTPTransport(uds=str(shop.gateway.admin_socket))
    with httpx.Client(transport=transport, base_url="http://envoy") as admin:
        pages = {page: admin.get(page) for page in ("/stats", "/listeners", "/clusters", "/config_dump", "/certs")}
    assert pages["/stats"].status_code == 200
    return {page: answer.text for page, answer in pages.items()} | {
        "metrics": shop.http.get(shop.gateway.metrics_url + "/metrics").text,
        "log": "\n".join([*shop.gateway.stderr, *shop.gateway.stdout]),
    }


@pytest.mark.row("C20")
def test_a_credential_is_in_no_answer_log_metric_or_page_of_envoys(place: Place) -> None:
    good, wrong = place.sign(), _wrong_amount(place)
    foreign = changed(place.sign(), echo(id="A" * 43))
    for credential in (wrong, foreign):
        place.shop.learn(credential)
    tokens = {value.partition(" ")[2] for value in (good, wrong, foreign)}
    signatures = {places.decoded(token)["payload"]["signature"].removeprefix("0x") for token in tokens}

    place.moods(moody.Says(500))
    presented = [
        good,
        good,
        good,
        wrong,
        foreign,
        f"{good}, {wrong}",
        f"Payment {good[8:-9]}",
        f"Bearer x, {good}",
    ]
    answers = [place.ask(credential=value) for value in presented]

    assert [answer.status_code for answer in answers] == [500, 200, 403, 402, 402, 400, 402, 400]
    logged = f'"path":"/{place.name}/thing"'
    places.until(lambda: sum(logged in line for line in list(place.shop.gateway.stderr)) >= len(presented))
    texts = said(place.shop) | {f"answer {n}": f"{a.headers}{a.text}" for n, a in enumerate(answers)}
    assert " DEBUG " in texts["log"]
    assert [name for name, text in texts.items() for secret in tokens | signatures if secret[20:60] in text] == []
    place.shop.nothing_leaked()


@pytest.mark.row("C21")
def test_the_signing_secret_is_in_no_answer_log_metric_or_page_of_envoys(place: Place) -> None:
    answers = [place.ask(), place.ask(credential=place.sign()), place.ask("/nowhere")]

    texts = said(place.shop) | {f"answer {n}": f"{a.headers}{a.text}" for n, a in enumerate(answers)}

    assert challenges.Keyring((places.SIGNING_KEY.encode(),)).ours(_challenge(answers[0]))  # it is this one
    hidden = {
        places.SIGNING_KEY,
        challenges.b64url(places.SIGNING_KEY.encode()),
        places.SIGNING_KEY.encode().hex(),
    }
    assert [name for name, text in texts.items() for secret in hidden if secret in text] == []
    assert place.shop.leaks(hidden) == []


def _challenge(answer: httpx.Response) -> Challenge:
    return wallets.challenge_of(answer.headers["www-authenticate"])
