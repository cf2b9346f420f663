"""MiniMax's lightning attention against its definition in float64."""

import importlib.util

import pytest
import torch
from oracles import relative

import ssmlens
from ssmlens.errors import UsageError

FAMILY = "transformers MiniMaxLightningAttention"
if importlib.util.find_spec("transformers.models.minimax") is None:
    pytest.skip("not in this version", allow_module_level=True)


def recorded(model, ids, **keywords):
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, use_cache=False, **keywords)
    return [record for record in rec if record.call.site.adapter.family == FAMILY]


def ids_of(batch, tokens):
    torch.manual_seed(tokens)
    return torch.randint(1, 32, (batch, tokens))


def matrices(record, layers=3):
    """exp(−s (i − j)) q_i · k_j, s the slope of head h of H: 2^(−8 (h + 1) / H), smaller in later layers."""
    mixer, layer = record.call.site.module, record.call.site.layer
    heads = 3
    silu = torch.nn.functional.silu
    qkv = silu(record.call.given.hidden.double() @ mixer.qkv_proj.weight.double().T)
    q, k, _ = qkv.unflatten(2, (heads, 3, -1)).unbind(3)
    slope = 2.0 ** (-8 * (torch.arange(heads, dtype=torch.double) + 1) / heads)
    slope = slope * (1 - layer / (layers - 1 + 1e-5) + 1e-5)
    at = torch.arange(q.shape[1])
    apart = at.unsqueeze(1) - at
    decay = torch.exp(-slope[:, None, None] * apart.clamp(min=0)) * (apart >= 0)
    return torch.einsum("bihd,bjhd->bhij", q, k) * decay


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 2), (1, 5), (3, 65)])
def test_the_matrices_are_those_of_the_formula(tiny_model, batch, tokens):
    for record in recorded(tiny_model(FAMILY), ids_of(batch, tokens)):
        with torch.no_grad():
            wanted = matrices(record)
            M = record.operands.matrix([2, 0], (0, tokens), (0, tokens))
        assert relative(M, wanted[:, [2, 0]]) < 1e-5
        assert relative(ssmlens.attention_map(record.operands), wanted.mean(1)) < 1e-5


def test_bfloat16(tiny_model):
    for record in recorded(tiny_model(FAMILY).bfloat16(), ids_of(2, 33)):
        assert record.closure_error < 2e-2


def test_a_teachers_layer_at_another_place_has_another_decay(tiny_model):
    """So its whole mixer is no start for a student's layer elsewhere; at its own place it is."""
    teacher, student = tiny_model(FAMILY), tiny_model(FAMILY)
    ssmlens.transplant_(student, teacher, layer=0, scope="mixer", student_layers=(0,))
    with pytest.raises(UsageError, match="slope_rate"):
        ssmlens.transplant_(student, teacher, layer=0, scope="mixer", student_layers=(2,))
