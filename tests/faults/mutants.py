"""The product with one of its rules switched off: what the checker has to find, or it finds nothing.

A test double, loaded by the double layer of `instrument` into the processes of a gateway; the product has no flag
for any of it. `install("credit-for-anyone")` switches a rule off for good; `install("@/path")` switches off
whichever that file names at the moment, or none, so that one gateway shows them all.

Each mutant names the rule that breaks (checker.py) and what it takes to see it. Imports the product only when it
is installed, so that a test can read this list without one.
"""

import functools
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
    """Switch a rule off in this process.

    Raises:
        Unknown: no rule is called that.
    """
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


def _let_through_unpaid(off: Off) -> None:
    """A new credential is delivered before it is settled, and settles never."""
    from mpp_authz import methods
    from mpp_authz.settlement import Settler

    def mutated(inner: Inner) -> Inner:
        async def settle(self: Any, settlement: Any, verified: Any, replacing: Any = None) -> Any:
            row = self._row(settlement, verified)
            await self.ledger.insert(replace(row, reference="0x" + row.id.encode().hex()[:64].ljust(64, "0")))
            written = await self.ledger.get(row.id)
            now = await self.ledger.now()
            outcome = methods.Settled(written.reference, verified.payer)
            return await self._written(written, self._as_settled(outcome, now, settlement.waiter))

        return settle

    _instead(Settler, "settle", off, mutated)


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
    """A client that signs anew after a failure pays anew: its credit is not looked for."""
    from mpp_authz.decide import Gate

    def mutated(inner: Inner) -> Inner:
        async def none(*_args: Any, **_named: Any) -> None:
            return None

        return none

    _instead(Gate, "_take_credit", off, mutated)


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
    """What was delivered is delivered again to whoever presents it."""
    from mpp_authz.decide import Gate

    def mutated(inner: Inner) -> Inner:
        async def again(self: Any, case: Any, row: Any) -> Any:
            return await self._deliver(case, row)

        return again

    _instead(Gate, "_again", off, mutated)


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
    """Nobody asks the chain what became of an open payment."""
    from mpp_authz.settlement import Settler

    def mutated(inner: Inner) -> Inner:
        async def resolve(*_args: Any, **_named: Any) -> None:
            return None

        return resolve

    _instead(Settler, "resolve", off, mutated)


MUTANTS: Final = (
    Mutant("settled-unsent", "I1", "any payment in pull mode", _settled_unsent),
    Mutant("let-through-unpaid", "I1", "any payment in pull mode", _let_through_unpaid),
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
    Mutant("unknown-asks-again", "I4", "the node goes silent once it has the transaction", _unknown_asks_again),
    Mutant("used-asks-again", "I4", "a credential that was served is presented again", _used_asks_again),
    Mutant("everybody-wins", "I5", "32 uses of one credential at once", _everybody_wins),
    Mutant("delivered-again", "I5", "a credential that was served is presented again", _delivered_again),
    Mutant(
        "lease-ended-early", "I5", "two uses of one credential at once, the upstream is slow", _lease_ended_early
    ),
    Mutant("two-receipts", "I6", "any payment", _two_receipts),
    Mutant("receipt-on-errors", "I6", "the upstream fails once", _receipt_on_errors, in_authz=False),
    Mutant("never-resolved", "L", "the node goes silent once it has the transaction", _never_resolved),
)
