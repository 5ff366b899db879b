"""From an API's own description (OpenAPI 3.0 or 3.1) to a PaidService that serves just what is described. Pure:
no file, no network. `operations` finds what can be served, `text` writes it down.

What is not said in a description (the price, who is paid, the upstream's key) is in `Terms`, or left to the author
by a note.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpp_operator import compiler, gateway, paidservice, patterns
from mpp_operator.compiler import services
from mpp_operator.discovery import descriptions, fragments
from mpp_operator.document import shown
from mpp_operator.importing import operations
from mpp_operator.importing.operations import Operation
from mpp_operator.paidservice import routes as paid_routes
from mpp_operator.status import Problem

#: More than this of parameters, bodies and answers is read from the description's file instead.
MAX_INLINE_BYTES: Final = 16 * 1024
#: Stands for a recipient that is looked up later: whether all else compiles does not hang on it.
_SOMEBODY: Final = "0x" + "1" * 40
_MAX_TITLE: Final = 120
_MAX_DESCRIPTION: Final = 2000


class ImportingError(ValueError):
    """No PaidService can be made of this. One line for each reason: field, expected, got, the fix."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the author says beside the description. `only` and `free` are selectors (`operations.selector`)."""

    price: str  # units of the currency
    currency: str = "pathUSD"
    network: str = "moderato"
    recipient: str | None = None  # None: looked up as RECIPIENT_ADDRESS
    upstream: str | None = None  # None: the description's first server
    name: str | None = None  # None: from the title
    namespace: str = "default"
    hosts: tuple[str, ...] = ()
    only: tuple[str, ...] = ()  # (): everything
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Imported:
    """A PaidService as YAML holds it, what its author must know, and what may be added to it."""

    document: Mapping[str, Any]
    notes: tuple[str, ...]
    hints: tuple[str, ...]
    paid: int
    free: int


def service(text: str, terms: Terms, file: str) -> Imported:
    """The PaidService of a description. `file` is where the PaidService will find it, for `discovery.openapiFrom`.

    Raises:
        ImportingError: with every problem found.
    """
    if problems := tuple(_term_problems(terms)):
        raise ImportingError(*problems)
    description = _read(text)
    notes: list[str] = []
    reader = fragments.Reader(description, "")
    found = operations.find(description, reader, notes)
    notes += _taken_notes(reader)
    chosen, free = _chosen(found, terms, notes)
    told = _told(chosen, reader)
    info = description.get("info")
    spec = {
        **_information(description, info if isinstance(info, Mapping) else {}, notes),
        **({"hosts": list(terms.hosts)} if terms.hosts else {}),
        "upstream": {"url": terms.upstream or _server(description, notes)},
        "payment": {"offers": [_offer(terms)]},
        **({"discovery": {"openapiFrom": {"file": file}}} if told is None else {}),
        "routes": [
            _route(operation, name, terms, free=operation in free, told=told[operation] if told else None)
            for operation, name in zip(chosen, _names(chosen), strict=True)
        ],
    }
    notes += _taken_notes(reader) if told is not None else ()  # else `compile` says them
    notes += _given_away(chosen, free)
    if streaming := [operation.place for operation in chosen if operation.streaming]:
        notes.append(f"{', '.join(streaming)}: streaming: true, for its server-sent events")
    document = {
        "apiVersion": paidservice.API_VERSION,
        "kind": paidservice.KIND,
        "metadata": {"name": terms.name or _name(spec.get("title", "")), "namespace": terms.namespace},
        "spec": spec,
    }
    _check(document, text, terms)
    return Imported(
        document, tuple(notes), tuple(_hints(description)), paid=len(chosen) - len(free), free=len(free)
    )


def _read(text: str) -> Mapping[str, Any]:
    try:
        description = descriptions.read(text)
    except descriptions.DocumentError as error:
        fix = "; convert it first, with `npx swagger2openapi` for example" if "got swagger 2" in str(error) else ""
        raise ImportingError(f"{error}{fix}") from error
    if not re.fullmatch(r"3\.[01]\..*", str(description["openapi"])):
        raise ImportingError(f'openapi: expected "3.0.…" or "3.1.…", got {shown(description["openapi"])}')
    return description


