"""The protocol's vectors: made by the letter of the draft, and held to us, to pympp and to mppx.

A vector that only we agree with proves nothing. Each is recomputed by all who write or read that part of the wire;
where one of them does something else, `test_differential.py` names it.
"""

import base64
import json
from pathlib import Path
from typing import Any

import conformance_notes
import ledgers
import mpp
import pytest
import second_reader
from mpp import BodyDigest
from mpp._canonical import canonical_b64url
from mpp._parsing import ParseError

from mpp_authz import challenge, quotes, verdicts
from mpp_authz.challenge import Challenge, Keyring, MalformedCredential
from mpp_authz.ledger import State
from mpp_operator import pay

FOLDER = Path(__file__).parent / "testdata" / "vectors"

Vector = dict[str, Any]


def vectors(name: str) -> pytest.MarkDecorator:
    """The vectors of a file as pytest's parameters, by their names."""
    found: list[Vector] = json.loads((FOLDER / f"{name}.json").read_text())["vectors"]
    return pytest.mark.parametrize("vector", [pytest.param(one, id=one["name"]) for one in found])


needs_mppx = pytest.mark.payments


def _asked(**fields: Any) -> quotes.Request:
    return quotes.Request("shop/route", "POST", "shop.example", "https", "127.0.0.1", "/", "", **fields)


def test_the_conformance_page_tells_of_every_file() -> None:
    assert sorted(name for name, _ in conformance_notes.VECTORS) == sorted(path.stem for path in FOLDER.iterdir())


# --- canonical JSON --------------------------------------------------------------------------------------


@pytest.mark.row("C10")
@vectors("canonical")
def test_a_document_is_canonical(vector: Vector) -> None:
    encoded = challenge.canonical(vector["document"])

    assert encoded == vector["encoded"] == canonical_b64url(vector["document"])
    assert base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode() == vector["json"]


@needs_mppx
@vectors("canonical")
def test_mppx_writes_the_same_canonical_document(vector: Vector, mppx: second_reader.Mppx) -> None:
    assert mppx.ask("canonical", document=vector["document"]) == vector["encoded"]


# --- challenges ------------------------------------------------------------------------------------------


def _opaque(vector: Vector) -> str | None:
    return None if vector.get("opaque") is None else challenge.canonical(vector["opaque"])


@pytest.mark.row("C09")
@vectors("challenge-id")
def test_an_id_is_computed(vector: Vector) -> None:
    ring = Keyring((vector["secret"].encode(),))
    given: dict[str, Any] = {name: vector[name] for name in ("realm", "method", "intent")}
    optional: dict[str, Any] = {name: vector.get(name) for name in ("expires", "digest", "header")}
    wire = Challenge(
        vector["id"], **given, request=challenge.canonical(vector["request"]), **optional, opaque=_opaque(vector)
    )

    assert ring.ours(wire)
    assert (
        mpp.generate_challenge_id(
            secret_key=vector["secret"],
            request=vector["request"],
            opaque=vector.get("opaque"),
            **given,
            **optional,
        )
        == (vector["id"])
    )


@needs_mppx
@vectors("challenge-id")
def test_mppx_computes_the_same_id(vector: Vector, mppx: second_reader.Mppx) -> None:
    names = ("realm", "method", "intent", "request", "expires", "digest", "header")
    asked = {name: vector[name] for name in names if name in vector}
    opaque = _opaque(vector)

    found = mppx.ask(
        "challenge id",
        secretKey=vector["secret"],
        challenge=asked | ({} if opaque is None else {"opaque": opaque}),
    )

    assert found == vector["id"]


def _written(vector: Vector) -> Challenge:
    asked = vector["challenge"]
    rest = {name: asked.get(name) for name in ("expires", "digest", "header")}
    given = {name: asked[name] for name in ("id", "realm", "method", "intent")}
    return Challenge(**given, request=challenge.canonical(asked["request"]), **rest, opaque=_opaque(asked))


@vectors("www-authenticate-written")
def test_a_challenge_is_written_and_pympp_reads_what_it_says(vector: Vector) -> None:
    header = challenge.www_authenticate(_written(vector), vector.get("description"))
    read = mpp.Challenge.from_www_authenticate(header)

    assert header == vector["header"]
    assert _as_pympp_says(read) == vector["challenge"] | _description(vector)


@needs_mppx
@vectors("www-authenticate-written")
def test_mppx_reads_what_a_challenge_says(vector: Vector, mppx: second_reader.Mppx) -> None:
    (read,) = mppx.ask("read challenges", lines=[vector["header"]])

    assert _as_mppx_says(read) == vector["challenge"] | _description(vector)


def _description(vector: Vector) -> Vector:
    return {"description": vector["description"]} if vector.get("description") else {}


@vectors("www-authenticate-read")
def test_a_buyer_reads_challenges(vector: Vector) -> None:
    """pympp reads one challenge at a time; several in one line are parted by our own buyer."""

    def read() -> list[Vector]:
        values = [value for line in vector["lines"] for value in pay.payment_challenges(line)]
        return [_as_pympp_says(mpp.Challenge.from_www_authenticate(value)) for value in values]

    if vector["challenges"] is None:
        with pytest.raises(ParseError):
            read()
    else:
        assert read() == vector["challenges"]


@needs_mppx
@vectors("www-authenticate-read")
def test_mppx_reads_the_same_challenges(vector: Vector, mppx: second_reader.Mppx) -> None:
    def read() -> list[Vector]:
        return [_as_mppx_says(one) for one in mppx.ask("read challenges", lines=vector["lines"])]

    if vector["challenges"] is None:
        with pytest.raises(second_reader.Refused):
            read()
    else:
        assert read() == vector["challenges"]


