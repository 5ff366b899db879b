"""What the cases are sent to: our gateway in front of one of the upstreams, or another proxy."""

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cheap_wallet
import gateway_process
import hostile_cases
import hostile_upstreams
import hostile_wire

#: Base units of every paid route.
PRICE: Final = 5
_PRICED: Final = f'price: {{baseUnits: "{PRICE}"}}'

_SERVICES: Final = """\
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: shop, namespace: shop}}
spec:
  upstream: {{url: "http://127.0.0.1:{port}"}}
  payment:
    offers: [{{method: cheap, network: cheapnet, currency: coin, recipient: "{payee}"}}]
  routes:
    - {{name: thing, match: {{method: GET, path: /thing}}, {priced}}}
    - {{name: report, match: {{method: GET, path: "/users/{{id}}/report"}}, {priced}}}
    - {{name: items, match: {{method: POST, path: /items}}, {priced}}}
    - {{name: list, match: {{method: GET, path: /items}}, free: true}}
    - {{name: job, match: {{path: "/jobs/@me:run"}}, {priced}}}
    - {{name: live, match: {{method: GET, path: /live}}, streaming: true, {priced}}}
    - {{name: vault, match: {{path: /vault/**}}, {priced}}}
    - {{name: rest, match: {{path: /**}}, free: true}}
---
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: strict, namespace: shop}}
spec:
  upstream: {{url: "http://127.0.0.1:{port}"}}
  payment:
    offers: [{{method: cheap, network: cheapnet, currency: coin, recipient: "{payee}"}}]
  routes:
    - {{name: free, match: {{path: /free/**}}, free: true}}
    - {{name: thing, match: {{method: GET, path: /thing}}, {priced}}}
---
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: premium, namespace: shop}}
spec:
  basePath: /shop/premium
  upstream: {{url: "http://127.0.0.1:{port}/premium"}}
  payment:
    offers: [{{method: cheap, network: cheapnet, currency: coin, recipient: "{payee}"}}]
  routes:
    - {{name: all, match: {{path: /**}}, {priced}}}
---
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {{name: root, namespace: shop}}
spec:
  hosts: [root.test]
  basePath: /
  discovery: {{enabled: false}}
  upstream: {{url: "http://127.0.0.1:{port}"}}
  payment:
    offers: [{{method: cheap, network: cheapnet, currency: coin, recipient: "{payee}"}}]
  routes:
    - {{name: thing, match: {{path: /thing}}, {priced}}}
    - {{name: rest, match: {{path: /**}}, free: true}}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case came to: the answers, and what the upstream was asked for."""

    answers: tuple[hostile_wire.Answer, ...]
    hits: tuple[hostile_upstreams.Hit, ...]

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)

    @property
    def paid_hits(self) -> tuple[hostile_upstreams.Hit, ...]:
        return tuple(hit for hit in self.hits if hit.paid)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that listens on `port` in front of `upstream`, made of processes that must not die."""

    port: int
    upstream: hostile_upstreams.Upstream
    pids: tuple[int, ...]
    limit: float = hostile_wire.LIMIT  # seconds for an answer
    quiet: float | None = None  # see `hostile_wire.exchange`

    def send(self, case: hostile_cases.Case) -> Outcome:
        """The case's outcome. That a normal request is still answered is asked right after it."""
        return self.exchange(case.data, waits=case.waits, silent=case.silent, head=case.head)

    def exchange(self, data: bytes, *, waits: bool = False, silent: bool = False, head: bool = False) -> Outcome:
        answers = hostile_wire.exchange(
            self.port, data, waits=waits, silent=silent, head=head, limit=self.limit, quiet=self.quiet
        )
        return Outcome(answers, self.settled())

    def settled(self) -> tuple[hostile_upstreams.Hit, ...]:
        """Hits since the last call. A normal free request is the end of them, and must be served.

        Raises:
            AssertionError: it is not, or a process is gone.
        """
        mark = self.upstream.mark()
        question = hostile_cases.request(f"/shop/free/{mark}")
        (answer,) = hostile_wire.exchange(self.port, question, limit=self.limit, quiet=self.quiet)
        assert answer.status == 200, f"the next normal request: {answer.status}"
        for pid in self.pids:
            os.kill(pid, 0)
        return self.upstream.since(mark)


@contextlib.contextmanager
def gateway(upstream: hostile_upstreams.Upstream, place: Path) -> Iterator[Target]:
    """`mpp-gateway run` with real authz and Envoy, paid by the method `cheap`."""
    place.mkdir(parents=True, exist_ok=True)
    bank = cheap_wallet.bank(place)
    text = _SERVICES.format(port=upstream.port, payee=cheap_wallet.address("payee"), priced=_PRICED)
    running = gateway_process.launch(
        place, {"shop.yaml": text}, config=cheap_wallet.network(bank), environ=cheap_wallet.environ()
    )
    try:
        gateway_process.wait_until_ready(running)
        port = int(running.url.rpartition(":")[2])
        target = Target(port, upstream, (running.process.pid, *_children(running.process.pid)))
        target.settled()
        yield target
    finally:
        running.signal(signal.SIGTERM)
        running.stop()


def _children(pid: int) -> tuple[int, ...]:
    """Of a process, as they are now: authz and Envoy. Asked of /proc, as ps does."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return tuple(int(word) for word in text.split())
