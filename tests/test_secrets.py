"""Credentials as files: what is in them, and where they never are."""

import base64
import json

import irs
import pytest

from mpp_authz import keys
from mpp_authz.pricing import Transport
from mpp_operator import ir
from mpp_operator.artifacts import secrets

SOURCE = ir.SecretSource("shop", "openai", "api-key")
SPONSOR = ir.SecretSource("shop", "sponsor", "key")


def holding(scheme: str, username: str = "", name: str = "openai") -> ir.Gateway:
    return ir.Gateway((), (), (), Transport(), (ir.UpstreamSecret(name, SOURCE, scheme, username),))


def value(files: secrets.Files, name: str = "openai.json") -> str:
    (resource,) = json.loads(files[name])["resources"]
    text: str = resource["generic_secret"]["secret"]["inline_string"]
    return text


@pytest.mark.parametrize(
    ("scheme", "username", "expected"),
    [
        ("bearer", "", "Bearer sk-1"),
        ("raw", "", "sk-1"),
        ("basic", "me", "Basic " + base64.b64encode(b"me:sk-1").decode()),
        ("basic-user", "", "Basic " + base64.b64encode(b"sk-1:").decode()),
    ],
)
def test_a_secret_is_the_whole_header_value_without_the_files_last_newline(
    scheme: str, username: str, expected: str
) -> None:
    files = secrets.render(holding(scheme, username), {SOURCE: "sk-1\n"}, ())

    assert value(files) == expected


def test_a_bundle_is_a_validation_context() -> None:
    files = secrets.render(holding("ca"), {SOURCE: "-----BEGIN…\n"}, ())

    (resource,) = json.loads(files["openai.json"])["resources"]
    assert resource["validation_context"] == {"trusted_ca": {"inline_string": "-----BEGIN…\n"}}


def test_authz_gets_the_signing_keys_in_order_and_the_sponsors() -> None:
    gateway = ir.Gateway((), (), (), Transport(), (), (ir.FeePayerKey("sponsor", SPONSOR),))

    key = "0x" + "5a" * 32

    files = secrets.render(gateway, {SPONSOR: f"{key}\n"}, ("first", "second"))

    assert json.loads(files[keys.FILE_NAME]) == {
        "version": 1,
        "challengeKeys": ["first", "second"],
        "feePayers": {"sponsor": key},
    }


def test_a_sponsor_s_key_that_is_none_is_refused_without_being_shown() -> None:
    gateway = ir.Gateway((), (), (), Transport(), (), (ir.FeePayerKey("sponsor", SPONSOR),))

    with pytest.raises(secrets.SecretError, match="expected a fee payer's private key") as caught:
        secrets.render(gateway, {SPONSOR: "hunter2"}, ("first",))

    assert "hunter2" not in str(caught.value)


def test_a_ledger_s_address_is_a_file_of_its_own_where_there_is_one() -> None:
    gateway = ir.Gateway((), (), (), Transport(), (), ())

    assert secrets.render(gateway, {}, ("k",), "postgresql://me:pw@db/x")["ledger.url"] == (
        "postgresql://me:pw@db/x\n"
    )
    assert set(secrets.render(gateway, {}, ("k",))) == {keys.FILE_NAME}


def test_every_missing_value_is_named_at_once() -> None:
    gateway = ir.Gateway(
        (), (), (), Transport(), holding("raw").upstream_secrets, (ir.FeePayerKey("sponsor", SPONSOR),)
    )

    with pytest.raises(secrets.SecretError, match="shop/openai/api-key, shop/sponsor/key"):
        secrets.render(gateway, {}, ())


@pytest.mark.parametrize("text", ["very\nsecret", "very\rsecret", "very\x00secret", " \n"])
def test_a_value_that_no_header_can_hold_is_refused_without_saying_it(text: str) -> None:
    with pytest.raises(secrets.SecretError) as raised:
        secrets.render(holding("bearer"), {SOURCE: text}, ())

    assert "shop/openai/api-key" in str(raised.value)
    assert "secret" not in str(raised.value).replace("secret openai", "")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(
        secrets.SecretError, match="scheme: expected raw, bearer, basic, basic-user or ca, got digest"
    ):
        secrets.render(holding("digest"), {SOURCE: "x"}, ())


@pytest.mark.parametrize("name", ["../openai", "authz"])
def test_a_name_that_is_no_file_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(secrets.SecretError, match="expected a file name"):
        secrets.render(holding("raw", name=name), {SOURCE: "x"}, ())


def test_the_files_repr_holds_names_only() -> None:
    files = secrets.render(holding("raw"), {SOURCE: "very-secret"}, ("another",))

    assert repr(files) == "Files(authz.json, openai.json)"
    assert (len(files), set(files)) == (2, {"authz.json", "openai.json"})


def test_no_value_is_in_any_other_artifact() -> None:
    gateway = irs.examples()["tls-and-injected-credentials"]
    values = {secret.source: f"very-secret-{secret.name}" for secret in gateway.upstream_secrets}

    files = secrets.render(gateway, values, ())

    assert all("very-secret" in files[f"{secret.name}.json"] for secret in gateway.upstream_secrets)
