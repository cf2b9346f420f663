"""`recording(model, gradients=True)`: maps can be differentiated back to weights and embeddings."""

import pytest
import torch

import ssmlens
from ssmlens.adapters.softmax import SOFTMAX
from ssmlens.errors import UsageError
from ssmlens.scan.hidden_attention import erase_map
from ssmlens.scan.selective_scan import selective_scan

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])
FAMILIES = [
    "ssmlens Mamba",
    "ssmlens Mamba2",
    "ssmlens Mamba3",
    "ssmlens LinearAttention",
    "softmax attention",
    "transformers MambaMixer",
    "transformers Mamba2Mixer",
    "transformers Qwen3NextGatedDeltaNet",
    "transformers KimiLinearDeltaAttention",
]


@pytest.fixture(params=FAMILIES)
def model(request, tiny_model):
    if request.param.startswith(
        "transformers"
    ):  # whose norms and experts are float32 whatever the model is
        return tiny_model(request.param)
    if request.param != "softmax attention":
        return tiny_model(request.param).double()
    torch.manual_seed(0)
    return SOFTMAX.tiny_model().double()


def score(model):
    """A number of maps, masks, erase maps and scans of the last layer: it depends on all before it."""
    with ssmlens.recording(model, gradients=True) as rec:
        model(IDS)
    operands = rec[rec.layers[-1]].operands
    maps = [ssmlens.channel_maps(operands, [0]), ssmlens.attention_map(operands)]
    if "mask" in operands.maps:
        maps.append(ssmlens.attention_mask(operands))
    if "erase" in operands.maps:
        maps.append(erase_map(operands))
    maps.append(selective_scan(operands))
    weights = torch.Generator().manual_seed(0)
    return sum((m * torch.rand(m.shape, generator=weights)).double().sum() for m in maps)


def test_gradients_are_finite_differences(model):
    """Of the embedding and of weights of the first layer, along a random direction."""
    embedding = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding))
    named = first_mixer(model).named_parameters()
    chosen = [embedding.weight, *[p for name, p in named if "proj" in name and p.ndim == 2][:2]]
    exact = embedding.weight.dtype == torch.double
    step, tolerance = (1e-6, 1e-4) if exact else (1e-3, 2e-2)
    score(model).backward()
    for parameter in chosen:
        assert parameter.grad.abs().max() > 0
        generator = torch.Generator().manual_seed(1)
        direction = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        slope = (parameter.grad * direction).sum().item()
        start = parameter.detach().clone()
        parameter.data = start + step * direction
        above = score(model).item()
        parameter.data = start - step * direction
        below = score(model).item()
        parameter.data = start
        assert slope == pytest.approx((above - below) / (2 * step), rel=tolerance, abs=tolerance)


def first_mixer(model):
    with ssmlens.recording(model) as rec:
        model(IDS)
    return rec[rec.layers[0]].call.site.module


def test_without_gradients_nothing_is_traced(model):
    with ssmlens.recording(model) as rec:
        model(IDS)
    for record in rec:
        assert not record.operands.like.requires_grad
        assert not record.attention_map.requires_grad


def test_numbers_are_the_same_with_and_without(model):
    with ssmlens.recording(model) as plain, ssmlens.recording(model, gradients=True) as rec:
        model(IDS)
    for one, two in zip(plain, rec, strict=True):
        assert two.attention_map.requires_grad
        exact = {"rtol": 1e-12, "atol": 1e-14} if one.attention_map.dtype == torch.double else {}
        torch.testing.assert_close(one.attention_map, two.attention_map, **exact)
        assert two.closure_error == pytest.approx(one.closure_error, abs=1e-6, nan_ok=True)
        assert not two.closure.error.requires_grad


def test_folded_maps_have_gradients(tiny_model):
    model = tiny_model("ssmlens Mamba")
    with ssmlens.recording(model, gradients=True) as rec:
        model(IDS)
    fold = ("conv", "gate", "skip")
    matrix, offset = ssmlens.channel_maps(rec[1].operands, [0], fold=fold)
    (matrix.sum() + offset.sum()).backward()
    assert model.backbone.embedding.weight.grad.abs().max() > 0
    assert rec[1].call.site.module.conv1d.weight.grad.abs().max() > 0


def test_a_forward_without_gradients_is_refused(tiny_model):
    model = tiny_model("ssmlens Mamba")
    with (
        pytest.raises(UsageError, match=r"call the model outside torch\.no_grad"),
        ssmlens.recording(model, gradients=True),
        torch.no_grad(),
    ):
        model(IDS)
