"""The buyer: what it agrees to pay, when it presents a credential again, what a person is shown."""

import argparse
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
import quotes
import wallets
from chain import PATH_USD, Chain

from mpp_authz import challenge as challenges
from mpp_authz.methods import Quote, Settled, Verified
from mpp_authz.methods.tempo import Tempo
from mpp_operator import pay
from mpp_operator.console import Failure

URL = "https://shop.example/thing"
PAYEE = "0x" + "22" * 20


class Shop:
    """An MPP server in memory: mints our quotes, settles for real, then answers as it is told."""

    def __init__(self, method: Tempo, chain: Chain, offer: Any) -> None:
        self._method, self._chain, self._offer = method, chain, offer
        self._quotes: dict[str, Quote] = {}
        self.answers: list[httpx.Response] = []
        self.credentials: list[str] = []

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handle))

    async def handle(self, request: httpx.Request) -> httpx.Response:
        value = request.headers.get("authorization")
        if value is None:
            quote = quotes.quote(self._method, self._chain, self._offer)
            self._quotes[quote.challenge.id] = quote
            return httpx.Response(402, headers={"www-authenticate": challenges.www_authenticate(quote.challenge)})
        self.credentials.append(value)
        if len(self.credentials) == 1:
            await self._settle(value)
        return self.answers.pop(0) if self.answers else httpx.Response(200, content=request.content or b"goods")

    async def _settle(self, value: str) -> None:
        presented = challenges.read_credential(value.removeprefix("Payment "))
        quote = self._quotes[presented.challenge.id]
        credential = quotes.presented(value)
        verified = await self._method.verify(credential, quote)
        assert isinstance(verified, Verified), verified
        assert isinstance(await self._method.settle(credential, quote, verified, quotes.Row()), Settled)


@pytest.fixture
async def method(chain: Chain) -> AsyncIterator[Tempo]:
    tempo = Tempo({"sponsor": chain.sponsor_key}.get)
    yield tempo
    await tempo.aclose()


Buy = Callable[..., Awaitable[pay.PaidAnswer]]


@pytest.fixture
def buy(chain: Chain) -> Buy:
    async def bought(shop: Shop, **rest: Any) -> pay.PaidAnswer:
        async with shop.client() as http:
            return await pay.pay(URL, key=chain.buyer_key, rpc_url=chain.rpc_url, http=http, **rest)

    return bought


async def test_a_quote_is_paid_and_the_goods_arrive(method: Tempo, chain: Chain, buy: Buy) -> None:
    payee = wallets.payee("pay")
    shop = Shop(method, chain, quotes.offer(payee))

    answer = await buy(shop, method="POST", body=b"question")

    assert (answer.status, answer.body, answer.presentations) == (200, b"question", 1)
    assert wallets.balance(chain, payee) == 1500


async def test_a_receipt_is_decoded(method: Tempo, chain: Chain, buy: Buy) -> None:
    shop = Shop(method, chain, quotes.offer(wallets.payee("receipt")))
    shop.answers = [
        httpx.Response(200, headers={"payment-receipt": challenges.canonical({"status": "success"})}),
    ]

    answer = await buy(shop)

    assert answer.receipt == {"status": "success"}


@pytest.mark.parametrize("token", ["not base64!", challenges.b64url(b"[]"), challenges.b64url(b"{")])
async def test_a_receipt_that_cannot_be_read_is_none(token: str, method: Tempo, chain: Chain, buy: Buy) -> None:
    shop = Shop(method, chain, quotes.offer(wallets.payee("receipt"), "0"))
    shop.answers = [httpx.Response(200, headers={"payment-receipt": token})]

    assert (await buy(shop)).receipt is None


async def test_a_quote_of_zero_is_answered_by_a_proof(method: Tempo, chain: Chain, buy: Buy) -> None:
    shop = Shop(method, chain, quotes.offer(wallets.payee("pay zero"), "0"))

    assert (await buy(shop)).success


async def test_an_undelivered_answer_is_met_with_the_same_credential(
    method: Tempo, chain: Chain, buy: Buy
) -> None:
    payee = wallets.payee("undelivered")
    shop = Shop(method, chain, quotes.offer(payee))
    shop.answers = [
        httpx.Response(502, headers={"payment-credit": "id", "retry-after": "0"}),
        httpx.Response(503, headers={"retry-after": "0"}),
    ]

    answer = await buy(shop)

    assert (answer.status, answer.presentations) == (200, 3)
    assert len(set(shop.credentials)) == 1
    assert wallets.balance(chain, payee) == 1500


