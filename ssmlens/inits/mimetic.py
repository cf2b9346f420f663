"""Mimetic initialisation: Mamba layers that start as linear attention (Trockman et al. 2024, arXiv 2410.11135)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.find import MixerSite
from ssmlens.errors import UsageError
from ssmlens.inits.fresh import require_fresh
from ssmlens.inits.init import Init, choose_mixers, inits, layers_option, mark
from ssmlens.inits.mixer_weights import MixerWeights
from ssmlens.models.parameters import Number
from ssmlens.options import option

COMPONENTS = ("A", "delta", "BC", "conv")
CONV_SCOPES = ("all", "bc", "x", "tie_bc")
RESCALES = ("none", "var", "identity")
# From the library's own A_log and c to the new A_log.
A_RULES: dict[str, Callable[[Tensor, Number], Tensor]] = {
    "power": lambda base, c: -c * base,
    "power_no_first": lambda base, c: -c * (base.exp() + 1).log(),
    "constant": lambda base, c: torch.full_like(base, -c),
    "offset": lambda base, c: base - c,
}
_POWERS = ("power", "power_no_first")
# A weight and its new value.
Change = tuple[Tensor, Tensor]


def mimetic_(
    model: nn.Module, components: tuple[str, ...] | None = None, c: Number = 8, **options: Any
) -> None:
    """Initialise a fresh model's Mamba layers as linear attention, in place; the options are the fields of `Mimetic`.

    >>> ssmlens.mimetic_(model, c=8)
    >>> ssmlens.mimetic_(model, components=("A", "BC"), layers=(3,))
    """
    Mimetic(components, c, **options).apply_(model)


@inits.register("mimetic")
@dataclasses.dataclass(frozen=True)
class Mimetic(Init):
    """Mimetic initialisation of a fresh model of mamba_ssm, transformers or ssmlens.

    It draws nothing: W'_C below is the model's own draw.

    - A: A_log := −c·log n (Mamba-2: −c times the A_log that the layer has), so that A = −n^−c ≈ 0 and Ā ≈ 1. State
      n = 1 stays at A = −1 for every c.
    - delta: dt_bias := softplus⁻¹(1) = .5413 and W_Δ := 0, so that Δ = 1 (Mamba-1: dt_proj; its rows of x_proj stay,
      or no gradient would ever reach either).
    - BC: W_C := ½ (W'_C + W_B), so that W_Cᵀ W_B ≈ a multiple of I. The biases of these rows are mixed likewise.
    - conv: the convolution passes the current token through unchanged, without bias. SiLU still follows.

    In a delta rule (k is B, q is C) A and delta together make every log decay −exp(−c), so that α ≈ 1 for every token.

    Attributes:
        components: Some of "A", "delta", "BC", "conv". None: A, delta and BC, and also conv if B and C pass through the
            convolution (Mamba-2, as in the paper, and delta rules).
        c: Strength of A; the paper uses 2, 4 or 8.
        layers: Blocks whose mixers are set; None: all.
        a_rule: "power" as above; "power_no_first": −c·log(n + 1); "constant": −c; "offset": the library's own A_log − c
            (Tong et al. 2026, with 10). A delta rule allows only "power", as above.
        w_delta_scale: Factor of W_Δ.
        bc_mix: Weights of W'_C and W_B in W_C; (0, 1) copies W_B.
        bc_rescale: "none"; "var": W_C keeps the variance of its draw (√2 for ½, ½); "identity": W_B and W_C are scaled
            alike until the mean diagonal entry of W_Cᵀ W_B is 1 in each group.
        conv_scope: "all" channels; "bc": only those of B and C; "x": only those of x (Mamba-2); "tie_bc": C's taps
            and bias become B's. "bc" and "tie_bc" are for Mamba-2 and delta rules.
        conv_layers: Those of `layers` whose convolution is set; None: all of them.
        keep_conv_bias: Keep the convolution's bias as drawn.
        keep_conv_taps: Keep the convolution's taps as drawn.
        force: Accept a model that is not fresh.

    Raises:
        UsageError: The model is not fresh (D or norm weights not 1, Mamba-1's A_log not log n, initialised before,
            Mamba-2 with transformers' A_log), its dt_limit excludes 1, it is tensor-parallel, its family has no such
            weight, or an option is impossible. The model is then unchanged.
    """

    components: tuple[str, ...] | None = option(None, in_arm=lambda _, value: "+".join(value))
    c: Number = 8
    layers: tuple[int, ...] | None = layers_option()
    a_rule: str = "power"
    w_delta_scale: Number = 0
    bc_mix: tuple[Number, Number] = option((0.5, 0.5), in_arm=None)
    bc_rescale: str = "none"
    conv_scope: str = "all"
    conv_layers: tuple[int, ...] | None = option(
        None, in_arm=lambda _, layers: "conv in " + ",".join(map(str, layers))
    )
    keep_conv_bias: bool = option(False, in_arm=None)
    keep_conv_taps: bool = option(False, in_arm=lambda *_: "conv taps kept")
    force: bool = option(False, offered=False)

    def __post_init__(self):
        for component in self.components or ():
            _require(component in COMPONENTS, "components", f"some of {COMPONENTS}", component)
        _require(0 < self.c < math.inf, "c", "positive", self.c)
        _require(self.a_rule in A_RULES, "a_rule", f"one of {tuple(A_RULES)}", self.a_rule)
        _require(self.bc_rescale in RESCALES, "bc_rescale", f"one of {RESCALES}", self.bc_rescale)
        _require(
            self.conv_scope in CONV_SCOPES, "conv_scope", f"one of {CONV_SCOPES}", self.conv_scope
        )
        both = self.keep_conv_bias and self.keep_conv_taps
        _require(not both, "keep_conv_bias", "false where keep_conv_taps is true", True)
        _require(any(self.bc_mix), "bc_mix", "not both 0", self.bc_mix)
        _require(math.isfinite(self.w_delta_scale), "w_delta_scale", "finite", self.w_delta_scale)

    @torch.no_grad()
    def apply_(self, model: nn.Module, seed: int = 0) -> None:
        """See `Init.apply_`. Nothing is drawn, so the seed does not matter."""
        sites = choose_mixers(model, self.layers)
        weights = [MixerWeights.from_site(site) for site in sites]
        self._check_conv_layers(sites)
        if not self.force:
            require_fresh(model, sites)
        changes = [c for s, w in zip(sites, weights, strict=True) for c in self._changes(s, w)]
        for weight, value in changes:
            weight.copy_(value)
        for site in sites:
            mark(site, f"mimetic, {'+'.join(self._components(site)) or 'nothing'}, c={self.c:g}")

    def _check_conv_layers(self, sites: Sequence[MixerSite]) -> None:
        """Raise UsageError if `conv_layers` names a layer whose convolution would not be set."""
        by_layer = {site.layer: site for site in sites}
        for layer in self.conv_layers or ():
            if layer not in by_layer:
                raise UsageError(f"conv_layers: layer {layer} is not among the layers that are set")
            if "conv" not in self._components(by_layer[layer]):
                raise UsageError("conv_layers needs the component 'conv'")

    def _components(self, site: MixerSite) -> tuple[str, ...]:
        """Return the components that are set in a layer."""
        components = self.components
        if components is None:
            passed = site.adapter.weights(site.module).conv_B is not None
            components = COMPONENTS if passed else COMPONENTS[:3]
        if self.conv_layers is None or site.layer in self.conv_layers:
            return components
        return tuple(name for name in components if name != "conv")

    def _changes(self, site: MixerSite, weights: MixerWeights) -> list[Change]:
        """Return the mixer's weights that change, with their new values."""
        make = {"A": self._A, "delta": self._delta, "BC": self._BC, "conv": self._conv}
        try:
            return [change for name in self._components(site) for change in make[name](weights)]
        except UsageError as error:
            raise UsageError(f"layer {site.layer}: {error}") from None

    def _A(self, weights: MixerWeights) -> list[Change]:
        if weights.slow_decay is not None:
            if self.a_rule != "power":
                raise UsageError(
                    f"a_rule={self.a_rule!r} is for Mamba: c alone sets the decay here"
                )
            return weights.slow_decay(self.c, self.w_delta_scale)["A"]
        A_log, base = weights.views.A_log, weights.own_A_log
        assert A_log is not None
        assert base is not None
        if self.a_rule in _POWERS and (base < 0).any():
            raise UsageError(
                f"A_log goes down to {float(base.min()):.2g}, and negative entries would make A "
                "huge; apply the init 'mamba-ssm' first"
            )
        return [(A_log, A_RULES[self.a_rule](base, self.c))]

    def _delta(self, weights: MixerWeights) -> list[Change]:
        if weights.slow_decay is not None:
            return weights.slow_decay(self.c, self.w_delta_scale)["delta"]
        low, high = weights.dt_limit
        if not low <= 1 <= high:
            raise UsageError(
                f"Δ is clamped to [{low:g}, {high:g}], which excludes the 1 that 'delta' starts "
                "from; widen dt_limit or leave out that component"
            )
        views = weights.views
        W = views.W_dt if views.dt_proj is None else views.dt_proj
        if views.dt_bias is None or W is None:
            raise UsageError("dt has no bias to set; leave out the component 'delta'")
        rows = [W] if weights.bias_dt is None else [W, weights.bias_dt]
        bias = torch.full_like(views.dt_bias, math.log(math.e - 1))
        return [(views.dt_bias, bias), *((row, self.w_delta_scale * row) for row in rows)]

    def _BC(self, weights: MixerWeights) -> list[Change]:
        W_B, W_C = weights.views.W_B, weights.views.W_C
        assert W_B is not None
        assert W_C is not None
        scale_B, scale_C = self._scales(W_B.double(), self._mix(W_B, W_C))
        changes = [(W_B, scale_B * W_B), (W_C, scale_C * self._mix(W_B, W_C))]
        bias_B, bias_C = weights.bias_B, weights.bias_C
        if bias_B is not None and bias_C is not None:
            changes += [
                (bias_B, scale_B[..., 0] * bias_B),
                (bias_C, scale_C[..., 0] * self._mix(bias_B, bias_C)),
            ]
        return changes

    def _mix(self, of_B: Tensor, of_C: Tensor) -> Tensor:
        weight_C, weight_B = self.bc_mix
        return weight_C * of_C.double() + weight_B * of_B.double()

    def _scales(
        self,
        W_B: Float[Tensor, "group state input"],
        W_C: Float[Tensor, "group state input"],
    ) -> tuple[Float[Tensor, "group 1 1"], Float[Tensor, "group 1 1"]]:
        """Return the factors of W_B and of the mixed W_C."""
        one = torch.ones_like(W_B[:, :1, :1])
        if self.bc_rescale == "none":
            return one, one
        if self.bc_rescale == "var":
            return one, one / math.hypot(*self.bc_mix)
        diagonal = (W_B * W_C).sum((1, 2), keepdim=True) / W_B.shape[2]
        if not (diagonal > 0).all():
            raise UsageError(
                f"with bc_mix={self.bc_mix} the diagonal of W_Cᵀ W_B cannot be scaled to 1 "
                "(bc_rescale='identity'); give W_B a positive weight"
            )
        return diagonal**-0.5, diagonal**-0.5

    def _conv(self, weights: MixerWeights) -> list[Change]:
        views = weights.views
        apart = views.conv is None and views.conv_B is not None and views.conv_C is not None
        if views.conv is None and not apart:
            raise UsageError("the mixer has no convolution; leave out the component 'conv'")
        if self.conv_scope == "all" and apart:
            parts = (views.conv_x, views.conv_B, views.conv_C)
            return [c for taps in parts if taps is not None for c in self._pass_on(taps, None)]
        if self.conv_scope == "all":
            assert views.conv is not None
            return self._pass_on(views.conv, views.conv_bias)
        if self.conv_scope == "x":
            if weights.conv_x is None:
                raise UsageError(
                    "conv_scope='x' is for Mamba-2; use conv_scope='all' or leave out the component 'conv'"
                )
            return self._pass_on(weights.conv_x, weights.conv_bias_x)
        B, C = views.conv_B, views.conv_C
        if B is None or C is None:
            raise UsageError(
                f"conv_scope={self.conv_scope!r} is for Mamba-2 and delta rules: here B and C are made after "
                "the convolution; use conv_scope='all' or leave out the component 'conv'"
            )
        bias_B, bias_C = weights.conv_bias_B, weights.conv_bias_C
        if self.conv_scope == "bc":
            return self._pass_on(B, bias_B) + self._pass_on(C, bias_C)
        biases = None if bias_B is None or bias_C is None else (bias_C, bias_B)
        return self._without_kept((C, B), biases)

    def _pass_on(self, taps: Tensor, bias: Tensor | None) -> list[Change]:
        """Set taps (the last one is the current token's) and bias to the identity."""
        identity = torch.zeros_like(taps)
        identity[..., -1] = 1
        zero = None if bias is None else (bias, torch.zeros_like(bias))
        return self._without_kept((taps, identity), zero)

    def _without_kept(self, taps: Change, bias: Change | None) -> list[Change]:
        """Return the changes of taps and bias without those that the options keep."""
        changes = [] if self.keep_conv_taps else [taps]
        return changes if bias is None or self.keep_conv_bias else [*changes, bias]


def _require(met: bool, field: str, requirement: str, value: object) -> None:
    if not met:
        raise UsageError(f"mimetic init: {field} must be {requirement}, not {value!r}")
