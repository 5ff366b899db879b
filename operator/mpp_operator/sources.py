"""Files in, one compilation out: what `run` and `compile` share. Reads files; decides nothing about prices.

Every problem is one line: `file: namespace/name: field: what was expected, what was found`.
"""

import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml

from mpp_operator import compiler, console, gateway, ir, local_secrets, paidservice, status
from mpp_operator.discovery import descriptions
from mpp_operator.document import kind, plain

#: An address that PostgreSQL's own tools take. What is behind the scheme is for them to judge.
_POSTGRES: Final = re.compile(r"postgres(ql)?://[\x21-\x7e]+")

#: One problem of a condition's message ends where the next one's field begins.
_NEXT_PROBLEM: Final = re.compile(r"; (?=spec\b|metadata\b)")


@dataclass(frozen=True, slots=True)
class Sources:
    """What the files say. `places` tells which file a service came from."""

    services: tuple[paidservice.PaidService, ...]
    config: gateway.GatewayConfig
    names_keys: bool  # gateway.yaml says where the signing keys are
    places: Mapping[compiler.Key, str]
    config_file: Path | None
    #: What `openapiFrom` led to, as far as it led anywhere.
    documents: compiler.Documents = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """Sources that are all accepted, with their artifacts and the secrets these need."""

    sources: Sources
    compilation: compiler.Compilation
    values: Mapping[ir.SecretSource, str]

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each thing that is served, but not as its author meant it."""
        lines = [
            f"{self.sources.places[key]}: {'/'.join(key)}: {line}"
            for key, conditions in self.compilation.conditions.items()
            for condition in conditions
            if condition.type is status.ConditionType.DESCRIBED and not condition.status
            for line in _NEXT_PROBLEM.split(condition.message)
        ]
        return (*lines, *self.compilation.warnings)


def expand(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Files as they are; of a folder, its `.yaml` and `.yml` files by name.

    Raises:
        Failure: a path is neither, or a folder holds none.
    """
    files: list[Path] = []
    for path in paths:
        if str(path) == "-":
            raise console.Failure(
                console.WRONG_INPUT,
                "-: expected the name of a file or folder; compile reads the standard input as /dev/stdin",
            )
        try:
            if not path.is_dir():
                files.append(path)
                continue
            entries = sorted(path.iterdir())
            found = [entry for entry in entries if entry.suffix in (".yaml", ".yml") and entry.is_file()]
        except OSError as error:
            raise console.Failure(
                console.WRONG_INPUT, f"{path}: expected a file or a folder we can read, got: {error.strerror}"
            ) from error
        if not found:
            raise console.Failure(
                console.WRONG_INPUT,
                f"{path}: expected a file, or a folder with .yaml files in it (not in folders below it), got none",
            )
        files += found
    return tuple(dict.fromkeys(files))


def load(files: Collection[Path], config_file: Path | None, overrides: Mapping[str, Any] | None = None) -> Sources:
    """Read and parse everything. `overrides` are put over gateway.yaml's fields, one level deep.

    Raises:
        Failure: with every problem of every file.
    """
    problems: list[str] = []
    services: dict[compiler.Key, paidservice.PaidService] = {}
    places: dict[compiler.Key, str] = {}
    config_maps: dict[tuple[str, str], Mapping[str, str]] = {}
    for file in files:
        for document in _documents(file, problems):
            if isinstance(document, Mapping) and document.get("kind") == "ConfigMap":
                _add_config_map(file, document, config_maps, problems)
                continue
            if isinstance(document, Mapping) and "openapi" in document and "kind" not in document:
                continue  # an API's description beside the PaidService that names it
            try:
                service = paidservice.parse(document)
            except paidservice.SpecError as error:
                problems += _told(file, document, error)
                continue
            if service.key in services:
                first = places[service.key]
                where = "twice in the same file" if first == str(file) else f"also in {first}"
                problems.append(
                    f"{file}: {'/'.join(service.key)}: metadata.name: expected each service once, got it {where}"
                )
                continue
            services[service.key] = service
            places[service.key] = str(file)
    document = _config_document(config_file, problems)
    config = gateway.GatewayConfig()
    try:
        config = gateway.parse(_over(document, overrides or {}))
    except paidservice.SpecError as error:
        if document.get("kind") == paidservice.KIND:
            problems.append(f"{config_file}: expected gateway.yaml's fields, got a PaidService: name it with -f")
        else:
            problems += [f"{config_file or 'gateway.yaml'}: {problem}" for problem in error.problems]
    if not services and not problems:
        problems.append(f"{', '.join(map(str, files))}: expected at least one PaidService, got none")
    if problems:
        raise console.Failure(console.WRONG_INPUT, *problems)
    found = {
        service.key: _description(service, Path(places[service.key]), config_maps) for service in services.values()
    }
    return Sources(
        tuple(services.values()),
        config,
        "challengeKeys" in document,
        places,
        config_file,
        {key: description for key, description in found.items() if description is not None},
    )


