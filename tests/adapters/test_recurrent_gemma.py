"""RecurrentGemma's recurrence against its paper's formulas in float64, and what a block keeps between calls."""

import importlib.util

import numpy as np
import pytest
import torch
from oracles import relative

import ssmlens
from ssmlens.adapters.find import find_mixers
from ssmlens.scan.hidden_attention import attention_mask

FAMILY = "transformers RecurrentGemmaRecurrentBlock"
if importlib.util.find_spec("transformers.models.recurrent_gemma") is None:
    pytest.skip("not in this version", allow_module_level=True)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model(FAMILY)


def recorded(model, ids, **keywords):
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, **keywords)
    return [record for record in rec if record.call.site.adapter.family == FAMILY]


def ids_of(batch, tokens):
    torch.manual_seed(tokens)
    return torch.randint(1, 32, (batch, tokens))


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def decays_and_writes(block, hidden, positions):
    """a and w [batch token channel] of De et al. 2024, eqs. 1-4, channel by channel."""
    weights = {n: p.detach().double().numpy() for n, p in block.named_parameters()}
    u = hidden.double().numpy() @ weights["linear_x.weight"].T + weights["linear_x.bias"]
    taps = weights["conv_1d.weight"][:, 0]
    padded = np.pad(u, ((0, 0), (taps.shape[1] - 1, 0), (0, 0)))
    x = sum(padded[:, k : k + u.shape[1]] * taps[:, k] for k in range(taps.shape[1]))
    x = x + weights["conv_1d.bias"]
    gates = []
    for name in ("input", "recurrent"):
        weight, bias = (weights[f"rg_lru.{name}_gate_{kind}"] for kind in ("weight", "bias"))
        parts = np.split(x, len(weight), axis=2)
        rows = [part @ w + b for part, w, b in zip(parts, weight, bias, strict=True)]
        gates.append(sigmoid(np.concatenate(rows, axis=2)))
    taken, kept = gates
    a = np.exp(-8 * kept * np.log1p(np.exp(weights["rg_lru.recurrent_param"])))
    first = positions[..., None] == 0
    return np.where(first, 0, a), taken * np.where(first, 1, np.sqrt(1 - a**2))


def maps_of(a, w):
    """M[i,j] = a_i ⋯ a_{j+1} w_j of one sequence, [channel query key]."""
    tokens, channels = a.shape
    M = np.zeros((channels, tokens, tokens))
    for j in range(tokens):
        passed = w[j]
        for i in range(j, tokens):
            passed = passed * (a[i] if i > j else 1)
            M[:, i, j] = passed
    return M


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (3, 2), (1, 5), (3, 65)])
def test_the_matrices_are_those_of_the_formula(model, batch, tokens):
    heads = [0, 7, 15]
    for record in recorded(model, ids_of(batch, tokens), use_cache=False):
        o, call = record.operands, record.call
        positions = np.arange(tokens)[None].repeat(batch, 0)
        a, w = decays_and_writes(call.site.module, call.given.hidden, positions)
        M = o.matrix(heads, (0, tokens), (0, tokens))
        for row in range(batch):
            wanted = maps_of(a[row], w[row])
            assert relative(M[row], wanted[heads]) < 1e-5
            whole = o.means(("map",), (0, tokens), (0, tokens))[row, 0]
            assert relative(whole, wanted.mean(0)) < 1e-5
            alone = maps_of(a[row], np.ones_like(w[row]))
            assert relative(attention_mask(o)[row], alone.mean(0)) < 1e-5


def test_at_position_0_nothing_is_left_of_a_prompt_before(model):
    """Two prompts in a row, told apart by their positions: what the convolution mixes is not forgotten."""
    ids = ids_of(2, 9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
    for record in recorded(model, ids, position_ids=positions, use_cache=False):
        assert record.closure_error < 1e-5
        maps = ssmlens.channel_maps(record.operands)
        assert not maps[0, :, 4:, :4].any()
        assert maps[1, :, 4:, :4].any()
        at_once = record.operands.diagonal()[0]
        taken = record.operands.diagonal()[1]
        assert (at_once[4] > 0).all()
        assert (taken[4] > 0).all()


def test_bfloat16(tiny_model):
    model = tiny_model(FAMILY).bfloat16()
    for record in recorded(model, ids_of(2, 33), use_cache=False):
        assert record.closure_error < 2e-2


def test_what_a_generate_leaves_behind_does_not_reach_a_later_prompt(model):
    """A block holds its state itself; a prompt begins at position 0, but one of a single token reads the taps."""
    model.generate(ids_of(2, 5), max_new_tokens=2, do_sample=False, pad_token_id=0)
    site = find_mixers(model)[0]
    assert site.module.conv1d_state.any()
    for options in ({}, {"use_cache": False}):
        for record in recorded(model, ids_of(2, 6), **options):
            assert record.closure_error < 1e-5
    given = {"position_ids": torch.zeros(2, 1, dtype=torch.long), "attention_mask": None}
    site.module.conv1d_state = torch.ones(2, 16, 3)
    site.module.rg_lru.recurrent_states = torch.zeros(2, 16)
    hidden = torch.zeros(2, 1, 16)
    refusal = site.adapter.refusal
    assert "a cached step (use_cache)" in refusal(site.module, (hidden,), given)
    assert refusal(site.module, (hidden,), {**given, "use_cache": False}) is None
    assert refusal(site.module, (hidden[:1],), given) is None  # another batch begins anew


def test_padding_on_the_left_is_read_by_the_tokens_after_it(model):
    ids = ids_of(1, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    (record, *_) = recorded(model, ids, attention_mask=mask, use_cache=False)
    assert record.closure_error < 1e-5
    assert ssmlens.channel_maps(record.operands)[0, :, 2:, :2].any()
