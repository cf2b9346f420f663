"""Registries: what fails to import is named at every look-up, and other people's packages come in by the door."""

import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest
import torch
from safetensors.torch import save_file

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.registry import Registry

HERE = Path(__file__).parent
OUTSIDE = HERE / "third_party"
LETTERS = "abcdefgh"


def make_package(folder, name, **modules):
    """A package of these modules (text) that can be imported."""
    package = folder / name
    package.mkdir()
    (package / "__init__.py").touch()
    for module, text in modules.items():
        (package / f"{module}.py").write_text(textwrap.dedent(text))
    return name


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("import a_package_that_nobody_has", "ModuleNotFoundError: No module named 'a_package_"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: "),
    ],
)
def test_a_file_that_fails_is_named_at_every_look_up(tmp_path, monkeypatch, broken, why):
    name = f"failing_{len(why)}"
    monkeypatch.syspath_prepend(tmp_path)
    fine = f"import {name}_registry\n{name}_registry.all.register('fine')(1)"
    make_package(tmp_path, name, a_fine=fine, b_broken=broken, c_fine="")
    registry = Registry("thing", name)
    module = type(sys)(f"{name}_registry")
    module.all = registry
    monkeypatch.setitem(sys.modules, f"{name}_registry", module)
    for ask in (lambda: registry["fine"], lambda: list(registry), lambda: "x" in registry):
        with pytest.raises(SsmlensError) as failed:
            ask()
        assert str(failed.value).startswith(f"{name}.b_broken cannot be imported: {why}")
        assert not isinstance(failed.value, UsageError)


def test_an_interrupted_import_is_begun_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = """
        import os
        if not os.environ.get("GO_ON"):
            raise KeyboardInterrupt
    """
    registry = Registry("thing", make_package(tmp_path, "interrupted", first=text))
    with pytest.raises(KeyboardInterrupt):
        list(registry)
    monkeypatch.setenv("GO_ON", "1")
    assert list(registry) == []


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "import nothing_of_this_name"])
def test_a_broken_distribution_is_left_out_with_one_warning(tmp_path, monkeypatch, caplog, end):
    """It is named by the warning, and wherever a name is not found; what is there stays there."""
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_{len(end)}"
    make_package(tmp_path, name, only="")
    info = tmp_path / "outsider-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{name}]\nmine = outsider_{name}\n")
    (tmp_path / f"outsider_{name}.py").write_text(f"import json\n{end}\n")
    registry = Registry("thing", name)
    registry.register("here")("here")
    with caplog.at_level(logging.WARNING):
        assert [registry["here"] for _ in range(3)] == ["here"] * 3
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(
        f"outsider 1.5 is left out: its {name} entry 'mine' (outsider_{name})"
    )
    assert f"outsider_{name}.py, line 2)" in warning
    with pytest.raises(UsageError, match=r"unknown thing 'their'.*outsider 1.5 is left out"):
        registry["their"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the packages of third_party."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(OUTSIDE, folder / "source")  # pip builds in the source folder
    packages = [folder / "source" / name for name in ("leaky", "broken")]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", folder / "to"]
    subprocess.run([*command, *packages], check=True, timeout=300)
    return folder / "to"


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    """run("verify", ...): the command in a process of its own that finds those packages, in an empty folder."""
    here = tmp_path_factory.mktemp("run")
    paths = [str(installed), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}

    def run(*words, code=0):
        command = [sys.executable, "-m", "ssmlens", *map(str, words)]
        said = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=here, env=environment
        )
        assert said.returncode == code, said.stdout + said.stderr
        return said

    run.here = here
    return run


@pytest.fixture(scope="module")
def captured(run, installed):
    """A capture, by the command line, of a model that only the package's adapter can make."""
    folder = run.here / "model"
    folder.mkdir()
    size = {"vocab_size": len(LETTERS), "width": 6, "n_layer": 2}
    (folder / "config.json").write_text(json.dumps({"model_type": "leaky"} | size))
    (folder / "vocabulary.json").write_text(json.dumps(list(LETTERS)))
    torch.manual_seed(0)
    wide, inner = (torch.randn(*shape) for shape in ((8, 6), (6, 6)))
    state = {"embedding.weight": wide, "head.weight": wide.clone(), "head.bias": wide[:, 0].clone()}
    for layer in (0, 1):
        at = f"layers.{layer}."
        state |= {f"{at}norm.weight": inner[0].clone(), f"{at}norm.bias": inner[1].clone()}
        state[f"{at}mixer.A_log"] = inner[:, :1].clone()
        for name in ("in_proj", "out_proj"):
            state |= {f"{at}mixer.{name}.weight": inner.clone()}
            state |= {f"{at}mixer.{name}.bias": inner[2].clone()}
    save_file(state, folder / "model.safetensors")
    run("capture", "--model", folder, "--prompt", "abcdeabc", "--out", "leaky.h5")
    return state


def test_an_adapter_from_outside_loads_and_captures(run, captured):
    run("verify", "leaky.h5")
    with h5py.File(run.here / "leaky.h5") as file:
        stored = torch.from_numpy(file["layers/001/attention_map"][0])
        assert float(file["layers/001/closure_error"][0]) < 1e-5
    decay = torch.exp(-captured["layers.1.mixer.A_log"].double().exp())[:, 0]
    apart = torch.arange(8)[:, None] - torch.arange(8)
    wanted = (decay ** apart.clamp(min=0)[..., None]).mean(-1).tril()
    torch.testing.assert_close(stored.double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_score_from_outside_ranks(run, captured):
    said = run("rank-layers", "leaky.h5", "--by", "previous_share", "--json")
    first = json.loads(said.stdout)["layers"][0]
    assert 0 < first["scores"]["previous_share"] < 1
    by_chance = sum(1 / (i + 1) for i in range(1, 8)) / 8
    assert first["chance"]["previous_share"] == pytest.approx(by_chance)
    (line,) = said.stderr.splitlines()
    assert "ssmlens-broken 0.2 is left out: its ssmlens.scores entry 'broken'" in line
    assert "No module named 'a_package_that_is_not_installed'" in line
    refused = run("rank-layers", "leaky.h5", "--by", "nothing_like_it", code=2)
    assert "ssmlens-broken 0.2 is left out" in refused.stderr.splitlines()[-1]


def test_what_a_broken_package_does_not_touch_runs_without_a_word_of_it(run, captured):
    assert "broken" not in run("verify", "leaky.h5").stderr


def test_a_task_and_an_init_from_outside_train(run):
    small = "--d-model 16 --n-layer 1 --d-state 8 --headdim 8 --steps 2 --batch 2 --eval-count 2"
    own = "--task rotate --length 4 --letters 5 --init quiet --loudness 0.25 --device cpu --out run"
    run("train", *own.split(), *small.split())
    config = json.loads((run.here / "run" / "config.json").read_text())
    assert (config["task"], config["init"], config["loudness"]) == ("rotate", "quiet", 0.25)
    assert "loudness" in run("train", "--help-all").stdout


def test_workers_of_a_sweep_find_them_too(run):
    small = "--d-model 16 --n-layer 1 --d-state 8 --headdim 8 --steps 1 --batch 2 --eval-count 2"
    own = "--task rotate --length 4 --letters 5 --init quiet --device cpu --out sweep"
    said = run("sweep", *own.split(), *small.split(), "--axis", "loudness=0.1,0.2")
    assert "2 runs, 2 done" in said.stdout
