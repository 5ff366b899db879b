"""What every store promises (`ledger.Ledger`), run on each of `ledgers.FACTORIES`."""

import asyncio
import dataclasses
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledgers import BINDING, FACTORIES, PARAMETERS, UNFINISHED, Store, payment, program, said, tell

from mpp_authz.ledger import MAX_REFUSALS, Binding, DataPlane, Ledger, Payment, RefusedTransfer, State


async def test_a_row_comes_back_as_it_was_put_in(ledger: Ledger) -> None:
    await ledger.insert(payment("old"))
    row = Payment(
        id="p1",
        state=State.SPENT,
        binding=Binding("shop/llm/complete", "PUT", "qh", "sha-256=:x:"),
        method="tempo",
        intent="charge",
        network="moderato",
        currency="0xc0",
        recipient="0xaa",
        amount="340282366920938463463374607431768211455",
        mode="push",
        credential_hash="c" * 64,
        payer="0xbb",
        reference="0x01",
        valid_before=1_700_000_001,
        chain_id=7,
        envelope="0x76ff",
        minted_at=1,
        expires_at=2,
        created_at=3,
        settled_at=4,
        answered_at=5,
        delivered_at=6,
        lease_until=7,
        lease_owner="0/boot",
        check_ended=True,
        data_plane="envoy-1",
        request_id="r",
        attempt=2,
        attempts_allowed=4,
        credit_life=8,
        life_until=9,
        streaming=True,
        faults=1,
        last_status=503,
        last_flags="UF",
        idempotency_hash="i",
        paid_by="old",
        reason="because",
        version=0,
    )
    unset = [field.name for field in dataclasses.fields(row) if getattr(row, field.name) == field.default]
    assert unset == ["version"]  # every other field differs from its default

    assert await ledger.insert(row)

    back = await ledger.get("p1")
    assert back == row
    assert back is not None
    assert [type(getattr(back, name)) for name in ("state", "check_ended", "streaming")] == [State, bool, bool]


async def test_absent_rows_are_none(ledger: Ledger) -> None:
    assert await ledger.get("p1") is None
    assert await ledger.by_reference("0xp1") is None


async def test_a_taken_id_is_refused_and_the_row_stays(ledger: Ledger) -> None:
    await ledger.insert(payment("p1", amount="1"))

    assert not await ledger.insert(payment("p1", amount="2", reference="0xother"))

    assert await ledger.get("p1") == payment("p1", amount="1")


async def test_a_taken_reference_is_refused(ledger: Ledger) -> None:
    await ledger.insert(payment("p1", reference="0xabc"))

    assert not await ledger.insert(payment("p2", reference="0xabc"))

    assert await ledger.get("p2") is None
    assert await ledger.by_reference("0xabc") == payment("p1", reference="0xabc")


async def test_a_failed_row_holds_no_reference(ledger: Ledger) -> None:
    await ledger.insert(payment("p1", State.FAILED, reference="0xabc"))

    assert await ledger.by_reference("0xabc") is None
    assert await ledger.insert(payment("p2", reference="0xabc"))
    assert await ledger.by_reference("0xabc") == payment("p2", reference="0xabc")


async def test_rows_without_a_reference_do_not_collide(ledger: Ledger) -> None:
    assert await ledger.insert(payment("p1", reference=None))
    assert await ledger.insert(payment("p2", reference=None))


async def test_replace_raises_the_version_by_one_whatever_the_new_row_says(ledger: Ledger) -> None:
    await ledger.insert(payment("p1"))

    assert await ledger.replace(payment("p1"), payment("p1", State.CREDIT, version=9))

    assert await ledger.get("p1") == payment("p1", State.CREDIT, version=1)


async def test_replace_of_an_older_version_changes_nothing(ledger: Ledger) -> None:
    first = payment("p1")
    await ledger.insert(first)
    await ledger.replace(first, payment("p1", State.CREDIT))

    assert not await ledger.replace(first, payment("p1", State.FAILED))

    assert await ledger.get("p1") == payment("p1", State.CREDIT, version=1)


async def test_replace_of_an_absent_row_changes_nothing(ledger: Ledger) -> None:
    assert not await ledger.replace(payment("p1"), payment("p1", State.CREDIT))
    assert await ledger.get("p1") is None


