"""The independent checker: what three witnesses saw gives the rules that were broken. Pure.

It reads the chain's transfers, the upstream's hits and the clients' answers, and of the ledger only what is listed
as owed. It shares no code with the gateway: a mistake there must not be made here as well.

    I1  no 2xx without a settled payment, and nothing at the upstream without one
    I2  every payment ends as one answer delivered, or owed, or lapsed; none vanishes, none counts twice; a client
        of pull mode that retries pays once for what it gets once
    I3  a payment serves its payer and its request, nobody and nothing else
    I4  no challenge in the answer to a credential whose money moved
    I5  one delivery a payment, unless an Envoy died or the route is idempotent
    I6  a receipt only on a 2xx, one, and readable
    L   every credential whose money moved comes to an end: an answer, or a last word
"""

import collections
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from witnesses import Case, Exchange, Hit, Listed, Mode, Run, Transfer

RULES: Final = ("I1", "I2", "I3", "I4", "I5", "I6", "L")

#: The upstream's clock and the client's are one, read by two processes: what was written down of one moment may
#: differ by this much. Seconds.
_BLUR: Final = 0.05
_OWED: Final = frozenset({"OWED", "LAPSED"})
#: A push transfer that pays us, but not for this: no credit can come of it, and `payments` lists it for a person.
_REFUSED: Final = "REFUSED"


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that did not hold, for one case ("" where none is known). `text` holds no credential."""

    rule: str
    case: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule} case {self.case or '?'}: {self.text}"


def violations(run: Run) -> tuple[Violation, ...]:
    """Every rule that the run broke, with where that was seen. Empty: none."""
    seen = _Seen(run)
    found: list[Violation] = []
    for rule in (_paid, _accounted, _own, _unasked, _once, _receipts, _ended):
        found += rule(seen)
    return tuple(dict.fromkeys(found))


class _Seen:
    """A run, sorted: what belongs to which case, which payment and which challenge."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.cases = {case.id: case for case in run.cases}

    @cached_property
    def minted(self) -> dict[str, Exchange]:
        """By challenge: the answer that carried it first."""
        by_id: dict[str, Exchange] = {}
        for exchange in sorted(self.run.exchanges, key=lambda e: e.got_at):
            for challenge in exchange.challenges:
                by_id.setdefault(challenge, exchange)
        return by_id

    @cached_property
    def exchanges(self) -> dict[str, list[Exchange]]:
        """By case, in the order they were sent."""
        by_case: dict[str, list[Exchange]] = collections.defaultdict(list)
        for exchange in sorted(self.run.exchanges, key=lambda e: e.sent_at):
            by_case[exchange.case].append(exchange)
        return by_case

    @cached_property
    def transfers(self) -> dict[str, list[Transfer]]:
        """By case; those of no case under ""."""
        by_payer = {case.payer: case.id for case in self.run.cases}
        by_case: dict[str, list[Transfer]] = collections.defaultdict(list)
        for transfer in self.run.transfers:
            asked = self.minted.get(transfer.challenge or "")
            by_case[by_payer.get(transfer.payer, "") if asked is None else asked.case].append(transfer)
        return by_case

    @cached_property
    def by_reference(self) -> dict[str, Transfer]:
        return {transfer.reference: transfer for transfer in self.run.transfers}

    @cached_property
    def by_challenge(self) -> dict[str, Transfer]:
        return {transfer.challenge: transfer for transfer in self.run.transfers if transfer.challenge}

    @cached_property
    def hits(self) -> dict[tuple[str, str], list[Hit]]:
        """By method and target."""
        by_place: dict[tuple[str, str], list[Hit]] = collections.defaultdict(list)
        for hit in self.run.hits:
            by_place[hit.method, hit.target].append(hit)
        return by_place

    @cached_property
    def delivered(self) -> dict[str, list[Exchange]]:
        """By the transaction that their receipt names: answers that count as delivered to the case's client."""
        by_reference: dict[str, list[Exchange]] = collections.defaultdict(list)
        for exchange in self.run.exchanges:
            case = self.cases.get(exchange.case)
            if case is not None and _counts(exchange, case):
                for reference in exchange.receipts[:1]:
                    by_reference[reference].append(exchange)
        return by_reference

    @cached_property
    def on_its_way(self) -> dict[str, list[Exchange]]:
        """By transaction: a client that hung up within _BLUR of what the upstream had answered whole, where
        Envoy's own log says that it had sent all of it. The news of the leaving was slower than the answer."""
        by_reference: dict[str, list[Exchange]] = collections.defaultdict(list)
        for exchange in self.run.exchanges:
            transfer = self.by_challenge.get(exchange.challenge or "")
            if transfer is None or exchange.challenge not in self.run.sent:
                continue
            if exchange.other or exchange.status or not exchange.hung_up:
                continue
            if any(
                hit.payment == exchange.challenge
                and hit.finished
                and 200 <= hit.status < 300
                and exchange.got_at - _BLUR <= hit.at <= exchange.got_at
                for hit in self.hits[exchange.method, exchange.target]
            ):
                by_reference[transfer.reference].append(exchange)
        return by_reference

    def listed(self, transfer: Transfer, case: Case) -> list[Listed]:
        """What `payments` says is owed of it."""
        states = _OWED | ({_REFUSED} if case.mode is Mode.PUSH else frozenset())
        return [
            one
            for one in self.run.listed
            if one.state in states and (one.reference == transfer.reference or one.payment == transfer.challenge)
        ]

    def paid(self, reference: str, case: Case) -> str | None:
        """Why a transaction is no payment for a case; None: it is."""
        transfer = self.by_reference.get(reference)
        if transfer is None:
            return f"{reference} is no transfer on the chain"
        if transfer.amount < case.price:
            return f"{reference} moved {transfer.amount}, the price is {case.price}"
        if self.run.recipient and transfer.recipient.lower() != self.run.recipient.lower():
            return f"{reference} went to {transfer.recipient}, not to {self.run.recipient}"
        return None


