"""The projections around a gated delta rule, as pure functions of named weights.

    hidden ── project_delta ──> DeltaRule ── its recurrence ──> y ── finish_delta ──> mixer output

Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464) has one decay per head, Kimi Delta Attention (Kimi Team 2025,
arXiv 2510.26692) one per state. Matrix products run in the weights' dtype. The convolution is rounded as in
transformers' torch code; all inputs of the recurrence are at least float32.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssmlens.models.projections import Activation, Calls, TokenMask, convolve, zero_padding
from ssmlens.models.submodules import linear
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.delta_rule import DeltaRule
from ssmlens.scan.surroundings import Surroundings

# Added to the sum of squares under the root, as in the kernels.
_L2_EPS = 1e-6


class DeltaInputs(NamedTuple):
    """The outputs of a delta-rule mixer's linear layers, heads concatenated."""

    q: Float[Tensor, "batch token d_keys"]
    k: Float[Tensor, "batch token d_keys"]
    v: Float[Tensor, "batch token d_values"]
    beta: Float[Tensor, "batch token head"]
    decay: Float[Tensor, "batch token decay_row"]
    gate: Float[Tensor, "batch token d_values"]


@dataclasses.dataclass(frozen=True)
class DeltaWeights:
    """Weights and settings of a delta-rule mixer. Value heads are split evenly and in order over groups of q and k.

    Attributes:
        W_q: Rows for q, before the convolution.
        W_k: Rows for k.
        W_v: Rows for v.
        W_beta: Rows for β.
        W_decay: Matrices for the decay's input, applied in order: one, or a low-rank pair.
        W_gate: Matrices for the gate, likewise.
        conv_weight: Taps of the channels of q, k and v, in this order.
        A_log: Log of the decay's factor.
        dt_bias: Bias of the decay's input: one value per head, or per state, head after head.
        norm_weight: Weight of the RMS norm of each head's output.
        out_proj_weight: Rows for the output.
        norm_eps: Added to the norm's mean square.
        activation: The activation after the convolution.
        gate_activation: The activation of the gate.
        softplus: The softplus of the decay's input; libraries compute it differently.
        beta_scale: Factor on the sigmoid: 2 if eigenvalues may be negative.
        decay_bound: The least log decay, or None: −exp(A_log) softplus(·) has no bound.
        round_decay: Whether the log decay is rounded to the input's dtype.
        round_norm: Whether the normalised output is rounded to the input's dtype before its weight.
        inputs: Computes q, k, v, β, decay and gate from the mixer's input, if one of their layers must be called.
        called: The layers that must be called, not applied by their weight: "conv1d", "norm" (takes output and gate,
            each [batch token head headdim]) and "out_proj".
    """

    W_q: Float[Tensor, "group state d_model"]
    W_k: Float[Tensor, "group state d_model"]
    W_v: Float[Tensor, "head headdim d_model"]
    W_beta: Float[Tensor, "head d_model"]
    W_decay: tuple[Tensor, ...]
    W_gate: tuple[Tensor, ...]
    conv_weight: Float[Tensor, "qkv tap"]
    A_log: Float[Tensor, "head"]
    dt_bias: Float[Tensor, "decay_row"]
    norm_weight: Float[Tensor, "headdim"]
    out_proj_weight: Float[Tensor, "d_model d_inner"]
    norm_eps: float
    activation: Activation = F.silu
    gate_activation: Activation = F.silu
    softplus: Activation = F.softplus
    beta_scale: float = 1.0
    decay_bound: float | None = None
    round_decay: bool = False
    round_norm: bool = False
    inputs: Callable[[Tensor], DeltaInputs] | None = None
    called: Calls = dataclasses.field(default_factory=dict)

    @property
    def heads(self) -> int:
        """Number of value heads."""
        return self.W_v.shape[0]

    @property
    def widths(self) -> tuple[int, int, int]:
        """Number of channels of q, k and v."""
        keys = self.W_k.shape[0] * self.W_k.shape[1]
        return keys, keys, self.W_v.shape[0] * self.W_v.shape[1]

    def multiply(self, hidden: Float[Tensor, "batch token d_model"]) -> DeltaInputs:
        """Apply the linear layers to the mixer's input, by their weights."""
        q, k, v = (F.linear(hidden, W.flatten(0, 1)) for W in (self.W_q, self.W_k, self.W_v))
        return DeltaInputs(
            q,
            k,
            v,
            beta=F.linear(hidden, self.W_beta),
            decay=_chain(hidden, self.W_decay),
            gate=_chain(hidden, self.W_gate),
        )


