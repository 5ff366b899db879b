"""A gateway.yaml with mistakes, and folders and files that cannot be read: the words and nothing written."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from bad_input import SERVICE, Page, Said, command, edited, page

OFFER: Final = (
    "{method: tempo, network: %s, currency: pathUSD, recipient: '0x7070707070707070707070707070707070707070'}"
)

#: What is wrong -> gateway.yaml.
CASES: Final[dict[str, str | bytes]] = {
    "a PaidService in its place": SERVICE,
    "two documents": "{}\n---\n{}\n",
    "a list": "- hosts\n",
    "a binary file": b"\x00\xff",
    "a tab": "listen:\n\tport: 1\n",
    "a key twice": "hosts: [a.example]\nhosts: [b.example]\n",
    "a YAML bomb": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(8)),
    "an unknown field": "host: [a.example]\n",
    "a field in snake case": "public_scheme: https\n",
    "a null": "listen:\n",
    "a host with a scheme": "hosts: ['https://a.example']\n",
    "a host twice": "hosts: [a.example, a.example]\n",
    "no host": "hosts: []\n",
    "an unknown scheme": "publicScheme: HTTPS\n",
    "a public port 0": "publicPort: 0\n",
    "a port of 70000": "listen: {port: 70000}\n",
    "a port that is a text": "listen: {port: '4402'}\n",
    "a port that is a boolean": "listen: {port: yes}\n",
    "an address that is a name": "listen: {address: localhost}\n",
    "an address in brackets": "listen: {address: '[::1]'}\n",
    "an address that is nearly one": "listen: {address: 127.0.0.256}\n",
    "a certificate without its key": "tls: {certificate: a.pem}\n",
    "a certificate beside a proxy": "tls: {certificate: a.pem, key: b.pem, terminatedBy: [10.0.0.0/8]}\n",
    "a proxy's network that is none": "tls: {terminatedBy: [10.0.0.1/8]}\n",
    "insecureHttp as a text": "insecureHttp: 'on'\n",
    "insecureHttp beside real money": f"insecureHttp: true\ndefaults: {{offers: [{OFFER % 'mainnet'}]}}\n",
    "a network without a chain": "networks: {devnet: {rpcUrl: 'http://127.0.0.1:9'}}\n",
    "a network without a node": "networks: {devnet: {chainId: 1337}}\n",
    "a network with a node twice": "networks: {devnet: {chainId: 1, rpcUrl: 'http://a', rpcUrls: ['http://b']}}\n",
    "a chain that is a text": "networks: {devnet: {chainId: '1337', rpcUrl: 'http://127.0.0.1:9'}}\n",
    "a chain beyond all numbers": "networks: {devnet: {chainId: 99999999999999999999, rpcUrl: 'http://a'}}\n",
    "another chain for a built-in network": "networks: {mainnet: {chainId: 1}}\n",
    "a node without a scheme": "networks: {devnet: {chainId: 1, rpcUrl: 'node.example/hunter2'}}\n",
    "a node with a space": "networks: {devnet: {chainId: 1, rpcUrl: 'http://node.example/ hunter2'}}\n",
    "a currency of no address": "networks: {devnet: {chainId: 1, rpcUrl: 'http://a', currencies: {U: 0x1}}}\n",
    "too many decimals": "networks: {devnet: {chainId: 1, rpcUrl: 'http://a', decimals: 99}}\n",
    "a network's name in capitals": "networks: {Devnet: {chainId: 1, rpcUrl: 'http://a'}}\n",
    "a default offer on an unknown network": f"defaults: {{offers: [{OFFER % 'nowhere'}]}}\n",
    "two stores": "store: {sqlite: a.db, postgres: {urlFrom: {name: a, key: b}}}\n",
    "a database's address in its place": "store: {postgres: {urlFrom: 'postgresql://me:hunter2@db/x'}}\n",
    "an empty path": "store: {sqlite: ''}\n",
    "a signing key in the place of its name": "challengeKeys: [hunter2 hunter2 hunter2 hunter2 hunter2]\n",
    "no signing keys": "challengeKeys: []\n",
    "a wait longer than the Check's": "settleWait: 20s\ncheckTimeout: 15s\n",
    "a wait without a unit": "settleWait: 10\n",
    "a challenge of a second": "maxChallengeLife: 1s\n",
    "a namespace's address with a typing error": "namespaces: {shop: {recipients: ['0x70']}}\n",
    "a namespace's host with a path": "namespaces: {shop: {hosts: ['a.example/x']}}\n",
}


@pytest.fixture(scope="module")
def words(request: pytest.FixtureRequest) -> Iterator[Page]:
    yield from page("config", "gateway.yaml with mistakes (mpp-gateway compile --config gateway.yaml …)", request)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_in_gateway_yaml_is_told_in_these_words(
    case: str, words: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = CASES[case]
    Path("shop.yaml").write_text(SERVICE)
    Path("gateway.yaml").write_bytes(content.encode() if isinstance(content, str) else content)

    said = command(capsys, "compile", "-f", "shop.yaml", "--config", "gateway.yaml", "-o", "out")

    assert said.out == ""
    assert "hunter2" not in said.err
    assert not Path("out").exists()
    words.holds(case, said)


def test_the_page_has_no_entry_of_a_case_that_is_gone(words: Page) -> None:
    assert words.strangers(CASES) == set()


# --- files and folders -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "services").mkdir()
    return tmp_path / "services"


def test_a_folder_of_hundreds_of_files_is_read_and_each_mistake_has_its_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(300):
        (folder / f"s{number:03}.yaml").write_text(edited("name: shop", f"name: s{number}"))
    assert command(capsys, "compile", "-f", "services", "-o", "out").code == 0

    for number in range(0, 300, 2):
        (folder / f"s{number:03}.yaml").write_text(edited('"0.05"', "0.05").replace("shop", f"s{number}"))
    said = command(capsys, "compile", "-f", "services", "-o", "again")

    assert said.code == 1
    assert [line.split(": ")[1:3] for line in said.err.splitlines()] == [
        [f"services/s{number:03}.yaml", f"tests/s{number}"] for number in range(0, 300, 2)
    ]
    assert not Path("again").exists()


def as_nobody(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """The command without the right to read everything, which root has."""
    if os.geteuid() != 0:
        return command(capsys, *arguments)
    os.seteuid(65534)
    try:
        return command(capsys, *arguments)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100], ids=["nothing", "to list it", "to enter it"])
def test_a_folder_that_cannot_be_read_is_said(folder: Path, capsys: pytest.CaptureFixture[str], mode: int) -> None:
    (folder / "shop.yaml").write_text(SERVICE)
    command(capsys, "compile", "-f", "services", "-o", "out")  # all modules are loaded by now
    folder.chmod(mode)

    said = as_nobody(capsys, "compile", "-f", "services", "services/shop.yaml", "-o", "again")
    folder.chmod(0o700)

    assert said.code == 1
    assert said.err.startswith("error: services")
    assert "Permission denied" in said.err
    assert "Traceback" not in said.err


def test_a_file_that_cannot_be_read_is_said_beside_the_others_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "closed.yaml").write_text(SERVICE)
    (folder / "wrong.yaml").write_text(edited("kind: PaidService", "kind: paidservice"))
    command(capsys, "compile", "-f", "services", "-o", "out")
    (folder / "closed.yaml").chmod(0o000)
    folder.parent.chmod(0o755)
    folder.chmod(0o755)

    said = as_nobody(capsys, "compile", "-f", "services/closed.yaml", "services/wrong.yaml", "-o", "again")

    assert (said.code, said.err) == (
        1,
        "error: services/closed.yaml: expected a file we can read, got: Permission denied\n"
        "error: services/wrong.yaml: tests/shop: kind: expected PaidService, got 'paidservice'\n",
    )


def test_an_output_that_cannot_be_written_to_its_end_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shop.yaml").write_text(SERVICE)
    assert command(capsys, "compile", "-f", "shop.yaml", "-o", "out").code == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    Path("shop.yaml").write_text(edited('"0.05"', '"0.07"'))
    Path("out/rds.json").unlink()
    Path("out/rds.json").mkdir()  # the last of the files

    said = command(capsys, "compile", "-f", "shop.yaml", "-o", "out")

    assert said.code == 3
    assert "what was there has not changed" in said.err
    after = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert after == {path: text for path, text in before.items() if path.name != "rds.json"}