async def test_replace_into_a_taken_reference_changes_nothing(ledger: Ledger) -> None:
    await ledger.insert(payment("p1", reference="0xabc"))
    failed = payment("p2", State.FAILED, reference="0xabc")
    await ledger.insert(failed)

    assert not await ledger.replace(failed, payment("p2", State.CREDIT, reference="0xabc"))

    assert await ledger.get("p2") == failed


async def test_replace_keeps_a_row_s_id(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="expected a row with the same id"):
        await ledger.replace(payment("p1"), payment("p2"))


async def test_replace_and_also_are_both_done(ledger: Ledger) -> None:
    credit = payment("p1", State.CREDIT)
    await ledger.insert(credit)
    spent = payment("p2", State.SPENT, reference=None, paid_by="p1")

    assert await ledger.replace(credit, payment("p1", State.DELIVERING), also=spent)

    assert await ledger.get("p1") == payment("p1", State.DELIVERING, version=1)
    assert await ledger.get("p2") == spent


@pytest.mark.parametrize("taken", [payment("p2"), payment("p3", reference="0xp2")], ids=["id", "reference"])
async def test_neither_is_done_when_also_is_taken(ledger: Ledger, taken: Payment) -> None:
    credit = payment("p1", State.CREDIT)
    await ledger.insert(credit)
    await ledger.insert(taken)

    assert not await ledger.replace(credit, payment("p1", State.DELIVERING), also=payment("p2"))

    assert await ledger.get("p1") == credit
    assert await ledger.counts() == dict(Counter([State.CREDIT, taken.state]))


async def test_neither_is_done_when_the_row_has_changed(ledger: Ledger) -> None:
    credit = payment("p1", State.CREDIT)
    await ledger.insert(credit)
    await ledger.replace(credit, credit)

    assert not await ledger.replace(credit, payment("p1", State.DELIVERING), also=payment("p2"))

    assert await ledger.get("p2") is None


async def test_also_may_take_the_reference_that_the_row_lets_go(ledger: Ledger) -> None:
    row = payment("p1", reference="0xabc")
    await ledger.insert(row)

    failed = payment("p1", State.FAILED, reference="0xabc")
    assert await ledger.replace(row, failed, also=payment("p2", reference="0xabc"))


async def test_of_32_tasks_that_insert_one_id_one_wins(ledger: Ledger) -> None:
    won = await asyncio.gather(*(ledger.insert(payment("p1", reference=f"0x{n}")) for n in range(32)))

    assert sum(won) == 1
    assert await ledger.get("p1") == payment("p1", reference=f"0x{won.index(True)}")


async def test_of_32_tasks_that_replace_one_row_one_wins(ledger: Ledger) -> None:
    row = payment("p1")
    await ledger.insert(row)

    won = await asyncio.gather(
        *(ledger.replace(row, payment("p1", State.DELIVERING, attempt=n)) for n in range(1, 33))
    )

    assert sum(won) == 1
    assert await ledger.get("p1") == payment("p1", State.DELIVERING, attempt=won.index(True) + 1, version=1)


async def test_of_32_tasks_on_two_connections_one_wins_each_row(store: Store) -> None:
    async with store.opened() as one, store.opened() as two:
        rows = [payment(f"p{n}") for n in range(16)]
        await asyncio.gather(*map(one.insert, rows))

        won = await asyncio.gather(
            *(
                ledger.replace(row, dataclasses.replace(row, state=State.CREDIT))
                for row in rows
                for ledger in (one, two)
            )
        )

        assert [won[at] + won[at + 1] for at in range(0, 32, 2)] == [1] * 16


async def test_a_lost_race_leaves_its_neighbours_alone(ledger: Ledger) -> None:
    stale = payment("stale")
    await ledger.insert(stale)
    await ledger.replace(stale, stale)

    results: tuple[bool, ...] = await asyncio.gather(
        ledger.insert(payment("a")),
        ledger.replace(stale, payment("stale", State.CREDIT)),
        ledger.insert(payment("stale")),
        ledger.replace(stale, stale, also=payment("never")),
        ledger.insert(payment("b")),
    )

    assert list(results) == [True, False, False, False, True]
    assert await ledger.get("a") == payment("a")
    assert await ledger.get("b") == payment("b")
    assert await ledger.get("never") is None


