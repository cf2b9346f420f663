"""With the base packages alone a library user captures and ranks; what an extra brings is asked for in one line."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssmlens
from ssmlens.errors import MissingExtraError, UsageError
from ssmlens.extras import extra

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What no base installation has; jinja2 and markupsafe come with torch.
ABSENT = (
    *("dash", "dash_ag_grid", "dash_mantine_components"),
    *("kaleido", "plotly", "ray", "transformers"),
)
HIDE = """
import sys

sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))  # None: as if not installed
"""


def run_without(absent, code, *words):
    """A process of its own in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE + code, ",".join(absent), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def command_without(absent, *words):
    code = "from ssmlens.cli import main; sys.exit(main(sys.argv[1:]))"
    return run_without(absent, code, *words)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """What a process with the base alone wrote and said."""
    folder = tmp_path_factory.mktemp("base")
    code = """
import json, torch, ssmlens

model = ssmlens.load_model("copy-mamba1-mimetic")
with ssmlens.recording(model) as rec, torch.no_grad():
    model(torch.arange(6)[None])
cap = ssmlens.capture(model, ["abc|abc"], out=sys.argv[1])
opened = ssmlens.open_capture(sys.argv[1])
said = {
    "closure": rec[3].closure_error,
    "layers": list(opened.layers),
    "rows": len(ssmlens.rank_layers(cap).rows),
    "map": ssmlens.attention_map(rec[3].operands)[0].tolist(),
    "cards": [rec[3]._repr_html_(), rec[3]._repr_html_(), opened._repr_html_()],
}
try:
    ssmlens.plot.map(opened.layer(3))
except ImportError as error:
    said["plot"] = str(error)
print(json.dumps(said))
"""
    done = run_without(ABSENT, code, folder / "run.h5")
    assert done.returncode == 0, done.stderr
    return folder / "run.h5", json.loads(done.stdout)


def test_models_are_recorded_captured_and_ranked_with_the_base_alone(base):
    path, said = base
    assert said["layers"] == [0, 1, 2, 3]
    assert said["rows"] == 4
    assert said["closure"] < 1e-4
    with ssmlens.open_capture(path) as capture:
        assert capture.layer(3).attention_map(0).shape == (7, 7)
    rows = said["map"]
    assert len(rows) == 6
    assert all(rows[i][j] == 0 for i in range(6) for j in range(i + 1, 6))


def test_figures_are_refused_and_notebooks_print_instead(base):
    _, said = base
    assert said["plot"] == "ssmlens.plot needs plotly: pip install 'ssmlens[plot]'"
    assert said["cards"] == [None, None, None], "asked again it is the same"


def test_every_name_is_imported_at_once_but_those_of_the_figures():
    code = "from ssmlens import *; print(*(name for name in dir() if not name.startswith('_')))"
    done = run_without(ABSENT, code)
    assert (done.returncode, done.stderr) == (0, "")
    stub = (ROOT / "ssmlens" / "__init__.pyi").read_text("utf-8")
    homes = re.findall(r"(?m)^from (\S+) import (\w+) as \2$", stub)
    figures = {name for home, name in homes if home.startswith(".plot") or name == "plot"}
    assert {*done.stdout.split()} - {"sys"} == {name for _, name in homes} - figures
    assert figures == {"Report", "plot", "report"}


@pytest.mark.parametrize(
    ("words", "absent", "line"),
    [
        (["dashboard"], ABSENT, "ssmlens dashboard needs dash: pip install 'ssmlens[dashboard]'"),
        (["report", "FILE"], ABSENT, "ssmlens.plot needs plotly: pip install 'ssmlens[plot]'"),
        (
            ["figure", "FILE", "--layer", 0, "--out", "OUT.svg"],
            ABSENT,
            "ssmlens.plot needs plotly: pip install 'ssmlens[plot]'",
        ),
        (
            ["figure", "FILE", "--layer", 0, "--out", "OUT.svg"],
            ["kaleido"],
            ".svg needs kaleido: pip install 'ssmlens[export]'; .html needs nothing",
        ),
        (
            ["demo", "--out", "OUT"],
            ABSENT,
            "ssmlens.plot needs plotly: pip install 'ssmlens[plot]'",
        ),
    ],
)
def test_a_command_says_which_extra_it_needs(base, tmp_path, words, absent, line):
    paths = {"FILE": base[0], "OUT": tmp_path / "out", "OUT.svg": tmp_path / "out.svg"}
    done = command_without(absent, *(paths.get(word, word) for word in words))
    assert (done.returncode, done.stderr) == (2, f"ssmlens: {line}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_transformers_says_which_extra_it_needs(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    done = command_without(["transformers"], "capture", "--model", tmp_path, "--prompts", "a")
    assert done.returncode == 2
    assert done.stderr == (
        f"ssmlens: {tmp_path} needs transformers: pip install 'ssmlens[transformers]'\n"
    )


@pytest.mark.parametrize("words", [["info", "FILE"], ["rank-layers", "FILE"], ["verify", "FILE"]])
def test_commands_of_the_base_run_without_extras(base, words):
    done = command_without(ABSENT, *(base[0] if word == "FILE" else word for word in words))
    assert (done.returncode, done.stderr) == (0, "")


def test_every_help_page_is_there_without_extras():
    code = """
import contextlib, io
from ssmlens.cli import COMMANDS, main

for name in COMMANDS:
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert f"usage: ssmlens {name} " in page.getvalue(), name
"""
    done = run_without(ABSENT, code)
    assert done.returncode == 0, done.stderr


def test_a_module_of_ours_is_not_blamed_on_an_extra():
    with (
        pytest.raises(ModuleNotFoundError, match=r"ssmlens\.no_such") as caught,
        extra("plot", "it"),
    ):
        importlib.import_module("ssmlens.no_such")
    assert not isinstance(caught.value, MissingExtraError)
    with pytest.raises(MissingExtraError) as caught, extra("ray", "this", otherwise="or wait"):
        raise ModuleNotFoundError("No module named 'ray.util'", name="ray.util")
    assert str(caught.value) == "this needs ray: pip install 'ssmlens[ray]'; or wait"
    assert isinstance(caught.value, UsageError)


def packages(lines):
    """Distributions that some requirements name, those of our own extras among them."""
    found = set()
    for line in lines:
        if inner := re.fullmatch(r"ssmlens\[(.*)\]", line):
            found |= packages([each for name in inner[1].split(",") for each in EXTRAS[name]])
        else:
            found.add(re.split(r"[><=]", line)[0].replace("-", "_"))
    return found


def test_every_extra_that_a_message_names_is_there():
    sources = [path.read_text("utf-8") for path in (ROOT / "ssmlens").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"(?m)^ *with extra\(\"(\w+)\"", text)}
    named |= {
        name for text in sources for name in re.findall(r"pip install 'ssmlens\[(\w+)\]'", text)
    }
    assert {"plot", "dashboard", "export", "transformers", "ray", "cuda"} <= named <= {*EXTRAS}


def test_all_is_what_no_machine_must_have_for_and_the_base_has_none_of_it():
    for_users = {*EXTRAS} - {"all", "cuda", "dev", "ray"}
    assert packages(EXTRAS["all"]) == {p for name in for_users for p in packages(EXTRAS[name])}
    assert packages(EXTRAS["all"]) <= packages(EXTRAS["dev"])
    assert not packages(PROJECT["dependencies"]) & {*ABSENT}
    assert packages(EXTRAS["all"]) >= {*ABSENT} - {"ray"}
