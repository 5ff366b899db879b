"""The hostile requests of tests/hostile, sent to mppx's proxy or to our gateway: what each lets through.

    .venv/bin/python bench/hostile.py mppx --json bench/results/hostile-mppx.json
    .venv/bin/python bench/hostile.py gateway --json bench/results/hostile-gateway.json

Needs Node.js and nginx, and npm once. Takes some minutes. Only the HTTP/1 cases that do not pay, without those
that need several hosts: mppx's proxy has neither HTTP/2 nor hosts. Its routes say the same as our services, in the
same order; a nested basePath is a pattern there (bench/js/hostile.mjs).

An unpaid hit: the upstream read a request as a paid resource, and nobody paid. A wrong charge: 402 for a resource
that is free by the letter. A failure: a 5xx, no answer in five seconds, or a process that was gone.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests" / folder) for folder in ("hostile", "support")]

import hostile_cases  # noqa: E402 - the folders of the test support come first
import hostile_targets  # noqa: E402
import hostile_upstreams  # noqa: E402
import hostile_wire  # noqa: E402

KINDS: Final = ("unpaid hit", "wrong charge", "failure")
CASES: Final = tuple(case for case in hostile_cases.ALL if case.needs != "hosts")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case came to that it should not have."""

    upstream: str
    family: str
    case: str
    kind: str
    seen: str


@contextlib.contextmanager
def mppx(upstream: hostile_upstreams.Upstream) -> Iterator[hostile_targets.Target]:
    folder = HERE / "js"
    if not (folder / "node_modules" / "mppx").exists():
        install = ["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps", "--no-package-lock"]
        subprocess.run(install, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    argv = ["node", "hostile.mjs", f"http://127.0.0.1:{upstream.port}"]
    with subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout is not None
            yield hostile_targets.Target(
                int(child.stdout.readline()), upstream, (child.pid,), limit=4.0, quiet=0.05
            )
        finally:
            child.kill()


def found(target: hostile_targets.Target, case: hostile_cases.Case) -> Iterator[tuple[str, str]]:
    """What went wrong, by kind. The target is left as it was, or is gone."""
    try:
        outcome = target.send(case)
    except hostile_wire.Unanswered:
        yield "failure", "no answer"
        for hit in target.settled():
            if hit.paid:
                yield "unpaid hit", f"{hit.method} {hit.target}"
        return
    for hit in outcome.paid_hits:
        yield "unpaid hit", f"{hit.method} {hit.target}"
    if case.asks == "free" and 402 in outcome.statuses:
        yield "wrong charge", "402"
    for status in outcome.statuses:
        if status >= 500:
            yield "failure", str(status)


def run(system: str, kind: str, place: Path) -> Iterator[Finding]:
    """All cases in front of one upstream; a target that dies is started anew."""
    cases = iter(CASES)
    case: hostile_cases.Case | None = next(cases)
    with hostile_upstreams.running(kind, place / "upstream") as upstream:
        for number in range(20):
            begun = mppx(upstream) if system == "mppx" else hostile_targets.gateway(upstream, place / f"{number}")
            with begun as target:
                target.settled()
                while case is not None:
                    try:
                        yield from (Finding(kind, case.family, case.name, *each) for each in found(target, case))
                    except (AssertionError, OSError) as error:
                        yield Finding(kind, case.family, case.name, "failure", f"gone after it: {error}"[:200])
                        case = next(cases, None)
                        break
                    case = next(cases, None)
            if case is None:
                return
    raise SystemExit(f"{kind}: started 20 times, and it was gone each time")


def versions() -> dict[str, str]:
    package = json.loads((HERE / "js" / "package.json").read_text())["dependencies"]
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"mppx": package["mppx"], "node": node}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["mppx", "gateway"])
    parser.add_argument("--upstream", action="append", choices=hostile_upstreams.KINDS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    begun = time.monotonic()
    findings: list[Finding] = []
    upstreams = arguments.upstream or hostile_upstreams.KINDS
    for kind in upstreams:
        with tempfile.TemporaryDirectory(prefix="mpp-hostile-") as place:
            findings += run(arguments.system, kind, Path(place))
    print(f"{arguments.system}: {len(CASES)} cases in front of each of {', '.join(upstreams)}")
    counted = Counter((finding.kind, finding.upstream, finding.family) for finding in dict.fromkeys(findings))
    for name in KINDS:
        for kind in upstreams:
            cases = {finding.case for finding in findings if (finding.kind, finding.upstream) == (name, kind)}
            by = [
                f"{family} {count}" for (n, k, family), count in sorted(counted.items()) if (n, k) == (name, kind)
            ]
            print(f"{name}, {kind}: {len(cases)} cases" + (f" ({'; '.join(by)})" if by else ""))
    print(f"{time.monotonic() - begun:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report(arguments.system, upstreams, findings), indent=1) + os.linesep)


def report(system: str, upstreams: Any, findings: list[Finding]) -> dict[str, Any]:
    return {
        "system": system,
        "versions": versions(),
        "cases": len(CASES),
        "upstreams": list(upstreams),
        "findings": [
            [finding.kind, finding.upstream, finding.family, finding.case, finding.seen] for finding in findings
        ],
    }


if __name__ == "__main__":
    main()
