"""Envoy's messages in the few shapes that the other modules need. A misspelt field is a ValidationError."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.google import protobuf

#: A list of these is a change of headers.
Mutation = mutation_rules.HeaderMutation
RemoveOnMatch = mutation_rules.HeaderMutationRemoveOnMatch


def packed(message: betterproto2.Message) -> protobuf.Any:
    return protobuf.Any.pack(message)


def extension(name: str, message: betterproto2.Message) -> core.TypedExtensionConfig:
    return core.TypedExtensionConfig(name=name, typed_config=packed(message))


def as_json(message: betterproto2.Message) -> dict[str, Any]:
    """Protobuf's JSON, with the field names of Envoy's documentation."""
    return message.to_dict(casing=betterproto2.Casing.SNAKE)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def struct(fields: Mapping[str, str]) -> protobuf.Struct:
    return protobuf.Struct(fields={name: protobuf.Value(string_value=text) for name, text in fields.items()})


def remove(header: str) -> Mutation:
    return Mutation(remove=header)


def put(header: str, value: str) -> Mutation:
    """Sets the header; a value that comes out empty leaves it as it was."""
    return Mutation(append=put_option(header, value))


def put_option(header: str, value: str) -> core.HeaderValueOption:
    return _option(header, value, core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD)


def add(header: str, value: str) -> Mutation:
    return Mutation(append=add_option(header, value))


def add_option(header: str, value: str) -> core.HeaderValueOption:
    """Adds the header where there is none."""
    return _option(header, value, core.HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT)


def _option(header: str, value: str, action: core.HeaderValueOptionHeaderAppendAction) -> core.HeaderValueOption:
    return core.HeaderValueOption(header=core.HeaderValue(key=header, value=value), append_action=action)
