"""gateway.yaml in, GatewayConfig or every mistake out."""

from collections.abc import Mapping
from typing import Any

import pytest
from mpp.methods.tempo import _defaults as tempo
from paidservices import RECIPIENT

from mpp_operator import gateway, paidservice
from mpp_operator.status import Reason

OFFER = {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}


def problems(document: Any) -> dict[str, str]:
    with pytest.raises(paidservice.SpecError) as caught:
        gateway.parse(document)
    return {problem.field: problem.message for problem in caught.value.problems}


def test_nothing_written_is_one_machine() -> None:
    config = gateway.parse({})

    assert config.hosts == ("127.0.0.1", "localhost")
    assert (config.listen.address, config.listen.port) == ("127.0.0.1", 4402)
    assert (config.public_scheme, config.public_port) == ("http", 4402)
    assert (config.check_timeout, config.settle_wait, config.challenge_timeout) == (15, 10, 2)
    assert (config.expires_in, config.max_challenge_life, config.offers) == (300, None, ())
    assert (config.sqlite, config.cluster_domain, config.insecure_http) == (None, None, False)
    assert [network.name for network in config.networks] == ["mainnet", "moderato"]


def test_everything_written_is_read() -> None:
    config = gateway.parse(
        {
            "hosts": ["pay.example.com"],
            "publicScheme": "https",
            "publicPort": 8443,
            "listen": {"address": "::", "port": 0},
            "tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"},
            "insecureHttp": True,
            "networks": {
                "localnet": {
                    "method": "tempo",
                    "chainId": 31337,
                    "rpcUrls": ["http://127.0.0.1:8545", "http://127.0.0.1:8546"],
                    "currencies": {"pathUSD": gateway.PATH_USD},
                    "decimals": 8,
                }
            },
            "defaults": {"offers": [OFFER], "expiresIn": "25s"},
            "store": {"sqlite": "/var/lib/mpp-gateway/ledger.db"},
            "namespace": "mpp-system",
            "challengeKeys": ["current", {"name": "old-keys", "key": "previous"}],
            "namespaces": {
                "shop": {
                    "hosts": ["*.shop.example.com"],
                    "upstreams": ["api.openai.com"],
                    "recipients": [RECIPIENT],
                }
            },
            "cluster": {"domain": "corp.local"},
            "checkTimeout": "20s",
            "settleWait": "12s",
            "challengeTimeout": "1s",
            "maxChallengeLife": "25s",
        }
    )

    assert config.networks[0] == gateway.Network(
        "localnet",
        "tempo",
        31337,
        ("http://127.0.0.1:8545", "http://127.0.0.1:8546"),
        (("pathUSD", gateway.PATH_USD),),
        8,
    )
    assert config.challenge_keys == (
        paidservice.KeyRef(name="mpp-challenge-keys", key="current"),
        paidservice.KeyRef(name="old-keys", key="previous"),
    )
    assert dict(config.namespaces)["shop"].upstreams == ("api.openai.com",)
    assert (config.cluster_domain, config.namespace) == ("corp.local", "mpp-system")
    assert (config.check_timeout, config.settle_wait, config.challenge_timeout) == (20, 12, 1)
    assert (config.expires_in, config.max_challenge_life) == (25, 25)
    assert (config.public_scheme, config.public_port) == ("https", 8443)
    assert config.sqlite == "/var/lib/mpp-gateway/ledger.db"
    assert config.tls == gateway.Tls(certificate="/tls/tls.crt", key="/tls/tls.key")


def test_the_built_in_networks_are_pympps() -> None:
    for name, chain in (("mainnet", tempo.CHAIN_ID), ("moderato", tempo.TESTNET_CHAIN_ID)):
        network = gateway.BUILT_IN[name]
        addresses = {address.lower() for _, address in network.currencies}

        assert (network.chain_id, network.rpc_urls) == (chain, (tempo.CHAIN_RPC_URLS[chain],))
        assert addresses >= {address.lower() for address in tempo.DEFAULT_ACCEPTED_CURRENCIES[chain]}
        assert addresses >= {address.lower() for address in tempo.FEE_TOKENS[chain]}
        assert network.decimals == tempo.PATH_USD_DECIMALS
    assert dict(gateway.BUILT_IN["mainnet"].currencies)["USDC.e"] == tempo.USDC
    assert dict(gateway.BUILT_IN["moderato"].currencies)["pathUSD"] == tempo.PATH_USD


def test_a_new_network_needs_a_chain_and_an_endpoint_and_nothing_else() -> None:
    config = gateway.parse({"networks": {"localnet": {"chainId": 31337, "rpcUrl": "http://127.0.0.1:8545"}}})

    assert config.network("localnet") == gateway.Network(
        "localnet", "tempo", 31337, ("http://127.0.0.1:8545",), (("pathUSD", gateway.PATH_USD),), 6
    )
    assert config.network("nowhere") is None


