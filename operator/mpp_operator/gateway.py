"""gateway.yaml: what all services share. Parsed once, frozen. Knows no file, no Envoy, no Kubernetes client."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter

from mpp_operator import fields, money, patterns
from mpp_operator.document import SpecError, invalid, validated
from mpp_operator.fields import (
    CONFIG,
    Address,
    Boolean,
    Host,
    KeyRef,
    Label,
    Mistake,
    checked,
    duration,
    matching,
    pairs,
    whole_number,
)
from mpp_operator.networks import CHAIN_IDS, MAINNET, MODERATO, PUBLIC_NODES
from mpp_operator.paidservice.payment import ExpiresIn, Offer, Offers
from mpp_operator.status import Problem, Reason

DEFAULT_PORTS: Final[Mapping[str, int]] = MappingProxyType({"http": 80, "https": 443})
PATH_USD: Final = "0x20c0000000000000000000000000000000000000"


@dataclass(frozen=True, slots=True)
class Network:
    """A chain that offers may name."""

    name: str
    method: str
    chain_id: int
    rpc_urls: tuple[str, ...]
    currencies: tuple[tuple[str, str], ...]  # (symbol, 0x address), by symbol
    decimals: int = 6  # of every currency: a TIP-20 token has six

    @property
    def real_money(self) -> bool:
        """Whether what moves there is worth something."""
        return self.chain_id == CHAIN_IDS[MAINNET]


#: Copied from pympp 0.16, mpp/methods/tempo/_defaults.py; a test holds the two against each other. USDC.e is
#: what pympp calls USDC. MACH is closed-loop credit: nobody is paid in it.
BUILT_IN: Final[Mapping[str, Network]] = MappingProxyType(
    {
        MAINNET: Network(
            MAINNET,
            "tempo",
            CHAIN_IDS[MAINNET],
            (PUBLIC_NODES[MAINNET],),
            (
                ("OUSD", "0x20c0000000000000000000006a37DA5C996874BE"),
                ("USDC.e", "0x20C000000000000000000000b9537d11c60E8b50"),
                ("pathUSD", PATH_USD),
            ),
        ),
        MODERATO: Network(
            MODERATO,
            "tempo",
            CHAIN_IDS[MODERATO],
            (PUBLIC_NODES[MODERATO],),
            (("OUSD", "0x20c0000000000000000000006a37DA5C996874BE"), ("pathUSD", PATH_USD)),
        ),
    }
)

_PATH_PATTERN: Final = r"[^\x00-\x1f]+"
_ALLOWED_HOST: Final = rf"(\*\.)?{patterns.HOST}"
_RPC: Final = r"https?://[\x21-\x7e]+"
_SYMBOL: Final = r"[A-Za-z][A-Za-z0-9._-]{0,63}"

RpcUrl = Annotated[str, matching(_RPC, "an http or https URL", 2048)]
File = Annotated[str, matching(_PATH_PATTERN, "the path of a file", 4096)]
AllowedHost = Annotated[str, matching(_ALLOWED_HOST, 'a host name, or "*." and one', 255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where Envoy listens."""

    __pydantic_config__ = CONFIG
    address: Annotated[str, matching(r"[0-9A-Fa-f.:]+", "an IP address", 45)] = "127.0.0.1"
    port: Annotated[int, whole_number(0, 65535)] = 4402  # 0: the system chooses


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of our own, or who ends it before us: exactly one."""

    __pydantic_config__ = CONFIG
    certificate: File | None = None
    key: File | None = None
    terminated_by: Annotated[
        tuple[Annotated[str, matching(r"[0-9A-Fa-f.:/]+", "a CIDR", 64)], ...], Field(max_length=64)
    ] = ()


def _tls(tls: Tls) -> Iterator[Mistake]:
    if (tls.certificate is None) != (tls.key is None):
        yield "", "expected certificate and key, got one of them"
    yield from fields.one_of(
        {"certificate": tls.certificate or tls.key, "terminatedBy": tls.terminated_by or None}
    )
    for index, network in enumerate(tls.terminated_by):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield f"terminatedBy[{index}]", f"expected a CIDR such as 10.0.0.0/8, got {network!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What the services of one namespace may name. None: anything."""

    __pydantic_config__ = CONFIG
    hosts: tuple[AllowedHost, ...] | None = None
    upstreams: tuple[AllowedHost, ...] | None = None
    recipients: tuple[Address, ...] | None = None


