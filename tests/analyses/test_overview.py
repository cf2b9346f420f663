"""analyses/README.md names every question that is here, and links to pages that are there."""

import re
from pathlib import Path

ANALYSES = Path(__file__).parents[2] / "analyses"
TEXT = (ANALYSES / "README.md").read_text(encoding="utf-8")


def test_every_folder_is_named():
    folders = {path.parent.name for path in ANALYSES.glob("*/__init__.py")}
    assert folders
    named = set(re.findall(r"^\| \[?([a-z_]+)\b", TEXT, re.MULTILINE))
    linked = {link.split("/")[0] for link in re.findall(r"\]\(([a-z_]+/[^)]*)\)", TEXT)}
    assert folders - named - linked == set()


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    there = [link for link in links if not link.startswith("https://")]
    assert there
    assert [link for link in there if not (ANALYSES / link).is_file()] == []


def test_every_figure_of_the_paper_has_a_verdict():
    rows = re.findall(r"^\| (\d+)(?:, Mamba-[12])? \| [^|]+ \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert {int(number) for number, _ in rows} == set(range(1, 12))
    verdicts = ("holds", "in part", "does not hold at this size", "not tested", "not tested yet")
    assert {verdict for _, verdict in rows} <= set(verdicts)
