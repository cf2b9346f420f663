"""A row of M is that row of the whole matrix, of every operator."""

import pytest
import torch
from delta_rules import random_delta_rule
from oracles import relative

from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.operators.delta_rule import DeltaRule
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


def test_no_more_than_a_row_is_made(monkeypatch, random_operands):
    """Of a long prompt M of all heads would not fit: only one query's row is asked for, of some heads at a time."""
    rule = random_delta_rule(1, 33, 4, 2, 3)
    asked = []
    make = DeltaRule.matrix

    def matrix(self, heads, queries, keys):
        asked.append((tuple(heads), queries))
        return make(self, heads, queries, keys)

    monkeypatch.setattr(DeltaRule, "matrix", matrix)
    monkeypatch.setattr("ssmlens.scan.row._FACTORS", {"cpu": 128 * 33 * 3})
    matrix_row(rule, 20)
    assert asked == [((0, 1, 2), (20, 21)), ((3,), (20, 21))]
    monkeypatch.setattr(DecayScan, "matrix", None)  # not called at all
    assert matrix_row(random_operands(1, 9, 4, 1, 2, 3), 5).shape == (1, 4, 9)
