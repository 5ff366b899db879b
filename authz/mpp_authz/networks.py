"""Networks as the ledger remembers them: one that was removed, or is another chain's now, can still be asked about
what was paid on it. Knows no method, no chain.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mpp_authz.ledger import Ledger, Payment
from mpp_authz.pricing import Network


@dataclass(slots=True)
class Networks:
    """What was remembered, and what is still to be."""

    ledger: Ledger
    _known: dict[str, Network] = field(default_factory=dict)  # by the name in the ledger
    _unwritten: dict[str, Network] = field(default_factory=dict)  # the same

    async def of(self, row: Payment) -> Network | None:
        """The network a payment was made on, as it was then. None: nobody knows it any more.

        Raises:
            LedgerUnavailable: it is not known here, and the store did not answer.
        """
        found = made_on(row, self._known)
        if found is None:
            self._known = {name: load(text) for name, text in (await self.ledger.networks()).items()}
            found = made_on(row, self._known)
        return found

    async def remember(self, networks: Mapping[str, Network]) -> None:
        """Keep what these are.

        Raises:
            LedgerUnavailable: `write` does it when the store is back.
        """
        self._unwritten |= {name_of(network): network for network in networks.values()}
        await self.write()

    async def write(self) -> None:
        """Write what the store could not take while it was away.

        Raises:
            LedgerUnavailable: it still cannot.
        """
        for name, network in tuple(self._unwritten.items()):
            await self.ledger.remember_network(name, dump(network))
            self._known = {}
            if self._unwritten.get(name) == network:  # it may have been edited meanwhile
                del self._unwritten[name]


def name_of(network: Network) -> str:
    """Its name in the ledger: one that is edited to another chain is another."""
    return f"{network.name}/{network.chain_id}"


def dump(network: Network) -> str:
    """What the ledger keeps of it."""
    return json.dumps(asdict(network), sort_keys=True)


def load(text: str) -> Network:
    """Read what `dump` wrote.

    Raises:
        ValueError: it did not.
    """
    try:
        fields = json.loads(text)
        return Network(**fields | {"rpc_urls": tuple(fields["rpc_urls"])})
    except (TypeError, KeyError) as error:
        raise ValueError("expected what a network was, got other JSON") from error


def made_on(row: Payment, known: Mapping[str, Network]) -> Network | None:
    """A row's network among those remembered. A row older than chain ids was made on what an older version
    remembered by the name alone, or on the only chain of that name."""
    if row.chain_id:
        legacy = known.get(row.network)
        exact = known.get(f"{row.network}/{row.chain_id}")
        return exact or (legacy if legacy is not None and legacy.chain_id == row.chain_id else None)
    named = {network.chain_id: network for network in known.values() if network.name == row.network}
    return known.get(row.network) or (next(iter(named.values())) if len(named) == 1 else None)
