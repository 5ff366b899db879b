"""What counts as delivered. Pure: what Envoy says of a finished request gives an Outcome. Knows no protobuf."""

import json
from dataclasses import dataclass
from typing import Final

from mpp_authz.ledger.transitions import Outcome

#: 4xx that are our key, our quota or our fault, not the payer's request.
_OUR_4XX: Final = frozenset({401, 402, 403, 407, 408, 425, 429})
_DELIVERED_STATUS: Final = frozenset({101, 304})

#: Envoy's response flags (access log, %RESPONSE_FLAGS%).
CLIENT_GONE: Final = frozenset({"DC", "DPE", "DR"})  # downstream: connection end, protocol error, remote reset
UPSTREAM_BROKE: Final = frozenset({"UC", "UR", "UPE", "LR"})  # upstream: connection end, reset, protocol error
CUT_BY_US: Final = frozenset({"UMSDR", "UT", "SI", "DT", "OM", "DO"})  # stream duration, timeouts, overload, drain

#: How the details of a "DC" begin that is Envoy's own doing: it was told to end. Its peer's begin with
#: "downstream_remote_disconnect".
_ENVOY_LEFT: Final = "downstream_local_disconnect"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an access log about a paid request."""

    payment: str
    attempt: int
    status: int  # 0: no response headers went out
    flags: frozenset[str]
    details: str
    upstream_finished: bool  # the upstream's last byte arrived
    upstream_began: bool = True  # its first byte did
    ended: bool = True  # False: a periodic entry of a request that goes on


def judge(entry: Entry, *, streaming: bool) -> Outcome:
    """Whether the answer went out: 2xx, 304 or 101 reached the client and the upstream did not break the body.

    Upstream reset after the headers: undelivered on ordinary routes, delivered on streaming ones. The client
    hangs up after the headers: delivered; before: not. Cut by our own limit after the headers: delivered when
    the upstream had finished. Envoy ended: undelivered, whatever was on its way, as where it dies without a word.
    """
    # Envoy tells gRPC clients of every failure with a 200 of its own: without a byte of the upstream's it is none.
    good = entry.upstream_began and (200 <= entry.status < 300 or entry.status in _DELIVERED_STATUS)
    left = bool(entry.flags & CLIENT_GONE) and not entry.flags & (UPSTREAM_BROKE | CUT_BY_US)
    if entry.details.startswith(_ENVOY_LEFT):
        good = left = False
    if good and not streaming and not entry.upstream_finished and entry.status != 101:
        # Broken by the upstream or cut by us. A client that hung up after the headers had its delivery.
        good = left
    # A client that hung up on a 5xx still got a 5xx: only one that left before any answer is the payer's doing.
    payers = (entry.status == 0 and left) or (400 <= entry.status < 500 and entry.status not in _OUR_4XX)
    return Outcome(
        attempt=entry.attempt,
        delivered=good,
        fault=not good and not payers,
        status=entry.status,
        flags=",".join(sorted(entry.flags)),
    )


def read_line(line: str) -> Entry | None:
    """Read one line of the outcome file (`wire.OUTCOME_FORMAT`). None: not about a payment, or cut short."""
    try:
        document = json.loads(line)
        payment, attempt = document["payment"], int(document["attempt"])
        status = int(document["status"] or 0)
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(payment, str) or payment in ("", "-"):
        return None
    flags = document.get("flags") or "-"
    return Entry(
        payment=payment,
        attempt=attempt,
        status=status,
        flags=frozenset(f for f in str(flags).split(",") if f != "-"),
        details=str(document.get("details") or ""),
        upstream_finished=document.get("finished") not in (None, "-"),
        # Files of Envoys that were started by an older version do not say it.
        upstream_began="began" not in document or document["began"] not in (None, "-"),
    )
