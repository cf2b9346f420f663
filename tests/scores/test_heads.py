"""`rank_heads`: scores of single heads against maps made entry by entry."""

import json
import math

import numpy as np
import pytest
import torch
from oracles import maps_by_definition
from reference_delta import reference_delta_maps

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.models.tokenizers import Vocabulary
from ssmlens.recorder import maps
from ssmlens.recorder.prompts import Prompts
from ssmlens.scores import heads as module
from ssmlens.store import verify

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
        rows = [row for row in ranking if row.operator == "delta rule"]
        chosen = {row.layer for row in rows}
        assert chosen == {i for i in capture.layers if capture.layer(i).operator == "delta rule"}
        for row in rows:
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


LOOKS = Prompts(
    [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7, 1, 8, 2, 2, 7, 1, 8, 2], [4]],
    ["copy", "repeat", "copy"],
    target=[PROMPTS.target[0], [-1] * 5 + [1, 2, 3, 4, -1], [-1]],
)
NAMES = [
    *("copy_score", "induction_score", "previous_token_score", "diagonal_sharpness"),
    *("receptive_field", "sink", "separator_sink"),
]


def looks_of(m, prompt, commas):
    """The scores of one head's map on one prompt, entry by entry; NaN where there is none."""
    tokens, kind, target = len(m), LOOKS.kinds[prompt], LOOKS.target[prompt]
    if tokens == 1:
        return dict.fromkeys(NAMES, math.nan)

    def share(keys_of, queries):
        return np.mean([sum(m[i, j] for j in keys_of(i)) / m[i].sum() for i in queries])

    def parts(i):
        return [j for j in commas if 0 < j < i]

    asked = [i for i in range(tokens) if target[i] >= 0]
    on_target = share(lambda i: [target[i]], asked)
    later = range(1, tokens)
    lags = range(3 * tokens // 4 + 1)
    energy = [np.mean([m[i, i - lag] ** 2 for i in range(lag, tokens)]) for lag in lags]
    late = range(tokens - math.ceil(tokens / 4), tokens)
    reach = [
        next(k for k in range(i + 1) if m[i, i - k : i + 1].sum() >= m[i].sum() / 2) for i in late
    ]
    repeats = kind == "repeat"
    return {
        "copy_score": math.nan if repeats else on_target,
        "induction_score": on_target if repeats else math.nan,
        "previous_token_score": share(lambda i: [i - 1], later) if repeats else math.nan,
        "diagonal_sharpness": max(energy[1:]) / sum(energy),
        "receptive_field": np.mean(reach),
        "sink": share(lambda i: [0, *(() if repeats else parts(i))], later),
        "separator_sink": math.nan if repeats else share(parts, later),
    }


def attention_weights(model):
    """The weights of every layer of softmax attention, from each prompt alone: [head query key] by layer and prompt."""
    found = []
    for ids in LOOKS.tokens:
        with ssmlens.recording(model) as rec, torch.no_grad():
            model(torch.tensor([ids]))
        attention = rec.softmax_attention.items()
        found.append({i: record.operands.weights[0].double() for i, record in attention})
    return found


def test_heads_of_softmax_attention(tmp_path):
    cfg = {"num_heads": 4, "num_heads_kv": 2, "causal": True, "rotary_emb_dim": 4}
    model = mamba2(attn_layer_idx=[1], attn_cfg=cfg)
    model.tokenizer = Vocabulary(list("abcde.fgh,"))  # 5 is a full stop, 9 a comma
    weights = attention_weights(model)
    with captured(model, tmp_path, LOOKS) as capture:
        ranking = ssmlens.rank_heads(capture, NAMES)
        assert "left out" not in " ".join(ranking.notes)
        heads = {(r.layer, r.head, r.operator): r for r in ranking}
        assert {*heads} == {(0, h, "decay scan") for h in range(4)} | {
            (1, h, "softmax") for h in range(4)
        }
        for head in range(4):
            row = heads[1, head, "softmax"]
            assert row.label == f"1.{head} softmax"
            values = [
                looks_of(weights[p][1][head].numpy(), p, [4, 5, 8, 10]) for p in range(len(LOOKS))
            ]
            for name in NAMES:
                wanted = np.nanmean([v[name] for v in values])
                assert row.scores[name] == pytest.approx(wanted, rel=1e-4), name
        assert verify(capture.path) == []
        only = ssmlens.rank_heads(capture, "copy_score", layers=[1])
        assert [row.layer for row in only] == [1] * 4
        masks = ssmlens.rank_heads(capture, "mask_ones")
        assert {(r.rank is None, r.operator) for r in masks} == {
            (False, "decay scan"),
            (True, "softmax"),
        }
        assert masks[-1].reason.endswith("softmax attention has no attention_mask")
        json = ranking.to_dict()["heads"]
        assert {row["operator"] for row in json} == {"decay scan", "softmax"}
        assert set(ranking.to_frame()["operator"]) == {"decay scan", "softmax"}


def test_heads_of_attention_beside_a_mixer(tiny_model, tmp_path):
    model = tiny_model("transformers FalconH1Mixer")
    model.set_attn_implementation("eager")
    with captured(model, tmp_path, LOOKS) as capture:
        ranking = ssmlens.rank_heads(capture, ["diagonal_sharpness", "sink"])
    rows = {(r.layer, r.head): r for r in ranking if r.operator == "softmax"}
    assert {i for i, _ in rows} == {r.layer for r in ranking if r.operator != "softmax"}
    values = {at: [] for at in rows}
    for prompt, ids in enumerate(LOOKS.tokens):
        with torch.no_grad():
            weights = model(torch.tensor([ids]), output_attentions=True).attentions
        for layer, head in rows:
            m = weights[layer][0, head].double().numpy()
            values[layer, head].append(looks_of(m, prompt, []))
    for at, row in rows.items():
        for name in ("diagonal_sharpness", "sink"):
            wanted = np.nanmean([v[name] for v in values[at]])
            assert row.scores[name] == pytest.approx(wanted, rel=1e-4)
        assert np.isnan(row.closure_error)  # what the layer says is its mixer's


def test_older_captures_keep_nothing_of_attention_heads(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "head_statistics", lambda *_: {})
    cfg = {"num_heads": 2, "causal": True}
    model = mamba2(attn_layer_idx=[1], attn_cfg=cfg)
    with captured(model, tmp_path) as capture:
        ranking = ssmlens.rank_heads(capture)
        assert {row.layer for row in ranking} == {0}
        assert ranking.notes[-1] == (
            "left out: heads of softmax attention (layer 1): the capture has only their mean map, as in earlier "
            "versions; capture again to rank them"
        )
        with pytest.raises(UsageError, match=r"softmax attention \(layer 1\): .* capture again"):
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
