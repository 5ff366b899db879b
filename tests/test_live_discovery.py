"""The documents of a gateway that runs, real authz and real Envoy: what they say is what is asked for."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cheap_wallet
import described
import gateway_process
import httpx
import openapi_rules
import places
import pytest
import schemathesis
import schemathesis.checks
import yaml
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi_checks

pytestmark = [pytest.mark.data_plane, pytest.mark.timeout(180)]

METHODS = ("GET", "POST", "DELETE", "PUT")


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """Its port."""
    with described.upstream() as port:
        yield port


def generated(port: int, chosen: random.Random, count: int) -> str:
    """Services drawn at random: prices, currencies, methods, patterns, free and paid, one under another."""
    documents = []
    for number in range(count):
        paths = ["/a", "/a/{id}", "/b/:id/c", "/b/*", "/c/**", "/d/", "/"]
        routes = [
            {"name": f"r{at}", "match": {"method": chosen.choice(METHODS), "path": path}, **cost(chosen)}
            for at, path in enumerate(chosen.sample(paths, chosen.randint(1, 5)))
        ]
        currencies = chosen.sample(["pathUSD", described.OTHER, "0x20c0000000000000000000000000000000000002"], 2)
        offers = [
            described.offer(f"o{at}", currency) for at, currency in enumerate(currencies[: chosen.randint(1, 2)])
        ]
        base = chosen.choice([f"/s{number}", f"/s{number - number % 4}/deeper{number}"])
        documents.append(
            described.paid_service(
                f"s{number}", port, {"basePath": base, "payment": {"offers": offers}, "routes": routes}
            )
        )
    return "---\n".join(documents)


def cost(chosen: random.Random) -> dict[str, object]:
    match chosen.randrange(3):
        case 0:
            return {"free": True}
        case 1:
            return {"price": {"amount": f"{chosen.randint(1, 9_999_999) / 1_000_000:.6f}"}}
        case _:
            return {"price": {"baseUnits": str(chosen.randint(1, 10**18))}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: int) -> Iterator[gateway_process.GatewayProcess]:
    files = {
        "words.yaml": described.words(upstream),
        "generated.yaml": generated(upstream, random.Random(5), 24),
    }
    started = gateway_process.launch(tmp_path_factory.mktemp("gateway"), files, config=described.NETWORKS)
    try:
        gateway_process.wait_until_ready(started)
        yield started
    finally:
        started.stop()


@pytest.fixture
def document(gateway: gateway_process.GatewayProcess) -> str:
    """The host's own."""
    return httpx.get(f"{gateway.url}/openapi.json").text


# --- the documents and the 402s ----------------------------------------------------------------------------


@pytest.mark.row("D03", "D06", "D12")
def test_every_operation_asks_for_what_its_document_says_offer_by_offer(
    gateway: gateway_process.GatewayProcess, document: str
) -> None:
    found = list(described.operations(json.loads(document)))
    wrong = []

    with httpx.Client(base_url=gateway.url) as client:
        for operation in found:
            answer = client.request(operation.method, operation.target())
            asked = described.challenged(answer) if answer.status_code == 402 else ()
            if asked != operation.offers or answer.status_code != (402 if operation.offers else 200):
                wrong.append((operation, answer.status_code, asked))

    assert wrong == []
    assert len([operation for operation in found if operation.offers]) > 40
    assert len([operation for operation in found if not operation.offers]) > 10


@pytest.mark.row("D03")
def test_what_a_service_says_of_itself_is_what_the_host_says_of_it(
    gateway: gateway_process.GatewayProcess, document: str
) -> None:
    whole = set(described.operations(json.loads(document)))
    listed = httpx.get(f"{gateway.url}/services").json()["services"]
    alone: set[described.Operation] = set()

    for service in listed:
        alone |= set(described.operations(httpx.get(gateway.url + service["openapi"]).json()))
        assert httpx.get(f"{gateway.url}/services/{service['id']}").json() == service
        assert httpx.get(gateway.url + service["llms"]).text.startswith("# ")

    assert len(listed) == 25
    assert alone == whole


@pytest.mark.row("D01", "D02", "D04", "D05")
def test_every_document_that_is_served_keeps_the_rules(
    gateway: gateway_process.GatewayProcess, document: str
) -> None:
    openapi_rules.hold(document)
    for service in httpx.get(f"{gateway.url}/services").json()["services"]:
        openapi_rules.hold(httpx.get(gateway.url + service["openapi"]).text)


@pytest.mark.row("D12")
def test_a_new_price_is_in_the_document_and_in_the_402(
    start_gateway: gateway_process.Start, upstream: int
) -> None:
    gateway = start_gateway({"words.yaml": described.words(upstream)}, config=described.NETWORKS)
    path = f"{gateway.url}/words/openapi.json"
    old = httpx.get(path)

    gateway.edit("words.yaml", described.words(upstream, price="0.05"))
    known = {"if-none-match": old.headers["etag"]}
    new = places.until(lambda: when(httpx.get(path, headers=known), lambda a: a.status_code == 200), limit=20)
    asked = places.until(
        lambda: when(httpx.get(f"{gateway.url}/words/v1/words/a"), lambda a: price(a) != "10000"), limit=20
    )

    (listed,) = (o for o in described.operations(new.json()) if o.target() == "/words/v1/words/a")
    assert {offer.amount for offer in listed.offers} == {"50000"}
    assert described.challenged(asked) == listed.offers
    assert new.headers["etag"] != old.headers["etag"]


