"""What docs/postgres.md says to do with a copy that is older than the last payment."""

import asyncio
import re
from pathlib import Path
from typing import Any

import ledgers
import pytest
from promises import make_world, problem

from mpp_authz.verdicts import Allow

pytestmark = pytest.mark.store

DOCUMENT = Path(__file__).parent.parent / "docs" / "postgres.md"
USED = (403, "verification-failed")


async def test_a_push_payment_that_a_copy_forgot_is_refused_and_listed_once_the_ledger_began_anew(
    tmp_path: Path,
) -> None:
    url = await asyncio.to_thread(ledgers.postgres_server().database)
    database = url.rpartition("/")[2]
    (statement,) = re.findall(r"```sql\n(.+?)```", DOCUMENT.read_text(), re.DOTALL)
    server = ledgers.postgres_server()

    async def run(text: str) -> list[Any]:
        return await asyncio.to_thread(server.admin, text, database=database)

    async with make_world(tmp_path / "state", store_url=url) as world:
        await run("UPDATE mpp_gateway.migrations SET applied_at = 0")  # the world has a time of its own
        ((now,),) = await run("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        world.clock.ms = now - 10_000
        pushed = world.push(await world.challenge())
        await world.news(await world.present(pushed))
        await run("DELETE FROM mpp_gateway.payments")  # what an old copy does not have

        await run(statement)
        refused = await world.present(pushed)
        world.clock.later(60)
        fresh = await world.present(world.push(await world.challenge()))

        assert problem(refused) == USED
        assert len(await world.inner.refused(10)) == 1
        assert isinstance(fresh, Allow)
