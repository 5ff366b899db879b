"""A preset's credential as its upstream gets it: PaidService, compiler, SDS file, the real Envoy, the wire."""

import base64
from pathlib import Path

import envoys
import httpx
import paidservices
import pytest
import upstreams

from mpp_operator import compiler, gateway, paidservice
from mpp_operator.artifacts import secrets

pytestmark = pytest.mark.data_plane


@pytest.mark.parametrize(
    ("preset", "header", "value"),
    [
        ("stripe", "authorization", "Basic " + base64.b64encode(b"sk-test-1:").decode()),
        ("openai", "authorization", "Bearer sk-test-1"),
        ("anthropic", "x-api-key", "sk-test-1"),
    ],
)
async def test_an_upstream_gets_the_key_of_its_preset_the_way_it_wants_it(
    tmp_path: Path, preset: str, header: str, value: str
) -> None:
    async with upstreams.serve() as upstream:
        document = paidservices.document(upstream={"preset": preset, "url": f"http://127.0.0.1:{upstream.port}"})
        compiled = compiler.compile([paidservice.parse(document)], gateway.parse({}))
        files = secrets.render(
            compiled.gateway, {secret.source: "sk-test-1\n" for secret in compiled.gateway.upstream_secrets}, ()
        )
        async with (
            envoys.stand_in(tmp_path / "authz.sock"),
            envoys.running(tmp_path, compiled.gateway, secrets=files) as envoy,
            httpx.AsyncClient() as client,
        ):
            theirs = {"authorization": "Bearer theirs", "x-api-key": "theirs"}
            answer = await client.get(f"{envoy.url}/llm/models", headers=theirs)

        assert (answer.status_code, upstream.last.headers[header]) == (200, value)
