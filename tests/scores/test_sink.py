"""`sink` and `delta_sink` against sums entry by entry."""

import math

import numpy as np
import pytest

from ssmlens.scores import compute
from ssmlens.scores.sink import delta_sink, sink


def sink_by_sums(m):
    shares = []
    for i in range(1, len(m)):
        whole = sum(abs(m[i, j]) for j in range(i + 1))
        shares.append(abs(m[i, 0]) / whole if whole else 0)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("tokens", [2, 5, 16])
def test_the_share_of_the_first_token_in_later_rows(tokens):
    m = np.tril(np.random.default_rng(tokens).standard_normal((tokens, tokens)))
    assert sink(m) == pytest.approx(sink_by_sums(m))
    m[0, 0] = 1e6  # the first token's own look does not count
    assert sink(m) == pytest.approx(sink_by_sums(m))
    m[-1] = 0
    assert sink(m) == pytest.approx(sink_by_sums(m)) or tokens == 2


def test_layers_whose_sink_is_known():
    everything = np.zeros((9, 9))
    everything[:, 0] = -2
    assert sink(everything) == 1
    assert sink(np.eye(9)) == 0
    assert sink(np.tri(9)) == pytest.approx(np.mean([1 / (i + 1) for i in range(1, 9)]))
    assert math.isnan(sink(np.zeros((9, 9))))
    assert math.isnan(sink(np.ones((1, 1))))


def test_the_share_of_delta_is_a_mean_over_heads():
    delta = np.random.default_rng(0).uniform(size=(7, 3)).astype(np.float32)
    wanted = [delta[0, h] / sum(delta[t, h] for t in range(7)) for h in range(3)]
    assert delta_sink(delta) == pytest.approx(sum(wanted) / 3)
    assert delta_sink(np.full((7, 3), 0.2)) == pytest.approx(1 / 7)
    delta[:, 1] = 0
    assert delta_sink(delta) == pytest.approx((wanted[0] + wanted[2]) / 3)
    assert math.isnan(delta_sink(np.zeros((7, 3))))


def test_of_a_capture_each_prompt_is_cut_to_its_length(make_capture):
    rng = np.random.default_rng(0)
    maps = np.tril(rng.standard_normal((2, 13, 13))).astype(np.float32)
    delta = rng.uniform(size=(2, 13, 3)).astype(np.float32)
    layers = [{"attention_map": maps, "delta": delta}, {"attention_map": maps}]
    capture = make_capture(layers, kinds=["text"] * 2, length=[9, 13])
    scores = compute(capture, ["sink", "delta_sink"])
    first = scores.sel(layer=0)
    assert float(first["sink"][0]) == pytest.approx(sink_by_sums(maps[0, :9, :9]))
    assert float(first["delta_sink"][0]) == pytest.approx(
        np.mean(delta[0, 0] / delta[0, :9].sum(0))
    )
    assert np.isnan(scores["delta_sink"].sel(layer=1)).all()
    reason = scores["reason"].sel(score="delta_sink", layer=1, prompt=0).item()
    assert reason == "the layer has no delta"
