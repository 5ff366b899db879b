"""Which store an address names, and that no message shows what may be a password."""

import socket
import ssl
import urllib.parse
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import payment

from mpp_authz.ledger import LedgerUnavailable, stores
from mpp_authz.ledger.postgres import addresses, faults


def test_each_host_has_an_address_of_its_own() -> None:
    found = addresses.parse("postgres://u:p%40@one:1,two,[::1]:3/shop?sslmode=require")

    assert found.name == "postgresql://one:1,two,[::1]:3/shop"
    assert found.hosts == ("one:1", "two", "[::1]:3")
    assert found.urls == tuple(f"postgres://u:p%40@{host}/shop?sslmode=require" for host in found.hosts)


def test_hosts_may_be_options() -> None:
    found = addresses.parse("postgresql:///shop?host=/run/a,two&port=1,2&user=u")

    assert found.hosts == ("/run/a:1", "two:2")
    assert found.urls == (
        "postgresql:///shop?user=u&host=%2Frun%2Fa&port=1",
        "postgresql:///shop?user=u&host=two&port=2",
    )


def test_one_port_is_every_host_s() -> None:
    assert addresses.parse("postgresql:///shop?host=a,b&port=7").hosts == ("a:7", "b:7")


def test_no_host_is_the_local_socket() -> None:
    found = addresses.parse("postgresql://u@/shop")

    assert found.name == "postgresql://local socket/shop"
    assert found.urls == ("postgresql://u@/shop",)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_password_may_be_encoded(password: str) -> None:
    encoded = urllib.parse.quote(password, safe="")

    found = addresses.parse(f"postgresql://u:{encoded}@host:1/shop")

    assert found.name == repr(found).removeprefix("Address('").removesuffix("')") == "postgresql://host:1/shop"
    assert urllib.parse.unquote(urllib.parse.urlsplit(found.urls[0]).password or "") == password


def told(url: str) -> str:
    """All that is ever said of an address."""
    try:
        found = addresses.parse(url)
    except ValueError as error:
        return str(error)
    return found.name + repr(found)


@given(st.text("ab1@/?#:%[],&= \\", max_size=8))
def test_a_password_that_is_not_encoded_is_never_shown(middle: str) -> None:
    assert "hush" not in told(f"postgresql://u:hush{middle}hush@host:1/shop")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:hush",
        "postgresql://u:hush@host:99999/shop",
        "postgresql://u:hush@host:port/shop",
        "postgresql://u:hush@,/shop",
        "postgresql://u:hush@host/shop?x",
        "postgresql://u:hush@host/shop?service=hush",
        "postgresql:///shop?host=a,b&port=1,2,3",
        "postgresql:///shop?host=a&port=hush",
        "postgresql://[hush/shop",
    ],
)
async def test_an_address_that_cannot_be_read_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="ledger: expected postgresql://user:password@host:port") as caught:
        await stores.open_ledger(url)
    assert "hush" not in str(caught.value)


# --- files -----------------------------------------------------------------------------------------------


async def test_a_file_may_hold_the_address(tmp_path: Path) -> None:
    secret = tmp_path / "ledger-url"
    secret.write_text(f"\n sqlite:{tmp_path / 'ledger.db'} \n")

    ledger = await stores.open_ledger(f"file:{secret}")
    assert await ledger.insert(payment())
    await ledger.close()

    assert (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hush://x", "expected sqlite:"),
        (b"hush", "expected sqlite:"),
        (b"", "expected sqlite:"),
        (b"file:/hush", "expected sqlite:"),
        (b"postgresql://u:hush@:/", "expected postgresql://"),
        (b"\xff\xfehush", "expected an address as text"),
    ],
)
async def test_what_is_wrong_in_a_file_is_told_with_the_file_s_name_only(
    tmp_path: Path, content: bytes, words: str
) -> None:
    secret = tmp_path / "ledger-url"
    secret.write_bytes(content)

    with pytest.raises(ValueError, match=words) as caught:
        await stores.open_ledger(f"file:{secret}")

    assert f"ledger: the file {secret}: " in str(caught.value)
    assert "hush" not in str(caught.value)


async def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none cannot be read: No such file or directory"):
        await stores.open_ledger(f"file:{tmp_path / 'none'}")


async def test_a_file_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="got no path"):
        await stores.open_ledger("file:")


async def test_a_server_that_is_not_there_is_named_without_a_password() -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        await stores.open_ledger("postgresql://u:hush@127.0.0.1:1/shop")

    assert str(caught.value) == (
        "ledger postgresql://127.0.0.1:1/shop: 127.0.0.1:1: no connection (Connection refused); "
        "check that the server runs, the address, and its sslmode if it has one"
    )


# --- the server's errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("53100", "the server's disk is full"),
        ("53300", "no connection left"),
        ("53400", "the server lacks a resource"),
        ("25006", "the server is read-only"),
        ("28P01", "user or password"),
        ("42P01", "name the gateway's database and user"),
        ("57P03", "starting or stopping"),
        ("57P01", "the server was stopped"),
        ("58030", "check its disk"),
        ("XX001", "damaged"),
        ("0A000", "the server failed; look at its log"),
    ],
)
def test_an_error_of_the_server_is_told_by_its_code(code: str, words: str) -> None:
    error = asyncpg.PostgresError.new({"C": code, "M": "hush", "D": "Key (id)=(hush)", "S": "ERROR"})

    told = faults.explain(error)

    assert words in told
    assert told.endswith(f"({code})")
    assert "hush" not in told


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("hush"), "did not answer in time"),
        (ssl.SSLError(1, "hush"), "TLS failed (SSLError)"),
        (socket.gaierror(-2, "hush"), "name is not known"),
        (ConnectionError("hush"), "no connection (ConnectionError)"),
        (OSError(111, "hush"), "no connection (Connection refused)"),
        (FileNotFoundError(2, "hush", "hush"), "a file is not there (No such file or directory)"),
        (FileNotFoundError("hush"), "a file is not there (No such file or directory)"),
        (ConnectionError('PostgreSQL server at "hush:1" rejected SSL upgrade'), "the server has no TLS"),
        (asyncpg.ClientConfigurationError('root certificate file "hush" does not exist'), "add sslrootcert=FILE"),
        (asyncpg.ClientConfigurationError("`sslmode` must be hush"), "an option whose value cannot be used"),
        (asyncpg.InterfaceError("hush"), "InterfaceError; correct the address"),
        (asyncpg.DataError("hush"), "the row could not be read or written (22000)"),
    ],
)
def test_an_error_on_the_way_is_told_by_its_kind(error: Exception, words: str) -> None:
    told = faults.explain(error)

    assert words in told
    assert "hush" not in told