async def test_a_write_is_carried_out_although_its_caller_is_cancelled(ledger: Ledger) -> None:
    task = asyncio.create_task(ledger.insert(payment("p1")))
    await asyncio.sleep(0)  # let it ask

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with asyncio.timeout(30):
        while await ledger.get("p1") is None:
            pass


async def test_unfinished_gives_one_payer_s_open_rows_for_one_request_oldest_first(ledger: Ledger) -> None:
    rows = [payment(f"s{n}", state, created_at=100 - n) for n, state in enumerate(State)]
    strangers = [
        payment("x1", payer="0xcc"),
        payment("x2", payer=None),
        payment("x3", currency="0xdd"),
        *(
            payment(f"y{n}", binding=dataclasses.replace(BINDING, **{field.name: "other"}))
            for n, field in enumerate(dataclasses.fields(Binding))
        ),
    ]
    for row in (*rows, *strangers):
        await ledger.insert(row)

    found = await ledger.unfinished("0xbb", BINDING, "0xc0")

    assert found == tuple(row for row in reversed(rows) if row.state in UNFINISHED)


async def test_due_gives_what_time_has_ended_oldest_lease_first(ledger: Ledger) -> None:
    rows = {
        row.id: row
        for row in (
            payment("settling", State.SETTLING, lease_until=40),
            payment("settling-live", State.SETTLING, lease_until=101),
            payment("delivering", State.DELIVERING, lease_until=100),
            payment("delivering-live", State.DELIVERING, lease_until=101),
            payment("unknown", State.UNKNOWN, lease_until=30),
            payment("unknown-later", State.UNKNOWN, lease_until=101),
            payment("credit", State.CREDIT, lease_until=20, life_until=100),
            payment("credit-live", State.CREDIT, lease_until=10, life_until=101),
            *(payment(f"closed-{n}", state) for n, state in enumerate(State) if state not in UNFINISHED),
        )
    }
    for row in rows.values():
        await ledger.insert(row)

    due = await ledger.due(100, 50)

    expected = ["credit", "unknown", "settling", "delivering"]
    assert due == tuple(rows[name] for name in expected)
    assert await ledger.due(100, 2) == due[:2]
    assert await ledger.due(9, 50) == ()


async def test_delivering_at_gives_the_open_deliveries_of_one_data_plane(ledger: Ledger) -> None:
    here = payment("a", State.DELIVERING, data_plane="envoy-1")
    for row in (
        here,
        payment("b", State.DELIVERING, data_plane="envoy-2"),
        payment("c", State.CREDIT, data_plane="envoy-1"),
    ):
        await ledger.insert(row)

    assert await ledger.delivering_at("envoy-1") == (here,)


async def test_listing_is_newest_first_and_filtered_and_limited(ledger: Ledger) -> None:
    rows = [
        payment("a", State.OWED, created_at=1),
        payment("b", created_at=3),
        payment("c", State.OWED, created_at=2),
    ]
    for row in rows:
        await ledger.insert(row)
    a, b, c = rows

    assert await ledger.listing(frozenset(), 10) == (b, c, a)
    assert await ledger.listing(frozenset({State.OWED, State.LAPSED}), 10) == (c, a)
    assert await ledger.listing(frozenset({State.OWED}), 1) == (c,)
    assert await ledger.listing(frozenset({State.LAPSED}), 10) == ()


async def test_counts_follow_the_states(ledger: Ledger) -> None:
    assert await ledger.counts() == {}
    await ledger.insert(payment("a"))
    await ledger.insert(payment("b"))

    await ledger.replace(payment("b"), payment("b", State.CREDIT))

    assert await ledger.counts() == {State.SETTLING: 1, State.CREDIT: 1}


async def test_a_refused_transfer_is_noted_once(ledger: Ledger) -> None:
    first = RefusedTransfer("c1", "0x1", "shop/llm/complete", "moderato", "memo-mismatch", at=5)
    second = dataclasses.replace(first, reference="0x2", at=6)

    await ledger.refuse(first)
    await ledger.refuse(dataclasses.replace(first, reason="again", at=9))
    await ledger.refuse(second)

    assert await ledger.refused(10) == (second, first)
    assert await ledger.refused(1) == (second,)


