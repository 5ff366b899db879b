"""An upstream behind TLS is verified, always: its chain and its name."""

import asyncio
import contextlib
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import irs
import pytest
from planes import data_plane, everything_free, everything_priced, foreign_address

from mpp_operator import bootstrap, ir
from mpp_operator.artifacts import secrets

pytestmark = pytest.mark.data_plane


@dataclass(frozen=True, slots=True)
class Keys:
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A self-signed certificate of `up.example` and 127.0.0.1."""
    made = Keys(tmp_path / "cert.pem", tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=up.example", "-addext", "subjectAltName=DNS:up.example,IP:127.0.0.1"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return made


def trusting(keys: Keys) -> secrets.Files:
    source = ir.SecretSource("shop", "ca", "ca.crt")
    gateway = ir.Gateway((), (), (), irs.gateway().transport, (ir.UpstreamSecret("ca", source, "ca"),))
    return secrets.render(gateway, {source: keys.certificate.read_text()}, ())


@pytest.mark.parametrize("name", ["up.example", "127.0.0.1"])
async def test_a_certificate_of_the_services_own_authority_is_accepted(
    tmp_path: Path, keys: Keys, name: str
) -> None:
    async with data_plane(
        tmp_path,
        everything_free(),
        tls=keys.context(),
        secret_files=trusting(keys),
        tls_server_name=name,
        tls_ca_secret="ca",
    ) as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, len(plane.upstream.hits)) == (200, 1)


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path, keys: Keys) -> None:
    async with data_plane(
        tmp_path,
        everything_free(),
        tls=keys.context(),
        secret_files=trusting(keys),
        tls_server_name="other.example",
        tls_ca_secret="ca",
    ) as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, plane.upstream.hits) == (503, [])
        assert "CERTIFICATE" not in answer.text


async def test_a_self_signed_certificate_is_refused(tmp_path: Path, keys: Keys) -> None:
    async with data_plane(tmp_path, everything_free(), tls=keys.context(), tls_server_name="up.example") as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, plane.upstream.hits) == (503, [])


async def test_the_listener_speaks_tls_where_it_has_a_certificate(tmp_path: Path, keys: Keys) -> None:
    settings = bootstrap.BootstrapSettings("dp", tls=bootstrap.Certificate(str(keys.certificate), str(keys.key)))

    async with data_plane(tmp_path, everything_free(), settings=settings) as plane:
        trust = ssl.create_default_context(cafile=str(keys.certificate))
        async with httpx.AsyncClient(verify=trust) as client:
            answer = await client.get(f"https://127.0.0.1:{plane.envoy.port}/llm/x")

        assert answer.status_code == 200


@pytest.mark.row("D01")
async def test_a_document_is_served_to_anybody_over_the_listeners_tls(tmp_path: Path, keys: Keys) -> None:
    settings = bootstrap.BootstrapSettings("dp", tls=bootstrap.Certificate(str(keys.certificate), str(keys.key)))
    trust = ssl.create_default_context(cafile=str(keys.certificate))
    transport = httpx.AsyncHTTPTransport(verify=trust, local_address=foreign_address())
    service = everything_priced(listing=ir.Listing(title="Words"))

    async with (
        data_plane(tmp_path, service, settings=settings) as plane,
        httpx.AsyncClient(transport=transport) as client,
    ):
        answer = await client.get(f"https://127.0.0.1:{plane.envoy.port}/llm/openapi.json")

    assert (answer.status_code, answer.json()["info"]["title"]) == (200, "Words")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.row("H05")
@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_tls_is_1_2_or_newer(tmp_path: Path, keys: Keys, version: ssl.TLSVersion, spoken: bool) -> None:
    settings = bootstrap.BootstrapSettings("dp", tls=bootstrap.Certificate(str(keys.certificate), str(keys.key)))
    trust = ssl.create_default_context(cafile=str(keys.certificate))
    trust.set_ciphers("ALL:@SECLEVEL=0")  # or the client itself would not speak the old ones
    trust.minimum_version = trust.maximum_version = version

    async with data_plane(tmp_path, everything_free(), settings=settings) as plane:
        # The alert is the server's: the client would have gone on.
        refused = contextlib.nullcontext() if spoken else pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION")
        with refused:
            _, writer = await asyncio.open_connection("127.0.0.1", plane.envoy.port, ssl=trust)
            said = writer.get_extra_info("ssl_object").version()
            writer.close()
            assert said == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
