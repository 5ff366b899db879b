"""`mpp-gateway pay`: a buyer, on pympp's client. Knows no services and no ledger.

It pays on test networks unless it is told to use mainnet. An answer that says that money may have moved and
nothing was delivered is met with the same credential again, never with a second payment.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import email.utils
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import mpp
from mpp._parsing import ParseError
from mpp.errors import PaymentError
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo
from mpp.methods.tempo.client import TransactionError
from mpp.runtime import CredentialParams

from mpp_authz import wire
from mpp_authz.methods import proof
from mpp_operator import networks
from mpp_operator.console import DONE, WRONG_ENVIRONMENT, WRONG_INPUT, WRONG_USAGE, Failure
from mpp_operator.document import shown

KEY_VARIABLE: Final = "MPP_PRIVATE_KEY"
RPC_VARIABLE: Final = "MPP_RPC_URL"

#: An environment variable; 64 digits are a key that was put in its place.
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
#: RFC 9110, section 5.6.2, and the characters of section 5.5 that everybody reads alike.
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")

#: Times the same credential is presented, and seconds all of that may take.
PRESENTATIONS: Final = 6
PATIENCE: Final = 90.0
#: Seconds between presentations where the answer names none, and the most it may name.
PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
#: Seconds one answer may take; a settlement may take ten of them.
ANSWER_LIMIT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Terms:
    """One offer of a 402, as a person wants to see it. Amounts are base units."""

    method: str
    intent: str
    realm: str
    network: str  # a name of `networks`, or "chain <id>"
    amount: str
    currency: str
    recipient: str
    expires: str | None
    description: str | None
    sponsored: bool
    modes: tuple[str, ...]

    def line(self) -> str:
        price = "nothing, for a proof of address" if self.amount == "0" else f"{self.amount} of {self.currency}"
        rest = [f"to {self.recipient}", f"on {self.network}"]
        rest += ["network fee paid"] if self.sponsored else []
        rest += [f"by {self.modes[0]} only"] if len(self.modes) == 1 else []
        rest += [f"until {self.expires}"] if self.expires else []
        rest += [repr(self.description)] if self.description else []
        return f"{self.method}/{self.intent}: {price} " + ", ".join(rest)


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """The last answer. `receipt` is None where nothing was paid or the answer carries none."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)
    receipt: Mapping[str, Any] | None
    presentations: int  # 0: it was free

    @property
    def success(self) -> bool:
        return 200 <= self.status < 300


async def inspect(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Sequence[tuple[str, str]] = (),
    http: httpx.AsyncClient | None = None,
) -> tuple[Terms, ...]:
    """The offers for a request, in the server's order; empty where it is not a 402. Pays nothing.

    Raises:
        Failure: the server cannot be reached, or its challenges cannot be read.
    """
    async with _client(http) as client:
        answer = await _send(client, method, url, body, headers)
    return tuple(_terms(challenge) for challenge in _challenges(answer))


async def pay(
    url: str,
    *,
    key: str,
    network: str | None = None,
    rpc_url: str | None = None,
    method: str = "GET",
    body: bytes | None = None,
    headers: Sequence[tuple[str, str]] = (),
    realm: str | None = None,
    http: httpx.AsyncClient | None = None,
) -> PaidAnswer:
    """Ask, pay the first offer that can be paid, and ask again.

    Args:
        key: private key of the payer.
        network: the one network to pay on; None: any test network.
        rpc_url: the node to ask; None: the network's public one.
        realm: a realm to prove an address to, where it is not the URL's host.

    Raises:
        Failure: nothing can be paid, or the server or the chain cannot be reached.
    """
    async with _client(http) as client:
        first = await _send(client, method, url, body, headers)
        if first.status_code != 402:
            return _answer(first, 0)
        challenge = _choose(_challenges(first), network, url, realm)
        chain_id = _chain_id(challenge.request)
        name, value = challenge.credential_header, await _credential(challenge, chain_id, key, rpc_url)
        return await _present(client, method, url, body, [*headers, (name, value)])


async def _present(
    client: httpx.AsyncClient, method: str, url: str, body: bytes | None, headers: Sequence[tuple[str, str]]
) -> PaidAnswer:
    """Present one credential until its answer is final. Presenting it again costs nothing."""
    give_up = time.monotonic() + PATIENCE
    for presentation in range(1, PRESENTATIONS + 1):
        last = presentation == PRESENTATIONS
        try:
            answer = await _send(client, method, url, body, headers)
        except Failure:
            if last or time.monotonic() + PAUSE > give_up:
                raise
            await asyncio.sleep(PAUSE)
            continue
        wait = pause(answer.status_code, answer.headers, time.time())
        if wait is None or last or time.monotonic() + wait > give_up:
            return _answer(answer, presentation)
        await asyncio.sleep(wait)
    raise AssertionError("the last presentation returns or raises")


