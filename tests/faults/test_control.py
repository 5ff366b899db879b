"""A fault strikes when somebody comes to its point, and where nobody comes it has not happened."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import control
import httpx
import matrix
import outside
import plans
import pytest
import system
import witnesses
from outside import Mood
from plans import Fault, Plan
from system import Shape


@pytest.fixture
async def points(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[control.Control]:
    async with control.listening(tmp_path_factory.mktemp("c") / "s") as listening:
        listening.begin("7-")
        yield listening


def says(word: str | None, at: list[control.Moment]) -> control.Strike:
    async def strike(moment: control.Moment) -> str | None:
        at.append(moment)
        return word

    return strike


# --- points --------------------------------------------------------------------------------------------


async def test_a_fault_strikes_once_at_the_nth_moment(points: control.Control) -> None:
    seen: list[control.Moment] = []
    armed = points.arm("upstream.hit", 2, says("reset", seen))

    words = [await points.at("upstream.hit", case="7-a") for _ in range(3)]

    assert words == [None, "reset", None]
    assert armed.moment is seen[0]
    assert points.reached == {"upstream.hit": 3}


async def test_a_point_nobody_comes_to_has_not_struck(points: control.Control) -> None:
    armed = points.arm("settle.before", 1, says(None, []))
    await points.at("settle.after")
    assert armed.moment is None


async def test_what_still_happens_to_an_earlier_run_is_no_moment_of_this_one(points: control.Control) -> None:
    points.old.add("paid before")
    armed = points.arm("ledger.credit.after", 1, says(None, []))
    await points.at("ledger.credit.after", payment="paid before")
    await points.at("ledger.credit.after", case="6-a")
    assert (armed.moment, points.reached) == (None, {})


async def test_waiting_for_a_point_ends_when_somebody_comes_or_the_time_is_over(points: control.Control) -> None:
    waiting = asyncio.create_task(points.passed("upstream.hit", 5))
    await asyncio.sleep(0)
    await points.at("upstream.hit", case="7-a")
    assert await waiting
    assert not await points.passed("upstream.hit", 0.01)


async def test_a_process_that_announces_a_moment_waits_for_its_word(points: control.Control) -> None:
    go = asyncio.Event()

    async def strike(_: control.Moment) -> None:
        await go.wait()

    armed = points.arm("check.received", 1, strike)
    reader, writer = await asyncio.open_unix_connection(str(points.path))
    announced = {"point": "check.received", "replica": 1, "pid": 42, "target": "/shop/thing?x=1&case=7-b"}
    writer.write(json.dumps(announced).encode() + b"\n")
    await system.until(lambda: armed.moment is not None, 5, "the moment")
    assert armed.moment is not None
    assert (armed.moment.replica, armed.moment.pid, armed.moment.case) == (1, 42, "7-b")
    waiting = asyncio.create_task(reader.readline())
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    assert await waiting == b"go\n"
    writer.close()


def test_the_double_ends_a_process_that_it_cannot_instrument(tmp_path: Path) -> None:
    """One that ran without it would reach no point, and every fault in it would be missed in silence."""
    (tmp_path / "mpp_authz.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "pass", "mpp_operator.cli", "authz"],
        env={"PYTHONPATH": f"{system.INSTRUMENT}:{tmp_path}", "PYTHON_FAULTS_SOCKET": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 70
    assert "the double of fault runs: ImportError" in done.stderr


def test_the_double_does_nothing_in_other_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print('mpp_authz' in sys.modules)"],
        env={"PYTHONPATH": str(system.INSTRUMENT), "PYTHON_FAULTS_SOCKET": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "False\n")


# --- the report ----------------------------------------------------------------------------------------


def test_a_report_counts_what_came_to_pass_and_not_what_was_planned(tmp_path: Path) -> None:
    struck, missed = Fault("settle.before", "kill", "authz"), Fault("resend.after", "kill", "authz")
    plan = Plan(3, Shape(), (), (struck, missed))
    run = witnesses.Run(3, str(plan.shape), (), (), (), ())
    result = matrix.Result(plan, run, (struck,), (missed,), {"settle.before": 2}, (), 1.0)

    totals = matrix.totals([result])

    assert totals["struck"] == {"settle.before x kill authz": 1}
    assert totals["struckPoints"] == ["settle.before"]
    assert totals["planned and never reached"] == 1
    assert "never reached: kill authz at resend.after" in result.lines()
    matrix.write_report(tmp_path / "report.json", [result])
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["totals"]["runs"] == len(written["runs"]) == 1
    assert written["runs"][0]["plan"] == str(plan)


def test_a_run_that_the_harness_could_not_carry_out_is_not_a_good_one() -> None:
    run = witnesses.Run(3, "", (), (), (), ())
    assert not matrix.Result(plans.plan(3), run, (), (), {}, (), 1.0, error="it broke").good


# --- the upstream and the node -------------------------------------------------------------------------


async def asked(url: str, target: str) -> tuple[int, bool]:
    """Status, and whether the body was whole; 0 where there was no answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        try:
            async with http.stream("GET", url + target) as answer:
                try:
                    await answer.aread()
                except httpx.HTTPError:
                    return answer.status_code, False
                return answer.status_code, True
        except httpx.HTTPError:
            return 0, False


