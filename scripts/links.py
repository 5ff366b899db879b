"""Fail when a Markdown file links to a file or a heading of this repository that is not there, or when a page of
docs/ cannot be reached from docs/README.md."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

ROOT = Path(__file__).resolve().parent.parent
START = Path("docs") / "README.md"
#: GitHub's own flavour, with the ids it gives to headings.
_MARKDOWN = MarkdownIt("gfm-like", {"linkify": False}).use(anchors_plugin, max_level=6)
_HTML = re.compile(r"(?:src|href)=\"([^\"]+)\"")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")


def _tokens(text: str) -> Iterator[Token]:
    for token in _MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


def anchors(text: str) -> set[str]:
    """The ids GitHub gives to a document's headings."""
    return {str(token.attrGet("id")) for token in _tokens(text) if token.type == "heading_open"}


def targets(text: str) -> list[str]:
    """What a document links to in this repository, in its order: `file#heading`, either part may be empty."""
    found: list[str] = []
    for token in _tokens(text):
        if token.type in ("html_block", "html_inline"):
            found += _HTML.findall(token.content)
        else:
            found += [str(token.attrGet(name)) for name in ("href", "src") if token.attrGet(name)]
    return [unquote(target) for target in found if not _SCHEME.match(target)]


def broken(document: Path, root: Path) -> list[str]:
    """One line for each link of `document` that leads nowhere in `root`."""
    problems = []
    for target in targets(document.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.is_relative_to(root) or not path.exists():
            problems.append(f"{document.relative_to(root)}: {target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text(encoding="utf-8")):
            problems.append(f"{document.relative_to(root)}: {target}: no such heading")
    return problems


def unreachable(start: Path, pages: list[Path]) -> list[Path]:
    """The `pages` that no chain of links leads to from `start`. A linked folder leads to all its pages."""
    seen: set[Path] = set()
    waiting = [start.resolve()]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.is_dir():
            waiting += sorted(page.glob("*.md"))
        elif page.suffix == ".md" and page.exists():
            names = (target.partition("#")[0] for target in targets(page.read_text(encoding="utf-8")))
            waiting += [(page.parent / name).resolve() for name in names if name]
    return [page for page in pages if page.resolve() not in seen]


def main() -> int:
    """Check every Markdown file that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    documents = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]
    problems = [line for document in documents for line in broken(document, ROOT)]
    pages = [document for document in documents if document.is_relative_to(ROOT / "docs")]
    problems += [
        f"{page.relative_to(ROOT)}: expected a way to it from {START}, got none: link it there"
        for page in unreachable(ROOT / START, pages)
    ]
    for line in problems:
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"links: {len(problems)} broken\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
