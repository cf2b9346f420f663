"""The projections against token-by-token numpy in float64."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import relative

from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.projections import (
    causal_conv1d,
    finish_mamba1,
    finish_mamba2,
    project_mamba1,
    project_mamba2,
)
from ssmlens.scan.operators.decay_scan import ScanOperands


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def convolve(x, weight, bias):
    """One token and one tap at a time; x [token channel], weight [channel tap]."""
    y = np.zeros_like(x) if bias is None else np.tile(bias, (len(x), 1))
    taps = weight.shape[1]
    for t in range(len(x)):
        for k in range(taps):
            if t + k + 1 - taps >= 0:
                y[t] += weight[:, k] * x[t + k + 1 - taps]
    return y


def scan(x, delta, A, B, C, D):
    """One token at a time; x [token head headdim], delta [token head], A [head state]."""
    h = np.zeros((*x.shape[1:], B.shape[-1]))
    y = np.zeros_like(x)
    heads_a_group = x.shape[1] // B.shape[1]
    for t in range(len(x)):
        b, c = (np.repeat(v[t], heads_a_group, axis=0) for v in (B, C))
        decay = np.exp(delta[t][:, None] * A)
        h = h * decay[:, None] + (delta[t][:, None] * b)[:, None] * x[t][:, :, None]
        y[t] = (h * c[:, None]).sum(-1) + D * x[t]
    return y


def numbers(weights):
    """Every tensor of a weights record in float64 numpy; settings as they are."""
    values = {f.name: getattr(weights, f.name) for f in dataclasses.fields(weights)}
    return {
        k: v.detach().double().numpy() if isinstance(v, torch.Tensor) else v
        for k, v in values.items()
    }


def plus(x, bias):
    return x if bias is None else x + bias


def mamba1_output(u, weights):
    """A Mamba-1 mixer on one sequence u [token d_model], by the definition."""
    w = numbers(weights)
    (x_proj,), (dt_proj,) = w["x_proj_weight"], w["dt_proj_weight"]
    d_inner, rank = dt_proj.shape
    n = w["A_log"].shape[1]
    xz = plus(u @ w["in_proj_weight"].T, w["in_proj_bias"])
    x, z = xz[:, :d_inner], xz[:, d_inner:]
    x = silu(convolve(x, w["conv_weight"], w["conv_bias"]))
    low = x @ x_proj.T
    dt, B, C = low[:, :rank], low[:, rank : rank + n], low[:, rank + n :]
    delta = softplus(plus(dt @ dt_proj.T, w["dt_bias"]))
    A, D = -np.exp(w["A_log"]), w["D"][:, None]
    y = scan(x[:, :, None], delta, A, B[:, None], C[:, None], D)[:, :, 0]
    return plus((y * silu(z)) @ w["out_proj_weight"].T, w["out_proj_bias"])


def mamba2_output(u, weights):
    """A Mamba-2 mixer on one sequence u [token d_model], by the definition."""
    w = numbers(weights)
    heads, p, g, n = len(w["A_log"]), w["headdim"], w["ngroups"], w["d_state"]
    d_ssm, d_inner = heads * p, w["out_proj_weight"].shape[1]
    sizes = [d_inner - d_ssm, d_inner - d_ssm, d_ssm, d_ssm, g * n, g * n, heads]
    projected = plus(u @ w["in_proj_weight"].T, w["in_proj_bias"])
    z0, x0, z, x, B, C, dt = np.split(projected, np.cumsum(sizes)[:-1], axis=1)
    xBC = np.concatenate([x, B, C], axis=1)
    xBC = silu(convolve(xBC, w["conv_weight"], w["conv_bias"]))
    x, B, C = np.split(xBC, [d_ssm, d_ssm + g * n], axis=1)
    delta = np.clip(softplus(dt + w["dt_bias"]), *w["dt_limit"])
    T = len(u)
    y = scan(
        x.reshape(T, heads, p),
        delta,
        -np.exp(w["A_log"])[:, None],
        B.reshape(T, g, n),
        C.reshape(T, g, n),
        w["D"].reshape(heads, -1),
    ).reshape(T, d_ssm)

    def norm(v):
        group = v.reshape(T, w["norm_groups"] or g, -1)
        group = group / np.sqrt((group**2).mean(-1, keepdims=True) + w["norm_eps"])
        return group.reshape(T, d_ssm) * w["norm_weight"]

    if w["norm_weight"] is None:
        y = y * silu(z)
    elif w["norm_before_gate"]:
        y = norm(y) * silu(z)
    else:
        y = norm(y * silu(z))
    y = np.concatenate([silu(z0) * x0, y], axis=1)
    return plus(y @ w["out_proj_weight"].T, w["out_proj_bias"])


def randomise(module):
    """No parameter at a value that could hide a mistake (D = 1, norm = 1, bias = 0)."""
    for name, parameter in module.named_parameters():
        if name.rsplit(".", 1)[-1] in ("D", "bias") or name == "norm.weight":
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


MAMBA1 = [
    {},
    {"bias": True},
    {"conv_bias": False},
    {"dt_rank": 3, "d_state": 5, "expand": 3},
    {"d_conv": 2, "dt_init": "constant", "dt_scale": 2.0},
]
MAMBA2 = [
    {},
    {"bias": True, "conv_bias": False},
    {"ngroups": 2, "headdim": 6},
    {"d_ssm": 16},
    {"d_ssm": 16, "bias": True, "ngroups": 2, "D_has_hdim": True},
    {"D_has_hdim": True},
    {"rmsnorm": False},
    {"norm_before_gate": True, "ngroups": 2, "headdim": 6},
    {"dt_limit": (0.02, 0.05)},
    {"d_conv": 3, "conv_init": 0.1, "headdim": 4},
]


@pytest.mark.parametrize("tokens", [1, 3, 13])
@pytest.mark.parametrize("options", MAMBA1, ids=str)
def test_mamba1_equals_its_definition(options, tokens):
    torch.manual_seed(0)
    mixer = randomise(Mamba(12, **({"d_state": 4} | options), dtype=torch.float64))
    u = torch.randn(2, tokens, 12, dtype=torch.float64)
    expected = np.stack([mamba1_output(row.numpy(), mixer.weights()) for row in u])
    assert relative(mixer(u).detach(), expected) < 1e-7


@pytest.mark.parametrize("tokens", [1, 3, 13])
@pytest.mark.parametrize("options", MAMBA2, ids=str)
def test_mamba2_equals_its_definition(options, tokens):
    torch.manual_seed(0)
    mixer = Mamba2(12, **({"d_state": 6, "headdim": 8} | options), dtype=torch.float64)
    randomise(mixer)
    u = torch.randn(2, tokens, 12, dtype=torch.float64)
    expected = np.stack([mamba2_output(row.numpy(), mixer.weights()) for row in u])
    assert relative(mixer(u).detach(), expected) < 1e-7


def test_float32_agrees_with_float64():
    torch.manual_seed(0)
    u = torch.randn(1, 29, 32)
    for mixer in (Mamba(32, d_state=8), Mamba2(32, d_state=8, headdim=16)):
        single = mixer(u).detach()
        double = mixer.double()(u.double()).detach()
        assert single.dtype == torch.float32
        assert relative(single, double.numpy()) < 2e-6


@pytest.mark.parametrize("mixer", [Mamba(16, d_state=4), Mamba2(16, d_state=4, headdim=8)])
def test_bfloat16_weights_keep_the_scan_in_float32(mixer):
    mixer = mixer.bfloat16()
    u = torch.randn(1, 9, 16, dtype=torch.bfloat16)
    project = project_mamba1 if isinstance(mixer, Mamba) else project_mamba2
    operands = project(u, mixer.weights())
    assert operands.gate.dtype == torch.bfloat16
    for name in ("delta", "A", "B", "C", "x", "D"):
        assert getattr(operands, name).dtype == torch.float32, name
    # A is exact in the exponent: -exp of the stored A_log in float32, not in bfloat16
    assert torch.equal(operands.A.flatten(), -torch.exp(mixer.A_log.float()).flatten())
    out = mixer(u)
    assert out.dtype == torch.bfloat16
    expected = mixer.double()(u.double()).detach().numpy()
    assert relative(out.detach().float(), expected) < 2e-2


@pytest.mark.parametrize(("tokens", "taps"), [(1, 4), (2, 4), (7, 1), (9, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_causal_convolution(tokens, taps, bias):
    torch.manual_seed(0)
    x, w = torch.randn(3, tokens, 5).double(), torch.randn(5, taps).double()
    b = torch.randn(5).double() if bias else None
    out = causal_conv1d(x, w, b)
    expected = [convolve(row.numpy(), w.numpy(), None if b is None else b.numpy()) for row in x]
    assert np.allclose(out, np.stack(expected), atol=1e-12)
    reference = F.conv1d(x.mT, w[:, None], b, padding=taps - 1, groups=5)[..., :tokens].mT
    assert torch.allclose(out, reference, atol=1e-12)


def test_transform_sits_between_x_proj_and_dt_proj():
    torch.manual_seed(0)
    mixer = Mamba(8, d_state=3)
    u = torch.randn(1, 5, 8)
    plain = project_mamba1(u, mixer.weights())

    def transform(dt, B, C):
        return torch.zeros_like(dt), 2 * B, 3 * C

    doubled = project_mamba1(u, dataclasses.replace(mixer.weights(), transform=transform))
    assert torch.equal(doubled.B, 2 * plain.B)
    assert torch.equal(doubled.C, 3 * plain.C)
    assert torch.allclose(doubled.delta, F.softplus(mixer.dt_proj.bias).expand(1, 5, 16))


def test_mamba1_with_groups_is_a_mixer_a_group_side_by_side():
    """Zamba's heads: each with its own rows of in_proj, its own x_proj, dt_proj and columns of out_proj."""
    torch.manual_seed(0)
    mixer = randomise(Mamba(12, d_state=4, dt_rank=3, bias=True, dtype=torch.float64))
    whole, half = mixer.weights(), 12
    separate = [torch.randn(1, 3 + 8, half).double() for _ in range(2)]
    grouped = dataclasses.replace(
        whole,
        x_proj_weight=torch.cat(separate),
        dt_proj_weight=whole.dt_proj_weight.unflatten(1, (2, half)).squeeze(0),
    )
    u = torch.randn(2, 13, 12, dtype=torch.float64)
    operands = project_mamba1(u, grouped)
    assert (operands.groups, operands.heads) == (2, 24)
    out = finish_mamba1(naive(operands), operands.gate, grouped).detach()
    expected = -(whole.out_proj_bias.detach().numpy())  # each part below adds it once
    for g in range(2):
        part = slice(g * half, (g + 1) * half)
        in_proj = [whole.in_proj_weight[part], whole.in_proj_weight[24:][part]]
        in_proj_bias = [whole.in_proj_bias[part], whole.in_proj_bias[24:][part]]
        alone = dataclasses.replace(
            whole,
            in_proj_weight=torch.cat(in_proj),
            in_proj_bias=torch.cat(in_proj_bias),
            conv_weight=whole.conv_weight[part],
            conv_bias=whole.conv_bias[part],
            x_proj_weight=separate[g],
            dt_proj_weight=grouped.dt_proj_weight[g : g + 1],
            dt_bias=whole.dt_bias[part],
            A_log=whole.A_log[part],
            D=whole.D[part],
            out_proj_weight=whole.out_proj_weight[:, part],
        )
        expected = expected + np.stack([mamba1_output(row.numpy(), alone) for row in u])
    assert relative(out, expected) < 1e-12


