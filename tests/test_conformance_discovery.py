"""Rows of discovery that are about what the author of a PaidService says: as Envoy serves it."""

from urllib.parse import urlsplit

import gateway_process
import httpx
import pytest
import wallets

pytestmark = pytest.mark.data_plane

_CONFIG = 'networks: {devnet: {method: tempo, chainId: 31337, rpcUrl: "http://127.0.0.1:9"}}\n'
_SERVICE = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: shop, namespace: tests}}
spec:
  title: A shop
  version: 2.1.0
  categories: [compute, machine-learning]
  docs:
    homepage: https://shop.example/
    apiReference: https://shop.example/api
    llms: https://shop.example/llms.txt
  upstream: {{url: "http://127.0.0.1:9"}}
  payment: {{offers: [{{method: tempo, network: devnet, currency: pathUSD, recipient: "{payee}"}}]}}
  routes:
    - match: {{method: POST, path: "/words/{{id}}"}}
      price: {{amount: "0.01"}}
      openapi:
        summary: One word
        requestBody:
          required: true
          content: {{application/json: {{schema: {{type: object, required: [prompt]}}}}}}
"""


@pytest.mark.row("D02", "D07", "D09", "D10")
def test_a_served_document_says_what_the_service_is_and_what_its_operations_take(
    start_gateway: gateway_process.Start,
) -> None:
    text = _SERVICE.format(payee=wallets.payee("discovery"))
    gateway = start_gateway({"shop.yaml": text}, config=_CONFIG)

    document = httpx.get(gateway.url + "/shop/openapi.json").json()

    assert document["openapi"].startswith("3.")
    assert (document["info"]["title"], document["info"]["version"]) == ("A shop", "2.1.0")
    assert document["x-service-info"]["categories"] == ["compute", "machine-learning"]
    links = document["x-service-info"]["docs"]
    assert set(links) == {"homepage", "apiReference", "llms"}
    assert all(urlsplit(link).scheme == "https" and urlsplit(link).netloc for link in links.values())
    (path,) = document["paths"].values()
    assert path["post"]["requestBody"]["content"]["application/json"]["schema"]["required"] == ["prompt"]
    (parameter,) = path.get("parameters") or path["post"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("id", "path", True)