def project_delta(
    hidden: Float[Tensor, "batch token d_model"],
    weights: DeltaWeights,
    token_mask: TokenMask | None = None,
) -> DeltaRule:
    """Compute the operands of a delta-rule mixer, with the gate's branch.

    (q, k, v) = SiLU(conv(W u)), q and k divided by √(Σ squares + 1e-6), q times d_k^-1/2, β = scale · sigmoid(W_β u),
    log decay = −exp(A_log) softplus(W_a u + dt_bias), or bound · sigmoid(exp(A_log) (W_a u + dt_bias)).

    Args:
        hidden: The mixer's input.
        weights: The mixer's weights.
        token_mask: 1 at real tokens, 0 at padding, whose input is zeroed, as transformers does.
    """
    inputs = (weights.inputs or weights.multiply)(zero_padding(hidden, token_mask))
    qkv = torch.cat([inputs.q, inputs.k, inputs.v], dim=-1)
    convolved = convolve(qkv, weights.conv_weight, None, weights.called.get("conv1d"))
    convolved = convolved.to(weights.conv_weight.dtype)
    convolved = weights.activation(convolved).to(qkv.dtype)
    wide = scan_dtype(qkv)
    q, k, v = (
        part.unflatten(2, W.shape[:2])
        for part, W in zip(
            convolved.to(wide).split(weights.widths, dim=-1),
            (weights.W_q, weights.W_k, weights.W_v),
            strict=True,
        )
    )
    beta = inputs.beta.sigmoid() * weights.beta_scale
    values = weights.widths[2]
    return DeltaRule(
        q=unit_length(q) * q.shape[3] ** -0.5,
        k=unit_length(k),
        beta=beta.to(wide),
        log_decay=_log_decay(inputs.decay, hidden.dtype, weights),
        x=v,
        gate=inputs.gate,
        surroundings=Surroundings(
            u=qkv[..., -values:],
            conv_weight=weights.conv_weight[-values:],
            norm_weight=weights.norm_weight.repeat(weights.heads),
            norm_eps=weights.norm_eps,
            norm_groups=weights.heads,
            norm_before_gate=True,
            gate_activation=weights.gate_activation,
        ),
    )


def finish_delta(
    y: Float[Tensor, "batch token head headdim"],
    gate: Float[Tensor, "batch token d_inner"],
    weights: DeltaWeights,
) -> Float[Tensor, "batch token d_model"]:
    """A delta-rule mixer's output, out_proj(RMSNorm(y) · activation(gate)), from its recurrence's output `y`.

    The norm is over each head's channels.
    """
    dtype, wide = gate.dtype, scan_dtype(gate)
    y = y.to(dtype)
    if (norm := weights.called.get("norm")) is not None:
        gated = norm(y, gate.view_as(y))
    else:
        normed = F.rms_norm(y.to(wide), y.shape[3:], eps=weights.norm_eps)
        normed = weights.norm_weight * (normed.to(dtype) if weights.round_norm else normed)
        gated = (normed * weights.gate_activation(gate.to(wide)).view_as(y)).to(dtype)
    call = weights.called.get("out_proj")
    return linear(gated.flatten(2), weights.out_proj_weight, call=call)


def _log_decay(
    decay: Float[Tensor, "batch token decay_row"], dtype: torch.dtype, weights: DeltaWeights
) -> Float[Tensor, "batch token head #state"]:
    wide = scan_dtype(decay)
    step = decay.to(wide) + weights.dt_bias.to(wide)
    step = step.unflatten(2, (weights.heads, -1))
    rate = weights.A_log.to(wide).exp().unsqueeze(1)
    if weights.decay_bound is None:
        log_decay = -rate * weights.softplus(step)
    else:
        log_decay = weights.decay_bound * torch.sigmoid(rate * step)
    return log_decay.to(dtype).to(wide) if weights.round_decay else log_decay


def unit_length(
    x: Float[Tensor, "batch token group state"],
) -> Float[Tensor, "batch token group state"]:
    """x / √(Σ x² + 1e-6) over states, as the kernels have it."""
    return x * torch.rsqrt(x.square().sum(3, keepdim=True) + _L2_EPS)


def _chain(
    hidden: Float[Tensor, "batch token d_model"], matrices: Sequence[Tensor]
) -> Float[Tensor, "batch token row"]:
    for matrix in matrices:
        hidden = F.linear(hidden, matrix)
    return hidden
