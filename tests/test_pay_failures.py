"""Upstreams and clients that fail after the money moved: what the payer sees, what the ledger says, who is owed.

The stream limit of this shop is 8 s (checkTimeout 4 s, request 1.5 s, upload 2.5 s), so that our own limits can be
watched at work.
"""

import socket
import time
from collections.abc import Iterator

import httpx
import moody
import places
import pytest
import websockets.exceptions
import websockets.sync.client
from chain import Chain
from places import PRICE, Place, Shop

from mpp_authz.ledger import State

pytestmark = [pytest.mark.payments, pytest.mark.timeout(120)]

REQUEST_LIMIT = 1.5


class Reserved:
    """A port nobody else gets, and nobody listens at until the test does."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def free(self) -> int:
        self._socket.close()
        return self.number


@pytest.fixture(scope="module")
def late() -> Iterator[Reserved]:
    reserved = Reserved()
    yield reserved
    reserved.free()


@pytest.fixture(scope="module")
def shop(chain: Chain, late: Reserved, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    def also(port: int) -> str:
        return places.service("late", late.number, [places.offer(places.payee("failures", "late"))])

    with places.opened(
        tmp_path_factory.mktemp("failures"),
        chain,
        "failures",
        places=60,
        also=also,
        timeouts=f"request: {REQUEST_LIMIT * 1000:.0f}ms, upload: 2500ms",
        config="checkTimeout: 4s\nsettleWait: 3s\n",
    ) as opened:
        yield opened


#: An upstream's own idea of payment. None of it may reach the client.
ITS_OWN_402 = (
    ("www-authenticate", 'Payment id="1", realm="theirs", method="tempo", intent="charge", request="e30"'),
    ("payment-required", "theirs"),
    ("payment-receipt", "theirs"),
    ("payment-credit", "theirs"),
    ("x-payment-response", "theirs"),
    ("x-theirs", "theirs"),
)


# --- an upstream that fails before its headers, or says so ---------------------------------------------


@pytest.mark.row("C25", "C32", "C35")
@pytest.mark.parametrize(
    ("mood", "status"),
    [
        (moody.Says(500), 500),
        (moody.Says(503, headers=(("retry-after", "7"),)), 503),
        (moody.Says(404), 404),
        (moody.Says(302, headers=(("location", "/elsewhere"),)), 302),
        (moody.Says(402, headers=ITS_OWN_402), 502),
        (moody.Resets(), 503),
        (moody.HangsUp(), 503),
        (moody.Silent(), 504),
    ],
    ids=["500", "503", "404", "302", "402", "reset", "hangup", "silence"],
)
@pytest.mark.row("H10", "G05", "G06")
def test_a_payment_that_bought_a_failure_is_a_credit_and_the_credential_opens_again(
    place: Place, mood: moody.Mood, status: int
) -> None:
    place.moods(mood)
    credential = place.sign()

    failed = place.ask(credential=credential)
    assert failed.status_code == status
    assert failed.headers["payment-credit"] == places.challenge_id(credential)
    assert "retry-after" in failed.headers
    assert {"payment-receipt", "www-authenticate", "payment-required", "x-payment-response"}.isdisjoint(
        failed.headers
    )
    row = place.becomes(credential, State.CREDIT)
    assert (row.attempt, place.paid()) == (1, PRICE)

    served = place.ask(credential=credential)
    assert served.status_code == 200
    assert places.receipt(served)["reference"] == row.reference
    assert "payment-credit" not in served.headers
    assert place.becomes(credential, State.DELIVERED).attempt == 2
    assert (place.paid(), len(place.hits)) == (PRICE, 2)
    assert [hit.headers["x-mpp-attempt"] for hit in place.hits] == ["1", "2"]


@pytest.mark.row("C01", "G04")
def test_an_upstreams_402_says_nothing_to_the_client(place: Place) -> None:
    place.moods(moody.Says(402, b"pay me instead", headers=ITS_OWN_402))

    answer = place.ask(credential=place.sign())

    assert answer.status_code == 502
    assert "theirs" not in repr(answer.headers)
    assert b"pay me" not in answer.content
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_upstreams_own_retry_after_is_the_clients(place: Place) -> None:
    place.moods(moody.Says(503, headers=(("retry-after", "7"),)))

    assert place.ask(credential=place.sign()).headers["retry-after"] == "7"


@pytest.mark.parametrize("mood", [moody.Says(500), moody.Resets()], ids=["500", "reset"])
def test_the_same_credential_may_come_again_at_once(place: Place, mood: moody.Mood) -> None:
    place.moods(mood, mood)
    credential = place.sign()

    statuses = [place.ask(credential=credential).status_code for _ in range(4)]

    assert statuses[2:] == [200, 403]
    assert min(statuses[:2]) >= 500
    assert (place.paid(), len(place.hits)) == (PRICE, 3)


def test_an_upstream_that_is_not_there_yet_is_a_credit(shop: Shop, late: Reserved) -> None:
    place = shop.place("late")
    credential = place.sign()

    failed = place.ask(credential=credential)
    assert (failed.status_code, "payment-credit" in failed.headers) == (503, True)
    place.becomes(credential, State.CREDIT)

    with moody.serving(late.free()) as upstream:
        served = place.insist(credential, 503)
        assert (served.status_code, len(upstream.hits("/late"))) == (200, 1)
    assert place.paid() == PRICE


def test_a_websocket_the_upstream_refuses_is_a_credit(place: Place) -> None:
    place.moods(moody.Says(500), moody.Echoes())
    credential = place.sign("/live")
    url = place.url("/live").replace("http://", "ws://")

    def knock() -> str | bytes:
        headers = {"Authorization": credential}
        with websockets.sync.client.connect(url, additional_headers=headers, proxy=None) as socket:
            socket.send("knock")
            return socket.recv(timeout=10)

    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        knock()
    assert refused.value.response.status_code == 500
    assert "payment-credit" in refused.value.response.headers
    assert knock() == "knock"
    with pytest.raises(websockets.exceptions.InvalidStatus) as again:
        knock()
    assert again.value.response.status_code == 403
    assert (place.paid(), place.begun) == (PRICE, 2)


# --- an upstream that fails after its headers ----------------------------------------------------------

BREAKS = {
    "reset": moody.Breaks(),
    "end": moody.Breaks(reset=False),
    "chunked reset": moody.Breaks(chunked=True),
    "chunked end": moody.Breaks(chunked=True, reset=False),
}


@pytest.mark.parametrize("way", BREAKS)
def test_a_body_that_breaks_off_is_a_credit(place: Place, way: str) -> None:
    place.moods(BREAKS[way])
    credential = place.sign()

    with pytest.raises(httpx.HTTPError):
        place.ask(credential=credential)

    assert place.becomes(credential, State.CREDIT).last_status == 200
    assert place.ask(credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


@pytest.mark.parametrize("way", BREAKS)
def test_a_stream_that_breaks_off_was_delivered(place: Place, way: str) -> None:
    place.moods(BREAKS[way])
    credential = place.sign("/live")

    with pytest.raises(httpx.HTTPError):
        place.ask("/live", credential=credential)

    place.becomes(credential, State.DELIVERED)
    again = place.ask("/live", credential=credential)
    assert (again.status_code, len(place.hits)) == (403, 1)
    assert "www-authenticate" not in again.headers


def test_a_stream_that_never_began_is_a_credit(place: Place) -> None:
    place.moods(moody.Resets())
    credential = place.sign("/live")

    assert place.ask("/live", credential=credential).status_code == 503
    place.becomes(credential, State.CREDIT)
    assert place.ask("/live", credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_a_stream_that_never_began_is_a_credit_for_a_grpc_client_too(place: Place) -> None:
    place.moods(moody.Resets())
    credential = place.sign("/live")

    answer = place.ask("/live", credential=credential, headers={"content-type": "application/grpc"})

    assert (answer.status_code, answer.headers["grpc-status"]) == (200, "14")  # Envoy's 503 in gRPC's words
    place.becomes(credential, State.CREDIT)
    assert place.ask("/live", credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


# --- attempts that are used up -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ((500, 500, 500), State.OWED),
        ((404, 404, 404), State.LAPSED),
        ((404, 422, 410), State.LAPSED),
        ((404, 500, 404), State.OWED),
        ((401, 401, 401), State.OWED),
        ((404, 403, 404), State.OWED),
        ((429, 408, 425), State.OWED),
        ((402, 402, 402), State.OWED),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_three_attempts_and_who_is_to_blame(place: Place, statuses: tuple[int, ...], state: State) -> None:
    place.moods(*(moody.Says(status) for status in statuses))
    credential = place.sign()

    answers = [place.ask(credential=credential) for _ in statuses]

    assert [answer.status_code for answer in answers] == [502 if s == 402 else s for s in statuses]
    place.becomes(credential, state)
    # The last answer promises nothing: there is no attempt left.
    assert ["payment-credit" in answer.headers for answer in answers] == [True, True, False]
    again = place.ask(credential=credential)
    assert (again.status_code, "www-authenticate" in again.headers) == (403, False)
    assert (place.paid(), len(place.hits)) == (PRICE, 3)


# --- clients that hang up ------------------------------------------------------------------------------


def connect(place: Place) -> socket.socket:
    url = httpx.URL(place.shop.gateway.url)
    return socket.create_connection((url.host, url.port or 80), timeout=30)


def head(place: Place, path: str, credential: str, method: str = "GET", *lines: str) -> bytes:
    request = [f"{method} /{place.name}{path} HTTP/1.1", "host: 127.0.0.1", f"authorization: {credential}", *lines]
    return "\r\n".join([*request, "", ""]).encode()


def read_until(sock: socket.socket, end: bytes) -> bytes:
    seen = b""
    while end not in seen:
        part = sock.recv(65536)
        assert part, f"the connection ended after {seen[:500]!r}"
        seen += part
    return seen


def hang_up_before_the_answer(place: Place, credential: str) -> None:
    before = len(place.hits)
    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential))
        places.until(lambda: len(place.hits) > before)


def test_a_client_that_hangs_up_before_the_headers_has_a_credit(place: Place) -> None:
    place.moods(moody.Silent())
    credential = place.sign()

    hang_up_before_the_answer(place, credential)

    row = place.becomes(credential, State.CREDIT)
    assert row.faults == 0
    assert place.ask(credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_a_client_that_hangs_up_every_time_lets_its_payment_lapse(place: Place) -> None:
    place.moods(moody.Silent(), moody.Silent(), moody.Silent())
    credential = place.sign()

    for _ in range(3):
        hang_up_before_the_answer(place, credential)
        places.until(lambda: (row := place.payment(credential)) and row.state is not State.DELIVERING)

    place.becomes(credential, State.LAPSED)
    assert place.ask(credential=credential).status_code == 403
    assert (place.paid(), len(place.hits)) == (PRICE, 3)


def test_hanging_up_at_any_moment_costs_one_payment_and_never_the_answer(place: Place) -> None:
    """From before the Check to after the answer: while it settles, while the upstream works."""
    calls = [(f"/thing?call={number}", place.sign(f"/thing?call={number}")) for number in range(16)]
    for number, (path, credential) in enumerate(calls):
        with connect(place) as sock:
            sock.sendall(head(place, path, credential))
            places.passed(time.monotonic(), number * 0.004)

    # 409 until the lease ends (13 s here) where Envoy forgot the call just when authz let it through.
    statuses = [place.insist(credential, 409, path, limit=20).status_code for path, credential in calls]

    assert statuses[0] == 200
    assert set(statuses) <= {200, 403}  # 403: its answer was on its way when the client hung up
    for path, credential in calls:
        place.becomes(credential, State.DELIVERED)
        again = place.ask(path, credential=credential)
        assert (again.status_code, "www-authenticate" in again.headers) == (403, False)
    assert place.paid() == len(calls) * PRICE


@pytest.mark.parametrize(
    ("path", "mood"), [("/thing", moody.Breaks), ("/live", moody.Streams)], ids=["ordinary", "streaming"]
)
def test_a_client_that_hangs_up_after_the_headers_was_served(
    place: Place, path: str, mood: type[moody.Breaks] | type[moody.Streams]
) -> None:
    gate = moody.Gate()
    place.moods(mood(gate))
    credential = place.sign(path)

    with connect(place) as sock:
        sock.sendall(head(place, path, credential))
        read_until(sock, b"\r\n\r\n")

    place.becomes(credential, State.DELIVERED)
    gate.open()
    assert place.ask(path, credential=credential).status_code == 403
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


# --- slow clients --------------------------------------------------------------------------------------


def test_a_slow_upload_is_one_delivery(place: Place) -> None:
    credential = place.sign(method="POST")
    began = time.monotonic()

    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential, "POST", "content-length: 8"))
        for number in range(8):
            sock.sendall(b"%d" % number)
            places.passed(began, 0.28 * (number + 1))
        answer = read_until(sock, b"}")

    assert time.monotonic() - began > REQUEST_LIMIT
    assert answer.startswith(b"HTTP/1.1 200")
    place.becomes(credential, State.DELIVERED)
    assert place.ask(method="POST", credential=credential).status_code == 403
    assert [hit.body for hit in place.hits] == [b"01234567"]
    assert (place.paid(), place.begun) == (PRICE, 1)


@pytest.mark.row("C26", "C35")
def test_a_second_presentation_while_the_first_uploads_waits_and_is_refused(place: Place) -> None:
    credential = place.sign(method="POST")

    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential, "POST", "content-length: 4") + b"ab")
        places.until(lambda: place.begun == 1)
        second = place.ask(method="POST", content=b"abcd", credential=credential)
        sock.sendall(b"cd")
        first = read_until(sock, b"}")

    assert (first[:12], second.status_code) == (b"HTTP/1.1 200", 409)
    assert ("retry-after" in second.headers, "www-authenticate" in second.headers) == (True, False)
    place.becomes(credential, State.DELIVERED)
    assert (place.paid(), place.begun) == (PRICE, 1)


def test_an_upload_that_breaks_off_is_a_credit_of_the_payers_own_making(place: Place) -> None:
    credential = place.sign(method="POST")

    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential, "POST", "content-length: 8") + b"half")
        places.until(lambda: place.begun == 1)

    assert place.becomes(credential, State.CREDIT).faults == 0
    assert place.ask(method="POST", content=b"whole", credential=credential).status_code == 200
    assert (place.paid(), [hit.body for hit in place.hits]) == (PRICE, [b"whole"])


def test_a_slow_reader_whose_upstream_has_finished_is_served_once(place: Place) -> None:
    size = 100_000
    place.moods(moody.Pours(size))
    credential = place.sign()

    with connect(place) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.sendall(head(place, "/thing", credential))
        began = time.monotonic()
        start, _, body = read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        places.passed(began, REQUEST_LIMIT + 0.3)
        while len(body) < size and (part := sock.recv(1 << 20)):
            body += part

    assert (start[:12], len(body)) == (b"HTTP/1.1 200", size)
    assert place.becomes(credential, State.DELIVERED).attempt == 1
    assert place.ask(credential=credential).status_code == 403
    assert (place.paid(), len(place.hits)) == (PRICE, 1)


def test_a_reader_too_slow_for_the_request_limit_has_a_credit(place: Place) -> None:
    credential = place.sign()
    place.moods(moody.Pours(100_000_000))

    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential))
        read_until(sock, b"\r\n\r\n")
        row = place.becomes(credential, State.CREDIT)

    assert (row.last_status, row.last_flags) == (200, "UT")
    assert place.ask(credential=credential).status_code == 200
    assert (place.paid(), len(place.hits)) == (PRICE, 2)


def test_an_upload_beyond_its_limits_is_cut_and_nothing_is_lost(place: Place) -> None:
    credential = place.sign(method="POST")
    began = time.monotonic()

    with connect(place) as sock:
        sock.sendall(head(place, "/thing", credential, "POST", "content-length: 8") + b"half")
        answer = read_until(sock, b"\r\n\r\n")

    assert answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 504"))
    assert 2.5 < time.monotonic() - began < 15
    place.becomes(credential, State.CREDIT)
    assert place.ask(method="POST", content=b"whole", credential=credential).status_code == 200
    assert (place.paid(), [hit.body for hit in place.hits]) == (PRICE, [b"whole"])
