"""Our parsers and those of unmodified pympp and mppx, on generated input: do all accept, refuse and read the same?

Every disagreement must be one that `differences.TABLE` describes. A new one is a bug: ours, or an entry to write.
"""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import differences
import ledgers
import mpp
import pytest
import second_reader
from differences import MPPX, PYMPP, Difference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpp import BodyDigest
from mpp._parsing import ParseError
from mpp.server import verify

from mpp_authz import challenge, quotes, verdicts
from mpp_authz.challenge import Challenge, Keyring, MalformedCredential
from mpp_authz.ledger import State
from mpp_operator import pay

pytestmark = [pytest.mark.payments, pytest.mark.timeout(60)]

RING: Final = Keyring((differences.KEY.encode(),))
PARAMETERS: Final = ("id", "realm", "method", "intent", "request", "expires", "digest", "header", "opaque")

#: What a reader made of an input; None: it refuses.
Read = Mapping[str, Any] | None
Outcome = tuple[Any, Any, bool]

#: On CI the same inputs each time: what is new is found where somebody can write it down.
examples = settings(
    max_examples=120,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# --- the readers of credentials ----------------------------------------------------------------------------


def _request(value: str) -> quotes.Request:
    return quotes.Request("shop/route", "GET", "shop.example", "https", "127.0.0.1", "/", "", authorization=value)


def _presented(value: str) -> challenge.Presented | None:
    try:
        token = quotes.token(_request(value))
        return None if token is None else challenge.read_credential(token)
    except (quotes.BadCredentials, MalformedCredential):
        return None


def we_read(value: str) -> Read:
    presented = _presented(value)
    if presented is None:
        return None
    echo = {name: getattr(presented.challenge, name) for name in PARAMETERS}
    return echo | {"payload": presented.payload, "source": presented.source}


def pympp_reads(value: str) -> Read:
    """As its server does: what `Authorization` holds of the Payment scheme, then the credential."""
    try:
        scheme = verify._extract_payment_scheme(value)
        read = None if scheme is None else mpp.Credential.from_authorization(scheme)
    except Exception:  # it lets some errors of JSON through; refused is refused
        return None
    if read is None:
        return None
    echo = {name: getattr(read.challenge, name) for name in PARAMETERS}
    return echo | {"payload": read.payload, "source": read.source}


def mppx_reads(value: str, mppx: second_reader.Mppx) -> Read:
    """`request` is decoded: mppx keeps no text of it."""
    try:
        read = mppx.ask("read credential", value=value)
    except second_reader.Refused:
        return None
    echo = {name: read["challenge"].get(name) for name in PARAMETERS}
    answer: dict[str, Any] = _as_doubles(echo | {"payload": read.get("payload"), "source": read.get("source")})
    return answer


def _as_doubles(found: Any) -> Any:
    """JavaScript writes a double beyond 2^53 as an integer; Python would read one."""
    if isinstance(found, dict):
        return {name: _as_doubles(inner) for name, inner in found.items()}
    if isinstance(found, list):
        return [_as_doubles(inner) for inner in found]
    return float(found) if isinstance(found, int) and abs(found) >= 2**53 else found


def ours_says(value: str) -> bool:
    presented = _presented(value)
    return presented is not None and RING.ours(presented.challenge)


def pympp_says(value: str) -> bool:
    """Whether its server would take the echo for its own."""
    try:
        scheme = verify._extract_payment_scheme(value)
        if scheme is None:
            return False
        verify._authenticate_echo(mpp.Credential.from_authorization(scheme), secret_key=differences.KEY)
    except Exception:
        return False
    return True


def mppx_says(value: str, mppx: second_reader.Mppx) -> bool:
    try:
        return mppx.ask("is ours", secretKey=differences.KEY, value=value) is True
    except second_reader.Refused:
        return False


def _minted() -> Mapping[str, str]:
    made = RING.mint(
        realm="shop.example",
        method="tempo",
        intent="charge",
        request=challenge.canonical({"amount": "1"}),
        expires="2030-01-01T00:00:00.000Z",
        opaque=challenge.canonical({"a": "b"}),
    )
    echo = {name: getattr(made, name) for name in PARAMETERS}
    return {name: value for name, value in echo.items() if value is not None}


# --- generated credentials ---------------------------------------------------------------------------------

#: What JSON can say and all languages read alike: no integer beyond 2^53, no half of a surrogate pair.
#: And nothing called __proto__, which mppx loses: `differences` has that.
TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: text != "__proto__"
)
LEAF: Final = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
NUMBER: Final = st.floats(-(2.0**53) + 1, 2.0**53 - 1)  # JavaScript writes larger ones as integers
JSON: Final = st.recursive(
    LEAF | NUMBER,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
#: Where two languages differ, if they do.
ODD: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [
        "",
        0,
        False,
        None,
        [],
        {},
        {"a": "b"},
        {"a": 1},
        2**53,
        10**30,
        1e300,
        "a|b",
        "x\r\ny",
        "\x00",
        "caf\u00e9",
        "=",
        "0",
    ]
)
VISIBLE: Final = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="|"), max_size=12
)


