"""A logit of a model that looks ahead is a sum over tokens on both sides; what it does not have is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from two_way_models import random_typeseg

import ssmlens
from ssmlens.effect.layers import LayerEffects
from ssmlens.errors import UsageError


@pytest.fixture(scope="module")
def model(typeseg):
    return random_typeseg(typeseg)


def test_sources_ahead_are_part_of_a_logit(model):
    ids, position = [3, 4, 5, 6, 7, 8, 9], 3
    said = ssmlens.attribute(model, ids, position=position)
    assert said.attrs["closure"] < 1e-5
    with torch.no_grad(), ssmlens.recording(model, 2) as rec:
        logits = model(torch.tensor([ids]))[0, position]
    assert said.attrs["logit"] == pytest.approx(float(logits.max()), rel=1e-5)
    by_source = said["by_source"].sel(mixer="2 mamba").values
    o, mixer = rec[2].operands, model.layers[2].mixer
    with torch.no_grad():
        # M[position, j] x_j and D x, through gate and out_proj, then the final norm, its scale frozen, and the head.
        read = ssmlens.channel_maps(o)[0, :, position] * o.x[0, :, :, 0].T
        read[:, position] += o.D[:, 0] * o.x[0, position, :, 0]
        stream = mixer.out_proj.weight @ (F.silu(o.gate[0, position])[:, None] * read)
        scale = model.norm.weight / last_hidden(model, ids)[position].std(correction=0)
        head = model.lm_head.weight[int(logits.argmax())]
        wanted = (head * scale) @ (stream - stream.mean(0))
    np.testing.assert_allclose(by_source, wanted.numpy(), rtol=1e-3, atol=1e-5)
    assert (np.abs(by_source[position + 1 :]) > 1e-4).all()


def last_hidden(model, ids):
    """The stream [token width] before the final norm."""
    seen = []
    handle = model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with torch.no_grad():
        model(torch.tensor([ids]))
    handle.remove()
    return seen[0]


def test_effects_of_a_model_that_predicts_no_tokens_are_refused(model, tmp_path):
    prompts = ssmlens.Prompts.of_task("repeat", model, length=6, count=2)
    with pytest.raises(UsageError, match="returns 32 numbers per token"):
        ssmlens.capture(model, prompts, tmp_path / "run.h5", further=LayerEffects)
