"""Mamba-3 against mamba_ssm's kernels, and against its recurrence in float64, in which states turn, not B and C."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from mixers import build_mixer
from oracles import relative

from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.models.mamba3 import Mamba3
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.models.projections_mamba3 import project_mamba3
from ssmlens.scan.hidden_attention import channel_maps

KERNELS = Path(__file__).parents[1] / "fixtures" / "mamba_ssm_mixers" / "mamba3.npz"
VARIANTS = {
    "m3": {},
    "m3-rope1": {"rope_fraction": 1.0},
    "m3-groups": {"ngroups": 2},
    "m3-norm": {"is_outproj_norm": True},
    "m3-long": {},
    "m3-n16": {"d_state": 16, "headdim": 16},
}
OPTIONS = {
    "plain": {},
    "all states rotated": {"rope_fraction": 1.0},
    "odd number of states": {"d_state": 7},
    "groups": {"ngroups": 2},
    "norm": {"is_outproj_norm": True},
    "wide": {"expand": 3, "headdim": 9},
    "floor": {"A_floor": 0.7},
    "everything": {"ngroups": 4, "rope_fraction": 1, "is_outproj_norm": True, "d_state": 5},
}


def made(seed=0, dtype=torch.float64, **options):
    """A small mixer none of whose weights is 0 or 1, so that a mistake in any shows."""
    torch.manual_seed(seed)
    mixer = Mamba3(12, **{"d_state": 6, "headdim": 6, **options})
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        mixer.dt_bias.add_(2)  # steps of about 1: rotations of about a half turn, no decay of 1
    return mixer.to(dtype)


def branches(mixer, u):
    """What in_proj makes of one sequence, by name, in numpy; B and C normalised and biased, a row a head."""
    state = {name: value.detach().double().numpy() for name, value in mixer.state_dict().items()}
    heads, inner, N, G = mixer.nheads, mixer.d_inner, mixer.d_state, mixer.num_bc_heads
    widths = [inner, inner, G * N, G * N, heads, heads, heads]
    parts = np.split(u @ state["in_proj.weight"].T, np.cumsum(widths), axis=1)
    made = dict(zip(("z", "x", "B", "C", "dt", "rate", "trap", "angle"), parts, strict=True))
    for name in ("B", "C"):
        v = made[name].reshape(len(u), G, N)
        v = v / np.sqrt((v**2).mean(2, keepdims=True) + 1e-5) * state[f"{name}_norm.weight"]
        made[name] = v[:, np.arange(heads) * G // heads] + state[f"{name}_bias"][:, 0]
    made["x"], made["z"] = (made[name].reshape(len(u), heads, -1) for name in ("x", "z"))
    return made, state


def recur(mixer, made, state, x):
    """y [token head headdim] of the trapezoidal recurrence: token by token, head by head, turning the states."""
    tokens, heads, headdim = x.shape
    y = np.zeros_like(x)
    for h in range(heads):
        H, written = np.zeros((headdim, mixer.d_state)), np.zeros((headdim, mixer.d_state))
        for t in range(tokens):
            step = np.log1p(np.exp(made["dt"][t, h] + state["dt_bias"][h]))
            decay = np.exp(-step * max(np.log1p(np.exp(made["rate"][t, h])), mixer.A_floor))
            share = 1 / (1 + np.exp(-made["trap"][t, h]))
            H = decay * (H + (1 - share) * step * written)
            for pair, angle in enumerate(made["angle"][t]):
                turn = np.exp(-1j * np.pi * np.tanh(angle) * step)
                turned = (H[:, 2 * pair] + 1j * H[:, 2 * pair + 1]) * turn
                H[:, 2 * pair], H[:, 2 * pair + 1] = turned.real, turned.imag
            written = np.outer(x[t, h], made["B"][t, h])
            H = H + share * step * written
            y[t, h] = H @ made["C"][t, h]
    return y


def mixed(mixer, u):
    """A mixer's output on one sequence, from the definition."""
    made, state = branches(mixer, u)
    y = recur(mixer, made, state, made["x"]) + state["D"][:, None] * made["x"]
    if mixer.is_outproj_norm:
        y = y / np.sqrt((y**2).mean(2, keepdims=True) + 1e-5)
        y = y * state["norm.weight"].reshape(y.shape[1:])
    gated = y * made["z"] / (1 + np.exp(-made["z"]))
    return gated.reshape(len(u), -1) @ state["out_proj.weight"].T


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_output_of_mamba_ssms_own_mamba3_kernels(variant):
    stored = np.load(KERNELS)
    mixer = build_mixer("Mamba3", d_model=64, **{"d_state": 32, "headdim": 32, **VARIANTS[variant]})
    prefix = f"{variant}/weights/"
    state = {k.removeprefix(prefix): stored[k] for k in stored.files if k.startswith(prefix)}
    mixer.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    output = mixer(torch.from_numpy(stored[f"{variant}/input"])).numpy()
    # The kernels approximate tanh, sin and cos and multiply in TF32.
    assert relative(output, stored[f"{variant}/output"]) < 6e-3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_output_is_that_of_the_recurrence_with_turning_states(options):
    mixer = made(**options)
    for tokens in (1, 2, 37):
        u = torch.randn(2, tokens, 12, dtype=torch.float64)
        output = mixer(u).numpy()
        for row in range(2):
            assert relative(output[row], mixed(mixer, u[row].numpy())) < 1e-12


