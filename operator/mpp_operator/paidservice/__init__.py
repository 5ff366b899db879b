"""PaidService: what the author of an API says it costs. Parsed once, frozen; every mistake is named by its field.

Knows the shape and what can be judged from one document alone; what needs the gateway (networks, allow-lists,
other services) is the compiler's. Knows no Envoy, no Kubernetes client, no file. Fields are camelCase in YAML.
Read on in `upstream`, `payment` and `routes`, whose types are this package's too.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from mpp_operator import fields, ir, patterns
from mpp_operator.document import SpecError, invalid, key_problems, kind, plain, shown, validated
from mpp_operator.fields import (
    CONFIG,
    Boolean,
    Description,
    Host,
    Instant,
    KeyRef,
    Label,
    Link,
    Mistake,
    Origin,
    Title,
    checked,
    matching,
    whole_number,
)
from mpp_operator.paidservice.payment import Credit, FeePayer, Offer, Payment, RecipientFrom
from mpp_operator.paidservice.routes import CheckedRoute, Match, Opaque, OpenApi, Price, Route, check_prices
from mpp_operator.paidservice.upstream import CheckedUpstream, Limits, Timeouts, Upstream
from mpp_operator.status import Problem

__all__ = [
    "API_VERSION",
    "KIND",
    "Credit",
    "FeePayer",
    "KeyRef",
    "Limits",
    "Match",
    "Offer",
    "Opaque",
    "OpenApi",
    "OpenApiFrom",
    "PaidService",
    "Payment",
    "Price",
    "RecipientFrom",
    "Route",
    "Spec",
    "SpecError",
    "Timeouts",
    "Upstream",
    "check_prices",
    "parse",
]

API_VERSION: Final = "mpp-gateway.dev/v1alpha1"
KIND: Final = "PaidService"

MAX_ROUTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Docs:
    """Where people and agents read on."""

    __pydantic_config__ = CONFIG
    homepage: Link | None = None
    api_reference: Link | None = None
    llms: Link | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which pages may read the answers. Cookies are never allowed."""

    __pydantic_config__ = CONFIG
    origins: Annotated[tuple[Origin, ...], Field(min_length=1, max_length=16)] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApiFrom:
    """Where the upstream's own OpenAPI document is: exactly one of the two."""

    __pydantic_config__ = CONFIG
    config_map: KeyRef | None = None
    file: Annotated[str, matching(patterns.LINE, "the path of a file", 4096)] | None = (
        None  # from the PaidService's
    )