async def test_a_refused_transfer_without_a_time_gets_the_store_s(ledger: Ledger) -> None:
    before = await ledger.now()

    await ledger.refuse(RefusedTransfer("c1", "0x1", "r", "n", "x"))

    (noted,) = await ledger.refused(1)
    assert before <= noted.at <= await ledger.now()


async def test_a_network_is_remembered_in_its_last_form(ledger: Ledger) -> None:
    await ledger.remember_network("moderato", "{1}")
    await ledger.remember_network("localnet", "{2}")
    await ledger.remember_network("moderato", "{3}")

    assert await ledger.networks() == {"moderato": "{3}", "localnet": "{2}"}


async def test_what_one_connection_wrote_another_reads(store: Store) -> None:
    async with store.opened() as one, store.opened() as two:
        await one.insert(payment("p1"))

        assert await two.get("p1") == payment("p1")


async def test_settled_rows_come_in_pages_oldest_first_without_spent_ones(ledger: Ledger) -> None:
    rows = [
        payment("b", State.CREDIT, settled_at=5),
        payment("a", State.DELIVERED, settled_at=5),
        payment("c", State.OWED, settled_at=4),
        payment("d", State.LAPSED, settled_at=6),
    ]
    for row in (*rows, payment("spent", State.SPENT, settled_at=5), payment("open")):
        await ledger.insert(row)
    b, a, c, d = rows

    assert await ledger.settled_since(0, "", 10) == (c, a, b, d)
    assert await ledger.settled_since(0, "", 2) == (c, a)
    assert await ledger.settled_since(5, "a", 2) == (b, d)
    assert await ledger.settled_since(6, "d", 2) == ()


# --- data planes ---------------------------------------------------------------------------------------


async def test_a_data_plane_that_nobody_told_of_is_unknown(ledger: Ledger) -> None:
    assert await ledger.data_plane("envoy-1") is None


async def test_a_beat_says_when_a_data_plane_was_seen(ledger: Ledger) -> None:
    before = await ledger.now()

    await ledger.beat(["envoy-1", "envoy-2"])

    for name in ("envoy-1", "envoy-2"):
        seen = await ledger.data_plane(name)
        assert seen is not None
        assert before <= seen.seen_at <= await ledger.now()
        assert seen.ended is False


async def test_a_data_plane_that_ended_stays_ended(ledger: Ledger) -> None:
    await ledger.end_data_plane("envoy-1")
    await ledger.beat(["envoy-1"])

    seen = await ledger.data_plane("envoy-1")
    assert seen is not None
    assert seen.ended is True


async def test_living_gives_the_names_that_begin_so_and_beat_since(store: Store) -> None:
    now = 0
    ledger = await store.open(clock=lambda: now)
    for name, now in (("keys/old", 1), ("keys/b", 5), ("keys/a", 6), ("keys/left", 6), ("envoy-1", 6)):  # noqa: B007 - the clock reads it
        await ledger.beat([name])
    await ledger.end_data_plane("keys/left")

    assert await ledger.living("keys/", 5) == ("keys/a", "keys/b")
    await ledger.close()


async def test_data_planes_last_seen_long_ago_are_forgotten_a_bounded_number_at_a_time(store: Store) -> None:
    now = 0
    ledger = await store.open(clock=lambda: now)
    for name, now in (("a", 1), ("b", 2), ("c", 3), ("d", 9)):  # noqa: B007 - the clock reads it
        await ledger.beat([name])

    assert await ledger.forget_data_planes(9, 2) == 2
    assert await ledger.forget_data_planes(9, 2) == 1
    assert await ledger.data_plane("c") is None
    assert await ledger.data_plane("d") == DataPlane(9, False)
    await ledger.close()


async def test_the_store_s_clock_is_the_one_it_was_given(store: Store) -> None:
    ledger = await store.open(clock=lambda: 42)

    assert (await ledger.now(), ledger.clock(), await ledger.born_at()) == (42, 42, 42)
    await ledger.close()


async def test_the_store_s_own_clock_is_told_without_asking_as_with(ledger: Ledger) -> None:
    before = await ledger.now()
    known = ledger.clock()
    after = await ledger.now()

    assert before - 1_000 <= known <= after + 1_000


# --- processes -----------------------------------------------------------------------------------------


