"""How many prompts, tokens, heads and groups an operator has follows from the axes of its arrays."""

from typing import ClassVar

import pytest
import torch

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


def test_an_operator_without_such_an_axis_says_so():
    class Nowhere(SoftmaxScores):
        axes: ClassVar = {}

    with pytest.raises(ValueError, match="a softmax has no array with an axis token or query"):
        _ = Nowhere(q=OF_HEADS, k=OF_HEADS).tokens
