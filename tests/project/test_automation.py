"""What runs at a commit and at a push is what `make check` and `make test` run, with the same versions."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PINS = dict(re.findall(r"(?m)^(\S+?)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8")))
(REPO,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
HOOKS = {hook["id"]: hook for hook in REPO["hooks"]}
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
JOB = WORKFLOW["jobs"]["test"]


def recipe(target):
    """The commands of a target of the Makefile."""
    (lines,) = re.findall(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", MAKEFILE)
    return [line.removeprefix("\t") for line in lines.splitlines()]


def test_hooks_are_the_commands_of_make_check():
    wanted = [line.replace("$(BIN)", ".venv/bin") for line in recipe("check")]
    entries = [hook["entry"] for hook in HOOKS.values()]
    without = [entry.replace(" --force-exclude", "") for entry in entries]
    # `ruff` alone is `ruff check`; what follows the command are the files of the commit.
    assert without == wanted
    assert re.search(r"(?m)^BIN := \.venv/bin$", MAKEFILE)


@pytest.mark.parametrize("tool", ["ruff", "pyright"])
def test_hooks_have_the_versions_of_the_constraints(tool):
    assert REPO["repo"] == "local", "a version that is written nowhere else"
    assert all(hook["language"] == "system" for hook in HOOKS.values())
    assert importlib.metadata.version(tool) == PINS[tool]
    (install,) = (line for line in recipe(r"\.venv/installed") if "pip install" in line)
    assert "-c constraints.txt" in install


def test_types_are_checked_where_pyproject_says():
    places = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pyright"]
    for place in places["include"]:
        assert re.search(HOOKS["pyright"]["files"], f"{place}/some.py")
    assert not re.search(HOOKS["pyright"]["files"], "tests/some.py")


def test_the_workflow_runs_what_ci_runs_on_every_supported_python():
    assert [step["run"] for step in JOB["steps"] if "run" in step] == [".ci/run"]
    ran = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert ran[-2:] == ["make check", "make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, "it can be called"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = JOB["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={versions[0]}"
    assert all(isinstance(version, str) for version in versions), "3.10 is a number: 3.1"
    assert "${{ matrix.python }}" in JOB["container"]["image"]


def test_the_workflow_may_only_read():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in JOB
    assert WORKFLOW[True].keys() == {"push", "pull_request"}, "YAML's on is a truth value"
