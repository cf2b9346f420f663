"""A row of M is that row of the whole matrix, of every operator."""

import pytest
import torch
from delta_rules import random_delta_rule
from oracles import relative

from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.softmax import SoftmaxScores
from ssmlens.scan.row import matrix_row


def same(operands):
    whole = channel_maps(operands)
    for query in {0, operands.tokens // 2, operands.tokens - 1}:
        row = matrix_row(operands, query)
        assert row.shape == (operands.batch, operands.heads, operands.tokens)
        assert relative(row, whole[:, :, query]) < 1e-5


@pytest.mark.parametrize("tokens", [1, 7, 65])
@pytest.mark.parametrize("A_state", [0, 1, 3])
def test_of_a_decay_scan(random_operands, tokens, A_state):
    same(random_operands(2, tokens, 4, A_state, 2, 3))


@pytest.mark.parametrize("tokens", [1, 7, 65])
@pytest.mark.parametrize("vector", [False, True])
def test_of_a_delta_rule(tokens, vector):
    same(random_delta_rule(2, tokens, 4, 2, 3, vector=vector))


@pytest.mark.parametrize("causal", [True, False])
def test_of_softmax_attention(causal):
    q, k = torch.randn(2, 1, 9, 3, 5)
    same(SoftmaxScores(q=q, k=k, scale=0.4, causal=causal))