def _taken_notes(reader: fragments.Reader) -> list[str]:
    """What the reader left out since it was asked last."""
    notes = [f"{note.field}: {note.message}" for note in reader.notes]
    reader.notes.clear()
    return notes


def _term_problems(terms: Terms) -> Iterator[str]:
    if not re.fullmatch(patterns.DECIMAL, terms.price, re.ASCII):
        yield f'--price: expected a decimal string such as "0.05", got {shown(terms.price)}'
    for option, texts in (("--only", terms.only), ("--free", terms.free)):
        for text in texts:
            if operations.selector(text) is None:
                yield (
                    f"{option}: expected a path such as /pets/{{id}} or /pets/**, with a method before it as in "
                    f"'GET /pets', or tag:NAME, got {shown(text)}"
                )


def _chosen(
    found: Sequence[Operation], terms: Terms, notes: list[str]
) -> tuple[tuple[Operation, ...], frozenset[Operation]]:
    """The operations to serve, and the free ones among them."""
    if not found:
        nothing = "paths: expected at least one operation that a route can serve, got none"
        raise ImportingError(nothing, *notes)
    chosen = tuple(o for o in found if not terms.only or _taken(o, terms.only))
    free = frozenset(o for o in chosen if _taken(o, terms.free))
    unused = [
        f"{option}: expected a pattern that takes an operation of the description, got {shown(text)}"
        for option, texts, among in (("--only", terms.only, found), ("--free", terms.free, chosen))
        for text in texts
        if not any(_taken(operation, (text,)) for operation in among)
    ]
    if unused:
        raise ImportingError(*unused)
    if len(chosen) > paidservice.MAX_ROUTES:
        raise ImportingError(
            f"paths: expected at most {paidservice.MAX_ROUTES} operations for one PaidService, got {len(chosen)}; "
            f"write several, each with --name and --only: {_ways_to_split(chosen)}"
        )
    # What is priced comes first where two take the same request and neither is narrower.
    return operations.ordered(sorted(chosen, key=free.__contains__)), free


def _given_away(chosen: Sequence[Operation], free: frozenset[Operation]) -> Iterator[str]:
    """Requests that a free route takes, and a priced one below it would take as well."""
    for at, one in enumerate(chosen):
        below = [other for other in chosen[at + 1 :] if other not in free and other.method == one.method]
        meeting = [other.place for other in below if operations.ambiguous(one.pattern, other.pattern)]
        if one in free and meeting:
            yield f"{one.place}: free, also for what {', '.join(meeting)} would take: order these yourself"


def _taken(operation: Operation, texts: Sequence[str]) -> bool:
    selectors = [found for text in texts if (found := operations.selector(text))]
    return any(one.takes(operation) for one in selectors)


def _ways_to_split(chosen: Sequence[Operation]) -> str:
    """The commonest tags, or first segments, as selectors."""
    tags = Counter(f"tag:{operation.tags[0]}" for operation in chosen if operation.tags)
    firsts = Counter(
        f"/{segment}/**" for o in chosen if (segment := o.path.split("/")[1]) and segment[0] not in "{"
    )
    ways = tags if tags.total() == len(chosen) else firsts
    shown_ways = [f"--only {shown(way)} ({count})" for way, count in ways.most_common(4)]
    return ", ".join(shown_ways) or "--only '/first/**'"


def _told(chosen: Sequence[Operation], reader: fragments.Reader) -> Mapping[Operation, Mapping[str, Any]] | None:
    """What each route says of itself in discovery documents: `routes[].openapi`. None: it refers to other parts of
    the description, or is too long for people to read; then the description's file says it."""
    told = {operation: _openapi(operation, reader) for operation in chosen}
    size = sum(len(fragments.canonical(openapi)) for openapi in told.values())
    return None if reader.components() or size > MAX_INLINE_BYTES else told


