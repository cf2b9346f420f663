"""The projections around a Mamba-3 scan, as pure functions of named weights. `mamba3` derives them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Float64
from torch import Tensor

from ssmlens.models.projections import Calls, TokenMask, group_rms_norm, zero_padding
from ssmlens.models.submodules import called, linear
from ssmlens.names import HEAD, HEADDIM, PROMPT, STATE, TOKEN
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.scan.surroundings import Surroundings

_LAYERS = ("in_proj", "B_norm", "C_norm", "norm", "out_proj")


@dataclasses.dataclass(frozen=True)
class Mamba3Weights:
    """Weights and settings of a Mamba-3 mixer of rank one (SISO), with mamba_ssm's names.

    The rows of in_proj compute z, x, B, C, dt, the decay's rate, λ before its sigmoid, and the angles, in this order.
    With `norm_weight` (`is_outproj_norm=True`) each head's output is normalised separately before the gate. `called`
    holds the layers that must be called; the others are applied by their weight (`models.submodules`).
    """

    in_proj_weight: Float[Tensor, "projected d_model"]
    dt_bias: Float[Tensor, "head"]
    B_norm_weight: Float[Tensor, "state"]
    C_norm_weight: Float[Tensor, "state"]
    B_bias: Float[Tensor, "head state"]
    C_bias: Float[Tensor, "head state"]
    D: Float[Tensor, "head"]
    out_proj_weight: Float[Tensor, "d_model d_inner"]
    norm_weight: Float[Tensor, "d_inner"] | None = None
    ngroups: int = 1
    A_floor: float = 1e-4
    eps: float = 1e-5  # of every norm
    called: Calls = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, mixer: Any) -> "Mamba3Weights":
        """The weights of `mixer`: mamba_ssm's `Mamba3` or its twin, with `is_mimo` false."""
        return cls(
            in_proj_weight=mixer.in_proj.weight,
            dt_bias=mixer.dt_bias,
            B_norm_weight=mixer.B_norm.weight,
            C_norm_weight=mixer.C_norm.weight,
            B_bias=mixer.B_bias.squeeze(1),
            C_bias=mixer.C_bias.squeeze(1),
            D=mixer.D,
            out_proj_weight=mixer.out_proj.weight,
            norm_weight=mixer.norm.weight if mixer.is_outproj_norm else None,
            ngroups=mixer.num_bc_heads,
            A_floor=mixer.A_floor,
            eps=mixer.B_norm.eps,
            called=called(mixer, **{name: name for name in _LAYERS}),
        )

    @property
    def rows(self) -> list[int]:
        """Numbers of in_proj's rows for z, x, B, C, dt, the decay's rate, λ, and the angles."""
        heads, d_inner = len(self.dt_bias), self.out_proj_weight.shape[1]
        d_BC = self.ngroups * self.B_bias.shape[1]
        known = [d_inner, d_inner, d_BC, d_BC, heads, heads, heads]
        return [*known, self.in_proj_weight.shape[0] - sum(known)]


