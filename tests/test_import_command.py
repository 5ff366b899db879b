"""`mpp-gateway import`: files in and out, warnings, exit codes."""

import http.server
import os
from collections.abc import Iterator
from pathlib import Path

import gateway_process
import http_servers
import httpx
import pytest
import small_disks

from mpp_operator import cli, envoy, local_secrets, sources

small_disk = small_disks.small_disk

FOLDER = Path(__file__).parent / "testdata" / "imported"
SMALL = """
openapi: 3.0.0
info: {title: Small, version: "1"}
servers: [{url: "https://small.example.com"}]
paths:
  /a: {get: {responses: {200: {description: ok}}}, options: {}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "openapi.yaml"
    path.write_text(SMALL)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    try:
        code = cli.main(["import", *map(str, arguments)])
    except SystemExit as exit_:
        code = int(str(exit_.code or 0))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_service_is_written_to_stdout_and_what_is_left_out_to_stderr(
    capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    code, out, err = run(capsys, small, "--price", "0.01")

    assert code == 0
    assert out.startswith("# Written by `mpp-gateway import` from openapi.yaml.")
    assert out.endswith("\n")
    assert f"warning: {small}: paths./a.options: left out" in err
    assert err.endswith("1 routes, 0 of them free\n")


def test_a_file_that_is_there_is_not_written_over_unless_it_is_said(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    target = tmp_path / "service.yaml"
    target.write_text("mine\n")

    code, _, err = run(capsys, small, "--price", "0.01", "-o", target)
    assert (code, target.read_text()) == (1, "mine\n")
    assert err.endswith(f"error: {target}: expected no file there, got one; write over it with --force\n")

    code, out, err = run(capsys, small, "--price", "0.01", "-o", target, "--force")
    assert (code, out) == (0, "")
    assert "kind: PaidService" in target.read_text()
    assert err.endswith(f"1 routes, 0 of them free in {target}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openapi.yaml", "service.yaml"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_full_disk_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], small: Path, small_disk: Path, force: tuple[str, ...]
) -> None:
    target = small_disk / "service.yaml"
    if force:
        target.write_text("mine\n")
    small_disks.fill(small_disk)

    code, _, err = run(capsys, small, "--price", "0.01", "-o", target, *force)

    assert code == 3
    assert err.endswith(f"error: {target}: expected a file we can write, got: No space left on device\n")
    assert [path.name for path in small_disk.iterdir() if path.name != "filler"] == ["service.yaml"] * len(force)
    if force:
        assert target.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 2, "--price"),
        (("--price", "0.01", "--force"), 2, "--force: expected only with --output"),
        (("--price", "much"), 1, "--price: expected a decimal string"),
        (("--price", "0.01", "-o", "{folder}/none/service.yaml"), 3, "expected a file we can write"),
    ],
)
def test_what_is_wrong_has_an_exit_code_and_one_line(
    capsys: pytest.CaptureFixture[str], small: Path, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    found, out, err = run(capsys, small, *(a.format(folder=small.parent) for a in arguments))

    assert (found, out) == (code, "")
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected a file we can read, got: No such file or directory"),
        (b"\xff\xfe", "expected UTF-8 text, got other bytes"),
        (b"x" * (16 * 1024 * 1024 + 1), "expected at most 16 MiB, got more"),
        (b"swagger: '2.0'", "got swagger 2.0; convert it first"),
    ],
)
def test_a_file_that_is_no_description_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, expected: str
) -> None:
    file = tmp_path / "openapi.yaml"
    if content is not None:
        file.write_bytes(content)

    code, _, err = run(capsys, file, "--price", "0.01")

    assert code == 1
    assert err.startswith(f"error: {file}: ")
    assert expected in err


@pytest.mark.parametrize("where", ["beside", "below", "above", "absolute"])
def test_the_description_is_found_from_where_the_service_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "services").mkdir()
    monkeypatch.chdir(tmp_path)
    description = Path(
        {"beside": "petstore.yaml", "below": "api/p.yaml", "above": "p.yaml"}.get(where, "api/p.yaml")
    )
    description.write_bytes((FOLDER / "petstore" / "openapi.yaml").read_bytes())
    target = Path({"above": "services/s.yaml"}.get(where, "s.yaml"))
    named = description.absolute() if where == "absolute" else description

    code, _, _ = run(capsys, named, "--price", "0.05", "-o", target)
    found = sources.load([target], None)
    folder = local_secrets.Folder(None, {"RECIPIENT_ADDRESS": "0x" + "70" * 20})
    compiled = sources.build(found, sources.recipients_only(found, folder))

    assert code == 0
    (service,) = compiled.compilation.gateway.services
    assert {r.operation.summary for r in service.routes} >= {
        "Find a pet by its id",
        "Add a pet",
        "How many there are",
    }


@pytest.mark.data_plane
def test_the_real_envoy_takes_what_was_imported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, price in (("petstore/openapi.yaml", "0.05"), ("corners/openapi.json", "0.01")):
        target = tmp_path / f"{name.partition('/')[0]}.yaml"
        upstream = () if "petstore" in name else ("--upstream", "https://corners.example.com")
        assert run(capsys, FOLDER / name, "--price", price, "-o", target, *upstream)[0] == 0

    found = sources.load(sources.expand([tmp_path]), None)
    folder = local_secrets.Folder(None, {**os.environ, "RECIPIENT_ADDRESS": "0x" + "70" * 20})
    compiled = sources.build(found, sources.recipients_only(found, folder))

    assert len(compiled.compilation.gateway.services) == 2
    assert envoy.validate(compiled.compilation.artifacts) == ()


class Shop(http.server.BaseHTTPRequestHandler):
    """Answers everything, and remembers it."""

    hits: list[str]

    def answer(self) -> None:
        self.hits.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[tuple[str, list[str]]]:
    """An API, and what reached it."""
    hits: list[str] = []
    with http_servers.serving(type("OneShop", (Shop,), {"hits": hits})) as port:
        yield f"http://127.0.0.1:{port}", hits


@pytest.mark.data_plane
def test_an_imported_service_serves_the_described_operations_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
    start_gateway: gateway_process.Start,
    shop: tuple[str, list[str]],
    tmp_path: Path,
) -> None:
    api, hits = shop
    description = tmp_path / "openapi.yaml"
    description.write_bytes((FOLDER / "petstore" / "openapi.yaml").read_bytes())
    target = tmp_path / "pets.yaml"
    arguments = (
        "--price",
        "0.05",
        "--upstream",
        f"{api}/api/v3",
        "--name",
        "pets",
        "--recipient",
        "0x" + "70" * 20,
    )
    assert run(capsys, description, *arguments, "--free", "/pet/findByStatus", "-o", target)[0] == 0
    gateway = start_gateway({}, arguments=("-f", str(target)))

    def status(method: str, path: str) -> int:
        return httpx.request(method, f"{gateway.url}/pets{path}", trust_env=False).status_code

    assert status("GET", "/pet/findByStatus?status=sold") == 200
    assert {
        status("GET", "/pet/7"),
        status("DELETE", "/pet/7"),
        status("POST", "/pet"),
        status("HEAD", "/pet/7"),
    } == {402}
    assert status("POST", "/pet/findByStatus") == 405
    assert {status("GET", path) for path in ("", "/", "/nothing", "/pet/7/secret", "/store")} == {404}
    assert hits == ["GET /api/v3/pet/findByStatus?status=sold"]
    listed = httpx.get(f"{gateway.url}/pets/openapi.json", trust_env=False).json()
    assert listed["paths"]["/pets/pet/{petId}"]["get"]["summary"] == "Find a pet by its id"
    assert "Pet" in str(listed["components"]["schemas"])
