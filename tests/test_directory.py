"""Folders that are swapped in one step."""

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpp_operator import directory

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}\.json", fullmatch=True)
FILES = st.dictionaries(NAMES, st.text(alphabet="abc\n\u20ac", max_size=20), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(generations=st.lists(FILES, min_size=1, max_size=5))
def test_what_was_published_last_is_what_there_is(
    tmp_path_factory: pytest.TempPathFactory, generations: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("swap")

    for files in generations:
        before = directory.read(path)
        changed = directory.publish(path, files)

        assert directory.read(path) == files
        assert {e.name: e.read_text() for e in path.iterdir() if not e.name.startswith("..")} == files
        assert changed == (before != files)


def test_the_same_files_again_touch_nothing(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"rds.json": "{}"})
    before = os.lstat(tmp_path / "..data").st_ino

    assert not directory.publish(tmp_path, {"rds.json": "{}"})
    assert os.lstat(tmp_path / "..data").st_ino == before


def test_the_last_generation_stays_for_its_readers_and_older_ones_go(tmp_path: Path) -> None:
    for number in range(5):
        directory.publish(tmp_path, {"rds.json": str(number)})

    assert sorted(e.name for e in tmp_path.iterdir() if e.is_dir() and not e.is_symlink()) == ["..4", "..5"]
    assert (tmp_path / "..4" / "rds.json").read_text() == "3"


def test_a_reader_never_sees_a_mix(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"a": "0", "b": "0"})
    stop = threading.Event()
    mixes: list[tuple[str, str]] = []
    reads = 0

    def watch() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                generation = os.open(tmp_path / "..data", os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # pruned between the link and where it leads
                continue
            pair = []
            try:
                for name in ("a", "b"):
                    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=generation)) as file:
                        pair.append(file.read())
            except FileNotFoundError:  # two generations later: pruned
                continue
            finally:
                os.close(generation)
            reads += 1
            if pair[0] != pair[1]:
                mixes.append((pair[0], pair[1]))

    reader = threading.Thread(target=watch)
    reader.start()
    for number in range(1, 200):
        directory.publish(tmp_path, {"a": str(number), "b": str(number)})
    stop.set()
    reader.join()

    assert reads > 0
    assert mixes == []


def test_secret_files_and_their_folders_are_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets"

    directory.publish(path, {"authz.json": "{}"}, mode=0o600)

    assert stat.S_IMODE((path / "authz.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "..data").stat().st_mode) == 0o700


def test_config_files_can_be_read_by_others(tmp_path: Path) -> None:
    directory.publish(tmp_path / "config", {"rds.json": "{}"})

    assert stat.S_IMODE((tmp_path / "config" / "rds.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["", "a/b/c", "..data", "../x", "a/..", "a/.b", "/a"])
def test_a_name_that_is_not_a_plain_file_name_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="plain file names"):
        directory.publish(tmp_path, {name: "x"})

    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_by_a_power_loss_is_written_again(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"rds.json": "whole"})
    (tmp_path / "..data" / "rds.json").write_text("")

    assert directory.publish(tmp_path, {"rds.json": "whole"})
    assert (tmp_path / "rds.json").read_text() == "whole"


def test_a_plain_file_in_the_way_becomes_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "rds.json").write_text("left by hand")

    directory.publish(tmp_path, {"rds.json": "ours"})

    assert (tmp_path / "rds.json").read_text() == "ours"


def test_a_durable_file_is_never_overwritten(tmp_path: Path) -> None:
    directory.write(tmp_path / "signing.key", "first", mode=0o600, durable=True)

    with pytest.raises(FileExistsError):
        directory.write(tmp_path / "signing.key", "second", mode=0o600, durable=True)
    assert (tmp_path / "signing.key").read_text() == "first"


def test_a_file_is_replaced_as_a_whole_with_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    path.write_text("old")
    (tmp_path / f".service.yaml.{os.getpid()}").write_text("of one that was killed")

    directory.replace(path, "new", mode=0o640)

    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("service.yaml", "new")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()

    for folder in (tmp_path / "folder", Path()):
        with pytest.raises(OSError, match=r"directory|busy"):
            directory.replace(folder, "text", mode=0o644)

    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


# --- files in folders, which stay ------------------------------------------------------------------------


def test_a_file_that_is_named_no_more_stays_for_who_reads_the_old_generation(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"rds.json": "old", "discovery/1.json": "one"})

    assert directory.publish(tmp_path, {"rds.json": "new", "discovery/2.json": "two"})

    assert {e.name: e.read_text() for e in (tmp_path / "discovery").iterdir()} == {
        "1.json": "one",
        "2.json": "two",
    }
    assert directory.read(tmp_path) == {"rds.json": "new"}


def test_a_file_that_was_not_named_for_long_is_taken_away(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"rds.json": "old", "discovery/1.json": "one", "discovery/2.json": "two"})
    long_ago = time.time() - directory.KEPT - 1
    for file in (tmp_path / "discovery").iterdir():
        os.utime(file, (long_ago, long_ago))

    directory.publish(tmp_path, {"rds.json": "new", "discovery/2.json": "two"})
    directory.publish(tmp_path, {"rds.json": "newer"})

    assert [e.name for e in (tmp_path / "discovery").iterdir()] == ["2.json"]


def test_a_lasting_file_cut_short_by_a_power_loss_is_written_again(tmp_path: Path) -> None:
    directory.publish(tmp_path, {"rds.json": "", "discovery/1.json": "whole"})
    (tmp_path / "discovery" / "1.json").write_text("wh")

    assert directory.publish(tmp_path, {"rds.json": "", "discovery/1.json": "whole"})
    assert (tmp_path / "discovery" / "1.json").read_text() == "whole"
    assert not directory.publish(tmp_path, {"rds.json": "", "discovery/1.json": "whole"})


def test_lasting_files_are_there_before_the_swap(tmp_path: Path) -> None:
    (tmp_path / "discovery").mkdir()
    (tmp_path / "discovery" / f".1.json.{os.getpid()}").mkdir()  # it cannot be written

    with pytest.raises(OSError, match="directory"):
        directory.publish(tmp_path, {"rds.json": "", "discovery/1.json": "one"})

    assert directory.read(tmp_path) == {}


def test_what_else_lies_in_a_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "discovery" / "deeper").mkdir(parents=True)
    os.utime(tmp_path / "discovery" / "deeper", (0, 0))

    directory.publish(tmp_path, {"rds.json": ""})

    assert (tmp_path / "discovery" / "deeper").is_dir()
