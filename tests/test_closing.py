"""News becomes states: the access log, the outcome files, Envoys that are gone, the ends of leases and lives."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promises import ALICE, BOB, ENVOY, PRICE, FailingLedger, World, listening, priced, problem, read
from promises import ROUTE as ROUTE_KEY

from mpp_authz.closing import Closer
from mpp_authz.decide import Gate
from mpp_authz.delivery import Entry
from mpp_authz.ledger import LedgerUnavailable, Payment, State, transitions
from mpp_authz.ledger.transitions import Whereabouts
from mpp_authz.metrics import Metrics
from mpp_authz.sweeping import Sweeper
from mpp_authz.unwritten import advance
from mpp_authz.verdicts import Allow


async def out(world: World, **fields: Any) -> tuple[str, Allow]:
    """A payment that is out for delivery."""
    authorization = world.pay(await world.challenge(**fields))
    allowed = await world.present(authorization, **fields)
    assert isinstance(allowed, Allow)
    return authorization, allowed


def line(allowed: Allow, status: int = 200, **fields: Any) -> str:
    document = {"payment": allowed.payment, "attempt": str(allowed.attempt), "status": status, "flags": "-"}
    return json.dumps(document | {"details": "via_upstream", "finished": 1} | fields) + "\n"


def log_of(world: World, data_plane: str = ENVOY) -> Path:
    return world.folder / f"{data_plane}.log"


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def sweeper(world: World) -> Sweeper:
    return Sweeper(world.ledger, world.gate.settler, world.gate.closer, interval_seconds=0.001)


async def test_news_of_a_payment_nobody_knows_changes_nothing(world: World) -> None:
    await world.gate.closer.record(Entry("nobody", 1, 200, frozenset(), "", True))

    assert await world.ledger.listing(frozenset(), 9) == ()


async def test_the_same_news_twice_counts_once(world: World) -> None:
    authorization, allowed = await out(world)
    await world.news(allowed, 500)
    await world.news(allowed, 500)

    row = await world.row(authorization)
    assert (row.state, row.faults, row.last_status) == (State.CREDIT, 1, 500)


async def test_a_periodic_entry_renews_the_lease_of_its_attempt(world: World) -> None:
    world.terms.routes[ROUTE_KEY] = priced(streaming=True)
    authorization, allowed = await out(world)
    world.clock.later(30)
    before = (await world.row(authorization)).lease_until

    await world.gate.closer.record(Entry(allowed.payment, 1, 200, frozenset(), "", False, ended=False))

    row = await world.row(authorization)
    assert row.state is State.DELIVERING
    assert row.lease_until == world.clock.ms + 60_000 > before


async def test_an_outcome_file_is_read_as_it_grows_and_a_cut_line_waits(world: World) -> None:
    first, one = await out(world)
    second, two = await out(world)
    whole, cut = line(one), line(two)
    append(log_of(world), whole + cut[:20])

    assert await world.gate.closer.read(ENVOY) is Whereabouts.BESIDE
    states = [await world.state(first), await world.state(second)]
    append(log_of(world), cut[20:])
    await world.gate.closer.read(ENVOY)

    assert states == [State.DELIVERED, State.DELIVERING]
    assert await world.state(second) is State.DELIVERED


async def test_many_readers_of_one_file_lose_no_line(world: World) -> None:
    payments = [await out(world) for _ in range(6)]
    for _, allowed in payments[:3]:
        append(log_of(world), line(allowed))
    await asyncio.gather(*(world.gate.closer.read(ENVOY) for _ in range(5)))
    for _, allowed in payments[3:]:
        append(log_of(world), line(allowed))

    await asyncio.gather(*(world.gate.closer.read(ENVOY) for _ in range(5)))

    assert {await world.state(authorization) for authorization, _ in payments} == {State.DELIVERED}


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"not json\n", b"\n", b'{"payment":"-"}\n', b'{"payment":"x"}\n'])
async def test_a_line_that_says_nothing_is_passed_over(world: World, junk: bytes) -> None:
    authorization, allowed = await out(world)
    append(log_of(world), junk + line(allowed).encode())

    await world.gate.closer.read(ENVOY)

    assert await world.state(authorization) is State.DELIVERED


async def test_what_unicode_calls_a_lines_end_is_none(world: World) -> None:
    authorization, allowed = await out(world)
    append(log_of(world), line(allowed, details="a\u2028b\x85c").encode().decode("unicode_escape").encode())

    await world.gate.closer.read(ENVOY)

    assert await world.state(authorization) is State.DELIVERED


@pytest.mark.parametrize("outcomes", [None, Path("/nowhere")])
async def test_a_file_that_is_not_here_says_nothing_of_its_envoy(world: World, outcomes: Path | None) -> None:
    closer = Closer(world.ledger, outcomes, Metrics())

    assert [await closer.read(name) for name in ("", ENVOY)] == [Whereabouts.AWAY] * 2
    await closer.bury()
    await closer.beat()
    assert await world.ledger.data_plane(ENVOY) is None


async def test_the_files_of_an_envoy_that_is_gone_are_closed_and_taken_away(world: World) -> None:
    heard, told = await out(world)
    unheard, _ = await out(world)
    elsewhere, _ = await out(world, data_plane="envoy-2")
    append(log_of(world), line(told))
    log_of(world).rename(world.folder / f"{ENVOY}.ended")

    await sweeper(world).round()

    states = [await world.state(one) for one in (heard, unheard, elsewhere)]
    assert states == [State.DELIVERED, State.CREDIT, State.DELIVERING]
    assert list(world.folder.glob(f"{ENVOY}.*")) == []
    known = await world.ledger.data_plane(ENVOY)
    assert known is not None
    assert known.ended


async def test_what_was_read_of_a_live_file_is_not_read_again_when_it_has_ended(world: World) -> None:
    authorization, first = await out(world)
    append(log_of(world), line(first, 500))
    await world.gate.closer.read(ENVOY)
    world.open.clear()
    second = await world.present(authorization)
    assert isinstance(second, Allow)
    append(log_of(world), line(second, 404))
    log_of(world).rename(world.folder / f"{ENVOY}.ended")

    assert await world.gate.closer.read(ENVOY) is Whereabouts.GONE

    row = await world.row(authorization)
    assert (row.state, row.attempt, row.faults, row.last_status) == (State.CREDIT, 2, 1, 404)


# --- leases and lives ----------------------------------------------------------------------------------


async def test_only_the_lease_that_was_seen_is_ended(world: World) -> None:
    authorization, _ = await out(world)
    seen = await world.row(authorization)
    renewed = transitions.renewed(seen, 1, seen.lease_until + 5)
    assert renewed is not None
    assert await world.ledger.replace(seen, renewed)

    assert await world.gate.closer.end_lease(seen) is None
    assert await world.state(authorization) is State.DELIVERING
    assert await world.gate.closer.end_lease(await world.row(authorization)) is not None
    assert await world.state(authorization) is State.CREDIT


async def test_the_sweeper_ends_leases_lives_and_open_outcomes(world: World) -> None:
    delivering, _ = await out(world)
    credit, allowed = await out(world)
    await world.news(allowed, 500)
    world.rail.sends = "lost"
    unknown = world.pay(await world.challenge(), payer=BOB)
    await world.present(unknown)
    await world.idle()
    world.rail.include((await world.row(unknown)).reference or "")
    world.clock.later(PRICE.lease + 1)

    await sweeper(world).round()

    states = [await world.state(one) for one in (delivering, credit, unknown)]
    assert states == [State.CREDIT, State.CREDIT, State.CREDIT]
    world.clock.later(PRICE.credit_life)
    await sweeper(world).round()
    assert {await world.state(one) for one in (delivering, credit, unknown)} == {State.OWED}


async def test_the_sweeper_reads_the_outcome_file_before_it_ends_a_lease(world: World) -> None:
    authorization, allowed = await out(world)
    append(log_of(world), line(allowed))
    world.clock.later(PRICE.lease + 1)

    await sweeper(world).round()

    assert await world.state(authorization) is State.DELIVERED


async def test_the_sweeper_leaves_a_lease_that_was_renewed(world: World) -> None:
    authorization, _ = await out(world)
    row = await world.row(authorization)
    await sweeper(world)._close(replace(row, lease_until=0))

    assert await world.state(authorization) is State.DELIVERING


async def test_a_payment_that_stays_unknown_is_asked_about_ever_more_rarely(world: World) -> None:
    world.rail.sends, world.rail.reachable = "lost", False
    authorization = world.pay(await world.challenge())
    await world.present(authorization)
    await world.idle()
    pauses = []
    for _ in range(12):
        row = await world.row(authorization)
        world.clock.ms = row.lease_until
        await sweeper(world).round()
        pauses.append((await world.row(authorization)).lease_until - world.clock.ms)

    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1_000, 300_000)
    assert await world.state(authorization) is State.UNKNOWN


async def test_one_row_that_cannot_be_closed_keeps_no_other_open(world: World) -> None:
    world.rail.sends = "lost"
    for payer in (ALICE, BOB):
        await world.present(world.pay(await world.challenge(), payer=payer))
    await world.idle()
    poisoned, healthy = await world.ledger.listing(frozenset({State.UNKNOWN}), 9)
    await world.ledger.replace(poisoned, replace(poisoned, envelope="co-signed 0xbad"))
    world.rail.dies_at = "resend"
    world.rail.include(healthy.reference or "")
    world.clock.later(2)

    await sweeper(world).round()

    rows = [await world.inner.get(row.id) for row in (healthy, poisoned)]
    assert [row.state for row in rows if row is not None] == [State.CREDIT, State.UNKNOWN]


async def test_the_sweeper_says_once_that_the_ledger_is_down_and_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    authorization, _ = await out(world)
    world.clock.later(PRICE.lease + 1)
    left = iter(range(5))
    back = asyncio.Event()

    class DownAtFirst:
        """The ledger, but for its first four answers of `due`. `back`: a round after those has ended."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.ledger, name)

        async def due(self, now: int, limit: int) -> tuple[Payment, ...]:
            turn = next(left, None)
            if turn is None:
                back.set()
            elif turn < 4:
                raise LedgerUnavailable("the disk is full")
            return await world.ledger.due(now, limit)  # type: ignore[no-any-return]

    broken: Any = DownAtFirst()
    task = asyncio.create_task(Sweeper(broken, world.gate.settler, world.gate.closer, 0.001).run())
    try:
        await world.until(authorization, State.CREDIT)
        await asyncio.wait_for(back.wait(), 10)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert [record.message for record in caplog.records if record.name == "mpp_authz.sweeping"] == [
        "sweeping waits for the ledger",
        "sweeping goes on: the ledger is there again",
    ]


async def test_the_sweeper_survives_an_error_of_ours(world: World, caplog: pytest.LogCaptureFixture) -> None:
    rounds = asyncio.Semaphore(0)

    class Broken:
        async def beat(self) -> None:
            rounds.release()
            raise RuntimeError("a bug")

    broken: Any = Broken()
    task = asyncio.create_task(Sweeper(world.ledger, world.gate.settler, broken, 0.001).run())
    async with asyncio.timeout(10):
        for _ in range(3):
            await rounds.acquire()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert "sweeping failed" in caplog.text


# --- Envoys beside another process ---------------------------------------------------------------------


def elsewhere(world: World, owner: str = "authz-1/boot-1") -> Gate:
    """An authz on another machine, with no outcome file of our Envoy."""
    folder = world.folder.parent / owner.replace("/", "-")
    folder.mkdir(exist_ok=True)
    return world.another(owner, folder=folder)


def sweeper_of(world: World, gate: Gate) -> Sweeper:
    return Sweeper(world.ledger, gate.settler, gate.closer, interval_seconds=0.001)


async def test_another_machine_leaves_the_delivery_of_an_envoy_that_lives_alone(world: World) -> None:
    authorization, _ = await out(world)
    other = elsewhere(world)
    world.clock.later(PRICE.lease + 1)
    await world.gate.closer.beat()

    await sweeper_of(world, other).round()
    asked = await other.check(world.request(authorization=authorization, data_plane="envoy-2"))

    assert await world.state(authorization) is State.DELIVERING
    assert problem(asked) == (409, "payment-in-progress")
    await sweeper(world).round()
    assert await world.state(authorization) is State.CREDIT


