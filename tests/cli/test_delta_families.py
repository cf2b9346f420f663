"""Every command on a saved model of every delta-rule family, whose middle block is softmax attention."""

import html
import json
import math
import re

import numpy as np
import pytest
import torch
import xarray as xr
from delta_models import FAMILIES
from oracles import blocks_by_definition
from reference_delta import reference_delta_maps

from ssmlens import names
from ssmlens.recorder import layer_capture
from ssmlens.scores import SCORES, compute
from ssmlens.store import open_capture, verify

KINDS = ["delta rule", "attention", "delta rule"]
LENGTHS = [14, 5, 1]
REPEAT = ["--task", "repeat", "--length", 6, "--count", 2]


def oracle(layer, prompt=0):
    """Map, mask and erase of a stored layer in float64, by the formulas."""
    maps, erases, mask = reference_delta_maps(layer.operands(prompt, torch.float64))
    means = {"map": maps[0].mean(0), "mask": mask[0], "erase": erases[0].mean(0)}
    return {kind: mean.numpy() for kind, mean in means.items()}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_prompts_of_several_lengths(cli, family_capture, family, tmp_path):
    out = family_capture(family)
    assert cli("verify", out).code == 0, cli("verify", out).out
    told = cli("info", out, "--json").json
    assert told["block_kinds"] == KINDS
    assert [prompt["tokens"] for prompt in told["prompts"]] == LENGTHS
    assert [(la["kind"], la["believed"]) for la in told["layers"]] == [(k, "yes") for k in KINDS]
    assert all(told["layers"][i]["closure_error"] < 1e-5 for i in (0, 2))
    assert told["layers"][1]["reason"] == "the model's own weights"
    assert "nan" not in cli("info", out).out.lower().replace(family.lower(), "")
    with open_capture(out) as capture:
        for index in (0, 2):
            layer = capture.layer(index)
            assert layer.maps == ("map", "mask", "erase")
            for prompt in range(len(LENGTHS)):
                for kind, wanted in oracle(layer, prompt).items():
                    np.testing.assert_allclose(layer.whole_map(kind, prompt), wanted, 1e-4, 1e-6)


def test_the_report_has_every_map_and_says_what_each_layer_is(
    cli, family_capture, family, tmp_path
):
    page = tmp_path / "page.html"
    assert cli("report", family_capture(family), "--out", page).code == 0
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert "All 2 layers reproduce what the model computed." in text
    assert "delta rule 0, 2; attention 1" in text
    data = json.loads(
        text.partition('id="data">')[2].partition("</script>")[0],
    )
    for layer, kind in zip(data["layers"], KINDS, strict=True):
        titles = [view["title"] for view in layer["views"] if view["prompt"] == 0]
        if kind == "attention":
            assert titles == ["Softmax attention map"]
        else:
            assert titles[:3] == ["Attention map", "Attention mask", "Erase map"]
            assert all("thumbnail" in view for view in layer["views"][:3])


@pytest.mark.parametrize("kind", ["map", "mask", "erase"])
def test_figures_hold_the_map(cli, family_capture, family, kind, tmp_path):
    out, made = family_capture(family), tmp_path / "figure.nc"
    said = cli("figure", out, "--layer", 2, "--view", kind, "--out", made)
    assert (said.code, said.err) == (0, "")
    with xr.open_dataset(made) as data, open_capture(out) as capture:
        assert (data["value"].values == capture.layer(2).whole_map(kind)).all()
    said = cli("figure", out, "--layer", 1, "--view", "erase", "--out", tmp_path / "none.nc")
    assert said.complaint == "layer 1 has no erase; it has map"


def test_repeated_sequences_are_ranked_by_induction(cli, family_folder, family, tmp_path):
    out = tmp_path / "run.h5"
    options = ["--channels", 0, 2, "--store-discretized", "--out", out]
    said = cli("capture", "--model", family_folder(family), *REPEAT, *options)
    assert said.code == 0, said.err
    closes = r"2 layers and 1 of softmax attention, .* at most \d\.\de-0[678] \(1e-04 allowed\)\n"
    assert re.search(closes, said.out)
    assert verify(out) == []
    ranked = cli("rank-layers", out, "--json").json
    assert ranked["by"] == ["induction_score"]
    assert sorted(row["rank"] for row in ranked["layers"]) == [1, 2, 3]
    with open_capture(out) as capture:
        scores = compute(capture)
        for name in SCORES:
            value = scores[name].broadcast_like(scores["reason"].sel(score=name))
            assert (np.isnan(value) == (scores["reason"].sel(score=name) != "")).all()
        named = {n for n in SCORES if np.isfinite(scores[n].sel(layer=0)).all()}
        absent = {"copy_score", "delta_sink"}  # no letters to copy, and a delta rule has no Δ
        absent |= {"separator_sink", "delta_separator_sink"}  # random tokens separate nothing
        without_effects = {name for name in SCORES if SCORES[name].reads == "effects"}
        assert named == {*SCORES} - absent - without_effects
        for index in (0, 2):
            layer = capture.layer(index)
            assert layer.read("channel").tolist() == [0, 2]
            own = layer.read("channel_map", 1)
            np.testing.assert_allclose(own[1], layer.channel_map(2, 1), 1e-5, 1e-7)
            np.testing.assert_allclose(
                layer.read("A_bar"), np.exp(layer.read("log_decay")), rtol=1e-6
            )


def test_a_long_prompts_maps_are_reduced(cli, family_folder, family, tmp_path, monkeypatch):
    monkeypatch.setattr(names, "LARGEST_WHOLE_MAP", 4)
    monkeypatch.setattr(layer_capture, "tokens_per_block", lambda tokens: 2)
    out, texts = tmp_path / "run.h5", ["a b c d e f g", "h i j"]
    layers = ["--layers", 0, 2]
    said = cli(
        "capture", "--model", family_folder(family), "--prompt", *texts, *layers, "--out", out
    )
    assert said.code == 0, said.err
    assert verify(out) == []
    with open_capture(out) as capture:
        for index, (prompt, tokens) in ((0, (0, 7)), (2, (1, 3))):
            layer = capture.layer(index)
            assert layer.maps == ("map", "mask", "erase")
            blocks = math.ceil(tokens / 2)
            for kind, entries in oracle(layer, prompt).items():
                assert names.MAP_ARRAYS[kind] not in layer
                wanted = blocks_by_definition(entries, 2)
                for how, values in zip(("mean", "max"), wanted, strict=True):
                    stored = layer.read(f"{names.MAP_ARRAYS[kind]}_{how}")[prompt]
                    np.testing.assert_allclose(stored[:blocks, :blocks], values, 1e-4, 1e-6)
            assert (layer.read("erase_error") < 1e-5).all()
