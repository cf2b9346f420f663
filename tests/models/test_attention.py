"""`MHA` and its weights against their definition in float64, entry by entry, for every option."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mixers import build_mixer

from ssmlens.errors import UsageError
from ssmlens.models.attention import MHA, attention_operands, rotate
from ssmlens.scan.hidden_attention import attention_map

KERNELS = Path(__file__).parents[1] / "fixtures" / "mamba_ssm_mixers" / "attention.npz"
VARIANTS = {
    "mha": {},
    "mha-gqa": {"num_heads_kv": 2},
    "mha-mlp": {"mlp_dim": 100, "softmax_scale": 0.3},
    "mha-conv": {
        "d_conv": 4,
        "head_dim": 24,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
    },
    "mha-open": {"num_heads": 2, "causal": False},
}
CAUSAL = {"embed_dim": 12, "num_heads": 4, "causal": True}
OPTIONS = {
    "plain": {},
    "everything sees everything": {"causal": False},
    "shared keys": {"num_heads_kv": 2},
    "one key for all": {"num_heads_kv": 1},
    "wide heads": {"head_dim": 5},
    "scale": {"softmax_scale": 0.7},
    "no biases": {"qkv_proj_bias": False, "out_proj_bias": False},
    "conv": {"d_conv": 3},
    "rotary": {"head_dim": 8, "rotary_emb_dim": 4},
    "rotary, interleaved": {
        "head_dim": 8,
        "rotary_emb_dim": 8,
        "rotary_emb_base": 100.0,
        "rotary_emb_interleaved": True,
    },
    "mlp": {"mlp_dim": 5},
    "as in mamba2attn-2.7b": {
        "num_heads_kv": 2,
        "d_conv": 4,
        "head_dim": 8,
        "out_proj_bias": False,
        "qkv_proj_bias": False,
        "rotary_emb_dim": 4,
    },
}


def attend(x, mha):
    """(output [token embed_dim], weights [head query key]) of one sequence, from the definition, in numpy."""
    state = {name: value.detach().double().numpy() for name, value in mha.state_dict().items()}
    tokens, heads, shared, size = len(x), mha.num_heads, mha.num_heads_kv, mha.head_dim
    made = x @ state["in_proj.weight"].T + state.get("in_proj.bias", 0)
    width = size * (heads + 2 * shared)
    qkv, mlp = made[:, :width], made[:, width:]
    if mha.d_conv:
        taps, before = state["conv1d.weight"][:, 0], qkv
        qkv = np.zeros_like(before) + state["conv1d.bias"]
        for t in range(tokens):
            for back in range(min(mha.d_conv, t + 1)):
                qkv[t] += taps[:, mha.d_conv - 1 - back] * before[t - back]

    def vector(part, head, t):
        start = (part + head) * size
        z = qkv[t, start : start + size].copy()
        dim = mha.rotary_emb_dim if part < heads + shared else 0  # values are not turned
        for pair in range(dim // 2):
            angle = t * mha.rotary_emb.base ** (-2 * pair / dim)
            turned = mha.rotary_emb.interleaved
            a, b = (2 * pair, 2 * pair + 1) if turned else (pair, pair + dim // 2)
            real, imaginary = z[a], z[b]
            z[a] = real * math.cos(angle) - imaginary * math.sin(angle)
            z[b] = real * math.sin(angle) + imaginary * math.cos(angle)
        return z

    scale = mha.softmax_scale or 1 / math.sqrt(size)
    weights, seen = np.zeros((heads, tokens, tokens)), np.zeros((tokens, heads, size))
    for h in range(heads):
        own = h // (heads // shared)
        for i in range(tokens):
            keys = range(i + 1) if mha.causal else range(tokens)
            query = vector(0, h, i)
            scores = np.exp([scale * query @ vector(heads, own, j) for j in keys])
            weights[h, i, : len(keys)] = scores / scores.sum()
            values = [vector(heads + shared, own, j) for j in keys]
            seen[i, h] = weights[h, i, : len(keys)] @ np.array(values)
    context = seen.reshape(tokens, -1)
    if mha.mlp_dim:
        up, gate = np.split(mlp, 2, axis=1)
        context = np.concatenate([context, up * gate / (1 + np.exp(-gate))], axis=1)
    return context @ state["out_proj.weight"].T + state.get("out_proj.bias", 0), weights


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_output_weights_and_map_by_definition(options):
    torch.manual_seed(0)
    mha = MHA(**(CAUSAL | options), dtype=torch.float64)
    for tokens in (1, 2, 9):
        x = torch.randn(3, tokens, 12, dtype=torch.float64)
        outputs, weights = zip(*(attend(row.numpy(), mha) for row in x), strict=True)
        np.testing.assert_allclose(mha(x).numpy(), outputs, rtol=1e-9, atol=1e-12)
        operands = attention_operands(x, mha)
        np.testing.assert_allclose(operands.weights.numpy(), weights, rtol=1e-9, atol=1e-12)
        mean = np.array(weights).mean(1)
        np.testing.assert_allclose(attention_map(operands).numpy(), mean, 1e-9, 1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_output_of_mamba_ssms_own_module_on_a_gpu(variant):
    stored = np.load(KERNELS)
    shape = {"embed_dim": 64, "num_heads": 4, "causal": True}
    mha = MHA(**(shape | VARIANTS[variant]))
    prefix = f"{variant}/weights/"
    state = {k.removeprefix(prefix): stored[k] for k in stored.files if k.startswith(prefix)}
    mha.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    output = mha(torch.from_numpy(stored[f"{variant}/input"])).numpy()
    expected = stored[f"{variant}/output"]
    assert np.linalg.norm(output - expected) < 1e-5 * np.linalg.norm(expected)


def test_state_dict_of_mamba_ssm():
    """The names and shapes that `mamba_ssm.modules.mha.MHA` makes with these arguments: no buffers of the rotary."""
    published = {"embed_dim": 64, "num_heads": 3, "num_heads_kv": 1, "head_dim": 8, "mlp_dim": 5}
    mha = build_mixer("MHA", **published, d_conv=4, rotary_emb_dim=4)
    assert {name: tuple(value.shape) for name, value in mha.state_dict().items()} == {
        "in_proj.weight": (8 * 5 + 256, 64),
        "in_proj.bias": (8 * 5 + 256,),
        "conv1d.weight": (40, 1, 4),
        "conv1d.bias": (40,),
        "out_proj.weight": (64, 24 + 128),
        "out_proj.bias": (64,),
    }


def test_low_precision_is_close():
    torch.manual_seed(0)
    options = OPTIONS["as in mamba2attn-2.7b"]
    mha = MHA(**(CAUSAL | options), dtype=torch.bfloat16)
    x = torch.randn(1, 33, 12, dtype=torch.bfloat16)
    with torch.no_grad():
        output, weights = attend(x[0].double().numpy(), mha)
        assert np.linalg.norm(mha(x)[0].float().numpy() - output) < 2e-2 * np.linalg.norm(output)
        seen = attention_operands(x, mha).weights
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen.sum(3), torch.ones(1, 4, 33))
    assert np.linalg.norm(seen[0].numpy() - weights) < 2e-2 * np.linalg.norm(weights)


def test_a_turn_keeps_lengths_and_depends_on_the_distance_only():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 1, 8).expand(1, 1, 50, 8)
    for interleaved in (False, True):
        turned = rotate(x, 6, 10.0, interleaved)[0, 0]
        torch.testing.assert_close(turned[:, 6:], x[0, 0, :, 6:])
        torch.testing.assert_close(turned.norm(dim=1), x[0, 0].norm(dim=1))
        products = turned @ turned.T
        torch.testing.assert_close(products[3:, 3:], products[:-3, :-3], rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    mha = MHA(**(CAUSAL | OPTIONS["conv"] | OPTIONS["mlp"]))
    mha(torch.randn(2, 5, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mha.parameters())


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="num_heads 4, num_heads_kv 3"):
        MHA(12, 4, num_heads_kv=3)
    with pytest.raises(UsageError, match="embed_dim 13"):
        MHA(13, 4)
