"""The discovery documents as Envoy serves them: alone, conditionally, to every page, and never for money."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import envoys
import httpx
import irs
import pytest
import pytest_asyncio
from planes import PAY, Plane, data_plane, foreign_address

from mpp_authz.pricing import Transport
from mpp_operator import bootstrap, directory, discovery, envoy, ir
from mpp_operator.artifacts import clusters, routes

pytestmark = [pytest.mark.data_plane, pytest.mark.asyncio(loop_scope="module")]

LISTING = ir.Listing(title="Words", description="Sells words.", categories=("ai",))
ELSEWHERE = {"origin": "https://elsewhere.example"}


def shop(**fields: object) -> ir.Service:
    """A listed service whose every path is priced."""
    return irs.service(irs.priced("all", irs.ANYTHING, ir.DEFAULT_METHODS), **{"listing": LISTING, **fields})


SERVED = (shop(), shop(name="root", base_path="/"))
DOCUMENTS = discovery.of_host(SERVED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plane]:
    """Two priced services: what Envoy does not answer by itself is a 402, and seen by the stand-in for authz."""
    async with data_plane(tmp_path_factory.mktemp("plane"), *SERVED) as started:
        yield started


@pytest.fixture(autouse=True)
async def nobody_is_asked(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """No test on the shared plane asks authz or reaches the upstream."""
    yield
    if "plane" in request.fixturenames:
        plane: Plane = request.getfixturevalue("plane")
        assert (plane.authz.checks, plane.upstream.hits) == ([], [])


# --- what is served ------------------------------------------------------------------------------------


@pytest.mark.row("D01", "D08", "D11")
@pytest.mark.parametrize("path", sorted(DOCUMENTS))
async def test_a_document_is_served_as_it_was_written(plane: Plane, path: str) -> None:
    answer = await plane.ask("GET", path)

    document = DOCUMENTS[path]
    assert (answer.status_code, answer.text) == (200, document.text)
    assert dict(answer.headers) == {
        "content-type": document.content_type,
        "content-length": str(len(document.text.encode())),
        "etag": etag(document.text),
        "cache-control": "public, max-age=300",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "ETag",
        "x-content-type-options": "nosniff",
        "date": answer.headers["date"],
    }


async def until(plane: Plane, path: str, condition: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The first answer for which the condition holds."""
    async with asyncio.timeout(10):
        while True:
            answer = await plane.ask("GET", path)
            if condition(answer):
                return answer


def etag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'


@pytest.mark.parametrize("path", ["/openapi.json", "/llm/openapi.json", "/services/shop.llm"])
async def test_a_query_does_not_matter(plane: Plane, path: str) -> None:
    assert (await plane.ask("GET", f"{path}?v=1&/x")).text == DOCUMENTS[path].text


@pytest.mark.parametrize("path", ["/openapi.json", "/llm/llms.txt"])
async def test_head_says_what_get_would_and_sends_nothing(plane: Plane, path: str) -> None:
    got, head = await plane.ask("GET", path), await plane.ask("HEAD", path)

    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.row("D11", "G01")
async def test_a_page_of_any_origin_reads_a_document_and_its_tag(plane: Plane) -> None:
    answer = await plane.ask("GET", "/openapi.json", ELSEWHERE)

    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers["access-control-expose-headers"] == "ETag"


async def test_a_credential_for_a_document_is_neither_asked_for_nor_looked_at(plane: Plane) -> None:
    answer = await plane.ask("GET", "/openapi.json", PAY)

    assert answer.status_code == 200
    assert "payment-receipt" not in answer.headers


async def test_a_document_is_served_without_authz(tmp_path: Path) -> None:
    async with (
        envoys.running(tmp_path, irs.gateway(shop())) as envoy_alone,
        httpx.AsyncClient(timeout=30) as client,
    ):
        document = await client.get(f"{envoy_alone.url}/llm/openapi.json")
        priced = await client.get(f"{envoy_alone.url}/llm/thing")

    assert (document.status_code, priced.status_code) == (200, 503)


# --- conditions and methods ------------------------------------------------------------------------------


TAG = etag(DOCUMENTS["/openapi.json"].text)


