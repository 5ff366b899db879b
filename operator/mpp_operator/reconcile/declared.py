"""Who may be paid, and where, as gateway.yaml, PaidServices or a state folder say it. Asks no ledger, no chain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpp_authz import pricing
from mpp_operator import compiler, ir, local_secrets, sources
from mpp_operator.compiler import offers as lowering
from mpp_operator.console import WRONG_ENVIRONMENT, WRONG_INPUT, Failure


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody who may be paid: where and in what. Lower case."""

    chain_id: int
    currency: str
    recipient: str


@dataclass(frozen=True, slots=True)
class Declared:
    """What gateway.yaml, PaidServices or the state folder say of networks and recipients."""

    networks: tuple[pricing.Network, ...] = ()
    targets: frozenset[Target] = frozenset()


def read(
    files: Sequence[Path], config: Path | None, secrets: local_secrets.Folder, folder: Path | None
) -> Declared:
    """What PaidServices (`files`) and gateway.yaml say, or gateway.yaml alone, or else what the gateway of a state
    folder serves; nothing where none is named.

    Raises:
        Failure: a file that was named cannot be used.
    """
    if files:
        found = sources.load(sources.expand(files), config)
        compiled = sources.build(found, sources.recipients_only(found, secrets))
        return _of_pricing(compiled.compilation.artifacts[pricing.FILE_NAME])
    if config is not None:
        return _of_config(config, secrets)
    file = folder / "config" / pricing.FILE_NAME if folder is not None else None
    if file is None or not file.exists():
        return Declared()
    try:
        return _of_pricing(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pricing.PricingError) as error:
        raise Failure(WRONG_ENVIRONMENT, f"{file}: expected the gateway's pricing, got: {error}") from error


def _of_pricing(text: str) -> Declared:
    known = pricing.load(text)
    offers = [offer for route in known.routes.values() for offer in route.offers]
    return Declared(
        tuple(known.networks.values()),
        frozenset(
            Target(known.networks[offer.network].chain_id, offer.currency.lower(), offer.recipient.lower())
            for offer in offers
            if offer.amount != "0"
        ),
    )


def _of_config(file: Path, secrets: local_secrets.Folder) -> Declared:
    """Of gateway.yaml alone: its networks, and its default offers."""
    config = sources.config(file)
    found = sources.Sources((), config, False, {}, file)
    values = sources.recipients_only(found, secrets)
    recipients = {
        source: values[key]
        for source in compiler.gateway_recipient_sources(config)
        if (key := ir.SecretSource(source.namespace, source.name, source.key)) in values
    }
    targets = set()
    for position, offer in enumerate(config.offers):
        try:
            way = lowering.resolve(offer, f"defaults.offers[{position}]", config.namespace, config, recipients)
        except lowering.Unusable as error:
            raise Failure(WRONG_INPUT, f"{file}: {error}") from error
        targets.add(Target(way.network.chain_id, way.currency, way.recipient))
    networks = tuple(
        pricing.Network(network.name, network.method, network.chain_id, tuple(network.rpc_urls))
        for network in config.networks
    )
    return Declared(networks, frozenset(targets))