async def test_a_lost_answer_is_met_with_the_same_credential(method: Tempo, chain: Chain) -> None:
    shop = Shop(method, chain, quotes.offer(wallets.payee("lost answer")))
    lost = [True]

    async def handle(request: httpx.Request) -> httpx.Response:
        answer = await shop.handle(request)
        if "authorization" in request.headers and lost.pop():
            lost.append(False)
            raise httpx.ReadError("gone")
        lost.append(True) if not lost else None
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
        answer = await pay.pay(URL, key=chain.buyer_key, rpc_url=chain.rpc_url, http=http)

    assert (answer.status, answer.presentations, len(set(shop.credentials))) == (200, 2, 1)


async def test_presenting_ends(method: Tempo, chain: Chain, buy: Buy) -> None:
    shop = Shop(method, chain, quotes.offer(wallets.payee("ends"), "0"))
    shop.answers = [httpx.Response(503, headers={"retry-after": "0"}) for _ in range(50)]

    answer = await buy(shop)

    assert (answer.status, answer.presentations) == (503, pay.PRESENTATIONS)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, None),
        (500, {}, None),
        (503, {}, None),
        (403, {"retry-after": "1"}, None),
        (503, {"retry-after": "2", "www-authenticate": "Payment id"}, None),
        (500, {"payment-credit": "id"}, pay.PAUSE),
        (504, {"payment-credit": "id", "retry-after": "3"}, 3),
        (409, {"retry-after": "2"}, 2),
        (503, {"retry-after": "86400"}, pay.LONGEST_PAUSE),
        (503, {"retry-after": "Fri, 15 Jan 2027 08:00:05 GMT"}, 5),
        (503, {"retry-after": "Fri, 15 Jan 2021 08:00:05 GMT"}, 0),
        (503, {"retry-after": "soon"}, pay.PAUSE),
    ],
)
def test_an_answer_says_when_to_present_again(
    status: int, headers: Mapping[str, str], expected: float | None
) -> None:
    assert pay.pause(status, headers, NOW) == expected


def challenge(chain_id: int = 31337, realm: str = "shop.example", method: str = "tempo", **request: Any) -> str:
    details = {"chainId": chain_id} | request.pop("methodDetails", {})
    asked = {"amount": "1", "currency": PATH_USD, "recipient": PAYEE} | request | {"methodDetails": details}
    minted = quotes.KEYS.mint(
        realm=realm,
        method=method,
        intent="charge",
        request=challenges.canonical(asked),
        expires=challenges.timestamp(round(time.time() * 1000) + 25_000),
        opaque=challenges.canonical({}),
    )
    return challenges.www_authenticate(minted, "a thing")


async def offered(*values: str) -> httpx.AsyncClient:
    headers = [("www-authenticate", value) for value in values]
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(402, headers=headers)))


OBJECTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "real money": (challenge(4217), {}, "--network mainnet"),
    "real money over plain HTTP": (challenge(4217), {"network": "mainnet", "url": "http://a"}, "https://"),
    "another network": (challenge(), {"network": "moderato"}, "expected network moderato"),
    "an unknown chain": (challenge(1), {}, "chain 1"),
    "another method": (challenge(method="stripe"), {}, "expected tempo/charge"),
    "push only": (challenge(methodDetails={"supportedModes": ["push"]}), {}, "push only"),
    "a proof for somebody else": (challenge(realm="other.example", amount="0"), {}, "--realm other.example"),
}


@pytest.mark.parametrize("case", OBJECTIONS)
async def test_the_buyer_does_not_pay(case: str, chain: Chain) -> None:
    value, rest, why = OBJECTIONS[case]
    arguments = dict(rest)
    url = arguments.pop("url", URL)

    async with await offered(value) as http:
        with pytest.raises(Failure, match=why) as failure:
            await pay.pay(url, key=chain.buyer_key, rpc_url=chain.rpc_url, http=http, **arguments)

    assert failure.value.code == 1


async def test_a_network_without_a_public_node_needs_one_named(chain: Chain) -> None:
    async with await offered(challenge()) as http:
        with pytest.raises(Failure, match="--rpc-url") as failure:
            await pay.pay(URL, key=chain.buyer_key, http=http)

    assert failure.value.code == 2


