"""Imports point one way, so that a reader can follow the data from room to room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ssmlens

PACKAGE = Path(ssmlens.__file__).parent
LEAVES = {*("names", "errors", "extras", "registry", "options", "text_table", "notebook"), "files"}
SCAN = {"scan", *LEAVES}
MODELS = {"models", *SCAN}
ADAPTERS = {"adapters", *MODELS}
STORE = {"store", *SCAN}
TASKS = {"tasks", *LEAVES}
SCORES = {"scores", *STORE}
RUNS = {"runs", "store", *LEAVES}
# Room → the rooms that its modules may import, inside functions too.
MAY_IMPORT = {
    "names": set(),
    "errors": set(),
    "extras": {"errors"},
    "registry": {"errors"},
    "options": set(),
    "text_table": set(),
    "files": {"files", "errors"},
    "notebook": {"errors", "registry"},
    "scan": SCAN,
    "models": MODELS,
    "adapters": ADAPTERS,
    "inits": {"inits", *ADAPTERS},
    "store": STORE,
    "tasks": TASKS,
    "recorder": {"recorder", *ADAPTERS, *STORE, *TASKS},
    "edits": {"edits", "recorder", *ADAPTERS, *STORE, *TASKS},
    "effect": {"effect", "edits", "recorder", *ADAPTERS, *STORE, *TASKS},
    "attribution": {"attribution", "edits", "recorder", *ADAPTERS, *STORE, *TASKS},
    "scores": SCORES,
    "runs": RUNS,
    "training": {"training", "inits", "recorder", *ADAPTERS, *SCORES, *TASKS, *RUNS},
    "plot": {"plot", *SCORES, *RUNS},
}
# Rooms whose arithmetic must run anywhere: nothing from outside but these.
OUTSIDE = {
    "names": set(),
    "errors": set(),
    "extras": set(),
    "registry": set(),
    "options": set(),
    "files": {"filelock", "numpy"},
    "scan": {"torch", "jaxtyping"},
    "tasks": {"torch", "jaxtyping"},
    # The dashboard reads runs where nothing can be trained.
    "runs": {"numpy", "xarray", "scipy", "jaxtyping"},
}
# Files of these rooms that need Triton. What needs them loads them by name, where Triton is.
KERNELS = {PACKAGE / "scan" / f"{name}.py" for name in ("decay_kernels", "energy_kernels")}
COMMANDS_THAT_TRAIN = {
    PACKAGE / "cli" / f"{name}.py"
    for name in (
        "config_options",
        "train",
        "sweep",
        "sweep_options",
        "transplant",
        "validate_ranking",
    )
}
FILES = sorted(PACKAGE.rglob("*.py"))
DASHBOARD = sorted((PACKAGE.parent / "apps" / "ssmlens_dashboard").rglob("*.py"))
# What the dashboard shows is stored, scored and drawn elsewhere: it imports no other room.
DASHBOARD_MAY_IMPORT = {"files", "store", "runs", "scores", "plot", "names", "errors"}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree):
    """(module, whether the module as a whole runs it) of every import, relative ones made to fail."""
    top = {id(node) for node in top_level(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "ssmlens":
                yield from ((f"ssmlens.{alias.name}", id(node) in top) for alias in node.names)
            else:
                yield node.module, id(node) in top


def top_level(node):
    """Every statement that runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from top_level(child)


def test_every_room_has_its_rule():
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms == {*MAY_IMPORT, "cli"}


def test_only_kernels_import_kernels():
    names = {path.stem for path in KERNELS}
    for path in {*FILES} - KERNELS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                parts = [*(getattr(node, "module", None) or "").split(".")]
                parts += [part for alias in node.names for part in alias.name.split(".")]
                assert not names.intersection(parts), path


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_before_it(room):
    for path in FILES:
        if room_of(path) != room:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for module, _ in imported(tree):
            first, *rest = module.split(".")
            if first != "ssmlens":
                known = sys.stdlib_module_names | OUTSIDE.get(room, {first})
                known |= {"triton"} if path in KERNELS else set()
                assert first in known, f"{path} imports {module}"
            elif rest:
                assert rest[0] in MAY_IMPORT[room], f"{path} imports {module}"
        taken = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "ssmlens"
        }
        assert taken <= {"__version__"}, f"{path} goes through the front door: {taken}"


def test_the_command_line_imports_inside_its_functions():
    for path in FILES:
        if room_of(path) != "cli":
            continue
        for module, at_import in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if at_import:
                first, *rest = module.split(".")
                known = sys.stdlib_module_names | {"tyro"}
                leaves = (["cli"], ["errors"], ["options"], ["text_table"])
                mine = first == "ssmlens" and rest[:1] in leaves
                # Tasks and inits declare the options of the commands that train: torch comes with them.
                mine = mine or (path in COMMANDS_THAT_TRAIN and module == "ssmlens.training.config")
                # One sentence, which a help page quotes; it imports nothing, and neither does its package.
                mine = mine or module == "ssmlens.runs.transplant_evidence"
                assert first in known or mine, f"{path} imports {module} when imported"


def test_nothing_in_the_package_knows_its_users():
    # The commands that serve the dashboard and draw its figures know it, inside their functions.
    of_the_dashboard = {PACKAGE / "cli" / name for name in ("dashboard.py", "figure.py")}
    for path in FILES:
        users = {"apps", "analyses", "tests"}
        users |= set() if path in of_the_dashboard else {"ssmlens_dashboard"}
        for module, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            assert module.split(".")[0] not in users, f"{path} imports {module}"


def test_the_dashboard_imports_what_it_shows():
    assert DASHBOARD
    for path in DASHBOARD:
        for module, _ in imported(ast.parse(path.read_text(encoding="utf-8"))):
            first, *rest = module.split(".")
            assert first not in ("torch", "transformers", "h5py"), f"{path} imports {module}"
            if first == "ssmlens":
                assert {*rest[:1]} <= DASHBOARD_MAY_IMPORT, f"{path} imports {module}"


def test_the_package_itself_imports_nothing_of_its_own():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for module, _ in imported(tree):
        assert module.split(".")[0] in {"lazy_loader", *sys.stdlib_module_names}


def test_runs_are_read_and_compared_without_torch():
    rooms = "compare, students, table"
    code = f"import sys; from ssmlens.runs import {rooms}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_figures_are_a_package_that_is_imported_when_asked_for():
    code = "import sys, ssmlens; assert 'plotly' not in sys.modules; ssmlens.plot.map; assert 'plotly' in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
    assert "plot" in dir(ssmlens)


def test_no_module_of_the_figures_hides_one_of_their_names():
    """An import of a module sets an attribute of its package: it would take the function's place."""
    modules = {path.stem for path in (PACKAGE / "plot").iterdir()}
    assert not modules & set(ssmlens.plot.__all__)
    for name in ssmlens.plot.__all__:
        assert callable(getattr(ssmlens.plot, name))
