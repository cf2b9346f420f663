"""Everything that is computed of operands can be differentiated: finite differences in float64."""

import dataclasses

import pytest
import torch
from delta_rules import random_delta_rule

from ssmlens.scan.hidden_attention import (
    attention_map,
    attention_map_and_mask,
    attention_mask,
    channel_agreement,
    channel_maps,
    erase_map,
)
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.operators.softmax import SoftmaxScores, SoftmaxWeights
from ssmlens.scan.selective_scan import selective_scan

FUNCTIONS = {
    "channel_maps": channel_maps,
    "some channels": lambda o: channel_maps(o, [1]),
    "attention_map": attention_map,
    "attention_mask": attention_mask,
    "map and mask": lambda o: torch.cat(attention_map_and_mask(o)),
    "erase_map": erase_map,
    "channel_agreement": channel_agreement,
    "selective_scan": selective_scan,
}
NEEDS = {"attention_mask": "mask", "map and mask": "mask", "erase_map": "erase"}
# One block of every size of leaf, an odd one, and one whose blocks double.
TOKENS = (1, 2, 3, 4, 5, 33)


def decay_scan(tokens, A_state, groups=2, heads=4):
    g = torch.Generator().manual_seed(tokens)
    f64 = {"generator": g, "dtype": torch.double}
    B, C = (torch.randn(1, tokens, groups, 3, **f64) for _ in "BC")
    x, D = torch.randn(1, tokens, heads, 2, **f64), torch.randn(heads, 1, **f64)
    delta = torch.rand(1, tokens, heads, **f64)
    if A_state:
        A = -torch.rand(heads, A_state, **f64)
        return ScanOperands(delta=delta, A=A, B=B, C=C, x=x, D=D)
    write, write_now, rate = (torch.rand(1, tokens, heads, **f64) for _ in range(3))
    given = {"write": write, "write_now": write_now, "log_decay": -delta * rate}
    return ScanOperands(delta=delta, A=None, B=B, C=C, x=x, D=D, **given)


def softmax(tokens, *, put_out):
    g = torch.Generator().manual_seed(tokens)
    q, k, x = (torch.randn(1, tokens, 2, 3, generator=g, dtype=torch.double) for _ in "qkx")
    made = SoftmaxScores(q=q, k=k, scale=0.5, x=x)
    return SoftmaxWeights(weights=made.weights, x=x) if put_out else made


OPERATORS = {
    "Mamba-1": lambda tokens: decay_scan(tokens, 3),
    "Mamba-2": lambda tokens: decay_scan(tokens, 1),
    "Mamba-3": lambda tokens: decay_scan(tokens, 0, groups=4),
    "delta rule": lambda tokens: random_delta_rule(1, tokens, 2, 1, 2),
    "delta rule, a decay a state": lambda tokens: random_delta_rule(
        1, tokens, 2, 1, 2, vector=True
    ),
    "softmax of scores": lambda tokens: softmax(tokens, put_out=False),
    "softmax weights": lambda tokens: softmax(tokens, put_out=True),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_are_finite_differences(operator, function, tokens):
    o = OPERATORS[operator](tokens)
    if NEEDS.get(function, "map") not in o.maps:
        pytest.skip("has no such map")
    beside = ("x", "D") if function == "selective_scan" else ()
    names = [n for n in (*o.arrays(), *beside) if getattr(o, n) is not None]
    if function == "channel_agreement" and operator == "delta rule" and tokens == 1:
        pytest.skip("1 whatever the operands")
    leaves = [getattr(o, name).clone().requires_grad_() for name in names]

    def run(*values):
        return FUNCTIONS[function](dataclasses.replace(o, **dict(zip(names, values, strict=True))))

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