def _openapi_from(source: OpenApiFrom) -> Iterator[Mistake]:
    return fields.one_of({"configMap": source.config_map, "file": source.file})


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Whether the service is in the discovery documents, and what they take from the upstream's own."""

    __pydantic_config__ = CONFIG
    enabled: Boolean = True
    openapi_from: Annotated[OpenApiFrom, checked(_openapi_from)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The spec, with every default decided that does not depend on the gateway."""

    __pydantic_config__ = CONFIG
    title: Title = ""  # parse: the object's name
    description: Description | None = None
    version: Annotated[str, matching(patterns.VERSION, 'a version such as "1.0.0" (in quotes)', 64)] = "1.0.0"
    categories: Annotated[
        tuple[Annotated[str, matching(patterns.CATEGORY, "lower-case words and hyphens", 32)], ...],
        Field(max_length=5),
    ] = ()
    docs: Docs = Docs()
    hosts: Annotated[tuple[Host, ...], Field(max_length=fields.MAX_HOSTS)] = ()  # (): the gateway's
    base_path: Annotated[str, matching(patterns.BASE_PATH, "a path such as /llm, without a last slash", 256)] = (
        ""  # parse
    )
    upstream: CheckedUpstream
    payment: Payment = Payment()  # noqa: RUF009 -- it is frozen
    routes: Annotated[tuple[CheckedRoute, ...], Field(min_length=1, max_length=MAX_ROUTES)]
    cors: Cors = Cors()
    discovery: Discovery = Discovery()


@dataclass(frozen=True, slots=True)
class PaidService:
    """One object, as its author meant it."""

    namespace: str
    name: str
    spec: Spec
    generation: int = 0
    created: int | None = None  # Unix seconds; None: not from an API server, younger than any that is

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name


def parse(document: Mapping[str, Any]) -> PaidService:
    """Read one PaidService from its YAML or JSON document.

    Raises:
        SpecError: with every problem found. Problems that need more than the object's parts (unique names,
            reserved paths) are only looked for when the parts are right.
    """
    if not isinstance(document, Mapping):
        raise SpecError([invalid("", f"expected an object, got {kind(document)}")])
    problems: list[Problem] = list(
        key_problems({k: v for k, v in document.items() if k not in ("metadata", "spec")})
    )
    for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(name) != expected:
            problems.append(invalid(name, f"expected {expected}, got {shown(document.get(name))}"))
    for name in document:
        if isinstance(name, str) and name not in ("apiVersion", "kind", "metadata", "spec", "status"):
            problems.append(invalid(plain(name), "unknown field"))
    metadata = validated(_METADATA, document.get("metadata", {}), "metadata", problems)
    body = document.get("spec", _MISSING)
    if body is _MISSING:
        raise SpecError([*problems, invalid("spec", "expected an object, got nothing")])
    spec = validated(_SPEC, body, "spec", problems)
    if problems or metadata is None or spec is None:
        raise SpecError(problems)
    if not spec.base_path:
        spec = replace(spec, base_path=f"/{metadata.name}")
        if re.fullmatch(patterns.RESERVED, spec.base_path):
            raise SpecError([invalid("spec.basePath", f"expected one: {spec.base_path!r} is the gateway's own")])
    spec = replace(spec, title=spec.title or metadata.name)
    return PaidService(metadata.namespace, metadata.name, spec, metadata.generation, metadata.creation_timestamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metadata:
    __pydantic_config__ = ConfigDict(
        extra="ignore", alias_generator=to_camel
    )  # labels, managedFields ...: not ours
    name: Label
    namespace: Label = "default"
    generation: Annotated[int, whole_number(0, 2**63 - 1)] = 0
    creation_timestamp: Instant | None = None


def _spec(spec: Spec) -> Iterator[Mistake]:
    yield from fields.once("hosts", "host", spec.hosts)
    yield from fields.once("categories", "category", spec.categories)
    if spec.base_path == "/" and not spec.hosts:
        yield "basePath", "expected hosts of its own beside '/', got none"
    if re.fullmatch(patterns.DOT_SEGMENT, spec.base_path):
        yield "basePath", "expected no '.' or '..' segment"
    if re.fullmatch(patterns.RESERVED, spec.base_path):
        yield "basePath", f"expected a path that is not the gateway's own, got {spec.base_path!r}"
    reserved = patterns.RESERVED if spec.discovery.enabled else patterns.ALWAYS_RESERVED
    names: dict[str, int] = {}
    free: list[tuple[int, set[str], ir.PathPattern]] = []
    for index, route in enumerate(spec.routes):
        field, path = f"routes[{index}]", route.match.path
        if re.fullmatch(reserved, path):
            yield f"{field}.match.path", f"expected a path not the gateway's own, got {path!r}"
        first = names.setdefault(route.name, index)
        if first != index:
            message = f"expected a name unique in the service, got {route.name!r} as routes[{first}]"
            yield f"{field}.name", message
        # The first match wins: such a price would never be asked.
        methods, pattern = set(route.match.methods), route.match.pattern
        if route.free:
            free.append((index, methods, pattern))
            continue
        for above, taken, wide in free:
            if methods <= taken and wide.covers(pattern):
                yield f"{field}.match", f"expected it above routes[{above}], which takes all of it for nothing"
                break
    if spec.payment.offers:
        yield from check_prices(spec.routes, spec.payment.offers)


_METADATA: Final = TypeAdapter(_Metadata)
_SPEC: Final = TypeAdapter(Annotated[Spec, checked(_spec)])
_MISSING: Final = object()
