"""Finite is what every entry is: also where a sum overflows, or infinities cancel."""

import pytest
import torch

from ssmlens.scan.finite import all_finite

INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("special", "finite"),
    [([], True), ([NAN], False), ([INFINITY], False), ([INFINITY, -INFINITY], False)],
)
@pytest.mark.parametrize("size", [2, 3, 1025])
def test_one_entry_decides(dtype, special, finite, size):
    x = torch.ones(size, dtype=dtype)
    x[: len(special)] = torch.tensor(special, dtype=dtype)
    assert all_finite(x) is finite
    assert all_finite(torch.zeros(3), x) is finite
    assert all_finite(x, torch.zeros(3)) is finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_sum_that_overflows_says_nothing(dtype):
    assert all_finite(torch.full((64,), torch.finfo(dtype).max, dtype=dtype))


def test_integers_nothing_and_parameters_are_finite():
    assert all_finite(torch.arange(3), torch.zeros(0), torch.nn.Parameter(torch.ones(2)))
    assert all_finite()
