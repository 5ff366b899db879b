"""What a price costs: this gateway, Envoy alone and mppx's proxy on the same cores, in one run.

    .venv/bin/python bench/one_machine.py [--rounds 3] [--seconds 5] [--json FILE]

Needs `wrk` and Node. Systems take turns in every round; figures are medians, and ratios are formed within a round,
so that a machine whose speed drifts does not decide. CPU time is the kernel's, per process.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpp_operator import bootstrap, compiler, directory, envoy, gateway, paidservice

HERE = Path(__file__).parent
KEYS = json.dumps({"version": 1, "challengeKeys": ["bench-secret-of-at-least-32-bytes!!"], "feePayers": {}})
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 32


@dataclass(frozen=True)
class Load:
    """One run of wrk."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]  # CPU microseconds a request, by process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service(name: str, upstream: str, routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "mpp-gateway.dev/v1alpha1",
        "kind": "PaidService",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {
            "upstream": {"url": upstream},
            "payment": {
                "offers": [
                    {
                        "method": "tempo",
                        "network": "moderato",
                        "currency": "pathUSD",
                        "recipient": "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00",
                    }
                ]
            },
            "routes": routes,
        },
    }


@contextlib.contextmanager
def process(argv: list[str], cwd: Path, ready: Any, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        child = subprocess.Popen(argv, cwd=cwd, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 60
            while not ready():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{argv[0]} did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.02)
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def answers(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def cpu(child: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(child: subprocess.Popen[bytes]) -> float:
    text = Path(f"/proc/{child.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def wrk(url: str, seconds: int, connections: int, children: dict[str, subprocess.Popen[bytes]]) -> Load:
    before, begun = {name: cpu(child) for name, child in children.items()}, time.monotonic()
    text = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    took = time.monotonic() - begun
    rps = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]

    def latency(mark: str) -> float:
        value, unit = re.search(rf"{mark}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]

    spent = {name: (cpu(child) - before[name]) / (rps * took) * 1e6 for name, child in children.items()}
    return Load(rps, latency("50"), latency("99"), spent)


def alone(document: str) -> str:
    """The same bootstrap with the router as its only filter: what Envoy does without us."""
    parsed = json.loads(document)
    manager = parsed["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = manager["http_filters"][-1:]
    del manager["early_header_mutation_extensions"]
    return json.dumps(parsed)


def strip_filters(rds: str) -> str:
    """The same routes without per-filter settings, which name filters that are not there."""
    parsed = json.loads(rds)

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            value.pop("typed_per_filter_config", None)
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(parsed)
    return json.dumps(parsed)


def compiled(documents: list[dict[str, Any]]) -> dict[str, str]:
    config = gateway.parse({})
    services = [paidservice.parse(document) for document in documents]
    return dict(compiler.compile(services, config).artifacts)


@contextlib.contextmanager
def our_gateway(
    home: Path, artifacts: dict[str, str], only_router: bool = False
) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]]]]:
    """Envoy with our bootstrap and, unless it is alone, one authz process."""
    home.mkdir()
    port, http = free_port(), free_port()
    (home / "outcomes").mkdir()
    settings = bootstrap.BootstrapSettings("bench", port=port, outcomes_file="outcomes/bench.log")
    text = bootstrap.render(settings)
    if only_router:
        text = alone(text)
        artifacts = artifacts | {"rds.json": strip_filters(artifacts["rds.json"])}
    (home / "envoy.json").write_text(text)
    directory.publish(home / "config", artifacts)
    directory.publish(home / "secrets", {"authz.json": KEYS}, mode=0o600)
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        children = {}
        if not only_router:
            argv = [
                sys.executable,
                "-c",
                "import sys; from mpp_authz import server; sys.exit(server.main(sys.argv[1:]))",
            ]
            argv += ["--config-dir", "config", "--secrets-dir", "secrets", "--socket", "authz.sock"]
            argv += ["--ledger", "sqlite:ledger.db", "--outcomes-dir", "outcomes", "--http", f"127.0.0.1:{http}"]
            argv += ["--log-level", "warning"]
            children["authz"] = stack.enter_context(
                process(argv, home, lambda: answers(f"http://127.0.0.1:{http}/readyz") == 200, home / "authz.txt")
            )
        children["envoy"] = stack.enter_context(
            process(
                list(envoy.argv("envoy.json", concurrency=1)),
                home,
                lambda: answers(f"{url}/svc/free") == 200,
                home / "envoy.txt",
            )
        )
        yield url, children


@contextlib.contextmanager
def upstream(home: Path) -> Iterator[str]:
    """Envoy answering 100 bytes by itself: the cheapest upstream there is."""
    home.mkdir()
    port = free_port()
    filters = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "up",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "up",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": "x" * 100}},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "up",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    (home / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    url = f"http://127.0.0.1:{port}"
    with process(
        list(envoy.argv("envoy.json", concurrency=1)), home, lambda: answers(url) == 200, home / "envoy.txt"
    ):
        yield url


@contextlib.contextmanager
def mppx_proxy(home: Path, up: str) -> Iterator[tuple[str, dict[str, subprocess.Popen[bytes]]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = HERE / "js"
    if not (folder / "node_modules" / "mppx").exists():
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps", "--no-package-lock"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    argv = ["node", "proxy.mjs", up, str(port)]
    with process(argv, folder, lambda: answers(f"{url}/svc/free") == 200, home / "mppx.txt") as child:
        yield url, {"mppx": child}


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mpp-bench-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        up = stack.enter_context(upstream(home / "up"))
        routes = [
            {"match": {"method": "GET", "path": "/free"}, "free": True},
            {"match": {"method": "GET", "path": "/paid"}, "price": {"amount": "0.01"}},
        ]
        artifacts = compiled([service("svc", up, routes)])
        ours, our_children = stack.enter_context(our_gateway(home / "ours", artifacts))
        plain, plain_children = stack.enter_context(our_gateway(home / "alone", artifacts, only_router=True))
        mppx, mppx_children = stack.enter_context(mppx_proxy(home, up))
        runs: dict[str, list[Load]] = {}

        def run(name: str, url: str, children: dict[str, subprocess.Popen[bytes]], connections: int) -> None:
            runs.setdefault(name, []).append(wrk(url, seconds, connections, children))

        for turn in range(rounds + 1):
            run("free ours", f"{ours}/svc/free", our_children, CONNECTIONS)
            run("free envoy", f"{plain}/svc/free", plain_children, CONNECTIONS)
            run("free mppx", f"{mppx}/svc/free", mppx_children, CONNECTIONS)
            run("402 ours", f"{ours}/svc/paid", our_children, CONNECTIONS)
            run("402 mppx", f"{mppx}/svc/paid", mppx_children, CONNECTIONS)
            run("402 ours, one caller", f"{ours}/svc/paid", our_children, 1)
            run("free ours, one caller", f"{ours}/svc/free", our_children, 1)
            if turn == 0:
                runs.clear()  # a warm-up
            print(f"round {turn} of {rounds}", file=sys.stderr)
        result: dict[str, Any] = {"rows": {name: _median(loads) for name, loads in runs.items()}}
        result["ratios"] = {
            "free/envoy": _ratio(runs, "free ours", "free envoy"),
            "free/mppx": _ratio(runs, "free ours", "free mppx"),
            "402/mppx": _ratio(runs, "402 ours", "402 mppx"),
        }
        row = result["rows"]["402 ours"]
        result["402s a second and authz core"] = round(1e6 / row["cpu_us"]["authz"])
        result["mppx 402s a second and core"] = round(1e6 / result["rows"]["402 mppx"]["cpu_us"]["mppx"])
        result["added by a Check, p50 ms"] = round(
            result["rows"]["402 ours, one caller"]["p50_ms"] - result["rows"]["free ours, one caller"]["p50_ms"], 2
        )
        result["memory MB, 2 routes"] = {name: round(rss_mb(child)) for name, child in our_children.items()}
    result["10,000 routes"] = many_routes(seconds)
    return result


def many_routes(seconds: int) -> dict[str, Any]:
    """1,000 services of 10 routes over 10 upstreams: memory, and the last route against the first."""
    with tempfile.TemporaryDirectory(prefix="mpp-bench-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        up = stack.enter_context(upstream(home / "up"))
        first = service("svc", up, [{"match": {"method": "GET", "path": "/free"}, "free": True}])
        others = [
            service(
                f"svc-{at:04}",
                f"{up}/v{at % 10}" if at % 10 else up,
                [{"match": {"method": "GET", "path": f"/r{n}"}, "free": True} for n in range(5)]
                + [{"match": {"method": "GET", "path": f"/p{n}"}, "price": {"amount": "0.01"}} for n in range(5)],
            )
            for at in range(1000)
        ]
        for at, document in enumerate(others):
            document["spec"]["upstream"]["limits"] = {"connections": 100 + at % 10}
        begun = time.monotonic()
        artifacts = compiled([first, *others])
        took = time.monotonic() - begun
        ours, children = stack.enter_context(our_gateway(home / "ours", artifacts))
        loads: dict[str, list[Load]] = {"first": [], "last": []}
        for _ in range(3):
            loads["first"].append(wrk(f"{ours}/svc-0000/r0", seconds, CONNECTIONS, children))
            loads["last"].append(wrk(f"{ours}/svc-0999/r4", seconds, CONNECTIONS, children))
        return {
            "compile seconds": round(took, 2),
            "memory MB": {name: round(rss_mb(child)) for name, child in children.items()},
            "last route / first route": _ratio(loads, "last", "first"),
        }


def _median(loads: list[Load]) -> dict[str, Any]:
    return {
        "rps": round(statistics.median(load.rps for load in loads)),
        "p50_ms": round(statistics.median(load.p50_ms for load in loads), 2),
        "p99_ms": round(statistics.median(load.p99_ms for load in loads), 2),
        "cpu_us": {
            name: round(statistics.median(load.cpu_us[name] for load in loads)) for name in loads[0].cpu_us
        },
    }


def _ratio(runs: dict[str, list[Load]], ours: str, theirs: str) -> dict[str, float]:
    each = [a.rps / b.rps for a, b in zip(runs[ours], runs[theirs], strict=True)]
    return {
        "median": round(statistics.median(each), 2),
        "min": round(min(each), 2),
        "max": round(max(each), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for tool, fix in (("wrk", "install your system's wrk package"), ("node", "install Node 20 or newer")):
        if shutil.which(tool) is None:
            print(f"bench: expected {tool}, found none; {fix}", file=sys.stderr)
            return 3
    result = measure(options.rounds, options.seconds)
    print(json.dumps(result, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