async def test_another_machine_ends_the_delivery_of_an_envoy_nobody_hears_of(world: World) -> None:
    authorization, _ = await out(world)
    await world.gate.closer.beat()
    other = elsewhere(world)
    await listening(other, world.clock, other.closer.times.silence + 1)

    await sweeper_of(world, other).round()
    in_its_lease = await world.state(authorization)
    await listening(other, world.clock, PRICE.lease)
    await sweeper_of(world, other).round()

    assert in_its_lease is State.DELIVERING
    assert await world.state(authorization) is State.CREDIT


async def test_silence_counts_only_while_a_word_could_have_been_heard(world: World) -> None:
    authorization, _ = await out(world)
    await world.gate.closer.beat()
    other = elsewhere(world)
    await listening(other, world.clock, 10)
    world.clock.later(PRICE.lease + other.closer.times.silence)  # the store was away, or this machine stood still

    await sweeper_of(world, other).round()
    at_once = await world.state(authorization)
    await listening(other, world.clock, other.closer.times.silence + 1)
    await sweeper_of(world, other).round()

    assert at_once is State.DELIVERING
    assert await world.state(authorization) is State.CREDIT


async def test_who_hears_of_a_delivery_speaks_for_it(world: World) -> None:
    authorization, allowed = await out(world)
    heir = world.another("authz-0/boot-2")

    await world.news(allowed, gate=heir, ended=False)

    row = await world.row(authorization)
    assert (row.state, row.lease_owner) == (State.DELIVERING, "authz-0/boot-2")
    assert heir.closer.delivers


