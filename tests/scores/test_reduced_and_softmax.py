"""Layers without whole maps, and softmax attention: the same scores, or none by name."""

import math

import numpy as np
import pytest
from map_scores import diagonal_sharpness, mask_ones, memory_length, target_share

from ssmlens.scores import compute, rank_layers

LENGTHS = (11, 15)
MAP_SCORES = (
    *("mask_ones", "memory_length", "diagonal_sharpness", "copy_score", "induction_score"),
    *("previous_token_score", "receptive_field", "sink", "separator_sink"),
)
STRINGS = [list("a,bc.defgh;"), list("abcdefghijklmno")]


@pytest.fixture
def target():
    target = np.full((2, 15), -1)
    target[0, 5:10] = np.arange(5)
    target[1, 8:15] = np.arange(1, 8)
    return target


@pytest.fixture
def layers(target):
    """The same layer whole and reduced (as long prompts are stored), and one of softmax attention."""
    rng = np.random.default_rng(0)
    maps, masks = np.zeros((2, 2, 15, 15), np.float32)
    stored = {n: np.zeros((2, 15), np.float32) for n in STATISTICS}
    for p, n in enumerate(LENGTHS):
        maps[p, :n, :n] = np.tril(rng.standard_normal((n, n)))
        masks[p, :n, :n] = np.tril(rng.uniform(0.1, 1, (n, n)))
        for lag in range(n):
            stored["lag_energy"][p, lag] = np.mean(
                [maps[p, i, i - lag] ** 2 for i in range(lag, n)]
            )
        for i in range(n):
            stored["row_magnitude"][p, i] = sum(abs(maps[p, i, j]) for j in range(n))
            stored["mask_row_sum"][p, i] = sum(masks[p, i, j] for j in range(n))
            stored["target_magnitude"][p, i] = (
                abs(maps[p, i, target[p, i]]) if target[p, i] >= 0 else 0
            )
            row = np.abs(maps[p, i, : i + 1].astype(np.float64))
            stored["first_magnitude"][p, i] = row[0]
            stored["previous_magnitude"][p, i] = row[i - 1] if i else 0
            stored["separator_magnitude"][p, i] = sum(
                row[j] for j in range(1, i) if STRINGS[p][j] in ",.;"
            )
            half = next(k for k in range(i + 1) if row[i - k :].sum() >= row.sum() / 2)
            stored["reach"][p, i] = half if i >= n - math.ceil(n / 4) else -1
    W_B, W_C = rng.standard_normal((2, 2, 3, 5)).astype(np.float32)
    weights = {"W_B": W_B, "W_C": W_C, "conv": np.ones((4, 4), np.float32)}
    blocks = {"attention_map_max": np.ones((2, 8, 8), np.float32)}
    softmax = np.abs(maps) / np.maximum(np.abs(maps).sum(-1, keepdims=True), 1e-9)
    return [
        {"attention_map": maps, "attention_mask": masks, **weights},
        {**stored, **blocks, **weights, "attributes": {"block_tokens": 2}},
        {"attention_map": softmax, "attributes": {"kind": "attention"}},
    ]


LATER_STATISTICS = ("previous_magnitude", "first_magnitude", "separator_magnitude", "reach")
STATISTICS = (
    *("lag_energy", "row_magnitude", "target_magnitude", "mask_row_sum"),
    *LATER_STATISTICS,
)


@pytest.fixture
def capture(make_capture, layers, target):
    return make_capture(
        layers, kinds=["copy", "repeat"], length=LENGTHS, target=target, strings=STRINGS
    )


def test_reduced_layers_have_the_scores_of_whole_ones(capture, layers, target):
    scores = compute(capture)
    for name in MAP_SCORES:
        whole, reduced = (scores[name].sel(layer=index).values for index in (0, 1))
        np.testing.assert_allclose(reduced, whole, rtol=1e-5)
        np.testing.assert_array_equal(np.isnan(whole), np.isnan(reduced))
        assert np.isfinite(whole).any()
    assert float(scores["sharpest_lag"][0]) == float(scores["sharpest_lag"][1])
    for prompt, n in enumerate(LENGTHS):
        m, mask = (layers[0][k][prompt, :n, :n] for k in ("attention_map", "attention_mask"))
        here = scores.sel(layer=1, prompt=prompt)
        assert float(here["diagonal_sharpness"]) == pytest.approx(
            diagonal_sharpness(m, 4), rel=1e-5
        )
        assert float(here["mask_ones"]) == pytest.approx(mask_ones(mask), rel=1e-6)
        assert float(here["memory_length"]) == pytest.approx(memory_length(mask), rel=1e-6)
        name = ("copy_score", "induction_score")[prompt]
        assert float(here[name]) == pytest.approx(target_share(m, target[prompt, :n]), rel=1e-6)


def test_older_captures_keep_less_of_reduced_maps(make_capture, layers, target):
    for name in LATER_STATISTICS:
        del layers[1][name]
    capture = make_capture(layers[1:2], kinds=["repeat", "text"], length=LENGTHS, target=target)
    scores = compute(capture)
    for score, name in {
        "previous_token_score": "previous_magnitude",
        "receptive_field": "reach",
        "sink": "first_magnitude",
    }.items():
        reason = scores["reason"].sel(score=score, prompt=0).item()
        assert reason == f"its reduced maps were stored without {name}: capture it again"
    assert np.isfinite(scores["diagonal_sharpness"]).all()


def test_statistics_that_are_not_finite_are_no_score(make_capture, layers, target):
    layers[1]["lag_energy"][0, 3] = np.nan
    capture = make_capture(layers[1:2], kinds=["copy"], length=[11], target=target[:1])
    scores = compute(capture, ["diagonal_sharpness", "mask_ones"])
    assert math.isnan(scores["diagonal_sharpness"].item())
    assert "lag_energy is not finite" in str(
        scores["reason"].sel(score="diagonal_sharpness").item()
    )
    assert np.isfinite(scores["mask_ones"])


def test_softmax_attention_has_map_scores_only(capture, layers, target):
    scores = compute(capture).sel(layer=2)
    m = layers[2]["attention_map"][0, :11, :11]
    assert float(scores["copy_score"][0]) == pytest.approx(target_share(m, target[0, :11]))
    assert float(scores["diagonal_sharpness"][0]) == pytest.approx(diagonal_sharpness(m, 1))
    for name, missing in {
        "mask_ones": "attention_mask",
        "memory_length": "attention_mask",
        "bc_correlation": "W_B",
        "bc_effective": "W_B",
        "bc_identity": "W_B",
    }.items():
        assert np.isnan(scores[name]).all()
        reasons = set(scores["reason"].sel(score=name).values.tolist())
        assert reasons == {f"softmax attention has no {missing}"}


def test_layers_are_ranked_together_by_what_all_of_them_have(capture):
    rows = {row.layer: row for row in rank_layers(capture, by="copy_score")}
    assert all(row.rank for row in rows.values())
    assert rows[0].scores["copy_score"] == pytest.approx(rows[1].scores["copy_score"], rel=1e-6)
    last = rank_layers(capture, by="mask_ones").rows[-1]
    assert (last.layer, last.rank) == (2, None)
    assert last.reason.endswith("softmax attention has no attention_mask")
