"""docs/problems.md names every problem that authz and Envoy answer with, and no other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mpp_authz import problems
from mpp_operator import bootstrap, compiler, gateway, paidservice
from mpp_operator.bootstrap import local_replies

PAGE = Path(__file__).resolve().parent.parent / "docs" / "problems.md"
EXAMPLES = PAGE.parent.parent / "examples"

Row = tuple[str, int, str]  # type, status, title


def documented(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[1:]]


def told(value: Any) -> Iterator[tuple[int, str]]:
    """Status and title of every problem document inside a configuration of Envoy's, also within its strings."""
    if isinstance(value, dict):
        if value.get("type") == "about:blank" and isinstance(value.get("status"), int):
            yield value["status"], value["title"]
        for below in value.values():
            yield from told(below)
    elif isinstance(value, list):
        for below in value:
            yield from told(below)
    elif isinstance(value, str) and value.startswith("{"):
        try:
            document = json.loads(value)
        except ValueError:
            return  # not JSON: a format of Envoy's
        yield from told(document)


def test_the_page_names_every_problem_of_a_payment() -> None:
    known = {(k.slug, k.status) for k in vars(problems).values() if isinstance(k, problems.Kind)}

    rows = documented("About the payment")

    assert {(row[0].strip("`"), int(row[1])) for row in rows} == known
    assert len(rows) == len(known)


def test_the_page_says_of_each_problem_when_whose_it_is_and_what_to_do() -> None:
    rows = [*documented("About the payment"), *documented("About the request")]

    assert all(len(row) == 5 and all(row) for row in rows)


def test_the_page_names_every_answer_that_envoy_makes_up() -> None:
    known = {(status, title) for status, (title, _) in local_replies._WORDS.items()}

    assert known <= {(int(row[0]), row[1]) for row in documented("About the request")}


def test_the_page_names_every_answer_in_envoys_configuration() -> None:
    service = paidservice.parse(yaml.safe_load((EXAMPLES / "demo.yaml").read_text()))
    source = compiler.recipient_sources(service)
    compiled = compiler.compile([service], gateway.GatewayConfig(), dict.fromkeys(source, "0x" + "1" * 40))
    settings = bootstrap.BootstrapSettings(instance="x", authz_sockets=("a.sock",), outcomes_file="o")
    found = set(told(json.loads(bootstrap.render(settings)))) | set(
        told(json.loads(compiled.artifacts["rds.json"]))
    )

    assert {(404, "Not Found"), (405, "Method Not Allowed"), (502, "Upstream Asked For Payment")} <= found
    assert found <= {(int(row[0]), row[1]) for row in documented("About the request")}


def test_what_may_be_made_up_is_what_the_page_lists_and_our_own_answers() -> None:
    listed = {(int(row[0]), row[1]) for row in documented("About the request")}
    made_up = {(status, title) for status, (title, _) in local_replies._WORDS.items()}

    assert listed - made_up == {(410, "Gone"), (502, "Upstream Asked For Payment")}