async def test_another_machine_ends_the_delivery_of_an_envoy_that_ended_at_once(world: World) -> None:
    heard, told = await out(world)
    unheard, _ = await out(world)
    append(log_of(world), line(told))
    log_of(world).rename(world.folder / f"{ENVOY}.ended")
    other = elsewhere(world)
    await world.gate.closer.bury()
    world.open.clear()

    used = await other.check(world.request(authorization=heard, data_plane="envoy-2"))
    again = await world.present(unheard, gate=other, data_plane="envoy-2")

    assert problem(used) == (403, "verification-failed")
    assert isinstance(again, Allow)
    assert again.attempt == 2


async def test_what_begins_at_an_envoy_that_ended_is_owed_at_once(world: World) -> None:
    log_of(world).rename(world.folder / f"{ENVOY}.ended")
    await world.gate.closer.bury()
    authorization, _ = await out(world)
    world.open.clear()

    assert isinstance(await world.present(authorization, gate=elsewhere(world), data_plane="envoy-2"), Allow)


async def test_an_envoy_is_called_ended_before_its_file_is_gone(world: World) -> None:
    authorization, _ = await out(world)
    log_of(world).rename(world.folder / f"{ENVOY}.ended")
    failing = FailingLedger(world.ledger)
    closer = Closer(failing, world.folder, Metrics())
    failing.arm(1)

    with pytest.raises(LedgerUnavailable):
        await closer.bury()
    kept = (world.folder / f"{ENVOY}.ended").exists()
    failing.disarm()
    await closer.bury()

    known = await world.ledger.data_plane(ENVOY)
    assert kept
    assert known is not None
    assert known.ended
    assert await world.state(authorization) is State.CREDIT


async def test_a_store_hears_now_and_then_that_an_envoy_lives(world: World) -> None:
    closer = world.gate.closer
    heard = []
    for seconds in (0.0, closer.times.beat / 2, closer.times.beat):
        world.clock.later(seconds)
        await sweeper(world).round()
        known = await world.ledger.data_plane(ENVOY)
        assert known is not None
        heard.append(world.clock.ms - known.seen_at)

    assert heard == [0, closer.times.beat * 500, 0]


async def test_a_new_envoy_is_told_of_at_once_and_an_old_part_is_none(world: World) -> None:
    await world.gate.closer.beat()
    log_of(world, "envoy-2").touch()
    log_of(world, "envoy-3.part-17").touch()

    await world.gate.closer.beat()

    found = [await world.ledger.data_plane(name) for name in ("envoy-2", "envoy-3", "envoy-3.part-17")]
    assert [each is not None for each in found] == [True, True, False]


async def test_the_sweeper_forgets_envoys_of_yesterday(world: World) -> None:
    await sweeper(world).round()
    log_of(world).unlink()
    world.clock.later(86_401)

    await sweeper(world).round()

    assert await world.ledger.data_plane(ENVOY) is None


async def test_a_file_that_was_put_aside_while_it_was_looked_for_is_read(world: World) -> None:
    authorization, allowed = await out(world)
    append(log_of(world), line(allowed))
    part = log_of(world).with_name(f"{ENVOY}.part-1.log")
    closer = world.gate.closer
    looked = closer._parts

    def aside_meanwhile(data_plane: str) -> list[Path]:
        found = looked(data_plane)
        if log_of(world).exists():
            log_of(world).rename(part)
        return found

    class Hurried(Closer):
        _parts = staticmethod(aside_meanwhile)

    hurried = Hurried(world.ledger, world.folder, Metrics())

    assert await hurried.read(ENVOY) is Whereabouts.BESIDE
    assert await world.state(authorization) is State.DELIVERED


