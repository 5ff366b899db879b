"""docs/reference.md names every field the parsers know, and no other; and every command and its options."""

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import GetPydanticSchema
from pydantic.alias_generators import to_camel

from mpp_operator import cli, gateway, paidservice

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

#: Handed on as it is, or explained once: {name, key}.
LEAVES = (paidservice.Opaque, paidservice.KeyRef)


def fields(kind: type) -> Iterator[str]:
    """The paths below a dataclass of the spec, leaves only: `payment.offers[].name`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name = to_camel(field.name)
        yield from (f"{name}{rest}" for rest in _below(hints[field.name]))


def _below(hint: Any) -> set[str]:
    """What may follow a field of this type; "" where it is a leaf."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if any(isinstance(mark, GetPydanticSchema) for mark in hint.__metadata__):  # a mapping, kept as pairs
            value = typing.get_args(arguments[0])[0]
            return {f".*{rest}" for rest in _below(typing.get_args(value)[1])}
        return _below(arguments[0])
    if origin in (types.UnionType, typing.Union):
        found = [below for argument in arguments if argument is not type(None) for below in _below(argument)]
        return set(found) or {""}
    if origin is tuple:
        return {rest if rest == "" else f"[]{rest}" for rest in _below(arguments[0])}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint not in LEAVES:
        return {f".{path}" for path in fields(hint)}
    return {""}


def documented(heading: str) -> set[str]:
    """The paths in the first column of the tables under a heading."""
    text = REFERENCE.read_text()
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {
        path
        for cell in re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
        for path in re.findall(r"`([^`]+)`", cell)
    }


def test_the_reference_names_every_field_of_a_paidservice() -> None:
    assert documented("PaidService") == set(fields(paidservice.Spec))


def test_the_reference_names_every_field_of_gateway_yaml() -> None:
    known = {re.sub(r"^(defaults\.offers)\[\].*", r"\1", path) for path in fields(gateway._Document)}

    assert documented("gateway.yaml") == known  # an offer is the same in both


def _options() -> set[str]:
    parser = cli._parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {
        option
        for command in commands.choices.values()
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }


@pytest.mark.parametrize("option", sorted(_options()))
def test_the_reference_names_every_option(option: str) -> None:
    assert f"`{option}" in REFERENCE.read_text()