def _as_pympp_says(read: mpp.Challenge) -> Vector:
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "description", "header", "opaque")
    said = {name: getattr(read, name) for name in names}
    return {
        name: value for name, value in said.items() if value is not None and (name, value) != ("description", "")
    }


def _as_mppx_says(read: Vector) -> Vector:
    opaque = read.get("opaque")
    decoded = {} if opaque is None else {"opaque": json.loads(base64.urlsafe_b64decode(opaque + "==="))}
    return read | decoded


# --- credentials -----------------------------------------------------------------------------------------

PARAMETERS = ("id", "realm", "method", "intent", "request", "expires", "digest", "header", "opaque")


@pytest.mark.row("C16", "C18")
@vectors("authorization")
def test_a_credential_is_read(vector: Vector) -> None:
    token = quotes.token(_asked(authorization=vector["header"]))

    if vector["credential"] is None:
        if token is not None:
            with pytest.raises(MalformedCredential):
                challenge.read_credential(token)
        return
    read = challenge.read_credential(token or "")
    echo = {name: getattr(read.challenge, name) for name in PARAMETERS}
    said = {
        "challenge": {name: value for name, value in echo.items() if value is not None},
        "payload": read.payload,
    } | ({} if read.source is None else {"source": read.source})
    assert said == vector["credential"]


@vectors("authorization")
def test_pympp_reads_the_same_credential(vector: Vector) -> None:
    if vector["credential"] is None:
        with pytest.raises(ParseError):
            mpp.Credential.from_authorization(vector["header"])
        return
    read = mpp.Credential.from_authorization(vector["header"])
    echo = {name: getattr(read.challenge, name) for name in PARAMETERS}
    said = {
        "challenge": {name: value for name, value in echo.items() if value is not None},
        "payload": read.payload,
    } | ({} if read.source is None else {"source": read.source})
    assert said == vector["credential"]


@needs_mppx
@vectors("authorization")
def test_mppx_reads_the_same_credential(vector: Vector, mppx: second_reader.Mppx) -> None:
    if vector["credential"] is None:
        assert mppx.refuses("read credential", value=vector["header"])
        return
    read = mppx.ask("read credential", value=vector["header"])
    expected = vector["credential"]
    assert read["challenge"].pop("request") == challenge.read_request(
        Challenge("", "", "", "", expected["challenge"]["request"])
    )
    read["challenge"].pop("description", None)
    assert read == expected | {
        "challenge": {name: value for name, value in expected["challenge"].items() if name != "request"}
    }


# --- digests and receipts --------------------------------------------------------------------------------


@pytest.mark.row("C15")
@vectors("digest")
def test_a_body_has_its_digest(vector: Vector) -> None:
    body = base64.b64decode(vector["body"])

    assert _asked(body=body).digest == vector["digest"] == BodyDigest.compute(body)


@needs_mppx
@vectors("digest")
def test_mppx_computes_the_same_digest_of_text(vector: Vector, mppx: second_reader.Mppx) -> None:
    try:
        body = base64.b64decode(vector["body"]).decode()
    except UnicodeDecodeError:
        return  # mppx takes text only

    assert mppx.ask("digest", body=body) == vector["digest"]
    assert mppx.ask("digest matches", digest=vector["digest"], body=body) is True


def _receipts(*, read: bool) -> pytest.MarkDecorator:
    found: list[Vector] = json.loads((FOLDER / "receipt.json").read_text())["vectors"]
    chosen = [one for one in found if (one["receipt"] is not None) is read]
    return pytest.mark.parametrize("vector", [pytest.param(one, id=one["name"]) for one in chosen])


@pytest.mark.row("C33", "H10")
@_receipts(read=True)
def test_a_receipt_is_written_and_pympp_and_our_buyer_read_it(vector: Vector) -> None:
    expected = vector["receipt"]
    if "settledAt" in vector:
        row = ledgers.payment(
            state=State.DELIVERED, reference=expected["reference"], settled_at=vector["settledAt"]
        )
        assert verdicts.receipt(row) == vector["header"]
    read = mpp.Receipt.from_payment_receipt(vector["header"])

    assert (read.status, read.method, read.reference) == ("success", expected["method"], expected["reference"])
    assert read.external_id == expected.get("externalId")
    assert read.timestamp.isoformat().replace("+00:00", "Z").replace("000Z", "Z") == expected["timestamp"]
    assert pay.receipt(vector["header"]) == expected


@_receipts(read=False)
def test_pympp_refuses_what_is_no_receipt(vector: Vector) -> None:
    with pytest.raises(ParseError):
        mpp.Receipt.from_payment_receipt(vector["header"])


@needs_mppx
@vectors("receipt")
def test_mppx_reads_the_same_receipt(vector: Vector, mppx: second_reader.Mppx) -> None:
    if vector["receipt"] is None:
        assert mppx.refuses("read receipt", value=vector["header"])
    else:
        assert mppx.ask("read receipt", value=vector["header"]) == vector["receipt"]


# --- Accept-Payment --------------------------------------------------------------------------------------


@pytest.mark.row("C36")
@vectors("accept-payment")
def test_offers_are_chosen(vector: Vector) -> None:
    kinds = [(method, intent) for method, intent in vector["kinds"]]

    assert list(challenge.accepted(kinds, vector["header"])) == vector["positions"]


@needs_mppx
@vectors("accept-payment")
def test_mppx_chooses_the_same_offers(vector: Vector, mppx: second_reader.Mppx) -> None:
    """What its server does with a header it cannot read, or that leaves nothing: it ignores it."""
    try:
        found = mppx.ask("accept payment", kinds=vector["kinds"], header=vector["header"])
    except second_reader.Refused:
        found = []

    assert (found or list(range(len(vector["kinds"])))) == vector["positions"]