@pytest.mark.parametrize("norm_groups", [1, 2, 4])
def test_the_norm_has_groups_of_its_own(norm_groups):
    torch.manual_seed(0)
    mixer = randomise(Mamba2(12, d_state=6, headdim=6, ngroups=2, dtype=torch.float64))
    weights = dataclasses.replace(mixer.weights(), norm_groups=norm_groups)
    u = torch.randn(1, 9, 12, dtype=torch.float64)
    operands = project_mamba2(u, weights)
    out = finish_mamba2(naive(operands), operands.gate, weights).detach()
    assert relative(out[0], mamba2_output(u[0].numpy(), weights)) < 1e-12


def test_in_proj_scale_multiplies_what_in_proj_makes():
    torch.manual_seed(0)
    mixer = randomise(Mamba2(12, d_state=6, headdim=8, bias=True, dtype=torch.float64))
    plain = mixer.weights()
    scale = torch.rand(len(plain.in_proj_weight)).double() + 0.5
    scaled = dataclasses.replace(plain, in_proj_scale=scale)
    folded = dataclasses.replace(
        plain,
        in_proj_weight=plain.in_proj_weight * scale[:, None],
        in_proj_bias=plain.in_proj_bias * scale,
    )
    u = torch.randn(1, 9, 12, dtype=torch.float64)
    operands = project_mamba2(u, scaled)
    out = finish_mamba2(naive(operands), operands.gate, scaled).detach()
    assert relative(out[0], mamba2_output(u[0].numpy(), folded)) < 1e-12


def naive(operands: ScanOperands) -> torch.Tensor:
    """The scan in numpy, so that a fault of the package's own cannot cancel one of the projections."""
    o = operands.map(lambda t: t.detach().double())
    rows = [
        scan(*(t.numpy() for t in (o.x[b], o.delta[b], o.A, o.B[b], o.C[b], o.D)))
        for b in range(o.batch)
    ]
    return torch.from_numpy(np.stack(rows)).to(operands.x.dtype)
