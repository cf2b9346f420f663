"""The projections around a selective scan, as pure functions of named weights.

    hidden ── project ──> DecayScan ── selective_scan ──> y ── finish ──> mixer output

mamba_ssm, transformers and MambaLM give these weights the same names, so one pair of functions serves all three. Matrix
products run in the weights' dtype; Δ, A and all other inputs of the scan are at least float32, as in the CUDA kernels
(a bfloat16 convolution is computed in float32 and rounded once).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssmlens.models.fused_convolution import fused_convolution
from ssmlens.models.submodules import called, linear
from ssmlens.scan.causal_conv import causal_conv1d
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.surroundings import Surroundings

Activation = Callable[[Tensor], Tensor]
Transform = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Calls = Mapping[str, Callable[..., Tensor]]
TokenMask = Bool[Tensor, "batch token"] | Int[Tensor, "batch token"] | Float[Tensor, "batch token"]

MAMBA1_LAYERS = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
MAMBA2_LAYERS = ("in_proj", "conv1d", "norm", "out_proj")


@dataclasses.dataclass(frozen=True)
class Mamba1Weights:
    """Weights of a Mamba-1 mixer, named as in its state dict (conv1d without its middle axis).

    `called` holds the layers that must be called; the others are applied by their weight (`models.submodules`).

    d_inner is split evenly and in order into groups; each group has its own x_proj and dt_proj. Zamba has several
    groups, all other models one.
    """

    in_proj_weight: Float[Tensor, "twice_d_inner d_model"]
    conv_weight: Float[Tensor, "d_inner d_conv"]
    x_proj_weight: Float[Tensor, "group dt_rank_and_twice_d_state group_channel"]
    dt_proj_weight: Float[Tensor, "group group_channel dt_rank"]
    A_log: Float[Tensor, "d_inner d_state"]
    D: Float[Tensor, "d_inner"]
    out_proj_weight: Float[Tensor, "d_model d_inner"]
    in_proj_bias: Float[Tensor, "twice_d_inner"] | None = None
    conv_bias: Float[Tensor, "d_inner"] | None = None
    dt_bias: Float[Tensor, "d_inner"] | None = None
    out_proj_bias: Float[Tensor, "d_model"] | None = None
    activation: Activation = F.silu  # after the convolution; the gate's is SiLU everywhere
    transform: Transform | None = None  # of dt (before dt_proj), B and C, such as Jamba's norms
    called: Calls = dataclasses.field(default_factory=dict)
    zero_projected: bool = (
        False  # whether padding is zeroed after in_proj too: its bias would reach the convolution
    )

    @classmethod
    def of(cls, mixer: Any, **settings: Any) -> "Mamba1Weights":
        """The weights of `mixer`, whose parameters are named as in mamba_ssm (or transformers).

        `settings` are the fields that are not tensors.
        """
        return cls(
            in_proj_weight=mixer.in_proj.weight,
            in_proj_bias=mixer.in_proj.bias,
            conv_weight=mixer.conv1d.weight.squeeze(1),
            conv_bias=mixer.conv1d.bias,
            x_proj_weight=mixer.x_proj.weight.unsqueeze(0),
            dt_proj_weight=mixer.dt_proj.weight.unsqueeze(0),
            dt_bias=mixer.dt_proj.bias,
            A_log=mixer.A_log,
            D=mixer.D,
            out_proj_weight=mixer.out_proj.weight,
            out_proj_bias=mixer.out_proj.bias,
            called=called(mixer, **{name: name for name in MAMBA1_LAYERS}),
            **settings,
        )


@dataclasses.dataclass(frozen=True)
class Mamba2Weights:
    """Weights and settings of a Mamba-2 mixer, with mamba_ssm's names.

    If `d_ssm`, the width of the scan, is less than d_inner, the rest is a gated MLP. `D` has one value per head, or per
    channel (`D_has_hdim`). Without `norm_weight` (`rmsnorm=False`) the gate multiplies the scan's output and nothing is
    normalised; with it, each of `norm_groups` equal parts of the channels is normalised separately. `in_proj_scale`
    multiplies the output of in_proj, bias included. `called` holds the layers that must be called; the others are
    applied by their weight (`models.submodules`).
    """

    in_proj_weight: Float[Tensor, "projected d_model"]
    conv_weight: Float[Tensor, "xBC d_conv"]
    dt_bias: Float[Tensor, "head"]
    A_log: Float[Tensor, "head"]
    D: Float[Tensor, "head_or_channel"]
    out_proj_weight: Float[Tensor, "d_model d_inner"]
    headdim: int
    d_state: int
    ngroups: int = 1
    in_proj_bias: Float[Tensor, "projected"] | None = None
    in_proj_scale: Float[Tensor, "projected"] | None = None
    conv_bias: Float[Tensor, "xBC"] | None = None
    norm_weight: Float[Tensor, "channel"] | None = None
    out_proj_bias: Float[Tensor, "d_model"] | None = None
    norm_eps: float = 1e-5
    norm_groups: int | None = None  # None: as many as ngroups
    norm_before_gate: bool = False
    dt_limit: tuple[float, float] = (0.0, float("inf"))
    activation: Activation = F.silu  # after the convolution; the gate's is SiLU everywhere
    called: Calls = dataclasses.field(default_factory=dict)
    zero_projected: bool = (
        False  # whether padding is zeroed after in_proj too: its bias would reach the convolution
    )

    @classmethod
    def of(cls, mixer: Any, **settings: Any) -> "Mamba2Weights":
        """The weights of `mixer`, whose parameters are named as in mamba_ssm (or transformers).

        `settings` are the fields that are not its parameters; libraries name those differently.
        """
        norm = getattr(getattr(mixer, "norm", None), "weight", None)
        layers = [name for name in MAMBA2_LAYERS if name != "norm" or norm is not None]
        return cls(
            in_proj_weight=mixer.in_proj.weight,
            in_proj_bias=mixer.in_proj.bias,
            conv_weight=mixer.conv1d.weight.squeeze(1),
            conv_bias=mixer.conv1d.bias,
            dt_bias=mixer.dt_bias,
            A_log=mixer.A_log,
            D=mixer.D,
            norm_weight=norm,
            out_proj_weight=mixer.out_proj.weight,
            out_proj_bias=mixer.out_proj.bias,
            called=called(mixer, **{name: name for name in layers}),
            **settings,
        )

    @property
    def d_ssm(self) -> int:
        """Number of channels that pass through the scan: heads times headdim."""
        return self.A_log.shape[0] * self.headdim

    @property
    def d_mlp(self) -> int:
        """Number of channels that pass through a gated MLP beside the scan; 0 in most models."""
        return self.out_proj_weight.shape[1] - self.d_ssm


def project_mamba1(
    hidden: Float[Tensor, "batch token d_model"],
    weights: Mamba1Weights,
    token_mask: TokenMask | None = None,
) -> DecayScan:
    """Compute the operands of a Mamba-1 mixer's scan (paper eqs. 5-7), with the gate's branch.

    x = SiLU(conv(W_x u)), (dt_low, B, C) = x_proj x, Δ = softplus(dt_proj dt_low + dt_bias),
    A = -exp(A_log).

    Args:
        hidden: The mixer's input.
        weights: The mixer's weights.
        token_mask: 1 at real tokens, 0 at padding, which is zeroed before in_proj and again after
            the convolution, as transformers does.
    """
    d_inner, d_state = weights.A_log.shape
    rank = weights.dt_proj_weight.shape[2]
    x_and_gate = linear(
        zero_padding(hidden, token_mask),
        weights.in_proj_weight,
        weights.in_proj_bias,
        weights.called.get("in_proj"),
    )
    if weights.zero_projected:
        x_and_gate = zero_padding(x_and_gate, token_mask)
    u, gate = x_and_gate.split(d_inner, dim=-1)
    convolved = convolve(u, weights.conv_weight, weights.conv_bias, weights.called.get("conv1d"))
    x = zero_padding(weights.activation(convolved).to(gate.dtype), token_mask)
    grouped = x.unflatten(2, (len(weights.x_proj_weight), -1))
    low = _linear_of_groups(grouped, weights.x_proj_weight, weights.called.get("x_proj"))
    dt, B, C = low.split([rank, d_state, d_state], dim=-1)
    if weights.transform is not None:
        dt, B, C = weights.transform(dt, B, C)
    wide = scan_dtype(gate)
    dt = _linear_of_groups(dt, weights.dt_proj_weight, weights.called.get("dt_proj"))
    dt = dt.flatten(2).to(wide)
    if weights.dt_bias is not None and "dt_proj" not in weights.called:
        dt = dt + weights.dt_bias.to(wide)
    return mamba1_scan(weights, u=u, x=x, gate=gate, delta=F.softplus(dt), B=B, C=C)


def mamba1_scan(
    weights: Mamba1Weights,
    *,
    u: Float[Tensor, "batch token head"],
    x: Float[Tensor, "batch token head"],
    gate: Float[Tensor, "batch token head"],
    delta: Float[Tensor, "batch token head"],
    B: Float[Tensor, "batch token group state"],
    C: Float[Tensor, "batch token group state"],
) -> DecayScan:
    """Assemble the scan of a Mamba-1 mixer from what its projections return, in the scan's precision.

    Args:
        weights: The mixer's weights, for A, D and the convolution.
        u: The channels before the convolution.
        x: The channels after it.
        gate: The gate's branch, which sets the precision.
        delta: Δ, in the scan's precision.
        B: What each token writes.
        C: What each token reads.
    """
    wide = scan_dtype(gate)
    return DecayScan(
        delta=delta,
        A=-torch.exp(weights.A_log.to(wide)),
        B=B.to(wide),
        C=C.to(wide),
        x=x.to(wide).unsqueeze(3),
        D=weights.D.to(wide).unsqueeze(1),
        gate=gate,
        surroundings=Surroundings(
            u=u, conv_weight=weights.conv_weight, conv_bias=weights.conv_bias
        ),
    )


def finish_mamba1(
    y: Float[Tensor, "batch token head 1"],
    gate: Float[Tensor, "batch token head"],
    weights: Mamba1Weights,
) -> Float[Tensor, "batch token d_model"]:
    """A Mamba-1 mixer's output, out_proj(y · SiLU(gate)), from its scan's `y` (with D x)."""
    gated = y.squeeze(3) * F.silu(gate.to(y.dtype))
    gated = gated.to(gate.dtype)
    call = weights.called.get("out_proj")
    return linear(gated, weights.out_proj_weight, weights.out_proj_bias, call)


def project_mamba2(
    hidden: Float[Tensor, "batch token d_model"],
    weights: Mamba2Weights,
    token_mask: TokenMask | None = None,
    *,
    fast: bool = False,
) -> DecayScan:
    """Compute the operands of a Mamba-2 mixer's scan; `gate` holds the branches that bypass the scan.

    (gate, xBC, dt) = in_proj u, (x, B, C) = SiLU(conv(xBC)),
    Δ = clamp(softplus(dt + dt_bias), dt_limit), A = -exp(A_log), one number per head.

    Args:
        hidden: The mixer's input.
        weights: The mixer's weights.
        token_mask: 1 at real tokens, 0 at padding, which is zeroed before in_proj and again after
            the convolution, as transformers does.
        fast: Whether the convolution may run by `fused_convolution`, within rounding.

    Returns:
        The operands. If d_ssm < d_inner, `gate` is (z0, x0, z) in the order of in_proj; z0 and x0 are the two branches
        of the gated MLP. `finish_mamba2` takes it in this form.
    """
    heads, groups = weights.A_log.shape[0], weights.ngroups
    d_ssm, d_BC = weights.d_ssm, groups * weights.d_state
    projected = linear(
        zero_padding(hidden, token_mask),
        weights.in_proj_weight,
        weights.in_proj_bias,
        weights.called.get("in_proj"),
    )
    if weights.zero_projected:
        projected = zero_padding(projected, token_mask)
    if weights.in_proj_scale is not None:
        projected = projected * weights.in_proj_scale.to(projected.dtype)
    gate, xBC, dt = projected.split([2 * weights.d_mlp + d_ssm, d_ssm + 2 * d_BC, heads], dim=-1)
    u = xBC[..., :d_ssm]
    conv, settings = weights.called.get("conv1d"), (weights.conv_weight, weights.conv_bias)
    fused = fast and conv is None
    active = fused_convolution(xBC, *settings, weights.activation) if fused else None
    if active is None:
        active = weights.activation(convolve(xBC, *settings, conv)).to(gate.dtype)
    wide = scan_dtype(gate)
    x, B, C = zero_padding(active, token_mask).to(wide).split([d_ssm, d_BC, d_BC], dim=-1)
    delta = F.softplus(dt + weights.dt_bias.to(wide))
    if weights.dt_limit != (0.0, float("inf")):
        delta = delta.clamp(*weights.dt_limit)
    return DecayScan(
        delta=delta,
        A=-torch.exp(weights.A_log.to(wide)).unsqueeze(1),
        B=B.unflatten(2, (groups, weights.d_state)),
        C=C.unflatten(2, (groups, weights.d_state)),
        x=x.unflatten(2, (heads, weights.headdim)),
        D=weights.D.to(wide).reshape(heads, -1),
        gate=gate,
        surroundings=Surroundings(
            u=u,
            conv_weight=weights.conv_weight[:d_ssm],
            conv_bias=None if weights.conv_bias is None else weights.conv_bias[:d_ssm],
            norm_weight=weights.norm_weight,
            norm_eps=weights.norm_eps,
            norm_groups=weights.norm_groups or weights.ngroups,
            norm_before_gate=weights.norm_before_gate,
        ),
    )


def finish_mamba2(
    y: Float[Tensor, "batch token head headdim"],
    gate: Float[Tensor, "batch token bypass"],
    weights: Mamba2Weights,
) -> Float[Tensor, "batch token d_model"]:
    """A Mamba-2 mixer's output, out_proj(RMSNorm(y · SiLU(z))), from its scan's `y` (with D x).

    The norm is over each part's channels; with `norm_before_gate` the gate comes after it.
    Channels of the gated MLP, SiLU(z0) · x0, come first if d_ssm < d_inner.
    """
    z0, x0, z = gate.split([weights.d_mlp, weights.d_mlp, weights.d_ssm], dim=-1)
    y = y.flatten(2)
    if (norm := weights.called.get("norm")) is None:
        y = _gated_norm(y, F.silu(z.to(y.dtype)), weights).to(gate.dtype)
    else:
        y = norm(y.to(gate.dtype), z)
    if weights.d_mlp:
        y = torch.cat([F.silu(z0) * x0, y], dim=-1)
    call = weights.called.get("out_proj")
    return linear(y, weights.out_proj_weight, weights.out_proj_bias, call)


def rms_norm(
    v: Float[Tensor, "*axes state"], weight: Float[Tensor, "state"] | None, eps: float
) -> Float[Tensor, "*axes state"]:
    """RMSNorm of dt, B or C as in transformers: computed in float32, rounded, then multiplied by the weight."""
    normed = F.rms_norm(v.to(scan_dtype(v)), v.shape[-1:], eps=eps).to(v.dtype)
    return normed if weight is None else weight * normed


def convolve(
    u: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "channel tap"],
    bias: Float[Tensor, "channel"] | None,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "batch token channel"]:
    """The causal convolution, before its activation. `call` takes [batch channel token]; its extra outputs are cut."""
    if call is None:
        return causal_conv1d(u, weight, bias)
    return call(u.mT)[..., : u.shape[1]].mT


def _linear_of_groups(
    x: Float[Tensor, "batch token group input"],
    weight: Float[Tensor, "group output input"],
    call: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "batch token group output"]:
    if call is not None:  # a layer of one group
        return call(x.squeeze(2)).unsqueeze(2)
    if len(weight) == 1:
        return F.linear(x, weight[0])
    return torch.einsum("btgi,goi->btgo", x, weight)


def zero_padding(
    x: Float[Tensor, "batch token channel"], token_mask: TokenMask | None
) -> Float[Tensor, "batch token channel"]:
    """Set `x` to 0 at padding."""
    return x if token_mask is None else x * token_mask.to(x.dtype).unsqueeze(2)


def _gated_norm(
    y: Float[Tensor, "batch token channel"],
    z: Float[Tensor, "batch token channel"],
    weights: Mamba2Weights,
) -> Float[Tensor, "batch token channel"]:
    if weights.norm_weight is None:
        return y * z
    groups = weights.norm_groups or weights.ngroups
    if weights.norm_before_gate:
        return group_rms_norm(y, weights.norm_weight, groups, weights.norm_eps) * z
    return group_rms_norm(y * z, weights.norm_weight, groups, weights.norm_eps)


def group_rms_norm(
    y: Float[Tensor, "batch token channel"],
    weight: Float[Tensor, "channel"],
    groups: int,
    eps: float,
) -> Float[Tensor, "batch token channel"]:
    """RMSNorm of each of `groups` equal parts of the channels, times the weight."""
    grouped = y.unflatten(2, (groups, -1))
    normed = F.rms_norm(grouped, grouped.shape[3:], eps=eps).flatten(2)
    return normed * weight.to(y.dtype)
