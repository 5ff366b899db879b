"""Where unmodified SDKs and we read the wire differently: by name, with the reason, and an input that shows it.

`test_differential.py` owns the comparison: a disagreement that no entry here describes fails it, and so does an
entry that shows none. docs/conformance.md prints the table.
"""

import base64
import binascii
import functools
import hmac
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import rfc8785

from mpp_authz import challenge

Who = Literal["pympp", "mppx"]
#: Reading a credential, telling our own challenges from others, a 402's challenges, Accept-Payment.
What = Literal["credential", "ours", "challenges", "accept"]
PYMPP: Final[Who] = "pympp"
MPPX: Final[Who] = "mppx"


@dataclass(frozen=True, slots=True)
class Difference:
    """A reader that does not do as we do with some inputs.

    `what` is which readers it is about. `we` and `they` are what becomes of such an input. `fits` is true of
    the inputs that it explains; it may be true of some on which all agree, and should be of few.
    """

    name: str
    what: tuple[What, ...]
    who: Who
    we: Literal["accept", "refuse", "read"]  # read: both accept, and read something else
    they: Literal["accept", "refuse", "read"]
    reason: str
    shown_by: str
    fits: Callable[[str], bool]


# --- looking into a credential, as leniently as can be ----------------------------------------------------

_ALPHABET: Final = re.compile(r"[A-Za-z0-9+/_-]*=*")


def token_of(value: str) -> str:
    """What follows the first Payment scheme."""
    for part in value.split(","):
        stripped = part.strip()
        if re.match(r"payment\s", stripped, re.IGNORECASE):
            return stripped[7:].strip()
    return ""


@functools.lru_cache(maxsize=4096)
def raw_of(value: str) -> bytes:
    token = re.sub(r"[^A-Za-z0-9+/_-]", "", token_of(value)).replace("-", "+").replace("_", "/")
    if len(token) % 4 == 1:
        token = token[:-1]
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error:
        return b""


@functools.lru_cache(maxsize=4096)
def text_of(value: str) -> str:
    return raw_of(value).decode("utf-8", "replace").removeprefix("\ufeff")


@functools.lru_cache(maxsize=4096)
def document_of(value: str) -> Mapping[str, Any]:
    """The credential's JSON object; empty where there is none."""
    try:
        document = json.loads(text_of(value))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def echo_of(value: str) -> Mapping[str, Any]:
    echo = document_of(value).get("challenge")
    return echo if isinstance(echo, dict) else {}


def _has(value: str, *names: str) -> bool:
    return all(isinstance(echo_of(value).get(name), str) for name in names)


def request_of(echo: Mapping[str, Any]) -> Any:
    """The decoded `request` of an echo; None where it cannot be decoded."""
    return _decoded(echo.get("request"))


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        return None
    kept = re.sub(r"[^A-Za-z0-9+/_-]", "", text)
    try:
        return json.loads(base64.urlsafe_b64decode(kept + "=" * (-len(kept) % 4)))
    except (ValueError, RecursionError):
        return None