@st.composite
def genuine(draw: st.DrawFn) -> dict[str, Any]:
    """A credential's document, whose challenge all three made alike."""
    minted = RING.mint(
        realm=draw(VISIBLE.filter(bool)),
        method=draw(st.sampled_from(["tempo", "stripe", "tempo-v2"])),
        intent=draw(st.sampled_from(["charge", "session"])),
        request=challenge.canonical(draw(st.dictionaries(TEXT, LEAF | st.lists(LEAF, max_size=2), max_size=3))),
        expires=draw(st.sampled_from(["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.000Z"])),
        opaque=challenge.canonical(draw(st.dictionaries(TEXT, TEXT, max_size=2))),
        digest=draw(st.none() | st.just("sha-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE")),
        header=draw(st.none() | st.just("Payment-Authorization")),
    )
    echo = {name: getattr(minted, name) for name in PARAMETERS if getattr(minted, name) is not None}
    document: dict[str, Any] = {"challenge": echo, "payload": draw(st.dictionaries(TEXT, JSON, max_size=3))}
    if draw(st.booleans()):
        document["source"] = "did:pkh:eip155:4217:0x1234567890abcdef1234567890abcdef12345678"
    return document


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A document with up to two things changed, left out, or added."""
    document = draw(genuine())
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.booleans())
        target = document.get("challenge") if inside else document
        if not isinstance(target, dict):
            continue
        names = (*PARAMETERS, "description") if inside else ("challenge", "payload", "source")
        name = draw(st.sampled_from([*names, "unknown", "__proto__"]))
        if draw(st.integers(0, 3)) == 0:
            target.pop(name, None)
        else:
            target[name] = draw(ODD | JSON | TEXT)
    return draw(st.just(document) | st.just([document])) if draw(st.integers(0, 9)) == 0 else document


@st.composite
def written(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> str:
    """A header's value: a document in some spelling of JSON, perhaps damaged."""
    document = draw(documents)
    text = json.dumps(
        document,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        sort_keys=draw(st.booleans()),
    )
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(["", " ", ",", "}", '"', "NaN", "\\ud800", "\ufeff", "1"]))
            + text[at + 1 :]
        )
    raw = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 19)) == 0:
        raw = draw(st.sampled_from([text.encode("utf-16"), b"\xff" + raw, b"\xef\xbb\xbf" + raw, raw + b"\x00"]))
    token = base64.urlsafe_b64encode(raw).decode()
    token = draw(st.sampled_from([token.rstrip("="), token.rstrip("="), token, token + "="]))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(token)))
        token = (
            token[:at]
            + draw(st.sampled_from(["", "A", "!", "=", ".", "\t", "\u00e9", "%3D", "-", "+"]))
            + token[at + 1 :]
        )
    scheme = draw(st.sampled_from(["Payment ", "Payment ", "payment ", "PAYMENT   ", "Payment\t", "Payment"]))
    value = scheme + token
    if draw(st.integers(0, 9)) == 0:
        value = draw(
            st.sampled_from(
                [
                    value + ", " + value,
                    "Bearer abc, " + value,
                    value + ", Basic YTpi",
                    value + ",",
                    "," + value,
                    " " + value,
                ]
            )
        )
    return value


