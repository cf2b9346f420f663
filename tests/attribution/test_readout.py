"""From the stream to a logit: soft caps, multipliers, tied heads, low precision."""

import types

import pytest
import torch
from logit_models import logits_of, spread
from torch import nn

import ssmlens
from ssmlens.errors import UnsupportedModelError
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

IDS = torch.tensor([[3, 7, 1, 7, 9, 2, 4]])


def mamba_lm(**more):
    torch.manual_seed(0)
    config = MambaConfig(d_model=12, n_layer=2, vocab_size=16, ssm_cfg={"d_state": 4}, **more)
    return spread(MambaLM(config)).cpu()


class Capped(nn.Module):
    """A model whose logits pass a function; its configuration names a soft cap."""

    def __init__(self, inner, function, **config):
        super().__init__()
        self.inner, self.function = inner, function
        self.config = types.SimpleNamespace(**config)
        self.lm_head = inner.lm_head

    def forward(self, input_ids):
        return types.SimpleNamespace(logits=self.function(self.inner(input_ids).logits))


@pytest.mark.parametrize("name", ["logits_soft_cap", "final_logit_softcapping"])
def test_the_sum_is_the_logit_before_a_soft_cap(name):
    inner, cap = mamba_lm(), 0.2
    model = Capped(inner, lambda logits: cap * torch.tanh(logits / cap), **{name: cap})
    capped, raw = logits_of(model, IDS)[3], logits_of(inner, IDS)[3]
    top = int(raw.abs().argmax())
    assert abs(float(capped[top] - raw[top])) > 0.1 * abs(float(raw[top])), "the cap does something"
    found = ssmlens.attribute(model, IDS, 3, top)
    plain = ssmlens.attribute(inner, IDS, 3, top)
    total = float(found["value"].sum())
    assert total == pytest.approx(float(raw[top]), abs=1e-5)
    assert cap * torch.tanh(torch.tensor(total / cap)) == pytest.approx(
        float(capped[top]), abs=1e-5
    )
    assert found.attrs["soft_cap"] == cap
    assert plain.attrs["soft_cap"] == 0
    assert found["value"].values == pytest.approx(plain["value"].values, abs=1e-6)


def test_what_multiplies_the_logits_multiplies_every_term():
    inner = mamba_lm(tie_embeddings=False)
    found = ssmlens.attribute(Capped(inner, lambda logits: -2.5 * logits), IDS, token=(5, 2))
    plain = ssmlens.attribute(inner, IDS, token=(5, 2))
    assert found["value"].values == pytest.approx(-2.5 * plain["value"].values, rel=1e-5)


def test_anything_else_after_the_head_is_refused():
    for function in (torch.relu, lambda logits: logits + 1, lambda logits: logits.log_softmax(-1)):
        with pytest.raises(
            UnsupportedModelError, match="Capped does more to the output of its head"
        ):
            ssmlens.attribute(Capped(mamba_lm(), function, logits_soft_cap=30.0), IDS)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_may_be_the_embedding(tied):
    model = mamba_lm(tie_embeddings=tied)
    assert (model.lm_head.weight is model.backbone.embedding.weight) == tied
    found = ssmlens.attribute(model, IDS, 2, 1)
    assert float(found["value"].sum()) == pytest.approx(
        float(logits_of(model, IDS)[2, 1]), abs=1e-5
    )


def test_bfloat16_closes_as_far_as_it_can():
    model = mamba_lm().bfloat16()
    found = ssmlens.attribute(model, IDS, 4, 1)
    assert 1e-6 < found.attrs["closure"] <= 5e-2


def test_inside_of_inference_mode():
    model = mamba_lm().requires_grad_(False)
    with torch.inference_mode():
        found = ssmlens.attribute(model, IDS)
    assert found.attrs["closure"] < 1e-5
