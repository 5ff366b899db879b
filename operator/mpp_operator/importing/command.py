"""`mpp-gateway import`: reads a description, writes a PaidService. Decides nothing."""

import argparse
import os
from pathlib import Path

from mpp_operator import console, directory, importing
from mpp_operator.discovery import descriptions
from mpp_operator.importing import text


def run(options: argparse.Namespace, out: console.Console) -> int:
    """Write the PaidService; say what a person should know of it.

    Raises:
        Failure: no PaidService can be made of it, or it cannot be written.
    """
    if options.force and options.output is None:
        raise console.Failure(console.WRONG_USAGE, "--force: expected only with --output, got no --output")
    terms = importing.Terms(
        price=options.price,
        currency=options.currency,
        network=options.network,
        recipient=options.recipient,
        upstream=options.upstream,
        name=options.name,
        namespace=options.namespace,
        hosts=tuple(options.host),
        only=tuple(options.only),
        free=tuple(options.free),
    )
    try:
        imported = importing.service(
            _text(options.description), terms, _seen_from(options.output, options.description)
        )
    except importing.ImportingError as error:
        problems = (p if p.startswith("--") else f"{options.description}: {p}" for p in error.problems)
        raise console.Failure(console.WRONG_INPUT, *problems) from error
    written = text.render(imported, options.description.name)
    if options.output is None:
        out.result(written.rstrip("\n"))
    else:
        _write(options.output, written, force=options.force)
    for note in imported.notes:
        out.warn(f"{options.description}: {note}")
    where = f" in {options.output}" if options.output is not None else ""
    out.say(f"{imported.paid + imported.free} routes, {imported.free} of them free{where}")
    return console.DONE


def _text(path: Path) -> str:
    longest = 4 * descriptions.MAX_DOCUMENT  # bytes of that many characters
    try:
        with path.open("rb") as file:
            content = file.read(longest + 1)
        if len(content) > longest:
            raise console.Failure(console.WRONG_INPUT, f"{path}: expected at most {longest >> 20} MiB, got more")
        return content.decode("utf-8")
    except OSError as error:
        raise console.Failure(
            console.WRONG_INPUT, f"{path}: expected a file we can read, got: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise console.Failure(console.WRONG_INPUT, f"{path}: expected UTF-8 text, got other bytes") from error


def _seen_from(output: Path | None, description: Path) -> str:
    """The description's path as the PaidService's file finds it. What goes to stdout is taken to be put here."""
    if description.is_absolute():
        return str(description)
    return os.path.relpath(description, Path() if output is None else output.parent)


def _write(path: Path, written: str, *, force: bool) -> None:
    try:
        (directory.replace if force else directory.write)(path, written, mode=0o644)
    except FileExistsError as error:
        raise console.Failure(
            console.WRONG_INPUT, f"{path}: expected no file there, got one; write over it with --force"
        ) from error
    except OSError as error:
        raise console.Failure(
            console.WRONG_ENVIRONMENT, f"{path}: expected a file we can write, got: {error.strerror}"
        ) from error
