"""What scores are by chance: each level against maps, targets and weights that are drawn at random."""

import math

import numpy as np
import pytest

from ssmlens.scores import SCORES, compute, rank_layers
from ssmlens.scores.bc import bc_effective, bc_effective_by_chance

OF_MAPS = (
    *("copy_score", "induction_score", "previous_token_score", "diagonal_sharpness"),
    *("receptive_field", "sink", "separator_sink", "delta_sink", "delta_separator_sink"),
)
OF_WEIGHTS = ("bc_correlation", "bc_effective", "bc_identity")


def uniform(tokens, looks_ahead):
    """Rows that give every token which they can see the same."""
    seen = np.ones((tokens, tokens)) if looks_ahead else np.tri(tokens)
    return seen / seen.sum(1, keepdims=True)


def chance(scores, name):
    return scores["chance"].sel(score=name).values


@pytest.mark.parametrize("looks_ahead", [False, True])
@pytest.mark.parametrize("tokens", [(9,), (10, 37), (64, 11)])
def test_a_layer_that_looks_everywhere_alike_scores_its_chance(make_capture, tokens, looks_ahead):
    rng = np.random.default_rng(len(tokens))
    longest = max(tokens)
    maps = np.zeros((len(tokens), longest, longest))
    for one, length in zip(maps, tokens, strict=True):
        one[:length, :length] = uniform(length, looks_ahead)
    layer = {
        "attention_map": maps,
        "delta": np.full((len(tokens), longest, 3), 0.2),
        "conv": np.ones((4, 3)),
        "attributes": {"looks_ahead": looks_ahead},
    }
    target = rng.integers(0, np.arange(longest) + 1, (len(tokens), longest))
    target[:, ::3] = -1
    strings = [[*rng.choice(["a", ",", "b"], length - 1), "."] for length in tokens]
    strings = [["a", ",", *some[2:]] for some in strings]
    for kind in ("copy", "repeat"):
        kinds = [kind] * len(tokens)
        capture = make_capture(
            [layer], kinds=kinds, length=list(tokens), target=target, strings=strings
        )
        scores = compute(capture, OF_MAPS)
        for name in set(OF_MAPS) - {"receptive_field"}:
            np.testing.assert_allclose(chance(scores, name), scores[name], rtol=1e-9, err_msg=name)
    assert np.isfinite(chance(scores, "induction_score")).all(), "of the prompts that repeat"
    layer["attention_map"] = np.sign(maps)  # where half of a row is a whole number
    scores = compute(make_capture([layer], kinds=kinds, length=list(tokens)), ["receptive_field"])
    np.testing.assert_array_equal(chance(scores, "receptive_field"), scores["receptive_field"])


def test_targets_drawn_at_random_score_their_chance_on_any_map(make_capture):
    rng = np.random.default_rng(0)
    tokens, draws = 21, 4000
    peaked = np.tril(rng.standard_normal((tokens, tokens)) ** 3)
    asked = np.arange(7, tokens)
    target = np.full((draws, tokens), -1)
    target[:, asked] = rng.integers(0, asked + 1, (draws, len(asked)))
    layer = {"attention_map": np.broadcast_to(peaked, (draws, tokens, tokens))}
    scores = compute(make_capture([layer], kinds=["copy"] * draws, target=target), ["copy_score"])
    values = scores["copy_score"].values
    error = values.std() / math.sqrt(draws)
    assert chance(scores, "copy_score") == pytest.approx(np.mean(1 / (asked + 1)))
    assert abs(values.mean() - np.mean(1 / (asked + 1))) < 4 * error
    assert error < 0.01 * values.mean()


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_weights_drawn_at_random_score_their_chance(make_capture, taps, groups):
    rng = np.random.default_rng(taps)
    states, inputs, draws = 5, 40, 1500
    length_B, length_C = rng.uniform(0.5, 2, (2, groups, states, 1))
    convs = rng.standard_normal((2, groups, states, taps))
    drawn = []
    for _ in range(draws):
        W = rng.standard_normal((2, groups, states, inputs))
        W_B, W_C = W / np.linalg.norm(W, axis=-1, keepdims=True)
        drawn.append(bc_effective(W_B * length_B, W_C * length_C, *convs).value)
    by_chance = bc_effective_by_chance(W_B * length_B, W_C * length_C, *convs)
    spread = np.std(drawn) * math.sqrt(1 / draws + 1 / 1000)
    assert abs(np.mean(drawn) - by_chance) < 4 * spread
    assert (by_chance > 4 * spread) == (taps > 1)

    several = rng.standard_normal((2, 400, groups, states, inputs)).astype(np.float32)
    layers = [{"W_B": W_B, "W_C": W_C} for W_B, W_C in zip(*several, strict=True)]
    scores = compute(make_capture(layers), OF_WEIGHTS)
    for name in OF_WEIGHTS:
        values = scores[name].values
        assert abs(values.mean() - chance(scores, name).mean()) < 4 * values.std() / 20
        assert np.abs(chance(scores, name)).max() == 0