@torch.no_grad()
def test_float32_over_several_chunks_of_the_scan():
    mixer = made(ngroups=2)
    u = torch.randn(1, 131, 12, dtype=torch.float64)
    wanted = mixed(mixer, u[0].numpy())
    assert relative(mixer.float()(u.float())[0].numpy(), wanted) < 1e-5


@torch.no_grad()
def test_a_column_of_a_heads_map_is_what_one_token_writes():
    mixer = made(ngroups=2, A_floor=0.3)
    tokens = 7
    u = torch.randn(1, tokens, 12, dtype=torch.float64)
    maps = channel_maps(project_mamba3(u, mixer.weights()))[0].numpy()
    written, state = branches(mixer, u[0].numpy())
    for j in range(tokens):
        alone = np.zeros((tokens, mixer.nheads, 1))
        alone[j] = 1
        column = recur(mixer, written, state, alone)[:, :, 0].T
        assert relative(maps[:, :, j], column) < 1e-12


@torch.no_grad()
def test_the_phase_keeps_its_digits_over_a_long_sequence():
    mixer = made(rope_fraction=1.0)
    mixer.in_proj.weight[-mixer.num_rope_angles :].mul_(0.1).add_(0.3)  # turns mostly one way
    u = torch.rand(1, 20000, 12, dtype=torch.float64)
    exact = project_mamba3(u, mixer.weights())
    single = project_mamba3(u.float(), mixer.float().weights())
    assert single.B.dtype == torch.float32
    last = (single.B - exact.B)[:, -100:].norm() / exact.B[:, -100:].norm()
    assert last < 1e-4  # 4e-5, from the steps' own rounding; summed in float32 it is 7e-4


@torch.no_grad()
def test_operands_say_what_the_kernel_is_given():
    mixer = made(ngroups=2, A_floor=0.9)
    mixer.in_proj.weight[-mixer.num_rope_angles - 2 * mixer.nheads :].zero_()  # rate, trap, angle
    o = project_mamba3(torch.randn(1, 5, 12, dtype=torch.float64), mixer.weights())
    assert o.groups == o.heads == mixer.nheads
    assert o.A is None
    torch.testing.assert_close(o.log_decay, -0.9 * o.delta)  # softplus(0) is .69
    torch.testing.assert_close(o.write_now, o.delta / 2)
    following = torch.nn.functional.pad(o.delta, (0, 0, 0, 1))[:, 1:]  # nothing follows the last
    torch.testing.assert_close(o.write, (o.delta + following) / 2)


