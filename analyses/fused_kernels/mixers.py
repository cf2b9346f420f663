"""Every mixer of mamba_ssm with each of its options: closure on the GPU, and its plain-torch twin on a CPU."""

import contextlib

import torch
from mamba_ssm.modules.mamba2 import Mamba2  # pyright: ignore[reportMissingImports]
from mamba_ssm.modules.mamba2_simple import Mamba2Simple  # pyright: ignore[reportMissingImports]
from mamba_ssm.modules.mamba3 import Mamba3  # pyright: ignore[reportMissingImports]
from mamba_ssm.modules.mamba_simple import Mamba  # pyright: ignore[reportMissingImports]
from torch import nn

import ssmlens
from ssmlens.models import mamba, mamba2, mamba3

D_MODEL = 256
LENGTHS = ((2, 1), (1, 2), (3, 63), (2, 257))
OPTIONS = {
    Mamba: [{}, {"bias": True}, {"conv_bias": False}, {"use_fast_path": False}, {"d_state": 32}],
    Mamba2: [
        {},
        {"d_ssm": 128},
        {"D_has_hdim": True},
        {"rmsnorm": False},
        {"norm_before_gate": True},
        {"dt_limit": (0.01, 0.1)},
        {"ngroups": 4},
        {"use_mem_eff_path": False},
        {"rmsnorm": False, "D_has_hdim": True, "d_ssm": 256, "bias": True},
    ],
    Mamba2Simple: [{}, {"ngroups": 2, "dt_limit": (0.01, 0.1)}, {"use_mem_eff_path": False}],
    Mamba3: [{}, {"rope_fraction": 1.0}, {"ngroups": 2}, {"is_outproj_norm": True}],
}
# Its twin in plain torch, of the mixers that have one.
TWINS = {Mamba: mamba.Mamba, Mamba2: mamba2.Mamba2, Mamba3: mamba3.Mamba3}
# How a mixer is run: its weights' dtype, autocast's dtype, training.
MODES = {
    "float32 eval": (torch.float32, None, False),
    "float32 train": (torch.float32, None, True),
    "bfloat16 eval": (torch.bfloat16, None, False),
    "bfloat16 autocast train": (torch.float32, torch.bfloat16, True),
}


def rows():
    """A row for each class and set of options: the largest closure error of each mode, over all lengths."""
    for cls, options in OPTIONS.items():
        for given in options:
            torch.manual_seed(0)
            shape = {"headdim": 32} if cls is not Mamba else {}
            row = {"mixer": cls.__name__, "options": {k: str(v) for k, v in given.items()}}
            for mode, how in MODES.items():
                try:
                    mixer = _spread(cls(D_MODEL, device="cuda", dtype=how[0], **shape, **given))
                    row[mode] = max(_closure(mixer, how, *size) for size in LENGTHS)
                    if mode == "float32 eval" and cls in TWINS:
                        row["twin_on_cpu"] = _twin(TWINS[cls], mixer, {**shape, **given})
                except (RuntimeError, AssertionError, TypeError) as error:
                    row[mode] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            yield row


def _spread(mixer: nn.Module) -> nn.Module:
    """Set D, biases and norm weights to values whose omission would be noticed."""
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith(("D", "bias", "norm.weight")) and not name.endswith("dt_bias"):
                parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 1.5))
    return mixer


def _closure(mixer: nn.Module, how: tuple, batch: int, tokens: int) -> float:
    dtype, autocast, train = how
    model = nn.Sequential(mixer).train(train)
    hidden = torch.randn(batch, tokens, D_MODEL, device="cuda", dtype=dtype)
    around = torch.autocast("cuda", autocast) if autocast else contextlib.nullcontext()
    with around, ssmlens.recording(model) as rec, torch.set_grad_enabled(train):
        model(hidden)
    return rec[0].closure_error


def _twin(cls: type[nn.Module], mixer: nn.Module, arguments: dict) -> float:
    """How far the plain-torch twin with the same state dict, on a CPU, is from the kernels."""
    twin = cls(d_model=D_MODEL, **arguments)
    twin.load_state_dict({k: v.float().cpu() for k, v in mixer.state_dict().items()})
    hidden = torch.randn(2, 65, D_MODEL)
    with torch.no_grad():
        there, here = mixer(hidden.cuda()).cpu(), twin(hidden)
    return float((there - here).norm() / there.norm())
