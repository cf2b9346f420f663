"""`compute` and `summary`: which score speaks on which layer and prompt, and why others do not."""

import json
import math

import numpy as np
import pytest
from map_scores import diagonal_sharpness, mask_ones, memory_length, target_share

from ssmlens.errors import UsageError
from ssmlens.scores import SCORES, compute, summary
from ssmlens.scores.bc import bc_correlation, bc_effective

ALL = {
    "mask_ones",
    "memory_length",
    "bc_correlation",
    "bc_effective",
    "bc_identity",
    "diagonal_sharpness",
    "copy_score",
    "induction_score",
    "previous_token_score",
    "receptive_field",
    "sink",
    "separator_sink",
    "delta_sink",
    "delta_separator_sink",
    "retention",
}
EFFECTS = {"ablation_effect", "mean_ablation_effect", "cross_talk_effect"}


def random_layer(rng, prompts, tokens, **more):
    maps = np.tril(rng.standard_normal((prompts, tokens, tokens))).astype(np.float32)
    masks = np.tril(rng.uniform(0.1, 1, (prompts, tokens, tokens))).astype(np.float32)
    W_B, W_C = rng.standard_normal((2, 2, 3, 5)).astype(np.float32)
    return {
        "attention_map": maps,
        "attention_mask": masks,
        "W_B": W_B,
        "W_C": W_C,
        "conv": np.ones((4, 4), np.float32),
        "closure_error": np.full(prompts, 1e-6, np.float32),
        **more,
    }


@pytest.fixture
def copy_target():
    """Prompts of 11 and 15 tokens: a string of 5 to copy, and a repetition of period 7."""
    target = np.full((2, 15), -1)
    target[0, 5:10] = np.arange(5)
    target[1, 8:15] = np.arange(1, 8)
    return target


def test_every_score_of_the_design_is_registered_with_what_a_reader_must_know():
    assert set(SCORES) == ALL | EFFECTS
    for name in SCORES:
        score = SCORES[name]
        low, high = score.range
        assert low < high
        assert score.description
        assert score.higher_is_attention == (name in ALL)
    companions = {c: name for name in SCORES for c in SCORES[name].companions}
    assert companions == {
        "bc_z": "bc_correlation",
        "bc_shift": "bc_effective",
        "sharpest_lag": "diagonal_sharpness",
    }


def test_values_are_those_of_the_functions_on_prompts_cut_to_their_length(
    make_capture, copy_target
):
    rng = np.random.default_rng(0)
    layers = [random_layer(rng, 2, 15), random_layer(rng, 2, 15, index=7)]
    capture = make_capture(layers, kinds=["copy", "repeat"], length=[11, 15], target=copy_target)
    scores = compute(capture)
    assert set(scores.data_vars) == ALL | EFFECTS | {"bc_z", "bc_shift", "sharpest_lag", "reason"}
    assert list(scores["layer"].values) == [0, 7]
    np.testing.assert_allclose(scores["closure_error"], [1e-6, 1e-6], rtol=1e-6)
    for index, arrays in zip((0, 7), layers, strict=True):
        at = scores.sel(layer=index)
        for prompt, length in enumerate((11, 15)):
            m = arrays["attention_map"][prompt, :length, :length]
            mask = arrays["attention_mask"][prompt, :length, :length]
            here = at.sel(prompt=prompt)
            assert float(here["mask_ones"]) == mask_ones(mask)
            assert float(here["memory_length"]) == memory_length(mask)
            assert float(here["diagonal_sharpness"]) == diagonal_sharpness(m, 4)
        copy, repeat = (arrays["attention_map"][p, :n, :n] for p, n in ((0, 11), (1, 15)))
        expected = {
            "copy_score": [target_share(copy, copy_target[0, :11]), math.nan],
            "induction_score": [math.nan, target_share(repeat, copy_target[1])],
            "previous_token_score": [math.nan, target_share(repeat, np.arange(15) - 1)],
        }
        for name, values in expected.items():
            np.testing.assert_array_equal(at[name].values, values)
        B, C = (arrays[name].astype(np.float64) for name in ("W_B", "W_C"))
        assert float(at["bc_correlation"]) == bc_correlation(B, C)
        assert float(at["bc_z"]) == pytest.approx(bc_correlation(B, C) * math.sqrt(30))
        assert float(at["bc_effective"]) == pytest.approx(bc_correlation(B, C), rel=1e-12)
        assert float(at["bc_shift"]) == 0


