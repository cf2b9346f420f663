"""A model that reads one token at a time says what it says of whole rows."""

import pytest
import torch

from analyses.components.one_by_one import run_freely
from ssmlens.adapters.load import load_model
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.duplicates import Duplicates
from ssmlens.tasks.metrics import accuracy, free_running


def model_of(layer="Mamba1", **options):
    torch.manual_seed(3)
    config = MambaConfig(
        d_model=16, n_layer=2, vocab_size=29, ssm_cfg={"layer": layer, "d_state": 8, **options}
    )
    model = MambaLM(config).eval()
    for block in model.backbone.layers:
        block.mixer.in_proj.weight.data.mul_(4)  # so that what it read matters
    return model


MAMBA2 = {"layer": "Mamba2", "headdim": 8}


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"conv_bias": False}, {"bias": True}, {"d_conv": 2}),
        *(MAMBA2, MAMBA2 | {"ngroups": 2, "bias": True}, MAMBA2 | {"dt_limit": (0.02, 0.05)}),
        MAMBA2 | {"norm_before_gate": True, "conv_bias": False, "d_conv": 3},
    ],
)
def test_rows_of_several_lengths_at_once(options):
    model = model_of(**options)
    batches = [
        Copy(length=1, count=1).build(0),
        Copy(length=9, min_length=4, count=5).build(1),
        Duplicates(length=12, count=3).build(2),
    ]
    before = model(batches[1].tokens).logits
    for ours, batch in zip(run_freely(model, batches), batches, strict=True):
        assert torch.equal(ours, free_running(model, batch))
    assert torch.equal(model(batches[1].tokens).logits, before), "the model is as it was"
    assert all("forward" not in vars(block.mixer) for block in model.backbone.layers)


def test_a_mixer_that_has_a_forward_of_its_own_keeps_it():
    model = model_of()
    mixer = model.backbone.layers[0].mixer
    own = type(mixer).forward.__get__(mixer)
    mixer.forward = own
    run_freely(model, [Copy(length=2).build(0)])
    assert vars(mixer)["forward"] == own


@pytest.mark.parametrize(
    "name", ["copy-mamba1-mimetic", "copy-mamba1-default", "copy-mamba2-mimetic"]
)
def test_a_trained_model_far_beyond_its_length(name):
    """Sixty letters, twice what these were trained on or more: right in part, so that answers are fed back."""
    model = load_model(name)
    batch = Copy(length=60, count=4).build(5)
    (ours,) = run_freely(model, [batch])
    wanted = free_running(model, batch)
    assert torch.equal(ours, wanted)
    assert 0 < accuracy(wanted, batch).character <= 1
