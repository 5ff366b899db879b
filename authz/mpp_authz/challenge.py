"""Mint and check challenges: what we ask, signed, so that nothing has to be stored. Knows no store, no chain.

A challenge's `id` is an HMAC over its other parameters (draft-httpauth-payment-00, Challenge binding). Whoever
echoes one with a matching id echoes our own words: the echoed `request` IS the quote.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import rfc8785

#: "a secret of at least 32 bytes": shorter ones are refused where they are read.
MIN_KEY_BYTES: Final = 32
#: draft-httpauth-payment-00 asks for at least 4 KB; SDKs send up to 64 KiB, Envoy lets 60 KiB of headers through.
MAX_CREDENTIAL_CHARS: Final = 64 * 1024
#: Arrays and objects in one document of a stranger. Python's own limit is no protection: libraries raise it, and
#: then nested JSON overflows the C stack.
_MAX_CONTAINERS: Final = 500


class MalformedCredential(ValueError):
    """A credential that cannot be read. The message never holds a part of it."""


def b64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def canonical(document: Mapping[str, Any]) -> str:
    """JCS (RFC 8785) of a JSON object, base64url without padding."""
    return b64url(rfc8785.dumps(dict(document)))


def timestamp(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, as clients parse it."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{unix_ms % 1000:03d}Z"


@dataclass(frozen=True, slots=True)
class Challenge:
    """The parameters of one challenge, as on the wire: `request` and `opaque` are base64url texts."""

    id: str
    realm: str
    method: str
    intent: str
    request: str
    expires: str | None = None
    digest: str | None = None
    header: str | None = None
    opaque: str | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """What `opaque` says: when a challenge was minted and for which request it is good."""

    nonce: str
    minted_at: int  # Unix milliseconds
    http_method: str
    route: str  # route key
    target_hash: str  # of the path and, where it is bound, the query
    network: str  # by name: an HMAC over a chain id alone would not say which endpoints to ask
    offer: str

    def encode(self) -> str:
        """A flat map of strings ("opaque", draft-httpauth-payment-00), in JCS and base64url."""
        # Names in JCS order, and json writes strings as JCS does: no need for the canonicaliser at every 402.
        document = {
            "httpMethod": self.http_method,
            "mintedAt": str(self.minted_at),
            "network": self.network,
            "nonce": self.nonce,
            "offer": self.offer,
            "route": self.route,
            "target": self.target_hash,
        }
        return b64url(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def decode(cls, opaque: str) -> "Bound":
        """Read what `encode` wrote. Only for an `opaque` whose challenge id was verified.

        Raises:
            ValueError, KeyError: somebody else wrote it, who shares our key.
        """
        document = _object(opaque)
        # "A flat map of strings": what else a JSON value can be is no key of a row or of a network.
        if not all(isinstance(value, str) for value in document.values()):
            raise ValueError("not a flat map of strings")
        return cls(
            document["nonce"],
            int(document["mintedAt"]),
            document["httpMethod"],
            document["route"],
            document["target"],
            document["network"],
            document["offer"],
        )


@dataclass(frozen=True, slots=True)
class Presented:
    """A credential as it was presented: the challenge it echoes, the method's payload, and who says to pay."""

    challenge: Challenge
    payload: Mapping[str, Any] = field(repr=False)
    source: str | None = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Recognises the same credential, however its JSON was written; tells nothing of it."""
        body = rfc8785.dumps([self.challenge.id, dict(self.payload), self.source])
        return hashlib.sha256(body).hexdigest()


#: The shape of an id: base64url of an HMAC-SHA-256.
ID: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signing keys: the first signs, all verify."""

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("challenge keys: expected at least one, got none")
        for position, key in enumerate(self.keys):
            if len(key) < MIN_KEY_BYTES:
                raise ValueError(
                    f"challenge keys[{position}]: expected at least {MIN_KEY_BYTES} bytes, got {len(key)}; "
                    "make one with: openssl rand -hex 32"
                )

    def mint(
        self,
        *,
        realm: str,
        method: str,
        intent: str,
        request: str,
        expires: str,
        opaque: str,
        digest: str | None = None,
        header: str | None = None,
    ) -> Challenge:
        """A challenge with its id. `request` and `opaque` are base64url of JCS."""
        unsigned = Challenge("", realm, method, intent, request, expires, digest, header, opaque)
        return Challenge(
            _id(self.keys[0], unsigned), realm, method, intent, request, expires, digest, header, opaque
        )

    def ours(self, challenge: Challenge) -> bool:
        """Whether one of our keys signed exactly these parameters."""
        # What separates the slots must not be in one: the same text could be read as another challenge.
        if any("|" in slot for slot in _slots(challenge)):
            return False
        matches = [hmac.compare_digest(_id(key, challenge).encode(), challenge.id.encode()) for key in self.keys]
        return any(matches)

    def target_hash(self, target: str) -> str:
        """Binds a request target without showing it: it may hold secrets. By the first key, for minting."""
        return _keyed(self.keys[0], target)

    def target_hashes(self, target: str) -> tuple[str, ...]:
        """The hash of this target under each of our keys: what older challenges may say."""
        return tuple(_keyed(key, target) for key in self.keys)


