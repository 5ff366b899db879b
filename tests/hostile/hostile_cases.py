"""Requests that try to get a paid resource for nothing, or to make a free one cost: bytes, by family.

The services they are written for are in hostile_targets.py: `/shop` has a free `/**` beside priced routes,
`/strict` has none, `/shop/premium` is priced and nested below `/shop`, and the host root.test has both at its
root. All share one upstream. A case is bytes on a connection; no client that tidies up is between.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

HOST: Final = "127.0.0.1"
ROOT_HOST: Final = "root.test"

#: What a request is for by the letter of the services: something paid, something free, or nothing that is served.
Asks = Literal["paid", "free", "nothing"]


@dataclass(frozen=True, slots=True)
class Case:
    """One connection's bytes. Nothing in them pays."""

    family: str
    name: str
    data: bytes
    asks: Asks = "paid"
    waits: bool = False  # nobody closes until we do
    head: bool = False  # the answer has no body
    needs: str = ""  # a feature of the gateway: nested basePaths, hosts
    silent: bool = False  # it may get no answer: it has no end, or no request is in it

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"


def request(
    target: str,
    *lines: str,
    method: str = "GET",
    version: str = "HTTP/1.1",
    host: str | None = HOST,
    body: str = "",
    close: bool = True,
) -> bytes:
    """A request as bytes; every character up to U+00FF is one. Says `Connection: close` unless told otherwise."""
    head = [f"{method} {target} {version}", *([] if host is None else [f"Host: {host}"]), *lines]
    head += ["Connection: close"] if close else []
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode("latin-1")


def _paths(family: str, asks: Asks, *targets: str, host: str = HOST, needs: str = "") -> Iterator[Case]:
    for target in targets:
        name = (target if host == HOST else f"{host}{target}").encode("unicode_escape").decode()
        shown = name if len(name) < 60 else f"{name[:40]}… ({len(target)} bytes)"
        yield Case(family, shown, request(target, host=host), asks, needs=needs)


def _table() -> Iterator[Case]:
    """The table of measured path confusions that the gateway's path settings are made for."""
    yield from _paths(
        "path table",
        "paid",
        "/strict/free/../thing",
        "/strict/free/%2e%2e/thing",
        "/strict/free\\..\\thing",
        "/strict/free/..;/thing",
        "/strict/free/..%2fthing",
        "/strict/free/%00/../thing",
    )
    yield from _paths("path table", "free", "//strict/free/x", "/strict/free//x")
    yield from _paths("path table", "nothing", "/strict/FREE/x")


def _dots() -> Iterator[Case]:
    yield from _paths(
        "dot segments",
        "paid",
        "/shop/./thing",
        "/shop/free/../thing",
        "/shop/free/x/../../thing",
        "/shop/../shop/thing",
        "/../shop/thing",
        "/../../shop/thing",
        "/shop/free/%2e%2e/thing",
        "/shop/free/%2E%2E/thing",
        "/shop/free/.%2e/thing",
        "/shop/free/%2e./thing",
        "/shop/%2e/thing",
        "/shop/free/..//thing",
        "/shop/free/.../../thing",
        "/shop/thing/.",
        "/shop/thing/x/..",
        "/shop/vault/x/../y",
        "/shop/free/..%00/thing",
        "/shop/free/%2e%2e;/thing",
        "/shop/free/..;x=1/thing",
        "/shop/free/..%3b/thing",
        "/shop/free/..%3bx/thing",
        "/shop/free/.;/../thing",
        "/shop/free/..;/..;/shop/thing",
        "/shop/.;/thing",
        "/shop/;/thing",
        "/shop/;x/thing",
        "/shop/free/..%20/thing",
        "/shop/free/..%09/thing",
        "/shop/free/.. /thing",
        "/strict/free/..;x/thing",
        "/strict/free/%2e%2e%3b/thing",
        "/strict/free/..%20/thing",
        "/strict/../strict/thing",
    )
    yield from _paths("dot segments", "free", "/shop/free/./x", "/shop/free/a/../x", "/shop/thing/../free/x")
    yield from _paths(
        "dot segments", "paid", "/free/../thing", "/free/..;/thing", "/..;/thing", host=ROOT_HOST, needs="hosts"
    )


