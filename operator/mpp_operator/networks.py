"""The chains we know by name: their ids and public nodes. Knows no currency, no offer, no service."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MAINNET: Final = "mainnet"  # the one with money that is worth something
MODERATO: Final = "moderato"
LOCALNET: Final = "localnet"  # the sandbox's

CHAIN_IDS: Final[Mapping[str, int]] = MappingProxyType({MAINNET: 4217, MODERATO: 42431, LOCALNET: 31337})
PUBLIC_NODES: Final[Mapping[str, str]] = MappingProxyType(
    {MAINNET: "https://rpc.tempo.xyz", MODERATO: "https://rpc.moderato.tempo.xyz"}
)
