"""Several gateways that are one: one store, one signing key, one upstream, one bank of the method "cheap".

    gateways = replicas.start(start_gateway, 3, upstream.port, bank, store=replicas.postgres(url))

Each is a `mpp-gateway run` with a state folder, an authz and an Envoy of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import cheap_wallet
import gateway_process
from cheap.cheap_method import Bank
from gateway_process import GatewayProcess

#: Base units of `/shop/thing`.
PRICE: Final = 7
PAYEE: Final = cheap_wallet.address("payee of the replicas")
_SIGNING_KEY: Final = "the replicas' key, of 32 bytes or more"
_STORE_VARIABLE: Final = "LEDGER_URL"

#: gateway.yaml and the environment of one store.
Store = tuple[str, Mapping[str, str]]


def postgres(url: str) -> Store:
    """A PostgreSQL, by its address: a secret, found in the environment."""
    return "store: {postgres: {urlFrom: {name: ledger, key: url}}}\n", {_STORE_VARIABLE: url}


def start(
    start_gateway: gateway_process.Start,
    count: int,
    upstream: int,
    bank: Bank,
    store: Store,
    *,
    config: str = "",
    expires_in: str = "5m",
    request: str = "10s",
    environs: Sequence[Mapping[str, str]] = (),
) -> list[GatewayProcess]:
    """Start them at once and wait for all. `environs`: more variables of each, in order."""
    text, secrets = store
    gateways = []
    for number in range(count):
        more = environs[number] if number < len(environs) else {}
        service = cheap_wallet.service(upstream, PAYEE, PRICE, expires_in=expires_in, request=request)
        gateways.append(
            start_gateway(
                {"shop.yaml": service},
                config=cheap_wallet.network(bank) + text + config,
                environ=cheap_wallet.environ() | {"MPP_SECRET_KEY": _SIGNING_KEY} | dict(secrets) | dict(more),
                wait=False,
            )
        )
    for gateway in gateways:
        gateway_process.wait_until_ready(gateway)
    return gateways
