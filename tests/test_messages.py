"""The library speaks of arguments; the command line alone of flags, into which it translates them."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

import ssmlens
from ssmlens.cli import COMMANDS, main

PACKAGE = Path(ssmlens.__file__).parent
LIBRARY = [p for p in sorted(PACKAGE.rglob("*.py")) if p.relative_to(PACKAGE).parts[0] != "cli"]
DASHBOARD = sorted((PACKAGE.parent / "apps" / "ssmlens_dashboard").rglob("*.py"))
FLAG = re.compile(r"(?<![\w-])--[a-z]")
STYLE = re.compile(r"var\(--[a-z]+\)")
ARGUMENT = re.compile(r"`([a-z_]+)`")
# Said only of calls that no command makes.
PYTHON_ONLY = {"attention_mask", "finite", "kind", "load", "times"}


def strings(path, docstrings=True):
    """(line, text) of every string in a file; of an f-string each piece."""
    tree = ast.parse(path.read_text("utf-8"))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    documents = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    return [(n.lineno, n.value) for n in found if docstrings or id(n) not in documents]


def test_the_library_names_no_flag():
    assert len(LIBRARY) > 200
    said = [
        (str(path), line) for path in LIBRARY for line, text in strings(path) if FLAG.search(text)
    ]
    assert said == []


def test_the_dashboard_names_a_flag_only_in_a_whole_command():
    said = [
        (str(path), line)
        for path in DASHBOARD
        for line, text in strings(path)
        if FLAG.search(re.sub(r"ssmlens [a-z]+[^;]*", "", STYLE.sub("", text)))
    ]
    assert said == []


def test_what_forbids_flags_finds_them(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '"""Of --one."""\nraise ValueError(f"{path} exists: --two", "a--b -- c", "x---d")\n'
    )
    assert [FLAG.findall(text) for _, text in strings(path)] == [["--o"], [], [], ["--t"]]
    assert len(strings(path, docstrings=False)) == 3


@pytest.fixture(scope="module")
def flags():
    """Every flag of every command."""
    pages = io.StringIO()
    for name in COMMANDS:
        for words in ([name, "--help-all"], [name, "--help"]):
            with (
                contextlib.redirect_stdout(pages),
                contextlib.redirect_stderr(io.StringIO()),
                contextlib.suppress(SystemExit),
            ):
                main(words)
    return set(re.findall(r"--[a-z][a-z0-9-]*", pages.getvalue()))


def test_an_argument_in_a_message_is_a_flag_of_some_command(flags):
    from ssmlens.cli.command import in_flags

    arguments = {
        name
        for path in LIBRARY
        for _, text in strings(path, False)
        for name in ARGUMENT.findall(text)
    }
    assert {"overwrite", "eval_lengths", "devices"} <= arguments
    assert {name for name in arguments if in_flags(f"`{name}`") not in flags} == PYTHON_ONLY
