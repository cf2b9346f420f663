"""Every command on a saved model of the families that are neither Mamba nor a delta rule."""

import html

import numpy as np
import pytest
import torch
from oracles import mixed_by_definition

import ssmlens
from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.load import load_model
from ssmlens.edits import Ablate, KnockOut
from ssmlens.errors import UsageError
from ssmlens.scores import SCORES, compute
from ssmlens.store import open_capture, verify

# By family: its operator, the maps it has, what its blocks are.
FAMILIES = {
    "Lfm2ShortConv": ("gated convolution", ("map",), "convolution"),
    "Lfm2MoeShortConv": ("gated convolution", ("map",), "convolution"),
    "Lfm3ShortConv": ("gated convolution", ("map",), "convolution"),
    "MiniMaxLightningAttention": ("decay scan", ("map", "mask"), "linear attention"),
    "RecurrentGemmaRecurrentBlock": ("decay scan", ("map", "mask"), "recurrence"),
    "RwkvSelfAttention": ("normalised decay scan", ("map", "mask"), "recurrence"),
}
LENGTHS = [14, 5, 1]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def out(family, family_capture):
    return family_capture(f"transformers {family}")


@pytest.fixture
def folder(family, family_folder):
    return family_folder(f"transformers {family}")


def test_prompts_of_several_lengths_are_captured_and_verified(cli, family, folder, out):
    operator, maps, kind = FAMILIES[family]
    assert cli("verify", out).code == 0
    told = cli("info", out, "--json").json
    assert [prompt["tokens"] for prompt in told["prompts"]] == LENGTHS
    assert told["block_kinds"][0] == told["block_kinds"][2] == kind
    assert all(told["layers"][i]["closure_error"] < 1e-5 for i in (0, 2))
    model = load_model(folder)
    with open_capture(out) as capture:
        for index in (0, 2):
            layer = capture.layer(index)
            assert (layer.operator, layer.maps) == (operator, maps)
            for prompt in range(len(LENGTHS)):
                ids = torch.from_numpy(capture.tokens[prompt, : LENGTHS[prompt]]).long()[None]
                with torch.no_grad(), ssmlens.recording(model) as rec:
                    model(ids, use_cache=False)
                o = rec[index].operands
                basis = torch.eye(o.tokens)[None, :, None].expand(-1, -1, o.heads, -1)
                columns = mixed_by_definition(o.with_quantity("x", basis))
                wanted = columns.detach().mean(2)[0]
                np.testing.assert_allclose(layer.whole_map("map", prompt), wanted, 1e-4, 1e-6)


def test_layers_are_ranked_and_say_what_they_have_no_score_of(cli, family, folder, tmp_path):
    out = tmp_path / "run.h5"
    task = ["--task", "repeat", "--length", 6, "--count", 2, "--channels", 0, 2]
    said = cli("capture", "--model", folder, *task, "--store-discretized", "--out", out)
    assert said.code == 0, said.err
    assert verify(out) == []
    ranked = cli("rank-layers", out, "--json").json
    assert ranked["by"] == ["induction_score"]
    assert sum(row["rank"] for row in ranked["layers"]) == 6  # convolutions that reach no copy tie
    with open_capture(out) as capture:
        scores = compute(capture)
        for name in SCORES:
            value = scores[name].broadcast_like(scores["reason"].sel(score=name))
            assert (np.isnan(value) == (scores["reason"].sel(score=name) != "")).all()
        assert np.isfinite(scores["induction_score"].sel(layer=[0, 2])).all()
        layer = capture.layer(0)
        assert layer.read("channel").tolist() == [0, 2]
        np.testing.assert_allclose(
            layer.read("channel_map", 1)[1], layer.channel_map(2, 1), rtol=1e-5, atol=1e-7
        )


def test_the_report_shows_every_map(cli, family, out, tmp_path):
    page = tmp_path / "page.html"
    assert cli("report", out, "--out", page).code == 0
    text = html.unescape(page.read_text(encoding="utf-8"))
    _, maps, kind = FAMILIES[family]
    assert "reproduce what the model computed." in text
    assert f"{kind} 0" in text
    assert ("Attention mask" in text) == ("mask" in maps)


# What is missing, by what a view draws; an operator without a decay has no signals.
REFUSALS = {
    "mask": "layer 2 has no mask",
    "norms": "it has no Δ and A, nor β",
    "half-lives": "it has no Δ and A, nor β",
    "input-product": "stores no W_B and W_C",
    "taps": "layer 2 has no convolution",
}
HAVE = {
    "Lfm2ShortConv": ("taps",),
    "Lfm2MoeShortConv": ("taps",),
    "Lfm3ShortConv": ("taps",),
    "MiniMaxLightningAttention": ("mask", "norms", "half-lives", "input-product"),
    "RecurrentGemmaRecurrentBlock": ("mask", "norms", "half-lives", "taps"),
    "RwkvSelfAttention": ("mask", "norms", "half-lives"),
}


@pytest.mark.parametrize("view", REFUSALS)
def test_figures_are_drawn_or_say_what_is_missing(cli, family, out, view, tmp_path):
    made = tmp_path / "figure.nc"
    said = cli("figure", out, "--layer", 2, "--view", view, "--out", made)
    if view in HAVE[family]:
        assert (said.code, said.err) == (0, "")
        assert made.exists()
    else:
        assert said.code == 2
        assert REFUSALS[view] in said.complaint


def test_effects_are_those_of_full_forwards(family, folder):
    """Of edits inside the mixer, resumed from its layer on, against the edited model as a whole."""
    model = load_model(folder)
    prompts = ssmlens.Prompts.of_task("repeat", model, length=5, count=2)
    edits = [Ablate(layer=2), KnockOut(layer=0, lags="1:"), Ablate(layer=0, heads=[1])]
    told = ssmlens.effects(model, prompts, edits)
    ids = prompts.padded()
    for n, edit in enumerate(edits):
        with torch.no_grad(), ssmlens.editing(model, [edit]):
            said = model(ids, use_cache=False).logits.double().log_softmax(2)
        for row, target in enumerate(prompts.target):
            right = [float(said[row, q, ids[row, j]]) for q, j in enumerate(target) if j >= 0]
            assert float(told["after"][n, row]) == pytest.approx(np.mean(right), abs=1e-5)
    assert (abs(told["effect"]) > 1e-6).all()


def test_a_logit_is_split_by_heads_and_sources(family, folder):
    model = load_model(folder)
    torch.manual_seed(0)
    found = ssmlens.attribute(model, torch.randint(3, 26, (1, 9)), -1)
    assert found.attrs["closure"] < 1e-4
    assert {f"{layer} {FAMILIES[family][2]}" for layer in (0, 2)} <= set(found["mixer"].values)


def test_mimetic_initialisation_is_refused_by_name(family, folder):
    model = load_model(folder)
    with pytest.raises(UsageError, match=f"layer 0 is transformers {family}"):
        ssmlens.mimetic_(model)


def test_a_layer_is_transplanted_whole(family, tiny_model):
    teacher, student = (tiny_model(f"transformers {family}") for _ in range(2))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1)
    ssmlens.transplant_(student, teacher, layer=0, scope="mixer", student_layers=(0,))
    sites = [find_mixers(m)[0].module for m in (teacher, student)]
    for one, other in zip(*(site.parameters() for site in sites), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match=f"{family}, which has no .* scope 'ssm'"):
        ssmlens.transplant_(student, teacher, layer=0, scope="ssm", student_layers=(0,))