async def test_a_row_survives_kill_9_right_after_insert_returned(store: Store) -> None:
    body = """
async def main(url):
    ledger = await begin(url)
    await ledger.insert(ledgers.payment("p1"))
    os.write(1, b"inserted\\n")
    os.kill(os.getpid(), 9)
asyncio.run(main(sys.argv[1]))
"""
    async with program(body, store.url) as process:
        assert await said(process) == "ready"
        await tell(process)
        assert await said(process) == "inserted"
        assert await process.wait() == -signal.SIGKILL

    async with store.opened() as ledger:
        assert await ledger.get("p1") == payment("p1")


async def test_what_was_acknowledged_survives_kill_9_in_the_middle_of_a_load(store: Store) -> None:
    body = """
async def load(ledger, name):
    n = 0
    while True:
        row = ledgers.payment(f"{name}-{n}")
        assert await ledger.insert(row)
        assert await ledger.replace(row, row, also=ledgers.payment(f"{name}-{n}-pair"))
        os.write(1, f"{row.id}\\n".encode())
        n += 1

async def main(url):
    ledger = await begin(url)
    await asyncio.gather(*(load(ledger, name) for name in range(16)))
asyncio.run(main(sys.argv[1]))
"""
    async with program(body, store.url) as process:
        assert await said(process) == "ready"
        await tell(process)
        acknowledged = {await said(process) for _ in range(200)}
        process.kill()
        assert process.stdout is not None
        acknowledged |= {line.decode() for line in (await process.stdout.read()).splitlines()}

    async with store.opened() as ledger:
        rows = {row.id: row for row in await ledger.listing(frozenset(), 1_000_000)}
        assert acknowledged - {name for name, row in rows.items() if row.version == 1} == set()
        # and what was done together is there together
        assert {name for name in rows if name.endswith("-pair")} == {
            f"{name}-pair" for name, row in rows.items() if row.version == 1
        }


async def test_of_three_processes_one_wins_each_row(store: Store) -> None:
    body = """
async def main(url, name):
    ledger = await begin(url)
    async def race(n):
        if await ledger.insert(ledgers.payment(f"i{n}", payer=name)):
            inserted.append(n)
        row = ledgers.payment(f"r{n}")
        if await ledger.replace(row, dataclasses.replace(row, state=State.CREDIT, payer=name)):
            replaced.append(n)
    inserted, replaced = [], []
    await asyncio.gather(*(race(n) for n in range(100)))
    await ledger.close()
    print(len(inserted), len(replaced), flush=True)
asyncio.run(main(*sys.argv[1:]))
"""
    async with store.opened() as ledger:
        await asyncio.gather(*(ledger.insert(payment(f"r{n}")) for n in range(100)))
        async with (
            program(body, store.url, "0x1") as one,
            program(body, store.url, "0x2") as two,
            program(body, store.url, "0x3") as three,
        ):
            processes = (one, two, three)
            for process in processes:
                assert await said(process) == "ready"
            for process in processes:
                await tell(process)
            wins = [tuple(map(int, (await said(process)).split())) for process in processes]

        rows = await ledger.listing(frozenset(), 1000)
        assert [sum(inserted for inserted, _ in wins), sum(replaced for _, replaced in wins)] == [100, 100]
        for prefix, at in (("i", 0), ("r", 1)):
            winners = Counter(row.payer for row in rows if row.id.startswith(prefix))
            assert [winners[f"0x{n}"] for n in (1, 2, 3)] == [win[at] for win in wins]


# --- against a model -----------------------------------------------------------------------------------

_IDS = st.sampled_from([f"p{n}" for n in range(5)])
_REFERENCES = st.sampled_from([None, "0x1", "0x2", "0x3"])
_STATES = st.sampled_from(State)
_TIMES = st.integers(0, 5)


@st.composite
def _payments(draw: st.DrawFn) -> Payment:
    return payment(
        draw(_IDS),
        draw(_STATES),
        reference=draw(_REFERENCES),
        payer=draw(st.sampled_from([None, "0xbb"])),
        lease_until=draw(_TIMES),
        life_until=draw(_TIMES),
        created_at=draw(_TIMES),
    )


