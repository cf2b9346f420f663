"""`rank_layers` and `rank`: order, ties, layers without a value, disagreements, text and JSON."""

import json

import numpy as np
import pytest

from ssmlens.errors import UsageError
from ssmlens.scores import SCORES, Measured, Score, compute, rank, rank_layers


def layer(ones, lag_weight, correlation, *, tokens=20, prompts=1, target_weight=0.0, **more):
    """A layer whose mask_ones, diagonal_sharpness and bc_effective rise with the arguments."""
    rng = np.random.default_rng(0)
    B, noise = rng.standard_normal((2, 1, 4, 400))
    uniform = np.tri(tokens) / tokens
    m = uniform + lag_weight * np.eye(tokens, k=-7) + target_weight * np.eye(tokens, k=-9)
    return {
        "attention_map": np.stack([m] * prompts),
        "attention_mask": np.stack([ones * np.tri(tokens)] * prompts),
        "W_B": B,
        "W_C": correlation * B + (1 - correlation) * noise,
        "closure_error": np.full(prompts, 2e-7),
        "attributes": {"d_conv": 4},
        **more,
    }


def target(prompts=1, tokens=20, lag=9):
    row = np.full(tokens, -1)
    row[lag : 2 * lag] = np.arange(lag)
    return np.stack([row] * prompts)


def order(ranking):
    return [row.layer for row in ranking]


def test_one_score_best_first(make_capture):
    capture = make_capture([layer(0.2, 0, 0), layer(0.9, 0, 0, index=5), layer(0.5, 0, 0)])
    ranking = rank_layers(capture, "mask_ones")
    assert order(ranking) == [5, 2, 0]
    assert [row.rank for row in ranking] == [1, 2, 3]
    assert [row.scores["mask_ones"] for row in ranking] == pytest.approx([0.9, 0.5, 0.2])
    assert [row.closure_error for row in ranking] == pytest.approx([2e-7] * 3)
    assert all(row.reason == "" for row in ranking)
    assert ranking.by == ("mask_ones",)
    assert len(ranking) == 3
    assert ranking[0].layer == 5


def test_several_scores_are_ordered_by_their_mean_rank(make_capture):
    """Ranks by mask_ones 1 2 3 4, by bc_correlation 4 1 2 3: means 2.5, 1.5, 2.5, 3.5."""
    layers = [layer(0.9, 0, 0.1), layer(0.8, 0, 0.9), layer(0.7, 0, 0.8), layer(0.6, 0, 0.7)]
    ranking = rank_layers(make_capture(layers), ["mask_ones", "bc_correlation"])
    assert order(ranking) == [1, 0, 2, 3]
    assert [row.rank for row in ranking] == [1, 2.5, 2.5, 4]


def test_ties_share_a_rank_and_stand_in_block_order(make_capture):
    layers = [layer(w, 0, 0, index=i) for i, w in ((9, 0.5), (3, 0.5), (7, 0.9), (1, 0.5))]
    ranking = rank_layers(make_capture(layers), "mask_ones")
    assert order(ranking) == [7, 1, 3, 9]
    assert [row.rank for row in ranking] == [1, 3, 3, 3]


def test_a_new_score_is_a_registration_and_may_rank_from_the_lowest(make_capture, monkeypatch):
    planted = Score(
        description="planted",
        measure=lambda reading: Measured(float(reading.attention_mask[0, 0]), detail=2.0),
        reads="maps",
        range=(0.0, 1.0),
        higher_is_attention=False,
        companions={"planted_sum": sum},
    )
    monkeypatch.setitem(SCORES._all(), "planted", planted)
    layers = [layer(w, 0, 0, prompts=2) for w in (0.2, 0.9, 0.1)]
    ranking = rank_layers(make_capture(layers, kinds=["text"] * 2), "planted")
    assert order(ranking) == [2, 0, 1]
    assert ranking[0].scores["planted_sum"] == 4
    assert "planted would put" not in " ".join(ranking.notes)
    assert "mask_ones would put layer 1 first" in ranking.notes


def test_the_default_is_copy_score_where_targets_exist(make_capture):
    layers = [layer(0.9, 5, 0.9), layer(0.1, 0, 0, target_weight=5)]
    ranking = rank_layers(make_capture(layers, kinds=["copy"], target=target()))
    assert ranking.by == ("copy_score",)
    assert order(ranking) == [1, 0]
    for name in ("mask_ones", "bc_effective", "diagonal_sharpness"):
        expected = f"{name} would put layer 0 first"
        assert (expected in ranking.notes) == (name != "diagonal_sharpness")
    assert ranking[0].scores["sharpest_lag"] == 9


def test_the_default_is_induction_score_on_repeated_sequences(make_capture):
    layers = [layer(0.9, 5, 0.9), layer(0.1, 0, 0, target_weight=5)]
    ranking = rank_layers(make_capture(layers, kinds=["repeat"], target=target()))
    assert ranking.by == ("induction_score",)
    assert order(ranking) == [1, 0]


