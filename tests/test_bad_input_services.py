"""PaidServices with mistakes: every mistake is one line with file, object, field, what was expected and got."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from bad_input import SERVICE, Page, command, edited, page

OFFER: Final = SERVICE[SERVICE.index("      - method") : SERVICE.index("  routes:")]
ROUTE: Final = '    - {name: thing, match: {method: GET, path: /thing}, price: {amount: "0.05"}}\n'
MATCH: Final = "match: {method: GET, path: /thing}"
PRICE: Final = 'price: {amount: "0.05"}'
URL: Final = 'url: "http://127.0.0.1:9"'
CYRILLIC_O: Final = "\N{CYRILLIC SMALL LETTER O}"


def routes(count: int) -> str:
    return edited(ROUTE, "".join(f"    - {{match: {{path: /r{n}}}, free: true}}\n" for n in range(count)))


def aliases(depth: int) -> str:
    """A few hundred bytes that stand for 9 ** depth values."""
    rows = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    rows += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, depth)]
    return SERVICE + "\n".join(rows) + "\n"


def merges(depth: int) -> str:
    """The same by merge keys."""
    rows = ["x0: &x0 {a: 1}"]
    rows += [f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}" for n in range(1, depth)]
    return SERVICE + "\n".join(rows) + "\n"


#: What is wrong -> the file.
CASES: Final[dict[str, str | bytes]] = {
    # what kind of file it is
    "an empty file": "",
    "a file of comments": "# nothing\n",
    "a document that is null": "null\n",
    "a binary file": b"\x7fELF\x02\x01\x01\x00\xff\xfe",
    "UTF-16 text": SERVICE.encode("utf-16"),
    "a NUL byte": SERVICE.replace("shop", "sh\x00op"),
    "a control character": SERVICE.replace("shop", "sh\x07op"),
    "a tab for indentation": edited("  upstream:", "\tupstream:"),
    "a wrong indentation": edited("  upstream:", "   upstream:"),
    "an open bracket": edited(MATCH, "match: {method: GET, path: /thing"),
    "an open quote": edited('"0.05"', '"0.05'),
    "a path with braces between braces": edited("path: /thing", "path: /users/{id}"),
    "a text, no YAML object": "just text\n",
    "a list, no object": "- a\n- b\n",
    "a Python object": "!!python/object:os.system {}\n",
    "an unknown tag": edited("name: shop", "name: !secret shop"),
    "a set": edited("name: shop", "name: !!set {shop}"),
    "binary data": edited("name: shop", "name: !!binary c2hvcA=="),
    "JSON that ends too early": '{"apiVersion": "mpp-gateway.dev/v1alpha1", "kind": ',
    "a key twice": edited("spec:\n", "spec:\n  basePath: /a\n  basePath: /b\n"),
    "an object as a key": edited("spec:\n", "? {a: 1}\n: 2\nspec:\n"),
    "a YAML bomb of aliases": aliases(9),
    "an object a hundred levels deep": edited(PRICE, "openapi: {responses: " + "{a: " * 100 + "1" + "}" * 101),
    "a YAML bomb of merge keys": merges(9),
    "an alias of itself": edited("spec:\n", "spec: &me\n  again: *me\n"),
    "an alias of nothing": edited("name: shop", "name: *shop"),
    "five thousand open brackets": "[" * 5000,
    "five thousand brackets, closed": edited(PRICE, "free: " + "[" * 5000 + "]" * 5000),
    "a file beyond every limit": SERVICE + "#" + "x" * (11 << 20),
    "a number of five thousand digits": edited("spec:\n", f"  generation: {'9' * 5000}\nspec:\n").replace(
        "metadata: {name: shop, namespace: tests}\n", "metadata:\n  name: shop\n  namespace: tests\n"
    ),
    "a number of Mayan age": edited('"0.05"', "1:00:00:00:00:00"),
    "a colon in a text": edited("spec:\n", "spec:\n  title: Shop: all you need\n"),
    "a star in a text": edited("path: /thing", "path: **"),
    # which object it is
    "another apiVersion": edited("mpp-gateway.dev/v1alpha1", "mpp-gateway.dev/v1"),
    "no apiVersion": edited("apiVersion: mpp-gateway.dev/v1alpha1\n", ""),
    "another kind": edited("kind: PaidService", "kind: Ingress"),
    "a kind in lower case": edited("kind: PaidService", "kind: paidservice"),
    "a Kubernetes list": "apiVersion: v1\nkind: List\nitems: []\n",
    "gateway.yaml in its place": "listen: {port: 1}\nhosts: [a]\n",
    "another program's file": "version: '3'\nservices: {web: {image: nginx}}\n",
    "no metadata": edited("metadata: {name: shop, namespace: tests}\n", ""),
    "metadata that are a text": edited("metadata: {name: shop, namespace: tests}", "metadata: shop"),
    "no name": edited("name: shop, ", ""),
    "a name with a capital": edited("name: shop", "name: Shop"),
    "a name with a space": edited("name: shop", "name: my shop"),
    "a name with a Cyrillic letter": edited("name: shop", f"name: sh{CYRILLIC_O}p"),
    "a name with a zero-width space": edited("name: shop", 'name: "sh\\u200bop"'),
    "a name of 64 letters": edited("name: shop", "name: " + "a" * 64),
    "a name that is a number": edited("name: shop", "name: 12"),
    "a name that is a boolean": edited("name: shop", "name: yes"),
    "a name that is null": edited("name: shop", "name: ~"),
    "the same name twice in one file": f"{SERVICE}---\n{SERVICE}",
    "two documents, each with a mistake": f"{edited('kind: P', 'kind: p')}---\n{edited('0.05', '0,05')}",
    "no spec": SERVICE[: SERVICE.index("spec:")],
    "a spec that is null": SERVICE[: SERVICE.index("spec:")] + "spec:\n",
    "a field beside spec": edited("kind:", "data: {}\nkind:"),
    "a field of a name that would break the line": edited("spec:\n", 'spec:\n  "a\\nerror: \\e[31mb": 1\n'),
    "a name that would break the line": edited("name: shop", 'name: "a\\nerror: \\e[31mb"'),
    "a field of a very long name": edited("spec:\n", f"spec:\n  {'x' * 1000}: 1\n"),
    "an unknown field": edited("spec:\n", "spec:\n  tilte: Shop\n"),
    "a field in snake case": edited("spec:\n", "spec:\n  base_path: /x\n"),
    # texts
    "a title that is a number": edited("spec:\n", "spec:\n  title: 5\n"),
    "a title of two lines": edited("spec:\n", 'spec:\n  title: "a\\nb"\n'),
    "a version that YAML reads as a number": edited("spec:\n", "spec:\n  version: 1.0\n"),
    "six categories": edited("spec:\n", "spec:\n  categories: [a, b, c, d, e, f]\n"),
    "a category twice": edited("spec:\n", "spec:\n  categories: [ai, ai]\n"),
    "a link without a scheme": edited("spec:\n", "spec:\n  docs: {homepage: example.com}\n"),
    # hosts and paths
    "a host with a scheme": edited("spec:\n", 'spec:\n  hosts: ["https://api.example.com"]\n'),
    "a host with a port": edited("spec:\n", 'spec:\n  hosts: ["api.example.com:443"]\n'),
    "a host with a path": edited("spec:\n", 'spec:\n  hosts: ["api.example.com/v1"]\n'),
    "a host in capitals": edited("spec:\n", "spec:\n  hosts: [API.example.com]\n"),
    "a host with a Cyrillic letter": edited("spec:\n", f"spec:\n  hosts: [g{CYRILLIC_O}ogle.com]\n"),
    "a host with a wildcard": edited("spec:\n", 'spec:\n  hosts: ["*.example.com"]\n'),
    "an IPv6 address as a host": edited("spec:\n", 'spec:\n  hosts: ["::1"]\n'),
    "an IPv6 address in brackets as a host": edited("spec:\n", 'spec:\n  hosts: ["[::1]"]\n'),
    "a host twice": edited("spec:\n", "spec:\n  hosts: [a.example, a.example]\n"),
    "a host that is no list": edited("spec:\n", "spec:\n  hosts: a.example\n"),
    "seventeen hosts": edited("spec:\n", f"spec:\n  hosts: [{', '.join(f'h{n}.example' for n in range(17))}]\n"),
    "a basePath without its slash": edited("spec:\n", "spec:\n  basePath: shop\n"),
    "a basePath with a last slash": edited("spec:\n", "spec:\n  basePath: /shop/\n"),
    "a basePath with dots": edited("spec:\n", "spec:\n  basePath: /a/../b\n"),
    "the root without hosts": edited("spec:\n", "spec:\n  basePath: /\n"),
    "a basePath of the gateway's own": edited("spec:\n", "spec:\n  basePath: /openapi.json\n"),
    # the upstream
    "no upstream": edited(f"  upstream: {{{URL}}}\n", ""),
    "an upstream that is empty": edited(URL, ""),
    "an upstream without a scheme": edited("http://127.0.0.1:9", "127.0.0.1:9"),
    "an upstream of another scheme": edited("http://127.0.0.1:9", "ftp://127.0.0.1:9"),
    "an upstream with a password": edited("http://127.0.0.1:9", "http://user:hunter2@127.0.0.1:9"),
    "an upstream with a query": edited("http://127.0.0.1:9", "http://127.0.0.1:9/?key=hunter2"),
    "an upstream at port 0": edited("http://127.0.0.1:9", "http://127.0.0.1:0"),
    "an upstream at port 70000": edited("http://127.0.0.1:9", "http://127.0.0.1:70000"),
    "an upstream at IPv6 without brackets": edited("http://127.0.0.1:9", "http://::1:9"),
    "an upstream of another script": edited("127.0.0.1:9", f"g{CYRILLIC_O}ogle.com"),
    "an upstream with a line end": edited('"http://127.0.0.1:9"', '"http://127.0.0.1:9\\n"'),
    "an unknown preset": edited(URL, "preset: opnai"),
    "a URL beside a Service": edited(URL, f"{URL}, service: {{name: a, port: 80}}"),
    "a Service on one machine": edited(URL, "service: {name: a, port: 80}"),
    "a secret where a reference belongs": edited(URL, f"{URL}, auth: {{bearer: {{secretRef: sk-hunter2}}}}"),
    "a reference without a key": edited(URL, f"{URL}, auth: {{bearer: {{secretRef: {{name: a}}}}}}"),
    "two kinds of auth": edited(
        URL,
        f"{URL}, auth: {{bearer: {{secretRef: {{name: a, key: b}}}}, "
        "basic: {username: u, secretRef: {name: a, key: b}}}",
    ),
    "a timeout that is a number": edited(URL, f"{URL}, timeouts: {{request: 60}}"),
    "a timeout with a space": edited(URL, f"{URL}, timeouts: {{request: 60 s}}"),
    "a timeout of nothing": edited(URL, f"{URL}, timeouts: {{request: 0s}}"),
    "a timeout of a thousand years": edited(URL, f"{URL}, timeouts: {{request: 8760000h}}"),
    "an unquoted on": edited(URL, f"{URL}, retries: {{on: [reset]}}"),
    "a header with a line end": edited(URL, f'{URL}, headers: {{set: {{X-A: "a\\nb"}}}}'),
    "a header name with a space": edited(URL, f'{URL}, headers: {{set: {{"X A": "a"}}}}'),
    "a header that is ours": edited(URL, f'{URL}, headers: {{set: {{X-Mpp-Route: "a"}}}}'),
    "the Host header": edited(URL, f'{URL}, headers: {{set: {{Host: "a"}}}}'),
    # payment
    "an unknown network": edited("moderato", "moderatto"),
    "an unknown method": edited("method: tempo", "method: stripe"),
    "an unknown currency": edited("currency: pathUSD", "currency: USDC"),
    "a currency of look-alike letters": edited("currency: pathUSD", "currency: p\N{CYRILLIC SMALL LETTER A}thUSD"),
    "no recipient": edited('        recipient: "0x7070707070707070707070707070707070707070"\n', ""),
    "an unquoted recipient": edited('"0x7070707070707070707070707070707070707070"', "0x" + "70" * 20),
    "a short recipient": edited("0x7070707070707070707070707070707070707070", "0x7070"),
    "a recipient with a wrong checksum": edited("0x" + "70" * 20, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"),
    "a private key as the recipient": edited("0x" + "70" * 20, "0x" + "ab" * 32),
    "the zero address as the recipient": edited("0x" + "70" * 20, "0x" + "00" * 20),
    "two recipients": edited("currency:", "recipientFrom: {secretRef: {name: a, key: b}}\n        currency:"),
    "an offer twice": edited(OFFER, OFFER * 2),
    "offers that are an object": edited(OFFER, OFFER.replace("      - method", "        method")),
    "no offers at all": edited(f"  payment:\n    offers:\n{OFFER}", ""),
    "an unknown mode": edited("currency:", "modes: [pul]\n        currency:"),
    "a quote of a second": edited("  payment:\n", "  payment:\n    expiresIn: 1s\n"),
    "a quote of a year": edited("  payment:\n", "  payment:\n    expiresIn: 8760h\n"),
    "a moment that does not exist": edited("  payment:\n", "  payment:\n    notBefore: 2026-02-30T00:00:00Z\n"),
    "a credit of no attempts": edited("  payment:\n", "  payment:\n    credit: {attempts: 0}\n"),
    # routes
    "no routes": edited(ROUTE, "").replace("routes:", "routes: []"),
    "201 routes": routes(201),
    "a route without a price": edited(f", {PRICE}", ""),
    "a route that is free and has a price": edited(PRICE, f"{PRICE}, free: true"),
    "a route that is free: no": edited(PRICE, "free: no"),
    "a route that is free: a text": edited(PRICE, 'free: "true"'),
    "a price that is a number": edited('"0.05"', "0.05"),
    "a price of infinity": edited('"0.05"', ".inf"),
    "a price that is infinity as a text": edited('"0.05"', '"inf"'),
    "a price that is no number": edited('"0.05"', ".nan"),
    "a price that is NaN as a text": edited('"0.05"', '"NaN"'),
    "a price in scientific notation": edited('"0.05"', '"5e-2"'),
    "a price with a comma": edited('"0.05"', '"0,05"'),
    "a price with a currency sign": edited('"0.05"', '"$0.05"'),
    "a price with a sign": edited('"0.05"', '"-0.05"'),
    "a price with Arabic digits": edited('"0.05"', '"0.\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT FIVE}"'),
    "a price with full-width digits": edited('"0.05"', '"\N{FULLWIDTH DIGIT FIVE}"'),
    "a price of nothing": edited('"0.05"', '""'),
    "a price too fine for the currency": edited('"0.05"', '"0.0000001"'),
    "a price beyond all money": edited('"0.05"', f'"{"9" * 60}"'),
    "a price with two ways to say it": edited('amount: "0.05"', 'amount: "0.05", baseUnits: "50000"'),
    "base units with a point": edited('amount: "0.05"', 'baseUnits: "0.05"'),
    "a price for an offer that is not there": edited(PRICE, 'prices: {tmepo: "0.05"}'),
    "prices that are a list": edited(PRICE, 'prices: ["0.05"]'),
    "a path without its slash": edited("path: /thing", "path: thing"),
    "a path with a query": edited("path: /thing", 'path: "/thing?x=1"'),
    "a path with a space": edited("path: /thing", 'path: "/a thing"'),
    "a path with a percent": edited("path: /thing", 'path: "/a%2fthing"'),
    "a path with dots": edited("path: /thing", "path: /a/../thing"),
    "a path with stars in the middle": edited("path: /thing", 'path: "/a/**/b"'),
    "a path with an open brace": edited("path: /thing", 'path: "/users/{id"'),
    "a path with a back-slash": edited("path: /thing", 'path: "/a\\\\b"'),
    "a path with a letter of another script": edited("path: /thing", f'path: "/th{CYRILLIC_O}ng"'),
    "a path that is a number": edited("path: /thing", "path: 5"),
    "a path of the gateway's own": edited("path: /thing", "path: /openapi.json"),
    "no match": edited(f"{MATCH}, ", ""),
    "an unknown HTTP method": edited("method: GET", "method: FETCH"),
    "an HTTP method in lower case": edited("method: GET", "method: get"),
    "OPTIONS with a price": edited("method: GET", "method: OPTIONS"),
    "two routes of one name": edited(ROUTE, ROUTE + ROUTE.replace("path: /thing", "path: /other")),
    "a digest of no bytes": edited(PRICE, f"{PRICE}, digest: {{maxBytes: 0}}"),
    "a digest of more than memory": edited(PRICE, f"{PRICE}, digest: {{maxBytes: 99999999999}}"),
    "a digest that is a text": edited(PRICE, f'{PRICE}, digest: {{maxBytes: "1MB"}}'),
}


@pytest.fixture(scope="module")
def words(request: pytest.FixtureRequest) -> Iterator[Page]:
    yield from page("services", "PaidServices with mistakes (mpp-gateway compile -f shop.yaml -o out)", request)


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_in_a_service_is_told_in_these_words(
    case: str,
    words: Page,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    content = CASES[case]
    Path("shop.yaml").write_bytes(content.encode() if isinstance(content, str) else content)

    said = command(capsys, "compile", "-f", "shop.yaml", "-o", "out")

    assert said.out == ""
    assert "hunter2" not in said.err
    assert not Path("out").exists()
    words.holds(case, said)


def test_the_page_has_no_entry_of_a_case_that_is_gone(words: Page) -> None:
    assert words.strangers(CASES) == set()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + SERVICE.encode(),
        SERVICE.replace("\n", "\r\n").encode(),
        SERVICE.replace("\n", "  \n").encode(),
        f"---\n{SERVICE}---\n---\n# nothing more\n".encode(),
        edited('recipient: "0x', 'recipient: !!str "0x').encode(),
        edited(
            "metadata: {name: shop, namespace: tests}", "metadata: {<<: {namespace: tests}, name: shop}"
        ).encode(),
    ],
    ids=["BOM", "CRLF", "white space", "empty documents", "a plain tag", "a merge key"],
)
def test_what_is_only_unusual_means_the_same(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.yaml").write_text(SERVICE)
    Path("unusual.yaml").write_bytes(content)

    plain = command(capsys, "compile", "-f", "plain.yaml", "-o", "out")
    unusual = command(capsys, "compile", "-f", "unusual.yaml", "-o", "out")

    assert (plain.code, unusual) == (0, plain)
