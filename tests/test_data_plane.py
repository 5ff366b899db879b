"""The data plane on the real Envoy: matching, lanes, hygiene of headers, answers of our own, reloads.

authz is a stand-in (`envoys.StandIn`): it says 402 without a credential and lets every credential pass.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import envoys
import grpc
import irs
import pytest
import websockets
from planes import PAY, data_plane, everything_free, everything_priced

from mpp_authz import wire
from mpp_operator import bootstrap, directory, ir
from mpp_operator.artifacts import clusters, routes, secrets

pytestmark = pytest.mark.data_plane

# --- matching ------------------------------------------------------------------------------------------


async def test_the_longest_base_path_decides_and_never_falls_back(tmp_path: Path) -> None:
    root = everything_free(name="root", base_path="/", upstream_path="/root")
    short = everything_free(name="b", base_path="/b", upstream_path="/short")
    long = irs.service(irs.free("x", irs.literal("/x")), name="bc", base_path="/b/c", upstream_path="/long")

    async with data_plane(tmp_path, root, short, long) as plane:
        seen = {}
        for path in ("/", "/bb/x", "/b", "/b?q=1", "/b/", "/b/cc", "/b/c/x?q=/b/", "/b/c/y", "/b/c", "/b/c?q"):
            answer = await plane.ask("GET", path)
            seen[path] = plane.upstream.last.target if answer.status_code == 200 else answer.status_code

    assert seen == {
        "/": "/root/",
        "/bb/x": "/root/bb/x",
        "/b": "/short",
        "/b?q=1": "/short?q=1",
        "/b/": "/short/",
        "/b/cc": "/short/cc",
        "/b/c/x?q=/b/": "/long/x?q=/b/",
        "/b/c/y": 404,
        "/b/c": 404,
        "/b/c?q": 404,
    }


async def test_a_path_is_matched_as_the_author_wrote_it(tmp_path: Path) -> None:
    service = irs.service(
        irs.free("home", irs.ROOT),
        irs.free("exact", irs.literal("/a")),
        irs.free("slash", irs.literal("/c/")),
        irs.free("segment", ir.PathPattern(("s", None, "t.x"))),
        irs.free("rest", ir.PathPattern(("r", None), rest=True)),
    )
    wanted = {
        "": 200, "/": 200, "/a": 200, "/a/": 404, "/a/b": 404, "/c": 404, "/c/": 200, "/s/1/t.x": 200,
        "/s/1/tyx": 404, "/s/1/2/t.x": 404, "/s//t.x": 404, "/r": 404, "/r/1": 200,
        "/r/1/": 200, "/r/1/2/3": 200, "/A": 404,
    }  # fmt: skip

    async with data_plane(tmp_path, service) as plane:
        seen = {path: (await plane.ask("GET", f"/llm{path}")).status_code for path in wanted}

    assert seen == wanted


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "TRACE", "PROPFIND"])
async def test_a_known_path_with_another_method_is_405_and_says_which(tmp_path: Path, method: str) -> None:
    async with data_plane(tmp_path, irs.service(irs.priced("a", irs.literal("/a")))) as plane:
        answer = await plane.ask(method, "/llm/a", PAY)

        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == 405
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


async def test_connect_and_the_asterisk_reach_nobody(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced(base_path="/")) as plane:
        connect = await plane.raw("CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n")
        asterisk = await plane.raw("OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")

        assert connect.startswith(b"HTTP/1.1 405")
        assert b"allow: GET" in connect
        assert asterisk.split()[1] in (b"400", b"404")
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


@pytest.mark.row("C07", "G02")
async def test_an_unknown_host_or_path_is_a_404_of_ours_without_a_check(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answers = [
            await plane.ask("GET", "/elsewhere", PAY),
            await plane.ask("GET", "/llm/x", PAY | {"host": "other.example"}),
            await plane.ask("GET", "/llmx", PAY),
        ]

        assert [(answer.status_code, answer.json()["title"]) for answer in answers] == [(404, "Not Found")] * 3
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


@pytest.mark.parametrize(
    "path",
    [
        "/free/../paid/x",
        "/free/%2e%2e/paid/x",
        "/free/..%2fpaid/x",
        "/free/..\\paid\\x",
        "/free/./../paid/x",
        "/free//../paid/x",
    ],
)
@pytest.mark.row("G02")
async def test_no_spelling_of_a_priced_path_is_free(tmp_path: Path, path: str) -> None:
    paid = everything_priced(name="paid", base_path="/paid", upstream_path="/sold")
    free = everything_free(name="free", base_path="/free", upstream_path="/given")

    async with data_plane(tmp_path, paid, free) as plane:
        answer = await plane.raw(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")

        assert answer.split()[1] in (b"402", b"400") or plane.upstream.last.target.startswith("/given/")
        assert [hit for hit in plane.upstream.hits if not hit.target.startswith("/given/")] == []


# --- lanes and Checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "lane"),
    [
        ({}, "minting"),
        ({"authorization": "Bearer abc"}, "minting"),
        ({"authorization": "Payments abc"}, "minting"),
        ({"authorization": "Payment abc"}, "paying"),
        ({"authorization": "payment\tabc"}, "paying"),
        ({"authorization": "Bearer abc, Payment def"}, "paying"),
        ({"payment-authorization": "anything"}, "paying"),
    ],
)
async def test_a_credential_chooses_its_lane(tmp_path: Path, headers: dict[str, str], lane: str) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/x", headers)
        totals = plane.envoy.admin.stats(r"cluster\.authz-.*\.upstream_rq_total")

        assert answer.status_code == (200 if lane == "paying" else 402)
        assert [name for name, count in totals.items() if count and "outcomes" not in name] == [
            f"cluster.authz-{lane}.upstream_rq_total"
        ]
        assert plane.authz.contexts() == [{wire.ROUTE_CONTEXT: "shop/llm/all"}]
        assert plane.authz.metadata[0][wire.DATA_PLANE_METADATA] == "envoy-under-test"


async def test_a_restart_of_authz_is_not_seen_by_payers(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:

        def refused() -> int:
            return sum(plane.envoy.admin.stats(r"cluster\.authz-paying\.upstream_cx_connect_fail").values())

        (tmp_path / "authz.sock").rename(tmp_path / "gone.sock")
        waiting = asyncio.create_task(plane.ask("GET", "/llm/x", PAY))
        await envoys.until(lambda: refused() > 2)
        (tmp_path / "gone.sock").rename(tmp_path / "authz.sock")

        assert (await waiting).status_code == 200


@pytest.mark.parametrize(("headers", "status"), [(PAY, 200), ({}, 402)])
@pytest.mark.row("G12")
async def test_a_check_may_take_its_time(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        plane.authz.hold = asyncio.Event()
        waiting = asyncio.create_task(plane.ask("GET", "/llm/x", headers))
        done, _ = await asyncio.wait({waiting}, timeout=0.7)  # longer than any of Envoy's defaults
        assert done == set()
        plane.authz.hold.set()

        assert (await waiting).status_code == status
        assert len(plane.authz.checks) == 1


async def test_authz_that_is_gone_is_503_and_never_open(tmp_path: Path) -> None:
    settings = bootstrap.BootstrapSettings("dp", minting_timeout=0.3, authz_sockets=("nobody.sock",))

    async with data_plane(tmp_path, everything_priced(), settings=settings) as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
        assert plane.upstream.hits == []


async def test_a_body_larger_than_its_digest_allows_is_413_before_any_check(tmp_path: Path) -> None:
    service = irs.service(irs.priced("up", irs.literal("/up"), irs.POST, digest_max_bytes=100_000))

    async with data_plane(tmp_path, service) as plane:
        large = await plane.ask("POST", "/llm/up", PAY, content=b"x" * 100_001)
        checks = len(plane.authz.checks)
        whole = await plane.ask("POST", "/llm/up", PAY, content=b"\xff" * 100_000)

        assert (large.status_code, large.json()["status"], checks) == (413, 413, 0)
        assert whole.status_code == 200
        assert plane.authz.checks[0].attributes.request.http.raw_body == b"\xff" * 100_000
        assert len(plane.upstream.last.body) == 100_000


# --- headers towards the upstream ----------------------------------------------------------------------


@pytest.mark.parametrize("service", [everything_priced(), everything_free()], ids=["priced", "free"])
@pytest.mark.row("G03")
async def test_no_credential_reaches_the_upstream(tmp_path: Path, service: ir.Service) -> None:
    headers = {
        "authorization": "Bearer a, Payment abc",
        "payment-authorization": "abc",
        "accept-payment": "tempo",
        "payment-signature": "abc",
        "x-payment": "abc",
        "x-mpp-payer": "did:evil",
        "x-http-method-override": "DELETE",
        "x-original-url": "/admin",
        "x-envoy-original-path": "/admin",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "idempotency-key": "k1",
    }

    async with data_plane(tmp_path, service) as plane:
        answer = await plane.ask("GET", "/llm/x", headers)

        assert answer.status_code == 200
        arrived = set(plane.upstream.last.headers)
        assert arrived & (set(headers) - {"idempotency-key"}) == set()
        assert "idempotency-key" in arrived
        assert "Payment" not in json.dumps(plane.upstream.last.headers)


@pytest.mark.parametrize("service", [everything_priced(), everything_free()], ids=["priced", "free"])
@pytest.mark.row("G03")
async def test_a_credential_on_a_second_authorization_line_is_one_too(tmp_path: Path, service: ir.Service) -> None:
    async with data_plane(tmp_path, service) as plane:
        answer = await plane.raw(
            "GET /llm/x HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            "authorization: Bearer a\r\nauthorization: Payment abc\r\n\r\n"
        )

        assert answer.startswith(b"HTTP/1.1 200")
        assert "authorization" not in plane.upstream.last.headers


async def test_a_secret_that_is_not_there_closes_its_upstream_refused(tmp_path: Path) -> None:
    home = tmp_path / "refused"
    home.mkdir()

    async with data_plane(home, everything_free(), injected=ir.Injected("authorization", "absent")) as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, plane.upstream.hits) == (503, [])
        assert plane.envoy.admin.rejected() == {"cluster_manager.cds.update_rejected": 1}


@pytest.mark.row("G03")
async def test_another_scheme_reaches_the_upstream_of_a_free_route(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        await plane.ask("GET", "/llm/x", {"authorization": "Bearer theirs"})

        assert plane.upstream.last.headers["authorization"] == "Bearer theirs"


@pytest.mark.row("G03")
async def test_the_upstream_is_told_of_the_payment_by_us_only(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await plane.ask("GET", "/llm/x", PAY | {"x-mpp-payment-id": "forged", "x-mpp-amount": "0"})

        told = {name: value for name, value in plane.upstream.last.headers.items() if name.startswith("x-mpp-")}
        assert told == {"x-mpp-payment-id": "payment-1"}


async def test_headers_of_the_service_are_set_and_removed(tmp_path: Path) -> None:
    service = everything_free(headers_set=(("x-tenant", "50%"),), headers_remove=("OpenAI-Organization",))

    async with data_plane(tmp_path, service) as plane:
        await plane.ask("GET", "/llm/x", {"x-tenant": "mine", "openai-organization": "org"})

        arrived = plane.upstream.last.headers
        assert (arrived["x-tenant"], arrived["host"]) == ("50%", "api.example.com")
        assert "openai-organization" not in arrived


async def test_the_injected_credential_is_ours_and_rotates_by_a_swap(tmp_path: Path) -> None:
    def files(value: str) -> Mapping[str, str]:
        source = ir.SecretSource("shop", "openai", "key")
        gateway = replace(irs.gateway(), upstream_secrets=(ir.UpstreamSecret("openai", source, "bearer"),))
        return secrets.render(gateway, {source: value}, ())

    async with data_plane(
        tmp_path, everything_free(), secret_files=files("one"), injected=ir.Injected("authorization", "openai")
    ) as plane:
        await plane.ask("GET", "/llm/x", {"authorization": "Bearer theirs"})
        first = plane.upstream.last.headers["authorization"]
        plane.envoy.publish(
            irs.gateway(
                everything_free(),
                clusters=(irs.cluster(port=plane.upstream.port, injected=ir.Injected("authorization", "openai")),),
            ),
            files("two"),
        )

        async def rotated() -> None:
            while plane.upstream.last.headers["authorization"] != "Bearer two":
                await plane.ask("GET", "/llm/x")

        async with asyncio.timeout(5):
            await rotated()
        assert first == "Bearer one"


# --- headers towards the client ------------------------------------------------------------------------


def says(code: int, *headers: tuple[str, str]) -> str:
    return f"/llm/status?code={code}&h={json.dumps(headers)}"


@pytest.mark.row("C32")
@pytest.mark.parametrize(
    ("code", "receipt"), [(200, True), (204, True), (304, False), (302, False), (404, False), (500, False)]
)
@pytest.mark.row("G05", "H10")
async def test_a_receipt_is_on_2xx_only_and_a_credit_elsewhere(tmp_path: Path, code: int, receipt: bool) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask(
            "GET", says(code, ("payment-receipt", "forged"), ("payment-credit", "forged")), PAY
        )

        assert answer.headers.get_list("payment-receipt") == ([envoys.RECEIPT] if receipt else [])
        delivered = receipt or code == 304
        assert answer.headers.get_list("payment-credit") == ([] if delivered else ["payment-1"])
        assert answer.headers.get("retry-after") == (None if delivered else "1")


async def test_the_upstreams_own_retry_after_stays(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", says(503, ("retry-after", "30")), PAY)

        assert answer.headers.get_list("retry-after") == ["30"]


@pytest.mark.row("C30")
@pytest.mark.parametrize(
    ("upstream", "client"),
    [
        ("public, max-age=60, s-maxage=60", "private"),
        ("no-store", "private, no-store"),
        ("No-Store, max-age=0", "private, no-store"),
        ("no-cache", "private"),
    ],
)
@pytest.mark.row("G05")
async def test_what_was_paid_for_is_private(tmp_path: Path, upstream: str, client: str) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        path = says(200, ("cache-control", upstream), ("cdn-cache-control", "public"), ("surrogate-control", "x"))
        answer = await plane.ask("GET", path, PAY)

        assert answer.headers.get_list("cache-control") == [client]
        assert {"cdn-cache-control", "surrogate-control"} & set(answer.headers) == set()


async def test_a_free_answer_keeps_its_caching(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        answer = await plane.ask("GET", says(200, ("cache-control", "public, max-age=60")))

        assert answer.headers["cache-control"] == "public, max-age=60"


@pytest.mark.row("G04")
async def test_an_upstreams_payment_headers_never_reach_the_client(tmp_path: Path) -> None:
    forged = [
        (name, "forged")
        for name in (
            "payment-receipt",
            "payment-credit",
            "payment-required",
            "payment-response",
            "x-payment-response",
        )
    ]

    async with data_plane(tmp_path, everything_free()) as plane:
        answer = await plane.ask(
            "GET", says(200, *forged, ("x-mpp-challenge", "1"), ("www-authenticate", 'Payment id="9"'))
        )

        assert answer.status_code == 200
        assert {name for name, _ in forged} & set(answer.headers) == set()
        assert {"x-mpp-challenge", "www-authenticate"} & set(answer.headers) == set()


@pytest.mark.row("G04")
async def test_an_upstreams_other_challenges_stay(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        answer = await plane.ask("GET", says(401, ("www-authenticate", 'Bearer realm="x"')))

        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="x"')


@pytest.mark.parametrize("service", [everything_priced(), everything_free()], ids=["priced", "free"])
@pytest.mark.parametrize("marker", ["", "1"])
@pytest.mark.row("G04")
async def test_an_upstreams_402_is_our_502_whatever_it_says(
    tmp_path: Path, service: ir.Service, marker: str
) -> None:
    headers = (("www-authenticate", 'Payment id="9"'), ("x-theirs", "1"), ("payment-required", "x"))

    async with data_plane(tmp_path, service) as plane:
        path = says(402, *headers, *([(wire.CHALLENGE_MARKER, marker)] if marker else []))
        answer = await plane.ask("GET", path, PAY | {"origin": "https://shop.example"})

        assert (answer.status_code, answer.json()["status"]) == (502, 502)
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"www-authenticate", "x-theirs", "payment-required", "payment-receipt"} & set(
            answer.headers
        ) == set()
        paid = service.routes[0].price is not None
        assert answer.headers.get("payment-credit") == ("payment-1" if paid else None)


async def test_our_402_goes_out_whole_and_without_its_marker(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/x")

        assert (answer.status_code, answer.json()["title"]) == (402, "from authz")
        assert answer.headers.get_list("www-authenticate") == [envoys.CHALLENGE] * 2
        assert answer.headers["cache-control"] == "no-store"
        assert wire.CHALLENGE_MARKER not in answer.headers
        assert plane.upstream.hits == []


@pytest.mark.parametrize("status", [403, 409, 503])
async def test_an_answer_of_authz_keeps_its_body(tmp_path: Path, status: int) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        plane.authz.deny = status
        answer = await plane.ask("GET", "/llm/x", PAY)

        assert (answer.status_code, answer.json()["title"]) == (status, "from authz")


# --- browsers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/llm/x", "/llm/unknown/y"])
@pytest.mark.row("G01")
async def test_a_preflight_is_answered_by_envoy_and_never_charged(tmp_path: Path, path: str) -> None:
    service = irs.service(irs.priced("x", irs.literal("/x"), irs.POST))

    async with data_plane(tmp_path, service) as plane:
        answer = await plane.ask(
            "OPTIONS",
            path,
            {
                "origin": "https://shop.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            },
        )

        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


@pytest.mark.row("G01")
async def test_a_preflight_of_another_origin_goes_nowhere(tmp_path: Path) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    async with data_plane(tmp_path, everything_priced(cors_origins=("https://shop.example",))) as plane:
        answer = await plane.ask("OPTIONS", "/llm/x", headers)

        assert "access-control-allow-origin" not in answer.headers
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


@pytest.mark.parametrize("empty", ["origin", "access-control-request-method"])
@pytest.mark.row("G01")
async def test_half_a_preflight_is_none_and_goes_nowhere(tmp_path: Path, empty: str) -> None:
    headers = {"origin": "https://shop.example", "access-control-request-method": "POST"} | {empty: ""}

    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("OPTIONS", "/llm/x", headers)

        assert answer.status_code == 405
        assert (plane.upstream.hits, plane.authz.checks) == ([], [])


@pytest.mark.row("G01")
async def test_a_402_can_be_read_across_origins(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.ask("GET", "/llm/x", {"origin": "https://shop.example"})

        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert exposed == ["www-authenticate", "payment-receipt", "payment-credit", "retry-after"]


async def test_only_the_origins_of_a_service_may_read(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced(cors_origins=("https://shop.example",))) as plane:
        answers = [
            await plane.ask("GET", "/llm/x", {"origin": origin})
            for origin in ("https://shop.example", "https://evil.example")
        ]

        assert ["access-control-allow-origin" in answer.headers for answer in answers] == [True, False]


# --- local answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /llm/%2fx HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 400),
        ("GET /llm/x HTTP/1.1\r\nhost: 127.0.0.1\r\nx_under: 1\r\n\r\n", 400),
        ("GET /llm/x HTTP/1.1\r\nhost: 127.0.0.1\r\nbig: " + "x" * 70_000 + "\r\n\r\n", 431),
        ("GET /llm/x HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 403),
    ],
)
async def test_what_envoy_refuses_is_problem_json(tmp_path: Path, request_text: str, status: int) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        answer = await plane.raw(request_text)

        assert int(answer.split()[1]) == status
        assert b"content-type: application/problem+json" in answer
        assert plane.upstream.hits == []


async def test_the_health_path_is_answered_without_a_check(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced(base_path="/")) as plane:
        answer = await plane.ask("GET", bootstrap.HEALTH_PATH)

        assert (answer.status_code, plane.authz.checks) == (200, [])


@pytest.mark.row("C20")
async def test_the_request_log_holds_no_query_and_no_credential(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await plane.ask("GET", "/llm/x?token=very-secret", {"authorization": "Payment quite-secret"})
        lines = await envoys.until(plane.envoy.requests)

        text = json.dumps(lines) + plane.envoy.log()
        assert (lines[0]["path"], lines[0]["route"], lines[0]["payment"]) == ("/x", "shop/llm/all", "payment-1")
        assert "very-secret" not in text
        assert "quite-secret" not in text


# --- reloads and streams -------------------------------------------------------------------------------


async def test_a_swap_changes_routes_without_cutting_a_stream(tmp_path: Path) -> None:
    streaming = irs.service(irs.priced("s", irs.ANYTHING, streaming=True))

    async with data_plane(tmp_path, streaming) as plane:
        changed_clusters = (irs.cluster(port=plane.upstream.port, max_requests=65),)
        async with plane.client.stream("GET", f"{plane.envoy.url}/llm/stream", headers=PAY) as answer:
            chunks = answer.aiter_text()
            first = await anext(chunks)
            before = plane.envoy.admin.versions()
            plane.envoy.publish(
                irs.gateway(everything_free(name="new", base_path="/new"), clusters=changed_clusters)
            )
            await envoys.until(lambda: all(plane.envoy.admin.versions()[file] != before[file] for file in before))
            changed = await plane.ask("GET", "/new/x")
            gone = await plane.ask("GET", "/llm/x")
            plane.upstream.gate.set()
            rest = "".join([chunk async for chunk in chunks])

        assert (first, rest) == ("data: started\n\n", "data: ended\n\n")
        assert (changed.status_code, gone.status_code) == (200, 404)


async def test_a_refused_file_is_counted_and_the_last_good_routes_stay_refused(tmp_path: Path) -> None:
    home = tmp_path / "refused"
    home.mkdir()

    async with data_plane(home, everything_free()) as plane:
        broken = {"rds.json": routes.render(irs.gateway())["rds.json"].replace('"*"]', '"*","*"]')}
        same = irs.gateway(clusters=(irs.cluster(port=plane.upstream.port),))
        directory.publish(home / "config", {**clusters.render(same), **broken})
        rejected = await envoys.until(plane.envoy.admin.rejected)

        assert any(name.endswith("rds.mpp.update_rejected") for name in rejected)
        assert (await plane.ask("GET", "/llm/x")).status_code == 200


async def test_a_websocket_is_paid_for_and_passes_on_streaming_routes(tmp_path: Path) -> None:
    async with data_plane(tmp_path, irs.service(irs.priced("s", irs.ANYTHING, streaming=True))) as plane:
        url = f"ws://127.0.0.1:{plane.envoy.port}/llm/socket"
        with pytest.raises(websockets.InvalidStatus) as unpaid:
            await websockets.connect(url)
        async with websockets.connect(url, additional_headers=PAY) as socket:
            await socket.send("hello")
            echoed = await socket.recv()
            plane.upstream.gate.set()

        assert (unpaid.value.response.status_code, echoed) == (402, "hello")


async def test_a_request_that_takes_too_long_is_504_with_a_credit(tmp_path: Path) -> None:
    timeouts = replace(irs.TIMEOUTS, request=0.2)

    async with data_plane(tmp_path, everything_priced(timeouts=timeouts)) as plane:
        answer = await plane.ask("GET", "/llm/gate", PAY)

        assert (answer.status_code, answer.headers["payment-credit"]) == (504, "payment-1")
        assert answer.json()["status"] == 504


async def test_retries_reach_the_upstream_again_and_authz_once(tmp_path: Path) -> None:
    retries = ir.Retries(2, ("reset", "connect-failure"), None)

    async with data_plane(tmp_path, everything_priced(retries=retries)) as plane:
        answer = await plane.ask("GET", "/llm/hangup", PAY)

        assert (answer.status_code, len(plane.upstream.hits), len(plane.authz.checks)) == (503, 3, 1)


@pytest.mark.parametrize("headers", [{}, PAY], ids=["a looker", "a payer"])
@pytest.mark.parametrize("status", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE], ids=str)
async def test_a_check_that_authz_left_unanswered_is_asked_again(
    tmp_path: Path, status: grpc.StatusCode, headers: Mapping[str, str]
) -> None:
    """What a gRPC server that is told to stop answers to the calls it does not take any more."""
    async with data_plane(tmp_path, everything_priced()) as plane:
        plane.authz.fail = [status, status]
        answer = await plane.ask("GET", "/llm/x", headers)

        assert (answer.status_code, len(plane.authz.checks)) == (200 if headers else 402, 3)


async def test_an_upstreams_500_is_not_tried_again(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced(retries=irs.RETRIES)) as plane:
        answer = await plane.ask("GET", says(500), PAY)

        assert (answer.status_code, len(plane.upstream.hits)) == (500, 1)


async def test_draining_fails_the_health_check_and_reopening_makes_a_new_file(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_priced()) as plane:
        await plane.ask("GET", "/llm/x", PAY)
        first = await envoys.until(plane.envoy.outcomes)
        outcomes = tmp_path / plane.envoy.settings.outcomes_file
        outcomes.rename(tmp_path / "old")
        plane.envoy.admin.reopen_logs()
        await plane.ask("GET", "/llm/x", PAY | {"x-test-payment": "payment-2"})
        second = await envoys.until(plane.envoy.outcomes)
        plane.envoy.admin.drain()

        assert [line["payment"] for line in first + second] == ["payment-1", "payment-2"]
        assert (await plane.ask("GET", bootstrap.HEALTH_PATH)).status_code == 503
