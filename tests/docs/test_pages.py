"""The pages of docs/ that show calls and commands: the Python runs, and every command line is one that is taken."""

import importlib

import pytest
from pages import blocks, command_lines, read

from ssmlens.cli import COMMANDS
from ssmlens.cli.command import parse_options

PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("commands", "training", "costs", "captured")),
)
LINES = [(page, words) for page in PAGES for words in command_lines(read(page))]


@pytest.mark.parametrize("page", ["docs/commands.md", "docs/training.md"])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks(read(page), "python")
    assert found
    for block in found:
        exec(block, names)


@pytest.mark.parametrize(
    ("page", "words"), LINES, ids=lambda it: it if isinstance(it, str) else " ".join(it)
)
def test_a_command_line_is_taken(page, words):
    command = importlib.import_module(f"ssmlens.cli.{COMMANDS[words[0]][0]}").COMMAND
    assert parse_options(command, words[0], words[1:]) is not None


def test_every_command_is_on_a_page():
    shown = {words[0] for _, words in LINES} | {"demo"}
    assert set(COMMANDS) - shown == {"validate-ranking"}, "which analyses/ranking shows"
