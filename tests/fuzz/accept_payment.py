"""`Accept-Payment`: which offers are made, and in which order. An input is the header's value."""

from collections.abc import Iterator
from typing import Final

from mpp_authz import challenge

KINDS: Final = (
    ("tempo", "charge"),
    ("tempo", "session"),
    ("stripe", "charge"),
    ("tempo", "charge"),
    ("evm", "charge"),
)


def one(data: bytes) -> None:
    header = data.decode("utf-8", "replace")
    chosen = challenge.accepted(KINDS, header)
    everything = tuple(range(len(KINDS)))
    assert chosen, "nobody is left without an offer"
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(everything)
    # Offers of one kind are treated alike.
    assert (0 in chosen) == (3 in chosen)
    if 0 in chosen:
        assert chosen.index(0) < chosen.index(3)
    # Spaces around commas and empty entries mean nothing.
    parts = [part.strip() for part in header.split(",")]
    assert challenge.accepted(KINDS, " , ".join(parts)) == chosen
    assert challenge.accepted(KINDS, header + ",") == chosen
    # A wish for what nobody offers changes nothing, unless it is the only one.
    if chosen != everything:
        assert challenge.accepted(KINDS, f"{header}, nobody/nothing;q=0.5") == chosen
    # In another order of ours the same ones are chosen.
    backwards = challenge.accepted(KINDS[::-1], header)
    assert {len(KINDS) - 1 - at for at in backwards} == set(chosen)


def grown(text: str) -> Iterator[bytes]:
    yield text.encode()
    yield f"tempo/charge;q=0.{text}".encode()
    yield f"tempo/{text}".encode()


WORDS: Final = (
    *(
        "tempo/charge",
        "tempo/session",
        "stripe/charge",
        "evm/charge",
        "*/*",
        "tempo/*",
        "*/charge",
        "nobody/nothing",
    ),
    *(";q=0", ";q=1", ";q=0.5", ";q=1.000", ";q=0.001", ";q=1.001", ",", " ", "\t", ";", "/", "*", "; q=0.5"),
)