def config(file: Path) -> gateway.GatewayConfig:
    """gateway.yaml alone.

    Raises:
        Failure: with every problem.
    """
    problems: list[str] = []
    document = _config_document(file, problems)
    try:
        found = gateway.parse(document)
    except paidservice.SpecError as error:
        problems += [f"{file}: {problem}" for problem in error.problems]
    if problems:
        raise console.Failure(console.WRONG_INPUT, *problems)
    return found


def secret_sources(sources: Sources) -> tuple[ir.SecretSource, ...]:
    """Every Secret's key these sources need, the signing keys included where gateway.yaml names them."""
    found = {ref for service in sources.services for ref in compiler.refs(service)}
    found |= set(compiler.gateway_refs(sources.config))
    found |= {_as_secret(source) for source in _recipient_sources(sources)}
    if sources.names_keys:
        found |= set(key_sources(sources))
    if sources.config.postgres is not None:
        found.add(_store_source(sources.config, sources.config.postgres))
    return tuple(sorted(found, key=lambda s: (s.namespace, s.name, s.key)))


def key_sources(sources: Sources) -> tuple[ir.SecretSource, ...]:
    """The signing keys that gateway.yaml names, in its order."""
    config = sources.config
    return tuple(ir.SecretSource(config.namespace, ref.name, ref.key) for ref in config.challenge_keys)


def ledger_address(sources: Sources, values: Mapping[ir.SecretSource, str], default: Path) -> str:
    """Where payments are kept, as authz opens it: PostgreSQL where gateway.yaml says so, else a SQLite file, which
    is `default` or named relative to its folder.

    Raises:
        Failure: the Secret holds something else than the address of a PostgreSQL.
    """
    ref = sources.config.postgres
    if ref is None:
        return f"sqlite:{default.parent / (sources.config.sqlite or default.name)}"
    source = _store_source(sources.config, ref)
    address = values[source].strip()
    if not _POSTGRES.fullmatch(address):
        # Not what was found: whatever it is, it may hold a password.
        raise console.Failure(
            console.WRONG_ENVIRONMENT,
            f"secret {source.namespace}/{source.name} key {source.key}: store.postgres.urlFrom: expected one line "
            "like postgresql://user:password@host:5432/database, got something else; "
            "escape what is no letter or digit in a password as %XX",
        )
    return address


def build(sources: Sources, values: Mapping[ir.SecretSource, str]) -> Compiled:
    """Compile. On one machine a service that is not accepted is an error.

    Raises:
        Failure: with a line for each problem of each service.
    """
    recipients = {
        source: values[_as_secret(source)].strip()
        for source in _recipient_sources(sources)
        if _as_secret(source) in values
    }
    compilation = compiler.compile(sources.services, sources.config, recipients, sources.documents)
    problems = [
        f"{sources.places[key]}: {'/'.join(key)}: {line}"
        for key, conditions in compilation.conditions.items()
        for condition in conditions
        if not condition.status and condition.type is not status.ConditionType.DESCRIBED
        for line in _NEXT_PROBLEM.split(condition.message)
    ]
    if problems:
        raise console.Failure(console.WRONG_INPUT, *problems)
    return Compiled(sources, compilation, values)


def secrets(sources: Sources, folder: local_secrets.Folder) -> Mapping[ir.SecretSource, str]:
    """The values of `secret_sources`.

    Raises:
        Failure: with everything that is missing.
    """
    try:
        return local_secrets.resolve(secret_sources(sources), folder)
    except local_secrets.SecretsError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, *error.problems) from error


def recipients_only(sources: Sources, folder: local_secrets.Folder) -> Mapping[ir.SecretSource, str]:
    """The values that artifacts hold themselves: recipients, not credentials.

    Raises:
        Failure: with everything that is missing.
    """
    try:
        return local_secrets.resolve({_as_secret(source) for source in _recipient_sources(sources)}, folder)
    except local_secrets.SecretsError as error:
        raise console.Failure(console.WRONG_ENVIRONMENT, *error.problems) from error


