"""Who pays by the method "cheap", and what a gateway needs to be paid by it.

    bank = cheap_wallet.bank(tmp_path)
    services = {"shop.yaml": cheap_wallet.service(port, payee, 5)}
    start_gateway(services, config=cheap_wallet.network(bank), environ=cheap_wallet.environ())
    credential = cheap_wallet.sign(www_authenticate, cheap_wallet.key("alice"))

The method itself is in cheap/cheap_method.py.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import mpp
from cheap import cheap_method
from cheap.cheap_method import Bank, Transaction
from coincurve import PrivateKey
from mpp.client.transport import Mpp
from mpp.methods import Method as Definition
from mpp.runtime import ClientMethod, CredentialParams
from pydantic import BaseModel, ConfigDict

#: Put on PYTHONPATH of a gateway, and it takes cheap payments.
FOLDER: Final = Path(cheap_method.__file__).parent
CHAIN_ID: Final = 4201
#: Seconds a signed transaction is good for, as pympp's are.
VALIDITY: Final = 60
#: For transactions signed long before they are presented. A chain would not take such a one.
LONG: Final = 600

_SERVICE: Final = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}, namespace: tests}}
spec:
  upstream: {{url: "http://127.0.0.1:{upstream}", timeouts: {{request: {request}, upload: 1s}}}}
  payment:
    expiresIn: {expires_in}
    credit: {{attempts: 10}}
    offers:
      - {{method: cheap, network: cheapnet, currency: coin, recipient: "{recipient}"{offer}}}
  routes:
    - {{name: thing, match: {{method: GET, path: /thing}}, price: {{baseUnits: "{price}"}}}}
    - {{name: free, match: {{method: GET, path: /free}}, free: true}}
"""


def bank(home: Path) -> Bank:
    """A new one in a folder of `home`."""
    folder = home / "bank"
    folder.mkdir(parents=True)
    return Bank(folder)


def service(
    upstream: int,
    recipient: str,
    price: int,
    *,
    name: str = "shop",
    offer: str = "",
    expires_in: str = "5m",
    request: str = "10s",
) -> str:
    """A PaidService whose `/thing` costs `price` base units. `offer`: more fields of its offer, after a comma."""
    return _SERVICE.format(
        upstream=upstream,
        recipient=recipient,
        price=price,
        name=name,
        offer=offer,
        expires_in=expires_in,
        request=request,
    )


def network(bank: Bank) -> str:
    """gateway.yaml's `networks`."""
    return (
        "networks:\n"
        f"  cheapnet: {{method: cheap, chainId: {CHAIN_ID}, rpcUrl: '{bank.url}', "
        f"currencies: {{coin: '0x{'c0' * 20}'}}}}\n"
    )


def environ(*folders: Path, **extra: str) -> dict[str, str]:
    """A gateway's, so that it finds the method, and the modules in `folders` before it."""
    return {"PYTHONPATH": os.pathsep.join(map(str, [*folders, FOLDER]))} | extra


def key(name: str) -> PrivateKey:
    """The same for the same name, always."""
    return PrivateKey(hashlib.sha256(f"cheap {name}".encode()).digest())


def address(name: str) -> str:
    return cheap_method.address(key(name).public_key)


# --- paying --------------------------------------------------------------------------------------------


def transaction(challenge: mpp.Challenge, payer: PrivateKey, /, **other: Any) -> Transaction:
    """What pays a challenge; `other` are terms that differ from what it asks for."""
    terms = {
        "amount": challenge.request["amount"],
        "chainId": challenge.request["methodDetails"]["chainId"],
        "challenge": challenge.id,
        "currency": challenge.request["currency"],
        "nonce": secrets.token_hex(16),
        "recipient": challenge.request["recipient"],
        "validBefore": int(time.time()) + VALIDITY,
    }
    return cheap_method.sign(terms | other, payer)


def payload(signed: Transaction) -> dict[str, str]:
    """A pull credential's."""
    return {"type": "transaction", "terms": signed.terms, "signature": signed.signature}


def credential(challenge: mpp.Challenge, said: Mapping[str, Any]) -> str:
    """The header's value."""
    return mpp.Credential(challenge.to_echo(), dict(said), None).to_authorization()


def sign(www_authenticate: str, payer: PrivateKey, *, valid_for: int = VALIDITY) -> str:
    """A pull credential for the challenge of a 402, good for so many seconds; nobody is asked."""
    challenge = mpp.Challenge.from_www_authenticate(www_authenticate)
    signed = transaction(challenge, payer, validBefore=int(time.time()) + valid_for)
    return credential(challenge, payload(signed))


def push(www_authenticate: str, payer: PrivateKey, bank: Bank) -> str:
    """Move the money, and say so."""
    challenge = mpp.Challenge.from_www_authenticate(www_authenticate)
    signed = transaction(challenge, payer)
    assert bank.send(signed)
    return credential(challenge, {"type": "hash", "hash": signed.reference})


class _Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


def pympp(payer: PrivateKey) -> Mpp:
    """pympp's own client, which pays by this method: `async with cheap_wallet.pympp(key) as http: …`."""

    async def create(asked: CredentialParams) -> str:
        return credential(asked.challenge, payload(transaction(asked.challenge, payer)))

    definition = Definition(
        name=cheap_method.NAME, intent="charge", request_model=_Anything, payload_model=_Anything
    )
    return Mpp([ClientMethod(method=definition, create_credential=create)])
