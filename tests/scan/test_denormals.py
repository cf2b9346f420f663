"""Tiny numbers become 0, and nothing else changes."""

import pytest
import torch

from ssmlens.scan.denormals import drop_tiny, drop_tiny_


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_only_what_would_multiply_to_a_denormal_is_dropped(in_place, gradient):
    x = torch.tensor([1.0, -1e-18, 1e-20, -1e-20, 0.0, torch.inf, torch.nan])
    wanted = torch.tensor([1.0, -1e-18, 0.0, 0.0, 0.0, torch.inf, torch.nan])
    got = x.requires_grad_(gradient).clone()
    if in_place:
        drop_tiny_(got)
    else:
        got = drop_tiny(got)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    if gradient:
        got[:5].sum().backward()
        assert x.grad[:5].tolist() == [1, 1, 0, 0, 0]