# --- comparing ---------------------------------------------------------------------------------------------


def explained(what: str, who: str, we: str, they: str, value: str) -> list[Difference]:
    """The known differences that an input shows."""
    return [
        known
        for known in differences.TABLE
        if what in known.what and (known.who, known.we, known.they) == (who, we, they) and known.fits(value)
    ]


def _with_request(read: Read) -> Read:
    """As mppx gives it: the request decoded."""
    if read is None:
        return None
    try:
        return dict(read) | {"request": challenge.read_request(Challenge("", "", "", "", read["request"]))}
    except (ValueError, RecursionError):
        return dict(read) | {"request": "cannot be decoded"}


def _credential(value: str, who: str, mppx: second_reader.Mppx) -> Outcome:
    ours = we_read(value)
    if who == PYMPP:
        theirs = pympp_reads(value)
        return ours, theirs, ours == theirs
    theirs = mppx_reads(value, mppx)
    return ours, theirs, _with_request(ours) == theirs


def _ours(value: str, who: str, mppx: second_reader.Mppx) -> Outcome:
    theirs = pympp_says(value) if who == PYMPP else mppx_says(value, mppx)
    ours = ours_says(value)
    return ours or None, theirs or None, ours == theirs


def buyer_reads(lines: Sequence[str]) -> list[dict[str, Any]]:
    """As our buyer does, with pympp for each challenge."""
    read = [mpp.Challenge.from_www_authenticate(value) for line in lines for value in pay.payment_challenges(line)]
    if not read:
        raise ParseError("no Payment challenge")
    return [
        {name: getattr(one.to_echo(), name) for name in PARAMETERS}
        | {"description": one.description or None, "request": one.request}
        for one in read
    ]


def mppx_reads_challenges(lines: Sequence[str], mppx: second_reader.Mppx) -> list[dict[str, Any]]:
    read = mppx.ask("read challenges", lines=list(lines))
    return [_as_doubles({name: one.get(name) for name in (*PARAMETERS, "description")}) for one in read]


def _challenges(value: str, _: str, mppx: second_reader.Mppx) -> Outcome:
    """`value` holds a header line on each of its lines."""
    lines = value.split("\n")
    ours: list[dict[str, Any]] | None
    theirs: list[dict[str, Any]] | None
    try:
        ours = buyer_reads(lines)
    except ParseError:
        ours = None
    try:
        theirs = mppx_reads_challenges(lines, mppx)
    except second_reader.Refused:
        theirs = None
    return ours, theirs, ours == theirs


def _accept(value: str, _: str, mppx: second_reader.Mppx) -> Outcome:
    """Positions of the offers. Nobody refuses: what cannot be read is ignored."""
    ours = list(challenge.accepted([(method, intent) for method, intent in KINDS], value))
    try:
        theirs = mppx.ask("accept payment", kinds=KINDS, header=value)
    except second_reader.Refused:
        theirs = []
    theirs = theirs or list(range(len(KINDS)))
    return ours, theirs, ours == theirs


#: What a value is for us and for another; and whether that is the same.
READERS: Final[Mapping[str, Callable[[str, str, second_reader.Mppx], Outcome]]] = {
    "credential": _credential,
    "ours": _ours,
    "challenges": _challenges,
    "accept": _accept,
}


def compare(what: str, value: str, mppx: second_reader.Mppx, readers: tuple[str, ...] = (PYMPP, MPPX)) -> None:
    """Fails unless each reader does as we do, or a known difference says why not."""
    for who in readers:
        ours, theirs, same = READERS[what](value, who, mppx)
        if same and (ours is None) == (theirs is None):
            continue
        we, they = ("refuse" if ours is None else "accept"), ("refuse" if theirs is None else "accept")
        if we == they:
            we = they = "read"
        assert explained(what, who, we, they, value), (
            f"we {we}, {who} does: {they}\nvalue: {value!r}\nJSON: {differences.text_of(value)!r}\n"
            f"ours: {ours!r}\ntheirs: {theirs!r}"
        )


