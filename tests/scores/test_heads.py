"""`rank_heads`: scores of single heads against maps made entry by entry."""

import json

import numpy as np
import pytest
import torch
from oracles import maps_by_definition

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.recorder.prompts import Prompts
from ssmlens.scan.reference_delta import reference_delta_maps
from ssmlens.scores import heads as module

PROMPTS = Prompts(
    [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7, 1, 8, 2]],
    "copy",
    target=[[-1] * 5 + [0, 1, -1, 3, 4, 10], [-1, -1, 0, 1, -1]],
)
LENGTHS = (11, 5)


def captured(model, tmp_path, prompts=PROMPTS):
    found = ssmlens.capture(model, prompts, tmp_path / "run.h5")
    assert found is not None
    return found


def mamba2(**options):
    torch.manual_seed(0)
    ssm_cfg = {"layer": "Mamba2", "headdim": 8, "d_state": 8}
    return MambaLM(
        MambaConfig(d_model=16, n_layer=2, vocab_size=32, ssm_cfg=ssm_cfg, **options)
    ).eval()


def copy_share(maps):
    """Mean over prompts of the mean share of |M| on targets."""
    shares = []
    for m, target in zip(maps, PROMPTS.target, strict=True):
        shares.append(
            np.mean([abs(m[i, j]) / np.abs(m[i]).sum() for i, j in enumerate(target) if j >= 0])
        )
    return np.mean(shares)


def test_heads_of_a_scan(tmp_path):
    with captured(mamba2(), tmp_path) as capture:
        ranking = ssmlens.rank_heads(capture)
        assert (ranking.by, ranking.of) == (("copy_score",), "head")
        assert sorted((r.layer, r.head) for r in ranking) == [
            (i, h) for i in (0, 1) for h in range(4)
        ]
        values = [row.scores["copy_score"] for row in ranking]
        assert values == sorted(values, reverse=True)
        for row in ranking:
            layer, maps, ones = capture.layer(row.layer), [], []
            for prompt in range(2):
                delta, B, C = (layer.read(name, prompt) for name in ("delta", "B", "C"))
                A = layer.read("A")
                M, _ = maps_by_definition(delta, A, B, C)
                maps.append(M[row.head])
                S = np.cumsum(delta[:, row.head].astype(np.float64) * A[row.head])
                ones.append(
                    np.mean([np.exp(S[i] - S[j]) for i in range(len(S)) for j in range(i + 1)])
                )
            assert row.scores["copy_score"] == pytest.approx(copy_share(maps), rel=1e-4)
            assert row.scores["mask_ones"] == pytest.approx(np.mean(ones), rel=1e-5)


@pytest.mark.parametrize("family", ["Qwen3_5GatedDeltaNet", "KimiLinearDeltaAttention"])
def test_heads_of_a_delta_rule(family, tiny_model, tmp_path):
    with captured(tiny_model(f"transformers {family}"), tmp_path) as capture:
        ranking = ssmlens.rank_heads(capture, ["copy_score", "mask_ones"])
        chosen = {row.layer for row in ranking}
        assert chosen == {i for i in capture.layers if capture.layer(i).operator == "delta rule"}
        for row in ranking:
            operands = [capture.layer(row.layer).operands(p, torch.float64) for p in range(2)]
            maps = [reference_delta_maps(o)[0][0, row.head].numpy() for o in operands]
            assert row.scores["copy_score"] == pytest.approx(copy_share(maps), rel=1e-4)


def test_the_mean_of_heads_is_the_layer_where_scores_are_linear(tmp_path):
    """`mask_ones` and `retention` are means of masks, and a layer's mask is the mean of its heads'."""
    names = ["mask_ones", "retention"]
    with captured(mamba2(), tmp_path) as capture:
        heads = ssmlens.rank_heads(capture, names, layers=[1])
        whole = {row.layer: row for row in ssmlens.rank_layers(capture, names)}[1]
        for name in names:
            mean = np.mean([row.scores[name] for row in heads])
            assert mean == pytest.approx(whole.scores[name], rel=1e-5)
        shares = {
            row.head: row.scores["delta_sink"]
            for row in ssmlens.rank_heads(capture, "delta_sink", [1])
        }
        delta = [capture.layer(1).read("delta", p) for p in range(2)]
        for head, share in shares.items():
            wanted = np.mean([d[0, head] / d[:, head].sum() for d in delta])
            assert share == pytest.approx(wanted, rel=1e-5)