# --- news that was lost --------------------------------------------------------------------------------


async def test_news_told_while_nobody_listened_is_read_by_the_next_process(world: World) -> None:
    authorization, allowed = await out(world)
    append(log_of(world), line(allowed))
    next_one = world.another("authz-0/boot-2")

    await sweeper_of(world, next_one).round()

    assert await world.state(authorization) is State.DELIVERED


async def test_news_the_store_did_not_take_is_read_when_it_is_back(world: World) -> None:
    failing: Any = FailingLedger(world.ledger)
    gate = world.another("authz-0/boot-1", ledger=failing)
    sweeping = Sweeper(failing, gate.settler, gate.closer)
    await sweeping.round()  # nothing to catch up with yet
    authorization = world.pay(await world.challenge())
    allowed = await world.present(authorization, gate=gate)
    assert isinstance(allowed, Allow)
    failing.arm(1, lasting=True)
    with pytest.raises(LedgerUnavailable):
        await gate.closer.record(Entry(allowed.payment, 1, 200, frozenset(), "", True))
    with pytest.raises(LedgerUnavailable):
        await sweeping.round()

    failing.disarm()
    await sweeping.round()
    before = await world.state(authorization)
    append(log_of(world), line(allowed))  # Envoy writes it a little later
    await sweeping.round()

    assert before is State.DELIVERING
    assert await world.state(authorization) is State.DELIVERED


async def test_news_that_grpc_lost_is_found_in_the_file_in_a_round(world: World) -> None:
    await sweeper(world).round()
    authorization, allowed = await out(world)
    append(log_of(world), line(allowed))

    await sweeper(world).round()

    assert await world.state(authorization) is State.DELIVERED


async def test_what_grpc_told_is_not_asked_of_the_ledger_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, allowed = await out(world)
    await world.news(allowed)
    append(log_of(world), line(allowed))
    asked: list[str] = []
    monkeypatch.setattr(type(world.ledger), "get", lambda _, payment_id: asked.append(payment_id))

    await world.gate.closer.catch_up()

    assert asked == []


# --- compare and set -----------------------------------------------------------------------------------


async def test_a_step_is_applied_to_the_row_as_it_is_by_now(world: World) -> None:
    authorization, _ = await out(world)
    stale = await world.row(authorization)
    await world.ledger.replace(stale, replace(stale, last_flags="X"))

    written = await advance(world.ledger, stale, lambda row: replace(row, last_status=7))

    assert written == await world.row(authorization)
    assert (written.last_flags, written.last_status) == ("X", 7)


async def test_nothing_follows_a_row_that_is_gone_or_final(world: World) -> None:
    authorization, _ = await out(world)
    gone = replace(await world.row(authorization), id="gone")

    def step(row: Payment) -> Payment:
        return replace(row, last_status=7)

    assert await advance(world.ledger, gone, step) is None
    assert await advance(world.ledger, await world.row(authorization), lambda _: None) is None
    assert read(authorization) != "gone"


async def test_a_part_that_is_put_aside_is_read_with_what_comes_after_it(world: World) -> None:
    first, one = await out(world)
    second, two = await out(world)
    third, three = await out(world)
    log = log_of(world)
    append(log, line(one))
    assert await world.gate.closer.read(ENVOY) is Whereabouts.BESIDE
    append(log, line(two))
    part = log.with_name(f"{ENVOY}.part-1.log")

    log.rename(part)  # and for a moment there is no file of that Envoy but the part
    assert await world.gate.closer.read(ENVOY) is Whereabouts.BESIDE
    append(log, line(three))
    assert await world.gate.closer.read(ENVOY) is Whereabouts.BESIDE

    assert [(await world.row(each)).state for each in (first, second, third)] == [State.DELIVERED] * 3


async def test_a_part_that_is_finished_is_taken_away_and_its_envoy_lives_on(world: World) -> None:
    open_row, _ = await out(world)
    authorization, allowed = await out(world)
    part = log_of(world).with_name(f"{ENVOY}.part-1.ended")
    append(part, line(allowed))
    append(log_of(world), "")

    await world.gate.closer.bury()

    assert not part.exists()
    assert (await world.row(authorization)).state is State.DELIVERED
    assert (await world.row(open_row)).state is State.DELIVERING
