"""The ledger in memory, on which the model runs, does what a real store does."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import explore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledgers import BINDING, FACTORIES, payment
from memory_ledger import MemoryLedger

from mpp_authz.ledger import MAX_REFUSALS, Payment, RefusedTransfer, State

_TIMES = st.integers(0, 5)
_NAMES = st.sampled_from(["envoy-1", "envoy-2", "envoy-3"])


@st.composite
def _payments(draw: st.DrawFn) -> Payment:
    return payment(
        draw(st.sampled_from(["p1", "p2", "p3", "p4"])),
        draw(st.sampled_from(sorted(State))),
        reference=draw(st.sampled_from([None, "0x1", "0x2", "0x3"])),
        payer=draw(st.sampled_from([None, "0xbb"])),
        lease_until=draw(_TIMES),
        life_until=draw(_TIMES),
        created_at=draw(_TIMES),
        settled_at=draw(st.none() | _TIMES),
        data_plane=draw(_NAMES),
    )


class Both(RuleBasedStateMachine):
    """SQLite and the dict are asked the same, and must say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1
        self.folder = tempfile.TemporaryDirectory(dir=explore.memory())
        self.runner = asyncio.Runner()
        self.real = self.runner.run(FACTORIES["sqlite"](Path(self.folder.name)).open(lambda: self.now))
        self.memory = MemoryLedger(lambda: self.now)

    async def asked(self, name: str, *arguments: Any, **named: Any) -> Any:
        real = await getattr(self.real, name)(*arguments, **named)
        assert real == await getattr(self.memory, name)(*arguments, **named), name
        return real

    def agree(self, name: str, *arguments: Any, **named: Any) -> None:
        self.runner.run(self.asked(name, *arguments, **named))

    @rule(row=_payments())
    def insert(self, row: Payment) -> None:
        self.agree("insert", row)

    @precondition(lambda self: self.memory.rows)
    @rule(data=st.data(), new=_payments(), also=st.none() | _payments(), behind=st.sampled_from([0, 0, 0, 1]))
    def replace(self, data: st.DataObject, new: Payment, also: Payment | None, behind: int) -> None:
        held = self.memory.rows[data.draw(st.sampled_from(sorted(self.memory.rows)))]
        old = dataclasses.replace(held, version=held.version - behind)
        self.agree("replace", old, dataclasses.replace(new, id=held.id), also=also)

    @rule(number=st.integers(0, 40), reference=st.sampled_from(["0x1", "0x2"]))
    def refuse(self, number: int, reference: str) -> None:
        self.agree("refuse", RefusedTransfer(f"c{number}", reference, "r", "n", "why"))

    @rule(names=st.lists(_NAMES, unique=True))
    def beat(self, names: list[str]) -> None:
        for ledger in (self.real, self.memory):
            self.runner.run(ledger.beat(names))

    @rule(name=_NAMES)
    def end_data_plane(self, name: str) -> None:
        for ledger in (self.real, self.memory):
            self.runner.run(ledger.end_data_plane(name))

    @rule(before=_TIMES)
    def forget(self, before: int) -> None:
        self.agree("forget_failed", before, 100)
        self.agree("forget_data_planes", before, 100)

    @rule(document=st.sampled_from(["{}", "[]"]))
    def remember_network(self, document: str) -> None:
        self.agree("remember_network", "devnet/7", document)

    @rule()
    def time_passes(self) -> None:
        self.now += 1

    @invariant()
    def the_queries_agree(self) -> None:
        self.runner.run(self.everything())

    async def everything(self) -> None:
        assert await self.asked("now") == self.real.clock() == self.memory.clock()
        for name in ("p1", "p2", "p3", "p4"):
            await self.asked("get", name)
        for reference in ("0x1", "0x2", "0x3"):
            await self.asked("by_reference", reference)
        for name in ("envoy-1", "envoy-2", "envoy-3"):
            await self.asked("data_plane", name)
            await self.asked("delivering_at", name)
        await self.asked("unfinished", "0xbb", BINDING, "0xc0")
        await self.asked("due", 3, 2)
        await self.asked("settled_since", 1, "p2", 2)
        await self.asked("listing", frozenset(), 100)
        await self.asked("listing", frozenset({State.OWED, State.CREDIT}), 100)
        await self.asked("counts")
        await self.asked("networks")
        await self.asked("born_at")
        assert len(await self.asked("refused", 100)) <= 2 * MAX_REFUSALS

    def teardown(self) -> None:
        self.runner.run(self.real.close())
        self.runner.close()
        self.folder.cleanup()


def test_the_ledger_in_memory_does_what_a_store_does() -> None:
    run_state_machine_as_test(
        Both,
        settings=settings(
            max_examples=15,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
