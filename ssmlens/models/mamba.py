"""Plain-torch twin of mamba_ssm's `Mamba`: same arguments, parameters and draw.

It multiplies by its layers' weights, or calls layers that carry hooks or are not plain modules (`models.submodules`).
Options that only choose a kernel have no effect.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.models.parameters import Number, depthwise, step_projection
from ssmlens.models.projections import Mamba1Weights, TokenMask, finish_mamba1, project_mamba1
from ssmlens.scan.selective_scan import selective_scan


class Mamba(nn.Module):
    """Mamba-1 mixer: hidden states in, hidden states out, `[batch token d_model]`.

    Args:
        d_model: Width of the hidden states.
        d_state: State size N of a channel.
        d_conv: Taps of the convolution.
        expand: d_inner / d_model.
        dt_rank: Rank of the step's projection; "auto" is d_model / 16, rounded up.
        dt_min: Smallest initial step Δ; it sets the bias.
        dt_max: Largest initial step Δ.
        dt_init: Initialisation of dt_proj's weight, "random" (uniform) or "constant".
        dt_scale: Scale of that weight.
        dt_init_floor: Lower clamp of the initial step.
        conv_bias: Whether the convolution has a bias.
        bias: Whether in_proj and out_proj have a bias.
        use_fast_path: A kernel option, without effect here.
        layer_idx: Index of the block in its model.
        device: Device of the parameters.
        dtype: Their dtype; A_log and D are always float32.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: Number = 2,
        dt_rank: int | str = "auto",
        dt_min: Number = 0.001,
        dt_max: Number = 0.1,
        dt_init: str = "random",
        dt_scale: Number = 1.0,
        dt_init_floor: Number = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.activation = "silu"
        self.use_fast_path = use_fast_path
        self.layer_idx = layer_idx

        factory = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = depthwise(self.d_inner, d_conv, conv_bias, factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = step_projection(
            self.dt_rank, self.d_inner, factory, dt_init, dt_scale, (dt_min, dt_max), dt_init_floor
        )
        n = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
        self.A_log = nn.Parameter(torch.log(n).repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner, dtype=torch.float32, device=device))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def weights(self) -> Mamba1Weights:
        """The named weights that `projections` takes."""
        return Mamba1Weights.of(self, zero_projected=True)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Mix the tokens: project, scan, finish. `attention_mask` is 1 at real tokens and 0 at padding."""
        weights = self.weights()
        operands = project_mamba1(hidden_states, weights, attention_mask)
        assert operands.gate is not None
        return finish_mamba1(selective_scan(operands), operands.gate, weights)
