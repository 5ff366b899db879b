"""Upstreams we know: where they are, how they take their key, which of a client's headers they must not see."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Preset:
    """One known upstream. The key is in Secret `secret`, key `key`, unless the service says otherwise."""

    url: str
    auth: Literal["bearer", "apiKey", "basic"]
    header: str  # that carries the credential, lower case
    secret: str
    key: str
    remove: tuple[str, ...]  # client headers that choose whose account is used, lower case


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        # https://platform.openai.com/docs/api-reference/authentication
        "openai": Preset(
            url="https://api.openai.com",
            auth="bearer",
            header="authorization",
            secret="openai",  # noqa: S106 -- a Secret's name
            key="api-key",
            remove=("openai-organization", "openai-project"),
        ),
        # https://docs.anthropic.com/en/api/overview: `anthropic-version`, `anthropic-beta` are the caller's.
        "anthropic": Preset(
            url="https://api.anthropic.com",
            auth="apiKey",
            header="x-api-key",
            secret="anthropic",  # noqa: S106 -- a Secret's name
            key="api-key",
            remove=("authorization",),
        ),
        # https://docs.stripe.com/api/authentication: the key is HTTP Basic's user name, the password empty.
        "stripe": Preset(
            url="https://api.stripe.com",
            auth="basic",
            header="authorization",
            secret="stripe",  # noqa: S106 -- a Secret's name
            key="secret-key",
            remove=("stripe-account", "stripe-context"),
        ),
    }
)


def environment_name(secret: str, key: str) -> str:
    """The environment variable that stands for a Secret's key on one machine: openai/api-key is OPENAI_API_KEY."""
    return re.sub(r"[^A-Z0-9]", "_", f"{secret}_{key}".upper())
