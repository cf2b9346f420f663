"""The convolution by causal_conv1d's kernel: here when it is asked and what it is handed; on a GPU, what it is."""

import pytest
import torch
import torch.nn.functional as F
from oracles import relative
from torch import nn

from ssmlens.models import fused_convolution as module
from ssmlens.models.fused_convolution import fused_convolution
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.projections import project_mamba2

GPU = pytest.mark.gpu


def by_definition(x, weight, bias, activation):
    """`causal_conv1d_fn`, [batch channel token], in float64 by its documentation; and what it demands of memory."""
    assert activation == "silu"
    assert x.stride(2) == 1 or (x.stride(1) == 1 and x.stride(2) % 8 == x.stride(0) % 8 == 0)
    taps = weight.shape[1]
    y = torch.zeros_like(x, dtype=torch.double)
    for lag in range(min(taps, x.shape[2])):
        past = x[..., : x.shape[2] - lag].double()
        y[..., lag:] += weight[:, taps - 1 - lag, None].double() * past
    return F.silu(y if bias is None else y + bias[:, None].double()).to(x.dtype)


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(module, "kernel", lambda device: by_definition)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 9)])
def test_mamba2_projects_as_it_does_without(batch, tokens, masked, kernel):
    torch.manual_seed(0)
    weights = Mamba2(32, d_state=16, headdim=8, ngroups=2).weights()
    hidden = draw(batch, tokens, 32)
    mask = torch.ones(batch, tokens)
    mask[0, : tokens // 2] = 0
    mask = mask if masked else None
    fast = project_mamba2(hidden, weights, mask, fast=True)
    plain = project_mamba2(hidden, weights, mask)
    for name in ("delta", "A", "B", "C", "x", "D", "gate"):
        assert getattr(fast, name).dtype == getattr(plain, name).dtype
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name))


def test_what_the_kernel_does_not_compute_is_left_to_torch(kernel):
    u, weight, bias = draw(2, 7, 16), draw(16, 4), draw(16)
    for silu in (F.silu, nn.SiLU()):
        assert fused_convolution(u, weight, bias, silu) is not None
        assert fused_convolution(u.mT.contiguous().mT, weight, None, silu) is not None
    assert fused_convolution(u, weight, bias, F.relu) is None
    assert fused_convolution(u, draw(16, 5), bias, F.silu) is None
    assert fused_convolution(u.double(), weight, bias, F.silu) is None
    assert fused_convolution(u[:, :0], weight, bias, F.silu) is None
    assert fused_convolution(u[..., :12], weight[:12], bias[:12], F.silu) is None
    assert fused_convolution(draw(2, 7, 20)[..., 4:], weight, bias, F.silu) is None
    assert fused_convolution(draw(2, 7, 24)[..., 4:20], weight, bias, F.silu) is None


def test_on_a_cpu_torch_convolves():
    assert fused_convolution(draw(2, 7, 16), draw(16, 4), draw(16), F.silu) is None


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens_last", [False, True])
def test_on_a_gpu_it_is_the_convolution(dtype, tokens_last):
    u, weight, bias = (v.to("cuda", dtype) for v in (draw(2, 33, 48), draw(16, 4), draw(16)))
    u = u.mT.contiguous().mT if tokens_last else u
    u = u[..., 16:32]
    got = fused_convolution(u, weight, bias, F.silu)
    wanted = by_definition(u.mT.contiguous(), weight, bias, "silu").mT
    assert got.shape == wanted.shape
    assert relative(got.cpu().float(), wanted.cpu().float()) < (
        1e-6 if dtype == torch.float32 else 1e-2
    )
