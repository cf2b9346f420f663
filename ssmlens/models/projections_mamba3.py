"""The projections around a Mamba-3 scan, as pure functions of named weights. `mamba3` derives them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
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

    @property
    def log_decay(self) -> Float[Tensor, "batch token head"]:
        """The log of each token's decay."""
        return -self.delta * self.rate

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
        return dataclasses.replace(self, **changed).operands()

    def operands(self) -> DecayScan:
        """The operands: see `project_mamba3`."""
        # The part of a token's step that goes to the previous token's write.
        previous = (1 - self.share) * self.delta
        write_now = self.share * self.delta
        after = torch.cat([previous[:, 1:], torch.zeros_like(previous[:, :1])], dim=1)
        B, C = _rotate(torch.stack([self.B, self.C]), _phase(self.angle, self.delta))
        return DecayScan(
            delta=self.delta,
            A=None,
            B=B,
            C=C,
            x=self.x,
            D=self.D,
            gate=self.gate,
            log_decay=self.log_decay,
            write=write_now + after,
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
    gate, x, B, C, dt, rate, trap, angle = projected.split(weights.rows, dim=-1)
    wide = scan_dtype(projected)
    return Mamba3Signals(
        delta=F.softplus(dt.to(wide) + weights.dt_bias.to(wide)),
        rate=F.softplus(rate.to(wide)).clamp(min=weights.A_floor),
        share=torch.sigmoid(trap.to(wide)),
        angle=angle,
        B=_per_head(B, "B", weights),
        C=_per_head(C, "C", weights),
        x=x.to(wide).unflatten(2, (heads, -1)),
        D=weights.D.to(wide).unsqueeze(1),
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
    v: Float[Tensor, "batch token group_state"], name: str, weights: Mamba3Weights
) -> Float[Tensor, "batch token head state"]:
    """A head's B or C before rotation: its group's, normalised (in the input's dtype), plus the head's bias."""
    wide, norm = scan_dtype(v), weights.called.get(f"{name}_norm")
    grouped = v.unflatten(2, (weights.ngroups, -1))
    if norm is not None:
        normed = norm(grouped)
    else:
        weight = getattr(weights, f"{name}_norm_weight").to(wide)
        normed = F.rms_norm(grouped.to(wide), grouped.shape[3:], weight, weights.eps).to(v.dtype)
    bias = getattr(weights, f"{name}_bias")
    return normed.to(wide).repeat_interleave(len(bias) // weights.ngroups, dim=2) + bias.to(wide)


def _phase(
    angle: Float[Tensor, "batch token pair"], delta: Float[Tensor, "batch token head"]
) -> Float[Tensor, "batch token head pair"]:
    """θ, a head's rotation of each pair at a token: Σ π tanh(angle) Δ up to it, modulo 2π.

    Summed in float64: in float32 the sum over a long sequence would lose digits that its sine needs.
    """
    turn = torch.pi * torch.tanh(angle.double()).unsqueeze(2) * delta.double().unsqueeze(3)
    return turn.cumsum(1).remainder(2 * math.pi).to(delta.dtype)


def _rotate(
    v: Float[Tensor, "which batch token head state"], phase: Float[Tensor, "batch token head pair"]
) -> Float[Tensor, "which batch token head state"]:
    """Turn the pairs (v[0], v[1]), (v[2], v[3]), … by their phases; states beyond the last pair stay."""
    turned, still = v.tensor_split([2 * phase.shape[3]], dim=4)
    # A pair is a complex number: to turn it is one product.
    pairs = torch.view_as_complex(turned.unflatten(4, (-1, 2)).contiguous())
    pairs = torch.view_as_real(pairs * torch.complex(phase.cos(), phase.sin())).flatten(4)
    return torch.cat([pairs, still], dim=4) if still.shape[4] else pairs
