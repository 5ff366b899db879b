"""What was paid, as the place where the money moved tells it later: the seam for an audit. Knows no ledger.

A method that can be audited gives a `History` for each of its networks.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mpp_authz.pricing import Network


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that reached somebody, as the chain has it. Addresses and hashes are lower case.

    The marks are what its memo says of itself, where that is a memo of this payment protocol: whose realm it
    pays, and which challenge. They are hashes, to be compared with `History.realm_mark` and `challenge_mark`.
    """

    chain_id: int
    reference: str  # transaction hash
    index: int  # of its log in the block: one transaction may hold several transfers
    block: int
    currency: str
    payer: str
    recipient: str
    amount: int  # base units
    realm_mark: str | None = None  # None: no memo of this protocol
    challenge_mark: str | None = None
    moment: int | None = None  # block time in Unix seconds, where the node says it with the log


@dataclass(frozen=True, slots=True)
class Block:
    """A block, as every node that has it tells it."""

    number: int
    moment: int  # Unix seconds
    hash: str


class HistoryUnavailable(Exception):
    """The chain cannot be read to the end: an endpoint failed, lags, disagrees with another or left something
    out. What is missing then says nothing. The message names no URL: it may hold a key."""


class History(Protocol):
    """What one network's chain has, for an audit: only what is final, and only what every endpoint says.

    Raises:
        HistoryUnavailable: from every asynchronous method.
    """

    async def final(self, confirmations: int | None) -> Block:
        """The newest block that counts: so many blocks below the newest, or with None the one that the network
        calls final."""
        ...

    async def first_from(self, moment: int, last: Block) -> Block | None:
        """The first block made at or after a moment (Unix seconds), up to `last`; None: all are older."""
        ...

    async def block(self, number: int) -> Block: ...

    def transfers(
        self, currencies: Collection[str], recipients: Collection[str], first: int, last: int
    ) -> AsyncIterator[Transfer]:
        """Every transfer of one of these currencies to one of these recipients, in blocks `first` to `last`, by
        block. Memory is bounded by a page of blocks."""
        ...

    async def transaction(
        self, reference: str, currencies: Collection[str]
    ) -> tuple[Block, tuple[Transfer, ...]] | None:
        """The block of a transaction and all its transfers of these currencies, to whomever (none where it was
        reverted); None: no endpoint knows it."""
        ...

    def realm_mark(self, realm: str) -> str: ...

    def challenge_mark(self, challenge_id: str) -> str: ...


@runtime_checkable
class Auditable(Protocol):
    """A method whose settled payments can be read again from where the money moved."""

    def history(self, network: Network) -> History: ...
