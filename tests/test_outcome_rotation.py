"""The outcome file of a live Envoy begins anew while requests are paid for, and no line is lost."""

import asyncio
import json
from pathlib import Path

import planes
import pytest

from mpp_operator import statedir

pytestmark = pytest.mark.data_plane


async def test_no_line_is_lost_when_the_outcome_file_is_put_aside_under_traffic(tmp_path: Path) -> None:
    async with planes.data_plane(tmp_path, planes.everything_priced()) as plane:
        log = tmp_path / plane.envoy.settings.outcomes_file
        for number in range(60):
            headers = planes.PAY | {"x-test-payment": f"payment-{number}"}
            assert (await plane.ask("GET", "/llm/x", headers)).status_code == 200
            if number % 20 == 10:
                await asyncio.to_thread(statedir.put_aside, log, plane.envoy.admin.reopen_logs, 0)

        expected = {f"payment-{number}" for number in range(60)}
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while seen != expected:
                seen = payments(log)
                await asyncio.sleep(0.02)
        statedir.put_aside(log, plane.envoy.admin.reopen_logs, 1 << 30)
        assert suffixes(log) == {".ended"}


def payments(log: Path) -> set[str]:
    files = log.parent.glob(f"{log.stem}*")
    return {json.loads(line)["payment"] for file in files for line in file.read_text().splitlines()}


def suffixes(log: Path) -> set[str]:
    return {file.suffix for file in log.parent.glob(f"{log.stem}.part-*")}


def test_a_short_outcome_file_stays_and_a_missing_one_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "envoy-1.log"
    asked: list[bool] = []

    statedir.put_aside(log, lambda: asked.append(True), 10)
    log.write_text("a line\n")
    statedir.put_aside(log, lambda: asked.append(True), 10)

    assert [file.name for file in tmp_path.iterdir()] == ["envoy-1.log"]
    assert asked == []