async def test_a_node_that_is_down_is_the_environment_s_fault(chain: Chain) -> None:
    async with await offered(challenge()) as http:
        with pytest.raises(Failure, match="cannot be reached") as failure:
            await pay.pay(URL, key=chain.buyer_key, rpc_url="http://127.0.0.1:9", http=http)

    assert failure.value.code == 3


@pytest.mark.parametrize("values", [(), ("Bearer realm=x",), ("Payment nonsense",)])
async def test_a_402_that_is_no_mpp_is_said(values: tuple[str, ...]) -> None:
    async with await offered(*values) as http:
        with pytest.raises(Failure, match="challenge"):
            await pay.inspect(URL, http=http)


async def test_offers_are_shown_in_the_server_s_order() -> None:
    values = (challenge(4217), challenge(42431, amount="0"), challenge(7, methodDetails={"feePayer": True}))

    async with await offered(*values) as http:
        terms = await pay.inspect(URL, http=http)

    assert [entry.network for entry in terms] == ["mainnet", "moderato", "chain 7"]
    assert f"1 of {PATH_USD} to {PAYEE}, on mainnet" in terms[0].line()
    assert "nothing, for a proof of address" in terms[1].line()
    assert "network fee paid" in terms[2].line()


# --- the command line ----------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    pay.add_arguments(parser)
    return pay.run(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("http://127.0.0.1:9/", "--inspect"), 3, "no answer"),
        (("ftp://127.0.0.1/", "--inspect"), 2, "URL: expected http"),
        (("http://127.0.0.1:9/", "-H", "nothing"), 2, "--header: expected"),
        (("http://127.0.0.1:9/", "-d", "@/nowhere/at/all"), 2, "--data: cannot read"),
        (("http://127.0.0.1:9/",), 2, "MPP_PRIVATE_KEY: expected a private key"),
        (("http://127.0.0.1:9/", "--key", "BAD_KEY"), 2, "BAD_KEY: expected a private key: 0x and 64"),
    ],
)
def test_mistakes_end_with_a_code_and_the_fix(
    arguments: tuple[str, ...],
    code: int,
    why: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MPP_PRIVATE_KEY", raising=False)
    monkeypatch.setenv("BAD_KEY", "0xc0ffee")

    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert why in error
    assert "c0ffee" not in error


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[httpx.Request], httpx.Response]], None]:
    """Puts a server behind the command line's own client."""

    def serve(handle: Callable[[httpx.Request], httpx.Response]) -> None:
        real = httpx.AsyncClient
        monkeypatch.setattr(httpx, "AsyncClient", lambda **_: real(transport=httpx.MockTransport(handle)))
        monkeypatch.setenv("MPP_PRIVATE_KEY", "0x" + "01" * 32)

    return serve


def test_the_body_goes_to_stdout_and_the_receipt_to_stderr(
    server: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    receipt = challenges.canonical({"reference": "0xabc"})

    def handle(request: httpx.Request) -> httpx.Response:
        if "authorization" not in request.headers:
            return httpx.Response(402, headers={"www-authenticate": challenge(amount="0")})
        assert (request.method, request.headers["content-type"], request.content) == (
            "POST",
            "application/json",
            b'{"a":1}',
        )
        return httpx.Response(200, content=b"goods", headers={"payment-receipt": receipt})

    server(handle)

    assert run(URL, "-d", '{"a":1}', "-H", "X-Thing: 1") == 0
    out, err = capfdbinary.readouterr()
    assert out == b"goods"
    assert json.loads(err.split(b"receipt: ")[1]) == {"reference": "0xabc"}


def test_what_is_owed_is_said(server: Any, capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    body = tmp_path / "body"
    body.write_text("plain text")

    def handle(request: httpx.Request) -> httpx.Response:
        if "authorization" not in request.headers:
            return httpx.Response(402, headers={"www-authenticate": challenge(amount="0")})
        assert request.headers["content-type"] == "text/plain; charset=utf-8"
        return httpx.Response(500, headers={"payment-credit": "credit-1", "retry-after": "0"})

    server(handle)

    assert run(URL, "-d", f"@{body}") == 1
    assert "credit-1" in capfd.readouterr().err


def test_inspect_says_when_a_request_is_free(server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    server(lambda _: httpx.Response(200))

    assert run(URL, "--inspect") == 0
    assert "free" in capfd.readouterr().out


def test_inspect_shows_one_line_an_offer(server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    server(lambda _: httpx.Response(402, headers={"www-authenticate": challenge()}))

    assert run(URL, "--inspect") == 0
    assert capfd.readouterr().out.count("\n") == 1
