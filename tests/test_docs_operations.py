"""docs/operations.md tells every metric and every header, and its SQL does what it says."""

import re
import sqlite3
import time
from pathlib import Path

import pytest
from ledgers import payment
from promises import make_world, problem

from mpp_authz import verdicts, wire
from mpp_authz.ledger import State
from mpp_authz.metrics import Metrics
from mpp_authz.verdicts import Allow

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def section(heading: str) -> str:
    return PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def shown() -> dict[str, set[str]]:
    """Every metric as Prometheus names it, with its labels."""
    metrics = Metrics()
    metrics.check("paying", "paid", 0.1)
    metrics.challenge("shop/llm/r", "tempo")
    metrics.payment("shop/llm/r", "tempo", State.CREDIT)
    metrics.delivery("shop/llm/r", "delivered")
    metrics.verified("tempo", "verified", 0.1)
    metrics.settled("tempo", "settled", 0.1)
    metrics.ledger({}, [payment("a", State.OWED)])
    metrics.pricing("r1", 1)
    metrics.reload("pricing.json", "loaded")
    return {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels
        }
        - {"le"}
        for family in metrics.registry.collect()
    }


def test_the_page_tells_every_metric_and_its_labels() -> None:
    told = {
        name: set(filter(None, labels.split(",")))
        for name, labels in re.findall(r"^\| `(mpp_\w+?)(?:\{([\w,]*)\})?` \|", section("Metrics"), re.MULTILINE)
    }

    assert told == shown()


def test_every_row_says_what_it_means_and_when_to_look() -> None:
    rows = re.findall(r"^\| `mpp_.*$", section("Metrics"), re.MULTILINE)

    assert rows
    assert all(len([cell for cell in row.split(" | ") if cell.strip(" |")]) == 3 for row in rows)


def test_alerts_ask_for_metrics_that_exist() -> None:
    alerts = re.findall(r"expr: '(.*?)'", PAGE.read_text())

    assert len(alerts) == 4
    assert {name for alert in alerts for name in re.findall(r"mpp_\w+", alert)} <= set(shown())


def test_the_page_tells_every_header_that_an_upstream_gets() -> None:
    row = payment("a", State.DELIVERING, attempt=1, payer="0x01", reference="0x02")
    allowed = verdicts.allow(row, "a")

    told = set(re.findall(r"^\| `(X-Mpp-[\w-]+)` \|", section("What an upstream is told"), re.MULTILINE))

    assert {name.lower() for name in told} == {name for name, _ in allowed.request_headers}
    assert all(name.lower().startswith(wire.FACT_PREFIX) for name in told)


async def test_a_push_payment_that_a_copy_of_the_file_forgot_is_refused_and_listed(tmp_path: Path) -> None:
    (statement,) = re.findall(r"```sql\n(.+?)```", section("Backups"), re.DOTALL)
    file = tmp_path / "state" / "ledger.db"

    def run(text: str) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute(text)
        connection.close()

    async with make_world(tmp_path / "state") as world:
        run("UPDATE migrations SET applied_at = 0")  # the world has a time of its own
        world.clock.ms = int(time.time() * 1000) - 10_000
        pushed = world.push(await world.challenge())
        await world.news(await world.present(pushed))
        run("DELETE FROM payments")  # what an old copy does not have

        run(statement)
        refused = await world.present(pushed)
        world.clock.later(60)
        fresh = await world.present(world.push(await world.challenge()))

        assert problem(refused) == (403, "verification-failed")
        assert len(await world.inner.refused(10)) == 1
        assert isinstance(fresh, Allow)


@pytest.mark.parametrize("state", ["owed", "credit"])
def test_the_page_asks_for_states_that_exist(state: str) -> None:
    assert f"--state {state}" in PAGE.read_text()
    assert state.upper() in {known.value for known in State}
