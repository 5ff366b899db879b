# ruff: noqa: A005  -- modules are imported as `artifacts.secrets`; nothing shadows the standard library
"""Credentials: SDS files for Envoy, `authz.json` and `ledger.url` for authz. The only artifact that holds secrets.

Published as a Secret or as 0600 files, never as a ConfigMap. No repr, message or log line holds a value.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mpp_authz import keys
from mpp_operator import ir
from mpp_operator.artifacts import TYPE, canonical_json

#: The directory of the files, relative to Envoy's working directory.
DIRECTORY: Final = "secrets"

#: Holds the ledger's address: it may have a password in it, so it is on no command line.
LEDGER_FILE: Final = "ledger.url"


class SecretError(ValueError):
    """A value is missing, or cannot be a header. Names the Secret and the key, never the value."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Files(Mapping[str, str]):
    """`{file name: text}` whose repr shows the names only."""

    texts: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.texts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Files({', '.join(sorted(self.texts))})"


def render(
    gateway: ir.Gateway,
    values: Mapping[ir.SecretSource, str],
    challenge_keys: tuple[str, ...],
    ledger: str | None = None,
) -> Files:
    """One SDS file per upstream secret, `authz.json` with the signing keys (the first signs, all verify), and the
    ledger's address where there is one.

    Raises:
        SecretError: lists every value that is missing, or the first that no header can hold.
    """
    wanted = [secret.source for secret in gateway.upstream_secrets] + [
        key.source for key in gateway.fee_payer_keys
    ]
    missing = sorted({_place(source) for source in wanted if source not in values})
    if missing:
        raise SecretError(f"secrets: expected a value for each of {', '.join(missing)}, got none")
    for key in gateway.fee_payer_keys:
        value = values[key.source].strip()
        if not keys.PRIVATE_KEY.fullmatch(value):
            raise SecretError(
                f"secret {_place(key.source)}: expected a fee payer's private key, 0x and 64 hexadecimal digits, "
                f"got {len(value)} other characters"
            )
    authz = {
        "version": keys.VERSION,
        "challengeKeys": list(challenge_keys),
        "feePayers": {key.name: values[key.source].strip() for key in gateway.fee_payer_keys},
    }
    texts = {file_name(secret.name): _sds(secret, values[secret.source]) for secret in gateway.upstream_secrets}
    if ledger is not None:
        texts[LEDGER_FILE] = ledger + "\n"
    return Files(texts | {keys.FILE_NAME: canonical_json(authz)})


def file_name(secret: str) -> str:
    """The SDS file of a secret. A Secret's data keys are file names, too, so the name may hold no slash."""
    if "/" in secret or f"{secret}.json" == keys.FILE_NAME:
        raise SecretError(f"secret {secret}: expected a file name other than {keys.FILE_NAME}, without a slash")
    return f"{secret}.json"


def reference(secret: str, directory: str = DIRECTORY) -> dict[str, Any]:
    """What a cluster says to use the secret: Envoy reads it again whenever the directory is swapped."""
    source = {"path": f"{directory}/{file_name(secret)}", "watched_directory": {"path": directory}}
    return {"name": secret, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def placeholder(secret: str, roots: str | None = None) -> str:
    """An SDS file that can be loaded and opens nothing: for checking a configuration without its secrets.
    `roots` is a PEM file for a validation context; None: the secret is a header's value."""
    if roots is not None:
        return canonical_json(_resource(secret, {"validation_context": {"trusted_ca": {"filename": roots}}}))
    return canonical_json(_resource(secret, {"generic_secret": {"secret": {"inline_string": "none"}}}))


def _sds(secret: ir.UpstreamSecret, value: str) -> str:
    if secret.scheme == "ca":
        return canonical_json(
            _resource(secret.name, {"validation_context": {"trusted_ca": {"inline_string": value}}})
        )
    value = value.strip()  # files and `kubectl create secret --from-file` end in a newline
    if not value or not value.isprintable():
        raise SecretError(
            f"{_place(secret.source)}: expected one line of printable characters, got "
            + ("an empty value" if not value else "a control character; write the value without line breaks")
        )
    match secret.scheme:
        case "bearer":
            value = f"Bearer {value}"
        case "basic":
            value = _basic(secret.username, value)
        case "basic-user":
            # "Provide your API key as the basic auth username value. You don't need to provide a password."
            # -- docs.stripe.com/api/authentication
            value = _basic(value, "")
        case "raw":
            pass
        case _:
            raise SecretError(
                f"secret {secret.name}: scheme: expected raw, bearer, basic, basic-user or ca, got {secret.scheme}"
            )
    return canonical_json(_resource(secret.name, {"generic_secret": {"secret": {"inline_string": value}}}))


def _basic(user: str, password: str) -> str:
    """The value of an Authorization header, RFC 7617."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


def _resource(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    secret = {"@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.Secret", "name": name, **body}
    return {"resources": [secret]}


def _place(source: ir.SecretSource) -> str:
    return f"{source.namespace}/{source.name}/{source.key}"
