"""Every head, source and tap of MambaLM's layers, written out in float64 from the weights and explicit matrices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from logit_models import spread
from oracles import maps_by_definition

import ssmlens
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

SIZES = {"d_model": 12, "n_layer": 2, "vocab_size": 16}
MAMBA1 = {"layer": "Mamba1", "d_state": 4, "d_conv": 3, "bias": True}
MAMBA2 = {"layer": "Mamba2", "d_state": 4, "headdim": 6, "ngroups": 2, "bias": True}


def model_of(ssm_cfg, **more):
    torch.manual_seed(0)
    return spread(MambaLM(MambaConfig(**SIZES, ssm_cfg=ssm_cfg, **more))).double().cpu()


def inputs_of(model, ids):
    """What every mixer was given, and the stream before the final norm, by plain hooks: [token d_model] each."""
    given, handles = {}, []
    for n, block in enumerate(model.backbone.layers):
        handles.append(
            block.mixer.register_forward_hook(
                lambda module, args, output, n=n: given.update({n: args[0][0]})
            )
        )
    last = []
    handles.append(
        model.backbone.layers[-1].register_forward_hook(
            lambda module, args, output: last.append((output[0] + output[1])[0])
        )
    )
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return given, last[0]


def direction(model, stream, token):
    """s ⊙ g ⊙ W_U[v] at one position."""
    norm = model.backbone.norm_f
    return norm.weight * model.lm_head.weight[token] / (stream.square().mean() + norm.eps).sqrt()


def convolved(mixer, u, first):
    """What the first channels' convolution puts out, tap by tap [tap token channel], and its bias."""
    kernel = mixer.conv1d.weight.squeeze(1)[:first]
    taps = [
        F.pad(u, (0, 0, back, 0))[: len(u)] * kernel[:, kernel.shape[1] - 1 - back]
        for back in range(kernel.shape[1])
    ]
    return torch.stack(taps), mixer.conv1d.bias[:first]


def mamba1_by_hand(mixer, hidden):
    """M [channel query key], x's taps and bias with the activation's scale, the gate, W_out's columns, D."""
    u, z = F.linear(hidden, mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
    taps, bias = convolved(mixer, u, u.shape[1])
    scale = torch.sigmoid(taps.sum(0) + bias)
    x = scale * (taps.sum(0) + bias)
    rank = mixer.dt_proj.weight.shape[1]
    dt, B, C = mixer.x_proj(x).split([rank, mixer.A_log.shape[1], mixer.A_log.shape[1]], dim=-1)
    delta = F.softplus(F.linear(dt, mixer.dt_proj.weight, mixer.dt_proj.bias))
    M, _ = maps_by_definition(delta, -torch.exp(mixer.A_log), B[:, None], C[:, None])
    return M, scale * taps, scale * bias, F.silu(z), mixer.D


def mamba2_by_hand(mixer, hidden):
    heads, size = mixer.A_log.shape[0], mixer.headdim
    inner, states = heads * size, mixer.ngroups * mixer.d_state
    z, xBC, dt = F.linear(hidden, mixer.in_proj.weight, mixer.in_proj.bias).split(
        [inner, inner + 2 * states, heads], dim=-1
    )
    taps, bias = convolved(mixer, xBC, inner + 2 * states)
    scale = torch.sigmoid(taps.sum(0) + bias)
    x, B, C = (scale * (taps.sum(0) + bias)).split([inner, states, states], dim=-1)
    B, C = (part.unflatten(1, (mixer.ngroups, -1)) for part in (B, C))
    delta = F.softplus(dt + mixer.dt_bias)
    M, _ = maps_by_definition(delta, -torch.exp(mixer.A_log)[:, None], B, C)
    M = np.repeat(M, size, axis=0)
    D = mixer.D.repeat_interleave(size)
    y = torch.einsum("cij,jc->ic", torch.from_numpy(M), x) + D * x
    gated = (y * F.silu(z)).unflatten(1, (mixer.ngroups, -1))
    shrink = (gated.square().mean(2, keepdim=True) + 1e-5).rsqrt().expand_as(gated).flatten(1)
    gate = F.silu(z) * shrink * mixer.norm.weight
    return M, (scale * taps)[..., :inner], (scale * bias)[..., :inner], gate, D


BY_HAND = [(MAMBA1, mamba1_by_hand, 1), (MAMBA2, mamba2_by_hand, 6)]


@pytest.mark.parametrize("tokens", [1, 7, 13])
@pytest.mark.parametrize(("ssm_cfg", "by_hand", "headdim"), BY_HAND)
@torch.no_grad()
def test_heads_sources_and_taps(ssm_cfg, by_hand, headdim, tokens):
    model = model_of(ssm_cfg)
    ids = torch.randint(0, 16, (1, tokens))
    given, stream = inputs_of(model, ids)
    p, token = tokens - 1, 5
    reach = direction(model, stream[p], token)
    whole = ssmlens.attribute(model, ids, p, token, joint=True)
    split = ssmlens.attribute(model, ids, p, token, taps=True, joint=True)
    wanted = {"embedding": float(reach @ model.backbone.embedding.weight[ids[0, p]])}
    for n, block in enumerate(model.backbone.layers):
        M, taps, bias, gate, D = by_hand(block.mixer, given[n])
        read = (reach @ block.mixer.out_proj.weight) * gate[p]  # a value a channel
        row = torch.from_numpy(M[:, p]).T  # key channel
        row[p] += D
        x = taps.sum(0) + bias
        by_head = (read * row * x).unflatten(1, (-1, headdim)).sum(2).T
        np.testing.assert_allclose(whole["by_head_and_source"][n], by_head, atol=1e-10)
        of_taps = (read * row * taps).sum(2)  # tap token
        for back in range(len(taps)):
            moved = F.pad(of_taps[back, back:], (0, min(back, tokens)))
            np.testing.assert_allclose(split["by_tap"][n, back], moved, atol=1e-10)
        offset = float((read * row * bias).sum())
        np.testing.assert_allclose(
            split["value"].sel(term=f"{n} mamba convolution bias"), offset, atol=1e-10
        )
        wanted[f"{n} mamba"] = float(by_head.sum())
        wanted[f"{n} mamba bias"] = float(reach @ block.mixer.out_proj.bias)
    found = dict(zip(whole["term"].values, whole["value"].values, strict=True))
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), [wanted[n] for n in found], atol=1e-10)
    assert whole.attrs["closure"] < 1e-12


