"""`sink`, `separator_sink` and the shares of Δ against sums entry by entry."""

import math

import numpy as np
import pytest
from map_scores import separator_share, sink_share

from ssmlens.scores import compute
from ssmlens.scores.sink import delta_share


def by_sums(m, keys):
    """Mean over later rows of the share on these keys, but for the row's own."""
    shares = []
    for i in range(1, len(m)):
        whole = sum(abs(m[i, j]) for j in range(i + 1))
        hit = sum(abs(m[i, j]) for j in range(i) if j in keys)
        shares.append(hit / whole if whole else 0)
    return sum(shares) / len(shares)


def flags(tokens, keys):
    return np.isin(np.arange(tokens), keys)


@pytest.mark.parametrize("keys", [[], [1], [0, 4], [2, 3, 4], list(range(5))])
@pytest.mark.parametrize("tokens", [2, 5, 16])
def test_the_share_of_the_first_token_and_of_separators_in_later_rows(tokens, keys):
    m = np.tril(np.random.default_rng(tokens).standard_normal((tokens, tokens)))
    separator = flags(tokens, keys)
    for _ in range(2):
        assert sink_share(m, separator) == pytest.approx(by_sums(m, {0, *keys}))
        assert separator_share(m, separator) == pytest.approx(by_sums(m, {*keys} - {0}))
        assert sink_share(m) == pytest.approx(by_sums(m, {0}))
        assert sink_share(m, separator) - separator_share(m, separator) == pytest.approx(
            sink_share(m)
        )
        m[0, 0] = 1e6  # the first token's own look does not count


def test_layers_whose_sink_is_known():
    everything = np.zeros((9, 9))
    everything[:, 0] = -2
    assert sink_share(everything) == 1
    assert sink_share(np.eye(9)) == 0
    assert sink_share(np.eye(9), np.ones(9, bool)) == 0  # separators that look at themselves
    assert sink_share(np.eye(9, k=-1), np.ones(9, bool)) == 1
    assert separator_share(np.eye(9, k=-1), np.ones(9, bool)) == 7 / 8
    assert sink_share(np.tri(9)) == pytest.approx(np.mean([1 / (i + 1) for i in range(1, 9)]))
    everything[4:] = 0  # rows of zeros look nowhere
    assert sink_share(everything) == 3 / 8
    assert math.isnan(sink_share(np.zeros((9, 9))))
    assert math.isnan(sink_share(np.ones((1, 1))))


def test_the_share_of_delta_is_a_mean_over_heads():
    delta = np.random.default_rng(0).uniform(size=(7, 3)).astype(np.float32)
    chosen = flags(7, [0, 3, 6])
    wanted = [
        sum(delta[t, h] for t in (0, 3, 6)) / sum(delta[t, h] for t in range(7)) for h in range(3)
    ]
    assert delta_share(delta, chosen) == pytest.approx(sum(wanted) / 3)
    assert delta_share(np.full((7, 3), 0.2), chosen) == pytest.approx(3 / 7)
    assert delta_share(delta, flags(7, [])) == 0
    delta[:, 1] = 0
    assert delta_share(delta, chosen) == pytest.approx((wanted[0] + wanted[2]) / 3)
    assert math.isnan(delta_share(np.zeros((7, 3)), chosen))


NAMES = ["sink", "separator_sink", "delta_sink", "delta_separator_sink"]


def test_of_a_capture_each_prompt_is_cut_to_its_length(make_capture):
    rng = np.random.default_rng(0)
    maps = np.tril(rng.standard_normal((3, 13, 13))).astype(np.float32)
    delta = rng.uniform(size=(3, 13, 3)).astype(np.float32)
    layers = [{"attention_map": maps, "delta": delta}, {"attention_map": maps}]
    strings = [list("ab,de.ghi"), list("abcdefghijklm"), [".", *"bc,d"]]
    capture = make_capture(layers, kinds=["text"] * 3, length=[9, 13, 5], strings=strings)
    scores = compute(capture, NAMES)
    for prompt, (length, keys) in enumerate([(9, {2, 5}), (13, set()), (5, {3})]):
        here = scores.sel(layer=0, prompt=prompt)
        own, m = delta[prompt, :length], maps[prompt, :length, :length]

        def share(keys, own=own):
            return np.mean(own[sorted(keys)].sum(0) / own.sum(0)) if keys else math.nan

        wanted = [by_sums(m, {0, *keys}), by_sums(m, keys) if keys else math.nan]
        wanted += [share({0, *keys}), share(keys)]
        np.testing.assert_allclose([float(here[name]) for name in NAMES], wanted, rtol=1e-5)
    for name in ("separator_sink", "delta_separator_sink"):
        reason = scores["reason"].sel(score=name, layer=0, prompt=1).item()
        assert reason == "the prompt has no separator after its first token"
    assert np.isnan(scores["delta_sink"].sel(layer=1)).all()
    reason = scores["reason"].sel(score="delta_sink", layer=1, prompt=0).item()
    assert reason == "the layer has no delta"


def test_random_tokens_have_no_separators(make_capture):
    m = np.tril(np.random.default_rng(1).standard_normal((1, 6, 6))).astype(np.float32)
    capture = make_capture([{"attention_map": m}], kinds=["repeat"], strings=[list("a,.a,.")])
    scores = compute(capture, NAMES)
    assert scores["sink"].item() == pytest.approx(by_sums(m[0], {0}), rel=1e-5)
    assert np.isnan(scores["separator_sink"]).all()
