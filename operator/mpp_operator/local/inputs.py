"""What the files say now: read, parsed, compiled, with the secrets they need. Writes nothing but a first key."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mpp_operator import bootstrap, console, gateway, ir, local_secrets, networks, sandbox, sources, statedir
from mpp_operator.artifacts import secrets
from mpp_operator.local.ground import Ground
from mpp_operator.payments import LEDGER_NAME


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything one compilation was made from, and its result."""

    compiled: sources.Compiled
    challenge_keys: tuple[str, ...]
    ledger: str  # its address

    @property
    def ledger_is_secret(self) -> bool:
        """Whether its address may hold a password: then a file has it, and no command line."""
        return not self.ledger.startswith("sqlite:")

    @property
    def secret_files(self) -> Mapping[str, str]:
        return secrets.render(
            self.compiled.compilation.gateway,
            self.compiled.values,
            self.challenge_keys,
            self.ledger if self.ledger_is_secret else None,
        )

    @property
    def revision(self) -> str:
        return self.compiled.compilation.revision

    @property
    def networks(self) -> tuple[gateway.Network, ...]:
        """Those on which something is sold."""
        services = self.compiled.compilation.gateway.services
        prices = [route.price for service in services for route in service.routes if route.price is not None]
        used = {offer.network for price in prices for offer in price.offers}
        return tuple(network for network in self.compiled.sources.config.networks if network.name in used)

    @property
    def certificate(self) -> bootstrap.Certificate | None:
        """The listener's files; relative paths are relative to gateway.yaml. None: plain HTTP from it."""
        tls, config_file = self.compiled.sources.config.tls, self.compiled.sources.config_file
        if tls is None or tls.certificate is None or tls.key is None or config_file is None:
            return None
        folder = config_file.resolve().parent
        return bootstrap.Certificate(str(folder / tls.certificate), str(folder / tls.key))


def read(ground: Ground, say: Callable[[str], None]) -> Inputs:
    """Read, parse, find the secrets, compile.

    Raises:
        Failure: with every problem.
    """
    overrides: dict[str, Any] = {"listen": {"port": ground.port}}
    if ground.chain is not None:
        overrides["networks"] = {networks.LOCALNET: ground.chain.settings()}
        overrides["maxChallengeLife"] = f"{sandbox.LONGEST_CHALLENGE}s"
    found = sources.load(sources.expand(ground.options.files), ground.options.config, overrides)
    if ground.chain is not None:
        found = sources.on_network(found, networks.LOCALNET, sandbox.CURRENCIES, ground.chain.payee)
    given = ground.environ.get("MPP_SECRET_KEY")
    if given:  # it stands for whatever key gateway.yaml names
        found = replace(found, names_keys=False)
    values = sources.secrets(found, local_secrets.Folder(ground.options.secrets_dir, ground.environ))
    compiled = sources.build(found, values)
    if found.names_keys:
        keys = tuple(_long_enough(source, values[source]) for source in sources.key_sources(found))
    else:
        keys = (_signing_key(ground.state, given, say, shared=found.config.postgres is not None),)
    inputs = Inputs(compiled, keys, sources.ledger_address(found, values, ground.state.root / LEDGER_NAME))
    try:
        _ = inputs.secret_files
    except secrets.SecretError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    return inputs


def check_certificate(inputs: Inputs) -> None:
    """See that Envoy will be able to read it.

    Raises:
        Failure: it will not.
    """
    certificate = inputs.certificate
    for name, path in (("certificate", certificate.certificate), ("key", certificate.key)) if certificate else ():
        if not os.access(path, os.R_OK):
            raise console.Failure(
                console.WRONG_ENVIRONMENT,
                f"{inputs.compiled.sources.config_file}: tls.{name}: expected a file we can read, got {path}",
            )


def _signing_key(state: statedir.State, given: str | None, say: Callable[[str], None], *, shared: bool) -> str:
    """`shared`: the store may be other gateways', too."""
    try:
        key, made = statedir.signing_key(state, given)
    except statedir.StateError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
    if made:
        say(f"made a signing key and keep it in {state.root / 'signing.key'} (or set MPP_SECRET_KEY)")
        if shared:
            say(
                "every gateway on this PostgreSQL must sign with one key, or payers of one pay again at another: "
                "set MPP_SECRET_KEY or challengeKeys for all of them"
            )
    return key


def _long_enough(source: ir.SecretSource, key: str) -> str:
    if len(key.encode()) < statedir.MIN_KEY_BYTES:
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"secret {source.namespace}/{source.name} key {source.key}: "
            f"expected at least {statedir.MIN_KEY_BYTES} bytes, got {len(key.encode())}; "
            "make one with: openssl rand -hex 32",
        )
    return key
