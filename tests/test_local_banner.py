"""What a gateway says of itself, and how."""

import io
from pathlib import Path
from typing import Any

import pytest

from mpp_operator import banner, console, sources

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: {name}, namespace: tests}}
spec:
  {more}
  upstream: {{url: "http://127.0.0.1:9"}}
  payment:
    offers:
      - {{name: usd, method: tempo, network: moderato, currency: pathUSD, recipient: "0x{recipient}"}}
      - {{name: other, method: tempo, network: moderato, currency: OUSD, recipient: "0x{recipient}"}}
  routes:
"""
ROUTE = "    - {{name: r{n}, match: {{method: GET, path: /r{n}}}, price: {{amount: '0.0{n}'}}}}\n"


def described(tmp_path: Path, routes: str, name: str = "shop", more: str = "title: x") -> list[dict[str, Any]]:
    file = tmp_path / "x.yaml"
    file.write_text(SERVICE.format(name=name, more=more, recipient="70" * 20) + routes)
    return banner.describe(sources.build(sources.load([file], None), {}), "http://127.0.0.1:4402")


def test_the_ready_line_has_the_url_the_services_and_the_prices(tmp_path: Path) -> None:
    routes = ROUTE.format(n=5) + "    - {name: open, match: {path: /open}, free: true}\n"

    lines = banner.lines("http://127.0.0.1:4402", described(tmp_path, routes), None)

    assert lines == [
        "ready: http://127.0.0.1:4402  tests/shop: 2 routes, 0.05 OUSD / 0.05 pathUSD",
        "  GET http://127.0.0.1:4402/shop/r5  0.05 pathUSD or 0.05 OUSD",
        "  any method http://127.0.0.1:4402/shop/open  free",
    ]


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ('prices: {usd: "0.05", other: "0.06"}', {"0.05 pathUSD", "0.06 OUSD"}),
        (
            'price: {baseUnits: "50000"}',
            {"50000 base units of pathUSD", "50000 base units of OUSD"},
        ),
    ],
)
def test_every_way_to_price_a_route_is_shown(tmp_path: Path, price: str, expected: set[str]) -> None:
    (service,) = described(tmp_path, f"    - {{name: r, match: {{method: GET, path: /r}}, {price}}}\n")

    (route,) = service["routes"]
    assert set(route["price"]) == expected


def test_a_service_with_hosts_of_its_own_has_its_own_url(tmp_path: Path) -> None:
    (service,) = described(tmp_path, ROUTE.format(n=1), more="hosts: [pay.example.com]")

    assert service["url"] == "http://pay.example.com:4402/shop"


def test_a_service_that_sells_nothing_is_all_free(tmp_path: Path) -> None:
    services = described(tmp_path, "    - {name: open, match: {method: POST, path: /open}, free: true}\n")

    assert banner.lines("u", services, None)[0] == "ready: u  tests/shop: 1 route, all free"


def test_many_routes_and_prices_are_cut_short(tmp_path: Path) -> None:
    services = described(tmp_path, "".join(ROUTE.format(n=n) for n in range(1, 31)))

    lines = banner.lines("u", services, {"rpcUrl": "http://c", "buyerKey": "0xkey"})

    assert lines[0] == "ready: u  tests/shop: 30 routes, 60 prices"
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[-2] == "  … and 10 more"
    assert lines[-1].endswith("a buyer with test money: 0xkey")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, pipe = Terminal(), io.StringIO()

    for stream in (terminal, pipe):
        console.Console(stream, stream).problems(["broken"])

    assert terminal.getvalue() == "\x1b[31merror: \x1b[0mbroken\n"
    assert pipe.getvalue() == "error: broken\n"


def test_no_color_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()

    console.Console(terminal, terminal).warn("careful")

    assert terminal.getvalue() == "warning: careful\n"
