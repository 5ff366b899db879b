"""The search for secrets finds what it has to, and is quiet where secrets belong."""

import base64
import json
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import secret_scan
from secret_scan import Known, Leak

SECRET = 'sk-"live"/+é%\\-0123456789'
KEY = "0x" + "5c0ffee1" * 8
LONG = "".join(f"{n:05d}" for n in range(400))


@dataclass
class Gateway:
    """One that has ended."""

    state_dir: Path
    folder: Path
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


@pytest.fixture
def known() -> Known:
    made = Known()
    made.know(secret_scan.CONFIGURED, SECRET)
    made.know(secret_scan.SIGNING_KEY, KEY)
    made.know(secret_scan.CREDENTIAL, LONG)
    return made


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    state = tmp_path / "inputs" / "state"
    (state / "secrets").mkdir(parents=True, mode=0o700)
    return Gateway(state, tmp_path / "inputs")


@pytest.mark.parametrize(
    "planted",
    [
        SECRET,
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(b"user:" + SECRET.encode() + b"!").decode(),
        base64.b64encode(b"1234" + SECRET.encode()).decode(),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        urllib.parse.quote(SECRET),
        urllib.parse.quote(SECRET, safe=""),
        json.dumps({"a": SECRET}),
        json.dumps({"a": SECRET}, ensure_ascii=False),
        repr({"a": SECRET}),
    ],
)
def test_a_planted_secret_is_found_however_it_is_written(known: Known, planted: str) -> None:
    assert secret_scan.leaks({"a log": f"12:00 x={planted} y=1"}, known) == [Leak("a log", "configured secret")]


@pytest.mark.parametrize(
    "planted", [KEY, KEY[2:], KEY[2:].upper(), base64.b64encode(bytes.fromhex(KEY[2:])).decode()]
)
def test_a_key_of_hex_digits_is_found_as_its_bytes_too(known: Known, planted: str) -> None:
    assert secret_scan.leaks({"a log": planted}, known) == [Leak("a log", "signing key")]
    assert known.kinds_in(b"\0" + bytes.fromhex(KEY[2:]) + b"\0") == {"signing key"}


@hypothesis.given(st.integers(0, len(LONG) - 255))
def test_of_a_long_secret_255_characters_are_enough(start: int) -> None:
    known = Known()
    known.know(secret_scan.CREDENTIAL, LONG)

    assert known.kinds_in(b"x" + LONG[start : start + 255].encode() + b"y") == {"credential"}


def test_a_secret_across_the_parts_in_which_a_text_is_read_is_found(known: Known) -> None:
    for before in ((1 << 18) - len(KEY), (1 << 18) - len(KEY) // 2, (1 << 18) - 1, 1 << 18):
        assert known.kinds_in(b"." * before + KEY.encode()) == {"signing key"}


def test_a_text_without_a_secret_is_quiet(known: Known) -> None:
    assert secret_scan.leaks({"a log": "nothing here " * 1000, "empty": ""}, known) == []


def test_a_leak_does_not_tell_the_secret(known: Known) -> None:
    (leak,) = secret_scan.leaks({"a log": KEY}, known)

    assert str(leak) == "a log holds a signing key"
    assert KEY not in repr(known)


def test_what_is_too_short_to_be_a_secret_is_not_looked_for() -> None:
    known = Known()
    known.know(secret_scan.CONFIGURED, "short")

    assert known.kinds_in(b"short") == frozenset()


@pytest.mark.parametrize("name", ["bootstrap.json", "config/rds.json", "outcomes/envoy-1.ended", "run/x"])
def test_a_secret_in_another_file_of_the_state_folder_is_found(known: Known, gateway: Gateway, name: str) -> None:
    path = gateway.state_dir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{"a": "{KEY}"}}')

    assert secret_scan.left_by(gateway, known) == [Leak(f"{name} of the state folder", "signing key")]


def test_secrets_are_where_they_belong(known: Known, gateway: Gateway) -> None:
    (gateway.state_dir / "signing.key").write_text(KEY)
    (gateway.state_dir / "secrets" / "authz.json").write_text(json.dumps([KEY, SECRET]))

    assert secret_scan.left_by(gateway, known) == []


def test_where_one_kind_of_secret_belongs_another_does_not(known: Known, gateway: Gateway) -> None:
    (gateway.state_dir / "secrets" / "authz.json").write_text(LONG)
    (gateway.state_dir / "ledger.db").write_text(LONG)

    assert [leak.kind for leak in secret_scan.left_by(gateway, known)] == ["credential", "credential"]


def test_logs_and_core_files_are_looked_at(known: Known, gateway: Gateway) -> None:
    gateway.stderr.append(f"authz: {KEY}")
    (gateway.folder / "core.4711").write_text("memory")

    assert [leak.kind for leak in secret_scan.left_by(gateway, known)] == ["signing key", "core file"]


def test_what_others_could_read_is_named(gateway: Gateway) -> None:
    gateway.state_dir.chmod(0o700)
    (gateway.state_dir / "signing.key").write_text(KEY)
    (gateway.state_dir / "signing.key").chmod(0o644)

    assert secret_scan.open_to_others(gateway.state_dir) == ["state/signing.key: 644"]


def test_variables_and_files_of_secrets_are_known_but_addresses_are_not(tmp_path: Path) -> None:
    (tmp_path / "tests" / "db").mkdir(parents=True)
    (tmp_path / "tests" / "db" / "url").write_text("postgresql://me:a-long%2Fpassword@localhost/x\n")
    (tmp_path / "tests" / "db" / "to").write_text("0x" + "ab" * 20)
    known = Known()

    secret_scan.know_configured({"OPENAI_API_KEY": "sk-of-openai-1234", "HOME": "/home/somebody"}, tmp_path, known)

    assert known.kinds_in(b"sk-of-openai-1234") == {"configured secret"}
    assert known.kinds_in(b"a-long/password") == {"password"}
    assert known.kinds_in(b"/home/somebody 0x" + b"ab" * 20) == frozenset()


def test_a_credential_and_the_signature_in_it_are_known() -> None:
    signature = "0x76" + "ab12" * 100 + "1c"
    token = base64.urlsafe_b64encode(
        json.dumps({"challenge": {"id": "x" * 43}, "payload": {"signature": signature}}).encode()
    ).decode()
    known = Known()

    secret_scan.know_authorization(f"Payment {token}", known)

    assert known.kinds_in(token.encode()) >= {"credential"}
    assert known.kinds_in(signature[-130:].encode()) == {"signed payment"}
