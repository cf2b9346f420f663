"""`--help`: quick, complete, and the same words everywhere."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

import ssmlens
from ssmlens.cli import COMMANDS


def test_help_lists_every_command(cli):
    said = cli("--help")
    assert said.code == 0
    listed = [line.split()[0] for line in said.out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert cli().code == 2  # no command is bad use, told with the same page
    assert cli().out == cli("-h").out == said.out


def test_version(cli):
    assert cli("--version").out == f"ssmlens {ssmlens.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_every_option_with_what_it_is_for(cli, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    said = cli(name, "--help")
    assert said.code == 0
    assert said.err == ""
    command = importlib.import_module(f"ssmlens.cli.{COMMANDS[name][0]}").COMMAND
    text = " ".join(said.out.split())
    assert " ".join(command.__doc__.split())[:60] in text
    assert f"usage: ssmlens {name} " in text
    for field in dataclasses.fields(command):
        there, not_there = ("no-", "") if field.default is True else ("", "no-")
        option = f"--{there}{field.name.replace('_', '-')}"
        assert f"--{not_there}{field.name.replace('_', '-')}" not in said.out
        positional = hasattr(field.type, "__metadata__")  # tyro.conf.Positional
        assert positional or option in said.out
    assert "--json" in said.out


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
    program = [sys.executable, "-m", "ssmlens.cli"]
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
