"""mamba_ssm's `Mamba`, trained on short sequences on a GPU: the same mixer with the scan of `short_scan`."""

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.models import short_scan

_MAMBA = "mamba_ssm.modules.mamba_simple.Mamba"
# Up to this length the scan is worth its memory. With 256 tokens (batch 64, 512 channels, N 32) it stores .5 GiB of
# states for its backward pass, while mamba_ssm's stores almost none, and is 1.8 times as fast; with 512 tokens it
# stores 1 GiB and is 1.4 times as fast.
LONGEST = 256


def use_short_scan(model: nn.Module) -> nn.Module:
    """Train mamba_ssm's Mamba layers with `short_scan` on sequences of at most `LONGEST` tokens; return the model.

    This affects train mode only: in eval mode, on longer or empty sequences and on a CPU, a layer runs as before.
    Parameters, their names and the layers' classes stay. Layers of unsupported width are unchanged. If the kernels do
    not run, all layers are unchanged, and one warning says so.

    Args:
        model: Any module, on its training device.
    """
    modules: list[Any] = list(model.modules())
    mixers = [m for m in modules if f"{type(m).__module__}.{type(m).__qualname__}" == _MAMBA]
    for mixer in mixers:
        fits = short_scan.fits(mixer.d_inner, mixer.d_state)
        if fits and short_scan.is_available(mixer.A_log.device):
            mixer.forward = functools.partial(_forward, mixer)
    return model


def _forward(mixer: Any, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
    short = hidden_states.is_cuda and 0 < hidden_states.shape[1] <= LONGEST
    if mixer.training and short and inference_params is None:
        return short_forward(mixer, hidden_states)
    return type(mixer).forward(mixer, hidden_states, inference_params)


def short_forward(
    mixer: Any, hidden_states: Float[Tensor, "batch token d_model"]
) -> Float[Tensor, "batch token d_model"]:
    """Compute `mixer(hidden_states)`, within rounding, with tokens before channels throughout.

    Args:
        mixer: mamba_ssm's Mamba, or a module with its parameters.
        hidden_states: The mixer's input.
    """
    convolve = importlib.import_module("causal_conv1d").causal_conv1d_fn
    x, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)
    x = convolve(x.mT, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, activation="silu").mT
    sizes = (mixer.dt_rank, mixer.d_state, mixer.d_state)
    dt, B, C = mixer.x_proj(x).split(sizes, dim=-1)
    dt = F.linear(dt, mixer.dt_proj.weight)
    A, D = -torch.exp(mixer.A_log.float()), mixer.D.float()
    y = short_scan.short_scan(x, dt, A, B, C, D, z, mixer.dt_proj.bias.float())
    return mixer.out_proj(y)