@pytest.mark.parametrize(
    "condition",
    [TAG, f"W/{TAG}", f'"other", {TAG}', f'"other",W/{TAG},"third"', "*"],
    ids=lambda c: c.replace(TAG, "tag"),
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_the_document_is_told_so(plane: Plane, method: str, condition: str) -> None:
    answer = await plane.ask(method, "/openapi.json", {"if-none-match": condition})

    assert (answer.status_code, answer.content) == (304, b"")
    assert dict(answer.headers) == {
        "etag": TAG,
        "cache-control": "public, max-age=300",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "ETag",
        "date": answer.headers["date"],
    }


async def test_a_condition_may_be_several_headers(plane: Plane) -> None:
    answer = await plane.raw(
        f'GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\nif-none-match: "a"\r\nif-none-match: {TAG}\r\n\r\n'
    )

    assert answer.startswith(b"HTTP/1.1 304 ")


@pytest.mark.parametrize("condition", ['"other"', f'"x{TAG[1:]}', TAG.strip('"'), f'"{TAG[1:-1]}x"', "", '"*"'])
async def test_who_has_another_document_gets_this_one(plane: Plane, condition: str) -> None:
    answer = await plane.ask("GET", "/openapi.json", {"if-none-match": condition})

    assert (answer.status_code, answer.text) == (200, DOCUMENTS["/openapi.json"].text)


@pytest.mark.row("G01")
async def test_a_preflight_is_answered_by_itself(plane: Plane) -> None:
    asked = {
        **ELSEWHERE,
        "access-control-request-method": "GET",
        "access-control-request-headers": "if-none-match, accept-payment",
    }
    answer = await plane.ask("OPTIONS", "/llm/openapi.json", asked)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"if-none-match", "accept-payment", "authorization"} <= set(allowed)
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
async def test_other_methods_are_refused_with_those_that_are_answered(plane: Plane, method: str) -> None:
    answer = await plane.ask(method, "/openapi.json", {**ELSEWHERE, "if-none-match": TAG}, content=b"{}")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Method Not Allowed",
        "status": 405,
        "detail": "This path answers GET, HEAD.",
    }
    assert not {"etag", "cache-control"} & set(answer.headers)


async def test_the_health_of_the_gateway_is_no_document(plane: Plane) -> None:
    answer = await plane.ask("GET", "/-/healthz")

    assert answer.status_code == 200
    assert "etag" not in answer.headers


# --- what lies beside the documents ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/discover",
        "/discover?x",
        "/discover/",
        "/discover.json",
        "/discover/all",
        "/discover.all?x=1",
        "/discover/a/b",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_older_names_are_gone_and_say_what_to_read(plane: Plane, method: str, path: str) -> None:
    answer = await plane.ask(method, path)

    assert answer.status_code == 410
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 410
    assert "/openapi.json" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/services/unknown", "/services/shop.llm/x", "/services/shop.ll", "/services.json"]
)
async def test_a_service_that_is_not_listed_is_not_found(plane: Plane, path: str) -> None:
    answer = await plane.ask("GET", path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/services" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/services/", "/services/?x=1"])
async def test_a_last_slash_after_services_does_not_matter(plane: Plane, path: str) -> None:
    assert (await plane.ask("GET", path)).text == DOCUMENTS["/services"].text


async def test_a_path_that_only_looks_like_one_of_ours_is_the_services(tmp_path: Path) -> None:
    paths = ("/discovery", "/openapi.jsonx", "/openapi.json/", "/servicesx", "/llm/openapi.jsonx", "/llm/services")

    async with data_plane(tmp_path, *SERVED) as plane:
        statuses = {path: (await plane.ask("GET", path)).status_code for path in paths}

    assert set(statuses.values()) == {402}, statuses


async def test_a_service_that_is_not_listed_has_these_paths_for_itself(tmp_path: Path) -> None:
    hidden = irs.service(irs.free("all", irs.ANYTHING), name="root", base_path="/", listing=None)

    async with data_plane(tmp_path, hidden, shop()) as plane:
        for path in ("/openapi.json", "/llms.txt", "/services", "/services/shop.llm", "/discover"):
            assert (await plane.ask("GET", path)).json() == {"served": True}
        listed = await plane.ask("GET", "/llm/openapi.json")

    assert listed.text == discovery.of_host((hidden, shop()))["/llm/openapi.json"].text


# --- how it gets there -------------------------------------------------------------------------------------


def artifacts(*services: ir.Service) -> dict[str, str]:
    gateway = irs.gateway(*services)
    return {**routes.render(gateway), **clusters.render(gateway)}


