"""`mpp-gateway payments`: what a person sees of the ledger, and what nobody sees."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from ledgers import payment

from mpp_authz.ledger import Payment, RefusedTransfer, State
from mpp_authz.ledger.sqlite import SQLiteLedger
from mpp_operator import console, directory, payments

HIDDEN = {"credential_hash": "hidden-credential", "envelope": "0xhidden", "idempotency_hash": "hidden-key"}
ROWS = (
    payment("c1", State.DELIVERED, created_at=1_700_000_000_000, attempt=1, last_status=200, **HIDDEN),
    payment("c2", State.OWED, created_at=1_700_000_060_000, attempt=3, last_status=503, **HIDDEN),
    payment("c3", State.OWED, created_at=1_700_000_120_000, amount="7", last_flags="UF\x1b[2J", **HIDDEN),
)
REFUSED = RefusedTransfer("c9", "0xfee", "shop/llm/complete", "moderato", "memo-mismatch", at=1_700_000_000_000)


def fill(file: Path, rows: tuple[Payment, ...] = ROWS, refused: tuple[RefusedTransfer, ...] = (REFUSED,)) -> None:
    async def write() -> None:
        ledger = await SQLiteLedger.open(file)
        for row in rows:
            await ledger.insert(row)
        for transfer in refused:
            await ledger.refuse(transfer)
        await ledger.close()

    asyncio.run(write())


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    payments.add_arguments(parser)
    return parser.parse_args(words)


def command(*words: str) -> int:
    return payments.run(arguments(*words))


def test_the_list_is_a_table_with_refused_transfers_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "ledger.db")

    assert command("--state-dir", str(tmp_path)) == 0

    expected = """\
CREATED               STATE      ROUTE              AMOUNT      NETWORK   PAYER  ATTEMPT  STATUS  ID
2023-11-14T22:15:20Z  OWED       shop/llm/complete  7 0xc0      moderato  0xbb   0/3      -       c3
2023-11-14T22:14:20Z  OWED       shop/llm/complete  50000 0xc0  moderato  0xbb   3/3      503     c2
2023-11-14T22:13:20Z  DELIVERED  shop/llm/complete  50000 0xc0  moderato  0xbb   1/3      200     c1

Transfers that reached you and were refused; paying them back is your decision:
AT                    ROUTE              NETWORK   REFERENCE  REASON
2023-11-14T22:13:20Z  shop/llm/complete  moderato  0xfee      memo-mismatch

In all: 1 DELIVERED, 2 OWED. Owed: 50007 base units of 0xc0 on moderato (2 payments).
"""
    assert capsys.readouterr().out == expected


def test_an_empty_ledger_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "ledger.db", (), ())

    assert command("list", "--ledger", f"sqlite:{tmp_path / 'ledger.db'}") == 0

    assert capsys.readouterr().out == "No payments.\n\nIn all: nothing. Owed: nothing.\n"


def read(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_json_holds_the_same_and_filters_by_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "ledger.db")

    assert command("list", "--json", "--state", "delivered", "--state-dir", str(tmp_path)) == 0

    document = read(capsys)
    assert [row["id"] for row in document["payments"]] == ["c1"]
    assert document["counts"] == {"DELIVERED": 1, "OWED": 2}
    assert document["owed"] == [{"network": "moderato", "currency": "0xc0", "amount": "50007", "payments": 2}]
    assert [transfer["reference"] for transfer in document["refusedTransfers"]] == ["0xfee"]


def test_a_payment_is_shown_without_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "ledger.db")

    assert command("show", "c3", "--state-dir", str(tmp_path)) == 0

    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["state"], lines["lastFlags"], lines["settledAt"]) == ("OWED", "UF?[2J", "-")
    assert lines["createdAt"] == "2023-11-14T22:15:20Z"


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("show", "c1"), ("show", "c1", "--json")])
def test_nothing_that_could_be_presented_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    fill(tmp_path / "ledger.db")

    assert command(*arguments, "--state-dir", str(tmp_path)) == 0

    out = capsys.readouterr().out
    assert "c1" in out
    assert "hidden" not in out


def test_it_works_while_the_gateway_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def beside() -> int:
        ledger = await SQLiteLedger.open(tmp_path / "ledger.db")
        await ledger.insert(ROWS[0])
        code = await asyncio.to_thread(command, "--json", "--state-dir", str(tmp_path))
        await ledger.insert(ROWS[1])
        await ledger.close()
        return code

    assert asyncio.run(beside()) == 0
    assert [row["id"] for row in read(capsys)["payments"]] == ["c1"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show",), 2, "payments show: expected the challenge id of a payment, got none"),
        (("list", "c1"), 2, "payments list: expected no id, got 'c1'"),
        (("reconcile", "c1"), 2, "payments reconcile: expected no id, got 'c1'"),
        (("show", "c0", "--state-dir", "."), 1, "no payment with the id 'c0'"),
        (("--ledger", "redis://x"), 1, "ledger: expected sqlite:/path/to/ledger.db"),
        (("--ledger", "redis://x"), 1, "got the scheme 'redis'"),
        (("--state-dir", "none"), 3, "none/ledger.db: expected the ledger of a gateway that runs or has run"),
        (("--state-dir", "none"), 3, "Name the gateway's state folder with --state-dir"),
        (("--state-dir", "ledger.db"), 3, "ledger.db/ledger.db: expected the ledger of a gateway that runs"),
        (("--ledger", "sqlite:none.db"), 3, "none.db: it cannot be opened; to read it, it must be there"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    fill(tmp_path / "ledger.db")
    monkeypatch.chdir(tmp_path)

    assert command(*arguments) == code

    assert message in capsys.readouterr().err


def test_the_default_is_the_state_folder_of_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mpp-gateway").mkdir()
    fill(tmp_path / "mpp-gateway" / "ledger.db")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    assert command("--limit", "1", "--json") == 0

    assert [row["id"] for row in read(capsys)["payments"]] == ["c3"]


def test_a_gateway_whose_ledger_is_elsewhere_says_where(tmp_path: Path) -> None:
    fill(tmp_path / "ledger.db")  # of a time before PostgreSQL
    directory.publish(tmp_path / "secrets", {"ledger.url": "postgresql://me:pw@db/x\n"}, mode=0o600)

    assert payments.address(arguments("--state-dir", str(tmp_path))) == f"file:{tmp_path / 'secrets/ledger.url'}"


def test_a_state_folder_of_somebody_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bool:  # root, who may look anywhere, runs tests, too
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)

    with pytest.raises(console.Failure, match="expected a folder we can read, got: Permission denied"):
        payments.address(arguments("--state-dir", str(tmp_path)))


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_is_a_number_from_one(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(f"--limit={limit}")
    assert "expected a number from 1" in capsys.readouterr().err