@torch.no_grad()
def test_later_tokens_change_nothing_before_them():
    mixer = made(dtype=torch.float32)
    u = torch.randn(2, 70, 12)
    torch.testing.assert_close(mixer(u)[:, :33], mixer(u[:, :33]), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_no_tokens_are_no_output():
    assert made(dtype=torch.float32)(torch.zeros(2, 0, 12)).shape == (2, 0, 12)


@torch.no_grad()
def test_a_nan_in_the_input_comes_out():
    u = torch.randn(2, 9, 12)
    u[0, 4] = torch.nan
    output = made(dtype=torch.float32)(u)
    assert output[0, 4:].isnan().all()
    assert output[1].isfinite().all()


@torch.no_grad()
def test_bfloat16_weights_scan_in_float32():
    wide = made(dtype=torch.float32, is_outproj_norm=True)
    narrow = Mamba3(12, d_state=6, headdim=6, is_outproj_norm=True, dtype=torch.bfloat16)
    narrow.load_state_dict(wide.state_dict())
    always = {n for n, p in narrow.named_parameters() if p.dtype == torch.float32}
    assert always == {"dt_bias", "B_bias", "C_bias", "D"}
    u = torch.randn(2, 37, 12)
    operands = project_mamba3(u.bfloat16(), narrow.weights())
    computed = (operands.B, operands.log_decay, operands.write, operands.x)
    assert all(t is not None and t.dtype == torch.float32 for t in computed)
    output = narrow(u.bfloat16())
    assert output.dtype == torch.bfloat16
    assert relative(output.float().numpy(), wide(u).numpy()) < 3e-2


def test_mamba3_has_the_state_dict_of_mamba_ssm():
    mixer = Mamba3(32, d_state=8, headdim=16, ngroups=2, rope_fraction=1.0, is_outproj_norm=True)
    assert {name: tuple(tensor.shape) for name, tensor in mixer.state_dict().items()} == {
        "dt_bias": (4,),
        "B_bias": (4, 1, 8),
        "C_bias": (4, 1, 8),
        "D": (4,),
        "in_proj.weight": (2 * 64 + 2 * 2 * 8 + 3 * 4 + 4, 32),
        "B_norm.weight": (8,),
        "C_norm.weight": (8,),
        "norm.weight": (64,),
        "out_proj.weight": (32, 64),
    }
    assert "norm.weight" not in Mamba3(32, d_state=8, headdim=16).state_dict()
    assert Mamba3(32).in_proj.weight.shape == (2 * 64 + 2 * 128 + 3 + 32, 32)  # the defaults


def test_mamba3_is_drawn_as_in_mamba_ssm():
    torch.manual_seed(0)
    mixer = Mamba3(512, headdim=4, d_state=4)
    for ones in (mixer.B_bias, mixer.C_bias, mixer.D, mixer.B_norm.weight, mixer.C_norm.weight):
        assert (ones == 1).all()
    step = torch.nn.functional.softplus(mixer.dt_bias)
    assert 0.00099 < step.min() < 0.0015
    assert 0.07 < step.max() < 0.1001
    floored = Mamba3(64, d_state=4, headdim=4, dt_min=1e-6, dt_init_floor=1e-3)
    assert torch.nn.functional.softplus(floored.dt_bias).min() > 0.00099


@pytest.mark.parametrize("tokens", [1, 2, 37])
def test_gradients_reach_every_parameter_of_mamba3(tokens):
    mixer = made(dtype=torch.float32, is_outproj_norm=True)
    u = torch.randn(2, tokens, 12, requires_grad=True)
    mixer(u).square().sum().backward()
    for name, parameter in [("input", u), *mixer.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert mixer.in_proj.weight.grad is not None
    *_, rate, trap, angle = mixer.in_proj.weight.grad.split(mixer.weights().rows)
    assert trap.any()
    assert angle.any() or tokens == 1
    assert rate.any() == (tokens > 1)  # one token has no past to decay


def test_gradient_of_mamba3_equals_a_finite_difference():
    mixer = made(headdim=12, d_state=5, is_outproj_norm=True)
    u = torch.randn(1, 4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, (u,))


def test_what_mamba3_does_not_take_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"is_mimo.*no single hidden attention matrix"):
        build_mixer("Mamba3", d_model=8, headdim=8, is_mimo=True)
    with pytest.raises(UnsupportedModelError, match="is_mimo"):
        MambaLM(MambaConfig(d_model=8, ssm_cfg={"layer": "Mamba3", "is_mimo": True}), device="meta")
    with pytest.raises(UsageError, match="headdim 5"):
        Mamba3(8, headdim=5)
    with pytest.raises(UsageError, match="ngroups 3"):
        Mamba3(8, headdim=8, ngroups=3)
    with pytest.raises(UsageError, match=r"rope_fraction 0\.25"):
        Mamba3(8, headdim=8, rope_fraction=0.25)
    with pytest.raises(UsageError, match="d_state 3"):
        Mamba3(8, headdim=8, d_state=3)
    with pytest.raises(TypeError, match="d_conv"):
        build_mixer("Mamba3", d_model=8, d_conv=4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["delta", "rate", "share", "angle", "B", "C", "x", "D", "gate"])
def test_an_edit_derives_again_what_depends_on_it_and_keeps_the_rest(name):
    mixer = made()
    before = project_mamba3(torch.randn(2, 7, 12, dtype=torch.float64), mixer.weights())
    signals = before.surroundings.signals
    value = 0.7 * getattr(signals, name)
    after = before.with_quantity(name, value)
    fresh = dataclasses.replace(signals, **{name: value}).operands()
    for array in (*before.axes, "x", "D", "gate"):
        got, wanted = getattr(after, array), getattr(fresh, array)
        assert (got is None and wanted is None) or torch.equal(got, wanted), array
    turning = name in ("delta", "angle", "B", "C")
    assert (after.C is before.C) is not turning
    assert (after.write is before.write) is (name not in ("delta", "share"))
