"""docs/first_look.ipynb runs from top to bottom in a process of its own, and what it says of its numbers is so."""

import ast
import json
import subprocess
import sys

from pages import ROOT, read

NOTEBOOK = json.loads(read("docs/first_look.ipynb"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
STEPS = ("Load a model", "Record", "Plot a map", "Score", "Rank", "The capture", "Compare")
# What a notebook does with a cell's last value: shows it.
RUN = """
import ast, json, sys

names = {}
for cell in json.load(sys.stdin):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        shown = getattr(value, "_repr_html_", lambda: None)() or repr(value)
        assert len(shown) < 8_000_000
        names["_"] = value
    names.setdefault("values", []).append(names.get("_"))
assert names["text"][names["looks_at"]] == "l"
assert names["values"][0] == "l"
assert names["values"][-1] != "l"
ours, theirs = names["ours"], names["theirs"]
assert ours["copy_score"].idxmax() == 3
assert ours["copy_score"].max() > 5 * ours["copy_score_chance"].max()
assert theirs["copy_score"].max() < 2 * ours["copy_score_chance"].max()
assert names["layer"].verdict.believed
"""


def test_it_runs_from_top_to_bottom(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input=json.dumps(CODE),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.h5").is_file()


def test_it_holds_no_output_and_is_a_notebook():
    assert (ROOT / "docs/first_look.ipynb").stat().st_size < 20_000
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))


def test_its_steps_are_those_that_are_promised():
    text = ["".join(cell["source"]) for cell in NOTEBOOK["cells"]]
    titles = [cell.splitlines()[0].removeprefix("## ") for cell in text if cell.startswith("## ")]
    assert titles == list(STEPS)
