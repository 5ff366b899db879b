"""The checker is tested with runs made by hand: a good one has no violation, and one that is broken in one way has
the violation of the rule that was broken."""

import ast
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import checker
import pytest
import witnesses
from hypothesis import assume, given
from hypothesis import strategies as st
from witnesses import Case, Exchange, Hit, Listed, Mode, Run, Transfer

PAYEE = "0x" + "ee" * 20
PRICE = 1500


# --- a run, step by step -------------------------------------------------------------------------------


class Story:
    """A run as it comes about: each step takes a second, and every witness writes down what it saw."""

    def __init__(self, **case: object) -> None:
        self.case = Case("7", "0x" + "a7" * 20, "GET", "/shop/thing?case=7", "", PRICE, Mode.PULL)
        self.case = replace(self.case, **case)  # type: ignore[arg-type]
        self.now = 100.0
        self.transfers: list[Transfer] = []
        self.hits: list[Hit] = []
        self.exchanges: list[Exchange] = []
        self.listed: list[Listed] = []
        self.changes: dict[str, object] = {}

    def run(self) -> Run:
        return Run(
            1,
            "test",
            (self.case,),
            tuple(self.transfers),
            tuple(self.hits),
            tuple(self.exchanges),
            tuple(self.listed),
            recipient=PAYEE,
            **self.changes,  # type: ignore[arg-type]
        )

    def asks(self, challenge: str = "c1") -> "Story":
        """A request without a payment: 402."""
        self._answer(None, status=402, challenges=(challenge,))
        return self

    def moves(self, challenge: str = "c1", **changes: object) -> "Story":
        """The chain takes the money for a challenge, half a second from now."""
        transfer = Transfer(ref(challenge), self.case.payer, PAYEE, PRICE, challenge, self.now + 0.5)
        self.transfers.append(replace(transfer, **changes))  # type: ignore[arg-type]
        return self

    def hit(self, payment: str | None = "c1", **changes: object) -> "Story":
        """The upstream is asked, just before the next answer."""
        hit = Hit(
            self.now + 0.9, self.case.method, self.case.target, self.case.body_hash, payment, 1, None, 200, True
        )
        self.hits.append(replace(hit, **changes))  # type: ignore[arg-type]
        return self

    def served(self, paid: str = "c1", challenge: str | None = None, **changes: object) -> "Story":
        """A 2xx with the receipt of one payment, to the credential of that or another challenge."""
        self._answer(challenge or paid, **{"status": 200, "receipts": (ref(paid),)} | changes)
        return self

    def fails(self, challenge: str = "c1", status: int = 500, **changes: object) -> "Story":
        self._answer(challenge, status=status, **changes)
        return self

    def owes(self, challenge: str = "c1", state: str = "OWED") -> "Story":
        self.listed.append(Listed(challenge, ref(challenge), state))
        return self

    def so(self, **changes: object) -> "Story":
        """Of the run itself."""
        self.changes |= changes
        return self

    def _answer(self, challenge: str | None, **changes: object) -> None:
        exchange = Exchange(
            self.case.id,
            self.case.payer,
            self.case.method,
            self.case.target,
            self.case.body_hash,
            self.now,
            self.now + 1,
            credential=None if challenge is None else f"Payment secret-of-{challenge}",
            challenge=challenge,
            whole=True,
        )
        self.exchanges.append(replace(exchange, **changes))  # type: ignore[arg-type]
        self.now += 2


def ref(challenge: str) -> str:
    return "0x" + challenge.encode().hex().rjust(64, "0")


def paid(**case: object) -> Story:
    return Story(**case).asks().moves().hit()


def rules(run: Run) -> set[str]:
    return {violation.rule for violation in checker.violations(run)}


# --- good runs -----------------------------------------------------------------------------------------