def _ok(exchange: Exchange) -> bool:
    return 200 <= exchange.status < 300


def _counts(exchange: Exchange, case: Case) -> bool:
    """A 2xx whose body arrived whole; or its headers, where the client itself hung up or the route streams."""
    return _ok(exchange) and not exchange.other and (exchange.whole or exchange.hung_up or case.streaming)


# --- the rules -----------------------------------------------------------------------------------------


def _paid(seen: _Seen) -> Iterator[Violation]:
    """I1."""
    for case in seen.run.cases:
        for exchange in filter(_ok, seen.exchanges[case.id]):
            if not exchange.receipts:
                yield Violation("I1", case.id, f"{_shown(exchange)}: no receipt")
            for reference in exchange.receipts:
                wrong = seen.paid(reference, case)
                if wrong is not None:
                    yield Violation("I1", case.id, f"{_shown(exchange)}: {wrong}")
            hits = seen.hits[exchange.method, exchange.target]
            if not any(exchange.sent_at - _BLUR <= hit.at <= exchange.got_at + _BLUR for hit in hits):
                yield Violation("I1", case.id, f"{_shown(exchange)}: the upstream had no request meanwhile")
        yield from _paid_hits(seen, case)


def _paid_hits(seen: _Seen, case: Case) -> Iterator[Violation]:
    """What the upstream was made to work for."""
    named = any(hit.payment for hit in seen.run.hits)  # other systems do not say it
    for hit in seen.hits[case.method, case.target]:
        where = f"the upstream was asked for {hit.method} {hit.target} at {hit.at:.3f}"
        if hit.payment is None and (named or not seen.transfers[case.id]):
            yield Violation("I1", case.id, f"{where} without a payment")
        if hit.payment is None:
            continue
        transfer = seen.by_challenge.get(hit.payment)
        if transfer is None:
            yield Violation("I1", case.id, f"{where} for payment {hit.payment}, which is no transfer on the chain")
        elif transfer.sent_at is not None and hit.at + _BLUR < transfer.sent_at:
            yield Violation(
                "I1", case.id, f"{where}, and {transfer.reference} was sent at {transfer.sent_at:.3f} only"
            )


def _accounted(seen: _Seen) -> Iterator[Violation]:
    """I2."""
    for transfer in seen.transfers[""]:
        yield Violation("I2", "", f"{transfer.reference} by {transfer.payer} belongs to no case of the run")
    for case in seen.run.cases:
        transfers = seen.transfers[case.id]
        for transfer in transfers:
            yield from _one_end(seen, case, transfer)
        yield from _too_many(seen, case, transfers)
        yield from _after_the_end(seen, case, transfers)
    for one in seen.run.listed:
        asked = seen.minted.get(one.payment)
        moved = one.payment in seen.by_challenge or (one.reference or "") in seen.by_reference
        if asked is not None and not moved:
            yield Violation("I2", asked.case, f"payment {one.payment} is {one.state}, and no money moved for it")