def test_the_default_without_targets_is_three_structural_scores(make_capture):
    layers = [layer(0.5, 1, 0.1), layer(0.9, 2, 0.9), layer(0.1, 0, 0.5)]
    ranking = rank_layers(make_capture(layers))
    assert ranking.by == ("mask_ones", "bc_effective", "diagonal_sharpness")
    assert order(ranking) == [1, 0, 2]
    assert [row.rank for row in ranking] == [1, 2, 3]
    assert ranking.notes == ()


def test_a_score_that_no_layer_has_is_left_out_of_a_mean_rank(make_capture):
    layers = [layer(0.5, 1, 0.1, tokens=8), layer(0.9, 2, 0.9, tokens=8)]
    ranking = rank_layers(make_capture(layers))
    assert ranking.by == ("mask_ones", "bc_effective")
    assert any("diagonal_sharpness: 8 tokens are too few" in note for note in ranking.notes)


def test_layers_without_a_value_stand_last_with_their_reason(make_capture):
    """Weights of layer 1 are NaN, so the maps of 1, 2 and 3 are; weight scores are not."""
    layers = [layer(0.3, 0, 0.1), *(layer(0.9, 0, 0.5 + 0.1 * i) for i in range(3))]
    for i in (1, 2, 3):
        layers[i]["attention_mask"] = np.full((1, 20, 20), np.nan)
        layers[i]["attention_map"] = np.full((1, 20, 20), np.nan)
        layers[i]["finite"] = "weights" if i == 1 else "input"
    layers[1]["attributes"] = {"d_conv": 4, "reason": "D has 3 NaN"}
    capture = make_capture(layers)
    ranking = rank_layers(capture, "mask_ones")
    assert order(ranking) == [0, 2, 3, 1]
    assert [row.rank for row in ranking] == [1, None, None, None]
    assert [row.reason for row in ranking] == [
        "",
        "non-finite input",
        "non-finite input",
        "non-finite weights: D has 3 NaN",
    ]
    by_weights = rank_layers(capture, "bc_correlation")
    assert order(by_weights) == [3, 2, 0, 1]
    assert [row.rank for row in by_weights] == [1, 2, 3, None]
    assert np.isfinite(by_weights[3].scores["bc_correlation"])
    assert by_weights.notes == (
        "mask_ones would put layer 0 first",
        "diagonal_sharpness would put layer 0 first",
    )


def test_a_layer_with_broken_weights_is_no_disagreement(make_capture):
    """Its mask may be finite and the highest: it is not what another score would put first."""
    layers = [layer(0.3, 0, 0.1), layer(0.9, 0, 0.9, finite="weights")]
    ranking = rank_layers(make_capture(layers), "bc_correlation")
    assert order(ranking) == [0, 1]
    assert ranking[1].rank is None
    assert ranking.notes == ()


def test_a_capture_whose_maps_are_all_broken_is_still_a_table(make_capture):
    layers = [layer(0.5, 0, 0.5, finite="weights"), layer(0.5, 0, 0.5, finite="input")]
    for entries in layers:
        entries["attention_mask"] = np.full((1, 20, 20), np.nan)
    ranking = rank_layers(make_capture(layers), "mask_ones")
    assert order(ranking) == [1, 0]
    assert [row.rank for row in ranking] == [None, None]
    assert "non-finite weights" in str(ranking)


def test_a_layer_with_fewer_prompts_says_so(make_capture):
    layers = [layer(0.5, 0, 0.5, prompts=3), layer(0.9, 0, 0.5, prompts=3)]
    layers[0]["attention_mask"][1] = np.nan
    ranking = rank_layers(make_capture(layers, kinds=["text"] * 3), "mask_ones")
    assert order(ranking) == [1, 0]
    assert "mask_ones on 2 of 3 prompts" in ranking[1].reason


def test_a_layer_that_lacks_the_weights_is_not_ranked_and_says_why(make_capture):
    bare = layer(0.5, 0, 0.5)
    del bare["W_B"]
    ranking = rank_layers(make_capture([bare, layer(0.4, 0, 0.5)]), ["mask_ones", "bc_effective"])
    assert order(ranking) == [1, 0]
    assert ranking[1].rank is None
    assert "the layer has no W_B" in ranking[1].reason


def test_the_mean_is_over_prompts_and_the_spread_beside_it(make_capture):
    one = layer(1.0, 0, 0.5, prompts=2)
    one["attention_mask"][1] *= 0.5
    row = rank_layers(make_capture([one], kinds=["text"] * 2), "mask_ones")[0]
    assert row.scores["mask_ones"] == pytest.approx(0.75)
    assert row.spread["mask_ones"] == pytest.approx(0.5 / 2**0.5)
    assert "bc_effective" not in row.spread


def test_top_keeps_the_best_and_the_notes(make_capture):
    layers = [layer(0.2, 5, 0.9), layer(0.9, 0, 0.1)]
    ranking = rank_layers(make_capture(layers), "mask_ones", top=1)
    assert order(ranking) == [1]
    assert "diagonal_sharpness would put layer 0 first" in ranking.notes
    assert order(rank_layers(make_capture(layers), "mask_ones", top=10)) == [1, 0]
    with pytest.raises(UsageError, match="at least 1"):
        rank_layers(make_capture(layers), "mask_ones", top=0)


