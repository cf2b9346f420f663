"""What attribute refuses, in one line that names it, and leaves the model as it was."""

import pytest
import torch
from logit_models import spread
from torch import nn

import ssmlens
from ssmlens.attribution.direct_path import trace
from ssmlens.errors import ClosureError, SsmlensError, UnsupportedModelError, UsageError
from ssmlens.models.mamba_lm import Backbone, Block, MambaConfig, MambaLM

IDS = torch.tensor([[3, 7, 1, 5]])


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = MambaConfig(d_model=12, n_layer=3, vocab_size=16, ssm_cfg={"d_state": 4})
    return spread(MambaLM(config)).cpu()


class WithExtra(Block):
    """A block that adds something of a module that nobody knows."""

    def forward(self, hidden_states, residual):
        hidden_states, residual = super().forward(hidden_states, residual)
        return hidden_states + self.extra(residual), residual


@pytest.mark.parametrize("function", [nn.Tanh(), nn.Sequential(nn.Linear(12, 12), nn.Tanh())])
def test_a_block_that_adds_what_no_module_put_out(model, function):
    block = model.backbone.layers[1]
    block.__class__, block.extra = WithExtra, function
    with pytest.raises(ClosureError, match="layer 1 adds something to the residual stream beyond"):
        ssmlens.attribute(model, IDS)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


def test_a_constant_added_in_a_block(model):
    block = model.backbone.layers[2]
    block.__class__, block.extra = WithExtra, lambda x: torch.ones_like(x)
    with pytest.raises(ClosureError, match="layer 2 adds"):
        ssmlens.attribute(model, IDS)


class ShiftedBackbone(Backbone):
    """A stack whose first block is given more than the embedding."""

    def forward(self, input_ids, *masks):
        hidden, residual = self.embedding(input_ids) + 1, None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return self.norm_f(hidden + residual)


def test_an_embedding_that_is_changed_before_the_first_block(model):
    model.backbone.__class__ = ShiftedBackbone
    with pytest.raises(ClosureError, match=r"the first block.s input is not the embedding alone"):
        ssmlens.attribute(model, IDS)


def test_a_mixer_whose_heads_are_not_its_output(model):
    mixer = model.backbone.layers[2].mixer
    mixer.register_forward_hook(lambda module, args, output: 3 * output)
    with pytest.raises(ClosureError, match=r"layer 2: the heads of backbone\.layers\.2\.mixer add"):
        ssmlens.attribute(model, IDS)


def test_a_final_norm_that_is_none(model):
    model.backbone.norm_f = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="Backbone has no single norm after its blocks"):
        ssmlens.attribute(model, IDS)


def test_a_final_norm_of_an_unknown_kind(model):
    head = model.lm_head
    head.register_forward_pre_hook(lambda module, args: (torch.tanh(args[0]),), prepend=True)
    with pytest.raises(UnsupportedModelError, match="not an RMS norm or LayerNorm of its residual"):
        ssmlens.attribute(model, IDS)


def test_weights_that_are_not_finite(model):
    with torch.no_grad():
        model.backbone.layers[0].mixer.D[0] = torch.nan
    with pytest.raises(SsmlensError, match="the logits are not finite at this position"):
        ssmlens.attribute(model, IDS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"position": 4}, "`position` 4 is out of range: the prompt has 4 tokens"),
        ({"position": -5}, "`position` -5 is out of range"),
        ({"token": 16}, "`token` 16 is out of range: there are logits of 0..15"),
        ({"token": -1}, "`token` -1 is out of range"),
        ({"token": (1, 99)}, "`token` 99 is out of range"),
        ({"prompt": IDS.repeat(2, 1)}, "attribute takes one prompt, not 2"),
        ({"prompt": []}, "there is no prompt"),
        ({"prompt": torch.zeros(1, 0, dtype=torch.long)}, "is empty"),
        ({"prompt": [3, 16]}, "token id 16 is out of range"),
        ({"prompt": "abc"}, "this model has no tokenizer; pass token ids instead of text"),
        ({"attention_mask": torch.ones(3)}, "`attention_mask` has 3 tokens, the prompt 4"),
    ],
)
def test_bad_use(model, options, says):
    options = {"prompt": IDS} | options
    with pytest.raises(UsageError, match=says):
        ssmlens.attribute(model, **options)


def test_the_models_own_error_passes_and_leaves_nothing_behind(model):
    def fail(*_):
        raise RuntimeError("no")

    handle = model.backbone.layers[1].mixer.register_forward_pre_hook(fail)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="no"):
            trace(model, IDS, 3, lambda logits: (0, None))
        assert not torch.is_grad_enabled()
    handle.remove()
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert ssmlens.attribute(model, IDS).attrs["closure"] < 1e-5