def _one_end(seen: _Seen, case: Case, transfer: Transfer) -> Iterator[Violation]:
    delivered, listed = seen.delivered[transfer.reference], seen.listed(transfer, case)
    if not delivered and not listed and not seen.on_its_way[transfer.reference]:
        last = [e for e in seen.exchanges[case.id] if e.challenge == transfer.challenge][-1:]
        told = f"its last answer: {_shown(last[0])}" if last else "it was never presented"
        yield Violation(
            "I2", case.id, f"{transfer.reference} vanished: no answer delivered, neither owed nor lapsed; {told}"
        )
    if len(listed) > 1:
        yield Violation("I2", case.id, f"{transfer.reference} is listed {len(listed)} times")
    # Only an Envoy that died with the news may leave an answer owed that somebody has.
    whole = [exchange for exchange in delivered if exchange.whole]
    if whole and listed and not seen.run.envoy_died:
        yield Violation(
            "I2", case.id, f"{transfer.reference} is {listed[0].state}, and was delivered: {_shown(whole[0])}"
        )


def _too_many(seen: _Seen, case: Case, transfers: list[Transfer]) -> Iterator[Violation]:
    """One credential pays once, however often it is presented. And whoever asks one after the other pays again
    only for what was delivered before: what is owed to it comes first."""
    if case.copies > 1:
        if len(transfers) > 1 or (not transfers and not seen.run.faults):
            yield Violation(
                "I2", case.id, f"{case.copies} uses of one credential made {len(transfers)} transfers, expected 1"
            )
        return
    if case.mode is not Mode.PULL:
        return  # it has paid before it asks: nobody can take that back
    open_ = [transfer for transfer in transfers if not seen.listed(transfer, case)]
    gotten = [e for e in seen.exchanges[case.id] if not e.final and _counts(e, case)]
    if any(transfer.sent_at is None for transfer in open_):
        if len(open_) > max(1, len(gotten)):
            yield Violation(
                "I2", case.id, f"{_references(open_)} by a client that asked in turn and got {len(gotten)} answers"
            )
        return
    for earlier, later in itertools.pairwise(sorted(open_, key=_sent_at)):
        ended = seen.delivered[earlier.reference] + seen.on_its_way[earlier.reference]
        if not any(exchange.got_at <= _sent_at(later) for exchange in ended):
            yield Violation(
                "I2",
                case.id,
                f"{later.reference} was sent at {_sent_at(later):.3f} for what {earlier.reference} had paid, "
                "which was not delivered by then",
            )


def _after_the_end(seen: _Seen, case: Case, transfers: list[Transfer]) -> Iterator[Violation]:
    """Presenting credentials to the end must not pay once more for what was served."""
    ends = [exchange.sent_at for exchange in seen.exchanges[case.id] if exchange.final]
    late = [t for t in transfers if ends and t.sent_at is not None and t.sent_at >= min(ends)]
    served = [
        transfer
        for transfer in transfers
        if transfer not in late and any(e.whole and not e.final for e in seen.delivered[transfer.reference])
    ]
    if late and served:
        yield Violation(
            "I2",
            case.id,
            f"{_references(late)} was sent when a credential was presented at the end, and {_references(served)} "
            "had bought an answer",
        )


def _sent_at(transfer: Transfer) -> float:
    return transfer.sent_at if transfer.sent_at is not None else float("inf")


def _references(transfers: Iterable[Transfer]) -> str:
    return " and ".join(transfer.reference for transfer in transfers)


def _own(seen: _Seen) -> Iterator[Violation]:
    """I3."""
    for case in seen.run.cases:
        for exchange in filter(_ok, seen.exchanges[case.id]):
            if exchange.other:
                yield Violation("I3", case.id, f"{_shown(exchange)}, to somebody or something it was not paid for")
            for transfer in filter(None, (seen.by_reference.get(one) for one in exchange.receipts)):
                if transfer.payer != exchange.payer:
                    yield Violation(
                        "I3",
                        case.id,
                        f"{_shown(exchange)} to {exchange.payer}; {transfer.payer} paid {transfer.reference}",
                    )
                asked = seen.minted.get(transfer.challenge or "")
                if asked is None:
                    yield Violation(
                        "I3", case.id, f"{_shown(exchange)}: {transfer.reference} pays no challenge of this run"
                    )
                elif _request(asked) != _request(exchange):
                    yield Violation(
                        "I3",
                        case.id,
                        f"{_shown(exchange)}: {transfer.reference} was paid for {asked.method} {asked.target}"
                        + ("" if asked.body_hash == exchange.body_hash else " with another body"),
                    )

    for hit in seen.run.hits:
        # Whatever the upstream answered then: it worked for a payment that was for something else.
        asked = seen.minted.get(hit.payment or "")
        if asked is not None and _request(asked) != _request(hit):
            yield Violation(
                "I3",
                asked.case,
                f"the upstream was asked for {hit.method} {hit.target} at {hit.at:.3f} "
                f"with payment {hit.payment}, which is for {asked.method} {asked.target}"
                + ("" if asked.body_hash == hit.body_hash else " with another body"),
            )


