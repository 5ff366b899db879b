"""The shell of one machine without its children: what it reads, publishes, and takes back."""

import asyncio
import contextlib
import http.server
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mpp_operator import bootstrap, console, directory, statedir
from mpp_operator.local import ground, inputs, probe
from mpp_operator.local.machine import Machine

SERVICE = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: shop}}
spec:
  upstream: {{url: "http://127.0.0.1:9"{auth}}}
  payment:
    offers: [{{method: tempo, network: moderato, currency: pathUSD, recipient: "0x{recipient}"}}]
  routes:
    - {{name: thing, match: {{method: {method}, path: "{path}"}}, {price}}}
"""
SECRET = ", auth: {bearer: {secretRef: {name: up, key: key}}}"
#: How Envoy's log says that it took no notice of a file.
REFUSAL = "[2026-11-01 00:00:00.000][1][warning][config] Filesystem config update rejected: no such route"


def service(amount: str = "0.05", *, method: str = "GET", path: str = "/thing", auth: str = "") -> str:
    price = f'price: {{amount: "{amount}"}}' if amount else "free: true"
    return SERVICE.format(recipient="70" * 20, price=price, method=method, path=path, auth=auth)


@dataclass(frozen=True, slots=True)
class Place:
    """A ground to stand on, and the file that is served from it."""

    ground: ground.Ground
    file: Path
    said: io.StringIO
    out: console.Console


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    file = tmp_path / "shop.yaml"
    file.write_text(service())
    options = ground.Options(
        files=(file,), config=None, port=None, state_dir=tmp_path / "state", secrets_dir=None, concurrency=1,
        sandbox=False, as_json=True, drain=1.0, log_level="warning",
    )  # fmt: skip
    state = statedir.take(options.state_dir, limit=0, say=lambda _: None)
    said = io.StringIO()
    ours = ground.Ground(options, {"UP_KEY": "k"}, state, "0" * 16, Path("envoy"), 4402, None)
    with contextlib.closing(state):
        yield Place(ours, file, said, console.Console(io.StringIO(), said))


def machine_of(place: Place) -> Machine:
    machine = Machine(place.ground, place.out, inputs.read(place.ground, place.out.say))
    machine.publish(machine.inputs)
    return machine


async def reloaded(machine: Machine, line: str) -> None:
    """Reload, while Envoy says that line once it can see what is published."""
    before = directory.read(machine.ground.state.config)

    async def see() -> None:
        while directory.read(machine.ground.state.config) == before:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
        machine.envoy.process.line(line)

    async with asyncio.timeout(10):
        await asyncio.gather(machine.reload(), see())


async def test_what_envoy_refuses_is_taken_back_for_envoy_and_authz_alike(place: Place) -> None:
    machine = machine_of(place)
    good = directory.read(place.ground.state.config)

    place.file.write_text(service("0.07"))
    await reloaded(machine, REFUSAL)

    assert directory.read(place.ground.state.config) == good
    assert f"still serving revision {machine.inputs.revision}" in place.said.getvalue()
    assert "envoy refused the configuration: no such route" in place.said.getvalue()


async def test_a_bad_edit_is_said_once_and_publishes_nothing(place: Place) -> None:
    machine = machine_of(place)
    good = directory.read(place.ground.state.config)

    place.file.write_text(service("0.0000001"))
    await machine.reload()
    await machine.reload()

    assert directory.read(place.ground.state.config) == good
    assert place.said.getvalue().count("error: ") == 1


def test_a_first_start_says_where_it_keeps_the_key_it_made(place: Place) -> None:
    inputs.read(place.ground, place.out.say)
    inputs.read(place.ground, place.out.say)

    assert place.said.getvalue().count("made a signing key and keep it in") == 1


@pytest.mark.parametrize(
    ("environ", "told"), [({}, True), ({"MPP_SECRET_KEY": "a key for all of them, of 32 bytes"}, False)]
)
def test_a_first_start_on_a_postgresql_says_that_all_gateways_need_one_key(
    place: Place, environ: dict[str, str], told: bool
) -> None:
    config = place.file.with_name("gateway.yaml")
    config.write_text("store: {postgres: {urlFrom: {name: ledger, key: url}}}\n")
    options = replace(place.ground.options, config=config)
    environ = environ | {"LEDGER_URL": "postgresql://me:pw@db/x"}

    inputs.read(replace(place.ground, options=options, environ=environ), place.out.say)

    assert ("must sign with one key" in place.said.getvalue()) is told


def test_a_signing_key_that_cannot_be_used_is_said(place: Place) -> None:
    (place.ground.state.root / "signing.key").write_text("short")

    with pytest.raises(console.Failure, match=r"signing\.key: expected at least 32 bytes") as caught:
        inputs.read(place.ground, place.out.say)

    assert caught.value.code == console.WRONG_ENVIRONMENT


def test_a_secret_that_no_header_can_hold_is_said_without_being_shown(place: Place) -> None:
    place.file.write_text(service(auth=SECRET))
    damaged = replace(place.ground, environ={"UP_KEY": "hun\x07ter"})

    with pytest.raises(console.Failure, match="default/up/key: expected one line") as caught:
        inputs.read(damaged, place.out.say)

    assert caught.value.code == console.WRONG_ENVIRONMENT
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (service(), probe.Question("GET", "127.0.0.1", "/shop/thing", (402, 421))),
        (
            service(method="POST", path="/a/{id}/*/b"),
            probe.Question("POST", "127.0.0.1", "/shop/a/x/x/b", (402, 421)),
        ),
        (service(path="/"), probe.Question("GET", "127.0.0.1", "/shop/", (402, 421))),
        (service(amount=""), probe.Question("GET", "localhost", bootstrap.HEALTH_PATH, (200,))),
    ],
    ids=["priced", "wildcards", "root", "free"],
)
def test_the_question_is_for_something_that_is_sold_or_else_for_health(
    place: Place, text: str, expected: probe.Question
) -> None:
    place.file.write_text(text)

    assert probe.question(inputs.read(place.ground, place.out.say)) == expected


class Broken(http.server.BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self) -> None:
        self.send_response(500)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"oops")

    def log_message(self, *_: object) -> None:
        pass


async def test_a_listener_that_answers_something_else_does_not_serve() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(console.Failure, match="expected GET /x to be answered with 402, got 500 oops"):
            await probe.ask(
                f"http://127.0.0.1:{server.server_address[1]}", probe.Question("GET", "h", "/x", (402,)), 2
            )
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


async def test_a_listener_that_is_not_there_does_not_serve() -> None:
    with pytest.raises(console.Failure, match="got ConnectError"):
        await probe.ask("http://127.0.0.1:1", probe.Question("GET", "h", "/x", (402,)), 0.2)
