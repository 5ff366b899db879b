"""Unmodified clients pay through a real Envoy, on a real chain: the payee's balance says what was paid."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import moody
import mpp
import places
import pytest
import wallets
import websockets.exceptions
import websockets.sync.client
from chain import ALPHA_USD, PATH_USD, Chain
from mpp.methods.tempo import TempoAccount
from mpp.methods.tempo import client as tempo_client
from mpp.runtime import CredentialParams
from places import PRICE, Place, Shop

from mpp_authz.ledger import State

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

#: The upstream's own bearer token, of a client that has one.
BEARER = "the-clients-own-token-for-the-api"


@pytest.fixture(scope="module")
def shop(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        def at(name: str) -> str:
            return places.payee("clients", name)

        sponsor = {"feePayer": "{secretRef: {name: sponsor, key: key}, maxPerPayerPerMinute: 60}"}
        both = [
            places.offer(at("choice"), network="moderato", name="far"),
            places.offer(at("choice"), currency="AlphaUSD", name="alpha"),
            places.offer(at("choice"), name="path"),
        ]
        return "---".join(
            [
                places.service("sponsored", port, [places.offer(at("sponsored"), **sponsor)]),
                places.service("choice", port, both),
                places.service(
                    "bearer",
                    port,
                    [places.offer(at("bearer"))],
                    payment="credentialHeader: Payment-Authorization",
                ),
            ]
        )

    with places.opened(
        tmp_path_factory.mktemp("clients"),
        chain,
        "clients",
        places=20,
        also=also,
        environ={"SPONSOR_KEY": chain.sponsor_key},
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_leaks(shop: Shop) -> Iterator[None]:
    yield
    shop.nothing_leaked()


# --- mppx ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["pull", "push"])
def test_mppx_pays_for_a_get_and_a_post(place: Place, mode: str) -> None:
    (got,) = place.mppx("/thing", mode=mode)
    (posted,) = place.mppx("/thing", mode=mode, method="POST", body='{"question": "why"}')

    assert (got.status, posted.status) == (200, 200)
    assert '"body": "{\\"question\\": \\"why\\"}"' in posted.body
    assert place.paid() == 2 * PRICE
    assert [hit.method for hit in place.hits] == ["GET", "POST"]
    assert got.receipt["status"] == "success"
    assert got.receipt["method"] == "tempo"
    assert got.headers["cache-control"] == "private"