@dataclasses.dataclass(frozen=True)
class Mamba3Signals:
    """The signals that determine a Mamba-3 scan's operands: Δ drives the decay, both weights of a write, the rotation.

    Attributes:
        delta: Δ.
        rate: Rate of decay: log_decay = −Δ rate.
        share: λ, the share of a token's step that goes to its own write.
        angle: Angle by which a token rotates each pair of states, before tanh.
        B: Write vectors before their rotation.
        C: Read vectors before their rotation.
        x: The scan's input.
        D: Skip weights.
        gate: The gate's branch.
        surroundings: The norm after the scan.
    """

    delta: Float[Tensor, "batch token head"]
    rate: Float[Tensor, "batch token head"]
    share: Float[Tensor, "batch token head"]
    angle: Float[Tensor, "batch token pair"]
    B: Float[Tensor, "batch token head state"]
    C: Float[Tensor, "batch token head state"]
    x: Float[Tensor, "batch token head headdim"]
    D: Float[Tensor, "head #headdim"]
    gate: Float[Tensor, "batch token d_inner"]
    surroundings: Surroundings

    _axes: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(("delta", "log_decay", "rate", "share"), (PROMPT, TOKEN, HEAD)),
        "angle": (PROMPT, TOKEN, "pair"),
        **dict.fromkeys(("B", "C"), (PROMPT, TOKEN, HEAD, STATE)),
        "x": (PROMPT, TOKEN, HEAD, HEADDIM),
        "D": (HEAD, HEADDIM),
        "gate": (PROMPT, TOKEN, "d_inner"),
    }

    # Derived values, each with the signals that it depends on.
    _derived: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "log_decay": ("delta", "rate"),
        "writes": ("delta", "share"),
        "spin": ("angle",),
        "turns": ("angle", "delta"),
        "rotated": ("angle", "delta", "B", "C"),
    }

    @functools.cached_property
    def log_decay(self) -> Float[Tensor, "batch token head"]:
        """The log of each token's decay."""
        return -(self.delta * self.rate)

    @functools.cached_property
    def writes(self) -> tuple[Float[Tensor, "batch token head"], Float[Tensor, "batch token head"]]:
        """The weights of a token's write for later tokens, and for the token itself."""
        write_now = self.share * self.delta
        # The part of a token's step that goes to the previous token's write.
        previous = self.delta - write_now
        return torch.cat([write_now[:, :-1] + previous[:, 1:], write_now[:, -1:]], dim=1), write_now

    @functools.cached_property
    def spin(self) -> Float64[Tensor, "batch token 1 pair"]:
        """The angle by which a token rotates each pair, for each unit of Δ."""
        return torch.pi * torch.tanh(self.angle.double()).unsqueeze(2)

    @functools.cached_property
    def turns(self) -> Complex[Tensor, "batch token head pair"]:
        """exp(iθ), with θ a head's rotation of each pair at a token: Σ π tanh(angle) Δ up to it.

        Summed in float64: in float32 the sum over a long sequence would lose digits that its sine needs.
        """
        phase = (self.spin * self.delta.unsqueeze(3)).cumsum(1)
        return torch.polar(phase.new_ones(()), phase).to(self.delta.dtype.to_complex())

    @functools.cached_property
    def rotated(self) -> Float[Tensor, "two batch token head state"]:
        """B and C, each pair (v[0], v[1]), (v[2], v[3]), … turned; states beyond the last pair stay."""
        both, states = torch.stack([self.B, self.C]), self.B.shape[3]
        if states % 2:  # a complex number begins at an even place in memory
            both = F.pad(both, (0, 1))
        pairs = both[..., : 2 * self.turns.shape[3]].unflatten(4, (-1, 2))
        torch.view_as_complex(pairs).mul_(self.turns)
        return both[..., :states]

    @property
    def quantities(self) -> tuple[str, ...]:
        """See `Signals.quantities`."""
        return tuple(self._axes)

    def quantity(self, name: str) -> tuple[Tensor, tuple[str, ...]]:
        """See `Signals.quantity`."""
        return getattr(self, name), self._axes[name]

    def with_quantity(self, name: str, value: Tensor) -> DecayScan:
        """See `Signals.with_quantity`. A log decay is set through the rate, so that Δ still drives it."""
        if name == "log_decay":
            step = self.delta.clamp(min=torch.finfo(value.dtype).tiny)
            name, value = "rate", self.rate - (value - self.log_decay) / step
        changed: dict[str, Any] = {name: value}
        new = dataclasses.replace(self, **changed)
        for derived, signals in self._derived.items():
            if name not in signals:
                new.__dict__[derived] = getattr(self, derived)
        return new.operands()

    def operands(self) -> DecayScan:
        """The operands: see `project_mamba3`."""
        (write, write_now), (B, C) = self.writes, self.rotated
        return DecayScan(
            delta=self.delta,
            A=None,
            B=B,
            C=C,
            x=self.x,
            D=self.D,
            gate=self.gate,
            log_decay=self.log_decay,
            write=write,
            write_now=write_now,
            surroundings=dataclasses.replace(self.surroundings, signals=self),
        )


