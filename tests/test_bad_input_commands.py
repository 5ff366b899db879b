"""Wrong arguments, of every command: one line that says what was expected, and the documented exit code."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from bad_input import SERVICE, Page, command, edited, page

from mpp_operator import console

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
KEY: Final = "0x" + "1c" * 32


@dataclass(frozen=True, slots=True)
class Call:
    """A command line, beside shop.yaml and the files named here."""

    line: str
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


AUTHZ: Final = "authz --config-dir config --secrets-dir secrets --socket a.sock --ledger"

CASES: Final[dict[str, Call]] = {
    "no command": Call(""),
    "an unknown command": Call("serve"),
    "an option before the command": Call("--port 1 run -f shop.yaml"),
    # run
    "run: no file": Call("run"),
    "run: an unknown option": Call("run -f shop.yaml --prot 4402"),
    "run: half an option": Call("run -f shop.yaml --p 4402 --s x"),
    "run: an argument too many": Call("run shop.yaml"),
    "run: port 70000": Call("run -f shop.yaml --port 70000"),
    "run: port -1": Call("run -f shop.yaml --port -1"),
    "run: a port that is a name": Call("run -f shop.yaml --port http"),
    "run: a port that is no number": Call("run -f shop.yaml --port nan"),
    "run: a port with a fraction": Call("run -f shop.yaml --port 1.5"),
    "run: no threads": Call("run -f shop.yaml --concurrency 0"),
    "run: an endless drain": Call("run -f shop.yaml --drain inf"),
    "run: a drain before it began": Call("run -f shop.yaml --drain -1"),
    "run: an unknown log level": Call("run -f shop.yaml --log-level loud"),
    "run: a file that is not there": Call("run -f shpo.yaml"),
    "run: a gateway.yaml that is not there": Call("run -f shop.yaml --config gatewya.yaml"),
    "run: a gateway.yaml with a mistake": Call(
        "run -f shop.yaml --config gateway.yaml", {"gateway.yaml": "listen: {port: 70000}\n"}
    ),
    "run: a mistake in a service": Call("run -f shop.yaml", {"shop.yaml": edited('"0.05"', "0.05")}),
    "run: an address of metrics without a port": Call("run -f shop.yaml --metrics localhost"),
    "run: a device": Call("run -f /dev/zero"),
    # compile
    "compile: nothing to do": Call("compile -f shop.yaml"),
    "compile: no file": Call("compile -o out"),
    "compile: a file that is not there": Call("compile -f shpo.yaml -o out"),
    "compile: a dash for the standard input": Call("compile -f - -o out"),
    "compile: a name longer than any": Call(f"compile -f {'x' * 300} -o out"),
    "compile: a folder without services": Call("compile -f none -o out", {"none/notes.txt": "nothing"}),
    "compile: a folder of folders": Call("compile -f deep -o out", {"deep/a/shop.yaml": SERVICE}),
    "compile: a link that leads nowhere": Call("compile -f nowhere.yaml -o out"),
    "compile: a link to itself": Call("compile -f loop.yaml -o out"),
    "compile: one file twice, and one service in two": Call(
        "compile -f shop.yaml shop.yaml again.yaml -o out", {"again.yaml": SERVICE}
    ),
    "compile: one folder holds a service twice": Call(
        "compile -f both -o out", {"both/a.yaml": SERVICE, "both/b.yml": SERVICE}
    ),
    "compile: an output that is a file": Call("compile -f shop.yaml -o shop.yaml"),
    "compile: an output below a file": Call("compile -f shop.yaml -o shop.yaml/out"),
    "compile: a folder where a file of the output belongs": Call(
        "compile -f shop.yaml -o out", {"out/rds.json/x": ""}
    ),
    "compile: a recipient that is nowhere": Call(
        "compile -f shop.yaml -o out --secrets-dir secrets",
        {"shop.yaml": edited('recipient: "0x' + "70" * 20 + '"', "recipientFrom: {secretRef: {name: r, key: a}}")},
    ),
    "compile: a recipient that is none": Call(
        "compile -f shop.yaml -o out --secrets-dir secrets",
        {
            "shop.yaml": edited(
                'recipient: "0x' + "70" * 20 + '"', "recipientFrom: {secretRef: {name: r, key: a}}"
            ),
            "secrets/tests/r/a": "0xhunter2\n",
        },
    ),
    "compile: a misspelled variable": Call(
        "compile -f shop.yaml -o out",
        {
            "shop.yaml": edited(
                'recipient: "0x' + "70" * 20 + '"', "recipientFrom: {secretRef: {name: shop, key: to}}"
            )
        },
        {"SHOP_OT": "0x" + "70" * 20},
    ),
    # pay
    "pay: no URL": Call("pay"),
    "pay: no key": Call("pay http://127.0.0.1:9/x"),
    "pay: a key that is none": Call("pay http://127.0.0.1:9/x", environ={"MPP_PRIVATE_KEY": "hunter2"}),
    "pay: a key in a variable that is misspelled": Call(
        "pay http://127.0.0.1:9/x --key MY_KYE", environ={"MY_KEY": KEY}
    ),
    "pay: the key itself in place of the variable": Call(f"pay http://127.0.0.1:9/x --key {KEY}"),
    "pay: a URL without a scheme": Call("pay 127.0.0.1:9/x", environ={"MPP_PRIVATE_KEY": KEY}),
    "pay: a URL of another scheme": Call("pay ftp://127.0.0.1/x", environ={"MPP_PRIVATE_KEY": KEY}),
    "pay: a URL without a host": Call("pay http:///x", environ={"MPP_PRIVATE_KEY": KEY}),
    "pay: a URL at port 70000": Call("pay http://127.0.0.1:70000/x", environ={"MPP_PRIVATE_KEY": KEY}),
    "pay: a URL with a control character": Call("pay http://127.0.0.1:9/\x07", environ={"MPP_PRIVATE_KEY": KEY}),
    "pay: nobody listens": Call("pay --inspect http://127.0.0.1:9/x"),
    "pay: an unknown network": Call("pay --network maintest http://127.0.0.1:9/x"),
    "pay: a header without a colon": Call("pay --inspect http://127.0.0.1:9/x -H Authorization=hunter2"),
    "pay: a header with a line end": Call("pay --inspect http://127.0.0.1:9/x -H A:b\nc"),
    "pay: a header of another script": Call("pay --inspect http://127.0.0.1:9/x -H \u00e4:b"),
    "pay: a method with a line end": Call("pay --inspect http://127.0.0.1:9/x -X GET\nX:1"),
    "pay: a body that is not there": Call("pay --inspect http://127.0.0.1:9/x -d @nothing.json"),
    # payments
    "payments: an unknown subcommand": Call("payments lits"),
    "payments: an unknown option": Call("payments list --sate OWED"),
    "payments: an unknown state": Call("payments list --state PAID"),
    "payments: a limit of nothing": Call("payments list --limit 0"),
    "payments: both a folder and a ledger": Call("payments --state-dir a --ledger sqlite:b"),
    "payments: no ledger": Call("payments --state-dir none"),
    "payments: a file for a folder": Call("payments --state-dir shop.yaml"),
    "payments: a ledger of another kind": Call("payments --ledger mysql://me:hunter2@db/x"),
    "payments: a ledger without a scheme": Call("payments --ledger ledger.db"),
    "payments: a ledger without a path": Call("payments --ledger sqlite:"),
    "payments: a file with an address that is not there": Call("payments --ledger file:none"),
    "payments: a file with something else": Call("payments --ledger file:shop.yaml"),
    "payments list: an id": Call("payments list c1"),
    "payments list: options of reconcile": Call("payments --since 24h --realm a --confirmations 0 -f shop.yaml"),
    "payments show: no id": Call("payments show"),
    "payments show: options of the others": Call("payments show c1 --state OWED --limit 5 --until 24h"),
    "payments reconcile: an id": Call("payments reconcile c1"),
    "payments reconcile: an option of list": Call("payments reconcile --state OWED"),
    "payments reconcile: a moment that is none": Call("payments reconcile --since yesterday"),
    "payments reconcile: a moment that does not exist": Call("payments reconcile --since 2030-02-30"),
    "payments reconcile: too long ago": Call("payments reconcile --since 999999d"),
    "payments reconcile: a block beyond all numbers": Call(f"payments reconcile --since {'9' * 5000}"),
    "payments reconcile: less than no blocks": Call("payments reconcile --confirmations -1"),
    "payments reconcile: digits of another script": Call("payments reconcile --confirmations \u0665"),
    "payments reconcile: no ledger": Call("payments reconcile --state-dir none"),
    # bootstrap
    "bootstrap: no instance": Call("bootstrap"),
    "bootstrap: an empty instance": Call("bootstrap --instance "),
    "bootstrap: port 70000": Call("bootstrap --instance a --port 70000"),
    "bootstrap: an address that is a name": Call("bootstrap --instance a --address localhost"),
    "bootstrap: an address in brackets": Call("bootstrap --instance a --address [::1]"),
    "bootstrap: an unknown option": Call("bootstrap --instance a --adress ::1"),
    # authz
    "authz: nothing": Call("authz"),
    "authz: an unknown option": Call(f"{AUTHZ} sqlite:ledger.db --sokcet b"),
    "authz: no pricing": Call(f"{AUTHZ} sqlite:ledger.db"),
    "authz: a pricing that is none": Call(f"{AUTHZ} sqlite:ledger.db", {"config/pricing.json": "{}"}),
    "authz: a wait that is no number": Call(f"{AUTHZ} sqlite:ledger.db --settle-wait soon"),
    "authz: a wait without an end": Call(f"{AUTHZ} sqlite:ledger.db --settle-wait nan"),
    "authz: a wait before it began": Call(f"{AUTHZ} sqlite:ledger.db --grace -1"),
    # import
    "import: no description": Call("import"),
    "import: a description that is not there": Call("import opneapi.yaml --price 0.05"),
    "import: a description that is none": Call("import shop.yaml --price 0.05"),
    "import: a price that is none": Call("import shop.yaml --price free"),
    "import: an unknown option": Call("import shop.yaml --prize 0.05"),
}


@pytest.fixture(scope="module")
def words(request: pytest.FixtureRequest) -> Iterator[Page]:
    yield from page("commands", "Wrong arguments, of every command", request)


def arrange(call: Call, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The folder and the environment in which the command runs."""
    monkeypatch.chdir(folder)
    for name, text in {"shop.yaml": SERVICE, **call.files}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    Path("nowhere.yaml").symlink_to("nothing")
    Path("loop.yaml").symlink_to("loop.yaml")
    for name in ("MPP_PRIVATE_KEY", "MPP_RPC_URL", "MPP_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "home")
    for name, value in call.environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_argument_is_told_in_these_words(
    case: str, words: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrange(CASES[case], monkeypatch, tmp_path)

    said = command(capsys, *CASES[case].line.split(" ") if CASES[case].line else ())

    assert said.out == ""
    assert "hunter2" not in said.err
    assert KEY not in said.err
    assert not list(tmp_path.glob("home/**/*.db"))
    words.holds(case, said, (r"(?sm)^usage: .*?(?=^mpp-gateway)", ""))


def test_the_page_has_no_entry_of_a_case_that_is_gone(words: Page) -> None:
    assert words.strangers(CASES) == set()


def test_the_reference_has_every_exit_code() -> None:
    table = REFERENCE.read_text().split("| exit code | means |\n", 1)[1].split("\n\n", 1)[0]

    assert [int(code) for code in re.findall(r"^\| `([0-9]+)` \|", table, re.MULTILINE)] == list(console.MEANINGS)


def test_the_help_has_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    said = command(capsys, "--help")

    assert said.code == 0
    assert all(f"{code} {meaning}" in " ".join(said.out.split()) for code, meaning in console.MEANINGS.items())