def _openapi(operation: Operation, reader: fragments.Reader) -> Mapping[str, Any]:
    raw, place = operation.raw, operation.place
    openapi: dict[str, Any] = {}
    if summary := _line(operation.summary, _MAX_TITLE):
        openapi["summary"] = summary
    identity = operation.operation_id
    if len(identity) <= _MAX_TITLE and re.fullmatch(patterns.OPERATION_ID, identity, re.ASCII):
        openapi["operationId"] = identity
    if tags := [line for tag in operation.tags[: paid_routes.MAX_TAGS] if (line := _line(tag, _MAX_TITLE))]:
        openapi["tags"] = tags
    parameters = reader.parameters(operation.parameters, f"{place}.parameters")
    name = descriptions.template_name
    if parameters := [p | {"name": name(p["name"])} if p["in"] == "path" else p for p in parameters]:
        openapi["parameters"] = parameters[: paid_routes.MAX_PARAMETERS]
    if "requestBody" in raw and (body := reader.request_body(raw["requestBody"], f"{place}.requestBody")):
        openapi["requestBody"] = body
    if "responses" in raw and (responses := reader.responses(raw["responses"], f"{place}.responses")):
        openapi["responses"] = responses
    return openapi


def _route(
    operation: Operation, name: str | None, terms: Terms, *, free: bool, told: Mapping[str, Any] | None
) -> dict[str, Any]:
    route: dict[str, Any] = {} if name is None else {"name": name}
    route["match"] = {"method": operation.method, "path": operation.path}
    route |= {"free": True} if free else {"price": {"amount": terms.price}}
    if operation.streaming:
        route["streaming"] = True
    if told:
        route["openapi"] = dict(told)
    return route


def _names(chosen: Sequence[Operation]) -> Iterator[str | None]:
    """A name for each route whose derived name another has, too. It hangs on its own path alone: it stays."""
    derived = [paid_routes.derived_name(_match(operation)) for operation in chosen]
    times = Counter(derived)
    for operation, name in zip(chosen, derived, strict=True):
        digest = hashlib.sha256(operation.path.encode()).hexdigest()[:8]
        yield f"{name[:54].rstrip('-')}-{digest}" if times[name] > 1 else None


def _match(operation: Operation) -> paidservice.Match:
    return paidservice.Match(method=operation.method, path=operation.path)


def _offer(terms: Terms) -> dict[str, Any]:
    """One way to pay. Whose network it is, and whether it knows the currency, is the compiler's to say."""
    recipient: dict[str, Any] = (
        {"recipient": terms.recipient}
        if terms.recipient is not None
        else {"recipientFrom": {"secretRef": {"name": "recipient", "key": "address"}}}
    )
    return {"method": "tempo", "network": terms.network, "currency": terms.currency, **recipient}


