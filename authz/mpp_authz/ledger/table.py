"""What every SQL store keeps of payments: the columns, a row's values, and the statements they share.

Statements number their parameters ?1, ?2, … as SQLite writes them; other stores rewrite the mark.
"""

import dataclasses
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

from mpp_authz.ledger import MAX_REFUSALS, Binding, Payment, RefusedTransfer, State

_BINDING: Final = tuple(field.name for field in dataclasses.fields(Binding))
_REST: Final = tuple(
    field.name for field in dataclasses.fields(Payment) if field.name not in ("id", "state", "binding")
)
#: The columns in the order in which rows are read and written.
COLUMNS: Final = ("id", "state", *_BINDING, *_REST)
_FLAGS: Final = tuple(COLUMNS.index(name) for name in ("check_ended", "streaming"))
binding_of: Final = attrgetter(*_BINDING)
_rest_of: Final = attrgetter(*_REST)

# Column and table names are ours, from the dataclasses above; every value is a parameter.
_NAMES: Final = ", ".join(COLUMNS)
_SELECT: Final = f"SELECT {_NAMES} FROM payments "  # noqa: S608
#: Parameters: a row.
INSERT: Final = (
    f"INSERT INTO payments ({_NAMES}) VALUES ({', '.join(f'?{at}' for at in range(1, len(COLUMNS) + 1))})"  # noqa: S608
)
#: Parameters: the new row, and the version of the old one.
UPDATE: Final = (
    f"UPDATE payments SET {', '.join(f'{name} = ?{at}' for at, name in enumerate(COLUMNS[1:], start=2))} "  # noqa: S608
    f"WHERE id = ?1 AND version = ?{len(COLUMNS) + 1}"
)
BEAT: Final = (
    "INSERT INTO data_planes (id, seen_at, ended) VALUES (?1, ?2, FALSE) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
)
END_DATA_PLANE: Final = (
    "INSERT INTO data_planes (id, seen_at, ended) VALUES (?1, ?2, TRUE) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, ended = TRUE"
)
DATA_PLANE: Final = "SELECT seen_at, ended FROM data_planes WHERE id = ?1"
#: Parameters: how their names begin, and the moment.
LIVING: Final = (
    "SELECT id FROM data_planes WHERE seen_at >= ?2 AND NOT ended AND substr(id, 1, length(?1)) = ?1 ORDER BY id"
)
FORGET_DATA_PLANES: Final = (
    "DELETE FROM data_planes WHERE id IN (SELECT id FROM data_planes WHERE seen_at < ?1 LIMIT ?2)"
)
FORGET_FAILED: Final = (
    "DELETE FROM payments WHERE id IN "
    "(SELECT id FROM payments WHERE state = 'FAILED' AND created_at < ?1 LIMIT ?2)"
)
#: Parameters: as `refusal_of` gives them.
REFUSE: Final = (
    "INSERT INTO refused_transfers (challenge_id, reference, route, network, reason, at) "  # noqa: S608
    "SELECT ?1, ?2, ?3, ?4, ?5, ?6 "
    f"WHERE (SELECT count(*) FROM refused_transfers WHERE reference = ?2) < {MAX_REFUSALS} "
    "ON CONFLICT DO NOTHING"
)
REMEMBER_NETWORK: Final = (
    "INSERT INTO networks (name, document) VALUES (?1, ?2) "
    "ON CONFLICT (name) DO UPDATE SET document = excluded.document"
)
NETWORKS: Final = "SELECT name, document FROM networks ORDER BY name"
BORN_AT: Final = "SELECT applied_at FROM migrations WHERE version = 1"


def queries(arrival: str, among: str) -> dict[str, str]:
    """What is asked of payments; a test of each store holds every one against its index.

    `arrival` is the column that rises with each row, `among` what follows `state` to mean "one of those in ?1".
    """
    # One branch an index, each cut to the limit, so that a pile of waiting rows is never read through.
    due = " UNION ALL ".join(
        f"SELECT * FROM ({_SELECT}{where} ORDER BY lease_until, id LIMIT ?2) AS {name}"  # noqa: S608
        for name, where in (
            ("settling", "WHERE state = 'SETTLING' AND lease_until <= ?1"),
            ("delivering", "WHERE state = 'DELIVERING' AND lease_until <= ?1"),
            ("unknown", "WHERE state = 'UNKNOWN' AND lease_until <= ?1"),
            ("credit", "WHERE state = 'CREDIT' AND life_until <= ?1"),
        )
    )
    return {
        "get": _SELECT + "WHERE id = ?1",
        "by_reference": _SELECT + "WHERE reference = ?1 AND state <> 'FAILED'",
        "unfinished": _SELECT
        + "WHERE payer = ?1 AND route = ?2 AND http_method = ?3 AND target_hash = ?4 AND digest = ?5 "
        f"AND currency = ?6 AND state IN ('SETTLING', 'UNKNOWN', 'DELIVERING', 'CREDIT') "
        f"ORDER BY created_at, {arrival}",
        "due": f"{due} ORDER BY lease_until, id LIMIT ?2",
        "delivering_at": _SELECT
        + f"WHERE state = 'DELIVERING' AND data_plane = ?1 ORDER BY created_at, {arrival}",
        "settled_since": _SELECT
        + "WHERE settled_at IS NOT NULL AND state <> 'SPENT' AND (settled_at, id) > (?1, ?2) "
        "ORDER BY settled_at, id LIMIT ?3",
        "listing": _SELECT + f"ORDER BY created_at DESC, {arrival} DESC LIMIT ?1",
        "listing_of": _SELECT + f"WHERE state {among} ORDER BY created_at DESC, {arrival} DESC LIMIT ?2",
        "counts": "SELECT state, count(*) FROM payments GROUP BY state",
    }


def refused(arrival: str) -> str:
    """Refused transfers, newest first."""
    return (
        "SELECT challenge_id, reference, route, network, reason, at FROM refused_transfers "  # noqa: S608
        f"ORDER BY at DESC, {arrival} DESC LIMIT ?1"
    )


def row_of(payment: Payment) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (payment.id, payment.state.value, *binding_of(payment.binding), *_rest_of(payment))


def replacement(old: Payment, new: Payment) -> tuple[Any, ...]:
    """The parameters of UPDATE.

    Raises:
        ValueError: they are not the same payment.
    """
    if new.id != old.id:
        raise ValueError(f"replace: expected a row with the same id, got {new.id!r} for {old.id!r}")
    return (*row_of(dataclasses.replace(new, version=old.version + 1)), old.version)


def payment_of(row: Sequence[Any]) -> Payment:
    """What `row_of` made a row of."""
    values = list(row)
    for at in _FLAGS:
        values[at] = bool(values[at])
    return Payment(values[0], State(values[1]), Binding(*values[2:6]), *values[6:])


def refusal_of(transfer: RefusedTransfer, now: int) -> tuple[Any, ...]:
    """The parameters of REFUSE; `at` 0 becomes now."""
    return (
        transfer.challenge_id,
        transfer.reference,
        transfer.route,
        transfer.network,
        transfer.reason,
        transfer.at or now,
    )