@pytest.mark.parametrize(
    ("mood", "answer", "seen"),
    [
        (Mood.WELL, (200, True), (200, True)),
        (Mood.SLOW, (200, True), (200, True)),
        (Mood.S500, (500, True), (500, True)),
        (Mood.S402, (402, True), (402, True)),
        (Mood.RESET, (0, False), (0, False)),
        (Mood.BREAK, (200, False), (200, False)),
    ],
)
async def test_the_upstream_says_of_each_hit_what_became_of_it(
    mood: Mood, answer: tuple[int, bool], seen: tuple[int, bool], points: control.Control
) -> None:
    async with outside.upstream(points) as upstream:
        upstream.moods("7-a", (mood,))
        assert await asked(upstream.url, "/shop/thing?case=7-a") == answer
        (hit,) = upstream.take()
        assert (hit.status, hit.finished, hit.target) == (*seen, "/shop/thing?case=7-a")
        assert upstream.take() == ()


@pytest.mark.parametrize(
    ("point", "answer"),
    [("upstream.hit", (0, False)), ("upstream.headers", (200, False)), ("upstream.half", (200, False))],
)
async def test_a_connection_is_reset_at_the_named_moment(
    point: str, answer: tuple[int, bool], points: control.Control
) -> None:
    points.arm(point, 1, says("reset", []))
    async with outside.upstream(points) as upstream:
        assert await asked(upstream.url, "/shop/thing?case=7-a") == answer


async def test_a_server_that_was_killed_refuses_and_comes_back_at_its_port(points: control.Control) -> None:
    async with outside.upstream(points) as upstream:
        port = upstream.port
        await upstream.down()
        assert await asked(upstream.url, "/shop/thing") == (0, False)
        await upstream.up()
        assert upstream.port == port
        assert await asked(upstream.url, "/shop/thing") == (200, True)


async def test_a_paused_upstream_answers_when_it_goes_on(points: control.Control) -> None:
    async with outside.upstream(points) as upstream:
        upstream.pause()
        asking = asyncio.create_task(asked(upstream.url, "/shop/thing"))
        await system.until(lambda: upstream._seen, 5, "a request")
        assert not asking.done()
        upstream.resume()
        assert await asking == (200, True)


class _Chain(outside.Server):
    """What the node forwards to: counts its calls."""

    calls = 0

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await outside._request(reader)
        self.calls += 1
        body = b'{"jsonrpc":"2.0","id":1,"result":"0x1"}'
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True


@pytest.mark.parametrize(
    ("point", "word", "forwarded", "answered"),
    [
        ("rpc.send.before", None, 1, True),
        ("rpc.send.before", "drop", 0, False),
        ("rpc.send.after", "drop", 1, False),
        ("rpc.send.before", "duplicate", 2, True),
    ],
)
async def test_the_node_does_to_a_transaction_what_the_fault_says(
    point: str, word: str | None, forwarded: int, answered: bool, points: control.Control
) -> None:
    chain = _Chain()
    await chain.up()
    points.arm(point, 1, says(word, []))
    async with outside.node(chain.url, points) as node, httpx.AsyncClient(trust_env=False) as http:
        call = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransactionSync", "params": ["0x76ab"]}
        try:
            got = (await http.post(node.url, json=call)).json()["result"] == "0x1"
        except httpx.HTTPError:
            got = False
        assert (chain.calls, got, len(node.sent_at)) == (forwarded, answered, min(forwarded, 1))
    await chain.down()


async def test_a_node_that_refuses_says_so_as_a_node_does(points: control.Control) -> None:
    chain = _Chain()
    await chain.up()
    points.arm("rpc.receipt.before", 1, says("refuse", []))
    async with outside.node(chain.url, points) as node, httpx.AsyncClient(trust_env=False) as http:
        call = {"jsonrpc": "2.0", "id": 9, "method": "eth_getTransactionReceipt", "params": ["0x1"]}
        answer = (await http.post(node.url, json=call)).json()
        assert (answer["id"], "error" in answer, chain.calls) == (9, True, 0)
    await chain.down()