def nonce() -> str:
    """Makes every challenge its own, also in the same millisecond."""
    return secrets.token_urlsafe(12)


def _keyed(key: bytes, target: str) -> str:
    return b64url(hmac.digest(key, b"target|" + target.encode("utf-8", "surrogateescape"), "sha256")[:16])


def _id(key: bytes, c: Challenge) -> str:
    return b64url(hmac.digest(key, "|".join(_slots(c)).encode("utf-8", "surrogatepass"), "sha256"))


def _slots(c: Challenge) -> tuple[str, ...]:
    """The draft's binding: fixed slots, absent is empty; `header` has a slot only when it is advertised."""
    header = () if c.header is None else (c.header,)
    return (c.realm, c.method, c.intent, c.request, c.expires or "", c.digest or "", *header, c.opaque or "")


# --- on the wire ---------------------------------------------------------------------------------------

_ESCAPE: Final = re.compile(r'([\\"])')
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")


def www_authenticate(challenge: Challenge, description: str | None = None) -> str:
    """One `WWW-Authenticate` value. `description` is display text, not part of the id."""
    parameters = {
        "id": challenge.id,
        "realm": challenge.realm,
        "method": challenge.method,
        "intent": challenge.intent,
        "request": challenge.request,
        "digest": challenge.digest,
        "expires": challenge.expires,
        "description": description,
        "header": challenge.header,
        "opaque": challenge.opaque,
    }
    quoted = (f'{name}="{_quote(value)}"' for name, value in parameters.items() if value is not None)
    return "Payment " + ", ".join(quoted)


#: "Servers SHOULD keep challenges under 8KB" (draft-httpauth-payment-00, Size Considerations); here for all that
#: one answer has, because Node reads 16 KiB of headers and many a proxy less: what cannot be read cannot be paid.
MAX_ANSWER_CHARS: Final = 8 * 1024


def www_authenticate_lines(challenges: Sequence[Challenge], description: str | None) -> tuple[str, ...]:
    """The `WWW-Authenticate` values of one answer, one for each challenge.

    The description is for people and part of no id: where there is no room for it on each line only the first has
    it, or none.
    """
    lines: tuple[str, ...] = ()
    for described in (len(challenges), 1, 0):
        lines = tuple(
            www_authenticate(one, description if at < described else None) for at, one in enumerate(challenges)
        )
        if sum(map(len, lines)) <= MAX_ANSWER_CHARS:
            break
    return lines


def _quote(value: str) -> str:
    """Escape a quoted-string; what a header cannot carry becomes a space or `?` (only descriptions can)."""
    if _PLAIN.fullmatch(value):
        return value
    printable = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in value)
    return _ESCAPE.sub(r"\\\1", printable)


