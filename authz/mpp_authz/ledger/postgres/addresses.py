"""A PostgreSQL address: the hosts it names, and a name for it that may be shown."""

import urllib.parse
from dataclasses import dataclass
from typing import Final

#: What is expected; the address itself is never shown, any part of it may be a password.
EXPECTED: Final = (
    "postgresql://user:password@host:port/database, several hosts with commas, and in user and password "
    "every character but letters, digits and -._~ percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Address:
    """`urls` is one for each host, in the order given: asyncpg's own way through several hosts has one time limit
    for all of them, so that one that hangs would hide the others."""

    name: str  # hosts and database: no user, no password
    urls: tuple[str, ...]
    hosts: tuple[str, ...]  # one for each of `urls`, for messages

    def __repr__(self) -> str:
        return f"Address({self.name!r})"


def parse(url: str) -> Address:
    """Read `postgresql://` or `postgres://`; options after `?` are asyncpg's, without `service`.

    Raises:
        ValueError: it is not one; the message shows nothing of it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        options = urllib.parse.parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        named = parts.scheme in ("postgresql", "postgres") and url.startswith(f"{parts.scheme}://")
    except ValueError:
        raise _unreadable() from None
    authority, _, hostspec = parts.netloc.rpartition("@")
    # Each of these is where the rest of a password ends up that holds a character that is not encoded.
    if not named or parts.fragment or "@" in authority or "@" in parts.path or "service" in options:
        raise _unreadable()
    if hostspec:
        hosts = hostspec.split(",")
        if not all(map(_is_host, hosts)):
            raise _unreadable()
        prefix = f"{authority}@" if authority else ""
        urls = [parts._replace(netloc=prefix + host).geturl() for host in hosts]
    else:
        hosts, urls = _from_options(url, parts, options)
    database = urllib.parse.unquote(parts.path.removeprefix("/")) or options.get("dbname", [""])[-1]
    return Address(f"postgresql://{','.join(hosts)}/{database}", tuple(urls), tuple(hosts))


def _from_options(
    url: str, parts: urllib.parse.SplitResult, options: dict[str, list[str]]
) -> tuple[list[str], list[str]]:
    """`?host=a,b&port=1,2`, as unix sockets are named."""
    names = options.get("host", [""])[-1].split(",")
    ports = options.get("port", [""])[-1].split(",")
    if len(ports) not in (1, len(names)) or not all(port == "" or _is_port(port) for port in ports):
        raise _unreadable()
    ports = ports * len(names) if len(ports) == 1 else ports
    if names == [""]:
        return ["local socket"], [url]
    rest = {key: values[-1] for key, values in options.items() if key not in ("host", "port")}
    hosts, urls = [], []
    for name, port in zip(names, ports, strict=True):
        one = rest | {"host": name} | ({"port": port} if port else {})
        hosts.append(f"{name}:{port}" if port else name)
        # By hand: geturl() drops the empty authority, and with it the slashes.
        authority = parts.netloc
        urls.append(f"{parts.scheme}://{authority}{parts.path}?{urllib.parse.urlencode(one)}")
    return hosts, urls


def _is_host(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        return bool(host)
    return bool(name) and _is_port(port)


def _is_port(port: str) -> bool:
    return port.isascii() and port.isdigit() and 0 < int(port) < 65_536


def _unreadable() -> ValueError:
    return ValueError(f"ledger: expected {EXPECTED}; got something else (not shown: it may hold a password)")