class _Against(RuleBasedStateMachine):
    """A store and a dict do the same things; what they say must be the same."""

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.ledger = self.runner.run(FACTORIES[self.name](Path(self.folder.name)).open())
        self.model: dict[str, Payment] = {}

    def free(self, row: Payment, without: str = "") -> bool:
        """Whether no other row that is not FAILED holds its reference."""
        return (
            row.reference is None
            or row.state is State.FAILED
            or all(
                other.reference != row.reference or other.state is State.FAILED or other.id == without
                for other in self.model.values()
            )
        )

    @rule(row=_payments())
    def insert(self, row: Payment) -> None:
        expected = row.id not in self.model and self.free(row)
        assert self.runner.run(self.ledger.insert(row)) is expected
        if expected:
            self.model[row.id] = row

    @precondition(lambda self: self.model)
    @rule(data=st.data(), new=_payments(), also=st.none() | _payments(), behind=st.sampled_from([0, 0, 0, 1]))
    def replace(self, data: st.DataObject, new: Payment, also: Payment | None, behind: int) -> None:
        held = self.model[data.draw(st.sampled_from(sorted(self.model)))]
        old = dataclasses.replace(held, version=held.version - behind)
        new = dataclasses.replace(new, id=held.id)
        written = dataclasses.replace(new, version=old.version + 1)
        expected = not behind and self.free(new, without=held.id)
        before = dict(self.model)
        if expected:
            self.model[held.id] = written
            if also is not None:
                expected = also.id not in self.model and self.free(also)
                self.model |= {also.id: also}
        if not expected:
            self.model = before
        assert self.runner.run(self.ledger.replace(old, new, also=also)) is expected

    @invariant()
    def the_queries_agree(self) -> None:
        async def everything() -> None:
            rows = self.model.values()
            listed = await self.ledger.listing(frozenset(), 100)
            assert {row.id: row for row in listed} == self.model
            assert [row.created_at for row in listed] == sorted((row.created_at for row in rows), reverse=True)
            assert await self.ledger.counts() == dict(Counter(row.state for row in rows))
            for reference in ("0x1", "0x2", "0x3"):
                holders = [row for row in rows if row.reference == reference and row.state is not State.FAILED]
                assert await self.ledger.by_reference(reference) == next(iter(holders), None)
            open_ = {row.id for row in rows if row.payer == "0xbb" and row.state in UNFINISHED}
            assert {row.id for row in await self.ledger.unfinished("0xbb", BINDING, "0xc0")} == open_
            due = sorted((row.lease_until, row.id) for row in rows if _due(row, 3))
            assert [(row.lease_until, row.id) for row in await self.ledger.due(3, 100)] == due

        self.runner.run(everything())

    def teardown(self) -> None:
        self.runner.run(self.ledger.close())
        self.runner.close()
        self.folder.cleanup()


def _due(row: Payment, now: int) -> bool:
    if row.state is State.CREDIT:
        return row.life_until <= now
    return row.state in (State.SETTLING, State.UNKNOWN, State.DELIVERING) and row.lease_until <= now


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_store_does_what_a_dict_would(name: str) -> None:
    machine: Any = type(f"Against_{name}", (_Against,), {"name": name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- bounds ---------------------------------------------------------------------------------------------


async def test_one_transfer_is_noted_a_bounded_number_of_times(ledger: Ledger) -> None:
    for number in range(MAX_REFUSALS + 5):
        await ledger.refuse(RefusedTransfer(f"c{number}", "0x1", "r", "n", "x"))
    await ledger.refuse(RefusedTransfer("c", "0x2", "r", "n", "x"))

    noted = await ledger.refused(100)
    assert [each.reference for each in noted].count("0x1") == MAX_REFUSALS
    assert "0x2" in {each.reference for each in noted}


async def test_failed_rows_are_forgotten_when_they_are_old_and_nothing_else_is(ledger: Ledger) -> None:
    await ledger.insert(payment("old failed", State.FAILED, created_at=1_000))
    await ledger.insert(payment("new failed", State.FAILED, created_at=3_000))
    await ledger.insert(payment("old owed", State.OWED, created_at=1_000))

    assert await ledger.forget_failed(2_000, 10) == 1

    assert await ledger.get("old failed") is None
    assert await ledger.get("new failed") is not None
    assert await ledger.get("old owed") is not None


async def test_a_store_knows_when_it_was_made(store: Store) -> None:
    async with store.opened() as ledger:
        born = await ledger.born_at()
        assert born <= await ledger.now()
    async with store.opened() as again:
        assert await again.born_at() == born
