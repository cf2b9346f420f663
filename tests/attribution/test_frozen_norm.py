"""A norm as the affine map that it is at one input."""

import pytest
import torch
from torch import nn

from ssmlens.attribution.frozen_norm import freeze_norm

WIDTH = 9


class OnePlus(nn.RMSNorm):
    """As Gemma's: its weight is stored less 1."""

    def forward(self, x):
        return nn.functional.rms_norm(x, x.shape[-1:], 1 + self.weight, self.eps)


def norm_of(kind, dtype=torch.float64):
    torch.manual_seed(1)
    norm = kind(WIDTH, eps=1e-3).to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm, OnePlus])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_map_makes_y_of_x_and_its_pull_back_is_its_transpose(kind, dtype):
    norm, x = norm_of(kind, dtype), torch.randn(WIDTH).to(dtype)
    x[2] = 0  # no ratio of y and x tells its scale
    y = norm(x).detach()
    frozen = freeze_norm(norm, x, y)
    assert frozen is not None
    again = frozen.linear(x.double()) + (0 if frozen.bias is None else frozen.bias)
    torch.testing.assert_close(
        again, y.double(), rtol=0, atol=1e-6 if dtype != torch.bfloat16 else 5e-2
    )
    reach, other = torch.randn(2, WIDTH, dtype=torch.double)
    torch.testing.assert_close(frozen.pull_back(reach) @ other, reach @ frozen.linear(other))


def test_the_scale_is_the_weight_over_the_root_mean_square():
    norm, x = norm_of(nn.RMSNorm), torch.randn(WIDTH, dtype=torch.double)
    frozen = freeze_norm(norm, x, norm(x))
    assert frozen is not None
    torch.testing.assert_close(
        frozen.scale, norm.weight.detach() / (x.square().mean() + 1e-3).sqrt()
    )


def test_an_input_of_zeros():
    norm = norm_of(nn.RMSNorm)
    frozen = freeze_norm(norm, torch.zeros(WIDTH), torch.zeros(WIDTH))
    assert frozen is not None
    assert not frozen.scale.any()


def test_what_is_no_such_norm():
    x = torch.randn(WIDTH)
    assert freeze_norm(nn.RMSNorm(WIDTH), x, torch.tanh(x)) is None
    assert freeze_norm(nn.RMSNorm(WIDTH), x, torch.full((WIDTH,), torch.nan)) is None