def _information(description: Mapping[str, Any], info: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Title, description, version and links, as far as they fit."""
    told: dict[str, Any] = {}
    if title := _line(info.get("title"), _MAX_TITLE):
        told["title"] = title
    about = info.get("description")
    if isinstance(about, str) and about.strip():
        told["description"] = about.strip()[:_MAX_DESCRIPTION]
        if len(about.strip()) > _MAX_DESCRIPTION:
            notes.append(f"info.description: cut after {_MAX_DESCRIPTION} characters")
    version = info.get("version")
    if isinstance(version, str) and len(version) <= 64 and re.fullmatch(patterns.VERSION, version):
        told["version"] = version
    elif version is not None:
        notes.append(f"info.version: expected a word of at most 64 characters, got {shown(version)}: left out")
    external = description.get("externalDocs")
    link = external.get("url") if isinstance(external, Mapping) else None
    if isinstance(link, str) and len(link) <= 2048 and re.fullmatch(patterns.LINK, link):
        told["docs"] = {"homepage": link}
    return told


def _server(description: Mapping[str, Any], notes: list[str]) -> str:
    """The upstream's URL by the description's first server."""
    url = descriptions.first_server(description)
    if url is None:
        raise ImportingError(
            "servers[0].url: expected the API's URL, got nothing: say it with --upstream https://…"
        )
    if not url.startswith("https://") or not re.fullmatch(patterns.URL, url, re.ASCII):
        raise ImportingError(
            f"servers[0].url: expected an https URL without query, got {shown(url)}: say where the API is with "
            f"--upstream, as in --upstream https://api.example.com{url if url.startswith('/') else ''}"
        )
    servers = description["servers"]
    if len(servers) > 1:
        notes.append(f"servers: {len(servers)} of them; the upstream is the first, {url}")
    return url


def _name(title: str) -> str:
    """A service's name from a title: "Swagger Petstore - OpenAPI 3.1" is swagger-petstore-openapi-3-1."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:63].rstrip("-")
    return name or "api"


def _line(value: Any, longest: int) -> str:
    """A text as one line of at most `longest` characters."""
    if not isinstance(value, str):
        return ""
    line = " ".join("".join(c if c >= " " else " " for c in value).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _check(document: Mapping[str, Any], text: str, terms: Terms) -> None:
    """See that what is written compiles. A network that only gateway.yaml knows is left to `compile`."""
    try:
        parsed = paidservice.parse(document)
    except paidservice.SpecError as error:
        raise ImportingError(*_told_problems(error.problems)) from error
    config = gateway.GatewayConfig()
    if config.network(terms.network) is None:
        return
    recipients = tuple((source, _SOMEBODY) for source in compiler.recipient_sources(parsed))
    piece = services.lower(parsed, config, gateway.ANYTHING, recipients, text)
    if problems := piece.problems or piece.unresolved:
        raise ImportingError(*_told_problems(problems))


#: Which option decides a field.
_OPTIONS: Final = (
    (r"metadata\.name", "--name"),
    (r"metadata\.namespace", "--namespace"),
    (r"spec\.basePath", "--name"),
    (r"spec\.hosts", "--host"),
    (r"spec\.upstream", "--upstream"),
    (r"spec\.payment\.offers\[0\]\.network", "--network"),
    (r"spec\.payment\.offers\[0\]\.currency", "--currency"),
    (r"spec\.payment\.offers\[0\]\.recipient", "--recipient"),
    (r"spec\.routes\[[0-9]+\]\.price", "--price"),
)


def _told_problems(problems: Sequence[Problem]) -> Iterable[str]:
    """One line each, by the option that mends it, or the field where there is none. Every route has one price:
    what is wrong with it is said once."""
    return dict.fromkeys(f"{_option(problem.field)}: {problem.message}" for problem in problems)


def _option(field: str) -> str:
    return next((option for start, option in _OPTIONS if re.match(rf"{start}(?![A-Za-z])", field)), field)


def _hints(description: Mapping[str, Any]) -> Iterator[str]:
    """How the upstream may be told who we are: lines for the author, who alone knows whose key it is."""
    components = description.get("components")
    schemes = components.get("securitySchemes") if isinstance(components, Mapping) else None
    if not isinstance(schemes, Mapping):
        return
    ref = "secretRef: {name: upstream, key: api-key}"
    for name, scheme in schemes.items():
        kind = scheme.get("type") if isinstance(scheme, Mapping) else None
        match kind, str(scheme.get("scheme", "")).lower() if isinstance(scheme, Mapping) else "", _place(scheme):
            case "http", "bearer", _:
                fix = f"auth: {{bearer: {{{ref}}}}}"
            case "http", "basic", _:
                fix = f"auth: {{basic: {{username: …, {ref}}}}}"
            case "apiKey", _, ("header", str() as header) if re.fullmatch(patterns.HEADER_NAME, header):
                fix = f"auth: {{apiKey: {{header: {header}, {ref}}}}}"
            case _:
                fix = ""
        if fix:
            yield f"security scheme {shown(name)}: for a key of yours, put under spec.upstream: {fix}"
        else:
            yield f"security scheme {shown(name)} ({shown(kind)}): the gateway cannot put it in, callers send it"
    yield (
        "where callers send an Authorization header of their own, put under spec.payment: "
        "credentialHeader: Payment-Authorization"
    )


def _place(scheme: Any) -> tuple[Any, Any]:
    return (scheme.get("in"), scheme.get("name")) if isinstance(scheme, Mapping) else (None, None)
