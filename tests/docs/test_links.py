"""Every link in every page leads somewhere: to a file of the checkout, and to a title in it."""

import re

import pytest
from pages import ROOT, unfenced

FOLDERS = ("docs", "data", "analyses", "tests", "ssmlens", "apps")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
)


def text_of(page):
    """A page without its code, in which brackets are no links."""
    text = unfenced(page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """What a title can be linked by: small letters, hyphens for spaces, no punctuation."""
    text = unfenced(page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_page_resolves(page):
    targets = re.findall(r"\]\(\s*([^)\s]+)\s*\)", text_of(page))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_there_are_pages_and_links_to_check():
    assert {"README.md", "ARCHITECTURE.md"} <= {page.name for page in PAGES}
    assert "the-paper-figure-by-figure" in anchors(ROOT / "analyses" / "README.md")