def test_a_value_has_no_reason_and_a_nan_has_one(make_capture, copy_target):
    rng = np.random.default_rng(0)
    layers = [random_layer(rng, 2, 15), {"attention_map": np.zeros((2, 15, 15), np.float32)}]
    capture = make_capture(layers, kinds=["copy", "text"], length=[11, 15], target=copy_target)
    scores = compute(capture)
    for name in ALL:
        _, value = np.broadcast_arrays(
            scores["reason"].sel(score=name), scores[name].values.reshape(2, -1)
        )
        np.testing.assert_array_equal(scores["reason"].sel(score=name) != "", np.isnan(value))


def test_convolutions_of_b_and_c_are_counted_where_they_exist(make_capture):
    rng = np.random.default_rng(0)
    conv_B, conv_C = rng.standard_normal((2, 2, 3, 4)).astype(np.float32)
    layer = random_layer(rng, 1, 12, conv_B=conv_B, conv_C=conv_C)
    scores = compute(make_capture([layer]), ["bc_effective"])
    f64 = [layer[n].astype(np.float64) for n in ("W_B", "W_C", "conv_B", "conv_C")]
    assert float(scores["bc_effective"][0]) == bc_effective(*f64).value
    assert float(scores["bc_shift"][0]) == bc_effective(*f64).shift


@pytest.mark.parametrize(
    ("attributes", "conv", "lag"),
    [({"d_conv": np.int64(2)}, None, 2), ({}, 3, 3), ({}, None, 1), ({"d_conv": 0}, None, 1)],
)
def test_the_first_lag_is_the_width_of_the_convolution(make_capture, attributes, conv, lag):
    """A map with diagonals at lags 0, 1, 2, 3, each weaker: the strongest allowed is found."""
    m = sum(np.eye(30, k=-k) / (k + 1) for k in range(4))[None]
    layer = {"attention_map": m, "attributes": attributes}
    if conv is not None:
        layer["conv"] = np.ones((4, conv))
    scores = compute(make_capture([layer]), ["diagonal_sharpness"])
    assert float(scores["sharpest_lag"][0]) == lag


def reason_of(capture, name, layer=0, prompt=0):
    scores = compute(capture, [name])
    value = scores[name].isel(layer=layer)
    if "prompt" in value.dims:
        value = value.isel(prompt=prompt)
    assert math.isnan(float(value))
    return str(scores["reason"].isel(layer=layer, prompt=prompt, score=0).values)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_layer_without_the_array_says_so(make_capture, name):
    target = np.zeros((1, 8), int)
    kind = "repeat" if name in ("induction_score", "previous_token_score") else "copy"
    capture = make_capture([{}], kinds=[kind], target=target)
    assert "the layer has no " in reason_of(capture, name)


@pytest.mark.parametrize(("tokens", "scored"), [(8, False), (9, True)])
def test_too_few_tokens_for_a_sub_diagonal(make_capture, tokens, scored):
    capture = make_capture([random_layer(np.random.default_rng(0), 1, tokens)])
    if scored:
        assert np.isfinite(compute(capture, ["diagonal_sharpness"])["diagonal_sharpness"]).all()
    else:
        assert "8 tokens are too few" in reason_of(capture, "diagonal_sharpness")


@pytest.mark.parametrize("name", ["mask_ones", "memory_length", "diagonal_sharpness", "copy_score"])
def test_a_one_token_prompt_has_no_past(make_capture, name):
    layer = random_layer(np.random.default_rng(0), 2, 12)
    capture = make_capture(
        [layer], kinds=["copy", "copy"], length=[1, 12], target=np.zeros((2, 12), int)
    )
    assert "one-token" in reason_of(capture, name)
    assert np.isfinite(compute(capture, [name])[name].isel(prompt=1)).all()


def test_targets_decide_which_retrieval_score_speaks(make_capture, copy_target):
    layer = random_layer(np.random.default_rng(0), 2, 15)
    without = make_capture([layer], kinds=["copy", "repeat"], length=[11, 15])
    assert "no query" in reason_of(without, "copy_score")
    assert "no query" in reason_of(without, "induction_score", prompt=1)
    with_target = make_capture(
        [layer], kinds=["recall", "repeat"], length=[11, 15], target=copy_target
    )
    assert "induction_score" in reason_of(with_target, "copy_score", prompt=1)
    assert "repeated" in reason_of(with_target, "induction_score")
    assert "repeated" in reason_of(with_target, "previous_token_score")
    ahead = copy_target.copy()
    ahead[0, 5] = 6
    capture = make_capture([layer], kinds=["copy", "copy"], length=[11, 15], target=ahead)
    assert "after it" in reason_of(capture, "copy_score")


