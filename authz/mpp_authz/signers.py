"""Which signing keys the living gateways of one ledger have. One that shares no key with them must not start.

A transfer that a payer made for a challenge of theirs would be nothing to it: it would ask for another. Told as
the ledger's other signs of life are (`Ledger.beat`), under the name `keys/<owner>.<number>/<key id>,<key id>`.
"""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mpp_authz.challenge import Keyring
from mpp_authz.ledger import Ledger, LedgerUnavailable
from mpp_authz.patience import Times

log = logging.getLogger(__name__)

_PREFIX: Final = "keys/"
_PURPOSE: Final = b"key id"  # no challenge and no target is signed as this text


class OtherKeys(Exception):
    """A living gateway on this ledger has none of our keys. Names it and the fix, and no key."""


@dataclass(slots=True)
class Signers:
    """This process among those that sign for one ledger."""

    ledger: Ledger
    keyring: Callable[[], Keyring]
    owner: str  # <slot>/<process>: who has our slot is followed by us, and may have other keys
    times: Times
    _told: str = field(default="", init=False)  # the name we beat under
    _said: Keyring | None = field(default=None, init=False)  # the keys that it names
    _changes: int = field(default=0, init=False)
    _strangers: tuple[str, ...] = field(default=(), init=False)

    async def join(self) -> None:
        """Say which keys we have, where nobody has others.

        Raises:
            OtherKeys: a living gateway shares no key with us.
            LedgerUnavailable: nobody can say.
        """
        # Told before it is asked: of two that start at once neither may overlook the other.
        await self._tell()
        strangers = await self._others()
        if strangers:
            await self.leave()
            raise OtherKeys(
                f"signing keys: expected one that {strangers[0]} on this ledger has, too, got none of them; "
                "give all gateways of a ledger the same MPP_SECRET_KEY (or challengeKeys in gateway.yaml), or "
                f"stop that one and wait {self.times.silence:g} s"
            )

    async def run(self) -> None:
        """Go on saying so, until cancelled; and log where keys were changed under a running gateway."""
        while True:
            await asyncio.sleep(self.times.beat)
            with contextlib.suppress(LedgerUnavailable):  # the sweeper says that
                await self._tell()
                strangers = await self._others()
                if strangers and strangers != self._strangers:
                    log.error("gateways of this ledger share no signing key", extra={"gateways": strangers})
                self._strangers = strangers

    async def leave(self) -> None:
        """We sign no more."""
        with contextlib.suppress(LedgerUnavailable):
            await self.ledger.end_data_plane(self._told)

    async def _tell(self) -> None:
        keyring = self.keyring()
        if keyring != self._said:
            if self._told:
                await self.ledger.end_data_plane(self._told)
            self._said, self._changes = keyring, self._changes + 1
            # A name that ended stays so, and keys may come back.
            self._told = name_of(f"{self.owner}.{self._changes}", keyring)
        await self.ledger.beat((self._told,))

    async def _others(self) -> tuple[str, ...]:
        since = await self.ledger.now() - round(self.times.silence * 1000)
        return strangers_to(self.owner, self.keyring(), await self.ledger.living(_PREFIX, since))


def key_id(key: bytes) -> str:
    """Tells a key from others, and nothing of it: 16 hex digits."""
    return hmac.digest(key, _PURPOSE, "sha256")[:8].hex()


def name_of(owner: str, keyring: Keyring) -> str:
    return f"{_PREFIX}{owner}/{','.join(key_id(key) for key in keyring.keys)}"


def strangers_to(owner: str, keyring: Keyring, living: tuple[str, ...]) -> tuple[str, ...]:
    """The slots of those among `living` (names as `name_of` gives them) that have none of our keys."""
    slot = _slot(owner)
    ours = {key_id(key) for key in keyring.keys}
    others = (name.removeprefix(_PREFIX).rpartition("/") for name in living)
    return tuple(
        sorted(
            {_slot(other) for other, _, ids in others if _slot(other) != slot and ours.isdisjoint(ids.split(","))}
        )
    )


def _slot(owner: str) -> str:
    return owner.rpartition("/")[0]
