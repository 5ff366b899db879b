"""An upstream's description while the gateway runs: taken over when it changes, never in the way of a route."""

import json
import time

import gateway_process
import httpx
import pytest

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(120)]

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: pets}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  payment:
    offers:
      - method: tempo
        network: moderato
        currency: pathUSD
        recipient: "0x7070707070707070707070707070707070707070"
  discovery: {openapiFrom: {file: theirs.json}}
  routes:
    - {match: {method: GET, path: "/pets/{id}"}, price: {amount: "0.01"}}
"""


def theirs(summary: str) -> str:
    return json.dumps({"openapi": "3.0.3", "paths": {"/pets/{pet}": {"get": {"summary": summary}}}})


def until_listed(gateway: gateway_process.GatewayProcess, words: str) -> None:
    """Waits until llms.txt says `words`."""
    deadline = time.monotonic() + 20
    while words not in (text := httpx.get(f"{gateway.url}/pets/llms.txt").text):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_words_change_with_their_file_and_a_broken_file_costs_nothing_but_words(
    start_gateway: gateway_process.Start,
) -> None:
    gateway = start_gateway({"svc.yaml": SERVICE})
    assert "file 'theirs.json' to be readable, got nothing" in gateway.said("warning: ")

    for words in ("One pet", "A single pet"):
        gateway.edit("theirs.json", theirs(words))
        until_listed(gateway, f"{words}. Price: 0.01 pathUSD")

    gateway.edit("theirs.json", "{")
    until_listed(gateway, "`GET /pets/pets/{id}`: Price: 0.01 pathUSD")
    assert "theirs.json': expected JSON" in gateway.said("expected JSON")
    assert httpx.get(f"{gateway.url}/pets/pets/1").status_code == 402
    assert sum("warning: " in line for line in gateway.stderr) == 2
