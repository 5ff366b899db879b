"""`mpp-gateway payments`: what the ledger holds, for a person. Reads only, also while the gateway runs.

No credential and no signed transaction is in what it prints: the fields it shows are listed here, one by one.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mpp_authz.ledger import Ledger, LedgerUnavailable, Payment, RefusedTransfer, State, stores
from mpp_operator import reconcile, statedir, tables
from mpp_operator.artifacts import secrets
from mpp_operator.console import DONE, WRONG_ENVIRONMENT, WRONG_INPUT, WRONG_USAGE, Failure
from mpp_operator.document import shown

#: The ledger's file inside the state folder.
LEDGER_NAME: Final = "ledger.db"

_WHICH: Final = "Name the gateway's state folder with --state-dir, or its ledger with --ledger."

#: OWED rows that are summed up. A gateway that owes more needs more than a command line.
_OWED_LIMIT: Final = 100_000

#: Rows that are listed unless told.
_LIMIT: Final = 100

#: Options that not every subcommand has: by its name in the arguments, how it is written and who has it.
_OPTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "state": ("--state", ("list",)),
    "limit": ("--limit", ("list", "reconcile")),
    "since": ("--since", ("reconcile",)),
    "until": ("--until", ("reconcile",)),
    "confirmations": ("--confirmations", ("reconcile",)),
    "realm": ("--realm", ("reconcile",)),
    "config": ("--config", ("reconcile",)),
    "files": ("--file", ("reconcile",)),
    "secrets_dir": ("--secrets-dir", ("reconcile",)),
}

#: What is shown of a payment, in this order. `credential_hash`, `envelope`, `idempotency_hash` and
#: `lease_owner` are nobody's business here.
_SHOWN: Final = (
    "method",
    "intent",
    "network",
    "currency",
    "amount",
    "recipient",
    "mode",
    "payer",
    "reference",
    "valid_before",
    "attempt",
    "attempts_allowed",
    "faults",
    "last_status",
    "last_flags",
    "paid_by",
    "reason",
)
#: Moments, shown in RFC 3339. 0 is none.
_MOMENTS: Final = (
    "minted_at",
    "expires_at",
    "created_at",
    "settled_at",
    "answered_at",
    "delivered_at",
    "lease_until",
    "life_until",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser of its own."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--state-dir", metavar="DIR", type=Path, help="the gateway's state folder")
    where.add_argument(
        "--ledger",
        metavar="URL",
        help=f"the ledger itself: {' or '.join(stores.KNOWN)}; one with a password is better kept in a file",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--state",
        action="append",
        type=str.upper,
        choices=[state.value for state in State],
        help="only payments in this state; may be given more than once",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_positive,
        help=f"list the newest N; with reconcile, N of each kind (default: {_LIMIT})",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("list", "show", "reconcile"),
        default="list",
        help="the newest payments (default), all of one, or whether ledger and chain agree "
        "(exit codes: 0 they do, 4 they do not, 3 a node could not tell)",
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="challenge id of the payment to show")
    reconcile.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command and give its exit code: 0 done, 1 no such payment or a wrong file, 2 usage, 3 no
    ledger or no chain that tells, 4 books that are not balanced."""
    complaints = tuple(_misused(args))
    if complaints:
        return _fail("\n".join(complaints), WRONG_USAGE)
    args.limit = args.limit or _LIMIT
    try:
        return asyncio.run(_run(args, address(args)))
    except Failure as failure:
        return _fail("\n".join(failure.problems), failure.code)
    except ValueError as error:
        return _fail(str(error), WRONG_INPUT)
    except LedgerUnavailable as error:
        return _fail(str(error) if args.ledger or args.state_dir else f"{error}\n{_WHICH}")


def _misused(args: argparse.Namespace) -> Iterator[str]:
    """What was asked for and cannot be: argparse knows no subcommands here, as `payments` alone lists."""
    if args.what == "show" and args.id is None:
        yield "payments show: expected the challenge id of a payment, got none; `payments list` shows them"
    if args.what != "show" and args.id is not None:
        yield f"payments {args.what}: expected no id, got {args.id!r}; `payments show` takes one"
    for name, (option, takers) in _OPTIONS.items():
        if args.what not in takers and getattr(args, name) not in (None, []):
            who = " and ".join(f"`payments {taker}`" for taker in takers)
            yield f"payments {args.what}: expected no {option}, which is for {who}; leave it out"


def address(args: argparse.Namespace) -> str:
    """The address of the ledger that the arguments name, as `stores.open_ledger` takes it.

    Raises:
        Failure: no gateway has run in that state folder, or we may not look into it.
    """
    if args.ledger is not None:
        return str(args.ledger)
    folder: Path = args.state_dir or statedir.default(os.environ)
    named, file = folder / secrets.DIRECTORY / secrets.LEDGER_FILE, folder / LEDGER_NAME
    try:
        if named.exists():
            return f"file:{named}"
        if file.exists():
            return f"sqlite:{file}"
    except OSError as error:
        raise Failure(
            WRONG_ENVIRONMENT, f"{folder}: expected a folder we can read, got: {error.strerror}"
        ) from error
    raise Failure(
        WRONG_ENVIRONMENT,
        f"{file}: expected the ledger of a gateway that runs or has run, found no such file",
        _WHICH,
    )