@pytest.mark.parametrize(
    ("finite", "says"),
    [("weights", "non-finite weights"), ("input", "layers before"), ("output", "computation")],
)
def test_numbers_that_are_not_finite_silence_only_what_reads_them(make_capture, finite, says):
    layer = random_layer(np.random.default_rng(0), 2, 12, finite=finite)
    layer["attention_map"][0, 5, 3] = np.inf
    capture = make_capture([layer], kinds=["text", "text"])
    assert says in reason_of(capture, "diagonal_sharpness")
    scores = compute(capture, ["mask_ones", "bc_correlation", "diagonal_sharpness"])
    assert np.isfinite(scores["mask_ones"]).all()
    assert np.isfinite(scores["bc_correlation"]).all()
    assert np.isfinite(scores["diagonal_sharpness"].isel(prompt=1)).all()
    layer["W_C"][0, 0, 0] = np.nan
    assert "W_C is not finite" in reason_of(capture, "bc_effective")


def test_a_zero_map_has_a_reason(make_capture):
    capture = make_capture([{"attention_map": np.zeros((1, 12, 12))}])
    assert "zero everywhere" in reason_of(capture, "diagonal_sharpness")


def test_the_lag_is_of_the_prompts_together(make_capture):
    maps = np.stack([np.eye(40, k=-15) + 1.1 * np.eye(40, k=-(5 + p)) for p in range(4)])
    scores = compute(make_capture([{"attention_map": maps}], kinds=["text"] * 4))
    assert float(scores["sharpest_lag"][0]) == 15


def test_only_the_scores_asked_for_in_their_order(make_capture):
    capture = make_capture([random_layer(np.random.default_rng(0), 1, 12)])
    scores = compute(capture, ["mask_ones", "bc_identity"])
    assert list(scores["score"].values) == ["mask_ones", "bc_identity"]
    assert set(scores.data_vars) == {"mask_ones", "bc_identity", "reason"}
    with pytest.raises(UsageError, match="did you mean 'mask_ones'"):
        compute(capture, ["mask_one"])


def test_a_capture_without_prompts_keeps_its_weight_scores(make_capture):
    layer = random_layer(np.random.default_rng(0), 0, 12)
    scores = compute(make_capture([layer], kinds=[]))
    assert np.isfinite(scores["bc_correlation"]).all()
    assert scores["mask_ones"].shape == (1, 0)


def test_progress_is_told_after_each_layer(make_capture):
    rng = np.random.default_rng(0)
    told = []
    capture = make_capture([random_layer(rng, 1, 12) for _ in range(3)])
    compute(capture, ["mask_ones"], progress=lambda *x: told.append(x))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_summary_is_the_mean_and_spread_of_the_prompts_that_have_a_value(make_capture):
    rng = np.random.default_rng(0)
    layers = [random_layer(rng, 3, 12) for _ in range(2)]
    layers[1]["attention_map"][0] = np.nan
    scores = compute(make_capture(layers, kinds=["text"] * 3))
    stats = summary(scores)
    values = [diagonal_sharpness(layers[1]["attention_map"][p], 4) for p in (1, 2)]
    row = stats["diagonal_sharpness"].sel(layer=1)
    assert float(row.sel(statistic="mean")) == pytest.approx(sum(values) / 2)
    assert float(row.sel(statistic="spread")) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    bc = stats["bc_correlation"]
    np.testing.assert_array_equal(bc.sel(statistic="mean"), scores["bc_correlation"])
    assert np.isnan(bc.sel(statistic="spread")).all()
    assert np.isnan(stats["copy_score"]).all()


def test_the_dataset_survives_a_file(make_capture, tmp_path):
    import xarray as xr

    scores = compute(make_capture([random_layer(np.random.default_rng(0), 1, 12)]))
    scores.to_netcdf(tmp_path / "scores.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "scores.nc", engine="h5netcdf") as back:
        xr.testing.assert_allclose(back.drop_vars("reason"), scores.drop_vars("reason"))
    json.dumps(scores["mask_ones"].attrs)
