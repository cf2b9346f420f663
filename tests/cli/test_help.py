"""`--help`: quick, complete, and the same words everywhere."""

import dataclasses
import importlib
import math
import os
import re
import subprocess
import sys

import pytest

import ssmlens
from ssmlens.cli import COMMANDS
from ssmlens.inits.init import inits
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE
from ssmlens.tasks.task import tasks
from ssmlens.training.config import PARTS
from ssmlens.training.gather import option_docs


def test_help_lists_every_command(cli):
    said = cli("--help")
    assert said.code == 0
    listed = [line.split()[0] for line in said.out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert cli().code == 2  # no command is bad use, told with the same page
    assert cli().out == cli("-h").out == said.out


def test_version(cli):
    assert cli("--version").out == f"ssmlens {ssmlens.__version__}\n"


PAGED = ("train", "sweep", "transplant", "validate-ranking")


@pytest.mark.parametrize("name", PAGED)
def test_a_page_of_help_is_enough_to_start(name):
    page = _in_a_terminal(name, "--help")
    lines = page.splitlines()
    assert sum(max(1, math.ceil(len(line) / 80)) for line in lines) <= 45
    assert "--help-all shows every option." in page
    first_page = importlib.import_module(f"ssmlens.cli.{COMMANDS[name][0]}").COMMAND.first_page
    assert _options(page) == {f"--{option.replace('_', '-')}" for option in first_page}
    every = _in_a_terminal(name, "--help-all")
    assert _options(page) < _options(every)
    assert len(every.splitlines()) > 2 * len(lines)


def _in_a_terminal(*words):
    """What a terminal of 80 columns shows."""
    terminal = os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    program = [sys.executable, "-m", "ssmlens", *words]
    said = subprocess.run(program, env=terminal, capture_output=True, encoding="utf-8", check=True)
    assert said.stderr == ""
    return said.stdout


def _options(page):
    """The options that have a line of their own."""
    first_words = {line.strip("│ ").split(" ")[0] for line in page.splitlines() if "│" in line}
    return {word for word in first_words if word.startswith("--")}


def test_the_first_page_says_what_each_option_is_for(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for name in PAGED:
        for line in cli(name, "--help").out.splitlines():
            words = line.strip("│ ").split()
            if words and re.match(r"--[a-z]", words[0]):
                assert len(words) > 3, line


def test_a_page_with_options_that_it_hides_is_still_a_page(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli("train", "--d-state", "8", "--json", "--help").out == cli("train", "--help").out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_every_option_with_what_it_is_for(cli, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    said = cli(name, "--help-all" if name in PAGED else "--help")
    assert said.code == 0
    assert said.err == ""
    command = importlib.import_module(f"ssmlens.cli.{COMMANDS[name][0]}").COMMAND
    text = " ".join(said.out.split())
    assert " ".join(command.__doc__.split())[:60] in text
    assert f"usage: ssmlens {name} " in text
    fields = dataclasses.fields(command)
    parts = [field.name for field in fields if dataclasses.is_dataclass(field.type)]
    assert parts in ([], list(PARTS)), "each a group of its own"
    assert [title for title in PARTS if f" {title} options " in said.out] == parts
    for field in [f for f in fields if f.name not in parts] + [
        field for part in parts for field in dataclasses.fields(PARTS[part])
    ]:
        there, not_there = ("no-", "") if field.default is True else ("", "no-")
        option = f"--{there}{field.name.replace('_', '-')}"
        assert f"--{not_there}{field.name.replace('_', '-')}" not in said.out
        positional = hasattr(field.type, "__metadata__")  # tyro.conf.Positional
        assert positional or option in said.out
    assert "--json" in said.out


def test_help_of_rank_layers_says_what_is_known_of_transplants(cli):
    assert TRANSPLANT_EVIDENCE in " ".join(cli("rank-layers", "--help").out.split())


@pytest.mark.parametrize(
    ("option", "name", "registry"),
    [*(("--task", name, tasks) for name in tasks), *(("--init", name, inits) for name in inits)],
)
def test_help_of_a_task_or_an_init_says_what_its_own_options_are_for(
    cli, option, name, registry, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "100")
    said = cli("train", option, name, "--help")
    lines = [line.strip("│ ") for line in said.out.splitlines()]
    for field, told in option_docs(registry[name]).items():
        flag = f"--{field.replace('_', '-')}"
        assert told, f"{field} of {name} has no docstring"
        assert any(line.split(" ")[0] == flag for line in lines), flag


def test_options_of_another_task_are_listed_by_name(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = cli("train", "--help-all").out
    assert "ngram: --n --answer --cue" in " ".join(said.split())
    assert not any(line.strip("│ ").startswith("--cue") for line in said.splitlines())
    assert "Letters of the cue" in cli("train", "--task=ngram", "-h").out


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["capure"]])
def test_help_needs_none_of_the_heavy_libraries(words):
    heavy = ("torch", "numpy", "tyro", "h5py", "xarray", "transformers", "rich", "plotly")
    code = (
        "import sys; from ssmlens.cli import main; main(sys.argv[1:]);"
        f"print('HEAVY', *(name for name in {heavy} if name in sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[-1] == "HEAVY"


def test_it_runs_as_a_program(tmp_path):
    """The exit code reaches the shell, a reader that leaves early is no error, and so is a module run by name."""
    program = [sys.executable, "-m", "ssmlens"]
    bad = subprocess.run([*program, "capure"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr == "ssmlens: unknown command 'capure'; did you mean 'capture'?\n"
    with subprocess.Popen(
        [*program, "models", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as gone:
        assert gone.stdout is not None
        assert gone.stderr is not None
        gone.stdout.close()
        assert gone.stderr.read() == b""
    assert gone.returncode == 0