def project_mamba3(
    hidden: Float[Tensor, "batch token d_model"],
    weights: Mamba3Weights,
    token_mask: TokenMask | None = None,
) -> DecayScan:
    """Compute the operands of a Mamba-3 mixer's scan. Every head has its own B and C (as many groups as heads).

    Δ = softplus(dt + dt_bias), log_decay = −Δ max(softplus(rate), A_floor), B and C = R(θ) (RMSNorm + bias), and with
    λ = sigmoid(trap) the two weights of a write; see `ssmlens.models.mamba3`.

    Args:
        hidden: The mixer's input.
        weights: The mixer's weights.
        token_mask: 1 at real tokens, 0 at padding, which is zeroed before in_proj: it then writes and rotates nothing.
    """
    heads = len(weights.dt_bias)
    hidden = zero_padding(hidden, token_mask)
    projected = linear(hidden, weights.in_proj_weight, call=weights.called.get("in_proj"))
    projected = zero_padding(projected, token_mask)
    gate, _, B, C, *_, angle = projected.split(weights.rows, dim=-1)
    wide = projected.to(scan_dtype(projected))  # once for all
    _, x, wide_B, wide_C, dt, rate, trap, _ = wide.split(weights.rows, dim=-1)
    return Mamba3Signals(
        delta=F.softplus(dt + weights.dt_bias.to(wide.dtype)),
        rate=F.softplus(rate).clamp(min=weights.A_floor),
        share=torch.sigmoid(trap),
        angle=angle,
        B=_per_head(B, wide_B, "B", weights),
        C=_per_head(C, wide_C, "C", weights),
        x=x.unflatten(2, (heads, -1)),
        D=weights.D.to(wide.dtype).unsqueeze(1),
        gate=gate,
        surroundings=Surroundings(
            norm_weight=weights.norm_weight,
            norm_eps=weights.eps,
            norm_groups=heads,
            norm_before_gate=True,
        ),
    ).operands()


def finish_mamba3(
    y: Float[Tensor, "batch token head headdim"],
    gate: Float[Tensor, "batch token d_inner"],
    weights: Mamba3Weights,
) -> Float[Tensor, "batch token d_model"]:
    """A Mamba-3 mixer's output, out_proj(y · SiLU(z)), from its scan's `y` (with D x).

    With `norm_weight` it is out_proj(RMSNorm(y) · SiLU(z)); the norm is over each head's channels.
    """
    flat, norm = y.flatten(2), weights.called.get("norm")
    if norm is not None:
        gated = norm(flat.to(gate.dtype), gate)
    else:
        if weights.norm_weight is not None:
            flat = group_rms_norm(flat, weights.norm_weight, y.shape[2], weights.eps)
        gated = flat * F.silu(gate.to(y.dtype))
    call = weights.called.get("out_proj")
    return linear(gated.to(gate.dtype), weights.out_proj_weight, call=call)


def _per_head(
    v: Float[Tensor, "batch token group_state"],
    wide: Float[Tensor, "batch token group_state"],
    name: str,
    weights: Mamba3Weights,
) -> Float[Tensor, "batch token head state"]:
    """A head's B or C before rotation: its group's, normalised, plus the head's bias.

    The norm is computed in `wide`, the same values in the scan's dtype, and rounded to the dtype of `v`.
    """
    groups, norm = (weights.ngroups, -1), weights.called.get(f"{name}_norm")
    if norm is not None:
        normed = norm(v.unflatten(2, groups))
    else:
        grouped, weight = wide.unflatten(2, groups), getattr(weights, f"{name}_norm_weight")
        normed = F.rms_norm(grouped, grouped.shape[3:], weight.to(wide.dtype), weights.eps)
    bias = getattr(weights, f"{name}_bias").to(wide.dtype).unflatten(0, groups)
    return (normed.to(v.dtype).unsqueeze(3) + bias).flatten(2, 3)
