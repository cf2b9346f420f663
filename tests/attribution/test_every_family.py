"""A logit of every family is the sum of its terms, which are the sums of their heads, sources and taps."""

import numpy as np
import pytest
import torch
from logit_models import DEVICE, FAMILIES, HERE, ids_of, logits_of, tiny

import ssmlens
from ssmlens.errors import UnsupportedModelError

pytestmark = pytest.mark.device

SEVERAL_STREAMS = ("Qwen4Exp",)


@pytest.fixture(scope="module", params=HERE)
def model(request):
    if any(name in request.param for name in SEVERAL_STREAMS):
        pytest.skip("refused, see below")
    return tiny(request.param)


def before_cap(logits, cap):
    """Logits before a soft cap, cap · tanh(logit / cap); 0: there is none."""
    return cap * (logits / cap).atanh() if cap else logits


def tolerance(family_is_exact=DEVICE == "cpu"):
    """mamba_ssm's Mamba-2 kernels multiply in TF32."""
    return 1e-4 if family_is_exact else 1e-2


@pytest.mark.parametrize("tokens", [1, 7, 20])
@pytest.mark.parametrize("taps", [False, True])
def test_the_terms_sum_to_the_models_own_logit(model, tokens, taps):
    ids = ids_of(tokens)
    logits = logits_of(model, ids)
    for position, token in ((-1, None), (tokens // 2, 5), (0, (3, 9))):
        found = ssmlens.attribute(model, ids, position, token, taps=taps)
        at = before_cap(logits[position], found.attrs["soft_cap"])
        if token is None:
            wanted = at.max()
            assert found.attrs["token"] == int(at.argmax())
        else:
            wanted = at[token] if isinstance(token, int) else at[token[0]] - at[token[1]]
        assert found.attrs["position"] == position % tokens
        assert abs(float(found["value"].sum()) - float(wanted)) <= tolerance() * float(
            at.abs().max()
        )
        assert found.attrs["closure"] <= tolerance()
        assert abs(found.attrs["logit"] - float(wanted)) <= 1e-5 * float(at.abs().max())


@pytest.mark.parametrize("taps", [False, True])
def test_what_splits_sums_to_its_terms(model, taps):
    found = ssmlens.attribute(model, ids_of(7), taps=taps, joint=True)
    wholes = found["value"].sel(term=found["mixer"].values).values
    for parts in ("by_head", "by_source", "by_head_and_source", *["by_tap"] * taps):
        split = found[parts]
        np.testing.assert_allclose(split.sum(split.dims[1:]), wholes, atol=1e-9)
    both = found["by_head_and_source"]
    np.testing.assert_allclose(both.sum("source", skipna=False), found["by_head"], atol=1e-9)
    np.testing.assert_allclose(both.sum("head"), found["by_source"], atol=1e-9)
    assert np.abs(wholes).max() > 1e-3, "the layers matter"
    assert len(set(found["term"].values)) == found.sizes["term"]


def test_nothing_of_the_model_is_changed(model):
    ids = ids_of(7)
    before = logits_of(model, ids)
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            ssmlens.attribute(model, ids)
            assert torch.is_grad_enabled() == grad
    assert torch.equal(logits_of(model, ids), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks == [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.modules()]


def test_a_later_position_is_no_part_of_it(model):
    """The terms at a position are those of the prompt cut there, but for what is after the cut."""
    ids = ids_of(9)
    whole = ssmlens.attribute(model, ids, 4, 3)
    cut = ssmlens.attribute(model, ids[:, :5], 4, 3)
    if whole.attrs["logit"] == pytest.approx(cut.attrs["logit"], abs=1e-4):  # the model is causal
        np.testing.assert_allclose(whole["value"], cut["value"], atol=1e-3)
        np.testing.assert_allclose(whole["by_source"][:, :5], cut["by_source"], atol=1e-3)
        assert np.abs(whole["by_source"][:, 5:]).max() < 1e-6


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if any(one in name for one in SEVERAL_STREAMS)]
)
def test_streams_mixed_by_what_is_in_them_are_refused_by_name(family):
    with pytest.raises(UnsupportedModelError, match="GatedResidual"):
        ssmlens.attribute(tiny(family), ids_of(5))


def test_hyper_connections_are_frozen():
    """GLM-5-Next keeps two streams; what each module adds passes through weights that the streams decide."""
    (family,) = [name for name in FAMILIES if "Glm5Next" in name]
    found = ssmlens.attribute(tiny(family), ids_of(7))
    assert set(found["kind"].values) == {"embedding", "delta rule", "attention", "mlp"}


@pytest.mark.parametrize("family", [n for n in HERE if n.startswith("transformers")])
def test_padding_on_the_left_adds_nothing_where_it_is_masked(family):
    if any(name in family for name in (*SEVERAL_STREAMS, "Glm5Next")):
        pytest.skip("its attention takes no such mask, or it is refused")
    model, ids = tiny(family), ids_of(8)
    padded = torch.cat([torch.zeros_like(ids[:, :3]), ids], dim=1)
    mask = torch.tensor([0] * 3 + [1] * 8)
    options = {"attention_mask": mask.unsqueeze(0).to(DEVICE)}
    found = ssmlens.attribute(model, padded, -1, 4, attention_mask=mask, taps=True)
    wanted = before_cap(logits_of(model, padded, **options)[-1], found.attrs["soft_cap"])
    total = float(found["value"].sum())
    assert abs(total - float(wanted[4])) <= tolerance() * float(wanted.abs().max())
    assert found["by_source"].values[:, :3].any() != FAMILIES[family][0].masks_padding
