"""The product with one of its rules switched off: what the checker has to find, or it finds nothing.

A test double, loaded by the double layer of `instrument` into the processes of a gateway; the product has no flag
for any of it. `install("credit-for-anyone")` switches a rule off for good; `install("@/path")` switches off
whichever that file names at the moment, or none, so that one gateway shows them all.

Each mutant names the rule that breaks (checker.py) and what it takes to see it. Imports the product only when it
is installed, so that a test can read this list without one.
"""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

Inner = Callable[..., Any]
#: Whether the rule is switched off now.
Off = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule of the product that does not hold. `seen_by`: the case and the fault that show it."""

    name: str
    breaks: str  # of checker.RULES
    seen_by: str
    patch: Callable[[Off], None]
    in_authz: bool = True  # else in the process that writes Envoy's configuration, when it starts


class Unknown(Exception):
    """There is no mutant of that name."""


def install(name: str) -> None:
    """Switch a rule off in this process, or end it: one whose rules are all in force would pass for a mutant.

    Raises:
        Unknown: no rule is called that.
    """
    try:
        _install(name)
    except AttributeError as error:
        # Python only mentions what a sitecustomize raises.
        sys.stderr.write(f"mutant {name}: the product has changed: {error}\n")
        sys.stderr.flush()
        os._exit(70)


def _install(name: str) -> None:
    if name.startswith("@"):
        chosen = Path(name[1:])
        for mutant in MUTANTS:
            if mutant.in_authz:
                mutant.patch(lambda named=mutant.name: _chosen(chosen) == named)  # type: ignore[misc]
        return
    found = [mutant for mutant in MUTANTS if mutant.name == name]
    if not found:
        raise Unknown(f"mutant: expected one of {', '.join(m.name for m in MUTANTS)}, got {name!r}")
    found[0].patch(lambda: True)


def _chosen(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _instead(owner: Any, attribute: str, off: Off, mutated: Callable[[Inner], Inner]) -> None:
    """Put the mutated function where the right one is; an attribute that is not there is an error, so that a
    mutant cannot outlive what it mutates."""
    inner = getattr(owner, attribute)
    outer = mutated(inner)

    @functools.wraps(inner)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (outer if off() else inner)(*args, **kwargs)

    setattr(owner, attribute, either)


# --- I1 ------------------------------------------------------------------------------------------------


def _settled_unsent(off: Off) -> None:
    """The method says that it settled, and sent nothing."""
    from mpp_authz import methods
    from mpp_authz.methods import tempo

    def mutated(inner: Inner) -> Inner:
        async def settle(self: Any, credential: Any, quote: Any, verified: Any, claim: Any) -> Any:
            reference = verified.reference or "0x" + "ab" * 32
            await claim.settling(reference, verified.valid_before)
            return methods.Settled(reference, verified.payer)

        return settle

    _instead(tempo.Tempo, "settle", off, mutated)


def _sold_for_nothing(off: Off) -> None:
    """A request without a payment is let through."""
    from mpp_authz import verdicts
    from mpp_authz.decide import Gate

    def mutated(inner: Inner) -> Inner:
        async def check(self: Any, request: Any) -> Any:
            if request.authorization is not None:
                return await inner(self, request)
            return verdicts.Allow(payment="", attempt=0, request_headers=(), response_headers=())

        return check

    _instead(Gate, "check", off, mutated)


# --- I2 ------------------------------------------------------------------------------------------------


def _undelivered_counts(off: Off) -> None:
    """Whatever became of a request, its payment counts as delivered."""
    from mpp_authz.ledger import transitions

    def mutated(inner: Inner) -> Inner:
        return lambda row, outcome, now: inner(row, replace(outcome, delivered=True), now)

    _instead(transitions, "ended", off, mutated)


def _owed_forgotten(off: Off) -> None:
    """A credit whose attempts are used up is written off instead of owed."""
    from mpp_authz.ledger import State, transitions

    def mutated(inner: Inner) -> Inner:
        return lambda row: replace(row, state=State.DELIVERED, lease_until=0)

    _instead(transitions, "_used_up", off, mutated)


def _credit_runs_out(off: Off) -> None:
    """A credit is thrown away by the first look at the clock."""
    from mpp_authz.ledger import State, transitions

    def mutated(inner: Inner) -> Inner:
        def delivering(row: Any, now: int, *rest: Any, **named: Any) -> Any:
            return None if row.state is State.CREDIT and row.attempt > 0 else inner(row, now, *rest, **named)

        return delivering

    def over(inner: Inner) -> Inner:
        def life_over(row: Any, now: int) -> Any:
            return replace(row, state=State.DELIVERED) if row.state is State.CREDIT and row.attempt > 0 else None

        return life_over

    _instead(transitions, "delivering", off, mutated)
    _instead(transitions, "life_over", off, over)


def _retry_pays_again(off: Off) -> None:
    """A client that signs anew after a failure pays anew: its credit is not found."""
    from mpp_authz.ledger.sqlite import SQLiteLedger

    def mutated(inner: Inner) -> Inner:
        async def unfinished(*_args: Any, **_named: Any) -> tuple[()]:
            return ()

        return unfinished

    _instead(SQLiteLedger, "unfinished", off, mutated)


# --- I3 ------------------------------------------------------------------------------------------------


def _credit_for_anyone(off: Off) -> None:
    """What is owed to one payer is given to any other who asks for the same."""
    from mpp_authz.ledger import State
    from mpp_authz.ledger.sqlite import SQLiteLedger

    def mutated(inner: Inner) -> Inner:
        async def unfinished(self: Any, payer: str, binding: Any, currency: str) -> Any:
            rows = await self.listing(frozenset({State.CREDIT}), 1000)
            return tuple(row for row in rows if row.binding == binding and row.currency == currency)

        return unfinished

    _instead(SQLiteLedger, "unfinished", off, mutated)


def _unproved_payer(off: Off) -> None:
    """A name that nobody checked is believed."""
    from mpp_authz import methods
    from mpp_authz.methods import tempo

    def mutated(inner: Inner) -> Inner:
        async def verify(*args: Any, **named: Any) -> Any:
            verified = await inner(*args, **named)
            return replace(verified, payer_proved=True) if isinstance(verified, methods.Verified) else verified

        return verify

    _instead(tempo.Tempo, "verify", off, mutated)


def _credit_for_anything(off: Off) -> None:
    """A payment opens any request."""
    from mpp_authz import quotes

    for name in ("mismatch", "elsewhere", "foreign"):
        _instead(quotes, name, off, lambda inner: lambda *_args: None)


# --- I4 ------------------------------------------------------------------------------------------------


def _unknown_asks_again(off: Off) -> None:
    """An outcome that nobody knows is answered with a fresh challenge."""
    from mpp_authz import problems
    from mpp_authz.decide import Gate
    from mpp_authz.verdicts import Deny

    def mutated(inner: Inner) -> Inner:
        async def check(self: Any, request: Any) -> Any:
            verdict = await inner(self, request)
            if not isinstance(verdict, Deny) or verdict.kind is not problems.OUTCOME_UNKNOWN:
                return verdict
            return await self.fresh(request, self.terms.route(request.route), problems.VERIFICATION_FAILED, "")

        return check

    _instead(Gate, "check", off, mutated)


def _used_asks_again(off: Off) -> None:
    """A credential that was used is answered with a fresh challenge."""
    from mpp_authz import problems
    from mpp_authz.decide import Gate
    from mpp_authz.verdicts import Deny

    def mutated(inner: Inner) -> Inner:
        async def check(self: Any, request: Any) -> Any:
            verdict = await inner(self, request)
            if not isinstance(verdict, Deny) or verdict.kind is not problems.ALREADY_USED:
                return verdict
            return await self.fresh(request, self.terms.route(request.route), problems.VERIFICATION_FAILED, "")

        return check

    _instead(Gate, "check", off, mutated)


# --- I5 ------------------------------------------------------------------------------------------------


def _everybody_wins(off: Off) -> None:
    """The compare-and-set that begins a delivery says yes to everybody."""
    from mpp_authz.ledger import State
    from mpp_authz.ledger.sqlite import SQLiteLedger

    def mutated(inner: Inner) -> Inner:
        async def replaced(self: Any, old: Any, new: Any, *, also: Any = None) -> bool:
            won: bool = await inner(self, old, new, also=also)
            return won or new.state is State.DELIVERING

        return replaced

    _instead(SQLiteLedger, "replace", off, mutated)


def _delivered_again(off: Off) -> None:
    """What was delivered is read as owed, to whoever presents it."""
    from mpp_authz.ledger import State
    from mpp_authz.ledger.sqlite import SQLiteLedger

    def mutated(inner: Inner) -> Inner:
        async def get(*args: Any, **named: Any) -> Any:
            row = await inner(*args, **named)
            delivered = row is not None and row.state is State.DELIVERED
            return replace(row, state=State.CREDIT) if delivered else row

        return get

    _instead(SQLiteLedger, "get", off, mutated)


def _lease_ended_early(off: Off) -> None:
    """The lease of an Envoy that lives is ended while its answer is on the way."""
    from mpp_authz.ledger import State, transitions

    def mutated(inner: Inner) -> Inner:
        return lambda row, *_rest, **_named: row.state is State.DELIVERING

    _instead(transitions, "may_end", off, mutated)


# --- I6 ------------------------------------------------------------------------------------------------


def _two_receipts(off: Off) -> None:
    """The receipt is there twice."""
    from mpp_authz import service, wire

    def mutated(inner: Inner) -> Inner:
        def write(verdict: Any) -> Any:
            response = inner(verdict)
            for option in list(response.ok_response.response_headers_to_add):
                if option.header.key == wire.RECEIPT_HEADER:
                    option.append_action = 0  # APPEND_IF_EXISTS_OR_ADD
                    response.ok_response.response_headers_to_add.add().CopyFrom(option)
            return response

        return write

    _instead(service, "write", off, mutated)


def _receipt_on_errors(off: Off) -> None:
    """Envoy leaves our receipt on an upstream's error."""
    from mpp_operator.bootstrap import predicates

    _instead(predicates, "successful", off, lambda inner: lambda: predicates.negated(predicates.status_is(599)))