#: A namespace that gateway.yaml does not list.
ANYTHING: Final = Namespace()


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """gateway.yaml with every default decided. Times are seconds."""

    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    public_scheme: Literal["http", "https"] = "http"
    public_port: int | None = None  # None: the scheme's own
    listen: Listen = Listen()
    tls: Tls | None = None  # None: plain HTTP
    insecure_http: bool = False
    networks: tuple[Network, ...] = tuple(BUILT_IN.values())  # by name
    offers: tuple[Offer, ...] = ()
    expires_in: int = 300
    sqlite: str | None = None  # None, and no postgres either: in the state directory
    postgres: KeyRef | None = None  # the Secret's key that holds the database's address
    namespace: str = "default"  # the gateway's own: its signing keys and default offers refer to Secrets there
    challenge_keys: tuple[KeyRef, ...] = ()  # the first signs, all verify
    namespaces: tuple[tuple[str, Namespace], ...] = ()
    cluster_domain: str | None = None  # None: one machine, where no Kubernetes Service can be named
    check_timeout: float = 15.0  # Envoy's, for a Check with a credential
    settle_wait: float = 10.0  # authz's, for a settlement
    challenge_timeout: float = 2.0  # Envoy's, for a Check without one
    max_challenge_life: int | None = None  # caps every expiresIn; a development chain's clock asks for 25

    def network(self, name: str) -> Network | None:
        """The network of that name."""
        return next((network for network in self.networks if network.name == name), None)


def parse(document: Mapping[str, Any]) -> GatewayConfig:
    """Read gateway.yaml; an empty document is one machine's defaults.

    Raises:
        SpecError: with every problem found, by field.
    """
    problems: list[Problem] = []
    raw = validated(_DOCUMENT, document, "", problems)
    if raw is None or problems:
        raise SpecError(problems)
    networks = _networks(raw, problems)
    _check(raw, networks, problems)
    if problems:
        raise SpecError(problems)
    encrypted = raw.tls is not None
    scheme = raw.public_scheme or ("https" if encrypted else "http")
    port = raw.public_port
    if port is None and not (raw.tls and raw.tls.terminated_by):
        port = raw.listen.port
    return GatewayConfig(
        hosts=raw.hosts,
        public_scheme=scheme,
        public_port=None if port == DEFAULT_PORTS[scheme] else port,
        listen=raw.listen,
        tls=raw.tls,
        insecure_http=raw.insecure_http,
        networks=tuple(networks[name] for name in sorted(networks)),
        offers=raw.defaults.offers or (),
        expires_in=raw.defaults.expires_in,
        sqlite=raw.store.sqlite if raw.store else None,
        postgres=raw.store.postgres.url_from if raw.store and raw.store.postgres else None,
        namespace=raw.namespace,
        challenge_keys=raw.challenge_keys,
        namespaces=raw.namespaces,
        cluster_domain=raw.cluster.domain if raw.cluster else None,
        check_timeout=raw.check_timeout,
        settle_wait=raw.settle_wait,
        challenge_timeout=raw.challenge_timeout,
        max_challenge_life=raw.max_challenge_life,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """A network as it is written: what a built-in one leaves out is the built-in's."""

    __pydantic_config__ = CONFIG
    method: Label | None = None
    chain_id: Annotated[int, whole_number(1, 2**53 - 1)] | None = None
    rpc_url: RpcUrl | None = None
    rpc_urls: Annotated[tuple[RpcUrl, ...], Field(min_length=1, max_length=8)] | None = None
    currencies: (
        Annotated[
            tuple[tuple[str, str], ...],
            pairs(Annotated[str, matching(_SYMBOL, "a currency's symbol", 64)], Address, 64),
        ]
        | None
    ) = None
    decimals: Annotated[int, whole_number(0, money.MAX_DECIMALS)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Defaults:
    __pydantic_config__ = CONFIG
    offers: Offers | None = None
    expires_in: ExpiresIn = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Postgres:
    __pydantic_config__ = CONFIG
    url_from: KeyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    __pydantic_config__ = CONFIG
    sqlite: File | None = None
    postgres: _Postgres | None = None


def _one_store(store: _Store) -> Iterator[Mistake]:
    yield from fields.one_of({"sqlite": store.sqlite, "postgres": store.postgres})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    __pydantic_config__ = CONFIG
    domain: Host = "cluster.local"


def _key_ref(value: Any) -> Any:
    """`current` is short for the key `current` of Secret `mpp-challenge-keys`."""
    return {"name": CHALLENGE_SECRET, "key": value} if isinstance(value, str) else value


#: The Secret whose keys a challenge key's short form names.
CHALLENGE_SECRET: Final = "mpp-challenge-keys"  # noqa: S105 -- a Secret's name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    __pydantic_config__ = CONFIG
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=fields.MAX_HOSTS)] = (
        "127.0.0.1",
        "localhost",
    )
    public_scheme: Literal["http", "https"] | None = None
    public_port: Annotated[int, whole_number(1, 65535)] | None = None
    listen: Listen = Listen()
    tls: Annotated[Tls, checked(_tls)] | None = None
    insecure_http: Boolean = False
    networks: Annotated[tuple[tuple[str, _Network], ...], pairs(Label, _Network, 64)] = ()
    defaults: _Defaults = _Defaults()
    store: Annotated[_Store, checked(_one_store)] | None = None
    namespace: Label = "default"
    challenge_keys: Annotated[
        tuple[Annotated[KeyRef, BeforeValidator(_key_ref)], ...], Field(min_length=1, max_length=8)
    ] = (KeyRef(name=CHALLENGE_SECRET, key="current"),)
    namespaces: Annotated[tuple[tuple[str, Namespace], ...], pairs(Label, Namespace, 10_000)] = ()
    cluster: _Cluster | None = None
    check_timeout: Annotated[float, duration("1s", "5m")] = 15.0
    settle_wait: Annotated[float, duration("1s", "5m")] = 10.0
    challenge_timeout: Annotated[float, duration("100ms", "1m")] = 2.0
    max_challenge_life: Annotated[int, duration("15s", "1h", whole_seconds=True)] | None = None