def test_taps_of_zero_have_no_chance_as_they_have_no_score():
    one = np.ones((1, 2, 3))
    assert math.isnan(bc_effective_by_chance(one, one, np.zeros((1, 2, 4)), np.ones((1, 2, 4))))


def test_every_score_says_how_it_is_computed_and_what_it_is_by_chance():
    without = {"mask_ones", "memory_length", "retention"}
    for name in SCORES:
        score = SCORES[name]
        assert score.formula
        assert (score.chance is None) == score.chance_in_words.startswith("none")
        assert (score.chance is None) == (name in without or score.reads == "effects")
    assert {*OF_MAPS, *OF_WEIGHTS} == {n for n in SCORES if SCORES[n].chance is not None}


def test_a_score_without_a_value_has_no_chance_and_the_mean_is_over_the_others(make_capture):
    maps = np.stack([uniform(12, False)] * 2)
    target = np.full((2, 12), -1)
    target[0, 5:9] = 2
    capture = make_capture([{"attention_map": maps}] * 2, kinds=["copy"] * 2, target=target)
    scores = compute(capture, ["copy_score"])
    assert np.isnan(chance(scores, "copy_score")[:, 1]).all()
    expected = np.mean(1 / np.arange(6, 10))
    ranking = rank_layers(capture)
    assert [row.chance["copy_score"] for row in ranking] == pytest.approx([expected] * 2)
    assert ranking.to_dict()["layers"][0]["chance"]["copy_score"] == pytest.approx(expected)
    assert ranking.to_frame()["copy_score_chance"].tolist() == pytest.approx([expected] * 2)


def test_the_table_ends_with_the_chance_of_its_columns(make_capture):
    maps = np.stack([uniform(12, False)])
    target = np.full((1, 12), 0)
    layers = [
        {"attention_map": maps, "attention_mask": maps, "conv": np.ones((1, taps))}
        for taps in (2, 5)
    ]
    ranking = rank_layers(make_capture(layers, kinds=["copy"], target=target))
    _, head, *rows = str(ranking).splitlines()
    last = rows[len(layers)]
    low, high = sorted(row.scores["diagonal_sharpness"] for row in ranking)
    hit = np.mean(1 / np.arange(1, 13))
    assert last.split() == ["chance", f"{hit:.3f}", f"{low:.3f}–{high:.3f}"]
    for column, cell in (("copy_score", f"{hit:.3f}"), ("diagonal_sharpness", f"{high:.3f}")):
        assert last[: head.index(column) + len(column)].endswith(cell)


def test_a_table_without_such_levels_has_no_such_row(make_capture):
    layer = {"attention_mask": np.ones((1, 6, 6))}
    ranking = rank_layers(make_capture([layer]), "mask_ones")
    assert "chance" not in str(ranking)
    assert ranking[0].chance == {}
