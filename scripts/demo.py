"""What scripts/demo shows: an API without payments, a price on it, and one paid request from 402 to the ledger."""

import argparse
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "mpp_operator.cli")

#: What ends the demo: ^C, `kill`, a terminal that is closed.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the payment")
    options = parser.parse_args()
    for number in STOPS:  # ^C as well: a script's shell starts what it puts in the background with it ignored
        signal.signal(number, stop)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpp-demo-")))
        try:
            return show(stack, folder, once=options.once)
        except KeyboardInterrupt:
            say("\nstopping")
            return 0


def stop(*_: object) -> None:
    """The first signal stops what was started; a second one must not cut that short."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def show(stack: contextlib.ExitStack, folder: Path, *, once: bool) -> int:
    """Start everything, buy one quote, and wait to be stopped unless `once`."""
    say("1. An API that knows nothing of payments: examples/sample_api.py")
    api = stack.enter_context(started([sys.executable, str(ROOT / "examples/sample_api.py"), "--port", "0"]))
    api_url = first_line(api, "the sample API").strip()
    say(f"   {api_url}/v1/quotes/ACME -> {fetch(f'{api_url}/v1/quotes/ACME')[2].strip()}")

    say("\n2. A price on it: examples/demo.yaml, a local chain, `mpp-gateway run --sandbox`")
    service = folder / "demo.yaml"
    service.write_text((ROOT / "examples/demo.yaml").read_text().replace("http://127.0.0.1:4499", api_url))
    state = folder / "state"
    log = stack.enter_context((folder / "gateway.log").open("w+"))
    gateway = stack.enter_context(
        started(
            [*COMMAND, "run", "-f", str(service), "--sandbox", "--json", "--port", os.environ.get("PORT", "0"),
             "--state-dir", str(state)],
            log,
        )
    )  # fmt: skip
    line = gateway.stdout.readline() if gateway.stdout else ""
    if not line:
        log.seek(0)
        say(log.read())
        return gateway.wait() or 3
    ready = json.loads(line)
    for route in ready["services"][0]["routes"]:
        say(f"   {route['methods'][0]:4} {route['url']}  {' or '.join(route['price'] or ['free'])}")

    url = f"{ready['services'][0]['url']}/v1/quotes/ACME"
    say(f"\n3. Without paying: GET {url}")
    status, headers, body = fetch(url)
    say(f"   {status} {json.loads(body)['title']}")
    challenge = re.search(r'request="([^"]+)"', headers["www-authenticate"])
    say(f"   asked for: {json.dumps(decoded(challenge[1] if challenge else ''))}")

    environ = {"MPP_PRIVATE_KEY": ready["sandbox"]["buyerKey"], "MPP_RPC_URL": ready["sandbox"]["rpcUrl"]}
    say("\n4. Paying: mpp-gateway pay, with the sandbox's buyer")
    paid = subprocess.run(
        [*COMMAND, "pay", url], env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    for text in (paid.stdout + paid.stderr).splitlines():
        say(f"   {text}")
    if paid.returncode:
        return paid.returncode

    say("\n5. The ledger: mpp-gateway payments")
    listed = subprocess.run(
        [*COMMAND, "payments", "--state-dir", str(state)], capture_output=True, text=True, check=False
    )
    for text in (listed.stdout + listed.stderr).splitlines():
        say(f"   {text}")
    if once:
        return listed.returncode

    say("\nIt goes on serving; ^C stops it. In another terminal, for example:")
    settings = " ".join(f"{name}={value}" for name, value in environ.items())
    say(f"   curl -i {url}")
    say(f"   {settings} .venv/bin/mpp-gateway pay {url}")
    say(f"   .venv/bin/mpp-gateway payments --state-dir {state}")
    say(f"   edit {service}: a new price is asked at once")
    return gateway.wait()


@contextlib.contextmanager
def started(command: list[str], stderr: IO[str] | int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A process that is stopped at the end. A session of its own: ^C is for us, and we stop it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def first_line(process: subprocess.Popen[str], what: str) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"{what} did not start (exit code {process.wait()})")
    return line


def fetch(url: str) -> tuple[int, Mapping[str, str], str]:
    """Status, headers (names in lower case) and body; a status is not an error here."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(url, timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, headers, answer.read().decode()


def decoded(text: str) -> Any:
    """base64url of JSON, as the Payment scheme writes it."""
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be closed
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