_DOCUMENT: Final = TypeAdapter(_Document)


def _networks(raw: _Document, problems: list[Problem]) -> dict[str, Network]:
    """The built-in networks and the written ones, by name."""
    networks = dict(BUILT_IN)
    for name, written in raw.networks:
        base = BUILT_IN.get(name)
        field = f"networks.{name}"
        if written.rpc_url is not None and written.rpc_urls is not None:
            problems.append(invalid(field, "expected one of rpcUrl, rpcUrls, got both"))
        urls = written.rpc_urls or ((written.rpc_url,) if written.rpc_url else base.rpc_urls if base else ())
        chain = _first(written.chain_id, base.chain_id if base else None)
        if base and chain != base.chain_id:
            problems.append(invalid(f"{field}.chainId", f"expected {base.chain_id} of the built-in, got {chain}"))
        if chain is None:
            problems.append(invalid(f"{field}.chainId", "expected a chain id, got nothing"))
        if not urls:
            problems.append(invalid(f"{field}.rpcUrl", "expected an http or https URL, got nothing"))
        networks[name] = Network(
            name,
            _first(written.method, base.method if base else None) or "tempo",
            chain or 0,
            urls,
            _first(written.currencies, base.currencies if base else None) or (("pathUSD", PATH_USD),),
            6 if written.decimals is None else written.decimals,
        )
    return networks


def _check(raw: _Document, networks: Mapping[str, Network], problems: list[Problem]) -> None:
    """What concerns several fields."""
    for index, offer in enumerate(raw.defaults.offers or ()):
        field = f"defaults.offers[{index}]"
        network = networks.get(offer.network)
        if network is None:
            known = ", ".join(sorted(networks))
            problems.append(
                Problem(
                    Reason.UNKNOWN_NETWORK, f"{field}.network", f"expected one of {known}, got {offer.network!r}"
                )
            )
        elif network.real_money and raw.insecure_http:
            problems.append(
                invalid("insecureHttp", f"expected false: {field} is paid in real money on {offer.network}")
            )
    if raw.settle_wait >= raw.check_timeout:
        message = f"expected less than checkTimeout ({raw.check_timeout:g} s), so that the payer gets an answer"
        problems.append(invalid("settleWait", f"{message}, got {raw.settle_wait:g} s"))
    for index, host in enumerate(raw.hosts):
        if host in raw.hosts[:index]:
            problems.append(invalid(f"hosts[{index}]", f"expected each host once, got {host!r} again"))
    try:
        ipaddress.ip_address(raw.listen.address)
    except ValueError:
        problems.append(invalid("listen.address", f"expected an IP address, got {raw.listen.address!r}"))


_T = TypeVar("_T")


def _first(*values: _T | None) -> _T | None:
    return next((value for value in values if value is not None), None)
