"""Every link in the documents leads somewhere, and every page can be found from docs/README.md."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _links() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scripts_links", ROOT / "scripts" / "links.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links = _links()
DOCUMENTS = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    if name and (ROOT / name).exists()
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    assert links.broken(document, ROOT) == []


def test_every_page_can_be_reached_from_the_table_of_contents() -> None:
    pages = [document for document in DOCUMENTS if document.is_relative_to(ROOT / "docs")]

    assert links.unreachable(ROOT / "docs" / "README.md", pages) == []


def test_the_table_of_contents_leads_each_question_to_one_heading() -> None:
    text = (ROOT / "docs" / "README.md").read_text()
    questions = re.findall(r"^- (.*)$", text, re.MULTILINE)

    assert questions
    for question in questions:
        found = links.targets(question)
        assert len(found) == 1, question
        assert "#" in found[0], question


def test_a_heading_has_the_anchor_that_github_gives_it() -> None:
    text = "# A `heading`, twice\n\n## A heading, twice\n\n### C04: [links](x.md) / & more\n\n```\n# no\n```\n"

    assert links.anchors(text) == {"a-heading-twice", "a-heading-twice-1", "c04-links---more"}


def test_links_are_found_in_tables_images_and_html_and_not_in_code() -> None:
    text = (
        '| a |\n|---|\n| [x](one.md#two) |\n\n![p](three.png) <img src="four.png">\n\n'
        "`[n](no.md)`\n\n    [n](no.md)\n\n[web](https://example.com) [y][ref]\n\n[ref]: five%20six.md\n"
    )

    assert links.targets(text) == ["one.md#two", "three.png", "four.png", "five six.md"]


def test_a_page_that_nothing_leads_to_is_named(tmp_path: Path) -> None:
    pages = {"README.md": "[a](a.md#x) [f](sub)", "a.md": "[b](b.md)", "b.md": "", "lost.md": "", "sub/c.md": ""}
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert links.unreachable(tmp_path / "README.md", sorted(tmp_path.rglob("*.md"))) == [tmp_path / "lost.md"]
