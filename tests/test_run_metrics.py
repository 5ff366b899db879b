"""`run --metrics`: where a scraper finds the figures, also after authz was started again."""

import os
import signal
import socket

import gateway_process
import httpx
import pytest

from mpp_operator import cli

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: shop}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  payment:
    offers:
      - {method: tempo, network: ours, currency: pathUSD, recipient: "0x7070707070707070707070707070707070707070"}
  routes:
    - {match: {method: GET, path: /thing}, price: {amount: "0.05"}}
"""
#: No node is asked: nothing is paid here.
CONFIG = "networks: {ours: {chainId: 7, rpcUrl: 'http://127.0.0.1:9'}}\n"


def page(address: str, name: str) -> httpx.Response:
    return httpx.get(f"http://{address}/{name}", trust_env=False)


@pytest.mark.data_plane
def test_the_figures_are_where_it_was_said_also_after_authz_died(start_gateway: gateway_process.Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    gateway = start_gateway({"shop.yaml": SERVICE}, config=CONFIG, arguments=("--metrics", address))
    assert httpx.get(f"{gateway.url}/shop/thing", trust_env=False).status_code == 402
    first = page(address, "metrics").text

    os.kill(gateway.ready["authzPid"], signal.SIGKILL)
    gateway.said("serves again")

    assert gateway.ready["http"] == f"http://{address}"
    assert 'mpp_challenges_total{method="tempo",service="default/shop"}' in first
    assert page(address, "readyz").text == "ok\n"
    assert "mpp_pricing_routes 1.0" in page(address, "metrics").text


@pytest.mark.data_plane
def test_an_address_that_is_taken_is_said_and_nothing_is_left_running(
    start_gateway: gateway_process.Start,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        gateway = start_gateway(
            {"shop.yaml": SERVICE}, config=CONFIG, arguments=("--metrics", address), wait=False
        )

        line = gateway.said("address already in use; choose another port")
        assert address in line
        assert gateway.process.wait(20) == 3


@pytest.mark.parametrize("address", ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000"])
def test_an_address_without_host_or_port_is_wrong_usage(capsys: pytest.CaptureFixture[str], address: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "-f", "x", "--metrics", address])

    assert ended.value.code == 2
    assert "expected an address and a port such as 127.0.0.1:9464" in capsys.readouterr().err