@examples
@given(value=written(genuine()))
def test_a_genuine_credential_is_read_alike(value: str, mppx: second_reader.Mppx) -> None:
    compare("credential", value, mppx)


@examples
@given(document=genuine(), writer=st.sampled_from([PYMPP, MPPX]))
def test_what_clients_send_is_read_alike_without_exception(
    document: dict[str, Any], writer: str, mppx: second_reader.Mppx
) -> None:
    echo, payload, source = document["challenge"], document["payload"], document.get("source")
    if writer == PYMPP:
        value = mpp.Credential(mpp.ChallengeEcho(**echo), payload, source).to_authorization()
    else:
        decoded = echo | {"request": challenge.read_request(Challenge("", "", "", "", echo["request"]))}
        sent = {"challenge": decoded, "payload": payload} | ({} if source is None else {"source": source})
        value = mppx.ask("write credential", credential=sent)

    for who in (PYMPP, MPPX):
        for what in ("credential", "ours"):
            ours, theirs, same = READERS[what](value, who, mppx)
            assert ours is not None
            assert theirs is not None
            assert same


@examples
@given(value=written(changed()))
def test_a_changed_credential_is_read_alike(value: str, mppx: second_reader.Mppx) -> None:
    compare("credential", value, mppx)


@examples
@given(value=written(genuine()) | written(changed()))
def test_one_echo_is_the_servers_own_for_all_or_none(value: str, mppx: second_reader.Mppx) -> None:
    compare("ours", value, mppx)


@examples
@given(value=st.text(max_size=80).map(lambda text: "Payment " + text) | st.text(max_size=80))
def test_any_text_is_read_alike(value: str, mppx: second_reader.Mppx) -> None:
    compare("credential", value, mppx)


# --- the challenges of a 402 -------------------------------------------------------------------------------

#: What a person may have written; a header carries the visible part of ASCII.
DESCRIPTION: Final = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@examples
@given(documents=st.lists(genuine(), min_size=1, max_size=3), description=DESCRIPTION, merged=st.booleans())
def test_a_402_of_ours_says_the_same_to_all(
    documents: list[dict[str, Any]], description: str | None, merged: bool, mppx: second_reader.Mppx
) -> None:
    minted = [Challenge(**(dict.fromkeys(PARAMETERS) | document["challenge"])) for document in documents]
    lines = [challenge.www_authenticate(one, description) for one in minted]
    lines = [", ".join(lines)] if merged else lines
    visible = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in description or "")

    buyers, mppxs = buyer_reads(lines), mppx_reads_challenges(lines, mppx)

    assert (
        buyers
        == mppxs
        == [
            {name: getattr(one, name) for name in PARAMETERS}
            | {"description": visible or None, "request": request}
            for one, request in zip(minted, map(challenge.read_request, minted), strict=True)
        ]
    )
    assert mppx.ask("verify challenge", secretKey=differences.KEY, lines=lines) == [True] * len(minted)


#: A parameter's text: quotes, backslashes and commas, and what looks like the beginning of another challenge.
PARAMETER: Final = st.text('ab "\\,=;', max_size=8) | st.sampled_from(
    ["Payment ", 'Payment id="x"', "Basic a", ", Payment "]
)
SPACE: Final = st.sampled_from(["", "", " ", "\t"])


@st.composite
def parameter(draw: st.DrawFn, name: str, text: str) -> str:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    plain = text and all(c.isalnum() or c in "-._~" for c in text)
    written = draw(st.sampled_from([quoted, text] if plain else [quoted]))
    return draw(st.sampled_from([name, name.upper()])) + draw(SPACE) + "=" + draw(SPACE) + written