def read_credential(token: str) -> Presented:
    """Read the token of `Authorization: Payment <token>`.

    Unknown fields are ignored ("MUST ignore unknown", draft-httpauth-payment-00, Extensibility).

    Raises:
        MalformedCredential: not base64url of a JSON object with a challenge and a payload.
    """
    if len(token) > MAX_CREDENTIAL_CHARS:
        raise MalformedCredential(f"it is longer than {MAX_CREDENTIAL_CHARS} characters")
    try:
        document = _object(token)
    except (ValueError, RecursionError):
        raise MalformedCredential("it is not base64url of a JSON object") from None
    echo, payload, source = document.get("challenge"), document.get("payload"), document.get("source")
    if not isinstance(echo, dict):
        raise MalformedCredential("its `challenge` is not an object")
    if not isinstance(payload, dict):
        raise MalformedCredential("its `payload` is not an object")
    if source is not None and not isinstance(source, str):
        raise MalformedCredential("its `source` is not a string")
    if any(not isinstance(echo.get(name), str) for name in ("id", "realm", "method", "intent", "request")):
        raise MalformedCredential("one of its `challenge` parameters is missing or not a string")
    optional = {name: echo.get(name) or None for name in ("expires", "digest", "header", "opaque")}
    if any(not isinstance(value, str | None) for value in optional.values()):
        raise MalformedCredential("one of its `challenge` parameters is not a string")
    if optional["header"] is not None and optional["header"].lower() == "authorization":
        optional["header"] = None  # the implicit default, never advertised and never signed
    challenge = Challenge(echo["id"], echo["realm"], echo["method"], echo["intent"], echo["request"], **optional)
    presented = Presented(challenge, payload, source)
    try:
        presented.fingerprint  # noqa: B018 - a payload that JCS cannot write (a huge integer, NaN) is malformed
    except (rfc8785.CanonicalizationError, RecursionError, ValueError):
        raise MalformedCredential("its `payload` is not canonical JSON") from None
    return presented


def read_request(challenge: Challenge) -> Mapping[str, Any]:
    """The decoded `request` of a challenge whose id was verified."""
    return _object(challenge.request)


def _object(text: str) -> dict[str, Any]:
    """Decode base64url (padded or not) of a JSON object.

    Raises:
        ValueError: it is something else.
    """
    if not text.isascii():
        raise ValueError("not ASCII")
    try:
        raw = base64.b64decode(
            text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True
        )
    except binascii.Error as error:
        raise ValueError("not base64url") from error
    # Of bytes that are UTF-8: json also reads UTF-16, where these bytes would not be brackets.
    text = raw.decode("utf-8")
    if text.count("[") + text.count("{") > _MAX_CONTAINERS:
        raise ValueError("too many arrays and objects")
    document = _JSON.decode(text)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


#: Python reads NaN and Infinity, which are not JSON (RFC 8259, Numbers); nobody else does.
_JSON: Final = json.JSONDecoder(parse_constant=_no_json)


# --- Accept-Payment ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Range:
    method: str
    intent: str
    quality: float

    @property
    def specificity(self) -> int:
        return (self.method != "*") * 2 + (self.intent != "*")


# "intent = 1*( ALPHA / DIGIT / "-" )" (draft-httpauth-payment-00, Intent Identifiers); a weight's q in any case
# (RFC 9110, Quality Values).
_RANGE: Final = re.compile(
    r"(?P<method>\*|[a-z][a-z0-9:_-]*)/(?P<intent>\*|[A-Za-z0-9][A-Za-z0-9:_-]*)"
    r"(?:[ \t]*;[ \t]*[Qq]=(?P<q>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def accepted(kinds: Sequence[tuple[str, str]], accept_payment: str | None) -> tuple[int, ...]:
    """Which of our offers to make, in order, as positions into `kinds` (method, intent).

    "filter to q > 0, order by q descending, keep the server's order on ties, the most specific range wins"
    (draft-httpauth-payment-00, Accept-Payment). Absent, malformed, or matching nothing: all, in our order.
    """
    everything = tuple(range(len(kinds)))
    ranges = _ranges(accept_payment) if accept_payment else ()
    if not ranges:
        return everything
    qualities = {at: _quality(ranges, *kind) for at, kind in enumerate(kinds)}
    wanted = sorted((at for at in everything if qualities[at] > 0), key=lambda at: -qualities[at])
    return tuple(wanted) or everything


def _ranges(header: str) -> tuple[_Range, ...]:
    matches = [_RANGE.fullmatch(part.strip()) for part in header.split(",") if part.strip()]
    if any(match is None for match in matches):
        return ()
    return tuple(_Range(match["method"], match["intent"], float(match["q"] or 1)) for match in matches if match)


def _quality(ranges: Iterable[_Range], method: str, intent: str) -> float:
    matching = [r for r in ranges if r.method in ("*", method) and r.intent in ("*", intent)]
    return max(matching, key=lambda r: r.specificity).quality if matching else 0.0
