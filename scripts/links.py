"""Fail when a Markdown file links to a file or a heading of this repository that is not there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The ids GitHub gives to a document's headings."""
    seen: dict[str, int] = {}
    ids = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        base = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        ids.add(f"{base}-{seen[base]}" if base in seen else base)
        seen[base] = seen.get(base, 0) + 1
    return ids


def broken(document: Path, root: Path) -> list[str]:
    """One line for each link of `document` that leads nowhere in `root`."""
    problems = []
    for match in _LINK.finditer(_FENCE.sub("", document.read_text(encoding="utf-8"))):
        target = next(filter(None, match.groups()))
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.is_relative_to(root) or not path.exists():
            problems.append(f"{document.relative_to(root)}: {target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.read_text(encoding="utf-8")):
            problems.append(f"{document.relative_to(root)}: {target}: no such heading")
    return problems


def main() -> int:
    """Check every Markdown file that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    problems = [line for name in listed.split("\0") if name for line in broken(ROOT / name, ROOT)]
    for line in problems:
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"links: {len(problems)} broken\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