def pause(status: int, headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the same credential should be presented again; None: the answer is final.

    Undelivered and paid: 5xx with our `Payment-Credit`. Still settling, or unknown: 409 or 503 with Retry-After.
    A challenge in the answer means that this credential is worth nothing any more.
    """
    undelivered = status >= 500 and wire.CREDIT_HEADER in headers
    unsettled = status in (409, 503) and "retry-after" in headers
    if "www-authenticate" in headers or not (undelivered or unsettled):
        return None
    return min(max(_retry_after(headers.get("retry-after"), now), 0.0), LONGEST_PAUSE)


def _retry_after(value: str | None, now: float) -> float:
    """Seconds, from seconds or a date (RFC 9110, Retry-After)."""
    if value is None:
        return PAUSE
    if value.strip().isdigit():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - now
    except ValueError:
        return PAUSE


# --- what is asked -------------------------------------------------------------------------------------


def _challenges(answer: httpx.Response) -> tuple[mpp.Challenge, ...]:
    if answer.status_code != 402:
        return ()
    found = []
    for line in answer.headers.get_list("www-authenticate"):
        for value in payment_challenges(line):
            try:
                found.append(mpp.Challenge.from_www_authenticate(value))
            except (ParseError, ValueError) as error:
                raise Failure(WRONG_INPUT, f"the server's challenge cannot be read: {error}") from error
    if not found:
        raise Failure(WRONG_INPUT, "the server answers 402 without a Payment challenge: it is no MPP server")
    return tuple(found)


#: What a header's list is made of: quoted texts, in which a comma parts nothing, and everything else.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[^,"]+', re.DOTALL)
#: The scheme that begins a challenge. A parameter has an equals sign there.
_SCHEME: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]+(?![ \t=])|$)")


def payment_challenges(line: str) -> tuple[str, ...]:
    """The Payment challenges of one `WWW-Authenticate` line, in order.

    A server, or a proxy on the way, may put several challenges into one line, also of other schemes (RFC 9110,
    WWW-Authenticate). pympp reads one at a time.
    """
    found: list[list[str]] = []
    for element in _elements(line):
        if _SCHEME.match(element):
            found.append([element])
        elif found and element:
            found[-1].append(element)
    return tuple(", ".join(parts) for parts in found if parts[0].split()[0].lower() == "payment")


def _elements(line: str) -> list[str]:
    """A header's list, parted at the commas outside of quotes."""
    elements, at = [""], 0
    while at < len(line):
        piece = _PIECE.match(line, at)
        if piece is None:  # a comma
            elements.append("")
            at += 1
        else:
            elements[-1] += piece[0]
            at = piece.end()
    return [element.strip(" \t") for element in elements]


def _terms(challenge: mpp.Challenge) -> Terms:
    request = challenge.request
    details = request.get("methodDetails") or {}
    chain_id = _chain_id(request)
    return Terms(
        challenge.method,
        challenge.intent,
        challenge.realm,
        _network_name(chain_id) or (f"chain {chain_id}" if chain_id is not None else "no chain"),
        str(request.get("amount", "?")),
        str(request.get("currency", "?")),
        str(request.get("recipient", "?")),
        challenge.expires,
        challenge.description,
        bool(details.get("feePayer", False)),
        tuple(details.get("supportedModes") or ("pull", "push")),
    )


def _chain_id(request: Mapping[str, Any]) -> int | None:
    details = request.get("methodDetails")
    found = details.get("chainId") if isinstance(details, dict) else None
    return found if isinstance(found, int) else None


def _network_name(chain_id: int | None) -> str | None:
    return next((name for name, known in networks.CHAIN_IDS.items() if known == chain_id), None)


def _choose(
    challenges: Sequence[mpp.Challenge], network: str | None, url: str, realm: str | None
) -> mpp.Challenge:
    """The first offer that may be paid.

    Raises:
        Failure: there is none; says why for each.
    """
    reasons = []
    for challenge in challenges:
        reason = _objection(challenge, network, url, realm)
        if reason is None:
            return challenge
        reasons.append(f"{challenge.method}/{challenge.intent}: {reason}")
    raise Failure(WRONG_INPUT, *reasons)


def _objection(challenge: mpp.Challenge, network: str | None, url: str, realm: str | None) -> str | None:
    if (challenge.method, challenge.intent) != ("tempo", "charge"):
        return "expected tempo/charge, the one kind this buyer can pay"
    terms = _terms(challenge)
    if terms.network not in networks.CHAIN_IDS:
        return f"expected one of {', '.join(networks.CHAIN_IDS)}, got {terms.network}"
    if network is None and terms.network == networks.MAINNET:
        return "it asks for real money; to pay it, add --network mainnet"
    if network is not None and terms.network != network:
        return f"expected network {network}, got {terms.network}"
    # "Challenges MUST NOT be issued over plain HTTP" -- draft-httpauth-payment-00, Transport security
    if terms.network == networks.MAINNET and httpx.URL(url).scheme != "https":
        return "it asks for real money over plain HTTP; use https://"
    if terms.amount == "0":
        # A proof is good wherever its realm says. A server must not get one that it could show to another.
        here = httpx.URL(url)
        if challenge.realm not in (realm, here.host, here.netloc.decode("ascii")):
            return f"it wants a proof for {challenge.realm!r}; if that is right, add --realm {challenge.realm}"
    elif "pull" not in terms.modes:
        return "expected pull mode, got push only"
    return None


async def _credential(challenge: mpp.Challenge, chain_id: int | None, key: str, rpc_url: str | None) -> str:
    """The header's value that answers a challenge.

    Raises:
        Failure: the chain cannot be reached, or refuses.
    """
    assert chain_id is not None  # noqa: S101 - _objection knows its name
    if challenge.request["amount"] == "0":
        signature, source = proof.sign(key, challenge_id=challenge.id, realm=challenge.realm, chain_id=chain_id)
        payload = {"type": "proof", "signature": signature}
        return mpp.Credential(challenge.to_echo(), payload, source).to_authorization()
    name = _network_name(chain_id) or ""
    endpoint = rpc_url or networks.PUBLIC_NODES.get(name)
    if endpoint is None:
        raise Failure(WRONG_USAGE, f"{name} has no public node: add --rpc-url, or set {RPC_VARIABLE}")
    payer = tempo.charge(account=TempoAccount.from_key(key), chain_id=chain_id, rpc_url=endpoint)
    try:
        return await payer.create_credential(CredentialParams(challenge=challenge))
    except httpx.HTTPError as error:
        raise Failure(
            WRONG_ENVIRONMENT,
            f"the node of {name} cannot be reached ({type(error).__name__}); check --rpc-url or {RPC_VARIABLE}",
        ) from error
    except (PaymentError, TransactionError, ValueError, RuntimeError) as error:
        raise Failure(WRONG_INPUT, f"the payment cannot be made: {error}") from error


# --- HTTP ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _client(given: httpx.AsyncClient | None) -> AsyncIterator[httpx.AsyncClient]:
    """The caller's client, left open; or one of our own."""
    if given is not None:
        yield given
        return
    async with httpx.AsyncClient(timeout=ANSWER_LIMIT) as own:
        yield own


async def _send(
    client: httpx.AsyncClient, method: str, url: str, body: bytes | None, headers: Sequence[tuple[str, str]]
) -> httpx.Response:
    try:
        return await client.request(method, url, content=body, headers=list(headers), follow_redirects=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Failure(WRONG_USAGE, f"URL: expected http:// or https://, got {shown(url)}") from error
    except httpx.HTTPError as error:
        fix = "is it running?"
        if "[SSL" in str(error):  # httpx tells failures of TLS by their text alone
            fix = f"no TLS with it: {error}; does it speak http://, or has it a certificate this machine trusts?"
        raise Failure(WRONG_ENVIRONMENT, f"{url}: no answer ({type(error).__name__}); {fix}") from error


def _answer(response: httpx.Response, presentations: int) -> PaidAnswer:
    return PaidAnswer(
        response.status_code,
        response.headers,
        response.content,
        receipt(response.headers.get(wire.RECEIPT_HEADER)),
        presentations,
    )


def receipt(token: str | None) -> Mapping[str, Any] | None:
    """The decoded `Payment-Receipt`; None where there is none, or none that can be read."""
    if token is None:
        return None
    try:
        document = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError):
        return None
    return document if isinstance(document, dict) else None


# --- the command line ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `mpp-gateway pay`."""
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--inspect", action="store_true", help="show the offers and pay nothing")
    parser.add_argument("-X", "--request", metavar="METHOD", help="HTTP method (GET, or POST with a body)")
    parser.add_argument("-d", "--data", metavar="BODY", help="request body; @FILE reads a file")
    parser.add_argument(
        "-H", "--header", metavar="NAME: VALUE", action="append", default=[], help="request header"
    )
    parser.add_argument(
        "--key", metavar="VARIABLE", default=KEY_VARIABLE, help="environment variable that holds the private key"
    )
    parser.add_argument(
        "--network", choices=tuple(networks.CHAIN_IDS), help="pay on this one (default: any test network)"
    )
    parser.add_argument(
        "--rpc-url",
        metavar="URL",
        default=None,
        help=f"the network's node (default: {RPC_VARIABLE}, or a public one)",
    )
    parser.add_argument("--realm", help="prove an address to this realm, where it is not the URL's host")


def run(args: argparse.Namespace) -> int:
    """Pay or inspect as the arguments say. Body on stdout, everything else on stderr.

    Returns:
        The exit code: 0 delivered or shown, 1 refused, 2 usage, 3 the server or the chain cannot be reached.
    """
    try:
        return asyncio.run(_run(args))
    except Failure as failure:
        for problem in failure.problems:
            sys.stderr.write(f"pay: {problem}\n")
        return failure.code


async def _run(args: argparse.Namespace) -> int:
    _check_url(args.url)
    body = _body(args.data)
    method = args.request or ("GET" if body is None else "POST")
    if not _TOKEN.fullmatch(method):
        raise Failure(WRONG_USAGE, f"--request: expected an HTTP method, got {method!a}")
    headers = _headers(args.header, body)
    if args.inspect:
        offers = await inspect(args.url, method=method, body=body, headers=headers)
        sys.stdout.write("".join(f"{terms.line()}\n" for terms in offers) or "free: no payment is asked for\n")
        return DONE
    answer = await pay(
        args.url,
        key=_key(args.key),
        network=args.network,
        rpc_url=args.rpc_url or os.environ.get(RPC_VARIABLE),
        method=method,
        body=body,
        headers=headers,
        realm=args.realm,
    )
    sys.stdout.buffer.write(answer.body)
    if sys.stdout.isatty() and not answer.body.endswith(b"\n"):  # what follows is for a person's eyes, too
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    if answer.receipt is not None:
        sys.stderr.write(f"receipt: {json.dumps(answer.receipt, sort_keys=True)}\n")
    if answer.success:
        return DONE
    credit = answer.headers.get(wire.CREDIT_HEADER)
    sys.stderr.write(f"pay: the server answers {answer.status}{_after(answer.presentations)}\n")
    if credit is not None:
        sys.stderr.write(f"pay: it was paid and not delivered; the server owes it as {credit}\n")
    return WRONG_INPUT


def _after(presentations: int) -> str:
    if presentations == 0:
        return " and asks for no payment"
    return " to the payment" + (f", presented {presentations} times" if presentations > 1 else "")


def _check_url(url: str) -> None:
    try:
        found = httpx.URL(url)
        right = found.scheme in ("http", "https") and found.host and 0 < (found.port or 1) < 65536
    except httpx.InvalidURL:
        right = False
    if not right:
        raise Failure(
            WRONG_USAGE, f"URL: expected http:// or https://, a host, and a port up to 65535, got {shown(url)}"
        )


def _key(variable: str) -> str:
    if not _VARIABLE.fullmatch(variable):  # not shown: it may be the key
        raise Failure(
            WRONG_USAGE,
            "--key: expected the name of an environment variable that holds the key, got something else",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Failure(
            WRONG_USAGE,
            f"{variable}: expected a private key in this environment variable, found none; "
            "set it (`run --sandbox` prints one)",
        )
    try:
        TempoAccount.from_key(key)
    except (ValueError, TypeError):  # its own message quotes the key
        raise Failure(WRONG_USAGE, f"{variable}: expected a private key: 0x and 64 hexadecimal digits") from None
    return key


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise Failure(WRONG_USAGE, f"--data: cannot read {data[1:]!r} ({error.strerror})") from error


def _headers(lines: Sequence[str], body: bytes | None) -> list[tuple[str, str]]:
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name.strip()) or not _VALUE.fullmatch(value.strip()):
            # The value is not shown, nor the line where it cannot be told from the name.
            found = f"the name {name!a}" if colon else "no colon"
            raise Failure(WRONG_USAGE, f"--header: expected 'Name: value' in printable ASCII, got {found}")
        headers.append((name.strip(), value.strip()))
    if body is not None and "content-type" not in {name.lower() for name, _ in headers}:
        headers.append(("content-type", _content_type(body)))
    return headers


def _content_type(body: bytes) -> str:
    try:
        json.loads(body)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"
