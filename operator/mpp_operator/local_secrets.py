"""Where credentials come from on one machine: a folder laid out like Secrets, else environment variables.

The only module here that reads secret values. It puts none of them into a message.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mpp_operator import ir, presets

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")


class SecretsError(Exception):
    """Some secrets cannot be used. `problems` is one line for each, with where it may be put."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Folder:
    """Secrets of this machine: `directory/<namespace>/<name>/<key>`, and the environment."""

    directory: Path | None  # None: the environment only
    environ: Mapping[str, str]


def variable(source: ir.SecretSource) -> str:
    """The environment variable of a secret: {name: openai, key: api-key} is OPENAI_API_KEY."""
    return presets.environment_name(source.name, source.key)


def resolve(sources: Iterable[ir.SecretSource], folder: Folder) -> dict[ir.SecretSource, str]:
    """Every secret's value, without the line end that editors add.

    Raises:
        SecretsError: with every problem at once: missing or empty, unreadable, or one variable that
            two namespaces would share without having said so.
    """
    values: dict[ir.SecretSource, str] = {}
    problems: list[str] = []
    takers: dict[str, list[ir.SecretSource]] = {}
    for source in sorted(set(sources), key=lambda s: (s.namespace, s.name, s.key)):
        path = _path(source, folder.directory)
        try:
            text = path.read_text(encoding="utf-8") if path is not None else None
        except (FileNotFoundError, NotADirectoryError):
            text = None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            problems.append(f"{_title(source)}: expected a file we can read at {path}, got: {reason}")
            continue
        if text is None:
            takers.setdefault(variable(source), []).append(source)
            continue
        values[source] = text.removesuffix("\n").removesuffix("\r")
        if not values[source]:
            problems.append(f"{_title(source)}: expected a value in {path}, got an empty file")
    for name, wanting in sorted(takers.items()):
        problems += _from_environment(name, wanting, folder, values)
    if problems:
        raise SecretsError(tuple(problems))
    return values


def _from_environment(
    name: str, wanting: list[ir.SecretSource], folder: Folder, values: dict[ir.SecretSource, str]
) -> list[str]:
    value = folder.environ.get(name, "").removesuffix("\n").removesuffix("\r")
    if not value:
        meant = difflib.get_close_matches(name, folder.environ, 1, 0.85) if name not in folder.environ else []
        near = f"; is {meant[0]} misspelled?" if meant else ""
        return [
            f"{_title(source)}: expected a value in {_place(source, folder.directory)} "
            f"or in the environment as {name}, found neither{near}"
            for source in wanting
        ]
    if len(wanting) > 1:
        titles = " and ".join(map(_title, wanting))
        places = " and ".join(_place(source, folder.directory) for source in wanting)
        return [f"{titles}: all would be the environment's {name}; give each its own file: {places}"]
    values[wanting[0]] = value
    return []


def _title(source: ir.SecretSource) -> str:
    return f"secret {source.namespace}/{source.name} key {source.key}"


def _path(source: ir.SecretSource, directory: Path | None) -> Path | None:
    parts = (source.namespace, source.name, source.key)
    if directory is None or any(not _PLAIN.fullmatch(part) or part in (".", "..") for part in parts):
        return None
    return directory.joinpath(*parts)


def _place(source: ir.SecretSource, directory: Path | None) -> str:
    return f"{directory or '<--secrets-dir>'}/{source.namespace}/{source.name}/{source.key}"
