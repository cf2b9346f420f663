"""Mamba-1's operands by causal_conv1d's kernel: here what it is handed, against the plain projection; on a GPU, it."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from oracles import relative

from ssmlens.models import fused_convolution as convolution
from ssmlens.models import fused_projection as module
from ssmlens.models.fused_projection import fused_projection
from ssmlens.models.mamba import Mamba
from ssmlens.models.projections import project_mamba1

GPU = pytest.mark.gpu
OPTIONS = [{}, {"bias": True, "conv_bias": False, "dt_rank": 3, "d_conv": 2}]


def make(**options):
    torch.manual_seed(0)
    mixer = Mamba(16, d_state=8, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer


def convolve(x, weight, bias, activation):
    """What `causal_conv1d_fn` computes, by its documentation, and what it demands of memory."""
    assert activation == "silu"
    assert x.stride(2) == 1
    padded = F.pad(x.double(), (weight.shape[1] - 1, 0))
    bias = None if bias is None else bias.double()
    y = F.conv1d(padded, weight.double().unsqueeze(1), bias, groups=len(weight))
    return F.silu(y).to(x.dtype)


def use(monkeypatch):
    """Let it pass for the kernel on a CPU."""
    for place in (module, convolution):
        monkeypatch.setattr(place, "kernel", lambda device: convolve)


def apart(one, other):
    """How far two sets of operands are apart, the largest of all arrays."""
    names = ("delta", "A", "B", "C", "x", "D", "gate")
    for name in names:
        assert getattr(one, name).shape == getattr(other, name).shape
        assert getattr(one, name).dtype == getattr(other, name).dtype
    errors = [relative(getattr(one, name), getattr(other, name)) for name in names]
    return max([*errors, relative(one.surroundings.u, other.surroundings.u)])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 7), (3, 5)])
def test_the_operands_are_those_of_the_plain_projection(options, batch, tokens, monkeypatch):
    use(monkeypatch)
    weights, hidden = make(**options).weights(), torch.randn(batch, tokens, 16)
    fused, plain = fused_projection(hidden, weights), project_mamba1(hidden, weights)
    assert apart(fused, plain) < 1e-6
    # As the scan's kernel reads them.
    assert fused.x.squeeze(3).mT.is_contiguous()
    assert fused.delta.mT.is_contiguous()
    for v in (fused.B, fused.C):
        assert v.permute(0, 2, 3, 1).stride(3) == 1


def test_in_bfloat16_too(monkeypatch):
    use(monkeypatch)
    mixer = make().bfloat16()
    hidden = torch.randn(2, 6, 16, dtype=torch.bfloat16)
    weights = mixer.weights()
    assert apart(fused_projection(hidden, weights), project_mamba1(hidden, weights)) < 2e-2


def test_what_the_kernel_does_not_compute_is_left_to_torch(monkeypatch):
    hidden, mixer = torch.randn(2, 5, 16), make()
    assert fused_projection(hidden, mixer.weights()) is None  # on a CPU
    use(monkeypatch)
    weights = mixer.weights()
    assert fused_projection(hidden, weights) is not None
    hooked = copy.deepcopy(mixer)
    hooked.dt_proj.register_forward_hook(lambda *call: None)
    others = [
        dataclasses.replace(weights, activation=F.relu),
        dataclasses.replace(weights, transform=lambda *parts: parts),
        make(d_conv=5).weights(),
        hooked.weights(),
    ]
    for other in others:
        assert fused_projection(hidden, other) is None
    assert fused_projection(hidden.double(), mixer.double().weights()) is None
    assert fused_projection(hidden[:, :0], weights) is None


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_it_is_the_plain_projection(dtype):
    weights = make().to("cuda", dtype).weights()
    hidden = torch.randn(2, 33, 16, device="cuda", dtype=dtype)
    fused = fused_projection(hidden, weights)
    assert fused is not None
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert apart(fused, project_mamba1(hidden, weights)) < tolerance
    assert torch.equal(fused.x, fused_projection(hidden, weights).x)
