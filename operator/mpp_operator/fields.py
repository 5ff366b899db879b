"""What one field of our YAML may hold: validators that say what was expected, and types made of them.

Shared by PaidService and gateway.yaml. `document` turns what pydantic and these raise into problems by field.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, GetPydanticSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, core_schema

from mpp_operator import addresses, patterns

#: Of every type that is written in YAML: camelCase there, and no field that we do not know.
CONFIG: Final = ConfigDict(
    extra="forbid", alias_generator=to_camel, validate_by_name=False, validate_by_alias=True
)

MAX_HOSTS: Final = 16

#: What a check of an object finds: the field below it ("" is the object), and what was expected and got.
Mistake = tuple[str, str]

_T = TypeVar("_T")


def checked(check: Callable[[_T], Iterable[Mistake]]) -> AfterValidator:
    """A validator of an object whose fields are right: what `check` finds concerns several of them."""

    def refuse(value: _T) -> _T:
        if mistakes := tuple(check(value)):
            raise PydanticCustomError("mistakes", "several mistakes", {"mistakes": mistakes})
        return value

    return AfterValidator(refuse)


def one_of(choices: Mapping[str, object]) -> Iterator[Mistake]:
    """Of these fields an object has exactly one; None is absent."""
    given = [name for name, value in choices.items() if value is not None]
    if len(given) != 1:
        yield "", f"expected exactly one of {', '.join(choices)}, got {' and '.join(given) or 'none'}"


def once(field: str, what: str, values: Iterable[str]) -> Iterator[Mistake]:
    """In a list each value stands once."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            yield field, f"expected each {what} once, got {value!r} again"
        seen.add(value)


def matching(pattern: str, expected: str, longest: int) -> BeforeValidator:
    """A validator of strings that match `pattern` as a whole; its error says what was expected. `pattern` is
    written for RE2 as well: the CRD carries the same one."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: Any) -> str:
        if isinstance(value, str) and len(value) > longest:
            raise expected_error(f"at most {longest} characters")
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise expected_error(expected)
        return value

    return BeforeValidator(check)


def whole_number(least: int, most: int) -> BeforeValidator:
    """A validator of integers within bounds. True is no number."""

    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise expected_error(f"a whole number from {least} to {most}")
        return value

    return BeforeValidator(check)


def duration(least: str, most: str, *, whole_seconds: bool = False) -> BeforeValidator:
    """A validator of durations such as "5m" within bounds, giving seconds."""
    expected = f"a duration from {least} to {most}" + (" in whole seconds" if whole_seconds else "")
    compiled = re.compile(patterns.DURATION, re.ASCII)

    def check(value: Any) -> float:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise expected_error(expected)
        length = milliseconds(value)
        if not milliseconds(least) <= length <= milliseconds(most) or (whole_seconds and length % 1000):
            raise expected_error(expected)
        return length // 1000 if whole_seconds else length / 1000

    return BeforeValidator(check)


def milliseconds(text: str) -> int:
    """A text that matches patterns.DURATION in milliseconds: "1h30m" is 5400000."""
    return sum(int(n) * _DURATION_UNITS[unit] for n, unit in re.findall(r"([0-9]+)(ms|h|m|s)", text))


_DURATION_UNITS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def pairs(key: Any, value: Any, most: int) -> GetPydanticSchema:
    """The schema of a YAML object as sorted pairs: hashable, unlike a dict."""

    def freeze(mapping: dict[Any, Any]) -> tuple[tuple[Any, Any], ...]:
        if len(mapping) > most:
            raise expected_error(f"at most {most} fields")
        return tuple(sorted(mapping.items()))

    return GetPydanticSchema(
        lambda _source, handler: core_schema.no_info_after_validator_function(
            freeze, handler.generate_schema(dict[key, value])
        )
    )


def expected_error(expected: str) -> PydanticCustomError:
    """What a validator raises: `expected` completes "expected ..."."""
    return PydanticCustomError("expected", "{expected}", {"expected": expected})


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise expected_error("true or false")
    return value


def _instant(value: Any) -> int:
    """A moment as Unix seconds. PyYAML has already read an unquoted one."""
    if isinstance(value, str) and re.fullmatch(patterns.INSTANT, value, re.ASCII):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise expected_error("a date that exists") from error
    if not isinstance(value, datetime):
        raise expected_error("an RFC 3339 time such as 2026-01-01T00:00:00Z")
    return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())


def _well_typed(value: str) -> str:
    if addresses.mistyped(value):
        raise expected_error(addresses.EXPECTED)
    return value


Boolean = Annotated[bool, BeforeValidator(_boolean)]
Instant = Annotated[int, BeforeValidator(_instant)]
Label = Annotated[
    str, matching(patterns.LABEL, "a name of lower-case letters, digits and hyphens, at most 63", 63)
]
ObjectName = Annotated[str, matching(patterns.OBJECT_NAME, "the name of a Kubernetes object", 253)]
Host = Annotated[str, matching(patterns.HOST, "a host name in lower case, without port or wildcard", 253)]
HeaderName = Annotated[str, matching(patterns.HEADER_NAME, "a header name", 128)]
Decimal = Annotated[str, matching(patterns.DECIMAL, 'a decimal string such as "0.05" (in quotes)', 64)]
BaseUnits = Annotated[str, matching(patterns.BASE_UNITS, 'whole base units such as "50000" (in quotes)', 38)]
Address = Annotated[
    str, matching(patterns.ADDRESS, "an 0x address of 40 hexadecimal digits", 42), AfterValidator(_well_typed)
]
Currency = Annotated[
    str, matching(patterns.CURRENCY, "a currency's symbol or its 0x address", 64), AfterValidator(_well_typed)
]
Link = Annotated[str, matching(patterns.LINK, "an http or https URL", 2048)]
Origin = Annotated[str, matching(patterns.ORIGIN, '"*" or an origin such as "https://app.example.com"', 256)]
Title = Annotated[str, matching(patterns.LINE, "a line of text (in quotes)", 120)]
Description = Annotated[str, matching(r"(?s).*", "text (in quotes)", 2000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRef:
    """A key of a Secret or ConfigMap in the PaidService's own namespace."""

    __pydantic_config__ = CONFIG
    name: ObjectName
    key: Annotated[str, matching(patterns.SECRET_KEY, "a key of letters, digits, '-', '_' and '.'", 253)]
