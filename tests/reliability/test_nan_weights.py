"""NaN in the weights of one layer: the capture goes on and says so; earlier layers and weight scores are unchanged."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssmlens.models.shipped import data_folder
from ssmlens.scores import SCORES, compute
from ssmlens.store import open_capture

BROKEN = 1
OF_WEIGHTS = ("bc_correlation", "bc_effective", "bc_identity")


@pytest.fixture(scope="module", params=["copy-mamba1-mimetic", "copy-mamba2-default"])
def run(request, copies, cli, tmp_path_factory):
    """(model, what the command said, the capture with NaN, the capture without)."""
    folder = tmp_path_factory.mktemp("nan")
    model = folder / "model"
    shutil.copytree(data_folder() / "models" / request.param, model)
    weights = load_file(model / "model.safetensors")
    weights[f"backbone.layers.{BROKEN}.mixer.in_proj.weight"][7, 5] = torch.nan
    save_file(weights, model / "model.safetensors")
    options = ["--task", "copy", "--length", 17, "--count", 2, "--out", folder / "run"]
    said = cli("capture", "--model", model, *options)
    assert not list(folder.glob("*.partial"))
    return request.param, said, folder / "run", copies(request.param, 17)


def test_the_capture_goes_on_and_says_so(run):
    _, said, _, _ = run
    assert (said.code, said.err) == (0, "")
    first, *told = said.out.splitlines()
    assert "4 layers, 2 prompts, closure error at most" in first
    assert told[0] == "layer 1 is not finite (weights: in_proj.weight is not finite)"
    assert [line.split(" (")[1].split(":")[0] for line in told] == ["weights", "input", "input"]


def test_each_layer_is_marked(run, cli):
    _, _, path, _ = run
    told = cli("info", path, "--json").json["layers"]
    assert [layer["finite"] for layer in told] == ["yes", "weights", "input", "input"]
    assert [layer["closure_error"] is None for layer in told] == [False, True, True, True]
    assert cli("verify", path).code == 0  # it is what it says it is


def test_earlier_layers_are_the_same_bit_for_bit(run):
    model, _, path, clean = run
    with open_capture(path) as broken, open_capture(clean) as whole:
        before, after = broken.layer(0), whole.layer(0)
        assert set(before.names) == set(after.names)
        for name in before.names:
            np.testing.assert_array_equal(before.read(name), after.read(name))
        assert before.digest == after.digest
        # Of the broken layer Mamba-2's operands are whole, the NaN being in a row of the gate.
        for index in (1, 2, 3) if model == "copy-mamba1-mimetic" else (2, 3):
            assert np.isnan(broken.layer(index).read("attention_map")).any()


def test_every_weight_score_is_the_same(run):
    model, _, path, clean = run
    assert all(SCORES[name] for name in OF_WEIGHTS)
    with open_capture(path) as broken, open_capture(clean) as whole:
        got, wanted = compute(broken, OF_WEIGHTS), compute(whole, OF_WEIGHTS)
    # Mamba-1 makes B and C in x_proj, which is whole; Mamba-2 in in_proj, of which one row of the gate is not.
    for name in OF_WEIGHTS:
        np.testing.assert_array_equal(got[name].values, wanted[name].values, err_msg=model)
        assert np.isfinite(got[name].values).all()


def test_it_is_ranked_last_with_the_reason(run, cli):
    _, _, path, _ = run
    rows = cli("rank-layers", path, "--json").json["layers"]
    assert [row["layer"] for row in rows] == [0, 2, 3, BROKEN]
    assert rows[0]["rank"] == 1
    assert [row["rank"] for row in rows[1:]] == [None] * 3
    assert rows[-1]["reason"] == "non-finite weights: in_proj.weight is not finite"
    assert rows[1]["reason"].startswith("non-finite input: its input is not finite")
    by_weights = cli("rank-layers", path, "--by", "bc_effective", "--json").json["layers"]
    assert by_weights[-1]["layer"] == BROKEN
    assert cli("rank-layers", path).code == 0


def test_the_page_is_written(run, cli, tmp_path):
    _, _, path, _ = run
    assert cli("report", path, "--out", tmp_path / "page.html").code == 0
    assert "in_proj.weight is not finite" in (tmp_path / "page.html").read_text()
