"""What CONTRIBUTING.md and SECURITY.md name is there: commands, files, the place of every kind of thing to add."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
TARGETS = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"))[1].split()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## Add something")[2].splitlines()
    if line.startswith("| ") and "`" in line
]


def quoted_paths(text):
    """What stands in backticks and looks like a path of the checkout, placeholders left out."""
    names = re.findall(r"`([\w./-]+)`", text)
    return [
        n for n in names if ("/" in n or n.endswith((".py", ".toml", ".txt"))) and "NAME" not in n
    ]


def test_every_lane_is_named_and_every_command_is_a_lane():
    named = {*re.findall(r"make ([a-z][\w.-]*)", PAGE)}
    assert named - {"test-transformers-5.14"} == {*TARGETS}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_is_named_is_there(page):
    text = (ROOT / page).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = [path for path in quoted_paths(text) if not path.startswith(".venv/")]
    assert len(paths) > 10
    assert [path for path in (*paths, *links) if not (ROOT / path).exists()] == []


def test_every_kind_of_thing_has_its_place_its_contract_and_a_test():
    registered = re.compile(r"Registry(?:\[[^\]]*\])?\(\s*\"[\w ]+\",\s*\"(ssmlens[\w.]*)\"")
    sources = [path.read_text("utf-8") for path in (ROOT / "ssmlens").rglob("*.py")]
    folders = {name.replace(".", "/") for text in sources for name in registered.findall(text)}
    assert folders >= {"ssmlens/adapters", "ssmlens/effect/measures"}, "it finds registries"
    places = {row[1].strip("`").rpartition("/")[0] for row in ROWS}
    assert places == folders | {"apps/ssmlens_dashboard/pages", "ssmlens/cli"}
    for _, place, contract, tests in ROWS:
        assert (ROOT / place.strip("`")).parent.is_dir()
        assert quoted_paths(contract)
        assert any(path.startswith("tests/") for path in quoted_paths(tests))


def test_lists_to_which_a_name_is_added_are_where_the_page_says():
    """A test that has a list of names fails when one is added; the page says which tests those are."""
    for name, expression in (("score", r"set\(SCORES\) == "), ("task", r"set\(tasks\) == ")):
        (row,) = (row for row in ROWS if row[0] == name)
        path = re.search(r"`(tests/\S+)`: add the name to its list", row[3])[1]
        assert re.search(expression, (ROOT / path).read_text("utf-8"))
