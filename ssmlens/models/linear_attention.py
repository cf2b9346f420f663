"""Causal linear attention, without softmax or feature map: as the scan of a Mamba block, and as a layer of its own.

    y[i] = Σ_{j ≤ i} (q[i]·k[j]) x[j],    or in one line    Y = X · CausalMask(Xᵀ W_qᵀ W_k X)

(paper eq. 12, and the ablation of its Figure 5.) It is a selective scan that forgets nothing and writes with weight 1:
k is B, q is C, Δ = 1, the log of the decay is 0, and there is no D. So these modules pass a `DecayScan` to
`selective_scan` as the other mixers do, and everything that reads mixers reads these. Mamba-1 does three more things:
it forgets, it adds D x, and it writes Δ x instead of x. The last two can be enabled separately.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.errors import UsageError
from ssmlens.models.norms import GroupRMSNorm
from ssmlens.models.parameters import Number, depthwise, step_projection
from ssmlens.models.projections import TokenMask, convolve, zero_padding
from ssmlens.models.submodules import called
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.selective_scan import selective_scan
from ssmlens.scan.surroundings import Surroundings

NORMALISATIONS = ("none", "length", "rms")


class MambaLinearAttention(nn.Module):
    """Mamba-1's block with one head of linear attention as its scan; `[batch token d_model]` in and out.

    in_proj, convolution, SiLU, gate and out_proj are those of `Mamba`; x_proj computes k and q from x as it computes B
    and C there; there is no Δ, A or D. `Mamba` with Δ = 1, A = 0 and D = 0 computes the same. With `skip` it is `Mamba`
    with Δ = 1 and A = 0; with `write_gate` too it is `Mamba` with A = 0:

        y[c,i] = Σ_{j ≤ i} (q[i]·k[j]) Δ[c,j] x[c,j] + D[c] x[c,i]

    Args:
        d_model: Width of the hidden states.
        d_state: Size of q and k: the paper's head dimension.
        d_conv: Taps of the convolution.
        expand: d_inner / d_model.
        skip: Whether to add D x to the scan's output; D has one weight per channel, initially 1.
        write_gate: Whether a channel writes Δ x instead of x, with Δ = softplus(dt_proj (x_proj x)) as in `Mamba`; a
            channel is a head then.
        conv_bias: Whether the convolution has a bias.
        bias: Whether in_proj and out_proj have a bias.
        layer_idx: Index of the block in its model.
        device: Device of the parameters.
        dtype: Their dtype.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: Number = 2,
        skip: bool = False,
        write_gate: bool = False,
        conv_bias: bool = True,
        bias: bool = False,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if write_gate else 0
        self.nheads = self.d_inner if write_gate else 1
        self.activation = "silu"
        self.layer_idx = layer_idx

        factory = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = depthwise(self.d_inner, d_conv, conv_bias, factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        if write_gate:
            self.dt_proj = step_projection(self.dt_rank, self.d_inner, factory)
        self.D = None
        if skip:
            self.D = nn.Parameter(torch.ones(self.d_inner, dtype=torch.float32, device=device))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def operands(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> DecayScan:
        """x = SiLU(conv(W_x u)), (Δ, k, q) from x_proj x, and the gate's branch; x is 0 at padding."""
        u, gate = self.in_proj(zero_padding(hidden_states, attention_mask)).chunk(2, dim=2)
        u = zero_padding(u, attention_mask)
        taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        x = F.silu(convolve(u, taps, bias, called(self, conv1d="conv1d").get("conv1d")))
        x = zero_padding(x.to(gate.dtype), attention_mask)
        split = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=2)
        step, k, q = (part.unsqueeze(2) for part in split)
        surroundings = Surroundings(u=u, conv_weight=taps, conv_bias=bias)
        delta = None
        if self.dt_rank:
            delta = F.softplus(self.dt_proj(step.squeeze(2)).to(scan_dtype(x)))
            delta = zero_padding(delta, attention_mask)
        D = None if self.D is None else self.D.unflatten(0, (self.nheads, -1))
        return _operands(k, q, x.unflatten(2, (self.nheads, -1)), gate, surroundings, D, delta)

    def finish(
        self, y: Float[Tensor, "batch token head headdim"], operands: DecayScan
    ) -> Float[Tensor, "batch token d_model"]:
        """The output, out_proj(y · SiLU(gate)), from the scan's `y`."""
        assert operands.gate is not None
        gated = y.flatten(2) * F.silu(operands.gate.to(y.dtype))
        return self.out_proj(gated.to(operands.gate.dtype))

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Mix the tokens: project, scan, finish. `attention_mask` is 1 at real tokens and 0 at padding."""
        operands = self.operands(hidden_states, attention_mask)
        return self.finish(selective_scan(operands), operands)


class LinearAttention(nn.Module):
    """A layer of multi-head linear attention: queries, keys, values, out_proj; `[batch token d_model]` in and out.

    The rows of in_proj compute the values of all heads, then their keys, then their queries (x, B, C as in Mamba-2).

    Args:
        d_model: Width of the hidden states, and of the values of all heads together.
        nheads: Number of heads.
        d_state: Size of a head's queries and keys.
        normalise: "none"; "length": divide the output at token i by i + 1, the number of tokens it reads; "rms": apply
            an RMS norm with a weight to each head's output before out_proj.
        bias: Whether in_proj and out_proj have a bias.
        layer_idx: Index of the block in its model.
        device: Device of the parameters.
        dtype: Their dtype.

    Raises:
        UsageError: `d_model` is not a multiple of `nheads`, or `normalise` is unknown.
    """

    def __init__(
        self,
        d_model: int,
        nheads: int = 1,
        d_state: int = 64,
        normalise: str = "none",
        bias: bool = False,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if nheads < 1 or d_model % nheads:
            raise UsageError(
                f"LinearAttention needs d_model in nheads equal heads; got {d_model} and {nheads}"
            )
        if normalise not in NORMALISATIONS:
            raise UsageError(
                f"LinearAttention's normalise must be one of {', '.join(NORMALISATIONS)}, not {normalise!r}"
            )
        self.d_model, self.nheads, self.d_state = d_model, nheads, d_state
        self.headdim, self.normalise = d_model // nheads, normalise
        self.layer_idx = layer_idx

        factory = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, d_model + 2 * nheads * d_state, bias=bias, **factory)
        if normalise == "rms":
            self.norm = GroupRMSNorm(d_model, nheads, eps=1e-5, **factory)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias, **factory)

    def operands(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> DecayScan:
        """(x, k, q) = in_proj u, one group per head; with "length", q is divided by the count of real tokens so far."""
        projected = self.in_proj(zero_padding(hidden_states, attention_mask))
        projected = zero_padding(projected, attention_mask)
        width = self.nheads * self.d_state
        split = projected.split([self.d_model, width, width], dim=2)
        x, k, q = (part.unflatten(2, (self.nheads, -1)) for part in split)
        surroundings = Surroundings()
        if self.normalise == "length":
            real = q.new_ones(q.shape[:2]) if attention_mask is None else attention_mask
            count = real.to(scan_dtype(q)).cumsum(1).clamp(min=1)
            q = q / count[:, :, None, None]
        elif self.normalise == "rms":
            weight, eps = self.norm.weight, float(self.norm.eps or 0)
            surroundings = Surroundings(norm_weight=weight, norm_eps=eps, norm_groups=self.nheads)
        return _operands(k, q, x, None, surroundings)

    def finish(
        self, y: Float[Tensor, "batch token head headdim"], operands: DecayScan
    ) -> Float[Tensor, "batch token d_model"]:
        """The output, out_proj(y) or out_proj(RMSNorm(y)), from the scan's `y`."""
        flat = y.flatten(2)
        if self.normalise == "rms":
            flat = self.norm(flat)
        return self.out_proj(flat.to(self.out_proj.weight.dtype))

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        attention_mask: TokenMask | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Mix the tokens: project, scan, finish. `attention_mask` is 1 at real tokens and 0 at padding."""
        operands = self.operands(hidden_states, attention_mask)
        return self.finish(selective_scan(operands), operands)


def _operands(
    k: Float[Tensor, "batch token group state"],
    q: Float[Tensor, "batch token group state"],
    x: Float[Tensor, "batch token head headdim"],
    gate: Float[Tensor, "batch token d_inner"] | None,
    surroundings: Surroundings,
    D: Float[Tensor, "head #headdim"] | None = None,
    delta: Float[Tensor, "batch token head"] | None = None,
) -> DecayScan:
    """A scan that forgets nothing and writes with weight `delta`, by default 1."""
    wide = scan_dtype(x)
    if delta is None:
        delta = torch.ones(x.shape[:3], device=x.device, dtype=wide)
    return DecayScan(
        delta=delta,
        A=None,
        B=k.to(wide),
        C=q.to(wide),
        x=x.to(wide),
        D=D,
        gate=gate,
        log_decay=torch.zeros_like(delta),
        surroundings=surroundings,
    )
