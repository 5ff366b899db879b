"""Secrets that the tests make or send, and the search for them in all that a gateway leaves behind.

    secret_scan.know("signing key", key)                     where it is made or sent
    secret_scan.leaks({"stderr": text, "body": answer.text})  places that show one, with its kind; never the secret
    secret_scan.left_by(gateway)                             the same for its logs, its state folder, core files

`GatewayProcess.stop` asks `left_by` for every gateway of the suite. A secret is found as it is, in base64 (both
alphabets, wherever in three bytes it begins), in hex, percent-encoded and escaped for JSON; a long one also by any
255 characters of it. What `ALLOWED` lists may hold what it says, because it is there for that.
"""

import base64
import json
import os
import re
import stat
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Protocol

#: Shorter ones would be found by chance, and no key is.
SHORTEST: Final = 12
#: Of a long secret every piece of this length is looked for.
_PIECE: Final = 128
_CHUNK: Final = 1 << 18

CREDENTIAL: Final = "credential"
SIGNED: Final = "signed payment"
SPONSORED: Final = "signed payment that the gateway sponsors"
PAYER_KEY: Final = "payer's private key"
SIGNING_KEY: Final = "signing key"
CONFIGURED: Final = "configured secret"
RPC_KEY: Final = "key in an RPC URL"
PASSWORD: Final = "password"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Files of a state folder that are there to hold some kinds of secrets, and why."""

    files: str  # of the path below the state folder; * goes over slashes
    kinds: frozenset[str]
    reason: str


ALLOWED: Final = (
    Allowed(
        "signing.key", frozenset({SIGNING_KEY}), "the key that was made at the first start, kept for the next"
    ),
    Allowed(
        "secrets/*",
        frozenset({SIGNING_KEY, CONFIGURED, PASSWORD}),
        "what Envoy and authz are given: SDS files, authz.json, ledger.url; 0600 in a folder of 0700",
    ),
    Allowed(
        "config/*pricing.json",
        frozenset({RPC_KEY}),
        "authz reads there which endpoints it asks; the state folder keeps others out",
    ),
    Allowed(
        "ledger.db*",
        frozenset({RPC_KEY}),
        "it remembers the endpoints of each network, so that a payment on one that was removed can be looked up",
    ),
    Allowed(
        "ledger.db*",
        frozenset({SPONSORED}),
        "the co-signed transaction of a sponsored payment while its outcome is open; SQLite reuses its page later",
    ),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """A place that shows a secret. Says of which kind; the secret is not in it."""

    place: str
    kind: str

    def __str__(self) -> str:
        return f"{self.place} holds a {self.kind}"


@dataclass(slots=True)
class Known:
    """Secrets, by all that they look like when they are written down."""

    _forms: dict[bytes, str] = field(default_factory=dict, repr=False)

    def know(self, kind: str, secret: str) -> None:
        """Remember it. What is shorter than SHORTEST is none."""
        if len(secret) >= SHORTEST:
            for form in forms(secret):
                self._forms.setdefault(form, kind)

    def kinds_in(self, data: bytes) -> frozenset[str]:
        """The kinds of those that are in there."""
        beginnings: dict[bytes, list[bytes]] = {}
        for form in self._forms:
            beginnings.setdefault(form[:SHORTEST], []).append(form)
        seen: set[bytes] = set()
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK + SHORTEST]
            seen |= beginnings.keys() & {chunk[at : at + SHORTEST] for at in range(len(chunk) - SHORTEST + 1)}
        return frozenset(self._forms[form] for begun in seen for form in beginnings[begun] if form in data)


KNOWN: Final = Known()


def know(kind: str, secret: str) -> None:
    """Remember a secret of this test run."""
    KNOWN.know(kind, secret)


def know_authorization(value: str, known: Known = KNOWN) -> None:
    """Remember a credential, as the value of a header, and the signature in it."""
    token = value.strip().rpartition(" ")[2]
    known.know(CREDENTIAL, token)
    try:
        document = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        signature = document["payload"]["signature"]
    except (ValueError, LookupError, TypeError):
        return
    if isinstance(signature, str):
        kind = SPONSORED if signature.startswith("0x78") else SIGNED
        known.know(kind, signature)
        known.know(kind, signature[-130:])  # the last 65 bytes are what the payer's key made


def know_configured(environ: Mapping[str, str], folder: Path | None, known: Known = KNOWN) -> None:
    """Remember what a gateway is given: variables that are named as secrets are, and files of a --secrets-dir."""
    for name, value in environ.items():
        if re.search(r"(KEY|SECRET|TOKEN|PASSWORD)$", name):
            _know_value(value, known)
    for file in folder.rglob("*") if folder is not None else ():
        if file.is_file():
            _know_value(file.read_text(errors="replace").strip(), known)


def _know_value(value: str, known: Known) -> None:
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", value):  # a recipient's address: told to everybody
        return
    if "://" in value:
        known.know(PASSWORD, urllib.parse.unquote(urllib.parse.urlsplit(value).password or ""))
        return
    known.know(CONFIGURED, value)


def forms(secret: str) -> frozenset[bytes]:
    """All that a secret may look like. Pieces of a long one are looked for as they are, only."""
    raw = secret.encode()
    pieces = [raw[at : at + _PIECE] for at in range(0, max(1, len(raw) - _PIECE + 1), _PIECE)]
    found = {*pieces, raw[-_PIECE:], *_written(raw[:_PIECE])}
    digits = secret.removeprefix("0x")
    if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits):
        data = bytes.fromhex(digits)[:_PIECE]
        found |= {digits[:_PIECE].lower().encode(), digits[:_PIECE].upper().encode(), data, *_base64(data)}
    return frozenset(form for form in found if len(form) >= SHORTEST)


def _written(raw: bytes) -> set[bytes]:
    text = raw.decode(errors="replace")
    return {
        raw,
        raw.hex().encode(),
        raw.hex().upper().encode(),
        urllib.parse.quote(text).encode(),
        urllib.parse.quote(text, safe="").encode(),
        urllib.parse.quote_plus(text).encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        repr(text)[1:-1].encode(),
        *_base64(raw),
    }


def _base64(raw: bytes) -> set[bytes]:
    """In both alphabets, less what depends on the bytes before and after."""
    found = set()
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw)
        middle = whole[4 if shift else 0 : len(whole) - (4 if (shift + len(raw)) % 3 else 0)]
        found |= {middle, middle.replace(b"+", b"-").replace(b"/", b"_")}
    return found


# --- where it is looked for ----------------------------------------------------------------------------


class Stopped(Protocol):
    """What is read of a gateway that has ended (gateway_process.GatewayProcess)."""

    state_dir: Path
    folder: Path
    stdout: list[str]
    stderr: list[str]


def leaks(texts: Mapping[str, str | bytes], known: Known = KNOWN) -> list[Leak]:
    """Which of these places, by name, show a secret."""
    found = []
    for place, text in texts.items():
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        found += [Leak(place, kind) for kind in sorted(known.kinds_in(data))]
    return found


def left_by(gateway: Stopped, known: Known = KNOWN) -> list[Leak]:
    """What its logs and its state folder show, and core files: those hold everything."""
    told = {"stdout": "\n".join(gateway.stdout), "stderr": "\n".join(gateway.stderr)}
    return [
        *leaks(told, known),
        *in_state(gateway.state_dir, known),
        *core_files(gateway.state_dir, gateway.folder),
    ]


def in_state(root: Path, known: Known = KNOWN) -> list[Leak]:
    """What a state folder's files show and may not (`ALLOWED`), and their names."""
    found = []
    for path in files(root):
        name = str(path.relative_to(root))
        allowed = frozenset[str]().union(*(rule.kinds for rule in ALLOWED if fnmatch(name, rule.files)))
        try:
            data = path.read_bytes()
        except OSError:  # it went away, or is not for us
            continue
        found += [Leak(f"{name} of the state folder", kind) for kind in sorted(known.kinds_in(data) - allowed)]
        found += [Leak("the name of a file of the state folder", kind) for kind in known.kinds_in(name.encode())]
    return found


def core_files(*folders: Path) -> list[Leak]:
    """Memory that somebody left on the disk."""
    names = (path for folder in folders for path in files(folder))
    return [Leak(str(path), "core file") for path in names if re.fullmatch(r"core(\..*)?|.*\.core", path.name)]


def files(root: Path) -> Iterable[Path]:
    """Every regular file below it; links are not followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def open_to_others(root: Path) -> list[str]:
    """Of a state folder and what is in it: what anybody else could read or enter, with its mode. The folder keeps
    others out by itself; what holds secrets or payments does so once more."""
    folders = (
        path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "config"
    )
    private = (path for path in files(root) if _holds_secrets(str(path.relative_to(root))))
    return [
        f"{path.relative_to(root.parent)}: {stat.S_IMODE(path.stat().st_mode):o}"
        for path in [root, *folders, *private]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def _holds_secrets(name: str) -> bool:
    return not name.startswith("config/") and any(fnmatch(name, rule.files) for rule in ALLOWED)