def test_without_targets_by_what_is_structural(tmp_path):
    prompts = Prompts([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]])
    with captured(mamba2(), tmp_path, prompts) as capture:
        ranking = ssmlens.rank_heads(capture, top=3)
        assert ranking.by == ("mask_ones", "diagonal_sharpness")
        assert len(ranking) == 3


def test_softmax_attention_is_left_out_with_a_note(tmp_path):
    cfg = {"num_heads": 2, "causal": True}
    model = mamba2(attn_layer_idx=[1], attn_cfg=cfg)
    with captured(model, tmp_path) as capture:
        ranking = ssmlens.rank_heads(capture)
        assert {row.layer for row in ranking} == {0}
        assert ranking.notes[-1] == (
            "left out: softmax attention of layer 1, stored as its mean map"
        )
        with pytest.raises(UsageError, match="heads of layer 1 cannot be ranked"):
            ssmlens.rank_heads(capture, layers=[0, 1])


def test_what_cannot_be_ranked(tmp_path, monkeypatch):
    with captured(mamba2(), tmp_path) as capture:
        with pytest.raises(UsageError, match="bc_effective is a score of whole layers; heads have"):
            ssmlens.rank_heads(capture, "bc_effective")
        with pytest.raises(UsageError, match="ablation_effect is a score of whole layers"):
            ssmlens.rank_heads(capture, ["copy_score", "ablation_effect"])
        with pytest.raises(UsageError, match="did you mean 'copy_score'"):
            ssmlens.rank_heads(capture, "copy_scor")
        with pytest.raises(UsageError, match="no score to rank by"):
            ssmlens.rank_heads(capture, "induction_score")
        monkeypatch.setattr(module, "MOST_HEADS", 3)
        with pytest.raises(UsageError, match="layer 0 has 4 heads"):
            ssmlens.rank_heads(capture)
        monkeypatch.undo()
        monkeypatch.setattr(module, "LARGEST_WHOLE_MAP", 10)
        with pytest.raises(UsageError, match="of up to 10 tokens: one has 11"):
            ssmlens.rank_heads(capture)


def test_text_json_and_frame(tmp_path, cli):
    with captured(mamba2(), tmp_path) as capture:
        ranking = ssmlens.rank_heads(capture, "diagonal_sharpness")
    first = ranking[0]
    title, header, row, *_ = str(ranking).splitlines()
    assert title == "heads by diagonal_sharpness"
    assert header.split()[:2] == ["rank", "head"]
    assert row.split()[:2] == ["1", f"{first.layer}.{first.head}"]
    assert ranking.to_frame().index.names == ["layer", "head"]
    assert f"<td>{first.label}</td>" in ranking._repr_html_()
    other = next(note for note in ranking.notes if note.startswith("mask_ones"))
    assert other.startswith("mask_ones would put head ")
    said = cli(
        "rank-layers", tmp_path / "run.h5", "--heads", "--by", "diagonal_sharpness", "--json"
    )
    assert said.json == json.loads(json.dumps(ranking.to_dict()))
    assert said.json["heads"][0]["head"] == first.head
    only = cli("rank-layers", tmp_path / "run.h5", "--heads", "--layers", "1", "--json").json
    assert {row["layer"] for row in only["heads"]} == {1}
    assert "goes with --heads" in cli("rank-layers", tmp_path / "run.h5", "--layers", "1").complaint
    whole = cli("rank-layers", tmp_path / "run.h5", "--json").json
    assert "head" not in whole["layers"][0]


def test_heads_are_drawn_by_depth(tmp_path):
    with captured(mamba2(), tmp_path) as capture:
        figure = ssmlens.plot.scores(ssmlens.rank_heads(capture))
    assert list(figure.data[0].x) == [f"{i}.{h}" for i in (0, 1) for h in range(4)]