def price(answer: httpx.Response) -> str:
    return described.challenged(answer)[0].amount


def when(answer: httpx.Response, wanted: Callable[[httpx.Response], bool]) -> httpx.Response | None:
    """The answer where it is wanted."""
    return answer if wanted(answer) else None


def test_a_price_that_is_refused_changes_neither(gateway: gateway_process.GatewayProcess, upstream: int) -> None:
    before = httpx.get(f"{gateway.url}/openapi.json")

    gateway.edit("words.yaml", described.words(upstream, price="-1"))
    gateway.said("still serving")
    after = httpx.get(f"{gateway.url}/openapi.json")
    asked = httpx.get(f"{gateway.url}/words/v1/words/a")
    gateway.edit("words.yaml", described.words(upstream))

    assert (after.text, price(asked)) == (before.text, "10000")


# --- others' tools -----------------------------------------------------------------------------------------


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Its command, which keeps what it finds below `home`."""
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    return subprocess.run(
        [str(Path(sys.executable).parent / "schemathesis"), "run", *arguments, "--seed", "5", "--checks", CHECKS],
        cwd=home,
        env={**environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


#: Not asked for: `positive_data_acceptance` and `negative_data_rejection` (a 402 comes before anybody looks at the
#: data, so that a price can be learned without it), `unsupported_method` (Envoy's parser answers 400, not 405, to
#: methods that it does not know).
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,allow_header_conformance,missing_required_header,use_after_free,"
    "ensure_resource_availability,ignored_auth"
)


@pytest.mark.row("D01", "D06")
def test_schemathesis_finds_no_server_error_and_no_status_that_is_not_listed(
    gateway: gateway_process.GatewayProcess, tmp_path: Path
) -> None:
    found = command(
        tmp_path, f"{gateway.url}/words/openapi.json", "--phases", "coverage,fuzzing", "--max-examples", "15"
    )

    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    total = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert total is not None, found.stdout[-2000:]
    assert total[1] == total[2]
    assert int(total[1]) > 100
    count = len(list(described.operations(httpx.get(f"{gateway.url}/words/openapi.json").json())))
    assert f"Tested: {count}\n" in found.stdout


def test_schemathesis_would_find_a_status_that_is_not_listed(
    gateway: gateway_process.GatewayProcess, tmp_path: Path
) -> None:
    document = httpx.get(f"{gateway.url}/words/openapi.json").json()
    del document["paths"]["/words/v1/complete"]["post"]["responses"]["402"]
    (tmp_path / "doctored.json").write_text(json.dumps(document))

    found = command(tmp_path, "doctored.json", "--url", gateway.url, "--phases", "coverage")

    assert found.returncode == 1
    assert "Undocumented status code" in found.stdout


# --- behind the payment ------------------------------------------------------------------------------------


IN_PROCESS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


@pytest.fixture
def paid(start_gateway: gateway_process.Start, upstream: int, tmp_path: Path) -> gateway_process.GatewayProcess:
    """The same service, paid for by the method without a chain."""
    service = yaml.safe_load(described.words(upstream))
    service["spec"]["payment"]["offers"] = [
        {
            "method": "cheap",
            "network": "cheapnet",
            "currency": "coin",
            "recipient": cheap_wallet.address("payee"),
        }
    ]
    for route in service["spec"]["routes"]:
        if "price" in route:
            route["price"] = {"baseUnits": "7"}
    return start_gateway(
        {"words.yaml": yaml.safe_dump(service)},
        config=cheap_wallet.network(cheap_wallet.bank(tmp_path)),
        environ=cheap_wallet.environ(),
    )


@pytest.mark.row("D06")
def test_who_pays_gets_an_answer_that_is_listed_too(paid: gateway_process.GatewayProcess) -> None:
    """Requests that schemathesis draws, each asked without a payment first and then with one."""
    schema = schemathesis.openapi.from_url(f"{paid.url}/words/openapi.json")

    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]

    statuses = {operation.label: asked_and_paid(operation) for operation in operations}

    assert len(statuses) == 10
    assert {status for seen in statuses.values() for status in seen} <= {200, 400, 404, 413}
    assert all(seen[200] for seen in statuses.values()), statuses


def asked_and_paid(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> Counter[int]:
    """How often each status was the last one."""
    seen: Counter[int] = Counter()

    @settings(
        max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call()
        case.validate_response(answer, checks=IN_PROCESS)
        if answer.status_code == 402:
            paying = cheap_wallet.sign(answer.headers["www-authenticate"][0], cheap_wallet.key("alice"))
            answer = case.call(headers={"authorization": paying})
            case.validate_response(answer, checks=IN_PROCESS)
        seen[answer.status_code] += 1

    ask()
    return seen
