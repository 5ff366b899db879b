"""Folders on file systems of their own: a small disk, soon full, and one that cannot be written. Linux, root."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import missing
import pytest


def _mount(options: str, folder: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "mpp-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    missing.error_or_skip(
        f"cannot mount a tmpfs at {folder} ({done.stderr.strip()}); run as root, in a container with CAP_SYS_ADMIN"
    )


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB, empty."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("size=1m,mode=0700", folder)
    yield folder
    _unmount(folder)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds nothing and takes nothing."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    _mount("size=1m,ro", folder)
    yield folder
    _unmount(folder)


def fill(folder: Path, leave: int = 0) -> Path:
    """Write a file that leaves `leave` bytes of the disk free; remove it to have them back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    if leave:
        os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler
