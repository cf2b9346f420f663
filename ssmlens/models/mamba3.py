"""Plain-torch twin of mamba_ssm's `Mamba3` of rank one (SISO), and the derivation of its hidden attention.

A head h of Mamba-3 keeps a state H [headdim state] and updates it by a trapezoidal rule: λ divides a token's step Δ
between the token's own write and that of the token before it,

    H[t] = α[t] H[t−1] + (1 − λ[t]) Δ[t] α[t] x[t−1] k[t−1]ᵀ + λ[t] Δ[t] x[t] k[t]ᵀ,      y[t] = H[t] q[t] + D x[t].

Unrolled, x[j] k[j] reaches token i > j twice: through its own step, decayed by Π α over j+1 … i, and through the step
of token j+1, whose factor α[j+1] gives the same decay. The two terms combine; with S the running sum of log α

    M[i,j] = q[i]·k[j] exp(S[i] − S[j]) (λ[j] Δ[j] + (1 − λ[j+1]) Δ[j+1])   for j < i,
    M[i,i] = q[i]·k[i] λ[i] Δ[i].

Each token also rotates pairs of states by its own angle. The rotation is folded into q and k: k[j] is rotated by θ[j]
and q[i] by θ[i] (θ is the running sum of those angles). Their product is then the same as if the state had been rotated
back by θ[i] − θ[j] in between. So `DecayScan` needs three tensors more than Mamba-2's, each [batch token head]:

    delta      Δ = softplus(dt + dt_bias)
    log_decay  log α = −Δ max(softplus(rate), A_floor): the decay depends on the data, there is no A
    write      λ[j] Δ[j] + (1 − λ[j+1]) Δ[j+1]: the weight for later tokens; for the last token λ Δ
    write_now  λ Δ: the weight for the token itself;  λ = sigmoid(trap)
    B, C       k and q = R(θ) (RMSNorm(·) + bias): all groups share the norm's weight; each head has its own bias
               and θ = Σ π tanh(angle) Δ over tokens, which rotates the pairs of states (0,1), (2,3), …
    x, D, gate as in Mamba-2, but without a convolution

in_proj computes z, x, B, C, dt, rate, trap and angle from the mixer's input. `projections_mamba3` implements all this.

With several inputs and outputs per head (MIMO, `is_mimo=True`) a head has no single matrix. It has one for every pair
of ranks (r, s), M_rs = q_r[i]·k_s[j] × the same decay and weights. Channel p sums them over s with its own weights
(mimo_x[s,p]), multiplies each r by SiLU(mimo_z[r,p] z[i,p]), which depends on the data, and then sums over r
(mimo_o[r,p]). So each channel has its own matrix, which includes its gate. The headdim · rank matrices of a head share
no operands and do not fit in `DecayScan`: MIMO is refused.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.models.norms import GatedRMSNorm, RMSNorm
from ssmlens.models.parameters import Number, draw_dt_bias
from ssmlens.models.projections import TokenMask
from ssmlens.models.projections_mamba3 import Mamba3Weights, finish_mamba3, project_mamba3
from ssmlens.scan.selective_scan import selective_scan

MIMO_REFUSED = (
    "Mamba3 with is_mimo=True is not supported: each channel mixes a head's rank² matrices with its own weights and "
    "gates, so a head has no single hidden attention matrix; use is_mimo=False"
)


class Mamba3(nn.Module):
    """Mamba-3 mixer: hidden states in, hidden states out, `[batch token d_model]`.

    Args:
        d_model: Width of the hidden states.
        d_state: State size N of a head.
        expand: d_inner / d_model.
        headdim: Channels of a head.
        ngroups: Groups of heads that share B and C, except for the heads' biases and rotations.
        rope_fraction: Share of the states that are rotated, .5 or 1.
        dt_min: Smallest initial step Δ; it sets the bias.
        dt_max: Largest initial step Δ.
        dt_init_floor: Lower clamp of the initial step.
        A_floor: The least rate of decay.
        is_outproj_norm: Whether each head's output is normalised before its gate and out_proj.
        is_mimo: Several inputs and outputs per head: not supported.
        mimo_rank: Number of these; without effect unless `is_mimo`.
        chunk_size: A kernel option, without effect here.
        dropout: Without effect, as in mamba_ssm.
        layer_idx: Index of the block in its model.
        n_layer: Without effect, as in mamba_ssm.
        device: Device of the parameters.
        dtype: Their dtype; dt_bias, B_bias, C_bias and D are always float32.

    Raises:
        UnsupportedModelError: `is_mimo` is true.
        UsageError: Sizes do not divide, or `rope_fraction` is not .5 or 1 or rotates nothing.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: Number = 2,
        headdim: int = 64,
        ngroups: int = 1,
        rope_fraction: Number = 0.5,
        dt_min: Number = 0.001,
        dt_max: Number = 0.1,
        dt_init_floor: Number = 1e-4,
        A_floor: float = 1e-4,
        is_outproj_norm: bool = False,
        is_mimo: bool = False,
        mimo_rank: int = 4,
        chunk_size: int = 64,
        dropout: Number = 0.0,
        layer_idx: int | None = None,
        n_layer: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if is_mimo:
            raise UnsupportedModelError(MIMO_REFUSED)
        self.d_model, self.d_state, self.expand = d_model, d_state, expand
        self.d_inner = int(expand * d_model)
        self.headdim, self.num_bc_heads = headdim, ngroups
        self.nheads = self.d_inner // headdim
        if self.d_inner % headdim or self.nheads % ngroups:
            raise UsageError(
                f"Mamba3 needs d_inner in heads of headdim, in ngroups equal groups; "
                f"got {self.d_inner}, headdim {headdim}, ngroups {ngroups}"
            )
        self.num_rope_angles = int(d_state * rope_fraction) // 2
        if rope_fraction not in (0.5, 1.0) or not self.num_rope_angles:
            raise UsageError(
                f"Mamba3 rotates half of the states or all (rope_fraction .5 or 1), at least one pair; "
                f"got rope_fraction {rope_fraction}, d_state {d_state}"
            )
        self.A_floor, self.is_outproj_norm, self.is_mimo = A_floor, is_outproj_norm, is_mimo
        self.chunk_size, self.layer_idx = chunk_size, layer_idx

        factory = {"device": device, "dtype": dtype}
        factory_float32 = {"device": device, "dtype": torch.float32}
        d_BC = 2 * ngroups * d_state
        projected = 2 * self.d_inner + d_BC + 3 * self.nheads + self.num_rope_angles
        self.in_proj = nn.Linear(d_model, projected, bias=False, **factory)
        dt_bias = draw_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, factory_float32)
        self.dt_bias = nn.Parameter(dt_bias)
        self.B_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state, **factory_float32))
        self.C_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state, **factory_float32))
        self.B_norm = RMSNorm(d_state, eps=1e-5, **factory)
        self.C_norm = RMSNorm(d_state, eps=1e-5, **factory)
        self.D = nn.Parameter(torch.ones(self.nheads, **factory_float32))
        if is_outproj_norm:
            self.norm = GatedRMSNorm(self.d_inner, self.nheads, True, eps=1e-5, **factory)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **factory)

    def weights(self) -> Mamba3Weights:
        """The named weights and settings that `projections_mamba3` takes."""
        return Mamba3Weights.of(self)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Mix the tokens: project, scan, finish. `attention_mask` is 1 at real tokens and 0 at padding."""
        weights = self.weights()
        operands = project_mamba3(hidden_states, weights, attention_mask)
        assert operands.gate is not None
        return finish_mamba3(selective_scan(operands), operands.gate, weights)