def on_network(sources: Sources, network: str, currencies: Iterable[str], payee: str) -> Sources:
    """The same services with every offer on one (development) network. Who has no fixed recipient is paid at
    `payee`; nobody sponsors fees there."""
    known = tuple(currencies)

    def moved(offer: paidservice.Offer) -> paidservice.Offer:
        return replace(
            offer,
            method="tempo",
            network=network,
            currency=offer.currency if offer.currency in known else known[0],
            recipient=offer.recipient or payee,
            recipient_from=None,
            fee_payer=None,
        )

    def service_moved(service: paidservice.PaidService) -> paidservice.PaidService:
        payment = service.spec.payment
        offers = tuple(map(moved, payment.offers)) if payment.offers else None
        return replace(service, spec=replace(service.spec, payment=replace(payment, offers=offers)))

    default = paidservice.Offer(name="tempo", method="tempo", network=network, currency=known[0], recipient=payee)
    offers = tuple(map(moved, sources.config.offers)) or (default,)
    return replace(
        sources,
        services=tuple(map(service_moved, sources.services)),
        config=replace(sources.config, offers=offers),
    )


# --- files -----------------------------------------------------------------------------------------------

#: Bytes of one file: more than Kubernetes takes of an object, and little enough to be read at each change.
_LONGEST_FILE: Final = 4 * 1024 * 1024
#: Of one document. An alias counts as all it stands for: a few hundred bytes of them can be more than any memory.
_MOST_VALUES: Final = 200_000
_DEEPEST: Final = 100


