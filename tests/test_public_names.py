"""What a user reaches from `import ssmlens`: one list, which runs, and which type checkers read."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
import tomllib
import typing
from pathlib import Path
from types import ModuleType

import pytest

import ssmlens

PACKAGE = Path(ssmlens.__file__).parent
LAZY = ("ssmlens", "ssmlens.edits", "ssmlens.store")
FOLDERS = {path.name for path in PACKAGE.iterdir() if path.is_dir()}


def stub_of(package):
    """Name → the module that has it, or None where it is a module itself."""
    path = Path(importlib.import_module(package).__file__ or "").with_suffix(".pyi")
    names = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            assert alias.asname == alias.name, "else it is private to type checkers"
            assert alias.name not in names
            names[alias.name] = node.module and f"{package}.{node.module}"
        else:
            assert ast.unparse(node) in ("__version__: str", "__all__: list[str]")
    return names


@pytest.mark.parametrize("package", LAZY)
def test_the_names_of_the_stub_are_those_that_can_be_imported(package):
    names = stub_of(package)
    module = importlib.import_module(package)
    assert sorted(names) == module.__all__ == dir(module)
    for name, home in names.items():
        here = {}
        exec(f"from {package} import {name}", here)
        if home is None:
            assert here[name] is importlib.import_module(f"{package}.{name}")
        else:
            assert here[name] is getattr(importlib.import_module(home), name)
            assert inspect.getdoc(here[name])
    with pytest.raises(AttributeError, match="atention_map"):
        module.atention_map  # noqa: B018


def test_no_folder_hides_a_public_name():
    functions = {n for n in ssmlens.__all__ if not isinstance(getattr(ssmlens, n), ModuleType)}
    assert not FOLDERS & functions


def test_every_error_is_public():
    errors = {name for name, thing in vars(ssmlens.errors).items() if inspect.isclass(thing)}
    assert {"SsmlensError", "UsageError"} <= errors <= {*ssmlens.__all__}


def test_what_a_public_function_returns_is_public():
    """So that it can be named where it is handed on."""
    public = {getattr(ssmlens, name) for name in ssmlens.__all__}
    hidden = []
    for name in ssmlens.__all__:
        function = getattr(ssmlens, name)
        if inspect.isfunction(function):
            returned = typing.get_type_hints(inspect.unwrap(function)).get("return")
            hidden += [(name, it) for it in classes_in(returned) if it not in public]
    assert hidden == []


def classes_in(hint):
    """Classes of ssmlens anywhere in a type."""
    if inspect.isclass(hint) and hint.__module__.startswith("ssmlens"):
        yield hint
    for part in typing.get_args(hint):
        yield from classes_in(part)


FIRST_USE = """
model = ssmlens.load_model("copy-mamba1-mimetic")
captured = ssmlens.capture(model, ["abc|abc"], out=None)
print(ssmlens.rank_layers(captured)[0].layer, captured.layer(3).verdict.believed)"""


def test_a_type_checker_knows_every_public_name_and_no_other(tmp_path):
    settings = {"extraPaths": [str(PACKAGE.parent)], "typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    lines = ["import ssmlens", *(f"print(ssmlens.{name})" for name in ssmlens.__all__)]
    lines += [FIRST_USE]
    unknown = "\n".join(lines).count("\n") + 1
    (tmp_path / "user.py").write_text("\n".join([*lines, "print(ssmlens.atention_map)\n"]))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    attribute = [it for it in found if it["rule"] == "reportAttributeAccessIssue"]
    assert [it["range"]["start"]["line"] for it in attribute] == [unknown]
    assert {it["range"]["start"]["line"] for it in found} == {unknown}


def test_the_types_ship():
    """The marker of PEP 561 and the stubs lie in the package, whose folder the wheel takes whole."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "ssmlens" in wheel["packages"]
    assert not {"exclude", "include", "only-include"} & wheel.keys()
    assert (PACKAGE / "py.typed").read_bytes() == b""


def run(code, *words):
    return subprocess.run(
        [sys.executable, "-W", "error", *(["-c", code] if code else []), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_import_and_a_look_around_bring_nothing_heavy():
    code = """
import sys, ssmlens
dir(ssmlens), ssmlens.__version__, ssmlens.UsageError
heavy = {"torch", "numpy", "h5py", "xarray", "scipy", "plotly", "tyro", "transformers"}
print(*heavy & {*sys.modules})
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_the_package_runs_as_the_command_line():
    done = run(None, "-m", "ssmlens", "--version")
    assert (done.returncode, done.stdout) == (0, f"ssmlens {ssmlens.__version__}\n")
    wrong = run(None, "-m", "ssmlens", "captur")
    assert wrong.returncode == 2
    assert wrong.stderr == "ssmlens: unknown command 'captur'; did you mean 'capture'?\n"


@pytest.mark.parametrize("module", ["ssmlens", "ssmlens.cli"])
def test_windows_is_refused_in_one_line(module):
    done = run(f"import sys; sys.platform = 'win32'; import {module}")
    assert done.returncode == 1
    last = done.stderr.strip().split("\n")[-1]
    assert last.startswith("ImportError: ssmlens runs on Linux and macOS only: on Windows, ")