def _encodings() -> Iterator[Case]:
    yield from _paths(
        "encodings",
        "paid",
        "/shop/%74hing",
        "/shop/%74%68%69%6e%67",
        "/shop/%74%68%69%6E%67",
        "/shop%2fthing",
        "/shop/%2fthing",
        "/%73hop/thing",
        "/shop/thing%2f",
        "/shop/thing%2F%2F",
        "/shop/free%2f..%2fthing",
        "/shop/free/..%5cthing",
        "/shop/free%5c..%5cthing",
        "/shop/free/%2e%2e%2fthing",
        "/shop/items/..%2fthing",
        "/shop/users/1%2freport",
        "/shop/jobs/%40me:run",
        "/shop/jobs/@me%3arun",
        "/shop/jobs/@me%3Arun",
        "/shop/jobs/%40me%3Arun",
        "/shop/thing%00",
        "/shop/thing%00.css",
        "/shop/thing%0a",
        "/shop/thing%0d%0a",
        "/shop/thing%09",
        "/shop/thing%20",
        "/shop/thing%20%20",
        "/shop/thing%3fx",
        "/shop/thing%3Fx=/free/",
        "/shop/thing%23",
        "/shop/thing%23/free/x",
        "/shop/%u0074hing",
        "/shop/%u002fthing",
        "/shop/thing%",
        "/shop/thing%2",
        "/shop/thing%zz",
        "/shop/%thing",
    )
    yield from _paths("encodings", "free", "/shop/caf%C3%A9", "/shop/a%20b", "/shop/100%25", "/shop/free/%41")
    yield from _paths("encodings", "paid", "/%74hing", "/thing%20", host=ROOT_HOST, needs="hosts")


def _double() -> Iterator[Case]:
    yield from _paths(
        "double and overlong encodings",
        "paid",
        "/shop/%2574hing",
        "/shop/%25%37%34hing",
        "/shop/thin%2567",
        "/shop/THIN%2567",
        "/shop/free/%252e%252e/thing",
        "/shop/free/..%252fthing",
        "/shop/free/..%252Fthing",
        "/shop/free/%252e%252e%252fthing",
        "/shop/free/..%255cthing",
        "/shop/free%252f..%252fthing",
        "/shop/free/..%25252fthing",
        "/shop/free/%25252e%25252e/thing",
        "/shop/vault%252fx",
        "/shop/users/1%252freport",
        "/shop/users%252f1/report",
        "/shop/%252fthing",
        "/shop/thing%252f",
        "/shop/thing%2500",
        "/shop/thing%2520",
        "/shop/%252e/thing",
        "/shop/free/%c0%ae%c0%ae/thing",
        "/shop/free/..%c0%afthing",
        "/shop/free/..%c1%9cthing",
        "/shop/free/%e0%80%ae%e0%80%ae/thing",
        "/shop/free/..%e0%80%afthing",
        "/shop/free/..%f0%80%80%afthing",
        "/shop/%c1%b4hing",
        "/shop/free/%ef%bc%8e%ef%bc%8e/thing",
        "/shop/free/..%ef%bc%8fthing",
        "/shop/free/%uff0e%uff0e/thing",
        "/strict/free/%252e%252e/thing",
        "/strict/free/..%252fthing",
        "/strict/free/..%255cthing",
        "/strict/free/%252e%252e%252fthing",
        "/strict/free/%c0%ae%c0%ae/thing",
        "/strict/free/%25%32%65%25%32%65/thing",
        "/strict/free/..%25%32%66thing",
    )


def _matrix() -> Iterator[Case]:
    yield from _paths(
        "matrix parameters",
        "paid",
        "/shop/thing;x",
        "/shop/thing;x=1;y=2",
        "/shop/thing;",
        "/shop/thing;/",
        "/shop/thing%3bx",
        "/shop/thing%3B",
        "/shop/thing;.css",
        "/shop/thing;x/..;/free",
        "/shop/thing;jsessionid=1.free",
        "/shop;x/thing",
        "/shop/users;a/1/report",
        "/shop/users/1;a/report",
        "/shop/users/1/report;a",
        "/shop/vault;x/y",
        "/shop/vault;x",
        "/shop/jobs;x/@me:run",
        "/strict;x/thing",
        "/strict/thing;x",
    )
    yield from _paths("matrix parameters", "free", "/shop/other;v=1", "/shop/free/x;v=1")
    yield from _paths("matrix parameters", "paid", "/shop/premium;x/y", "/shop;a/premium/y", needs="nested")
    yield from _paths("matrix parameters", "paid", "/thing;x", "/;x/thing", host=ROOT_HOST, needs="hosts")