def _request(seen: Exchange | Hit) -> tuple[str, str, str]:
    return seen.method, seen.target, seen.body_hash


def _unasked(seen: _Seen) -> Iterator[Violation]:
    """I4."""
    for case in seen.run.cases:
        settled: set[str] = set()  # challenges of which an earlier answer said that they are paid for
        for exchange in sorted(seen.exchanges[case.id], key=lambda e: e.got_at):
            challenge = exchange.challenge
            if challenge is None:
                continue
            transfer = seen.by_challenge.get(challenge)
            moved = transfer is not None and (transfer.sent_at is None or transfer.sent_at < exchange.got_at)
            if exchange.challenges and moved and transfer is not None:
                when = "" if transfer.sent_at is None else f", sent at {transfer.sent_at:.3f}"
                yield Violation(
                    "I4", case.id, f"{_shown(exchange)} asks for money again after {transfer.reference}{when}"
                )
            elif exchange.challenges and challenge in settled:
                yield Violation(
                    "I4", case.id, f"{_shown(exchange)} asks for money again after an answer to {challenge}"
                )
            if (_ok(exchange) and exchange.receipts) or exchange.credit:
                settled.add(challenge)


def _once(seen: _Seen) -> Iterator[Violation]:
    """I5."""
    if seen.run.envoy_died:
        return
    for case in seen.run.cases:
        if case.idempotent:
            continue
        answers = [e for e in seen.exchanges[case.id] if _ok(e) and e.whole and not e.other]
        for reference, count in collections.Counter(e.receipts[0] for e in answers if e.receipts).items():
            if count > 1:
                times = ", ".join(f"{e.got_at:.3f}" for e in answers if e.receipts[:1] == (reference,))
                yield Violation("I5", case.id, f"{reference} bought {count} answers (at {times})")
        if case.copies > 1 and len(answers) > 1:
            yield Violation(
                "I5", case.id, f"{case.copies} uses of one credential got {len(answers)} answers, expected 1"
            )


def _receipts(seen: _Seen) -> Iterator[Violation]:
    """I6."""
    for exchange in seen.run.exchanges:
        if exchange.receipts and not _ok(exchange):
            yield Violation("I6", exchange.case, f"{_shown(exchange)} with a receipt")
        if len(exchange.receipts) > 1:
            yield Violation("I6", exchange.case, f"{_shown(exchange)} with {len(exchange.receipts)} receipts")
        if "unreadable" in exchange.receipts:
            yield Violation("I6", exchange.case, f"{_shown(exchange)} with a receipt that cannot be read")


def _ended(seen: _Seen) -> Iterator[Violation]:
    """L."""
    for case in seen.run.cases:
        for transfer in seen.transfers[case.id]:
            if any(not exchange.final for exchange in seen.delivered[transfer.reference]):
                continue
            last = [e for e in seen.exchanges[case.id] if e.final and e.challenge == transfer.challenge]
            if not any(_terminal(exchange, case) for exchange in last):
                told = "; ".join(map(_shown, last)) or "it was not presented"
                yield Violation(
                    "L", case.id, f"{transfer.reference} came to no end after every fault was healed: {told}"
                )


def _terminal(exchange: Exchange, case: Case) -> bool:
    """An answer after which presenting it again changes nothing."""
    return _counts(exchange, case) or (exchange.status == 403 and not exchange.challenges)


def _shown(exchange: Exchange) -> str:
    """An exchange in a few words."""
    words = [f"{exchange.method} {exchange.target} sent at {exchange.sent_at:.3f}"]
    if exchange.challenge is not None:
        words.append(f"for challenge {exchange.challenge}")
    words.append(f"answered {exchange.status} at {exchange.got_at:.3f}" if exchange.status else "got no answer")
    if exchange.status and not exchange.whole:
        words.append("cut short by the client" if exchange.hung_up else "cut short")
    kinds = [name for name in ("final", "other") if getattr(exchange, name)]
    return " ".join(words) + (f" ({', '.join(kinds)})" if kinds else "")
