"""Payers for tests: pympp's client, unmodified mppx in a Node process, and hand-made credentials."""

import base64
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import missing
import mpp
import secret_scan
from chain import PATH_USD, Chain, rpc
from mpp.client.transport import Mpp
from mpp.methods.tempo import TempoAccount, attribution
from mpp.methods.tempo import client as tempo_client
from pytempo import Call, TempoTransaction  # type: ignore[import-untyped]

from mpp_authz import challenge as challenges
from mpp_authz.challenge import Challenge
from mpp_authz.methods import proof
from mpp_operator import sandbox

#: Unmodified mppx and viem, pinned in its package.json.
JS = Path(__file__).parent.parent / "js"
_EXPIRING = (1 << 256) - 1


def balance(chain: Chain, address: str, token: str = PATH_USD) -> int:
    """Base units of a TIP-20 token."""
    data = "0x70a08231" + address.removeprefix("0x").lower().zfill(64)
    return int(rpc(chain, "eth_call", {"to": token, "data": data}, "latest"), 16)


def funded(chain: Chain, name: str) -> tuple[str, str]:
    """Address and key of another test account, with a million of each token."""
    address, key = sandbox.account(name)
    secret_scan.know(secret_scan.PAYER_KEY, key)
    rpc(chain, "tempo_fundAddress", address)
    return address, key


def payee(name: str) -> str:
    """An address that nobody else is paid at."""
    return sandbox.account(f"payee {name}")[0]


# --- pympp ---------------------------------------------------------------------------------------------


def pympp(chain: Chain, key: str | None = None) -> Mpp:
    """pympp's own client: `async with wallets.pympp(chain) as payer: await payer.fetch(url)`."""
    account = TempoAccount.from_key(key or chain.buyer_key)
    return Mpp([tempo_client.charge(account=account, chain_id=chain.chain_id, rpc_url=chain.rpc_url)])


# --- mppx ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What mppx got. `credential` is the value it sent in the header, None where it did not pay."""

    status: int
    headers: Mapping[str, str]
    body: str
    credential: str | None

    @property
    def receipt(self) -> dict[str, Any]:
        token = self.headers["payment-receipt"]
        document: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return document


def mppx(
    url: str,
    chain: Chain,
    *,
    mode: str = "pull",
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = None,
    repeat: int = 1,
    limit: float = 60,
) -> list[Answer]:
    """Pay with unmodified mppx, `repeat` times one after the other. One answer each."""
    question = {
        "url": url,
        "mode": mode,
        "method": method,
        "body": body,
        "headers": dict(headers or {}),
        "repeat": repeat,
        "rpcUrl": chain.rpc_url,
        "chainId": chain.chain_id,
        "key": key or chain.buyer_key,
    }
    answers = [Answer(**entry) for entry in node("pay.mjs", question, limit)]
    for answer in answers:
        if answer.credential is not None:
            secret_scan.know_authorization(answer.credential)
    return answers


def node(script: str, question: Mapping[str, Any], limit: float = 60) -> Any:
    """Run a script of tests/js: a JSON question on stdin, a JSON answer on stdout."""
    done = subprocess.run(
        [node_program(), str(JS / script)],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=limit,
    )
    if done.returncode != 0:
        raise AssertionError(f"{script} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


@functools.cache
def node_program() -> str:
    """Node, with mppx beside the scripts. Missing: an error on CI, a loud skip elsewhere."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        missing.error_or_skip("unmodified mppx needs Node.js 20 or newer, with npm")
    if not all(_installed(name, version) for name, version in _wanted().items()):
        # As package-lock.json has it; npm must not write the address of anybody's registry into it.
        arguments = [
            "install",
            "--legacy-peer-deps",
            "--omit-lockfile-registry-resolved",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
        ]
        subprocess.run([npm, *arguments], cwd=JS, check=True, capture_output=True, timeout=300)
    return program


def _wanted() -> dict[str, str]:
    """The packages of package.json, each at one exact version."""
    wanted: dict[str, str] = json.loads((JS / "package.json").read_text())["dependencies"]
    return wanted


def _installed(name: str, version: str) -> bool:
    found = JS / "node_modules" / name / "package.json"
    return found.is_file() and json.loads(found.read_text())["version"] == version


# --- by hand -------------------------------------------------------------------------------------------


def transfer(
    chain: Chain,
    *,
    memo: str | None,
    recipient: str,
    amount: int,
    token: str = PATH_USD,
    valid_before: int | None = None,
    valid_after: int | None = None,
    nonce_key: int = _EXPIRING,
    nonce: int = 0,
    chain_id: int | None = None,
    sponsored: bool = False,
    gas_limit: int = 1_000_000,
) -> TempoTransaction:
    """An unsigned transfer, as pympp's client makes it where nothing is said."""
    words = [recipient.removeprefix("0x").lower().zfill(64), f"{amount:064x}"]
    data = "0xa9059cbb" + "".join(words) if memo is None else "0x95777d59" + "".join([*words, memo[2:]])
    return TempoTransaction.create(
        chain_id=chain.chain_id if chain_id is None else chain_id,
        gas_limit=gas_limit,
        max_fee_per_gas=25_000_000_000,
        max_priority_fee_per_gas=1_000_000_000,
        nonce=nonce,
        nonce_key=nonce_key,
        fee_token=None if sponsored else PATH_USD,
        awaiting_fee_payer=sponsored,
        valid_before=int(time.time()) + 25 if valid_before is None else valid_before,
        valid_after=valid_after,
        calls=(Call.create(to=token, value=0, data=data),),
    )


def memo(challenge: Challenge) -> str:
    """What binds a transfer to a challenge."""
    return attribution.encode(challenge.id, challenge.realm)


def authorization(challenge: Challenge, payload: Mapping[str, Any], source: str | None = None) -> str:
    """The header's value for a hand-made credential."""
    echo = mpp.ChallengeEcho(
        challenge.id,
        challenge.realm,
        challenge.method,
        challenge.intent,
        challenge.request,
        challenge.expires,
        challenge.digest,
        challenge.opaque,
        challenge.header,
    )
    value = mpp.Credential(echo, dict(payload), source).to_authorization()
    secret_scan.know_authorization(value)
    return value


def challenge_of(www_authenticate: str) -> Challenge:
    """Read one `WWW-Authenticate` value as a payer does."""
    read = mpp.Challenge.from_www_authenticate(www_authenticate)
    echo = read.to_echo()
    return Challenge(
        echo.id,
        echo.realm,
        echo.method,
        echo.intent,
        echo.request,
        echo.expires,
        echo.digest,
        echo.header,
        echo.opaque,
    )


def sign(chain: Chain, challenge: Challenge, key: str | None = None) -> str:
    """A pull credential's header value, made without asking the chain anything."""
    request = mpp.Challenge.from_www_authenticate(_www_authenticate(challenge)).request
    key = key or chain.buyer_key
    source = proof.source(TempoAccount.from_key(key).address, chain.chain_id)
    unsigned = transfer(
        chain,
        memo=memo(challenge),
        recipient=request["recipient"],
        amount=int(request["amount"]),
        token=request["currency"],
    )
    payload = {"type": "transaction", "signature": "0x" + unsigned.sign(key).encode().hex()}
    return authorization(challenge, payload, source)


def sign_all(chain: Chain, values: Sequence[str], key: str | None = None, workers: int = 1) -> list[str]:
    """Pull credentials for many `WWW-Authenticate` values, for load tests. In order."""
    with futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda value: sign(chain, challenge_of(value), key), values))


def _www_authenticate(challenge: Challenge) -> str:
    return challenges.www_authenticate(challenge)