def _slashes() -> Iterator[Case]:
    yield from _paths(
        "slashes and back-slashes",
        "paid",
        "/shop/thing/",
        "/shop/thing//",
        "//shop/thing",
        "///shop///thing",
        "/shop//thing",
        "/shop//thing//",
        "/shop\\thing",
        "\\shop\\thing",
        "/shop/\\thing",
        "/shop/free\\..\\..\\shop\\thing",
        "/shop/thing\\",
        "/shop/users//1/report",
        "/shop/users/1//report",
        "/shop/users/1/report/",
        "/shop/vault//x",
        "/shop//vault/x",
        "/shop/vault\\x",
        "/shop/items/",
        "/strict/thing/",
        "/strict//thing",
        "/strict\\thing",
        "shop/thing",
        "thing",
    )
    yield from _paths("slashes and back-slashes", "free", "/shop//free//x", "/shop/free\\x")
    yield from _paths("slashes and back-slashes", "paid", "/shop/premium//y", "/shop//premium/y", needs="nested")
    yield from _paths("slashes and back-slashes", "paid", "//thing", "/thing/", host=ROOT_HOST, needs="hosts")


def _case() -> Iterator[Case]:
    yield from _paths(
        "case, dots and formats at the end",
        "paid",
        "/shop/THING",
        "/shop/Thing",
        "/shop/tHiNg/",
        "/shop/%54HING",
        "/SHOP/thing",
        "/shop/USERS/1/report",
        "/shop/users/1/REPORT",
        "/shop/VAULT/x",
        "/shop/Vault",
        "/shop/JOBS/@me:run",
        "/shop/jobs/@ME:RUN",
        "/strict/THING",
        "/STRICT/thing",
        "/shop/thing.",
        "/shop/thing..",
        "/shop/thing%2e",
        "/shop/thing.json",
        "/shop/thing.html",
        "/shop/THING.JSON",
        "/shop/users/1/report.json",
        "/shop/users/1/report.",
        "/shop/users./1/report",
        "/shop/thing. ",
        "/shop/thing.%20",
        "/shop/thing::$DATA",
    )
    yield from _paths(
        "case, dots and formats at the end",
        "paid",
        "/shop/PREMIUM/y",
        "/shop/Premium",
        "/shop/premium./y",
        "/shop/premium.json",
        "/SHOP/premium/y",
        needs="nested",
    )
    yield from _paths(
        "case, dots and formats at the end", "paid", "/THING", "/thing.json", host=ROOT_HOST, needs="hosts"
    )


