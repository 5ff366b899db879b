"""The folder in which one machine keeps its gateway."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpp_operator import statedir


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def state(root: Path) -> Iterator[statedir.State]:
    taken = statedir.take(root, limit=0, say=lambda _: None)
    yield taken
    taken.close()


def test_the_folder_is_ours_alone(state: statedir.State) -> None:
    for folder in (state.root, state.secrets, state.outcomes, state.sockets):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_gateway_in_the_same_folder_is_refused(root: Path, state: statedir.State) -> None:
    with pytest.raises(statedir.StateError, match="another gateway runs there; stop it, or choose another"):
        statedir.take(root, limit=0, say=lambda _: None)


def test_the_folder_is_free_again_when_it_is_given_back(root: Path) -> None:
    statedir.take(root, limit=0, say=lambda _: None).close()

    statedir.take(root, limit=0, say=lambda _: None).close()


def test_a_gateway_that_is_ending_is_waited_for(root: Path) -> None:
    first = statedir.take(root, limit=0, say=lambda _: None)
    said: list[str] = []

    def release(line: str) -> None:
        said.append(line)
        threading.Timer(0.05, first.close).start()

    statedir.take(root, limit=10, say=release).close()

    assert said == [f"waiting for the gateway that is ending in {root}"]


def test_a_child_that_inherited_the_lock_keeps_the_folder(root: Path) -> None:
    first = statedir.take(root, limit=0, say=lambda _: None)
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=[first.lock]) as child:
        first.close()

        with pytest.raises(statedir.StateError, match="another gateway"):
            statedir.take(root, limit=0, say=lambda _: None)
        assert child.stdin is not None
        child.stdin.close()
        child.wait()

    statedir.take(root, limit=5, say=lambda _: None).close()


def test_a_folder_that_cannot_be_made_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(statedir.StateError, match="choose another with --state-dir"):
        statedir.take(tmp_path / "file" / "state", limit=0, say=lambda _: None)


def test_a_long_path_keeps_its_sockets_where_they_fit(tmp_path: Path) -> None:
    state = statedir.take(tmp_path / ("long" * 20), limit=0, say=lambda _: None)
    try:
        assert len(os.fsencode(state.sockets)) <= statedir.MAX_SOCKET_FOLDER
        assert stat.S_IMODE(state.sockets.stat().st_mode) == 0o700
        (state.sockets / "left.sock").touch()
    finally:
        state.close()
    assert not state.sockets.exists()


def test_sockets_in_a_folder_that_others_can_enter_are_refused(root: Path) -> None:
    statedir.take(root, limit=0, say=lambda _: None).close()
    sockets = statedir._sockets(root)
    sockets.chmod(0o755)

    with pytest.raises(statedir.StateError, match="nobody else can enter"):
        statedir.take(root, limit=0, say=lambda _: None)
    sockets.rmdir()

    statedir.take(root, limit=0, say=lambda _: None).close()


def test_outcome_files_that_a_crash_left_are_marked_as_ended(state: statedir.State) -> None:
    (state.outcomes / "envoy-1.log").write_text("{}\n")
    (state.outcomes / "envoy-0.ended").write_text("")

    statedir.end_leftovers(state)

    assert sorted(entry.name for entry in state.outcomes.iterdir()) == ["envoy-0.ended", "envoy-1.ended"]
    assert (state.outcomes / "envoy-1.ended").read_text() == "{}\n"


def test_an_envoy_that_wrote_nothing_ends_quietly(state: statedir.State) -> None:
    statedir.end(state.outcomes / "envoy-9.log")

    assert list(state.outcomes.iterdir()) == []


def test_a_signing_key_is_made_once_and_kept_private(state: statedir.State) -> None:
    key, made = statedir.signing_key(state, None)
    again, made_again = statedir.signing_key(state, None)

    assert (made, made_again) == (True, False)
    assert key == again
    assert len(key) == 64
    assert stat.S_IMODE((state.root / "signing.key").stat().st_mode) == 0o600


def test_a_given_signing_key_is_used_and_not_kept(state: statedir.State) -> None:
    assert statedir.signing_key(state, "k" * 32) == ("k" * 32, False)
    assert not (state.root / "signing.key").exists()


def test_a_short_signing_key_is_refused_without_showing_it(state: statedir.State) -> None:
    with pytest.raises(statedir.StateError, match="MPP_SECRET_KEY: expected at least 32 bytes, got 5") as caught:
        statedir.signing_key(state, "hello")

    assert "hello" not in str(caught.value)


@pytest.mark.parametrize("content", [b"short", b"\xff" * 40])
def test_a_damaged_signing_key_is_refused_and_never_replaced(state: statedir.State, content: bytes) -> None:
    (state.root / "signing.key").write_bytes(content)

    with pytest.raises(statedir.StateError, match=r"signing\.key: expected"):
        statedir.signing_key(state, None)
    assert (state.root / "signing.key").read_bytes() == content


def test_a_gateway_keeps_its_name_among_replicas(state: statedir.State) -> None:
    name = statedir.replica(state)

    assert statedir.replica(state) == name
    assert len(name) == 16
    assert stat.S_IMODE((state.root / "replica.id").stat().st_mode) == 0o600


def test_a_copied_folder_is_another_replica(state: statedir.State, tmp_path: Path) -> None:
    name = statedir.replica(state)

    shutil.copytree(state.root, tmp_path / "copy", copy_function=shutil.copy2)
    copy = statedir.take(tmp_path / "copy", limit=0, say=lambda _: None)
    other = statedir.replica(copy)
    copy.close()

    assert other != name
    assert statedir.replica(state) == name


def test_a_moved_folder_is_the_same_replica(root: Path, tmp_path: Path) -> None:
    names = []
    for place in (root, tmp_path / "moved"):
        state = statedir.take(place, limit=0, say=lambda _: None)
        names.append(statedir.replica(state))
        state.close()
        if place == root:
            root.rename(tmp_path / "moved")

    assert names[0] == names[1]


@pytest.mark.parametrize("content", [b"", b"\xff", b"0123456789abcdef\n", b"../../../../etc/x 12\n"])
def test_a_damaged_name_is_replaced(state: statedir.State, content: bytes) -> None:
    name = statedir.replica(state)
    (state.root / "replica.id").write_bytes(content)

    other = statedir.replica(state)

    assert other != name
    assert statedir.replica(state) == other


def test_a_crash_while_a_name_is_made_is_made_up_for(state: statedir.State) -> None:
    (state.root / ".replica.id.new").write_text("half")

    assert len(statedir.replica(state)) == 16


def test_a_name_that_cannot_be_read_is_said(state: statedir.State) -> None:
    (state.root / "replica.id").mkdir()

    with pytest.raises(
        statedir.StateError, match=r"replica\.id: expected a file we can read, got: Is a directory"
    ):
        statedir.replica(state)


def test_a_name_that_cannot_be_kept_is_said(state: statedir.State) -> None:
    (state.root / ".replica.id.new").mkdir()

    with pytest.raises(statedir.StateError, match=r"expected a folder we can write, got: Is a directory"):
        statedir.replica(state)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/mpp-gateway"),
        ({"HOME": "/h"}, "/h/.local/state/mpp-gateway"),
        ({"XDG_STATE_HOME": "", "HOME": "/h"}, "/h/.local/state/mpp-gateway"),
    ],
)
def test_the_default_follows_the_xdg_base_directories(environ: dict[str, str], expected: str) -> None:
    assert statedir.default(environ) == Path(expected)


def test_a_given_signing_key_s_last_line_end_is_no_part_of_it(state: statedir.State) -> None:
    assert statedir.signing_key(state, "k" * 32 + "\n") == ("k" * 32, False)
