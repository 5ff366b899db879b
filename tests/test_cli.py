"""The command line: exit codes, one line per problem, no traceback for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpp_operator import cli

GOOD = """
apiVersion: mpp-gateway.dev/v1alpha1
kind: PaidService
metadata: {name: shop, namespace: tests}
spec:
  upstream: {url: "http://127.0.0.1:9"}
  payment:
    offers:
      - method: tempo
        network: moderato
        currency: pathUSD
        recipient: "0x7070707070707070707070707070707070707070"
  routes:
    - {name: thing, match: {method: GET, path: /thing}, price: {amount: "0.05"}}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(GOOD)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = int(str(exit_.code or 0))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_compile_writes_what_envoy_and_authz_read(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "compile", "-f", good, "-o", tmp_path / "out")

    assert (code, out) == (0, "")
    assert err.startswith("revision ")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"rds.json", "cds.json", "pricing.json"}
    assert "tests/shop/thing" in json.loads((tmp_path / "out" / "pricing.json").read_text())["routes"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_compile_writes_the_same_bytes_again(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    run(capsys, "compile", "-f", good, "-o", tmp_path / "one")
    run(capsys, "compile", "-f", good, "-o", tmp_path / "two")
    run(capsys, "compile", "-f", good, "-o", tmp_path / "one")

    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert one == two


@pytest.mark.data_plane
def test_compile_asks_the_real_envoy_with_check(capsys: pytest.CaptureFixture[str], good: Path) -> None:
    assert run(capsys, "compile", "-f", good, "--check")[0] == 0


def test_every_problem_is_one_line_with_file_object_and_field(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD.replace('"0.05"', "0.05").replace("upstream:", "upsteam:"))

    code, out, err = run(capsys, "compile", "-f", good, bad, "-o", tmp_path / "out")

    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert all(line.startswith(f"error: {bad}: tests/shop: spec.") for line in lines)
    assert any("spec.routes[0].price.amount: expected a decimal string" in line for line in lines)
    assert any("spec.upsteam: " in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_problem_of_the_compiler_names_the_file_too(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    good.write_text(GOOD.replace("moderato", "nowhere").replace('"0.05"', '"0.00000001"'))

    code, _, err = run(capsys, "compile", "-f", good, "-o", tmp_path / "out")

    assert code == 1
    assert err.startswith(f"error: {good}: tests/shop: spec.payment.offers[0].network: expected")


def test_the_same_service_in_two_files_is_an_error_that_names_both(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(GOOD)

    code, _, err = run(capsys, "compile", "-f", good, again, "-o", tmp_path / "out")

    assert code == 1
    assert err == (
        f"error: {again}: tests/shop: metadata.name: expected each service once, got it also in {good}\n"
    )


def test_two_services_at_one_place_are_an_error(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(GOOD.replace("name: shop", "name: other").replace("spec:\n", "spec:\n  basePath: /shop\n"))

    code, _, err = run(capsys, "compile", "-f", good, other, "-o", tmp_path / "out")

    assert code == 1
    assert "tests/shop" in err


def test_a_folder_stands_for_its_yaml_files(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a service")

    assert run(capsys, "compile", "-f", good.parent, "-o", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "expected YAML, got: line 1"),
        ("a: 1\na: 2\n", "expected YAML, got: line 2, column 1: expected each key once, got 'a' again"),
        ("just text", "expected an object"),
        ("", "x.yaml: expected at least one PaidService, got none"),
        ("[]", "x.yaml: expected an object, got a list"),
        (
            "listen: {port: 1}\nhosts: [a]\n",
            "expected a PaidService, got listen, hosts; gateway.yaml is named with",
        ),
        ("!!python/object:os.system {}", "expected YAML, got: line 1"),
        ("[" * 3000, "expected YAML, got:"),
        ("? {a: 1}\n: 2\n", "expected YAML"),
        ("&a [*a]", "expected no alias inside of what it stands for"),
    ],
)
def test_a_file_that_is_no_service_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)

    code, _, err = run(capsys, "compile", "-f", path, "-o", tmp_path / "out")

    assert code == 1
    assert problem in err
    assert "Traceback" not in err


def test_bytes_that_are_no_text_are_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    assert "expected UTF-8 text" in run(capsys, "compile", "-f", path, "-o", tmp_path / "out")[2]


def test_a_date_is_text_as_the_api_server_sees_it(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path
) -> None:
    good.write_text(GOOD.replace("  payment:\n", "  payment:\n    notBefore: 2026-01-01T00:00:00Z\n"))

    assert run(capsys, "compile", "-f", good, "-o", tmp_path / "out")[0] == 0


@pytest.mark.parametrize("command", ["run", "compile"])
def test_a_missing_file_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    missing = tmp_path / "missing.yaml"
    more = ("-o", tmp_path / "out") if command == "compile" else ("--state-dir", tmp_path / "state")

    code, _, err = run(capsys, command, "-f", missing, *more)

    assert code == 1
    assert err == f"error: {missing}: expected a file we can read, got: No such file or directory\n"


def test_an_empty_folder_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "compile", "-f", tmp_path, "-o", tmp_path)[0] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("port: 1\n", "gateway.yaml: port: unknown field"),
        (GOOD, "gateway.yaml: expected gateway.yaml's fields, got a PaidService: name it with -f"),
        ("[]\n", "gateway.yaml: expected an object, got a list"),
        ("{}\n---\n{}\n", "gateway.yaml: expected one document, got 2"),
        ("a: [\n", "gateway.yaml: expected YAML"),
    ],
)
def test_a_wrong_gateway_yaml_is_one_line(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "gateway.yaml").write_text(text)

    code, _, err = run(
        capsys, "compile", "-f", good, "--config", tmp_path / "gateway.yaml", "-o", tmp_path / "out"
    )

    assert code == 1
    assert problem in err


def test_a_recipient_is_read_where_secrets_are(
    capsys: pytest.CaptureFixture[str], good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace(
        'recipient: "0x7070707070707070707070707070707070707070"',
        "recipientFrom: {configMapRef: {name: recipient, key: address}}",
    )
    good.write_text(text)
    code, _, err = run(capsys, "compile", "-f", good, "-o", tmp_path / "out")
    assert (code, "RECIPIENT_ADDRESS" in err) == (3, True)

    monkeypatch.setenv("RECIPIENT_ADDRESS", "0x" + "71" * 20)
    assert run(capsys, "compile", "-f", good, "-o", tmp_path / "out")[0] == 0

    assert "71" * 20 in (tmp_path / "out" / "pricing.json").read_text()


def test_compile_without_anything_to_do_is_a_usage_error(capsys: pytest.CaptureFixture[str], good: Path) -> None:
    assert run(capsys, "compile", "-f", good)[0] == 2


def test_an_output_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str], good: Path) -> None:
    code, _, err = run(capsys, "compile", "-f", good, "-o", good / "below")

    assert (code, "expected a folder we can write" in err) == (3, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("serve",),
        ("run",),
        ("run", "-f", "x", "--port", "70000"),
        ("run", "-f", "x", "--port", "http"),
        ("run", "-f", "x", "--port", "65536"),
        ("run", "-f", "x", "--concurrency", "two"),
        ("run", "-f", "x", "--concurrency", "0"),
        ("run", "-f", "x", "--drain", "nan"),
        ("run", "-f", "x", "--drain", "-1"),
        ("bootstrap",),
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, err = run(capsys, *arguments)

    assert (code, out) == (2, "")
    assert err.startswith("usage: mpp-gateway")
    assert "invalid _" not in err  # argparse would name our function


def test_bootstrap_prints_what_envoy_starts_with(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bootstrap", "--instance", "envoy-7", "--port", "0", "--authz-socket", "a.sock")

    assert code == 0
    assert json.loads(out)["node"]["id"] == "envoy-7"


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")

    assert (code, out.count(".")) == (0, 2)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "import sys; from mpp_operator import cli; sys.exit(cli.main(['bootstrap', '--instance', 'x']))"
    read, write = os.pipe()
    os.close(read)
    try:
        found = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)

    assert "Traceback" not in found.stderr
    assert found.returncode == 0


def test_authz_has_a_parser_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "authz", "--help")

    assert code == 0
    assert "--ledger" in out
