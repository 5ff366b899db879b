"""/llms.txt: what is for sale, in Markdown for language models and people (llmstxt.org).

What authors wrote stays on its line and is text there: it makes no heading, link, list or HTML of its own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mpp_operator.discovery import listed, openapi, prices

#: What Markdown reads as the begin or end of code, a link or HTML, and the character that would undo an escape.
_MARKS: Final = re.compile(r"([\\`\[\]<>])")
#: What Markdown reads as a block, at the start of a line.
_BLOCK: Final = re.compile(r"^([0-9]*)([#+*|~=_:.)-])")

_STEPS: Final = (
    "1. Send the request without payment. The answer is 402, with a `WWW-Authenticate: Payment` header for each "
    "way to pay; what that says holds, also where this page says something else.",
    "2. Pay one of them, and send the same request again with the credential in the header that the challenge "
    "names, `Authorization: Payment` unless it names another.",
    "3. A good answer has a `Payment-Receipt` header. After any other, send the same credential again before you "
    "pay anew: what was paid and not delivered is owed to you.",
)

_LINKS: Final = {"homepage": "Homepage", "apiReference": "API reference", "llms": "More for language models"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one service gives to a document."""

    endpoints: str  # lines
    ways: tuple[tuple[str, str, str], ...]  # of paying for them


def part(service: listed.Service) -> Part:
    """What `service` gives to a document, whether it shares it or not."""
    ways = prices.ways(o.route.price for o in service.operations if o.route.price)
    return Part("\n".join(_endpoints(service)), ways)


def added_bytes(service: listed.Service) -> int:
    """At most so many bytes longer is what `service` has in a document that it shares: its entry in the list of
    services, and its title in each place that says whose that is."""
    title = len(line(service.listing.title).encode("utf-8", "replace"))
    places = 3 + len(service.listing.docs)  # what the host says of itself, the list, the endpoints, links
    return places * (title + len("Endpoints of ")) + len(f"- []({service.base_path}{listed.LLMS}): ")


def render(services: Sequence[listed.Service], parts: Sequence[Part], base: str) -> str:
    """The text for `services`, made of their `parts`, at `base` + "/llms.txt"."""
    return "\n".join(_lines(services, parts, base)) + "\n"


def _lines(services: Sequence[listed.Service], parts: Sequence[Part], base: str) -> Iterator[str]:
    info = openapi.info(services)
    yield f"# {line(info['title'])}"
    if "description" in info:
        yield from ("", f"> {line(info['description'])}")
    if len(services) > 1:
        yield from ("", "## Services", "")
        for service in services:
            said = f": {line(service.listing.description)}" if service.listing.description else ""
            yield f"- [{line(service.listing.title)}]({service.prefix}{listed.LLMS}){said}"
    for service, part in zip(services, parts, strict=True):
        heading = f"Endpoints of {line(service.listing.title)}" if len(services) > 1 else "Endpoints"
        yield from ("", f"## {heading}", "", part.endpoints)
    if ways := sorted({way for part in parts for way in part.ways}):
        yield from _how_to_pay(ways)
    yield from ("", "## Links", "", f"- [OpenAPI description]({base}{listed.OPENAPI})")
    if not base:
        yield f"- [All services as JSON]({listed.SERVICES})"
    for service in services:
        of = f" of {line(service.listing.title)}" if len(services) > 1 else ""
        yield from (f"- [{_LINKS[name]}{of}]({_target(uri)})" for name, uri in service.listing.docs)


def _endpoints(service: listed.Service) -> Iterator[str]:
    """A line for each route at each path that it is listed with, with all methods that say the same there."""
    methods: dict[tuple[str, str], list[str]] = {}
    for operation in service.operations:
        methods.setdefault((operation.path, _about(operation, service)), []).append(operation.method)
    for (path, about), found in methods.items():
        yield f"- `{', '.join(found)} {path}`: {about}"


def _about(operation: listed.Operation, service: listed.Service) -> str:
    described, price = operation.described, operation.route.price
    said = line(described.summary or described.description or "")
    about = f"{said}{'' if said.endswith(('.', '!', '?')) else '.'} " if said else ""
    if price is None:
        return f"{about}Free."
    costs = " or ".join(
        f"{prices.words(offer, service.listing)} ({offer.method} {offer.intent}, "
        f"{offer.amount} base units of {offer.currency})"
        for offer in price.offers
    )
    return f"{about}Price: {costs}."


def _how_to_pay(ways: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    named = ", ".join(f"{method} ({intent}) on {network}" for method, intent, network in ways)
    yield from ("", "## How to pay", "", *_STEPS, "")
    yield f"Payment methods: {named}. Protocol and clients: <https://mpp.dev>."


def line(text: str) -> str:
    """`text` on one line, as text that Markdown leaves alone."""
    # No line ends, no signs that turn the direction of text, no half characters.
    flat = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _BLOCK.sub(r"\1\\\2", _MARKS.sub(r"\\\1", flat))


def _target(uri: str) -> str:
    """A URI as the target of a link."""
    return uri.replace("\\", "%5C").replace("(", "%28").replace(")", "%29").replace("<", "%3C").replace(">", "%3E")
