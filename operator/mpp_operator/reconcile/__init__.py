"""`mpp-gateway payments reconcile`: every transfer to us has a row, and every row its transfer. Reads only.

    declared, networks --> audit --> piles --> balance --> report

`audit` reads the ledger and the chains, `piles` sorts what was read by transaction, `balance` judges, and `report`
tells. This file is the command line.
"""

import argparse
import contextlib
import json
import os
import re
import sqlite3
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mpp_authz.ledger import Ledger
from mpp_authz.methods.history import HistoryUnavailable
from mpp_operator import local_secrets
from mpp_operator.console import DONE, OFF_BALANCE, WRONG_ENVIRONMENT, Failure
from mpp_operator.document import shown
from mpp_operator.reconcile import audit, declared, report
from mpp_operator.reconcile.networks import Networks

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_AGO: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only `reconcile` takes."""
    group = parser.add_argument_group("reconcile")
    group.add_argument(
        "--since",
        metavar="WHEN",
        type=_edge,
        help="from then on: a time, 24h, or a block (default: the beginning)",
    )
    group.add_argument("--until", metavar="WHEN", type=_edge, help="until then (default: all that is final)")
    group.add_argument(
        "--confirmations",
        metavar="N",
        type=_whole,
        help="blocks that must follow (default: what the chain calls final)",
    )
    group.add_argument(
        "--realm", metavar="REALM", action="append", default=[],
        help="a realm of this ledger, where recipients are shared with others; may be given more than once",
    )  # fmt: skip
    group.add_argument("--config", metavar="FILE", type=Path, help="gateway.yaml: networks, recipients never paid")
    group.add_argument(
        "-f", "--file", dest="files", metavar="FILE", type=Path, nargs="+", action="extend", default=[],
        help="PaidServices, for the same",
    )  # fmt: skip
    group.add_argument(
        "--secrets-dir", metavar="DIR", type=Path, help="where their recipients are written, if secret"
    )


async def run(ledger: Ledger, args: argparse.Namespace, folder: Path | None) -> int:
    """Compare, print, and give the exit code: 0 balanced, 4 something is off. `folder` is the state folder whose
    pricing tells of networks and recipients, None where there is none.

    Raises:
        Failure: something that was asked for cannot be, or a chain cannot be read to its end.
        LedgerUnavailable: the store did not answer.
    """
    found = declared.read(args.files, args.config, local_secrets.Folder(args.secrets_dir, os.environ), folder)
    scope = audit.Scope(args.since, args.until, args.confirmations, tuple(args.realm), args.limit)
    networks = Networks(found.networks, await ledger.networks())
    async with contextlib.aclosing(audit.Audit(ledger, networks, scope)) as reading:
        try:
            result = await reading.run(found.targets)
        except HistoryUnavailable as error:
            raise Failure(
                WRONG_ENVIRONMENT,
                f"{error}",
                "Nothing was concluded: try again, or name other nodes with --config.",
            ) from error
        except sqlite3.Error as error:  # of the temporary file; the ledger's own are LedgerUnavailable
            raise Failure(
                WRONG_ENVIRONMENT,
                f"temporary folder: expected about two kilobytes for each payment, got: {error}",
                "Name a folder with more space in TMPDIR.",
            ) from error
    text = json.dumps(report.document(result), indent=2) if args.json else report.render(result)
    sys.stdout.write(text + "\n")
    return DONE if result.balanced else OFF_BALANCE


def _edge(text: str) -> audit.Edge:
    """A block's number, or a moment: RFC 3339, a date, or so long ago."""
    if _NUMBER.fullmatch(text):
        return int(text)
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            seconds = int(ago[1]) * _UNITS[ago[2]]
            return datetime.fromtimestamp(datetime.now(UTC).timestamp() - seconds, UTC)
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"expected a time such as 2030-01-31T12:00:00Z, so long ago such as 24h, or a block, got {shown(text)}"
        ) from None


def _whole(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {shown(text)}")
    return int(text)
