"""Everything in README.md is run: its commands, its Python, what they print; its tables are those of the registries."""

import contextlib
import io
import re

import pytest
from pages import ROOT, assert_same, blocks, read, section, table, transcript, unfenced

from ssmlens.cli import COMMANDS
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.scores.glossary import glossary
from ssmlens.text_table import text_table

README = read("README.md")
SCRIPT, PRINTED = blocks(README, "python"), blocks(README, "text")
OFFLINE, DASHBOARD, TRAINING = blocks(README, "console")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Blocks run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_one_that_is_run_here():
    assert len(re.findall(r"^```", README, re.MULTILINE)) == 2 * (1 + 2 + 3)
    (indented,) = re.findall(r"(?:^    \S.*\n)+", unfenced(README), re.MULTILINE)
    commands = [line.split()[:2] for line in indented.splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]
    makefile = read("Makefile")
    assert "\ndemo: setup\n\t$(BIN)/ssmlens demo\n" in makefile
    assert "\ntest: setup\n" in makefile
    assert "make test\n" in read(".ci/run")


def test_the_demo_prints_what_is_shown(cli):
    said = cli("demo", "--no-serve")
    assert said.code == 0, said.err
    assert_same(PRINTED[0], said.out.partition("\n\nopen ")[0])


def test_the_ten_lines_run_as_pasted_and_print_what_is_shown(here):
    (script,) = SCRIPT
    lines = [line for line in script.splitlines() if line and not line.startswith("import")]
    assert len(lines) == 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(script, {})
    assert_same(PRINTED[1], out.getvalue())
    assert (here / "map.html").stat().st_size > 10_000


def test_the_commands_print_what_is_shown(cli, here):
    for words, shown in transcript(OFFLINE):
        said = cli(*words)
        assert said.code == 0, said.err
        assert_same(shown, said.out)
    assert {file.name for file in here.iterdir() if file.suffix} == {"copy.h5", "report.html"}


def test_the_dashboard_is_a_command_that_is_run_elsewhere():
    assert transcript(DASHBOARD) == [(["dashboard", "."], "")]
    assert (ROOT / "tests/cli/test_dashboard_command.py").is_file()


def test_training_prints_lines_like_those_that_are_shown(cli):
    for words, shown in transcript(TRAINING):
        said = cli(*words)
        assert said.code == 0, said.err
        assert_same(shown, said.out, numbers=False)


def test_commands_that_are_named_exist():
    named = set(re.findall(r"(?:`|\$ )ssmlens ([a-z-]+)", README))
    assert {"capture", "rank-layers", "dashboard", "verify", "report", "train", "compare"} <= named
    assert named <= set(COMMANDS)


def test_the_table_of_scores_is_the_glossary():
    head = ("score", "how it is computed", "range", "by chance")
    rows = [head, *((f"`{e.name}`", e.formula, e.range, e.chance) for e in glossary())]
    expected = re.sub(r" {2,}", " ", text_table(rows, range(4), form="markdown"))
    assert table(section(README, "The scores")) == re.sub(r"-{3,}", "--", expected)


def test_it_says_of_transplants_what_the_help_says():
    assert TRANSPLANT_EVIDENCE in " ".join(section(README, "The scores").split())


def test_the_papers_are_named_and_linked():
    for link in (
        "[Mimetic Initialization Helps State Space Models Learn to Recall](https://arxiv.org/abs/2410.11135)",
        "[The Hidden Attention of Mamba Models](https://arxiv.org/abs/2403.01590)",
    ):
        assert link in " ".join(README.split())
