"""The mixers as modules: names, shapes and draw of mamba_ssm's, gradients, refusals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mixers import build_mixer

from ssmlens.errors import UsageError
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_mamba_has_the_state_dict_of_mamba_ssm():
    assert shapes(Mamba(32, d_state=8, bias=True)) == {
        "A_log": (64, 8),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "in_proj.bias": (128,),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (18, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
        "out_proj.bias": (32,),
    }


def test_mamba2_has_the_state_dict_of_mamba_ssm():
    mixer = Mamba2(32, d_state=8, headdim=16, d_ssm=32, ngroups=2, D_has_hdim=True)
    assert shapes(mixer) == {
        "dt_bias": (2,),
        "A_log": (2,),
        "D": (32,),
        "in_proj.weight": (2 * 64 + 2 * 2 * 8 + 2, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "norm.weight": (32,),
        "out_proj.weight": (32, 64),
    }
    assert "norm.weight" not in shapes(Mamba2(32, rmsnorm=False))


def test_mamba_is_drawn_as_in_mamba_ssm():
    torch.manual_seed(0)
    mixer = Mamba(256, d_state=5, dt_rank=16)
    n = torch.arange(1, 6).float()
    assert torch.allclose(mixer.A_log.exp(), n.expand(512, 5))
    assert (mixer.D == 1).all()
    step = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 0.00099 < step.min() < 0.0015
    assert 0.07 < step.max() < 0.1001
    assert abs(step.log().median() - math.log(0.01)) < 0.2  # log-uniform
    assert mixer.dt_proj.weight.abs().max() <= 16**-0.5
    assert mixer.dt_proj.weight.abs().max() > 0.95 * 16**-0.5
    floored = Mamba(256, dt_min=1e-6, dt_init_floor=1e-3)
    assert torch.nn.functional.softplus(floored.dt_proj.bias).min() > 0.00099


def test_mamba2_is_drawn_as_in_mamba_ssm():
    torch.manual_seed(0)
    mixer = Mamba2(512, headdim=4, d_state=2, A_init_range=(2, 3), conv_init=0.01)
    A = mixer.A_log.exp()
    assert 2 <= A.min() < 2.1
    assert 2.9 < A.max() <= 3.0001
    assert mixer.conv1d.weight.abs().max() <= 0.01
    step = torch.nn.functional.softplus(mixer.dt_bias)
    assert 0.00099 < step.min() < 0.0015
    assert 0.07 < step.max() < 0.1001


@pytest.mark.parametrize("mixer", ["Mamba", "Mamba2"])
def test_dtypes_of_the_parameters_are_those_of_mamba_ssm(mixer):
    module = build_mixer(mixer, d_model=64, dtype=torch.bfloat16)
    wide = {n for n, p in module.named_parameters() if p.dtype == torch.float32}
    assert wide == ({"A_log", "D"} if mixer == "Mamba" else {"D"})


@pytest.mark.parametrize("mixer", ["Mamba", "Mamba2"])
@pytest.mark.parametrize("tokens", [1, 2, 37])
def test_gradients_reach_every_parameter_and_are_finite(mixer, tokens):
    torch.manual_seed(0)
    options = {"headdim": 8} if mixer == "Mamba2" else {}
    module = build_mixer(mixer, d_model=16, d_state=4, **options)
    u = torch.randn(2, tokens, 16, requires_grad=True)
    module(u).square().sum().backward()
    for name, parameter in [("input", u), *module.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    touched = {n for n, p in module.named_parameters() if p.grad.abs().sum() > 0}
    first_token_only = {"A_log"}  # one token has no past to decay
    assert touched >= {n for n, _ in module.named_parameters()} - first_token_only
    assert ("A_log" in touched) == (tokens > 1)


def test_gradient_equals_a_finite_difference():
    torch.manual_seed(0)
    for mixer in (
        Mamba(4, d_state=2, dtype=torch.float64),
        Mamba2(4, d_state=2, headdim=4, ngroups=2, dtype=torch.float64),
        build_mixer("MHA", embed_dim=4, num_heads=2, rotary_emb_dim=2, dtype=torch.float64),
    ):
        u = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(mixer, (u,))


KERNELS = Path(__file__).parents[1] / "fixtures" / "mamba_ssm_mixers"
VARIANTS = {
    "m1": {},
    "m1-bias": {"bias": True},
    "m1-noconvbias": {"conv_bias": False},
    "m1-slow": {"use_fast_path": False},
    "m2": {},
    "m2-groups": {"ngroups": 2},
    "m2-dssm": {"d_ssm": 64},
    "m2-D": {"D_has_hdim": True},
    "m2-nonorm": {"rmsnorm": False},
    "m2-normfirst": {"norm_before_gate": True},
    "m2-limit": {"dt_limit": [0.02, 0.05]},
    "m2-bias": {"bias": True},
}
CLASSES = {"m1": "Mamba", "m2": "Mamba2"}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_output_of_mamba_ssms_own_kernels(variant):
    name = CLASSES[variant.partition("-")[0]]
    stored = np.load(KERNELS / "outputs.npz")
    shape = {} if name == "Mamba" else {"headdim": 16}
    mixer = build_mixer(name, d_model=64, d_state=16, **shape, **VARIANTS[variant])
    prefix = f"{variant}/weights/"
    state = {k.removeprefix(prefix): stored[k] for k in stored.files if k.startswith(prefix)}
    mixer.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    output = mixer(torch.from_numpy(stored[f"{variant}/input"])).numpy()
    expected = stored[f"{variant}/output"]
    error = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if name == "Mamba" else 5e-3)  # Mamba-2's kernels multiply in TF32


def test_unknown_settings_are_refused():
    with pytest.raises(UsageError, match="dt_init"):
        Mamba(8, dt_init="zeros")
    with pytest.raises(UsageError, match="groups"):
        Mamba2(8, headdim=8, ngroups=3)
    with pytest.raises(UsageError, match="d_ssm"):
        Mamba2(8, headdim=8, d_ssm=32)
    with pytest.raises(TypeError, match="process_group"):
        build_mixer("Mamba2", d_model=8, process_group=None)
