"""The model is tested, too: with one rule of the product switched off by a double, it finds a broken law.

Each test names the rule, how it is switched off, and which laws may be the first to break.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import explore
import interleave
import pytest
import wander
from memory_ledger import MemoryLedger

from mpp_authz import quotes, settlement, verdicts
from mpp_authz.closing import Closer
from mpp_authz.credits import Credits
from mpp_authz.decide import Gate
from mpp_authz.ledger import Payment, State, transitions
from mpp_authz.methods import Never, NotYet, Settled, Unknown, Verified
from mpp_authz.settlement import Settler

_WALKS = 400
_RUNS_A_SCENE = 150


def _runs() -> Iterator[Callable[[], object]]:
    """Walks and searches in turn, the cheap ones first."""
    for seed in range(40):
        yield lambda seed=seed: wander.walk(seed)  # type: ignore[misc]
    for scene in explore.SCENES:
        yield lambda scene=scene: explore.search(scene, runs=_RUNS_A_SCENE)  # type: ignore[misc]
    for seed in range(40, _WALKS):
        yield lambda seed=seed: wander.walk(seed)  # type: ignore[misc]


def broken() -> str:
    """The law that breaks first; "" for none."""
    for run in _runs():
        try:
            run()
        except interleave.Violation as violation:
            print(violation)
            return violation.rule
    return ""


def test_a_transaction_is_sent_only_after_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = interleave.Rail.settle

    async def sends_first(self: Any, credential: Any, quote: Any, verified: Any, claim: Any) -> Any:
        if verified.mode == "pull":
            self.will_send(str(credential.payload["tx"]))
            await self._at("before send")
        return await settle(self, credential, quote, verified, claim)

    monkeypatch.setattr(interleave.Rail, "settle", sends_first)

    assert broken() in ("I2", "I4")


def test_a_credit_is_for_its_payer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def for_anyone(self: MemoryLedger, payer: str, binding: Any, currency: str) -> tuple[Payment, ...]:
        return tuple(row for row in self.rows.values() if row.state is State.CREDIT)

    monkeypatch.setattr(MemoryLedger, "unfinished", for_anyone)

    assert broken() == "I3"


def test_a_payer_is_proved_before_a_credit_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = interleave.Rail.verify

    async def believes(self: Any, credential: Any, quote: Any) -> Any:
        verified = await verify(self, credential, quote)
        if isinstance(verified, Verified) and verified.mode == "pull":
            return dataclasses.replace(verified, payer_proved=True)
        return verified

    monkeypatch.setattr(interleave.Rail, "verify", believes)

    assert broken() == "I3"


def test_a_credit_is_for_its_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotes, "mismatch", lambda request, paid_for, keyring: None)

    assert broken() == "I3"


def test_a_lease_lasts_while_its_envoy_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "may_end", lambda row, *rest: row.state is State.DELIVERING)

    assert broken() in ("I5", "I2")


def test_a_replica_ends_no_lease_of_an_envoy_that_another_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = transitions.may_end

    def at_its_end(row: Payment, now: int, envoy: Any, seen_at: int, silence: int) -> bool:
        return may_end(row, now, envoy, seen_at, silence) or (
            row.state is State.DELIVERING and now >= row.lease_until
        )

    monkeypatch.setattr(transitions, "may_end", at_its_end)

    assert broken() in ("I5", "I2")


def test_a_payment_has_failed_only_when_the_chain_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = interleave.Rail.lookup

    async def gives_up(self: Any, reference: str, valid_before: int | None, network: Any) -> Any:
        found = await lookup(self, reference, valid_before, network)
        return Never("not found") if isinstance(found, NotYet) else found

    monkeypatch.setattr(interleave.Rail, "lookup", gives_up)

    assert broken() in ("I2", "I4")


def test_what_may_have_been_sent_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = transitions.unknown

    def called_failed(row: Payment, reason: str, ask_again_at: int) -> Payment | None:
        return transitions.failed(row, reason) if unknown(row, reason, ask_again_at) else None

    monkeypatch.setattr(transitions, "unknown", called_failed)

    assert broken() in ("I2", "I4")


def test_a_row_changes_by_compare_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = MemoryLedger.replace

    async def always(self: MemoryLedger, old: Payment, new: Payment, *, also: Payment | None = None) -> bool:
        return await replace(self, self.rows[old.id], new, also=also)

    monkeypatch.setattr(MemoryLedger, "replace", always)

    assert broken() in ("I5", "I2", "I4")


def test_a_delivery_that_is_out_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    at_rest = Gate._at_rest

    async def restless(self: Gate, case: Any, row: Payment, seconds: float) -> Payment:
        row = await at_rest(self, case, row, seconds)
        return dataclasses.replace(row, state=State.CREDIT) if row.state is State.DELIVERING else row

    monkeypatch.setattr(Gate, "_at_rest", restless)

    assert broken() in ("I5", "I2")


def test_a_delivered_payment_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def again(self: Any, case: Any, row: Payment) -> Any:
        return await self._deliver(case, row)

    monkeypatch.setattr(Gate, "_again", again)

    assert broken() == "I5"


def test_news_of_a_failure_opens_a_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = transitions.ended

    def closed(row: Payment, outcome: transitions.Outcome, now: int) -> Payment | None:
        return ended(row, dataclasses.replace(outcome, delivered=True), now)

    monkeypatch.setattr(transitions, "ended", closed)

    assert broken() == "I2"


def test_the_outcome_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unread(self: Closer, path: Any) -> None:
        path.stat()

    monkeypatch.setattr(Closer, "_news", unread)

    assert broken() in ("I5", "I2")


def test_a_retry_takes_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(self: Credits, case: Any, verified: Any) -> None:
        return None

    monkeypatch.setattr(Credits, "take", none)

    assert broken() == "I2"


def test_a_receipt_names_the_transaction_that_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = verdicts.receipt

    def of_another(row: Payment) -> str:
        return receipt(dataclasses.replace(row, reference="0x" + "f" * 64))

    monkeypatch.setattr(verdicts, "receipt", of_another)

    assert broken() == "I6"


def test_nothing_is_let_through_before_it_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = interleave.Rail.settle

    async def hopes(self: Any, credential: Any, quote: Any, verified: Any, claim: Any) -> Any:
        result = await settle(self, credential, quote, verified, claim)
        if isinstance(result, Unknown):
            return Settled(str(credential.payload["tx"]), verified.payer)
        return result

    monkeypatch.setattr(interleave.Rail, "settle", hopes)

    assert broken() == "I1"


def test_the_ledger_is_asked_before_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Gate._known

    async def expired(self: Any, case: Any, row: Payment) -> Any:
        wrong = case.wrong()
        if wrong is None:
            return await known(self, case, row)
        return await self.fresh(case.request, case.price, *wrong)

    monkeypatch.setattr(Gate, "_known", expired)

    assert broken() == "I4"


def test_what_is_open_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Settler, row: Payment, settlement: Any = None) -> None:
        return None

    monkeypatch.setattr(Settler, "resolve", never)

    assert broken() in ("liveness", "I2")


def test_two_claims_on_one_payment_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def always(self: MemoryLedger, payment: Payment) -> bool:
        self._put(payment)
        return True

    monkeypatch.setattr(MemoryLedger, "insert", always)

    assert broken() in ("I5", "I2", "I4")


def test_with_every_rule_in_force_the_same_runs_find_nothing() -> None:
    assert settlement.Settler.resolve is Settler.resolve  # every double of the tests above is gone
    for seed in range(40):
        wander.walk(seed)