async def _run(args: argparse.Namespace, url: str) -> int:
    ledger = await stores.open_ledger(url, read_only=True)
    try:
        if args.what == "reconcile":
            folder = (args.state_dir or statedir.default(os.environ)) if args.ledger is None else None
            return await reconcile.run(ledger, args, folder)
        if args.what == "show":
            return await _show(ledger, args.id, args.json)
        states = frozenset(State(name) for name in args.state or ())
        return await _list(ledger, states, args.limit, args.json)
    finally:
        await ledger.close()


async def _show(ledger: Ledger, payment_id: str, as_json: bool) -> int:
    payment = await ledger.get(payment_id)
    if payment is None:
        return _fail(f"payments: no payment with the id {payment_id!r}; `payments list` shows them", WRONG_INPUT)
    document = describe(payment)
    if as_json:
        _print(json.dumps(document, indent=2))
    else:
        width = max(map(len, document))
        _print("\n".join(f"{name:<{width}}  {tables.cell(value)}" for name, value in document.items()))
    return DONE


async def _list(ledger: Ledger, states: frozenset[State], limit: int, as_json: bool) -> int:
    payments = await ledger.listing(states, limit)
    refused = await ledger.refused(limit)
    counts = await ledger.counts()
    owed = await ledger.listing(frozenset({State.OWED}), _OWED_LIMIT)
    if as_json:
        document = {
            "payments": [describe(payment) for payment in payments],
            "refusedTransfers": [describe_refused(transfer) for transfer in refused],
            "counts": {state.value: counts[state] for state in State if state in counts},
            "owed": [
                {"network": network, "currency": currency, "amount": str(amount), "payments": rows}
                for (network, currency), (amount, rows) in owed_sums(owed).items()
            ],
        }
        _print(json.dumps(document, indent=2))
    else:
        _print(render(payments, refused, counts, owed))
    return DONE


def describe(payment: Payment) -> dict[str, Any]:
    """A payment as a JSON object, without anything that could be used to pay or be served."""
    document: dict[str, Any] = {
        "id": payment.id,
        "state": payment.state.value,
        "route": payment.binding.route,
        "httpMethod": payment.binding.http_method,
    }
    document |= {_camel(name): getattr(payment, name) for name in _SHOWN}
    document |= {_camel(name): _moment(getattr(payment, name)) for name in _MOMENTS}
    return document


def describe_refused(transfer: RefusedTransfer) -> dict[str, Any]:
    """A transfer that reached us and was refused, as a JSON object."""
    return {
        "challengeId": transfer.challenge_id,
        "reference": transfer.reference,
        "route": transfer.route,
        "network": transfer.network,
        "reason": transfer.reason,
        "at": _moment(transfer.at),
    }


def owed_sums(owed: Iterable[Payment]) -> dict[tuple[str, str], tuple[int, int]]:
    """Base units owed and the number of payments, by network and currency, in their order."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for payment in owed:
        amount, rows = sums.get((payment.network, payment.currency), (0, 0))
        sums[payment.network, payment.currency] = (amount + int(payment.amount), rows + 1)
    return dict(sorted(sums.items()))


def render(
    payments: Sequence[Payment],
    refused: Sequence[RefusedTransfer],
    counts: Mapping[State, int],
    owed: Sequence[Payment],
) -> str:
    """The plain text of `payments list`: a table, the refused transfers if there are any, a summary."""
    parts = []
    if payments:
        rows = [
            (
                _moment(payment.created_at),
                payment.state.value,
                payment.binding.route,
                f"{payment.amount} {payment.currency}",
                payment.network,
                payment.payer,
                f"{payment.attempt}/{payment.attempts_allowed}",
                payment.last_status,
                payment.id,
            )
            for payment in payments
        ]
        parts.append(
            tables.render(
                ("CREATED", "STATE", "ROUTE", "AMOUNT", "NETWORK", "PAYER", "ATTEMPT", "STATUS", "ID"), rows
            )
        )
    else:
        parts.append("No payments.")
    if refused:
        transfers = [
            (_moment(transfer.at), transfer.route, transfer.network, transfer.reference, transfer.reason)
            for transfer in refused
        ]
        parts.append(
            "Transfers that reached you and were refused; paying them back is your decision:\n"
            + tables.render(("AT", "ROUTE", "NETWORK", "REFERENCE", "REASON"), transfers)
        )
    total = ", ".join(f"{counts[state]} {state.value}" for state in State if counts.get(state))
    sums = "; ".join(
        f"{amount} base units of {currency} on {network} ({rows} payment{'s' if rows > 1 else ''})"
        for (network, currency), (amount, rows) in owed_sums(owed).items()
    )
    parts.append(f"In all: {total or 'nothing'}. Owed: {sums or 'nothing'}.")
    return "\n\n".join(parts)


def _moment(unix_ms: int | None) -> str | None:
    return tables.moment(unix_ms) if unix_ms else None


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {shown(text)}")
    return int(text)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(message: str, code: int = WRONG_ENVIRONMENT) -> int:
    sys.stderr.write(message + "\n")
    return code
