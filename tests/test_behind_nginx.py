"""What docs/troubleshooting.md says of nginx in front of the gateway, with a real nginx: what its defaults break,
and that the lines given there mend it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gateway_process
import httpx
import missing
import places
import pytest

pytestmark = pytest.mark.data_plane

PAGE = Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md"
OFFERS = 8  # the most a service may have

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: shop}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  payment:
    offers:
OFFERS
  routes:
    - {match: {method: GET, path: /thing}, price: {amount: "0.05"}}
"""
#: No node is asked: nothing is paid here.
CONFIG = "networks: {ours: {chainId: 7, rpcUrl: 'http://127.0.0.1:9'}}\n"

NGINX = """
daemon off; master_process off; pid PLACE/pid; error_log PLACE/error.log;
events {}
http {
  access_log off;
  client_body_temp_path PLACE/body; proxy_temp_path PLACE/proxy; fastcgi_temp_path PLACE/fastcgi;
  uwsgi_temp_path PLACE/uwsgi; scgi_temp_path PLACE/scgi;
  server { listen unix:PLACE/default; location / { proxy_pass GATEWAY; } }
  server { listen unix:PLACE/small; VERSION location / { proxy_pass GATEWAY; } }
  server { listen unix:PLACE/mended; VERSION BUFFERS location / { proxy_pass GATEWAY; } }
}
"""


def _program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        missing.error_or_skip("nginx is missing: apt-get install nginx-light")
    return found


def documented() -> tuple[str, str]:
    """The lines for the protocol version, and those for the buffers."""
    text = PAGE.read_text()
    (version,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    (buffers,) = re.findall(r"`(proxy_buffer_size [^`]*)`", text)
    return "\n".join(line.partition("#")[0] for line in version.splitlines()), buffers


@pytest.fixture
def gateway(start_gateway: gateway_process.Start) -> str:
    one = "      - {{name: o{n}, method: tempo, network: ours, currency: pathUSD, recipient: '0x{to}'}}"
    offers = "\n".join(one.format(n=n, to=str(n + 1) * 40) for n in range(OFFERS))
    return start_gateway({"shop.yaml": SERVICE.replace("OFFERS", offers)}, config=CONFIG).url


@pytest.fixture
def nginx(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a socket for each of its servers."""
    place = tmp_path_factory.mktemp("n")  # short: it holds sockets
    version, buffers = documented()
    text = NGINX.replace("VERSION", version).replace("BUFFERS", buffers)
    (place / "nginx.conf").write_text(text.replace("GATEWAY", gateway).replace("PLACE", str(place)))
    process = subprocess.Popen([_program(), "-e", str(place / "error.log"), "-c", str(place / "nginx.conf")])
    try:
        places.until(lambda: (place / "mended").exists() or process.poll() is not None, limit=20)
        assert process.poll() is None, (place / "error.log").read_text()
        yield place
    finally:
        process.terminate()
        process.wait(20)


def ask(socket: Path) -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=20) as client:
        return client.get("http://127.0.0.1/shop/thing")


def test_what_nginx_needs_in_front_is_what_the_page_says(gateway: str, nginx: Path) -> None:
    alone = httpx.get(f"{gateway}/shop/thing", trust_env=False)
    size = sum(len(name) + len(value) + 4 for name, value in alone.headers.raw)

    assert len(alone.headers.get_list("www-authenticate")) == OFFERS
    assert 4096 < size < 8192  # what the page says of the headers of eight offers
    assert ask(nginx / "default").status_code == 426
    assert ask(nginx / "small").status_code == 502
    assert "upstream sent too big header" in (nginx / "error.log").read_text()
    mended = ask(nginx / "mended")
    assert mended.status_code == 402
    assert len(mended.headers.get_list("www-authenticate")) == OFFERS
