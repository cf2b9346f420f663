"""Effects as scores: read from a capture, ranked from the most negative, and set against looks."""

import numpy as np
import pytest

from ssmlens.scores import SCORES, compute, rank, rank_layers
from ssmlens.scores.effect import EFFECTS

TARGET = np.array([[-1, -1, -1, 0, 1, 2, 3, 4], [-1] * 8])


def layer(copies, *effects, **more):
    """A layer that looks at its target with weight `copies`, and its three effects on two prompts."""
    m = np.tri(8) / 8 + copies * np.eye(8, k=-3)
    stored = {n: np.array([e, np.nan], np.float32) for n, e in zip(EFFECTS, effects, strict=True)}
    return {"attention_map": np.stack([m] * 2), **stored, **more}


@pytest.fixture
def make(make_capture):
    return lambda *layers: make_capture(layers, kinds=["copy"] * 2, target=TARGET)


def test_a_value_is_what_was_stored_and_a_prompt_without_target_has_none(make):
    scores = compute(make(layer(1, -0.5, -0.25, 0.125)), EFFECTS)
    assert [float(scores[name][0, 0]) for name in EFFECTS] == [-0.5, -0.25, 0.125]
    for name in EFFECTS:
        reasons = scores["reason"].sel(score=name, layer=0).values.tolist()
        assert reasons == ["", "no query of the prompt has a target"]
        assert scores[name].attrs["units"] == "nats"
        assert not SCORES[name].higher_is_attention


def test_why_there_is_none(make):
    bare = {"attention_map": np.stack([np.tri(8)] * 2)}
    refused = layer(1, -1, -1, np.nan, attributes={"cross_talk_effect_reason": "knock-out: why"})
    reasons = compute(make(bare, refused, layer(1, np.nan, -1, -1)), EFFECTS)["reason"]

    def of(name, index):
        return reasons.sel(score=name, layer=index, prompt=0).item()

    for name in EFFECTS:
        assert of(name, 0) == "captured without effects: see `further`"
    assert of("cross_talk_effect", 1) == "knock-out: why"
    assert of("ablation_effect", 2) == "the model's logits are not finite"
    assert of("mean_ablation_effect", 2) == ""


def test_the_layer_that_matters_most_is_first(make):
    layers = layer(1, -1, 0, 0), layer(2, -7, 0, 0), layer(3, 0.5, 0, 0)
    ranking = rank_layers(make(*layers), "ablation_effect")
    assert [row.layer for row in ranking] == [1, 0, 2]
    assert "ablation_effect" in str(ranking).splitlines()[1]


def test_effects_stand_beside_looks_and_the_note_says_where_they_disagree(make):
    layers = layer(5, -1, -3, -2), layer(0, -4, -2, -1), layer(0, 0, 0, -9)
    ranking = rank_layers(make(*layers))
    assert (ranking.by, ranking[0].layer) == (("copy_score",), 0)
    assert ranking[0].scores["cross_talk_effect"] == -2
    (note,) = [note for note in ranking.notes if "effect" in note]
    assert note == (
        "scores and effects disagree on the first place: copy_score layer 0, ablation_effect layer 1, "
        "mean_ablation_effect layer 0, cross_talk_effect layer 2"
    )


def test_where_they_agree_or_were_not_measured_nothing_is_said(make):
    agreeing = rank_layers(make(layer(5, -1, -3, -2), layer(0, 0, 0, 0)))
    assert not [note for note in agreeing.notes if "effect" in note]
    bare = {"attention_map": np.stack([np.tri(8) + np.eye(8, k=-3)] * 2)}
    without = rank(compute(make(bare, bare)))
    assert not [note for note in without.notes if "effect" in note]
    assert not {*EFFECTS} & {*without[0].scores}


def test_every_effect_equal_is_no_disagreement(make):
    ranking = rank_layers(make(layer(0, 0, 0, 0), layer(5, 0, 0, 0)))
    assert ranking[0].layer == 1
    assert not [note for note in ranking.notes if "effect" in note]
