"""Networks that the ledger remembers: their text, and those that are still to be written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import payment
from memory_ledger import MemoryLedger

from mpp_authz import networks
from mpp_authz.ledger import LedgerUnavailable
from mpp_authz.networks import Networks
from mpp_authz.pricing import Network

DEVNET = Network("devnet", "promise", 7, ("http://127.0.0.1:1",))


@given(st.builds(Network, st.text(), st.text(), st.integers(), st.lists(st.text()).map(tuple)))
def test_what_is_written_of_a_network_is_read(network: Network) -> None:
    assert network == networks.load(networks.dump(network))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rpc_urls": []}', "null", '{"rpc_urls": 1}'])
def test_a_text_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected what a network was|Expecting value"):
        networks.load(text)


@pytest.mark.parametrize(
    ("chain_id", "remembered", "expected"),
    [
        (7, {"devnet/7": 7, "devnet/8": 8}, 7),
        (8, {"devnet/7": 7, "devnet/8": 8}, 8),
        (9, {"devnet/7": 7, "devnet": 8}, None),
        (7, {"devnet": 7}, 7),
        (0, {"devnet": 7, "devnet/8": 8}, 7),
        (0, {"devnet/8": 8}, 8),
        (0, {"devnet/7": 7, "devnet/8": 8}, None),
        (7, {"other/7": 7}, None),
    ],
)
def test_a_network_is_remembered_by_its_name_and_its_chain(
    chain_id: int, remembered: dict[str, int], expected: int | None
) -> None:
    row = payment(network="devnet", chain_id=chain_id)
    known = {name: Network(name.split("/")[0], "promise", chain, ()) for name, chain in remembered.items()}

    found = networks.made_on(row, known)

    assert (found and found.chain_id) == expected


class Away(MemoryLedger):
    """Takes no network while it is away."""

    away = True

    async def remember_network(self, name: str, document: str) -> None:
        if self.away:
            raise LedgerUnavailable("away")
        await super().remember_network(name, document)


async def test_networks_that_two_reloads_could_not_write_are_both_written_later() -> None:
    ledger = Away(lambda: 0)
    remembered = Networks(ledger)
    for chain_id in (7, 8):
        with pytest.raises(LedgerUnavailable):
            await remembered.remember({"devnet": Network("devnet", "promise", chain_id, DEVNET.rpc_urls)})

    ledger.away = False
    await remembered.write()

    assert {"devnet/7", "devnet/8"} == set(await ledger.networks())
    assert json.loads((await ledger.networks())["devnet/7"])["chain_id"] == 7
