"""What a gateway does with its PaidServices, decided without a gateway."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paidservices import ABSENT, RECIPIENT, changed, document

from mpp_authz import pricing as contract
from mpp_operator import compiler, gateway, ir, paidservice, status
from mpp_operator.paidservice import PaidService
from mpp_operator.status import ConditionType, Reason

OFFER = {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipient": RECIPIENT}
ONE_MACHINE = gateway.parse({})
CLUSTER = gateway.parse({"hosts": ["pay.example.com"], "cluster": {}})
REF = {"name": "openai", "key": "api-key"}
OTHER = "0x" + "cd" * 20


def service(changes: Mapping[str, Any] | None = None, name: str = "llm", namespace: str = "shop") -> PaidService:
    return paidservice.parse(changed(document(name, namespace), changes or {}))


def lowered(*services: PaidService, config: gateway.GatewayConfig = ONE_MACHINE) -> ir.Gateway:
    result = compiler.lower(services, config)
    refused = [c for told in result.conditions.values() for c in told if not c.status]
    assert refused == []
    return result.gateway


def condition(*services: PaidService, config: gateway.GatewayConfig = ONE_MACHINE) -> status.Condition:
    """The Accepted condition of the last of `services`, which is refused and not served."""
    result = compiler.lower(services, config)
    accepted = result.conditions[services[-1].key][0]
    assert (accepted.type, accepted.status) == (ConditionType.ACCEPTED, False)
    assert services[-1].key not in [(s.namespace, s.name) for s in result.gateway.services]
    assert services[-1].key not in result.summaries
    return accepted


def price_of(changes: Mapping[str, Any], config: gateway.GatewayConfig = ONE_MACHINE) -> contract.RoutePrice:
    price = lowered(service(changes), config=config).services[0].routes[0].price
    assert price
    return price


# --- One service


def test_a_service_becomes_routes_a_price_and_a_cluster() -> None:
    result = lowered(service())

    (found,) = result.services
    (cluster,) = result.clusters
    assert found == ir.Service(
        namespace="shop",
        name="llm",
        hosts=("127.0.0.1", "localhost"),
        base_path="/llm",
        cluster=cluster.name,
        upstream_host="api.example.com",
        upstream_path="/v1",
        headers_set=(),
        headers_remove=(),
        timeouts=ir.Timeouts(2, 60, 60, 300),
        retries=ir.Retries(2, ("connect-failure", "refused-stream", "reset-before-request"), None),
        cors_origins=("*",),
        routes=(
            ir.Route(
                "shop/llm/post-chat",
                ("POST",),
                ir.PathPattern(("chat",)),
                contract.RoutePrice(
                    offers=(contract.Offer("tempo", "tempo", "moderato", gateway.PATH_USD, RECIPIENT, "50000"),),
                    expires_in=300,
                    lease=140,
                ),
            ),
            ir.Route("shop/llm/any-models", ir.DEFAULT_METHODS, ir.PathPattern(("models",)), None),
        ),
        listing=ir.Listing("llm", currencies=(ir.Currency("moderato", gateway.PATH_USD, "pathUSD", 6),)),
    )
    assert cluster == ir.Cluster(
        cluster.name, "api.example.com", 443, "api.example.com", None, 2, 1024, 1024, 256, None
    )
    assert [network.name for network in result.networks] == ["mainnet", "moderato"]
    assert result.transport == contract.Transport()


def test_every_promise_of_a_route_is_in_its_price() -> None:
    price = price_of(
        {
            "spec.payment.realm": "llm.example.com",
            "spec.payment.credentialHeader": "Payment-Authorization",
            "spec.payment.expiresIn": "1m",
            "spec.payment.notBefore": "2026-01-01T00:00:00Z",
            "spec.payment.credit": {"attempts": 5, "life": "1h"},
            "spec.payment.offers[0].modes": ["pull"],
            "spec.routes[0].description": "One completion",
            "spec.routes[0].bindQuery": False,
            "spec.routes[0].digest": {"maxBytes": 10},
            "spec.routes[0].streaming": True,
            "spec.routes[0].idempotent": True,
        }
    )

    assert price == contract.RoutePrice(
        offers=(
            contract.Offer("tempo", "tempo", "moderato", gateway.PATH_USD, RECIPIENT, "50000", modes=("pull",)),
        ),
        expires_in=60,
        lease=60,
        realm="llm.example.com",
        credential_header="Payment-Authorization",
        not_before=1_767_225_600,
        bind_query=False,
        digest_max_bytes=10,
        streaming=True,
        idempotent=True,
        credit_attempts=5,
        credit_life=3600,
        description="One completion",
    )


def test_a_lease_outlives_the_longest_request_and_the_flush() -> None:
    config = gateway.parse({"checkTimeout": "20s"})

    price = price_of({"spec.upstream.timeouts": {"request": "90s", "upload": "1500ms"}}, config)

    assert price.lease == 117  # 20 + 90 + 1.5 + 5, rounded up


def test_the_gateway_caps_a_quotes_life() -> None:
    config = gateway.parse({"maxChallengeLife": "25s"})

    assert [price_of({"spec.payment.expiresIn": life}, config).expires_in for life in ("5m", "20s")] == [25, 20]


@pytest.mark.parametrize(
    ("price", "amount"),
    [
        ({"price": {"amount": "0"}}, "0"),
        ({"price": {"baseUnits": "7"}}, "7"),
        ({"prices": {"tempo": "2.5"}}, "2500000"),
    ],
)
def test_a_price_is_base_units_of_the_offer(price: Mapping[str, Any], amount: str) -> None:
    changes = {
        "spec.routes[0].price": ABSENT,
        **{f"spec.routes[0].{name}": value for name, value in price.items()},
    }

    assert price_of(changes).offers[0].amount == amount


def test_each_offer_has_a_price_of_its_own_currency() -> None:
    config = gateway.parse({"networks": {"cents": {"chainId": 9, "rpcUrl": "http://127.0.0.1:1", "decimals": 2}}})
    second = {**OFFER, "name": "cents", "network": "cents", "recipient": OTHER}

    price = price_of({"spec.payment.offers[1]": second}, config)

    assert [(o.name, o.amount, o.recipient) for o in price.offers] == [
        ("tempo", "50000", RECIPIENT),
        ("cents", "5", OTHER),
    ]


def test_an_address_is_the_same_however_it_is_written() -> None:
    upper = {
        "spec.payment.offers[0].recipient": "0x" + "AB" * 20,
        "spec.payment.offers[0].currency": "0x" + "EF" * 20,
    }

    offer = price_of(upper).offers[0]

    assert (offer.recipient, offer.currency) == (RECIPIENT, "0x" + "ef" * 20)


def test_the_gateways_offers_are_the_default() -> None:
    config = gateway.parse({"defaults": {"offers": [{**OFFER, "recipient": OTHER}], "expiresIn": "1m"}})

    price = price_of({"spec.payment": ABSENT}, config)

    assert (price.offers[0].recipient, price.expires_in) == (OTHER, 60)


def test_a_sponsored_offer_names_its_key_and_its_limits() -> None:
    sponsored = {
        "spec.payment.offers[0].feePayer": {
            "secretRef": {"name": "sponsor", "key": "key"},
            "maxPerMinute": 9,
            "maxPerPayerPerMinute": 2,
            "minBalance": "1.5",
        }
    }

    result = lowered(service(sponsored))

    assert result.fee_payer_keys == (
        ir.FeePayerKey("shop/sponsor/key", ir.SecretSource("shop", "sponsor", "key")),
    )
    price = result.services[0].routes[0].price
    assert price
    assert price.offers[0].fee_payer == contract.FeePayer("shop/sponsor/key", 9, 2, "1500000")


def test_a_default_offers_sponsor_is_the_gateways_own() -> None:
    sponsor = {**OFFER, "feePayer": {"secretRef": {"name": "sponsor", "key": "key"}}}
    config = gateway.parse({"namespace": "mpp", "defaults": {"offers": [sponsor]}})

    result = lowered(service({"spec.payment": ABSENT}), config=config)

    assert [key.source for key in result.fee_payer_keys] == [ir.SecretSource("mpp", "sponsor", "key")]
    assert compiler.gateway_refs(config) == (ir.SecretSource("mpp", "sponsor", "key"),)


def test_a_service_that_is_all_free_needs_no_offer_and_no_sponsor() -> None:
    free = {"spec.payment": ABSENT, "spec.routes[0].price": ABSENT, "spec.routes[0].free": True}

    result = compiler.lower([service(free)], ONE_MACHINE)

    assert result.gateway.services[0].routes[0].price is None
    assert result.summaries["shop", "llm"].price == "free"


def test_the_upstreams_headers_are_the_presets_and_the_authors() -> None:
    found = lowered(
        service(
            {
                "spec.upstream": {
                    "preset": "openai",
                    "headers": {"set": {"X-Tenant": "Shop", "OpenAI-Project": "p"}, "remove": ["X-Secret"]},
                }
            }
        )
    ).services[0]

    assert found.headers_set == (("openai-project", "p"), ("x-tenant", "Shop"))
    assert found.headers_remove == ("openai-organization", "x-secret")


@pytest.mark.parametrize(
    ("auth", "header", "scheme", "username"),
    [
        ({"bearer": {"secretRef": REF}}, "authorization", "bearer", ""),
        ({"apiKey": {"header": "X-Key", "secretRef": REF}}, "x-key", "raw", ""),
        ({"basic": {"username": "me", "secretRef": REF}}, "authorization", "basic", "me"),
        ({"basic": {"secretRef": REF}}, "authorization", "basic-user", ""),
    ],
)
def test_a_credential_goes_into_its_header(auth: Any, header: str, scheme: str, username: str) -> None:
    result = lowered(service({"spec.upstream.auth": auth}))

    (secret,) = result.upstream_secrets
    assert secret == ir.UpstreamSecret(secret.name, ir.SecretSource("shop", "openai", "api-key"), scheme, username)
    assert result.clusters[0].injected == ir.Injected(header, secret.name)


def test_a_ca_of_ones_own_verifies_the_upstream() -> None:
    tls = {"serverName": "internal.example.com", "caSecretRef": {"name": "ca", "key": "ca.crt"}}

    result = lowered(service({"spec.upstream.tls": tls}))

    (secret,) = result.upstream_secrets
    assert secret == ir.UpstreamSecret(secret.name, ir.SecretSource("shop", "ca", "ca.crt"), "ca")
    assert (result.clusters[0].tls_ca_secret, result.clusters[0].tls_server_name) == (
        secret.name,
        "internal.example.com",
    )


@pytest.mark.parametrize(
    ("upstream", "host", "port", "authority", "tls"),
    [
        ({"url": "https://A.example.com/"}, "a.example.com", 443, "a.example.com", "a.example.com"),
        ({"url": "http://127.0.0.1:9000"}, "127.0.0.1", 9000, "127.0.0.1:9000", None),
        ({"url": "http://[::1]:80"}, "::1", 80, "[::1]", None),
    ],
)
def test_an_upstream_is_reached_under_its_own_name(
    upstream: Any, host: str, port: int, authority: str, tls: str | None
) -> None:
    result = lowered(service({"spec.upstream": upstream}))

    cluster = result.clusters[0]
    assert (cluster.host, cluster.port, cluster.tls_server_name) == (host, port, tls)
    assert (result.services[0].upstream_host, result.services[0].upstream_path) == (authority, "")


def test_a_kubernetes_service_is_one_of_the_namespace() -> None:
    result = lowered(service({"spec.upstream": {"service": {"name": "api", "port": 8080}}}), config=CLUSTER)

    assert result.clusters[0].host == "api.shop.svc.cluster.local"
    assert result.services[0].upstream_host == "api.shop.svc.cluster.local:8080"


def test_upstreams_that_are_alike_are_shared_within_a_namespace_only() -> None:
    auth = {"spec.upstream.auth": {"bearer": {"secretRef": REF}}}

    result = lowered(service(auth, "a"), service(auth, "b"), service(auth, "c", "other"), service({}, "d"))

    by_name = {found.name: found.cluster for found in result.services}
    assert by_name["a"] == by_name["b"]
    assert len({by_name["a"], by_name["c"], by_name["d"]}) == len(result.clusters) == 3
    assert len(result.upstream_secrets) == 2


def test_names_of_clusters_can_be_read() -> None:
    assert lowered(service()).clusters[0].name.startswith("shop-api-example-com-")


def test_origins_are_sorted_and_every_origin_is_one() -> None:
    origins = ["https://b.example.com", "https://a.example.com", "https://b.example.com"]

    found = [lowered(service({"spec.cors": {"origins": o}})).services[0] for o in (origins, [*origins, "*"])]

    assert [s.cors_origins for s in found] == [("https://a.example.com", "https://b.example.com"), ("*",)]


def test_transport_follows_gateway_yaml() -> None:
    config = gateway.parse({"insecureHttp": True, "tls": {"terminatedBy": ["10.0.0.0/8"]}})

    assert lowered(service(), config=config).transport == contract.Transport(True, ("10.0.0.0/8",))


# --- What is refused


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        (
            {"spec.payment.offers[0].method": "barter"},
            Reason.UNKNOWN_METHOD,
            "spec.payment.offers[0].method: expected one of tempo, got 'barter'",
        ),
        (
            {"spec.payment.offers[0].network": "nowhere"},
            Reason.UNKNOWN_NETWORK,
            "spec.payment.offers[0].network: expected one of mainnet, moderato, got 'nowhere'",
        ),
        (
            {"spec.payment.offers[0].currency": "pathusd"},
            Reason.UNKNOWN_CURRENCY,
            "spec.payment.offers[0].currency: expected one of OUSD, pathUSD, or an 0x address, got 'pathusd'",
        ),
        (
            {"spec.routes[0].price.amount": "0.0000001"},
            Reason.INVALID_AMOUNT,
            "spec.routes[0].price.amount: expected at most 6 decimal places (one base unit), got '0.0000001' "
            "of pathUSD (offer tempo)",
        ),
        (
            {"spec.payment": ABSENT},
            Reason.INVALID_SPEC,
            "spec.payment.offers: expected offers: the gateway has no default offers",
        ),
        (
            {"spec.basePath": "/", "spec.hosts": ["localhost"]},
            Reason.INVALID_SPEC,
            "spec.hosts[0]: expected a host of its own beside basePath '/', got the gateway's 'localhost'",
        ),
        (
            {"spec.upstream": {"service": {"name": "api", "port": 80}}},
            Reason.INVALID_SPEC,
            "spec.upstream.service: expected url: there is no Kubernetes Service outside a cluster",
        ),
    ],
)
def test_what_the_gateway_does_not_know_is_refused(
    changes: Mapping[str, Any], reason: Reason, message: str
) -> None:
    assert condition(service(changes)) == status.Condition(ConditionType.ACCEPTED, False, reason, message, 0)


def test_prices_must_fit_the_gateways_offers() -> None:
    config = gateway.parse({"defaults": {"offers": [OFFER]}})
    prices = {"spec.payment": ABSENT, "spec.routes[0].price": ABSENT, "spec.routes[0].prices": {"card": "1"}}

    message = condition(service(prices), config=config).message

    assert "spec.routes[0].prices.card: expected an offer of ['tempo']" in message
    assert "spec.routes[0].prices: expected a price for offer 'tempo', got none" in message


def test_every_mistake_is_in_the_message_and_what_stops_serving_gives_the_reason() -> None:
    config = gateway.parse({"namespaces": {"shop": {"upstreams": ["*.openai.com"]}}})
    changes = {"spec.payment.offers[0].currency": "DOGE", "metadata.generation": 4}

    found = condition(service(changes), config=config)

    assert (found.reason, found.observed_generation) == (Reason.UPSTREAM_NOT_ALLOWED, 4)
    assert "spec.upstream.url" in found.message
    assert "spec.payment.offers[0].currency" in found.message


def test_real_money_over_plain_http_is_refused() -> None:
    config = gateway.parse({"insecureHttp": True})
    changes = {"spec.payment.offers[0].network": "mainnet"}

    found = condition(service(changes), config=config)

    assert (found.reason, found.message) == (
        Reason.INVALID_SPEC,
        "spec.payment.offers[0].network: expected a test network while insecureHttp is true, got 'mainnet'",
    )


@pytest.mark.parametrize(
    ("policy", "changes", "reason"),
    [
        ({"hosts": ["*.shop.example.com"]}, {"spec.hosts": ["shop.example.com"]}, Reason.HOST_NOT_ALLOWED),
        ({"hosts": []}, {"spec.hosts": ["a.shop.example.com"]}, Reason.HOST_NOT_ALLOWED),
        ({"hosts": ["*.shop.example.com"]}, {"spec.payment.realm": "bank.example.com"}, Reason.HOST_NOT_ALLOWED),
        ({"upstreams": ["api.openai.com"]}, {}, Reason.UPSTREAM_NOT_ALLOWED),
        ({"upstreams": ["api.openai.com"]}, {"spec.upstream": {"preset": "stripe"}}, Reason.UPSTREAM_NOT_ALLOWED),
        ({"recipients": [OTHER]}, {}, Reason.RECIPIENT_NOT_ALLOWED),
    ],
)
def test_a_namespace_names_only_what_it_may(policy: Any, changes: Mapping[str, Any], reason: Reason) -> None:
    config = gateway.parse({"namespaces": {"shop": policy}})

    assert condition(service(changes), config=config).reason == reason
    assert lowered(service(changes, namespace="free"), config=config).services


def test_what_a_namespace_may_name_is_accepted() -> None:
    config = gateway.parse(
        {
            "namespaces": {
                "shop": {
                    "hosts": ["*.shop.example.com"],
                    "upstreams": ["*.example.com"],
                    "recipients": ["0x" + "AB" * 20],
                }
            }
        }
    )

    assert lowered(service({"spec.hosts": ["a.b.shop.example.com", "localhost"]}), config=config).services


def test_default_offers_pay_whom_the_gateway_likes() -> None:
    config = gateway.parse({"defaults": {"offers": [OFFER]}, "namespaces": {"shop": {"recipients": []}}})

    assert lowered(service({"spec.payment": ABSENT}), config=config).services


def test_every_reason_that_stops_serving_is_one_of_losing_a_place_or_a_permission() -> None:
    assert {
        Reason.CONFLICT,
        Reason.HOST_NOT_ALLOWED,
        Reason.UPSTREAM_NOT_ALLOWED,
        Reason.RECIPIENT_NOT_ALLOWED,
    } == status.STOPS_SERVING


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "127.1",
        "0x7f.1",
        "1.2.3.4.5",
        "kubernetes",
        "a.svc",
        "a.b.svc.cluster.local",
        "x.corp.test",
        "a.localhost",
        "printer.local",
        "metadata.google.internal",
        "[::1]",
    ],
)
def test_in_a_cluster_an_upstream_is_a_public_name(host: str) -> None:
    config = gateway.parse({"cluster": {"domain": "corp.test"}})
    upstream = {"spec.upstream.url": f"http://{host}:80/"}

    assert condition(service(upstream), config=config).reason == Reason.UPSTREAM_NOT_ALLOWED
    assert lowered(service(upstream)).services  # on one machine they are what one wants


def test_a_long_message_fits_a_condition() -> None:
    routes = [
        {"name": f"r{i}", "match": {"path": f"/{i}"}, "price": {"amount": "0." + "1" * 18}} for i in range(200)
    ]
    offers = [{**OFFER, "name": f"o{i}"} for i in range(8)]

    found = condition(service({"spec.routes": routes, "spec.payment.offers": offers}))

    assert len(found.message) == status.MAX_MESSAGE


# --- Recipients that are read elsewhere

FROM_CONFIG_MAP = {
    "spec.payment.offers[0].recipient": ABSENT,
    "spec.payment.offers[0].recipientFrom": {"configMapRef": {"name": "shop", "key": "recipient"}},
}
SOURCE = compiler.RecipientSource("ConfigMap", "shop", "shop", "recipient")


def test_a_recipient_is_read_from_a_config_map() -> None:
    asked = service(FROM_CONFIG_MAP)

    result = compiler.lower([asked], ONE_MACHINE, {SOURCE: f"{OTHER}\n"})

    assert compiler.recipient_sources(asked) == (SOURCE,)
    price = result.gateway.services[0].routes[0].price
    assert price
    assert price.offers[0].recipient == OTHER


@pytest.mark.parametrize(
    ("kind", "reason"), [("configMapRef", Reason.CONFIG_MAP_NOT_FOUND), ("secretRef", Reason.SECRET_NOT_FOUND)]
)
def test_a_recipient_that_is_not_there_is_not_resolved_and_not_served(kind: str, reason: Reason) -> None:
    changes = {
        **FROM_CONFIG_MAP,
        "spec.payment.offers[0].recipientFrom": {kind: {"name": "shop", "key": "recipient"}},
    }

    result = compiler.lower([service(changes)], ONE_MACHINE)

    accepted, resolved = result.conditions["shop", "llm"]
    assert (accepted.status, resolved.type, resolved.status, resolved.reason) == (
        True,
        ConditionType.RESOLVED_REFS,
        False,
        reason,
    )
    assert result.gateway.services == ()


def test_a_service_that_waits_for_its_recipient_keeps_its_place() -> None:
    waiting = service(
        {**FROM_CONFIG_MAP, "metadata.creationTimestamp": "2026-01-01T00:00:00Z", "spec.basePath": "/x"}
    )
    younger = service({"spec.basePath": "/x"}, "late", "other")

    assert condition(waiting, younger).reason == Reason.CONFLICT


@pytest.mark.parametrize("value", ["sk-live-123", "0x" + "0" * 40, ""])
def test_what_is_no_recipient_is_refused_and_not_repeated(value: str) -> None:
    result = compiler.lower([service(FROM_CONFIG_MAP)], ONE_MACHINE, {SOURCE: value})

    (found,) = result.conditions["shop", "llm"]
    assert (found.status, found.reason) == (False, Reason.INVALID_SPEC)
    assert "sk-live" not in found.message


def test_a_default_recipient_is_the_gateways_own() -> None:
    offer = {"method": "tempo", "network": "moderato", "currency": "pathUSD", "recipientFrom": {"secretRef": REF}}
    config = gateway.parse({"namespace": "mpp", "defaults": {"offers": [offer]}})
    (source,) = compiler.gateway_recipient_sources(config)

    result = compiler.lower([service({"spec.payment": ABSENT})], config, {source: OTHER})

    assert source == compiler.RecipientSource("Secret", "mpp", "openai", "api-key")
    assert compiler.gateway_refs(config) == (ir.SecretSource("mpp", "openai", "api-key"),)
    assert result.gateway.services


# --- What must exist


def test_refs_are_every_secret_a_service_names_once() -> None:
    asked = service(
        {
            "spec.upstream.auth": {"bearer": {"secretRef": REF}},
            "spec.upstream.tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}},
            "spec.payment.offers[0].feePayer": {"secretRef": {"name": "sponsor", "key": "key"}},
            "spec.payment.offers[1]": {
                **{k: v for k, v in OFFER.items() if k != "recipient"},
                "name": "second",
                "recipientFrom": {"secretRef": {"name": "sponsor", "key": "key"}},
            },
        }
    )

    assert compiler.refs(asked) == (
        ir.SecretSource("shop", "ca", "ca.crt"),
        ir.SecretSource("shop", "openai", "api-key"),
        ir.SecretSource("shop", "sponsor", "key"),
    )


def test_a_preset_refers_to_its_usual_secret() -> None:
    asked = service({"spec.upstream": {"preset": "stripe"}})

    assert compiler.refs(asked) == (ir.SecretSource("shop", "stripe", "secret-key"),)


def test_a_service_without_credentials_refers_to_nothing() -> None:
    assert compiler.refs(service({"spec.payment": ABSENT})) == ()


# --- Conflicts


def aged(name: str, namespace: str, base: str, year: int | None, host: str = "a.example.com") -> PaidService:
    created = ABSENT if year is None else f"{year}-01-01T00:00:00Z"
    changes = {"metadata.creationTimestamp": created} if year is not None else {}
    return service({**changes, "spec.basePath": base, "spec.hosts": [host]}, name, namespace)


@pytest.mark.parametrize("base", ["/x", "/x/y", "/", "/x/y/z"])
def test_across_namespaces_overlapping_paths_are_the_older_ones(base: str) -> None:
    found = condition(aged("old", "a", "/x/y", 2024), aged("new", "b", base, 2025))

    assert found.reason == Reason.CONFLICT
    assert "a/old" in found.message


@pytest.mark.parametrize(
    ("base", "host"), [("/xy", "a.example.com"), ("/z", "a.example.com"), ("/x", "b.example.com")]
)
def test_paths_that_do_not_overlap_live_side_by_side(base: str, host: str) -> None:
    assert len(lowered(aged("old", "a", "/x", 2024), aged("new", "b", base, 2025, host)).services) == 2


def test_within_a_namespace_overlapping_paths_are_legal() -> None:
    assert len(lowered(aged("a", "shop", "/x", 2024), aged("b", "shop", "/x/y", 2025)).services) == 2


def test_the_same_place_twice_is_a_conflict_also_within_a_namespace() -> None:
    assert condition(aged("a", "shop", "/x", 2024), aged("b", "shop", "/x", 2025)).reason == Reason.CONFLICT


def test_of_the_same_age_the_first_name_wins() -> None:
    assert condition(aged("a", "shop", "/x", 2024), aged("b", "shop", "/x", 2024)).reason == Reason.CONFLICT


def test_an_object_without_age_is_the_youngest() -> None:
    assert condition(aged("b", "shop", "/x", 2024), aged("a", "shop", "/x", None)).reason == Reason.CONFLICT


def test_who_lost_does_not_take_places_from_others() -> None:
    lost = service(
        {
            "metadata.creationTimestamp": "2025-01-01T00:00:00Z",
            "spec.basePath": "/x",
            "spec.hosts": ["a.b", "c.d"],
        },
        "l",
        "b",
    )

    result = compiler.lower(
        [aged("w", "a", "/x", 2024, "a.b"), lost, aged("n", "c", "/x", 2026, "c.d")], ONE_MACHINE
    )

    assert [s.name for s in result.gateway.services] == ["w", "n"]


def test_an_invalid_service_takes_no_place() -> None:
    invalid = service({"spec.payment.offers[0].network": "nowhere", "spec.basePath": "/x"}, "a")

    result = compiler.lower([invalid, service({"spec.basePath": "/x"}, "b")], ONE_MACHINE)

    assert [s.name for s in result.gateway.services] == ["b"]


# --- Columns


@pytest.mark.parametrize(
    ("config", "changes", "summary"),
    [
        ({}, {}, ("http://127.0.0.1:4402/llm", "0.05 pathUSD", "", 1, 1)),
        (
            {"hosts": ["pay.example.com"], "tls": {"terminatedBy": ["10.0.0.0/8"]}},
            {
                "spec.payment.realm": "llm.example.com",
                "spec.routes[2]": {"match": {"path": "/big"}, "price": {"amount": "10"}},
            },
            ("https://pay.example.com/llm", "0.05-10 pathUSD", "llm.example.com", 2, 1),
        ),
    ],
)
def test_a_summary_says_where_and_how_much(
    config: Any, changes: Mapping[str, Any], summary: tuple[Any, ...]
) -> None:
    result = compiler.lower([service(changes)], gateway.parse(config))

    assert result.summaries["shop", "llm"] == status.Summary(*summary)


# --- Laws

SERVICES = st.lists(
    st.builds(
        lambda name, namespace, base, year, amount: service(
            {
                "metadata.creationTimestamp": f"{year}-01-01T00:00:00Z",
                "spec.basePath": base,
                "spec.routes[0].price.amount": amount,
            },
            name,
            namespace,
        ),
        st.sampled_from("abcdef"),
        st.sampled_from(["shop", "other", "third"]),
        st.sampled_from(["/x", "/x/y", "/x/y/z", "/z", "/w"]),
        st.integers(2020, 2023),
        st.sampled_from(["0", "0.05", "1.000001", "0.0000001"]),
    ),
    max_size=8,
    unique_by=lambda s: s.key,
)


@settings(deadline=None)
@given(SERVICES, st.randoms(use_true_random=False))
def test_the_order_of_services_changes_nothing(services: list[PaidService], random: Any) -> None:
    shuffled = random.sample(services, len(services))

    one, other = (compiler.compile(given, ONE_MACHINE) for given in (services, shuffled))

    assert dict(one.artifacts) == dict(other.artifacts)
    assert (one.gateway, one.revision) == (other.gateway, other.revision)
    assert list(one.conditions.items()) == list(other.conditions.items())


@settings(deadline=None)
@given(SERVICES)
def test_every_priced_route_is_in_the_pricing_file_and_no_other(services: list[PaidService]) -> None:
    compilation = compiler.compile(services, ONE_MACHINE)

    pricing = contract.load(compilation.artifacts["pricing.json"])
    priced = {route.key: route.price for s in compilation.gateway.services for route in s.routes if route.price}
    assert pricing.routes == priced
    assert pricing.revision == compilation.revision


@settings(deadline=None)
@given(SERVICES)
def test_no_two_services_of_different_namespaces_share_a_path(services: list[PaidService]) -> None:
    found = lowered_quietly(services).services

    for one in found:
        for other in found:
            if one.namespace != other.namespace:
                assert not (one.base_path + "/").startswith(other.base_path + "/")


def lowered_quietly(services: list[PaidService]) -> ir.Gateway:
    return compiler.lower(services, ONE_MACHINE).gateway


def test_the_revision_changes_with_what_is_published_and_with_nothing_else() -> None:
    one = compiler.compile([service()], ONE_MACHINE)
    same = compiler.compile([service({"metadata.generation": 9})], ONE_MACHINE)
    dearer = compiler.compile([service({"spec.routes[0].price.amount": "0.06"})], ONE_MACHINE)

    assert one.revision == same.revision != dearer.revision
    assert set(one.artifacts) >= {"pricing.json", "rds.json", "cds.json"}


def test_every_artifact_is_json_without_a_secrets_value() -> None:
    compilation = compiler.compile([service({"spec.upstream": {"preset": "openai"}})], ONE_MACHINE)

    for name, text in compilation.artifacts.items():
        if name.endswith(".json"):
            json.loads(text)