GOOD: dict[str, Callable[[], Story]] = {
    "served": lambda: paid().served(),
    "nobody paid": lambda: Story().asks().fails(status=402, challenges=("c2",)),
    "failed, then served on the same credential": lambda: paid().fails(credit="c1").hit(attempt=2).served(),
    "failed, then a new credential takes the credit": lambda: (
        paid().fails(credit="c1").asks("c2").hit("c1", attempt=2).served("c1", challenge="c2")
    ),
    "no answer, then presented at the end": lambda: (
        paid().fails(status=0, whole=False).hit(attempt=2).served(final=True)
    ),
    "failed to the end, and owed": lambda: paid().fails().hit().fails().owes().fails(status=403, final=True),
    "failed by the payer's doing, and lapsed": lambda: (
        paid().fails(status=404).owes(state="LAPSED").fails(status=403, final=True)
    ),
    "owed, and the next call pays": lambda: (
        paid().fails().owes().asks("c2").moves("c2").hit("c2").served("c2").fails(status=403, final=True)
    ),
    "the client left once it had the headers": lambda: paid().served(whole=False, hung_up=True),
    "the client left while the whole answer was on its way, and wants it once more": lambda: (
        Story()
        .asks()
        .moves()
        .hit(at=102.98)
        .fails(status=0, whole=False, hung_up=True)
        .asks("c2")
        .moves("c2")
        .hit("c2")
        .served("c2")
        .fails(status=403, final=True)
        .so(sent=frozenset({"c1"}))
    ),
    "a client that left with the headers wants it once more, and pays": lambda: (
        paid().served(whole=False, hung_up=True).asks("c2").moves("c2").hit("c2").served("c2")
    ),
    "a client that left with the headers, and its next credential at the end": lambda: (
        paid()
        .served(whole=False, hung_up=True)
        .asks("c2")
        .fails("c2", status=0, whole=False)
        .moves("c2")
        .hit("c2")
        .served("c2", final=True)
    ),
    "owed, and the next credential is paid at the end": lambda: (
        paid()
        .fails()
        .owes()
        .fails(status=403, final=True)
        .asks("c2")
        .moves("c2")
        .hit("c2")
        .served("c2", final=True)
    ),
    "a stream that broke off": lambda: paid(streaming=True).served(whole=False),
    "an Envoy died with the news": lambda: paid().served().hit(attempt=2).served(final=True).so(envoy_died=True),
    "answered, and owed by an Envoy that died": lambda: (
        paid().served().owes().fails(status=403, final=True).so(envoy_died=True)
    ),
    "an idempotent repeat": lambda: paid(idempotent=True).served().hit(attempt=2).served(),
    "push, twice": lambda: (
        paid(mode=Mode.PUSH)
        .fails()
        .asks("c2")
        .moves("c2", sent_at=None)
        .hit("c2")
        .served("c2")
        .hit(attempt=2)
        .served(final=True)
    ),
    "push that came too late, and is listed": lambda: (
        Story(mode=Mode.PUSH)
        .asks()
        .moves(sent_at=None)
        .fails(status=403)
        .owes(state="REFUSED")
        .fails(status=403, final=True)
    ),
    "copies": lambda: paid(copies=3).served().fails(status=409).fails(status=403),
    "copies of which none came through in a fault": lambda: (
        Story(copies=3).asks().fails(status=503).fails(status=0, whole=False).so(faults=("kill at settle.before",))
    ),
    "a probe that is refused": lambda: paid().fails(credit="c1").fails(status=403, other=True).hit().served(),
    "another system, which names no payments": lambda: Story().asks().moves().hit(None).served(),
    "the transaction was sent before the row was known, and refused first": lambda: (
        Story().asks().fails(status=503).moves().hit().served()
    ),
    "more was paid than asked for": lambda: Story().asks().moves(amount=PRICE + 1).hit().served(),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_run_in_which_every_rule_held_has_no_violation(name: str) -> None:
    assert checker.violations(GOOD[name]().run()) == ()


# --- bad runs ------------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, Callable[[], Story]]] = {
    # I1
    "a 200 without a receipt": ("I1", lambda: paid().served(receipts=())),
    "a receipt of no transfer": ("I1", lambda: Story().asks().hit(None).served()),
    "a transfer of too little": ("I1", lambda: Story().asks().moves(amount=PRICE - 1).hit().served()),
    "a transfer to somebody else": ("I1", lambda: Story().asks().moves(recipient="0x" + "bb" * 20).hit().served()),
    "a 200 without a hit": ("I1", lambda: Story().asks().moves().served()),
    "a hit before the answer's own time": (
        "I1",
        lambda: Story().asks().moves().hit(at=100.2, payment=None).served(),
    ),
    "a hit for nothing": ("I1", lambda: Story().asks().hit(None).fails()),
    "a hit for a payment that never was": ("I1", lambda: Story().asks().hit("c1").fails()),
    "a hit before the money": ("I1", lambda: Story().asks().moves(sent_at=103.5).hit(at=102.1).served()),
    "a hit that names no payment, where others do": ("I1", lambda: paid().served().hit(None)),
    # I2
    "a payment that vanished": ("I2", lambda: paid().fails().fails(status=403, final=True)),
    "a payment that was never presented": ("I2", lambda: Story().asks().moves()),
    "an answer that came half": ("I2", lambda: paid().served(whole=False).fails(status=403, final=True)),
    "no headers when the client left": (
        "I2",
        lambda: paid().fails(status=0, whole=False, hung_up=True).fails(status=403, final=True),
    ),
    "no headers when the client left, and the upstream had not answered whole": (
        "I2",
        lambda: (
            Story()
            .asks()
            .moves()
            .hit(at=102.98, finished=False)
            .fails(status=0, whole=False, hung_up=True)
            .fails(status=403, final=True)
            .so(sent=frozenset({"c1"}))
        ),
    ),
    "no headers when the client left, and Envoy does not say that it had sent them": (
        "I2",
        lambda: (
            Story()
            .asks()
            .moves()
            .hit(at=102.98)
            .fails(status=0, whole=False, hung_up=True)
            .fails(status=403, final=True)
        ),
    ),
    "delivered, and owed": ("I2", lambda: paid().served().owes()),
    "owed twice": ("I2", lambda: paid().fails().owes().owes(state="LAPSED").fails(status=403, final=True)),
    "owed, and nobody paid": ("I2", lambda: Story().asks().fails(status=503).owes()),
    "refused is no end of a pull payment": (
        "I2",
        lambda: paid().fails().owes(state="REFUSED").fails(status=403, final=True),
    ),
    "a retry that paid again": (
        "I2",
        lambda: paid().fails().asks("c2").moves("c2").hit("c2").served("c2").hit().served("c1", final=True),
    ),
    "a retry that paid again, and nobody saw when": (
        "I2",
        lambda: (
            Story()
            .asks()
            .moves(sent_at=None)
            .hit()
            .fails()
            .asks("c2")
            .moves("c2", sent_at=None)
            .hit("c2")
            .served("c2")
            .hit()
            .served("c1", final=True)
        ),
    ),
    "a second payment on the way, and the first is not done": (
        "I2",
        lambda: paid().fails().asks("c2").moves("c2").hit("c2").served("c2").hit().served("c1"),
    ),
    "the end made a new transfer": (
        "I2",
        lambda: paid().served().asks("c2").moves("c2").hit("c2").served("c2", final=True),
    ),
    "money of nobody": ("I2", lambda: paid().served().moves("c9", payer="0x" + "99" * 20)),
    "copies that paid twice": (
        "I2",
        lambda: paid(copies=2).served().moves("c1", reference=ref("c1-again")).fails(status=409),
    ),
    "copies that all failed without a fault": ("I2", lambda: Story(copies=2).asks().fails(status=503)),
    # I3
    "a probe that was served": ("I3", lambda: paid().fails().hit().served(other=True)),
    "somebody else's payment": ("I3", lambda: Story().asks().moves(payer="0x" + "66" * 20).hit().served()),
    "another target": ("I3", lambda: paid().served(target="/shop/live?case=7")),
    "another HTTP method": ("I3", lambda: paid().served(method="POST")),
    "another body": ("I3", lambda: paid().served(body_hash="ab" * 32)),
    "a payment for no challenge of ours": ("I3", lambda: Story().asks("c2").moves().hit().served()),
    "work for another target, though it failed": (
        "I3",
        lambda: paid().fails().hit(target="/shop/live?case=7", status=500).hit().served(),
    ),
    "work for another body": ("I3", lambda: paid().fails().hit(body_hash="ab" * 32, status=500).hit().served()),
    # I4
    "asked again after the money moved": (
        "I4",
        lambda: paid().fails(status=402, challenges=("c2",)).hit().served(),
    ),
    "asked again while the outcome is unknown": (
        "I4",
        lambda: paid().fails(status=503, challenges=("c2",)).hit().served(),
    ),
    "asked again by a push payment's answer": (
        "I4",
        lambda: (
            Story(mode=Mode.PUSH).asks().moves(sent_at=None).fails(status=402, challenges=("c2",)).hit().served()
        ),
    ),
    "asked again once it was served": ("I4", lambda: paid().served().fails(status=402, challenges=("c2",))),
    "a credential that took a credit is asked again": (
        "I4",
        lambda: (
            paid()
            .fails()
            .asks("c2")
            .hit()
            .served("c1", challenge="c2")
            .fails("c2", status=402, challenges=("c3",))
        ),
    ),
    "a credit that is asked to pay": ("I4", lambda: paid().fails(credit="c1", challenges=("c2",)).hit().served()),
    # I5
    "two answers for one payment": ("I5", lambda: paid().served().hit().served()),
    "one more at the end": ("I5", lambda: paid().served().hit().served(final=True)),
    "two of the copies": ("I5", lambda: paid(copies=2).served().hit().served()),
    # I6
    "a receipt on a 500": ("I6", lambda: paid().fails(receipts=(ref("c1"),)).hit().served()),
    "a receipt on a 402": ("I6", lambda: Story().asks().fails(status=402, receipts=("unreadable",))),
    "two receipts": ("I6", lambda: paid().served(receipts=(ref("c1"), ref("c1")))),
    "an unreadable receipt": ("I6", lambda: paid().served(receipts=("unreadable",)).hit().served(final=True)),
    # L
    "503 to the end": ("L", lambda: paid().fails(status=503).fails(status=503, final=True)),
    "nobody presented it at the end": ("L", lambda: paid().fails().owes()),
    "a last word that asks for money": (
        "L",
        lambda: paid().fails().owes().fails(status=403, challenges=("c2",), final=True),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_rule_that_did_not_hold_is_found(name: str) -> None:
    rule, story = BAD[name]

    found = checker.violations(story().run())

    assert rule in {violation.rule for violation in found}
    assert {violation.case for violation in found} <= {"7", ""}


def test_every_rule_is_broken_by_some_run() -> None:
    assert {rule for rule, _ in BAD.values()} == set(checker.RULES)


def test_a_violation_says_what_was_seen_where_and_no_credential() -> None:
    (violation,) = checker.violations(paid().served().hit().served().run())

    assert str(violation) == f"I5 case 7: {ref('c1')} bought 2 answers (at 103.000, 105.000)"
    for _, story in BAD.values():
        assert "secret" not in "".join(map(str, checker.violations(story().run())))


def test_a_vanished_payment_s_violation_shows_its_last_answer() -> None:
    (violation, _) = checker.violations(paid().fails().fails(status=503, final=True).run())

    assert (
        "its last answer: GET /shop/thing?case=7 sent at 104.000 for challenge c1 answered 503" in violation.text
    )


def test_one_broken_case_does_not_touch_another() -> None:
    good, bad = paid().served().run(), paid(id="8", payer="0x" + "a8" * 20, target="/shop/thing?case=8").fails()
    other = rename(bad.run(), "d")

    found = checker.violations(joined(good, other))

    assert {violation.case for violation in found} == {"8"}


def test_the_checker_knows_nothing_of_the_gateway() -> None:
    for module in (checker, witnesses):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

        assert [name for name in names if name.startswith("mpp")] == []


def test_a_run_that_was_written_down_is_judged_the_same(tmp_path: Path) -> None:
    runs = [story().run() for _, story in BAD.values()] + [story().run() for story in GOOD.values()]
    witnesses.write(tmp_path / "runs.jsonl", runs)

    read = list(witnesses.read(tmp_path / "runs.jsonl"))

    assert [checker.violations(run) for run in read] == [checker.violations(run) for run in runs]


# --- laws ----------------------------------------------------------------------------------------------


def rename(run: Run, prefix: str) -> Run:
    """The same run with challenges and transactions of its own."""

    def reference(one: str) -> str:
        return "0x" + prefix.encode().hex() + one[2 + 2 * len(prefix) :]

    def challenge(one: str | None) -> str | None:
        return None if one is None else prefix + one

    return replace(
        run,
        transfers=tuple(
            replace(t, reference=reference(t.reference), challenge=challenge(t.challenge)) for t in run.transfers
        ),
        hits=tuple(replace(h, payment=challenge(h.payment)) for h in run.hits),
        exchanges=tuple(
            replace(
                e,
                challenge=challenge(e.challenge),
                challenges=tuple(prefix + one for one in e.challenges),
                receipts=tuple(reference(one) for one in e.receipts),
            )
            for e in run.exchanges
        ),
        listed=tuple(
            replace(one, payment=prefix + one.payment, reference=reference(one.reference or ""))
            for one in run.listed
        ),
    )


def joined(*runs: Run) -> Run:
    """Several cases that ran at the same time."""
    return replace(
        runs[0],
        cases=tuple(case for run in runs for case in run.cases),
        transfers=tuple(one for run in runs for one in run.transfers),
        hits=tuple(one for run in runs for one in run.hits),
        exchanges=tuple(one for run in runs for one in run.exchanges),
        listed=tuple(one for run in runs for one in run.listed),
    )


@st.composite
def good_runs(draw: st.DrawFn) -> Run:
    """Some cases, each of which fails a few times and is served, or owed, in the end."""
    runs = []
    for number in range(draw(st.integers(1, 4))):
        story = Story(
            id=str(number),
            payer="0x" + f"{number + 16:02x}" * 20,
            target=f"/shop/thing?case={number}",
            mode=draw(st.sampled_from(Mode)),
        )
        story.asks().moves()
        attempts = draw(st.integers(0, 2))
        for attempt in range(attempts):
            story.hit(attempt=attempt + 1).fails(
                status=draw(st.sampled_from([0, 409, 500, 503])), credit=draw(st.sampled_from([None, "c1"]))
            )
        if draw(st.booleans()):
            story.hit(attempt=attempts + 1).served(final=draw(st.booleans()))
        else:
            story.fails().owes(state=draw(st.sampled_from(["OWED", "LAPSED"]))).fails(status=403, final=True)
        runs.append(rename(story.run(), chr(ord("a") + number)))
    return joined(*runs)


def _without_transfer(run: Run, at: int) -> Run | None:
    served = {one for e in run.exchanges for one in e.receipts}
    gone = run.transfers[at % len(run.transfers)]
    kept = tuple(t for t in run.transfers if t is not gone)
    return replace(run, transfers=kept) if gone.reference in served else None


def _forgotten(run: Run, at: int) -> Run | None:
    return replace(run, listed=run.listed[1:]) if run.listed else None


def _changed(
    run: Run, at: int, change: Callable[[Exchange], Exchange], which: Callable[[Exchange], bool]
) -> Run | None:
    found = [e for e in run.exchanges if which(e)]
    if not found:
        return None
    chosen = found[at % len(found)]
    return replace(run, exchanges=tuple(change(e) if e is chosen else e for e in run.exchanges))


def _ok(exchange: Exchange) -> bool:
    return exchange.status == 200


#: Ways to break a good run, and the rule that each breaks. None: this run has nothing to break that way.
BREAKS: dict[str, tuple[str, Callable[[Run, int], Run | None]]] = {
    "a transfer is missing": ("I1", _without_transfer),
    "a receipt is missing": ("I1", lambda run, at: _changed(run, at, lambda e: replace(e, receipts=()), _ok)),
    "the upstream was not asked": (
        "I1",
        lambda run, at: replace(run, hits=()) if any(map(_ok, run.exchanges)) else None,
    ),
    "a debt is forgotten": ("I2", _forgotten),
    "an answer is cut": ("I2", lambda run, at: _changed(run, at, lambda e: replace(e, whole=False), _ok)),
    "another got it": ("I3", lambda run, at: _changed(run, at, lambda e: replace(e, other=True), _ok)),
    "it went elsewhere": (
        "I3",
        lambda run, at: _changed(run, at, lambda e: replace(e, target=e.target + "&more"), _ok),
    ),
    "it asks again": (
        "I4",
        lambda run, at: _changed(
            run, at, lambda e: replace(e, challenges=("fresh",)), lambda e: e.challenge is not None
        ),
    ),
    "it answers twice": (
        "I5",
        lambda run, at: (
            replace(
                run,
                exchanges=run.exchanges + tuple(replace(e, sent_at=e.sent_at) for e in run.exchanges if _ok(e)),
            )
            if any(map(_ok, run.exchanges))
            else None
        ),
    ),
    "it gives two receipts": (
        "I6",
        lambda run, at: _changed(run, at, lambda e: replace(e, receipts=e.receipts * 2), _ok),
    ),
    "an error has a receipt": (
        "I6",
        lambda run, at: _changed(
            run, at, lambda e: replace(e, receipts=(ref("c1"),)), lambda e: e.status in (402, 409, 500, 503)
        ),
    ),
    "nothing is answered at the end": (
        "L",
        lambda run, at: _changed(
            run, at, lambda e: replace(e, status=503, receipts=()), lambda e: e.final and e.status in (200, 403)
        ),
    ),
}


@given(good_runs())
def test_a_good_run_of_any_shape_has_no_violation(run: Run) -> None:
    assert checker.violations(run) == ()


@given(good_runs(), st.sampled_from(sorted(BREAKS)), st.integers(0, 100))
def test_a_good_run_that_is_broken_in_one_way_is_found(run: Run, way: str, at: int) -> None:
    rule, broken_by = BREAKS[way]

    broken = broken_by(run, at)
    assume(broken is not None)

    assert broken is not None
    assert rule in rules(broken)


@given(good_runs(), st.sampled_from(sorted(BREAKS)), st.integers(0, 100), st.randoms())
def test_the_order_in_which_things_were_written_down_changes_nothing(
    run: Run, way: str, at: int, dice: random.Random
) -> None:
    broken = BREAKS[way][1](run, at) or run

    shuffled = replace(
        broken,
        transfers=tuple(dice.sample(broken.transfers, len(broken.transfers))),
        hits=tuple(dice.sample(broken.hits, len(broken.hits))),
        exchanges=tuple(dice.sample(broken.exchanges, len(broken.exchanges))),
    )

    assert rules(shuffled) == rules(broken)


@pytest.mark.parametrize(
    ("status", "flags", "whole"), [(200, "-", True), (200, "DC", False), (500, "-", False), (0, "DC", False)]
)
def test_envoys_log_tells_what_it_sent_whole(status: int, flags: str, whole: bool) -> None:
    line = json.dumps({"payment": "c1", "status": status, "flags": flags})

    logs = f"[0] authz: 2026 INFO {line}\n[0] envoy: {{cut sh\n[0] envoy: {line}"

    assert witnesses.sent_whole(logs) == (frozenset({"c1"}) if whole else frozenset())