def test_a_built_in_network_takes_another_endpoint() -> None:
    config = gateway.parse({"networks": {"mainnet": {"rpcUrl": "https://rpc.example.com"}}})

    mainnet = config.network("mainnet")

    assert mainnet
    assert (mainnet.rpc_urls, mainnet.chain_id) == (("https://rpc.example.com",), 4217)
    assert mainnet.currencies == gateway.BUILT_IN["mainnet"].currencies


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"host": ["a"]}, "host"),
        ({"hosts": []}, "hosts"),
        ({"hosts": ["*.example.com"]}, "hosts[0]"),
        ({"hosts": ["a.example.com", "a.example.com"]}, "hosts[1]"),
        ({"hosts": None}, "hosts"),
        ({"listen": {"address": "1.2.3"}}, "listen.address"),
        ({"listen": {"port": 65536}}, "listen.port"),
        ({"publicScheme": "ftp"}, "publicScheme"),
        ({"tls": {}}, "tls"),
        ({"tls": {"certificate": "/a"}}, "tls"),
        ({"tls": {"certificate": "/a", "key": "/b", "terminatedBy": ["10.0.0.0/8"]}}, "tls"),
        ({"tls": {"terminatedBy": ["10.0.0.0/33"]}}, "tls.terminatedBy[0]"),
        ({"networks": {"localnet": {}}}, "networks.localnet.chainId"),
        ({"networks": {"localnet": {"chainId": 1}}}, "networks.localnet.rpcUrl"),
        ({"networks": {"localnet": {"chainId": 1, "rpcUrl": "ws://a"}}}, "networks.localnet.rpcUrl"),
        (
            {"networks": {"localnet": {"chainId": 1, "rpcUrl": "http://a", "rpcUrls": ["http://a"]}}},
            "networks.localnet",
        ),
        ({"networks": {"mainnet": {"chainId": 1}}}, "networks.mainnet.chainId"),
        (
            {"networks": {"moderato": {"currencies": {"pathUSD": "0x1"}}}},
            "networks.moderato.currencies.pathUSD",
        ),
        ({"networks": {"Local": {}}}, "networks.Local"),
        ({"defaults": {"offers": []}}, "defaults.offers"),
        ({"defaults": {"offers": [{**OFFER, "network": "nowhere"}]}}, "defaults.offers[0].network"),
        ({"defaults": {"expiresIn": "1s"}}, "defaults.expiresIn"),
        ({"store": {}}, "store"),
        ({"store": {"sqlite": "/a", "postgres": {"urlFrom": {"name": "db", "key": "url"}}}}, "store"),
        ({"store": {"postgres": {}}}, "store.postgres.urlFrom"),
        ({"store": {"postgres": {"urlFrom": {"name": "db"}}}}, "store.postgres.urlFrom.key"),
        ({"store": {"postgres": {"url": "postgresql://a/b"}}}, "store.postgres.url"),
        ({"challengeKeys": []}, "challengeKeys"),
        ({"challengeKeys": ["a/b"]}, "challengeKeys[0].key"),
        ({"namespaces": {"shop": {"hosts": ["*"]}}}, "namespaces.shop.hosts[0]"),
        ({"namespaces": {"shop": {"recipients": ["me"]}}}, "namespaces.shop.recipients[0]"),
        ({"settleWait": "15s"}, "settleWait"),
        ({"checkTimeout": 15}, "checkTimeout"),
        ({1: 2}, "1"),
        ([], ""),
    ],
)
def test_a_mistake_is_named_by_its_field(document: Any, field: str) -> None:
    assert field in problems(document)


@pytest.mark.parametrize(
    "document",
    [
        {"store": {"postgres": "postgresql://u:hush@h/d"}},
        {"store": {"postgres": {"urlFrom": ["postgresql://u:hush@h/d"]}}},
        {"challengeKeys": "hush"},
        {"challengeKeys": ["a/hush"]},
        {"networks": {"moderato": {"rpcUrl": "ftp://hush@h"}}},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(document: Any) -> None:
    found = problems(document)

    assert found
    assert "hush" not in str(found)


def test_a_postgres_is_named_by_the_secret_that_holds_its_address() -> None:
    config = gateway.parse({"store": {"postgres": {"urlFrom": {"name": "db", "key": "url"}}}})

    assert (config.postgres, config.sqlite) == (paidservice.KeyRef(name="db", key="url"), None)


def test_real_money_over_plain_http_is_refused() -> None:
    found = problems({"insecureHttp": True, "defaults": {"offers": [{**OFFER, "network": "mainnet"}]}})

    assert set(found) == {"insecureHttp"}
    assert "real money" in found["insecureHttp"]


def test_real_money_is_told_by_the_chain_and_not_by_the_name() -> None:
    found = problems(
        {
            "insecureHttp": True,
            "networks": {"play": {"chainId": 4217, "rpcUrl": "https://rpc.example.com"}},
            "defaults": {"offers": [{**OFFER, "network": "play"}]},
        }
    )

    assert set(found) == {"insecureHttp"}


@pytest.mark.parametrize(
    ("document", "url"),
    [
        ({"listen": {"port": 80}}, ("http", None)),
        ({"tls": {"certificate": "/a", "key": "/b"}, "listen": {"port": 443}}, ("https", None)),
        ({"tls": {"certificate": "/a", "key": "/b"}}, ("https", 4402)),
        ({"tls": {"terminatedBy": ["10.0.0.0/8"]}}, ("https", None)),
        ({"publicScheme": "https", "publicPort": 443}, ("https", None)),
    ],
)
def test_the_public_address_is_where_callers_arrive(
    document: Mapping[str, Any], url: tuple[str, int | None]
) -> None:
    config = gateway.parse(document)

    assert (config.public_scheme, config.public_port) == url


def test_an_unknown_network_has_a_reason_of_its_own() -> None:
    with pytest.raises(paidservice.SpecError) as caught:
        gateway.parse({"defaults": {"offers": [{**OFFER, "network": "nowhere"}]}})

    assert caught.value.problems[0].reason == Reason.UNKNOWN_NETWORK
