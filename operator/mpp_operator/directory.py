"""Folders that are swapped as kubelet swaps a ConfigMap volume: readers see the old files or the new, never a mix.

    config/..17/rds.json        one generation
    config/..data -> ..17       renamed over in one step: the moment of change
    config/rds.json -> ..data/rds.json
    config/discovery/<hash>.json   outside of the generations: added before the swap, taken away long after

What the files of a generation refer to by name lies in folders beside them. There a name is a hash of the text, so
old and new files live side by side, and a reader of an old generation still finds what that named.

Knows nothing of what is in the files. One writer per folder (the caller's lock), any number of readers.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_DATA: Final = "..data"
_GENERATION: Final = re.compile(r"\.\.[0-9]+")
_NAME: Final = re.compile(r"(?!\.\.)[^/]+(/(?!\.)[^/]+)?")

#: Seconds for which a file that is named no more stays for the readers of what named it. They read in seconds.
KEPT: Final = 600.0


def publish(path: Path, files: Mapping[str, str], *, mode: int = 0o644) -> bool:
    """Make `path` hold exactly `files` ({name: text}), all at once; tell whether anything changed.

    A name with a folder (`discovery/<hash>.json`) always has the same text. Such files are added before the rest
    changes, and stay for `KEPT` seconds after the last publication that named them.

    Files get `mode`; folders get the same with the search bit where it can be read. A crash leaves the old
    generation or the new. After a power cut files may be short: no fsync, because every writer publishes again
    when it starts and compares bytes.

    Raises:
        ValueError: a name is neither a plain file name nor one in a folder.
        OSError: the folder cannot be written.
    """
    for name in files:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{path}: expected plain file names, or one folder and such a name, got {name!r}")
    _make(path, _folder_mode(mode))
    lasting = {name: text for name, text in files.items() if "/" in name}
    files = {name: text for name, text in files.items() if name not in lasting}
    added = _add(path, lasting, mode)
    changed = _swap(path, files, mode)
    _forget(path, lasting)
    return changed or added


def _swap(path: Path, files: Mapping[str, str], mode: int) -> bool:
    if read(path) == files:
        return False
    current = _current(path)
    number = max((int(entry.name[2:]) for entry in _generations(path)), default=0) + 1
    generation = path / f"..{number}"
    _make(generation, _folder_mode(mode))
    for name, text in files.items():
        write(generation / name, text, mode=mode)
    # Links before the swap: who is woken by the swap finds every name.
    for name in files:
        _link(path / name, f"{_DATA}/{name}")
    _link(path / _DATA, generation.name)
    _prune(path, files, keep={generation.name, current})
    return True


def read(path: Path) -> dict[str, str]:
    """The files of the current generation, without those in folders; empty when there is none."""
    try:
        entries = sorted((path / _DATA).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {entry.name: entry.read_bytes().decode(errors="replace") for entry in entries}


def write(path: Path, text: str, *, mode: int, durable: bool = False) -> None:
    """Create a file that never existed with wider permissions than `mode`. `durable`: it survives a power cut.

    Raises:
        FileExistsError: there is one; nothing was written.
        OSError: it cannot be written; there is none.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def replace(path: Path, text: str, *, mode: int) -> None:
    """Make `path` hold `text`, whatever was there: readers find the old text or the new one, whole. Leaves nothing
    beside it, whatever fails.

    Raises:
        OSError: it cannot be written; what was there has not changed.
    """
    fresh = path.parent / f".{path.name}.{os.getpid()}"  # also where `path` has no name, as `.`
    fresh.unlink(missing_ok=True)  # of a process that had this id and was killed
    write(fresh, text, mode=mode)
    try:
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def sync(folder: Path) -> None:
    """Let the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- files in folders, which stay -------------------------------------------------------------------------


def _add(path: Path, files: Mapping[str, str], mode: int) -> bool:
    """Write what is missing, or damaged by a power cut; note of all that they were published now."""
    for folder in {name.partition("/")[0] for name in files}:
        _make(path / folder, _folder_mode(mode))
    added = False
    for name, text in files.items():
        file = path / name
        with contextlib.suppress(FileNotFoundError):
            if file.read_bytes() == text.encode():
                os.utime(file)
                continue
        replace(file, text, mode=mode)  # whoever finds the name finds the whole text
        added = True
    return added


def _forget(path: Path, files: Mapping[str, str]) -> None:
    """Take away what has not been published for long."""
    oldest = time.time() - KEPT
    for folder in path.iterdir():
        if folder.is_symlink() or not folder.is_dir() or folder.name.startswith(".."):
            continue
        for file in folder.iterdir():
            stale = f"{folder.name}/{file.name}" not in files and file.lstat().st_mtime < oldest
            if stale and file.is_file():
                file.unlink()


# --- generations -----------------------------------------------------------------------------------------


def _folder_mode(mode: int) -> int:
    return mode | 0o100 | (mode & 0o044) >> 2


def _make(path: Path, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    path.chmod(mode)


def _current(path: Path) -> str:
    link = path / _DATA
    return link.readlink().name if link.is_symlink() else ""


def _generations(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if _GENERATION.fullmatch(entry.name)]


def _link(link: Path, target: str) -> None:
    """Point a symbolic link at `target` in one step, whatever was there."""
    if link.is_symlink() and os.fspath(link.readlink()) == target:
        return
    fresh = link.with_name(f"..tmp-{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _prune(path: Path, files: Mapping[str, str], *, keep: set[str]) -> None:
    """Drop links to names that are gone, and all generations but the new and the last: a reader may be in that."""
    for entry in path.iterdir():
        if entry.is_symlink() and entry.name not in files and entry.name != _DATA:
            entry.unlink()
    for generation in _generations(path):
        if generation.name not in keep:
            shutil.rmtree(generation)
