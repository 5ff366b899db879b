"""The double layer that announces moments inside an authz process to the harness, and waits there for its word.

Python imports a module of this name at its start when its folder is on PYTHONPATH; `mpp-gateway run` hands that on
to its children. In every process but authz, and where no harness is named, it does nothing. The product knows
nothing of it: the seams it wraps are those that its own tests use.

PYTHON_FAULTS_SOCKET: the harness's unix socket. PYTHON_FAULTS_REPLICA: which gateway this is.
PYTHON_FAULTS_MUTANT: a rule to switch off (see mutants.py, which PYTHON_FAULTS_MUTANTS names).
PYTHON_FAULTS_SKEW: seconds by which this process's own clock is wrong. The names begin with PYTHON because only
such reach the children of `run`.
"""

import asyncio
import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

_SOCKET = os.environ.get("PYTHON_FAULTS_SOCKET", "")
#: Seconds; the product's own is nine tenths of the settleWait that it has unless told, and so is this of ours.
_CONFIRMATION = 2.7
_REPLICA = os.environ.get("PYTHON_FAULTS_REPLICA", "")


async def _at(point: str, **facts: Any) -> None:
    """Tell the harness, and go on when it says so. Where there is no harness any more, nothing is waited for."""
    try:
        reader, writer = await asyncio.open_unix_connection(_SOCKET)
    except OSError:
        return
    try:
        moment = {"point": point, "replica": int(_REPLICA or 0), "pid": os.getpid(), **facts}
        writer.write(json.dumps(moment).encode() + b"\n")
        await reader.readline()
    except OSError:
        pass
    finally:
        writer.close()


def _around(
    owner: Any, name: str, point: str, facts: Callable[..., dict[str, Any]] = lambda *_args, **_kwargs: {}
) -> None:
    """Announce `<point>.before` and `<point>.after` of one asynchronous method of a class."""
    inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(inner)
    async def outer(*args: Any, **kwargs: Any) -> Any:
        about = facts(*args, **kwargs)
        await _at(f"{point}.before", **about)
        result = await inner(*args, **kwargs)
        await _at(f"{point}.after", **about)
        return result

    setattr(owner, name, outer)


class _Ledger:
    """The store, with its writes announced by what they mean."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def insert(self, payment: Any) -> Any:
        return await self._announced("settling", payment.id, self._inner.insert(payment))

    async def replace(self, old: Any, new: Any, *, also: Any = None) -> Any:
        what = _meaning(old, new, also)
        return await self._announced(what, old.id, self._inner.replace(old, new, also=also))

    async def _announced(self, what: str, payment: str, write: Awaitable[Any]) -> Any:
        if not what:
            return await write
        try:
            await _at(f"ledger.{what}.before", payment=payment)
        except BaseException:
            write.close()  # type: ignore[attr-defined] # a coroutine that nobody will await
            raise
        result = await write
        await _at(f"ledger.{what}.after", payment=payment)
        return result


def _meaning(old: Any, new: Any, also: Any) -> str:
    """What a row's change is called in points.py; empty where nothing strikes."""
    before, after = str(old.state), str(new.state)
    if also is not None:
        return "spent"
    if after == "SETTLING":
        return "envelope" if before == "SETTLING" and new.envelope and not old.envelope else "settling"
    if before in ("SETTLING", "UNKNOWN"):
        return {"CREDIT": "settled", "UNKNOWN": "unknown"}.get(after, "")
    if after == "DELIVERING":
        return "delivering" if before == "CREDIT" else ""
    if after == "DELIVERED":
        return "delivered" if before != "DELIVERED" else ""
    return "credit" if before == "DELIVERING" else ""