@st.composite
def foreign(draw: st.DrawFn) -> str:
    """A challenge of somebody's, or of another scheme; some lack what they need."""
    if draw(st.integers(0, 3)) == 0:
        return draw(
            st.sampled_from(
                ['Bearer realm="api, Payment id=1"', "Negotiate", "Negotiate YWJj==", 'Basic realm="x"']
            )
        )
    given_ = {
        "id": draw(st.sampled_from(["abc", "def", ""])),
        "realm": draw(PARAMETER.filter(bool)),
        "method": draw(st.sampled_from(["tempo", "stripe", "Tempo"])),
        "intent": "charge",
        "request": draw(st.sampled_from(["eyJhbW91bnQiOiIxIn0", "eyJhbW91bnQiOiIxIn0", "W10", "garbage"])),
        "description": draw(PARAMETER),
        "colour": draw(PARAMETER),
    }
    names = draw(st.permutations(list(given_)))
    kept = [name for name in names if draw(st.integers(0, 9)) or name in ("description", "colour")]
    comma = draw(st.sampled_from([",", ", ", " , "]))
    scheme = draw(st.sampled_from(["Payment ", "payment  "]))
    return scheme + comma.join([draw(parameter(name, given_[name])) for name in kept])


@examples
@given(lines=st.lists(st.lists(foreign(), min_size=1, max_size=3).map(", ".join), min_size=1, max_size=2))
def test_a_402_of_somebody_is_read_alike(lines: list[str], mppx: second_reader.Mppx) -> None:
    compare("challenges", "\n".join(lines), mppx, readers=(MPPX,))


@examples
@given(documents=st.lists(genuine(), min_size=1, max_size=3), description=DESCRIPTION)
def test_a_402_of_mppx_is_read_by_our_buyer(
    documents: list[dict[str, Any]], description: str | None, mppx: second_reader.Mppx
) -> None:
    """On the line its server makes of them: all in one."""
    asked = [
        document["challenge"]
        | {"request": challenge.read_request(Challenge("", "", "", "", document["challenge"]["request"]))}
        | ({} if description is None or _breaks(description) else {"description": description})
        for document in documents
    ]

    line = ", ".join(mppx.ask("write challenge", challenge=one) for one in asked)

    assert buyer_reads([line]) == mppx_reads_challenges([line], mppx)


def _breaks(text: str) -> bool:
    """mppx refuses to write a description with a line end, and Headers one with other control characters."""
    return any(ord(c) < 0x20 or ord(c) == 0x7F for c in text)


@examples
@given(line=st.text('Payment id="\\,= \t', max_size=60))
def test_any_line_is_parted_and_nothing_is_lost(line: str) -> None:
    for value in pay.payment_challenges(line):
        assert value.lower().startswith("payment")
        assert all(part.strip(" \t") in line for part in value.split(", "))


# --- Accept-Payment ----------------------------------------------------------------------------------------

KINDS: Final = [["tempo", "charge"], ["tempo", "session"], ["stripe", "charge"], ["solana", "charge"]]
WEIGHT: Final = st.sampled_from(["", "", ";q=0", ";q=1", ";q=0.5", " ; q=0.25", ";q=1.000", ";q=0.", ";q=0.999"])


@st.composite
def ranges(draw: st.DrawFn) -> str:
    methods = st.sampled_from(["tempo", "stripe", "solana", "*", "card", "tempo-v2"])
    intents = st.sampled_from(["charge", "session", "*", "subscription"])
    many = draw(st.lists(st.tuples(methods, intents, WEIGHT), min_size=1, max_size=5))
    return draw(st.sampled_from([", ", ",", " ,\t"])).join(
        f"{method}/{intent}{weight}" for method, intent, weight in many
    )


@st.composite
def damaged(draw: st.DrawFn) -> str:
    text = draw(ranges())
    at = draw(st.integers(0, len(text)))
    return (
        text[:at]
        + draw(st.sampled_from(["", " ", ";", ",", "/", "*", "q", "Q", "A", ":", "_", "9", "=1", ";x=y"]))
        + text[at + 1 :]
    )


@examples
@given(header=ranges() | damaged())
def test_offers_are_chosen_alike(header: str, mppx: second_reader.Mppx) -> None:
    compare("accept", header, mppx, readers=(MPPX,))


# --- digests and receipts ----------------------------------------------------------------------------------


