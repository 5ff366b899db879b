"""Which chain a row's network was when it was paid, and how that chain is asked."""

from collections.abc import Iterator, Mapping, Sequence

from mpp_authz import networks, pricing
from mpp_operator.console import WRONG_ENVIRONMENT, Failure


class Networks:
    """By chain id. What files declare comes before what the ledger remembered."""

    def __init__(self, declared: Sequence[pricing.Network], remembered: Mapping[str, str]) -> None:
        self._declared = declared
        self._chains: dict[int, pricing.Network] = {}
        self._names: dict[str, set[int]] = {}
        old = {name: _remembered(name, text) for name, text in remembered.items()}
        for network in (*old.values(), *reversed(declared)):
            self._chains[network.chain_id] = network
            self._names.setdefault(network.name, set()).add(network.chain_id)
        self._older = {name: network.chain_id for name, network in old.items() if "/" not in name}

    def chain_id(self, name: str, chain_id: int) -> int:
        """Of a row. Rows from before the ledger wrote it down say 0: then there must be one such network.

        Raises:
            Failure: none, or several.
        """
        if chain_id == 0:
            known = {self._older[name]} if name in self._older else self._names.get(name, set())
            if len(known) > 1:
                raise Failure(
                    WRONG_ENVIRONMENT,
                    f"network {name!r}: expected one chain for payments older than chain ids in the ledger, "
                    f"got {', '.join(map(str, sorted(known)))}",
                )
            chain_id = next(iter(known), 0)
        if chain_id not in self._chains:
            raise Failure(
                WRONG_ENVIRONMENT,
                f"network {name!r} (chain {chain_id or 'unknown'}): payments were made on it, and nothing says "
                "where its nodes are; name a gateway.yaml that has it with --config",
            )
        return chain_id

    def __getitem__(self, chain_id: int) -> pricing.Network:
        return self._chains[chain_id]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._chains))


def _remembered(name: str, text: str) -> pricing.Network:
    try:
        return networks.load(text)
    except ValueError as error:
        raise Failure(
            WRONG_ENVIRONMENT, f"ledger: network {name!r}: expected what a network was, got other JSON"
        ) from error
