"""Plain-torch twin of mamba_ssm's `Mamba2`: same arguments, parameters and draw.

It multiplies by its layers' weights, or calls layers that carry hooks or are not plain modules (`models.submodules`).
Options that only choose a kernel have no effect.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UsageError
from ssmlens.models.norms import GatedRMSNorm
from ssmlens.models.parameters import Number, Range, depthwise, draw_dt_bias
from ssmlens.models.projections import Mamba2Weights, TokenMask, finish_mamba2, project_mamba2
from ssmlens.scan.selective_scan import selective_scan


class Mamba2(nn.Module):
    """Mamba-2 mixer: hidden states in, hidden states out, `[batch token d_model]`.

    Args:
        d_model: Width of the hidden states.
        d_state: State size N of a head.
        d_conv: Taps of the convolution.
        conv_init: Draw the convolution's taps from U(-conv_init, conv_init); None: torch's draw.
        expand: d_inner / d_model.
        headdim: Channels of a head.
        d_ssm: Channels that pass through the scan, d_inner by default; the rest is a gated MLP.
        ngroups: Groups of heads that share B and C.
        A_init_range: -A is drawn uniformly from this range.
        D_has_hdim: Whether D has one value per channel, not per head.
        rmsnorm: Whether the gated output is normalised before out_proj.
        norm_before_gate: Whether the norm comes before the gate, not after.
        dt_min: Smallest initial step Δ; it sets the bias.
        dt_max: Largest initial step Δ.
        dt_init_floor: Lower clamp of the initial step.
        dt_limit: The range that Δ is clamped to.
        bias: Whether in_proj and out_proj have a bias.
        conv_bias: Whether the convolution has a bias.
        chunk_size: A kernel option, without effect here.
        use_mem_eff_path: A kernel option, without effect here.
        layer_idx: Index of the block in its model.
        device: Device of the parameters.
        dtype: Their dtype; D is always float32.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: Number | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: Range = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: Number = 0.001,
        dt_max: Number = 0.1,
        dt_init_floor: Number = 1e-4,
        dt_limit: Range = (0.0, float("inf")),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = expand * d_model
        self.headdim, self.ngroups = headdim, ngroups
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.nheads = self.d_ssm // headdim
        if self.d_ssm > self.d_inner or self.d_ssm % headdim or self.nheads % ngroups:
            raise UsageError(
                f"Mamba2 needs d_ssm ≤ d_inner, in heads of headdim, in ngroups equal groups; "
                f"got {self.d_ssm} of {self.d_inner}, headdim {headdim}, ngroups {ngroups}"
            )
        self.D_has_hdim = D_has_hdim
        self.rmsnorm, self.norm_before_gate = rmsnorm, norm_before_gate
        self.dt_limit = (float(dt_limit[0]), float(dt_limit[1]))
        self.activation = "silu"
        self.chunk_size, self.use_mem_eff_path = chunk_size, use_mem_eff_path
        self.layer_idx = layer_idx

        factory = {"device": device, "dtype": dtype}
        d_BC = 2 * ngroups * d_state
        self.in_proj = nn.Linear(
            d_model, 2 * self.d_inner + d_BC + self.nheads, bias=bias, **factory
        )
        self.conv1d = depthwise(self.d_ssm + d_BC, d_conv, conv_bias, factory)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.dt_bias = nn.Parameter(
            draw_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, factory)
        )
        A = torch.empty(self.nheads, dtype=torch.float32, device=device).uniform_(*A_init_range)
        self.A_log = nn.Parameter(torch.log(A).to(dtype))
        skips = self.d_ssm if D_has_hdim else self.nheads
        self.D = nn.Parameter(torch.ones(skips, dtype=torch.float32, device=device))
        if rmsnorm:
            self.norm = GatedRMSNorm(self.d_ssm, ngroups, norm_before_gate, eps=1e-5, **factory)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def weights(self) -> Mamba2Weights:
        """The named weights and settings that `projections` takes."""
        return Mamba2Weights.of(
            self,
            headdim=self.headdim,
            d_state=self.d_state,
            ngroups=self.ngroups,
            norm_before_gate=self.norm_before_gate,
            dt_limit=self.dt_limit,
            zero_projected=True,
        )

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Mix the tokens: project, scan, finish. `attention_mask` is 1 at real tokens and 0 at padding."""
        weights = self.weights()
        operands = project_mamba2(hidden_states, weights, attention_mask)
        assert operands.gate is not None
        return finish_mamba2(selective_scan(operands), operands.gate, weights)