@examples
@given(body=st.binary(max_size=200) | TEXT.map(str.encode))
def test_a_digest_is_the_same_for_all(body: bytes, mppx: second_reader.Mppx) -> None:
    ours = quotes.Request("r", "POST", "h", "https", "127.0.0.1", "/", "", body=body).digest

    assert ours == BodyDigest.compute(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return  # mppx takes text only
    assert ours == mppx.ask("digest", body=text)


@examples
@given(
    settled_at=st.integers(0, 4_102_444_800_000),
    reference=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80),
)
def test_a_receipt_of_ours_says_the_same_to_all(settled_at: int, reference: str, mppx: second_reader.Mppx) -> None:
    row = ledgers.payment(state=State.DELIVERED, reference=reference, settled_at=settled_at)

    header = verdicts.receipt(row)

    document = pay.receipt(header)
    read = mpp.Receipt.from_payment_receipt(header)
    assert (read.status, read.method, read.reference) == ("success", "tempo", reference)
    assert read.timestamp.timestamp() == settled_at // 1000
    assert mppx.ask("read receipt", value=header) == document
    assert pay.receipt(mppx.ask("write receipt", receipt=document)) == document


@st.composite
def receipts(draw: st.DrawFn) -> str:
    document: dict[str, Any] = {
        "status": "success",
        "method": "tempo",
        "timestamp": "2025-01-15T12:00:00Z",
        "reference": draw(TEXT),
    } | draw(st.dictionaries(TEXT, JSON, max_size=2))
    if draw(st.booleans()):
        name = draw(st.sampled_from(["status", "method", "timestamp", "reference", "externalId"]))
        document[name] = draw(ODD)
    return challenge.b64url(json.dumps(document).encode())


@examples
@given(header=receipts())
def test_our_buyer_shows_every_receipt_that_another_reads(header: str, mppx: second_reader.Mppx) -> None:
    """It shows more: what a server says is shown, and decides nothing."""
    try:
        theirs = mppx.ask("read receipt", value=header)
    except second_reader.Refused:
        return

    assert _as_doubles(pay.receipt(header)) == _as_doubles(theirs)


# --- the table itself --------------------------------------------------------------------------------------


def corpus() -> list[str]:
    """Inputs that never change: the vectors, and what shows each known difference."""
    vectors = json.loads((Path(__file__).parent / "testdata" / "vectors" / "authorization.json").read_text())[
        "vectors"
    ]
    return [*(one["header"] for one in vectors), *(entry.shown_by for entry in differences.CREDENTIALS)]


def test_the_corpus_is_read_alike(mppx: second_reader.Mppx) -> None:
    for value in corpus():
        compare("credential", value, mppx)
        compare("ours", value, mppx)


def _ids(entry: Difference) -> str:
    return f"{entry.who}: {entry.name}"


@pytest.mark.parametrize("entry", differences.TABLE, ids=_ids)
def test_a_known_difference_is_one(entry: Difference, mppx: second_reader.Mppx) -> None:
    for what in entry.what:
        ours, theirs, same = READERS[what](entry.shown_by, entry.who, mppx)

        assert entry.fits(entry.shown_by)
        assert (ours is None, theirs is None) == (entry.we == "refuse", entry.they == "refuse"), (ours, theirs)
        assert not same


@pytest.mark.parametrize("entry", differences.TABLE, ids=_ids)
def test_a_known_difference_is_not_hidden_by_another(entry: Difference) -> None:
    for what in entry.what:
        assert explained(what, entry.who, entry.we, entry.they, entry.shown_by) == [entry]


def test_nothing_is_different_about_a_good_credential(mppx: second_reader.Mppx) -> None:
    good = differences.credential({"challenge": dict(_minted()), "payload": {"type": "proof"}})

    for who in (PYMPP, MPPX):
        for what in ("credential", "ours"):
            ours, theirs, same = READERS[what](good, who, mppx)
            assert ours is not None
            assert theirs is not None
            assert same
    assert not [entry.name for entry in differences.CREDENTIALS if entry.fits(good)]