def _targets() -> Iterator[Case]:
    family = "forms of the target"

    def one(name: str, data: bytes, asks: Asks = "paid", **fields: str) -> Case:
        return Case(family, name, data, asks, needs=fields.get("needs", ""))

    yield one("absolute form", request(f"http://{HOST}/shop/thing"))
    yield one("absolute form, https", request(f"https://{HOST}/shop/thing"))
    yield one("absolute form, upper-case scheme", request(f"HTTP://{HOST}/shop/thing"))
    yield one("absolute form, other scheme", request(f"ftp://{HOST}/shop/thing"))
    yield one("absolute form, no authority", request("http:///shop/thing"))
    yield one("absolute form, dot segments", request(f"http://{HOST}/shop/free/../thing"))
    yield one("absolute form, back-slash", request(f"http://{HOST}\\shop\\thing"))
    yield one("absolute form, user info", request(f"http://free@{HOST}/shop/thing"))
    yield one("absolute form, host hidden in user info", request(f"http://{HOST}@other.example/shop/thing"))
    yield one("absolute form, query only", request(f"http://{HOST}?/shop/thing"))
    yield one("absolute form, another host in Host", request(f"http://{HOST}/shop/thing", host="free.example"))
    yield one("absolute form in the path", request("/shop/http://x/../../../thing"))
    yield one(
        "absolute form of root.test, Host of the other",
        request(f"http://{ROOT_HOST}/thing", host=HOST),
        needs="hosts",
    )
    yield one(
        "absolute form of the other, Host root.test",
        request(f"http://{HOST}/shop/thing", host=ROOT_HOST),
        needs="hosts",
    )
    yield one("absolute form, free", request(f"http://{HOST}/shop/free/x"), "free")
    yield one("authority form", request(f"{HOST}:80"), "nothing")
    yield one("authority form, CONNECT", request(f"{HOST}:80", method="CONNECT"), "nothing")
    yield one("CONNECT with a path", request("/shop/thing", method="CONNECT"))
    yield one("asterisk form, OPTIONS", request("*", method="OPTIONS"), "nothing")
    yield one("asterisk form, GET", request("*"), "nothing")
    yield one("asterisk and path", request("*/shop/thing"))
    yield one("fragment", request("/shop/free/x#/../../thing"))
    yield one("fragment of the paid path", request("/shop/thing#"))
    yield one("fragment with a query", request("/shop/thing?a#b"))
    yield one("empty target", request(""), "nothing")
    yield one("query only", request("?/shop/thing"))
    yield one("question mark", request("/shop/thing?"))
    yield one("dot segments in the query", request("/shop/free/x?/../../thing"), "free")
    yield one("encoded slash in the query", request("/shop/free/x?next=%2fshop%2fthing&y=..%252f"), "free")
    yield one("blank in the target", request("/shop/free/x /../../thing"))
    yield one("tab for a blank", b"GET\t/shop/thing\tHTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    yield one("two blanks", b"GET  /shop/thing  HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    yield one("blank lines before", b"\r\n\r\n" + request("/shop/thing"))
    yield one("network path", request("//other.example/shop/thing"))
    yield one("long paid path", request("/shop/vault/" + "a" * 8000))
    yield one("too long a path", request("/shop/thing?" + "a" * 70_000))
    yield one("many segments", request("/shop" + "/free" * 1000 + "/.." * 1000 + "/thing"))
    yield one("many dots", request("/shop/free/" + "../" * 2000 + "shop/thing"))


def _methods() -> Iterator[Case]:
    family = "methods and overrides"
    for method in ("HEAD", "head", "get", "Get", "GETT", "FOO", "TRACE", "OPTIONS", "PROPFIND", "PRI", "G\x00ET"):
        name = method.encode("unicode_escape").decode()
        yield Case(
            family, f"{name} of what GET pays for", request("/shop/thing", method=method), head=method == "HEAD"
        )
    for method in ("post", "Post", "POSTX"):
        yield Case(
            family, f"{method} of what POST pays for", request("/shop/items", "Content-Length: 0", method=method)
        )
    for header in (
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "x-http-method-override",
        "X_HTTP_Method_Override",
        "X-Http-Method-Override ",
    ):
        yield Case(family, f"GET with {header}: POST", request("/shop/items", f"{header}: POST"), "free")
    for header in ("X-Original-URL", "X-Rewrite-URL", "X_Original_URL", "X-Original-Url:x\r\nX-Original-Url"):
        lines = f"{header}: /thing"
        name = header.split(":")[0]
        yield Case(family, f"{name} of the paid path", request("/shop/free/x", lines), "free")
    yield Case(family, "the free one of two methods", request("/shop/items"), "free")
    yield Case(family, "GET with a body", request("/shop/items", "Content-Length: 4", body="POST"), "free")
    yield Case(
        family,
        "preflight of the paid path",
        request(
            "/shop/thing", "Origin: https://a.example", "Access-Control-Request-Method: GET", method="OPTIONS"
        ),
        "free",
    )
    yield Case(
        family,
        "GET that looks like a preflight",
        request("/shop/thing", "Origin: https://a.example", "Access-Control-Request-Method: GET"),
    )


def _headers() -> Iterator[Case]:
    family = "duplicate, folded and odd headers"

    def one(name: str, *lines: str, target: str = "/shop/thing", asks: Asks = "paid") -> Case:
        return Case(family, name, request(target, *lines), asks)

    yield one("folded header", "X-A: 1", " Authorization: Payment x")
    yield one("folded authorization", "Authorization: Payment", " abc")
    yield one("blank before the colon", "Authorization : Payment abc")
    yield one("no colon", "Authorization")
    yield one("empty name", ": x")
    yield one("NUL in a value", "X-A: a\0b")
    yield one("NUL in a name", "X\0A: b")
    yield one("CR in a value", "X-A: a\rX-Mpp-Payment-Id: 1")
    yield one("LF in a value", "X-A: a\nX-Mpp-Payment-Id: 1")
    yield one("control bytes in a value", "X-A: \x01\x02\x7f")
    yield one("high bytes in a value", "X-A: \xff\xfe")
    yield one("high bytes in a name", "X-\xff: 1")
    yield one("underscore", "X_Mpp_Payment_Id: 1")
    yield one("underscore in authorization", "Payment_Authorization: Payment abc")
    yield one("101 headers", *(f"X-{n}: 1" for n in range(101)))
    yield one("1000 headers", *(f"X-{n}: 1" for n in range(1000)))
    yield one("59 KB header", f"X-Big: {'a' * 59_000}")
    yield one("64 KB header", f"X-Big: {'a' * 64_000}")
    yield one("200 KB header", f"X-Big: {'a' * 200_000}")
    yield one("long name", f"X-{'a' * 20_000}: 1")
    yield one("two authorizations", "Authorization: Payment abc", "Authorization: Payment abc")
    yield one("another scheme", "Authorization: Bearer Payment")
    yield one("scheme in a list", "Authorization: Bearer x, Payment abc")
    yield one("credential in another header", "Proxy-Authorization: Payment abc")
    yield one("credential in a cookie", "Cookie: authorization=Payment abc")
    yield one("range", "Range: bytes=0-1")
    yield one("if-none-match", "If-None-Match: *")
    yield one("if-match", 'If-Match: "x"')
    yield one("expect", "Expect: 100-continue")
    yield one("unknown expectation", "Expect: 200-ok")
    yield one("gRPC", "Content-Type: application/grpc", "TE: trailers")
    yield one("gRPC-web", "Content-Type: application/grpc-web+proto")
    yield one("max-forwards", "Max-Forwards: 0")
    yield one("free with a folded header", "X-A: 1", " b", target="/shop/free/x", asks="free")
    yield one("free with a range", "Range: bytes=0-1", target="/shop/free/x", asks="free")


def _hosts() -> Iterator[Case]:
    family = "hosts"

    def one(name: str, target: str, *hosts: str, asks: Asks = "paid", needs: str = "") -> Case:
        lines = [f"Host: {host}" for host in hosts]
        return Case(family, name, request(target, *lines, host=None), asks, needs=needs)

    yield one("no Host", "/shop/thing")
    yield one("empty Host", "/shop/thing", "")
    yield one("two of one Host", "/shop/thing", HOST, HOST)
    yield one("two Hosts", "/shop/thing", HOST, "free.example")
    yield one("two Hosts, the other first", "/shop/thing", "free.example", HOST)
    yield one("a list of Hosts", "/shop/thing", f"{HOST}, free.example")
    yield one("port", "/shop/thing", f"{HOST}:4402")
    yield one("absurd port", "/shop/thing", f"{HOST}:99999")
    yield one("port that is none", "/shop/thing", f"{HOST}:x")
    yield one("empty port", "/shop/thing", f"{HOST}:")
    yield one("last dot", "/shop/thing", f"{HOST}.")
    yield one("user info", "/shop/thing", f"a@{HOST}")
    yield one("path in Host", "/thing", f"{HOST}/shop")
    yield one("blank in Host", "/shop/thing", f"{HOST} x")
    yield one("tab around Host", "/shop/thing", f"\t{HOST}\t")
    yield one("NUL in Host", "/shop/thing", f"{HOST}\0.free.example")
    yield one("unknown Host", "/shop/thing", "free.example", asks="nothing", needs="hosts")
    yield one("upper case", "/shop/thing", "LOCALHOST")
    yield one("IPv6", "/shop/thing", "[::1]")
    yield one("root.test in capitals", "/thing", "ROOT.TEST", needs="hosts")
    yield one("root.test with a dot", "/thing", "root.test.", needs="hosts")
    yield one("root.test with port and case", "/THING", "Root.Test:80", needs="hosts")
    yield one("basePath of another host", "/shop/thing", ROOT_HOST, needs="hosts")
    yield one("path of root.test at the other host", "/thing", HOST, asks="nothing", needs="hosts")
    yield one("free with a port", "/shop/free/x", f"{HOST}:1", asks="free")


def _smuggling() -> Iterator[Case]:
    family = "smuggling"
    inner = request("/thing", host=HOST).decode()

    def one(name: str, *lines: str, body: str = "", method: str = "POST", ends: bool = True) -> Case:
        data = request("/shop/free/x", *lines, method=method, body=body, close=ends)
        return Case(family, name, data, "free", waits=not ends, silent=not ends)

    chunked = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    yield one("CL.TE", f"Content-Length: {5 + len(inner)}", "Transfer-Encoding: chunked", body="0\r\n\r\n" + inner)
    yield one("TE.CL", "Content-Length: 4", "Transfer-Encoding: chunked", body=chunked)
    yield one("CL.0", f"Content-Length: {len(inner)}", body=inner)
    yield one("GET with a body that is a request", f"Content-Length: {len(inner)}", body=inner, method="GET")
    yield one("chunked body that is a request", "Transfer-Encoding: chunked", body=chunked)
    for spelling in (
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: \x00chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: CHUNKED",
        "transfer_encoding: chunked",
        "X: X\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        " Transfer-Encoding: chunked",
    ):
        name = spelling.encode("unicode_escape").decode()
        yield one(f"both, {name}", f"Content-Length: {5 + len(inner)}", spelling, body="0\r\n\r\n" + inner)
    for length in (
        "4, 4",
        "4, 5",
        "+4",
        "-4",
        "0x4",
        "4 4",
        "04",
        "4;x",
        "4.0",
        "\x0b4",
        "99999999999999999999",
        "",
    ):
        name = length.encode("unicode_escape").decode()
        yield one(f"Content-Length: {name}", f"Content-Length: {length}", body="abcd" + inner)
    yield one("two lengths", "Content-Length: 0", f"Content-Length: {len(inner)}", body=inner)
    yield one("two equal lengths", "Content-Length: 4", "Content-Length: 4", body="abcd" + inner)
    yield one("chunk extension", "Transfer-Encoding: chunked", body=f"4;a=b\r\nabcd\r\n0\r\n\r\n{inner}")
    yield one(
        "long chunk extension", "Transfer-Encoding: chunked", body=f"4;{'a' * 20_000}\r\nabcd\r\n0\r\n\r\n{inner}"
    )
    yield one("LF in a chunk extension", "Transfer-Encoding: chunked", body=f"4;\nabcd\r\n0\r\n\r\n{inner}")
    yield one("chunk size with 0x", "Transfer-Encoding: chunked", body=f"0x4\r\nabcd\r\n0\r\n\r\n{inner}")
    yield one(
        "chunk size that overflows",
        "Transfer-Encoding: chunked",
        body=f"10000000000000004\r\nabcd\r\n0\r\n\r\n{inner}",
    )
    yield one("negative chunk size", "Transfer-Encoding: chunked", body=f"-4\r\nabcd\r\n0\r\n\r\n{inner}")
    yield one("chunk without CR", "Transfer-Encoding: chunked", body=f"4\nabcd\n0\n\n{inner}")
    yield one("chunk longer than it says", "Transfer-Encoding: chunked", body=f"3\r\nabcd\r\n0\r\n\r\n{inner}")
    yield one(
        "trailers",
        "Transfer-Encoding: chunked",
        "Trailer: Authorization",
        body="0\r\nAuthorization: Payment abc\r\nX-Mpp-Payment-Id: 1\r\nX-Original-URL: /thing\r\n\r\n",
    )
    yield one("half a body", "Content-Length: 100", body="abc", ends=False)
    yield one("half a chunk", "Transfer-Encoding: chunked", body="64\r\nabc", ends=False)
    half = b"GET /shop/thing HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    yield Case(family, "half a request", half, waits=True, silent=True)
    free = request("/shop/free/x", close=False)
    yield Case(family, "pipelined behind a free one", free + request("/shop/thing"))
    yield Case(family, "pipelined behind ten free ones", free * 10 + request("/shop/thing"))
    yield Case(
        family, "pipelined free, paid, free", free + request("/shop/thing", close=False) + request("/shop/free/x")
    )
    yield Case(
        family,
        "pipelined behind a POST",
        request("/shop/free/x", "Content-Length: 3", method="POST", body="abc", close=False)
        + request("/shop/thing"),
    )
    yield Case(
        family,
        "behind a refused expectation",
        request("/shop/thing", "Expect: 100-continue", f"Content-Length: {len(inner)}", body=inner, method="POST"),
    )
    lines = b"GET /shop/thing HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n"
    yield Case(family, "bare LF", lines)
    yield Case(family, "bare CR", lines.replace(b"\n", b"\r"), waits=True, silent=True)
    yield Case(
        family,
        "bare LF hides a header",
        request("/shop/free/x", "X: y\nX-Original-URL: /thing"),
        "free",
    )
    yield Case(
        family,
        "request in a header's value",
        request("/shop/free/x", "X-A: b\r\n\r\nGET /shop/thing HTTP/1.1\r\nHost: 127.0.0.1"),
    )


def _versions() -> Iterator[Case]:
    family = "versions and upgrades"

    def one(name: str, data: bytes, asks: Asks = "paid", *, waits: bool = False) -> Case:
        return Case(family, name, data, asks, waits=waits)

    yield one("HTTP/1.0", request("/shop/thing", version="HTTP/1.0"))
    yield one("HTTP/1.0 without Host", request("/shop/thing", version="HTTP/1.0", host=None))
    yield one(
        "HTTP/1.0 kept alive",
        request("/shop/thing", "Connection: keep-alive", version="HTTP/1.0", close=False),
        waits=True,
    )
    yield one(
        "HTTP/1.0, chunked",
        request("/shop/thing", "Transfer-Encoding: chunked", version="HTTP/1.0", body="0\r\n\r\n"),
    )
    yield one("a line without a version", b"GET /shop/thing\r\n", waits=True)
    for version in (
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3",
        "HTTP/0.9",
        "HTTP/1.1x",
        "http/1.1",
        "HTTPS/1.1",
        "HTTP/1,1",
        "1.1",
    ):
        yield one(version, request("/shop/thing", version=version))
    for target, asks in (
        ("/shop/thing", "paid"),
        ("/shop/live", "paid"),
        ("/shop/LIVE", "paid"),
        ("/shop/live/", "paid"),
        ("/shop/free/x", "free"),
    ):
        yield one(
            f"h2c upgrade of {target}",
            request(
                target,
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
                close=False,
            ),
            "paid" if asks == "paid" else "free",
            waits=True,
        )
        yield one(
            f"WebSocket of {target}",
            request(
                target,
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                close=False,
            ),
            "paid" if asks == "paid" else "free",
            waits=True,
        )
    yield one(
        "TLS upgrade", request("/shop/thing", "Connection: Upgrade", "Upgrade: TLS/1.2", close=False), waits=True
    )
    yield one("upgrade without Connection", request("/shop/thing", "Upgrade: websocket"))
    yield one("a TLS hello", bytes.fromhex("160301004a0100004603034b") + b"\0" * 70, "nothing", waits=True)
    yield one("binary", bytes(range(256)), "nothing", waits=True)
    yield one("PROXY protocol", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + request("/shop/thing"))


def _spoofs() -> Iterator[Case]:
    family = "spoofed headers"
    for line in (
        "X-Mpp-Payment-Id: 1",
        "X-Mpp-Route: shop/shop/rest",
        "X-Mpp-Anything: 1",
        "x-MPP-amount: 1",
        "X-Mpp-Challenge: 1",
        "Payment-Receipt: eyJ9",
        "Payment-Credit: x",
        "X-Envoy-Original-Path: /shop/free/x",
        "X-Envoy-Original-Path: /thing",
        "X-Envoy-Internal: true",
        "X-Envoy-External-Address: 127.0.0.1",
        "X-Envoy-Upstream-Rq-Timeout-Ms: 1",
        "X-Envoy-Expected-Rq-Timeout-Ms: 1",
        "X-Envoy-Retry-On: 5xx",
        "X-Envoy-Max-Retries: 100",
        "X-Envoy-Upstream-Alt-Stat-Name: x",
        "X-Envoy-Decorator-Operation: x",
        "X-Envoy-Force-Trace: 1",
        "X-Envoy-Auth-Partial-Body: true",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: free.example",
        "X-Forwarded-Prefix: /free",
        "X-Forwarded-Uri: /shop/free/x",
        "X-Forwarded-Client-Cert: By=x",
        "X-Real-IP: 127.0.0.1",
        "Forwarded: for=127.0.0.1;host=free.example",
        "X-Original-URI: /shop/free/x",
        "X-Original-URL: /shop/free/x",
        "X-Request-Id: 1",
        "X-Payment: abc",
        "Payment-Signature: abc",
        "Grpc-Status: 0",
        "Grpc-Timeout: 1n",
    ):
        yield Case(family, line, request("/shop/thing", line))
    for name, target in (
        ("X-Original-URL", "/thing"),
        ("X-Rewrite-URL", "/vault/x"),
        ("X-Envoy-Original-Path", "/thing"),
    ):
        yield Case(family, f"free with {name}", request("/shop/free/x", f"{name}: {target}"), "free")


def _hop_by_hop() -> Iterator[Case]:
    family = "hop-by-hop headers"
    for named in (
        "authorization",
        "payment-authorization",
        "x-mpp-payment-id",
        "host",
        ":path",
        ":method",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "content-length",
        "payment-receipt",
        "x-envoy-upstream-rq-timeout-ms",
        "cookie",
        "transfer-encoding",
        "upgrade, keep-alive, te",
        "close, close",
        ",,,",
    ):
        data = request("/shop/thing", f"Connection: close, {named}", "Authorization: Payment abc", close=False)
        yield Case(family, f"Connection: {named}", data)
    for line in (
        "Keep-Alive: timeout=1",
        "Proxy-Connection: keep-alive",
        "TE: trailers, chunked",
        "Trailer: Authorization",
        "Proxy-Authenticate: Payment",
    ):
        yield Case(family, line, request("/shop/thing", line))
    data = request("/shop/free/x", "Connection: close, host, authorization", close=False)
    yield Case(family, "free, Connection: host", data, "free")


def _negotiation() -> Iterator[Case]:
    family = "Accept-Payment and credentials that are none"
    for value in (
        "",
        "*",
        "*/*",
        "tempo",
        "tempo/charge;q=0",
        "*/*;q=0",
        "cheap/charge;q=0, */*;q=0",
        "free/free",
        "tempo/" + "a" * 5000,
        ", ".join(f"m{n}/charge;q=0.5" for n in range(500)),
        "cheap/charge;q=nan",
        "cheap/charge;q=1e999",
        "cheap/charge;q=-1",
        "\xff/\xff",
        ";;;,,,===",
    ):
        name = value.encode("unicode_escape").decode()[:40]
        yield Case(family, f"Accept-Payment: {name}", request("/shop/thing", f"Accept-Payment: {value}"))
    for value in (
        "Payment",
        "Payment ",
        "Payment =",
        "Payment e30",
        "Payment bnVsbA",
        "Payment W10",
        "Payment " + "A" * 20_000,
        "Payment \xff\xff",
        "payment e30=",
        "Payment e30, Payment e30",
        "Payment id=1",
        'Payment id="x", realm="y"',
    ):
        name = value.encode("unicode_escape").decode()[:40]
        yield Case(family, f"Authorization: {name}", request("/shop/thing", f"Authorization: {value}"))
        yield Case(
            family, f"free, Authorization: {name}", request("/shop/free/x", f"Authorization: {value}"), "free"
        )


ALL: Final = tuple(
    case
    for made in (
        _table,
        _dots,
        _encodings,
        _double,
        _matrix,
        _slashes,
        _case,
        _targets,
        _methods,
        _headers,
        _hosts,
        _smuggling,
        _versions,
        _spoofs,
        _hop_by_hop,
        _negotiation,
    )
    for case in made()
)


def counted() -> dict[str, int]:
    """Cases of each family, in order."""
    return dict(Counter(case.family for case in ALL))
