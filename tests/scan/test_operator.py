"""How many prompts, tokens, heads and groups an operator has follows from the axes of its arrays."""

from typing import ClassVar

import pytest
import torch

from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.operators.delta_rule import DeltaRule
from ssmlens.scan.operators.gated_convolution import GatedConvolution
from ssmlens.scan.operators.softmax import SoftmaxScores, SoftmaxWeights
from ssmlens.scan.operators.two_way import TwoWayScan
from ssmlens.scan.operators.vector_decay_scan import VectorDecayScan

BATCH, TOKENS, HEADS, GROUPS, STATES = 2, 7, 6, 3, 5
STEPS = torch.rand(BATCH, TOKENS, HEADS)
OF_GROUPS = torch.randn(BATCH, TOKENS, GROUPS, STATES)
OF_STATES = torch.rand(BATCH, TOKENS, HEADS, STATES)
OF_HEADS = torch.randn(BATCH, TOKENS, HEADS, 1)
DECAY = {"delta": STEPS, "A": -torch.ones(HEADS, STATES), "B": OF_GROUPS, "C": OF_GROUPS}
OPERATORS = [
    (DecayScan(**DECAY), GROUPS),
    (DecayScan(**DECAY | {"A": None}, log_decay=-STEPS), GROUPS),
    (TwoWayScan(**DECAY), GROUPS),
    (DeltaRule(q=OF_GROUPS, k=OF_GROUPS, beta=STEPS, log_decay=-STEPS.unsqueeze(3)), GROUPS),
    (VectorDecayScan(B=OF_GROUPS, C=OF_GROUPS, log_decay=-OF_STATES), GROUPS),
    (GatedConvolution(B=OF_HEADS, C=OF_HEADS, taps=torch.randn(HEADS, 4)), HEADS),
    (SoftmaxWeights(weights=torch.rand(BATCH, HEADS, TOKENS, TOKENS)), HEADS),
    (SoftmaxScores(q=OF_HEADS, k=OF_HEADS), HEADS),
]


@pytest.mark.parametrize(("operator", "groups"), OPERATORS)
def test_sizes_are_those_of_its_arrays(operator, groups):
    assert (operator.batch, operator.tokens, operator.heads) == (BATCH, TOKENS, HEADS)
    assert operator.groups == groups
    cut = operator.rows([1], 2, 5).select_heads([4, 1])
    assert (cut.batch, cut.tokens, cut.heads, cut.groups) == (1, 3, 2, 2)


@pytest.mark.parametrize(("operator", "groups"), OPERATORS)
@pytest.mark.parametrize("sequences", [[0], [1], [0, 1], [1, 0]])
@pytest.mark.parametrize(("first", "end"), [(0, TOKENS), (0, 4), (3, TOKENS)])
def test_rows_are_those_that_are_asked_for(operator, groups, sequences, first, end):
    cut = operator.rows(sequences, first, end)
    for name, axes in operator.axes.items():
        wanted = getattr(operator, name)
        if wanted is None or axes[0] != "prompt":
            assert getattr(cut, name) is wanted
            continue
        wanted = wanted[sequences]
        for axis in (k for k, it in enumerate(axes) if it in ("token", "query", "key")):
            wanted = wanted.narrow(axis, first, end - first)
        assert torch.equal(getattr(cut, name), wanted)


@pytest.mark.parametrize("A_state", [0, 1])
def test_a_log_decay_of_minus_infinity_leaves_nothing(random_operands, A_state):
    """Where the step and B stay: rows read what was written since, and of what was before 0 and no NaN."""
    o = random_operands(2, 9, 4, A_state, 2, 3, scale=0.1)
    log_decay, axes = o.quantity("log_decay")
    assert axes[:2] == ("prompt", "token")
    log_decay = log_decay.clone()
    log_decay[:, 5] = -torch.inf
    changed = o.with_quantity("log_decay", log_decay)
    before, after = channel_maps(o), channel_maps(changed)
    assert torch.allclose(after[:, :, :5, :5], before[:, :, :5, :5], rtol=1e-5, atol=1e-8)
    assert torch.allclose(after[:, :, 6:, 6:], before[:, :, 6:, 6:], rtol=1e-5, atol=1e-8)
    assert after[:, :, 5:, :5].abs().max() < 1e-30
    assert before[:, :, 5:, :5].abs().max() > 1e-3
    mixed = torch.einsum("bhij,bjhp->bihp", after, o.x)
    assert torch.allclose(changed(o.x), mixed, rtol=1e-4, atol=1e-5)


def test_an_operator_without_such_an_axis_says_so():
    class Nowhere(SoftmaxScores):
        axes: ClassVar = {}

    with pytest.raises(ValueError, match="a softmax has no array with an axis token or query"):
        _ = Nowhere(q=OF_HEADS, k=OF_HEADS).tokens