@torch.no_grad()
def test_layer_norms_an_mlp_in_every_block_an_untied_head_with_a_bias_and_a_gated_mlp_beside_the_scan():
    cfg = MAMBA2 | {"d_ssm": 12, "ngroups": 1}
    model = model_of(cfg, rms_norm=False, d_intermediate=16, tie_embeddings=False)
    width, vocabulary = model.lm_head.in_features, model.lm_head.out_features
    model.lm_head = torch.nn.Linear(width, vocabulary, dtype=torch.double)
    ids = torch.randint(0, 16, (1, 6))
    outputs, handles = {}, []
    for name, module in model.named_modules():
        if name.endswith(("mixer", "mlp", "embedding")):
            handles.append(
                module.register_forward_hook(
                    lambda module, args, output, name=name: outputs.update({name: output[0]})
                )
            )
    logits = model(ids).logits[0]
    for handle in handles:
        handle.remove()
    p, v, w = 4, 3, 7
    stream = sum(output[p] for output in outputs.values())
    norm, row = model.backbone.norm_f, model.lm_head.weight[v] - model.lm_head.weight[w]
    reach = row * norm.weight / (stream.var(unbiased=False) + norm.eps).sqrt()
    reach = reach - reach.mean()
    found = ssmlens.attribute(model, ids, p, (v, w))
    names = {"embedding": "backbone.embedding"}
    names |= {f"{n} mlp": f"backbone.layers.{n}.mlp" for n in (0, 1)}
    for label, name in names.items():
        np.testing.assert_allclose(
            found["value"].sel(term=label), float(reach @ outputs[name][p]), atol=1e-12
        )
    for n in (0, 1):
        parts = [f"{n} mamba{part}" for part in ("", " bias", " gated mlp")]
        np.testing.assert_allclose(
            found["value"].sel(term=parts).sum(),
            float(reach @ outputs[f"backbone.layers.{n}.mixer"][p]),
            atol=1e-12,
        )
        mixer = model.backbone.layers[n].mixer
        width = mixer.out_proj.in_features - 12
        z0, x0 = F.linear(_given(model, ids, n)[p], mixer.in_proj.weight, mixer.in_proj.bias)[
            : 2 * width
        ].chunk(2)
        beside = reach @ (mixer.out_proj.weight[:, :width] @ (F.silu(z0) * x0))
        np.testing.assert_allclose(
            found["value"].sel(term=f"{n} mamba gated mlp"), float(beside), atol=1e-12
        )
    np.testing.assert_allclose(
        found["value"].sel(term="final norm bias"), float(row @ norm.bias), atol=1e-12
    )
    bias = model.lm_head.bias
    np.testing.assert_allclose(
        found["value"].sel(term="head bias"), float(bias[v] - bias[w]), atol=1e-12
    )
    np.testing.assert_allclose(found["value"].sum(), float(logits[p, v] - logits[p, w]), atol=1e-12)


def _given(model, ids, layer):
    return inputs_of(model, ids)[0][layer]


@torch.no_grad()
def test_softmax_attention_of_mamba_lm():
    attention = {"causal": True, "num_heads": 2, "num_heads_kv": 1, "head_dim": 5, "mlp_dim": 4}
    model = model_of(MAMBA1, attn_layer_idx=[1], attn_cfg=attention)
    ids = torch.randint(0, 16, (1, 7))
    given, stream = inputs_of(model, ids)
    reach, mha = direction(model, stream[5], 2), model.backbone.layers[1].mixer
    q, k, v, up, gate = F.linear(given[1], mha.in_proj.weight, mha.in_proj.bias).split(
        [10, 5, 5, mha.mlp_dim // 2, mha.mlp_dim // 2], dim=1
    )
    out = mha.out_proj.weight
    found = ssmlens.attribute(model, ids, 5, 2, joint=True)
    for head in (0, 1):
        own = slice(5 * head, 5 * head + 5)
        weights = torch.softmax(q[5, own] @ k[:6].T / 5**0.5, dim=0)
        by_source = weights * (v[:6] @ out[:, own].T @ reach)
        np.testing.assert_allclose(
            found["by_head_and_source"].sel(mixer="1 attention")[head, :6], by_source, atol=1e-10
        )
    beside = reach @ out[:, 10:] @ (up[5] * F.silu(gate[5]))
    np.testing.assert_allclose(
        found["value"].sel(term="1 attention gated mlp"), float(beside), atol=1e-10
    )
