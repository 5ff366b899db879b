"""What `mpp-gateway pay` says to a person, with a real server and a real terminal."""

import http.server
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator

import gateway_process
import pytest


class Shop(http.server.BaseHTTPRequestHandler):
    """Knows nothing, and says so without a newline."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"nothing")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pay(url: str, stdout: int) -> tuple[int, str]:
    """Exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "mpp_operator.cli", "pay", url],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60,
        env=gateway_process.clean_environ({"MPP_PRIVATE_KEY": "0x" + "01" * 32, "PYTHONSAFEPATH": "1"}),
    )  # fmt: skip
    return done.returncode, done.stderr


def test_https_where_only_http_is_spoken_is_told_from_a_server_that_is_down(address: str) -> None:
    code, said = pay(f"https://{address}/", subprocess.DEVNULL)

    assert code == 3
    assert "does it speak http://" in said
    assert "is it running" not in said


def test_an_answer_without_a_newline_ends_its_line_on_a_terminal(address: str) -> None:
    terminal, ours = pty.openpty()

    code, said = pay(f"http://{address}/", ours)

    os.close(ours)
    assert code == 1
    assert os.read(terminal, 100) == b"nothing\r\n"
    assert said == "pay: the server answers 404 and asks for no payment\n"
    os.close(terminal)


def test_an_answer_is_piped_as_it_is(address: str) -> None:
    read, write = os.pipe()

    pay(f"http://{address}/", write)

    os.close(write)
    assert os.read(read, 100) == b"nothing"
    os.close(read)