# --- L -------------------------------------------------------------------------------------------------


def _never_resolved(off: Off) -> None:
    """The chain is never asked what became of an open payment."""
    from mpp_authz import methods
    from mpp_authz.methods import tempo

    def mutated(inner: Inner) -> Inner:
        async def lookup(*_args: Any, **_named: Any) -> Any:
            return methods.Unavailable("switched off")

        return lookup

    _instead(tempo.Tempo, "lookup", off, mutated)


MUTANTS: Final = (
    Mutant("settled-unsent", "I1", "any payment in pull mode", _settled_unsent),
    Mutant("sold-for-nothing", "I1", "any request", _sold_for_nothing),
    Mutant(
        "undelivered-counts",
        "I2",
        "the upstream fails once; the credential is presented again",
        _undelivered_counts,
    ),
    Mutant("owed-forgotten", "I2", "the upstream fails at every attempt", _owed_forgotten),
    Mutant(
        "credit-runs-out", "I2", "the upstream fails once; the credential is presented again", _credit_runs_out
    ),
    Mutant("retry-pays-again", "I2", "the upstream fails once; the client signs anew", _retry_pays_again),
    Mutant("credit-for-anyone", "I3", "the upstream fails; a stranger without money asks", _credit_for_anyone),
    Mutant("unproved-payer", "I3", "the upstream fails; a stranger forges the payer's name", _unproved_payer),
    Mutant(
        "credit-for-anything", "I3", "the upstream fails; the credential is tried elsewhere", _credit_for_anything
    ),
    Mutant("unknown-asks-again", "I4", "the node dies once it has the transaction", _unknown_asks_again),
    Mutant("used-asks-again", "I4", "a credential that was served is presented again", _used_asks_again),
    Mutant("everybody-wins", "I5", "two uses of one credit, both read before either writes", _everybody_wins),
    Mutant("delivered-again", "I5", "a credential that was served is presented again", _delivered_again),
    Mutant(
        "lease-ended-early", "I5", "two uses of one credential at once, the upstream is slow", _lease_ended_early
    ),
    Mutant("two-receipts", "I6", "any payment", _two_receipts),
    Mutant("receipt-on-errors", "I6", "the upstream fails once", _receipt_on_errors, in_authz=False),
    Mutant("never-resolved", "L", "the node dies once it has the transaction", _never_resolved),
)