class _Loader(yaml.SafeLoader):
    """YAML as an API server sees it: dates stay text, and a key that is there twice is an error. So is what has no
    end that a person could have meant."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call] # types-PyYAML leaves it out
            node = super().compose_node(parent, index)
            if node not in self._values:  # it is still being read
                raise _refused("expected no alias inside of what it stands for", alias.start_mark)
            return node
        if self._depth == 0:
            self._values.clear()
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # the same
        if self._depth > _DEEPEST:
            raise _refused(f"expected at most {_DEEPEST} levels, got more", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            values = 1 + sum(self._values[below] for below in _below(node))
            if values > _MOST_VALUES:
                raise _refused(f"expected at most {_MOST_VALUES} values, aliases resolved, got more", mark)
            self._values[node] = values
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            merge = key_node.tag == "tag:yaml.org,2002:merge"  # `<<` stands for keys, and is none
            key = "<<" if merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refused("expected a text as a key, got something else", key_node.start_mark)
            if key in seen:
                raise _refused(f"expected each key once, got {key!r} again", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _below(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return (part for pair in node.value for part in pair)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _documents(file: Path, problems: list[str]) -> list[Any]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST_FILE + 1)
    except OSError as error:
        problems.append(f"{file}: expected a file we can read, got: {error.strerror}")
        return []
    if len(content) > _LONGEST_FILE:
        problems.append(
            f"{file}: expected at most {_LONGEST_FILE >> 20} MiB, got more; put its services into several files"
        )
        return []
    try:
        text = content.decode("utf-8")
        return [document for document in yaml.load_all(text, _Loader) if document is not None]
    except UnicodeDecodeError:
        problems.append(f"{file}: expected UTF-8 text, got other bytes; save it as UTF-8")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.append(
            f"{file}: expected YAML, got: line {line}: the control character #x{ord(text[error.position]):04x}; "
            "remove it"
        )
    except (yaml.YAMLError, ValueError) as error:
        problems.append(f"{file}: expected YAML, got: {_yaml_problem(error)}")
    return []


#: What PyYAML says of common mistakes, and what to do.
_YAML_FIXES: Final = {
    r"character '\\t' that cannot start": "indent with spaces",
    "got '{'": "quote a text that has braces",
    "expected ',' or '": "close what is open, and quote a text that has braces, brackets or commas",
    "expected <block end>": "indent what belongs together alike",
    "unexpected end of stream": "close the quotes",
    "undefined alias": "quote a text that begins with *",
    "constructor for the tag": "write a plain value, without a tag (a text that begins with ! has quotes)",
    "mapping values are not allowed": "quote a text that has a colon",
    "expected alphabetic or numeric character": "quote a text that begins with * or &",
}


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    said = (getattr(error, "problem", None) or str(error) or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, ValueError) and not isinstance(error, yaml.YAMLError):
        said = "a number or a date that is none, or has thousands of digits; write it in quotes"
    fix = next((fix for words, fix in _YAML_FIXES.items() if re.search(words, said)), None)
    return where + (said if said.isprintable() else ascii(said)) + (f"; {fix}" if fix else "")


def _add_config_map(
    file: Path,
    document: Mapping[str, Any],
    config_maps: dict[tuple[str, str], Mapping[str, str]],
    problems: list[str],
) -> None:
    """A ConfigMap beside the PaidServices, as a cluster would have it."""
    title = f"{file}: ConfigMap {_title(document)}"
    metadata, data = document.get("metadata"), document.get("data", {})
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        problems.append(f"{file}: ConfigMap: metadata.name: expected a name, got nothing")
    elif not isinstance(data, Mapping) or not all(isinstance(part, str) for item in data.items() for part in item):
        problems.append(f"{title}: data: expected texts by key (data: {{openapi.yaml: |…}}), got something else")
    else:
        key = str(metadata.get("namespace", "default")), metadata["name"]
        if key in config_maps:
            problems.append(f"{title}: metadata.name: expected each ConfigMap once, got it twice")
        config_maps[key] = data


def _description(
    service: paidservice.PaidService, file: Path, config_maps: Mapping[tuple[str, str], Mapping[str, str]]
) -> str | compiler.Unreadable | None:
    """The text that `openapiFrom` leads to; None: to nothing."""
    source = compiler.document_source(service)
    if source is None:
        return None
    if source.kind == "ConfigMap":
        return config_maps.get((source.namespace, source.name), {}).get(source.key)
    path = file.parent / source.name
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # to open a pipe might take for ever
            return compiler.Unreadable("something that is no file")
        with path.open(encoding="utf-8-sig") as text:
            return text.read(descriptions.MAX_DOCUMENT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        return compiler.Unreadable(error.strerror or type(error).__name__)
    except ValueError:  # UnicodeDecodeError, or a NUL in the name
        return compiler.Unreadable("something else than UTF-8 text")


def _config_document(file: Path | None, problems: list[str]) -> Mapping[str, Any]:
    if file is None:
        return {}
    before = len(problems)
    documents = _documents(file, problems)
    if len(problems) > before:
        return {}
    if len(documents) > 1:
        problems.append(f"{file}: expected one document, got {len(documents)}")
    document = documents[0] if documents else {}
    if not isinstance(document, Mapping):
        problems.append(f"{file}: expected an object, got {kind(document)}")
        return {}
    return document


def _over(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for name, value in overrides.items():
        below = merged.get(name)
        merged[name] = {**below, **value} if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _told(file: Path, document: Any, error: paidservice.SpecError) -> list[str]:
    if not isinstance(document, Mapping):
        return [f"{file}: {problem.message}" for problem in error.problems]
    if document.keys().isdisjoint(("kind", "metadata", "spec")):
        names = [plain(str(name)) for name in document]
        fields = ", ".join([*names[:5], "..."] if len(names) > 5 else names) or "no fields"
        return [f"{file}: expected a PaidService, got {fields}; gateway.yaml is named with --config"]
    problems = error.problems
    given = document.get("kind", paidservice.KIND)
    if isinstance(given, str) and given.lower() != paidservice.KIND.lower():
        # Another kind has other fields: to tell of each would be noise.
        problems = tuple(problem for problem in problems if problem.field == "kind")
    return [f"{file}: {_title(document)}: {problem}" for problem in problems]


def _title(document: Any) -> str:
    metadata = document.get("metadata") if isinstance(document, Mapping) else None
    if not isinstance(metadata, Mapping):
        return "a document without metadata"
    parts = (metadata.get("namespace", "default"), metadata.get("name", "?"))
    return "/".join(plain(part) if isinstance(part, str) else "?" for part in parts)


def _recipient_sources(sources: Sources) -> tuple[compiler.RecipientSource, ...]:
    own = [source for service in sources.services for source in compiler.recipient_sources(service)]
    return (*own, *compiler.gateway_recipient_sources(sources.config))


def _store_source(config: gateway.GatewayConfig, ref: paidservice.KeyRef) -> ir.SecretSource:
    return ir.SecretSource(config.namespace, ref.name, ref.key)


def _as_secret(source: compiler.RecipientSource) -> ir.SecretSource:
    """One machine has no ConfigMaps: both kinds are looked up alike."""
    return ir.SecretSource(source.namespace, source.name, source.key)