def test_unknown_and_inapplicable_scores_are_usage_errors(make_capture):
    capture = make_capture([layer(0.5, 0, 0.5)])
    with pytest.raises(UsageError, match="did you mean 'copy_score'"):
        rank_layers(capture, "copy_scor")
    with pytest.raises(UsageError, match=r"copy_score: no query .* target.*name another score"):
        rank_layers(capture, "copy_score")
    with pytest.raises(UsageError, match="mask_ones: it was not computed"):
        rank(compute(capture, ["bc_identity"]), "mask_ones")


def test_ranking_a_dataset_is_ranking_its_capture(make_capture):
    layers = [layer(0.5, 1, 0.1), layer(0.9, 2, 0.9), layer(0.1, 0, 0.5)]
    capture = make_capture(layers)
    names = ["mask_ones", "bc_effective", "diagonal_sharpness"]
    assert rank(compute(capture, names)).to_dict() == rank_layers(capture).to_dict()


def test_the_table_is_aligned_and_readable(make_capture):
    layers = [layer(0.2, 5, 0.9, prompts=2), layer(0.9, 0, 0.1, prompts=2, index=11)]
    layers[1]["W_B"] = layers[1]["W_B"] * np.nan
    layers[1]["finite"] = "weights"
    text = str(rank_layers(make_capture(layers, kinds=["text"] * 2), "bc_effective"))
    title, head, first, second, chance, *notes = text.splitlines()
    assert chance.split()[0] == "chance"
    assert title == "layers by bc_effective"
    assert head.split()[:4] == ["rank", "layer", "bc_effective", "bc_shift"]
    ends = [head.index(word) + len(word) for word in ("rank", "layer", "closure_error")]
    for line, cells in ((first, ["1", "0", "2.0e-07"]), (second, ["-", "11", "2.0e-07"])):
        for end, cell in zip(ends, cells, strict=True):
            assert line[:end].endswith(cell)
    assert second.endswith("non-finite weights")
    bc = rank_layers(make_capture(layers, kinds=["text"] * 2), "bc_effective")[0].scores
    assert first.split()[2:4] == [f"{bc['bc_effective']:.3f}", "0"]
    assert "0.200 ±0.000" in first
    assert all(note.startswith("note: ") for note in notes)


def test_json_holds_no_nan(make_capture):
    layers = [layer(0.2, 5, 0.9), layer(0.9, 0, 0.1, finite="input")]
    layers[1]["attention_mask"][:] = np.nan
    layers[1]["closure_error"][:] = np.nan
    told = json.loads(json.dumps(rank_layers(make_capture(layers)).to_dict(), allow_nan=False))
    assert [row["layer"] for row in told["layers"]] == [0, 1]
    last = told["layers"][1]
    assert last["rank"] is None
    assert last["scores"]["mask_ones"] is None
    assert last["closure_error"] is None
    assert last["reason"] == "non-finite input"
    assert told["by"] == ["mask_ones", "bc_effective", "diagonal_sharpness"]


def of_map(error, rounding=1e-7):
    return {"map_closure": np.array([error]), "map_rounding": np.array([rounding])}


def test_map_closure_stands_beside_the_closure_and_marks_its_layer(make_capture):
    layers = [
        layer(0.9, 0, 0.5, **of_map(3e-6)),
        layer(0.8, 0, 0.5, **of_map(2e-2)),
        layer(0.7, 0, 0.5, **of_map(3e-4, rounding=2e-4)),
        layer(0.6, 0, 0.5),
    ]
    layers[3]["closure_error"][:] = 0.3
    ranking = rank_layers(make_capture(layers), "mask_ones")
    assert order(ranking) == [0, 1, 2, 3]
    good, wrong, hidden, open_ = ranking
    assert (good.reason, good.map_closure) == ("", 3e-6)
    assert wrong.reason == "does not close: map_closure 2.0e-02 > 1e-04"
    assert hidden.reason.startswith("does not close: its map contributes so little to the output")
    assert open_.reason == "does not close: closure_error 3.0e-01 > 1e-04"
    told = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))["layers"]
    assert [row["map_closure"] for row in told] == [3e-6, 2e-2, 3e-4, None]
    assert ranking.to_frame()["map_closure"].tolist()[:3] == [3e-6, 2e-2, 3e-4]
    _, head, *rows = str(ranking).splitlines()
    end = head.index("map_closure") + len("map_closure")
    cells = [row[:end].split()[-1] for row in rows[:4]]
    assert cells == ["3.0e-06", "2.0e-02", "3.0e-04", "-"]
    assert rows[1].endswith("does not close: map_closure 2.0e-02 > 1e-04")
    without = str(rank_layers(make_capture([layer(0.9, 0, 0.5)])))
    assert "map_closure" not in without


def test_progress_reaches_the_caller(make_capture):
    told = []
    rank_layers(make_capture([layer(0.5, 0, 0.5)]), progress=lambda *x: told.append(x))
    assert told == [(1, 1)]
