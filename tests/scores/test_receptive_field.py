"""`receptive_field` against a search entry by entry."""

import math

import numpy as np
import pytest
from map_scores import reach_of as receptive_field

from ssmlens.scores import compute


def by_search(m):
    tokens = len(m)
    reaches = []
    for i in range(math.floor(3 * tokens / 4), tokens):
        whole = sum(abs(m[i, j]) for j in range(i + 1))
        reach = next(
            (r for r in range(i + 1) if sum(abs(m[i, i - k]) for k in range(r + 1)) >= whole / 2),
            None,
        )
        if whole:
            reaches.append(reach)
    return sum(reaches) / len(reaches)


@pytest.mark.parametrize("tokens", [2, 3, 7, 16, 31])
def test_it_is_where_half_of_a_late_row_is_reached(tokens):
    m = np.tril(np.random.default_rng(tokens).standard_normal((tokens, tokens)))
    assert receptive_field(m) == pytest.approx(by_search(m))
    assert receptive_field(-3 * m) == receptive_field(m)


def test_layers_whose_reach_is_known():
    assert receptive_field(np.eye(20)) == 0
    assert receptive_field(np.eye(20, k=-7)) == 7
    uniform = np.tri(20)  # rows of 16 … 20 entries
    assert receptive_field(uniform) == np.mean([7, 8, 8, 9, 9])
    early = np.eye(20, k=-7)
    early[:15] = np.eye(20)[:15]  # only late queries count
    assert receptive_field(early) == 7


def test_rows_of_zeros_are_left_out():
    m = np.eye(20, k=-7)
    m[16] = 0
    assert receptive_field(m) == 7
    m[15:] = 0
    assert math.isnan(receptive_field(m))


def test_of_a_capture_it_is_that_of_each_prompt_cut_to_its_length(make_capture):
    maps = np.tril(np.random.default_rng(0).standard_normal((2, 13, 13))).astype(np.float32)
    capture = make_capture([{"attention_map": maps}], kinds=["text"] * 2, length=[9, 13])
    found = compute(capture, ["receptive_field"])["receptive_field"][0]
    assert float(found[0]) == pytest.approx(by_search(maps[0, :9, :9]))
    assert float(found[1]) == pytest.approx(by_search(maps[1]))