def _install() -> None:
    from mpp_authz import closing, outcomes, service, sweeping
    from mpp_authz.ledger import stores
    from mpp_authz.methods import tempo

    open_ledger = stores.open_ledger

    @functools.wraps(open_ledger)
    async def opened(*args: Any, **kwargs: Any) -> Any:
        await _at("authz.starting")
        return _Ledger(await open_ledger(*args, **kwargs))

    stores.open_ledger = opened

    def challenge(_method: Any, _credential: Any, quote: Any, *_rest: Any) -> dict[str, Any]:
        return {"payment": quote.challenge.id}

    made = tempo.Tempo.__init__

    @functools.wraps(made)
    def scaled(self: Any, *args: Any, **kwargs: Any) -> None:
        # The one time that gateway.yaml does not scale: a send without an answer is given up after it.
        made(self, *args, **kwargs | {"confirmation_timeout": _CONFIRMATION})

    tempo.Tempo.__init__ = scaled  # type: ignore[method-assign]
    _around(tempo.Tempo, "verify", "verify", challenge)
    _around(tempo.Tempo, "settle", "settle", challenge)
    _around(tempo.Tempo, "lookup", "lookup", lambda _method, reference, *_rest: {"reference": reference})
    _around(tempo.Tempo, "resend", "resend")
    _around(closing.Closer, "read", "outcomes.read")

    check = service.Authorization.Check

    @functools.wraps(check)
    async def checked(self: Any, message: Any, context: Any) -> Any:
        http = message.attributes.request.http
        if "authorization" not in http.headers and "payment-authorization" not in http.headers:
            return await check(self, message, context)
        await _at("check.received", target=http.path)
        answer = await check(self, message, context)
        await _at("check.answering", target=http.path)
        return answer

    service.Authorization.Check = checked  # type: ignore[method-assign]

    record = outcomes.AccessLog._record

    @functools.wraps(record)
    async def recorded(self: Any, logged: Any) -> None:
        entry = outcomes.read(logged)
        if entry is not None and entry.ended:
            await _at("outcome.arrived", payment=entry.payment)
        await record(self, logged)

    outcomes.AccessLog._record = recorded  # type: ignore[method-assign]

    sweep = sweeping.Sweeper.round

    @functools.wraps(sweep)
    async def swept(self: Any) -> None:
        await _at("sweep.round")
        await sweep(self)

    sweeping.Sweeper.round = swept  # type: ignore[method-assign]


def _skew(seconds: float) -> None:
    """This process reads a clock that is wrong; the store and the chain have right ones."""
    seconds_now, nanoseconds_now = time.time, time.time_ns
    time.time = lambda: seconds_now() + seconds
    time.time_ns = lambda: nanoseconds_now() + round(seconds * 1_000_000_000)


def _mutate(name: str) -> None:
    """Switch one rule off."""
    found = importlib.util.spec_from_file_location("fault_mutants", os.environ["PYTHON_FAULTS_MUTANTS"])
    assert found is not None
    assert found.loader is not None
    mutants = importlib.util.module_from_spec(found)
    sys.modules[found.name] = mutants
    found.loader.exec_module(mutants)
    mutants.install(name)


def _hasten() -> None:
    """Whoever keeps authz and Envoy starts them again sooner: in a batch they die every few seconds, and its
    pauses are made for those that die by themselves."""
    from mpp_operator import processes

    vars(processes).update(HEALTHY_AFTER=0.5, BACK_OFF=(0.0, 0.2, 0.5))


def _begin() -> None:
    authz, kept = "authz" in sys.orig_argv, "run" in sys.orig_argv
    if authz:
        _install()
        if os.environ.get("PYTHON_FAULTS_SKEW"):
            _skew(float(os.environ["PYTHON_FAULTS_SKEW"]))
    if kept:
        _hasten()
    if (authz or kept) and os.environ.get("PYTHON_FAULTS_MUTANT"):
        _mutate(os.environ["PYTHON_FAULTS_MUTANT"])


if _SOCKET and "mpp_operator.cli" in sys.orig_argv:
    try:
        _begin()
    except BaseException as error:
        # Python only mentions what a sitecustomize raises; a process without its double would hide every point.
        sys.stderr.write(f"the double of fault runs: {type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(70)
