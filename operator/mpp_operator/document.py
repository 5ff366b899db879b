"""From a YAML document to a type of ours, or to a problem for every mistake in it, by its field.

Knows pydantic's errors and YAML's traps, none of our documents.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mpp_operator.status import Problem, Reason

#: Characters of a name that are shown.
_LONGEST_NAME: Final = 80

_T = TypeVar("_T")


class SpecError(ValueError):
    """The author of the YAML made mistakes: all of them, by field."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


def validated(adapter: TypeAdapter[_T], value: Any, field: str, problems: list[Problem]) -> _T | None:
    """`value` through `adapter`; what is wrong with it goes to `problems`."""
    problems += key_problems(value, field)
    found, stripped = _without_nulls(value, field)
    problems += found
    try:
        return adapter.validate_python(stripped)
    except ValidationError as error:
        known = {problem.field for problem in found}
        problems += [problem for problem in _told(error, field) if problem.field not in known]
        return None


def key_problems(value: Any, field: str = "") -> Iterator[Problem]:
    """Keys that are no strings.

    YAML 1.1, which PyYAML and kubectl read, makes a boolean of an unquoted `on`. That is not forgiven here, not
    even in `retries`, where it can only mean one thing: kubectl hands it on as `true`, which the API server
    refuses or, asked to be lenient, drops. The same file must mean the same with and without Kubernetes.
    """
    if isinstance(value, Mapping):
        for key, below in value.items():
            # As kubectl names it: spec.upstream.retries.true
            path = _path(field, [str(key).lower() if isinstance(key, bool) else str(key)])
            if not isinstance(key, str):
                fix = ': YAML reads an unquoted on, off, yes or no as one; write "on" with its quotes'
                message = f"expected a field name in quotes, got {kind(key)}{fix if isinstance(key, bool) else ''}"
                yield invalid(path, message)
            yield from key_problems(below, path)
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):
            yield from key_problems(below, f"{field}[{index}]")


def invalid(field: str, message: str) -> Problem:
    """The problem of a field that is wrong by itself, whatever the gateway's terms are."""
    return Problem(Reason.INVALID_SPEC, field, message)


def shown(value: Any) -> str:
    """A scalar as it was written, shortened; of anything else its kind."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        # ASCII alone: a letter that only looks like another is seen to be one.
        return ascii(value if len(value) <= 80 else value[:77] + "...")
    return kind(value)


def kind(value: Any) -> str:
    """What sort of thing YAML read, without the thing: it may be a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case bytes():
            return "binary data"
        case _:
            return f"a {type(value).__name__}"


def _told(error: ValidationError, field: str) -> list[Problem]:
    """Each thing that pydantic found wrong below `field`."""
    found = error.errors(include_url=False)
    inside = {details["loc"][:end] for details in found for end in range(len(details["loc"]))}
    # A list whose entries are wrong counts as short of them, which tells the author nothing.
    told = [details for details in found if details["type"] != "too_short" or details["loc"] not in inside]
    return [problem for details in told for problem in _problems(details, field)]


_EXPECTED: Final = {
    "dataclass_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "string_type": "a string (in quotes)",
}


def _problems(details: ErrorDetails, field: str) -> Iterator[Problem]:
    loc = [part for part in details["loc"] if part != "[key]"]
    where = _path(field, loc)
    context = details.get("ctx", {})
    match details["type"]:
        case "mistakes":
            for below, message in context["mistakes"]:
                yield invalid(f"{where}.{below}".strip("."), message)
            return
        case "unexpected_keyword_argument":
            yield invalid(where, "unknown field")
            return
        case "missing":
            yield invalid(where, "expected a value, got nothing")
            return
        case "expected" | "literal_error":
            expected = context["expected"]
        case "too_long":
            yield invalid(
                where, f"expected at most {_entries(context['max_length'])}, got {len(details['input'])}"
            )
            return
        case "too_short":
            yield invalid(
                where, f"expected at least {_entries(context['min_length'])}, got {_none(details['input'])}"
            )
            return
        case "dataclass_type" if loc and str(loc[-1]).endswith("Ref"):
            expected = "an object such as {name: …, key: …}"
        case other:
            expected = _EXPECTED.get(other) or details["msg"]
    got = shown(details["input"]) if _PRIVATE.isdisjoint(loc) else kind(details["input"])
    yield invalid(where, f"expected {expected}, got {got}")


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _none(entries: Sized) -> str:
    return str(len(entries) or "none")


def _path(field: str, loc: Iterable[str | int]) -> str:
    for part in loc:
        field += f"[{part}]" if isinstance(part, int) else f".{plain(part)}"
    return field.removeprefix(".")


def plain(name: str) -> str:
    """A name as it may stand in a line for people: one that could break the line, or look like another name, or
    never end, is quoted and cut."""
    if name.isascii() and name.isprintable() and len(name) <= _LONGEST_NAME:
        return name
    return ascii(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "...")


#: Below these somebody may have written a secret by mistake: the value is not repeated.
_PRIVATE: Final = frozenset(
    {
        "auth",
        "caSecretRef",
        "challengeKeys",
        "docs",
        "feePayer",
        "postgres",
        "recipient",
        "recipientFrom",
        "rpcUrl",
        "rpcUrls",
        "secretRef",
        "set",
        "url",
    }
)


#: What lies below is handed on as it is.
_OPAQUE_FIELDS: Final = frozenset({"parameters", "requestBody", "responses"})


def _without_nulls(value: Any, field: str) -> tuple[list[Problem], Any]:
    """`value` less its nulls, and a problem for each: the API server refuses them, too."""
    if isinstance(value, Mapping):
        problems, kept = [], {}
        for key, below in value.items():
            if not isinstance(key, str):
                continue  # see key_problems
            if below is None:
                where = _path(field, [key])
                problems.append(invalid(where, "expected a value or no field at all, got null"))
            elif key in _OPAQUE_FIELDS:
                kept[key] = below
            else:
                found, kept[key] = _without_nulls(below, _path(field, [key]))
                problems += found
        return problems, kept
    if isinstance(value, list | tuple):
        problems, entries = [], []
        for index, below in enumerate(value):
            found, entry = _without_nulls(below, f"{field}[{index}]")
            problems += found
            entries.append(entry)
        return problems, entries
    return [], value