def of_size(size: int) -> ir.Service:
    """A service whose document is at least this long."""
    return shop(listing=replace(LISTING, description="words " * (size // 6 + 1)))


@pytest.mark.row("D13")
@pytest.mark.parametrize("size", [64 * 1024 + 1, 3 * 1024 * 1024])
async def test_a_long_document_is_served_whole(tmp_path: Path, size: int) -> None:
    service = of_size(size)
    written = discovery.of_host((service,))["/llm/openapi.json"].text

    async with data_plane(tmp_path, service) as plane:
        answer = await plane.ask("GET", "/llm/openapi.json")

    assert len(written) > size
    assert answer.text == written


async def test_a_changed_document_is_served_without_a_restart(tmp_path: Path) -> None:
    before, after = shop(), shop(listing=replace(LISTING, title="Other words"))

    async with data_plane(tmp_path, before) as plane:
        old = await plane.ask("GET", "/llm/openapi.json")
        plane.envoy.publish(irs.gateway(after, clusters=(irs.cluster(port=plane.upstream.port),)))
        new = await until(plane, "/llm/openapi.json", lambda answer: answer.text != old.text)
        stale = await plane.ask("GET", "/llm/openapi.json", {"if-none-match": old.headers["etag"]})

    assert new.json()["info"]["title"] == "Other words"
    assert stale.status_code == 200


async def test_of_many_changes_in_a_row_none_is_refused(tmp_path: Path) -> None:
    async with data_plane(tmp_path, shop()) as plane:
        for number in range(40):
            service = shop(listing=replace(LISTING, title=f"Words {number}"))
            plane.envoy.publish(irs.gateway(service, clusters=(irs.cluster(port=plane.upstream.port),)))
        await until(plane, "/llm/llms.txt", lambda answer: "Words 39" in answer.text)
        refused = plane.envoy.admin.rejected()

    assert refused == {}


async def test_without_a_documents_file_the_routes_of_before_go_on(tmp_path: Path) -> None:
    home = tmp_path / "refused"  # the log may say so
    home.mkdir()

    async with data_plane(home, shop()) as plane:
        files = artifacts(shop(listing=replace(LISTING, title="Other words")))
        bare = {name: text for name, text in files.items() if "/" not in name}
        directory.publish(home / "config", bare)
        await envoys.until(lambda: plane.envoy.admin.rejected())
        document = await plane.ask("GET", "/llm/openapi.json")
        priced = await plane.ask("GET", "/llm/thing")
        told = [envoy.rejection(line) for line in plane.envoy.log().splitlines()]

    assert (document.json()["info"]["title"], priced.status_code) == ("Words", 402)
    assert any(words and "does not exist" in words for words in told)


# --- https -----------------------------------------------------------------------------------------------


@pytest.mark.row("D01", "C19")
async def test_a_document_is_for_https_alone_where_challenges_are(tmp_path: Path) -> None:
    client = httpx.AsyncHTTPTransport(local_address=foreign_address())
    statuses = {}

    async with data_plane(tmp_path, shop()) as plane, httpx.AsyncClient(transport=client) as elsewhere:
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            answer = await elsewhere.request(method, f"{plane.envoy.url}/llm/openapi.json")
            statuses[method] = answer.status_code
        claimed = {"x-forwarded-proto": "https", "mpp-forwarded-proto": "https"}
        answer = await elsewhere.get(f"{plane.envoy.url}/llm/openapi.json", headers=claimed)

    assert statuses == {"GET": 421, "HEAD": 421, "OPTIONS": 204, "POST": 405}
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    assert "https" in answer.json()["detail"]


async def test_a_trusted_proxy_says_whether_it_was_https(tmp_path: Path) -> None:
    address = foreign_address()
    settings = bootstrap.BootstrapSettings("dp", terminated_by=(f"{address}/32",))
    client = httpx.AsyncHTTPTransport(local_address=address)
    statuses = {}

    async with (
        data_plane(tmp_path, shop(), settings=settings) as plane,
        httpx.AsyncClient(transport=client) as elsewhere,
    ):
        for proto in ("https", "HTTPS", "http", "https,http", ""):
            said = {"x-forwarded-proto": proto}
            statuses[proto] = (await elsewhere.get(f"{plane.envoy.url}/llm/llms.txt", headers=said)).status_code

    assert statuses == {"https": 200, "HTTPS": 200, "http": 421, "https,http": 421, "": 421}


async def test_where_plain_http_is_allowed_documents_are_served_on_it(tmp_path: Path) -> None:
    client = httpx.AsyncHTTPTransport(local_address=foreign_address())

    async with data_plane(tmp_path, shop()) as plane, httpx.AsyncClient(transport=client) as elsewhere:
        gateway = irs.gateway(shop(), clusters=(irs.cluster(port=plane.upstream.port),))
        plane.envoy.publish(replace(gateway, transport=Transport(insecure_http=True)))
        from_elsewhere = replace(plane, client=elsewhere)
        answer = await until(from_elsewhere, "/llm/openapi.json", lambda answer: answer.status_code != 421)

    assert answer.status_code == 200