def _numbers(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return [number for inner in found.values() for number in _numbers(inner)]
    if isinstance(found, list):
        return [number for inner in found for number in _numbers(inner)]
    return [found] if isinstance(found, int | float) and not isinstance(found, bool) else []


def _optional(echo: Mapping[str, Any]) -> list[Any]:
    return [echo[name] for name in ("expires", "digest", "header", "opaque") if name in echo]


_REQUIRED: Final = ("id", "realm", "method", "intent", "request")
_METHOD: Final = re.compile(r"[a-z][a-z0-9:_-]*")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DATETIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z")


def credential(document: Any) -> str:
    """The header's value for a document, whatever it is."""
    text = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
    return "Payment " + base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


#: What the tests sign with, as the conformance vectors do.
KEY: Final = "test-vector-secret-minimum-32-byte-secret"


def _signed(request: str = '{"amount":"1"}', opaque: str = '{"a":"b"}', realm: str = "r") -> dict[str, Any]:
    """An echo whose id was made over the canonical texts, and that says these ones."""
    decoded = {"request": json.loads(request), "opaque": json.loads(opaque)}
    canonical = {name: challenge.canonical(document) for name, document in decoded.items()}
    slots = [realm, "tempo", "charge", canonical["request"], "", "", canonical["opaque"]]
    return {
        "id": challenge.b64url(hmac.digest(KEY.encode(), "|".join(slots).encode(), "sha256")),
        "realm": realm,
        "method": "tempo",
        "intent": "charge",
        "request": challenge.b64url(request.encode()),
        "opaque": challenge.b64url(opaque.encode()),
    }


def _made(echo: Mapping[str, Any], **rest: Any) -> str:
    return credential({"challenge": echo, "payload": {}} | rest)


_ECHO: Final = _signed()
_GOOD_JSON: Final = json.dumps({"challenge": _ECHO, "payload": {}})
_GOOD: Final = _made(_ECHO)


def _echo(**changes: Any) -> str:
    return _made(_ECHO | changes)


def _parts(value: str) -> list[str]:
    return [part.strip(" \t") for part in value.split(",") if part.strip(" \t")]


def _schemes(value: str) -> int:
    return sum(re.match(r"payment[ \t]", part, re.IGNORECASE) is not None for part in _parts(value))


def _surrogates(value: str) -> bool:
    """Half of a surrogate pair in any text of the document, as only an escape can write it."""
    return any(
        0xD800 <= ord(character) <= 0xDFFF for character in json.dumps(document_of(value), ensure_ascii=False)
    )


def _not_utf8(value: str) -> bool:
    if _ALPHABET.fullmatch(token_of(value)) is None:
        return False
    try:
        raw_of(value).decode()
    except UnicodeDecodeError:
        return True
    return raw_of(value).startswith(b"\xef\xbb\xbf") or b"\x00" in raw_of(value)


def _constants(value: str) -> bool:
    found: list[str] = []
    try:
        json.loads(text_of(value), parse_constant=found.append)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def _beyond_jcs(value: str) -> bool:
    """A number in the payload that canonical JSON has no way to write."""
    numbers = _numbers(document_of(value).get("payload"))
    return any(abs(n) > 2**53 - 1 if isinstance(n, int) else n in (math.inf, -math.inf) for n in numbers)


def _odd_request(value: str) -> bool:
    """`request` is no canonical text of an object."""
    if not echo_of(value):
        return False
    text = echo_of(value).get("request")
    found = request_of(echo_of(value))
    if not isinstance(text, str) or not isinstance(found, dict):
        return True
    return _canonical(found) != text


def _canonical(document: Mapping[str, Any]) -> str | None:
    try:
        return challenge.canonical(document)
    except rfc8785.CanonicalizationError:
        return None


def _present(value: str, name: str) -> bool:
    return name in echo_of(value)


def _text(value: str, name: str) -> str:
    found = echo_of(value).get(name)
    return found if isinstance(found, str) else ""


def _controls(text: str) -> bool:
    return any((ord(c) < 0x20 and c != "\t") or ord(c) == 0x7F for c in text)


# --- the table -----------------------------------------------------------------------------------------

_BOTH: Final[tuple[What, ...]] = ("credential", "ours")
_READ: Final[tuple[What, ...]] = ("credential",)
_OURS: Final[tuple[What, ...]] = ("ours",)
_LOOSE: Final = "The draft wants base64url of a JSON object; what else it could mean is not ours to guess."
_LATER: Final = (
    "Whether we wrote a challenge is told by its id, which covers every parameter; its form need not be looked at."
)


def _for_both_readers(
    name: str, reason: str, shown_by: str, fits: Callable[[str], bool]
) -> tuple[Difference, ...]:
    """We refuse, and both others accept."""
    return tuple(Difference(name, _BOTH, who, "refuse", "accept", reason, shown_by, fits) for who in (PYMPP, MPPX))


def _they_refuse(
    name: str, who: Who, reason: str, shown_by: str, fits: Callable[[str], bool], what: tuple[What, ...] = _BOTH
) -> Difference:
    return Difference(name, what, who, "accept", "refuse", reason, shown_by, fits)


def _we_refuse(
    name: str, who: Who, reason: str, shown_by: str, fits: Callable[[str], bool], what: tuple[What, ...] = _BOTH
) -> Difference:
    return Difference(name, what, who, "refuse", "accept", reason, shown_by, fits)


def _read_otherwise(name: str, who: Who, reason: str, shown_by: str, fits: Callable[[str], bool]) -> Difference:
    return Difference(name, _READ, who, "read", "read", reason, shown_by, fits)


CREDENTIALS: Final = (
    # --- the header
    *_for_both_readers(
        "two credentials",
        "They use the first one. The draft asks for 400 (Multiple Payment Options): a payer must "
        "know which was taken.",
        f"{_GOOD}, {_GOOD}",
        lambda value: _schemes(value) > 1,
    ),
    *_for_both_readers(
        "a credential beside another scheme",
        "They pick it out of the list. `Authorization` holds one credential (RFC 9110), and one of "
        "the two would reach "
        "the upstream: 400, with the advice to use Payment-Authorization.",
        f"Bearer abc, {_GOOD}",
        lambda value: 0 < _schemes(value) < len(_parts(value)),
    ),
    _they_refuse(
        "a tab after the scheme",
        PYMPP,
        "White space is a space or a tab (RFC 9110), and Envoy sends both to the lane of those who pay.",
        _GOOD.replace(" ", "\t"),
        lambda value: re.search(r"payment *\t", value, re.IGNORECASE) is not None,
    ),
    # --- base64url
    _we_refuse(
        "characters that are not base64url",
        PYMPP,
        f"They are left out. {_LOOSE}",
        _GOOD[:12] + "...." + _GOOD[12:],
        lambda value: _ALPHABET.fullmatch(token_of(value)) is None,
    ),
    _we_refuse(
        "characters that are not base64url",
        MPPX,
        f"They are read as A. {_LOOSE}",
        "Payment " + token_of(_GOOD).replace("A", "!", 1),
        lambda value: _ALPHABET.fullmatch(token_of(value)) is None,
    ),
    _we_refuse(
        "one character too many",
        MPPX,
        f"It is left out. {_LOOSE}",
        credential(_GOOD_JSON + " " * (-len(_GOOD_JSON) % 3)) + "A",
        lambda value: len(token_of(value).rstrip("=")) % 4 == 1,
    ),
    # --- JSON
    *_for_both_readers(
        "text that is not UTF-8",
        "pympp reads UTF-16 and UTF-32, mppx puts a replacement character where bytes are wrong, and "
        "both take a byte "
        f"order mark. JSON on the wire is UTF-8 without one (RFC 8259). {_LOOSE}",
        "Payment " + base64.urlsafe_b64encode(b"\xef\xbb\xbf" + _GOOD_JSON.encode()).decode().rstrip("="),
        _not_utf8,
    ),
    _we_refuse(
        "NaN and Infinity",
        PYMPP,
        "Python reads them; they are not JSON (RFC 8259, Numbers).",
        credential(_GOOD_JSON[:-1] + ',"n":NaN}'),
        _constants,
    ),
    *_for_both_readers(
        "a number that canonical JSON cannot write",
        "Beyond 2^53 readers round differently: the same credential would be two. No method's "
        "payload has such numbers.",
        _made(_ECHO, payload={"n": 2**53}),
        _beyond_jcs,
    ),
    _we_refuse(
        "half of a surrogate pair, in what a fingerprint is made of",
        MPPX,
        "It is no text: it cannot be written as UTF-8, so such a credential could not be told from others.",
        _made(_ECHO, payload={"s": "\ud800"}),
        _surrogates,
    ),
    _they_refuse(
        "half of a surrogate pair elsewhere",
        PYMPP,
        f"It refuses it anywhere, also in fields nobody knows, which the draft wants ignored. {_LATER}",
        _made(_ECHO, unknown="\ud800"),
        _surrogates,
    ),
    *_for_both_readers(
        "more than 500 lists and objects",
        "What a stranger sends must not cost more to read than a challenge costs to make.",
        _made(_ECHO, payload={"deep": [[]] * 500}),
        lambda value: text_of(value).count("[") + text_of(value).count("{") > 500,
    ),
    # --- the document
    *_for_both_readers(
        "a payload that is not an object",
        "The draft wants an object. mppx does not even want one to be there.",
        _made(_ECHO, payload="paid"),
        lambda value: bool(echo_of(value)) and not isinstance(document_of(value).get("payload"), dict),
    ),
    *_for_both_readers(
        "a source that is not text",
        "The draft wants text. pympp makes text of it, mppx hands it on.",
        _made(_ECHO, source=7),
        lambda value: not isinstance(document_of(value).get("source"), str | None),
    ),
    *(
        _read_otherwise(
            "an empty source",
            who,
            "They take it for none. We keep what is said: it names nobody, so no payment verifies with it.",
            _made(_ECHO, source=""),
            lambda value: document_of(value).get("source") == "",
        )
        for who in (PYMPP, MPPX)
    ),
    _we_refuse(
        "a parameter of the challenge that is missing or not text",
        PYMPP,
        "It makes text of what is there, and empty text of what is not. The draft wants text.",
        _made({name: text for name, text in _signed(realm="").items() if name != "realm"}),
        lambda value: (
            not _has(value, *_REQUIRED)
            or any(found and not isinstance(found, str) for found in _optional(echo_of(value)))
        ),
    ),
    _they_refuse(
        "a method in other than small letters",
        PYMPP,
        _LATER,
        _echo(method="Tempo"),
        lambda value: _METHOD.fullmatch(_text(value, "method")) is None,
        _READ,
    ),
    *(
        _they_refuse(
            "a name of a header that is none",
            who,
            _LATER,
            _echo(header="a b"),
            lambda value: _HEADER.fullmatch(_text(value, "header")) is None and _text(value, "header") != "",
            _READ,
        )
        for who in (PYMPP, MPPX)
    ),
    _they_refuse(
        "a description that no header could carry",
        PYMPP,
        "The description decides nothing, and we never repeat it: it is not looked at.",
        _echo(description="a\r\nb"),
        lambda value: _controls(str(echo_of(value).get("description", ""))),
    ),
    _they_refuse(
        "a description that is not text",
        MPPX,
        "The description decides nothing, and we never repeat it: it is not looked at.",
        _echo(description=None),
        lambda value: _present(value, "description") and not isinstance(echo_of(value)["description"], str),
    ),
    _they_refuse("an empty id", MPPX, _LATER, _echo(id=""), lambda value: echo_of(value).get("id") == "", _READ),
    _they_refuse(
        "a parameter that is there and empty",
        MPPX,
        "We take null, false, 0 and what is empty for absent. The id was made over what is absent, and decides.",
        _echo(digest=None),
        lambda value: any(not found for found in _optional(echo_of(value))),
    ),
    _they_refuse(
        "an expiry that is no time",
        MPPX,
        _LATER,
        _echo(expires="soon"),
        lambda value: _text(value, "expires") != "" and _DATETIME.fullmatch(_text(value, "expires")) is None,
        _READ,
    ),
    _they_refuse(
        "a digest of another kind",
        MPPX,
        _LATER,
        _echo(digest="md5=abc"),
        lambda value: _text(value, "digest") != "" and not _text(value, "digest").startswith("sha-256="),
        _READ,
    ),
    _they_refuse(
        "a request that is no object",
        MPPX,
        f"It is decoded at once. We decode it when the id has told that it is ours. {_LATER}",
        _echo(request="W10"),
        _odd_request,
        _READ,
    ),
    _read_otherwise(
        "a request that is decoded leniently",
        MPPX,
        f"As with credentials, what is no base64url is read all the same. {_LATER}",
        _echo(request=challenge.canonical({"amount": "1000"}).replace("A", "!")),
        _odd_request,
    ),
    _we_refuse(
        "an opaque map that is written out",
        MPPX,
        "Older versions of mppx sent it so. The draft wants the text of the challenge, unchanged.",
        _echo(opaque={"a": "b"}),
        lambda value: isinstance(echo_of(value).get("opaque"), dict),
    ),
    _read_otherwise(
        "an empty opaque",
        MPPX,
        "It keeps the empty text, and makes a map of an empty object; for the id both are as for us.",
        _echo(opaque=""),
        lambda value: echo_of(value).get("opaque") in ("", {}),
    ),
    _read_otherwise(
        "Authorization as the named header",
        MPPX,
        "It keeps the name of the header that is the default; for the id it counts as absent, as for us.",
        _echo(header="Authorization"),
        lambda value: _text(value, "header").lower() == "authorization",
    ),
    _read_otherwise(
        "a field of the request that is called __proto__",
        MPPX,
        "It gets lost: in JavaScript it is no field. No method has such a field.",
        _echo(request=challenge.b64url(b'{"__proto__":1}')),
        lambda value: "__proto__" in (request_of(echo_of(value)) or ()),
    ),
    # --- whose challenge it is
    _they_refuse(
        "a field of a signed request that is called __proto__",
        MPPX,
        "It gets lost: in JavaScript it is no field. No method has such a field.",
        _made(_signed(request='{"__proto__":1}')),
        lambda value: "__proto__" in (request_of(echo_of(value)) or ()),
        _OURS,
    ),
    *(
        _we_refuse(
            "another spelling of the request",
            who,
            "They decode it, write it anew and compare that. The id is over the text on the wire "
            "(Challenge Binding), and "
            "clients must send it unchanged.",
            _made(_signed(request='{"amount": "1"}')),
            _odd_request,
            _OURS,
        )
        for who in (PYMPP, MPPX)
    ),
    _we_refuse(
        "another spelling of the opaque map",
        PYMPP,
        "It decodes it, writes it anew and compares that. Clients must send it unchanged.",
        _made(_signed(opaque='{"a": "b"}')),
        lambda value: _canonical(_decoded(echo_of(value).get("opaque")) or {}) != echo_of(value).get("opaque"),
        _OURS,
    ),
    *(
        _we_refuse(
            "a bar in a parameter",
            who,
            "A bar parts the slots that the id is made over: one text could be read as two "
            "challenges. We write none.",
            _made(_signed(realm="a|b")),
            lambda value: any("|" in str(part) for part in echo_of(value).values()),
            _OURS,
        )
        for who in (PYMPP, MPPX)
    ),
)


# --- Accept-Payment ------------------------------------------------------------------------------------

_IGNORE: Final = "We ignore a header that is not of the draft's form (it allows that), and offer everything."
_ELEMENT: Final = re.compile(r"([^/;\s]+)\s*/\s*([^/;\s]+)")


def _tokens(header: str) -> list[tuple[str, str]]:
    found = [_ELEMENT.match(part.strip()) for part in header.split(",")]
    return [(match[1], match[2]) for match in found if match]


def _rivals(header: str) -> bool:
    """Two ranges of one specificity, which match one offer: the same one twice, or `a/*` and `*/b`."""
    ranges = _tokens(header)
    partly = {(method == "*", intent == "*") for method, intent in ranges}
    return len(set(ranges)) < len(ranges) or {(True, False), (False, True)} <= partly


def _chosen_otherwise(name: str, reason: str, shown_by: str, fits: Callable[[str], bool]) -> Difference:
    return Difference(name, ("accept",), MPPX, "read", "read", reason, shown_by, fits)


ACCEPT: Final = (
    _chosen_otherwise(
        "two ranges that are equally specific",
        "For mppx the higher weight counts. For us a method is more specific than an intent, and of "
        "two ranges that are "
        "the same the first counts. The draft says nothing of it.",
        "tempo/*;q=0.1, */charge",
        _rivals,
    ),
    _chosen_otherwise(
        "a weight with a capital Q",
        "mppx does not see it. Names of parameters have no case (RFC 9110, Quality Values).",
        "stripe/charge, tempo/charge;Q=0.5",
        lambda header: "Q" in header,
    ),
    _chosen_otherwise(
        "other parameters than a weight",
        f"mppx ignores the parameter. {_IGNORE}",
        "stripe/charge;x=y, tempo/charge;q=0.5",
        lambda header: re.search(r";[ \t]*(?![ \t]|[qQ]=)", header) is not None,
    ),
    _chosen_otherwise(
        "two parameters",
        f"mppx takes the last weight. {_IGNORE}",
        "stripe/charge, tempo/charge;q=0.5;q=0.4",
        lambda header: any(part.count(";") > 1 for part in _parts(header)),
    ),
    _chosen_otherwise(
        "white space inside of a range",
        f"mppx reads over it. {_IGNORE}",
        "stripe / charge, tempo/charge;q=0.5",
        lambda header: re.search(r"\s/|/\s|=\s", header) is not None,
    ),
    _chosen_otherwise(
        "names that mppx does not know as such",
        "It ignores a header with a colon, an underscore or a capital in a name. Methods have colons "
        "and underscores in "
        "the SDKs' own grammar, and intents capitals in the draft's.",
        "stripe/charge, my_method/Charge",
        lambda header: any(re.search(r"[:_A-Z]", method + intent) for method, intent in _tokens(header)),
    ),
    _chosen_otherwise(
        "a method that does not begin with a letter",
        f"No method is called so. {_IGNORE}",
        "stripe/charge, 9/charge",
        lambda header: any(re.match(r"[0-9-]", method) for method, _ in _tokens(header)),
    ),
    _chosen_otherwise(
        "an intent that begins with a hyphen",
        f"No intent is called so. {_IGNORE}",
        "stripe/charge, tempo/-charge",
        lambda header: any(intent.startswith("-") for _, intent in _tokens(header)),
    ),
)

TABLE: Final = (*CREDENTIALS, *ACCEPT)
