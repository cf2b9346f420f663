"""Transplants: every layer of a student starts as a copy of one layer of a trained teacher (paper section 6)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.inits.init import Init, choose_mixers, generator, inits, layers_option, mark
from ssmlens.inits.pieces import find_pieces
from ssmlens.options import option

SCOPES = ("block", "mixer", "ssm", "bc")
CONTROLS = ("shuffled", "gaussian", "memory-only", "memory-out")
"""Controls that a layer is compared with, see `Transplant`."""

# The views in each part of a mixer.
_VIEWS = {
    "ssm": ("A_log", "dt_bias", "W_dt", "dt_proj", "W_B", "W_C", "W_beta", "conv", "conv_bias"),
    "bc": ("W_B", "W_C"),
}
# In place of "conv", where x, B and C have a convolution each.
_APART = ("conv_B", "conv_C", "conv_x")
# Settings that matter to what the scope "ssm" takes; the others matter to a whole mixer.
_OF_SSM = ("dt_limit", "beta_scale", "decay_bound")
_NEEDED = {"ssm": {"A_log", "W_dt", "W_B", "W_C"}, "bc": {"W_B", "W_C"}}


def transplant_(
    student: nn.Module,
    teacher: nn.Module | str | os.PathLike[str],
    layer: int,
    scope: str = "block",
    *,
    student_layers: tuple[int, ...] | None = None,
    shuffled: bool = False,
    control: str | None = None,
    seed: int = 0,
) -> None:
    """Start the student's layers as copies of one of the teacher's, in place; see `Transplant`.

    >>> ssmlens.transplant_(student, "state-spaces/mamba-370m", layer=31)
    """
    options = {"scope": scope, "student_layers": student_layers, "shuffled": shuffled}
    Transplant(teacher, layer, control=control, **options).apply_(student, seed)


@inits.register("transplant")
@dataclasses.dataclass(frozen=True)
class Transplant(Init):
    """Each chosen layer S_j of a student starts as an independent, trainable copy of the teacher's layer T_i.

    Embeddings, final norm and head stay the student's. Teacher and student may be models of different libraries:
    weights are matched by name within a block or mixer, and by view in the scopes ssm and bc.

    Attributes:
        teacher: A shipped model, a folder or a hub id, as for `load_model`; from Python a model, too.
        layer: Index i of its block.
        scope: "block": the complete block, with norm and MLP. "mixer": the mixer. "ssm": A_log, the weights of Δ, B and
            C (in a delta rule of the decay, k, q and β), and the convolution. "bc": W_B and W_C.
        student_layers: The student's blocks j; None: all with a mixer.
        shuffled: Use the control "shuffled".
        control: Copy a control instead of the layer. "shuffled": the values within each piece (a view of the adapter,
            the rows of x or of the gate, a column of A_log, any other weight; see `inits.pieces`) are permuted, by the
            seed and alike in all layers: values stay, structure is lost. "gaussian": each piece is noise with its mean
            and root mean square. "memory-only": copy only A_log and the weights of Δ. "memory-out": copy all of the
            scope except these. Weights that are not copied stay as the student drew them.

    Raises:
        UsageError: The layer does not exist or has no mixer, or teacher and student do not fit; names both shapes. The
            student is then unchanged.
    """

    teacher: nn.Module | str | os.PathLike[str] = option(kind=str, in_arm=None)
    layer: int = option(name="teacher_layer", in_arm=None)
    scope: str = "block"
    student_layers: tuple[int, ...] | None = layers_option()
    shuffled: bool = option(False, in_arm=None)
    control: str | None = option(None, in_arm=None)

    @classmethod
    def arm(cls, name: str, values: Mapping[str, Any]) -> str:
        """See `Init.arm`: "transplant 3" or, for a control, "shuffled 3", "memory-only 3"."""
        kind = values.get("control") or ("shuffled" if values.get("shuffled") else name)
        return f"{kind} {values['layer']}" if "layer" in values else name

    def __post_init__(self):
        if self.control is not None and self.control not in CONTROLS:
            raise UsageError(f"transplant: control must be one of {CONTROLS}, not {self.control!r}")
        if self.shuffled and self.control not in (None, "shuffled"):
            raise UsageError(f"transplant: shuffled does not go with control {self.control!r}")
        if self.scope not in SCOPES:
            raise UsageError(f"transplant: scope must be one of {SCOPES}, not {self.scope!r}")

    @torch.no_grad()
    def apply_(self, model: nn.Module, seed: int = 0) -> None:
        """See `Init.apply_`. The seed is that of the control's draws."""
        teacher: Any = self.teacher
        if not isinstance(teacher, nn.Module):
            teacher = load_model(teacher)
        try:
            (source,) = choose_mixers(teacher, (self.layer,))
        except UsageError as error:
            raise UsageError(f"teacher: {error}") from None
        weights = _parts(teacher, source, self.scope)
        sites = choose_mixers(model, self.student_layers)
        targets = [_parts(model, site, self.scope) for site in sites]
        for site, target in zip(sites, targets, strict=True):
            _require_fit(source, weights, site, target, self.scope)
        weights, fixed = self._controlled(teacher, source, weights, generator(seed))
        for site, target in zip(sites, targets, strict=True):
            for name, weight in target.items():
                new = weights[name].to(weight)
                weight.copy_(
                    torch.where(fixed[name].to(weight.device), weight, new) if fixed else new
                )
            mark(site, f"{self.scope} of a teacher's layer {self.layer}")

    def _controlled(
        self,
        teacher: nn.Module,
        source: MixerSite,
        weights: dict[str, Tensor],
        numbers: torch.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights to copy, and masks of entries that stay the student's; no masks if none stay."""
        control = "shuffled" if self.shuffled else self.control
        if control is None:
            return weights, {}
        scope = self.scope
        pieces = find_pieces(teacher, source, lambda block, site: _of_block(block, site, scope))
        if control == "shuffled":
            return pieces.change(weights, lambda values: _shuffle(values, numbers)), {}
        if control == "gaussian":
            return pieces.change(weights, lambda values: _noise_like(values, numbers)), {}
        memory = {name: pieces.is_memory(name) for name in weights}
        if not any(bool(entries.any()) for entries in memory.values()):
            raise UsageError(
                f"layer {source.layer} is {source.adapter.family}, and its {scope} has neither A_log nor "
                f"weights of Δ: control {control!r} is for Mamba, in the scopes block, mixer and ssm"
            )
        if control == "memory-out":
            return weights, memory
        return weights, {name: ~entries for name, entries in memory.items()}


def _parts(model: nn.Module, site: MixerSite, scope: str) -> dict[str, Tensor]:
    """Return the weights of a model's block that are in the scope, by name."""
    block = next(block.module for block in find_blocks(model) if block.layer == site.layer)
    return _of_block(block, site, scope)


def _of_block(block: nn.Module, site: MixerSite, scope: str) -> dict[str, Tensor]:
    """Return the weights of a block with a mixer that are in the scope, by name."""
    if scope in _VIEWS:
        views = site.adapter.weights(site.module).named()
        if missing := sorted(_NEEDED[scope] - views.keys()):
            raise UsageError(
                f"layer {site.layer} is {site.adapter.family}, which has no {missing[0]} of its "
                f"own for scope {scope!r}; use 'mixer' or 'block'"
            )
        wanted = _VIEWS[scope] if scope == "bc" or "conv" in views else _VIEWS[scope] + _APART
        return {name: views[name] for name in wanted if name in views}
    return dict((block if scope == "block" else site.module).named_parameters())


def _require_fit(
    source: MixerSite,
    weights: Mapping[str, Tensor],
    site: MixerSite,
    target: Mapping[str, Tensor],
    scope: str,
) -> None:
    """Raise UsageError unless the teacher's weights have the names, shapes and meaning of the student's."""
    theirs, ours = _traits(source, weights, scope), _traits(site, target, scope)
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            raise UsageError(
                f"teacher layer {source.layer} ({source.adapter.family}) does not fit student "
                f"layer {site.layer} ({site.adapter.family}): its {name} is "
                f"{theirs.get(name, 'missing')}, the student's {ours.get(name, 'missing')}"
            )


def _traits(site: MixerSite, weights: Mapping[str, Tensor], scope: str) -> dict[str, Any]:
    """Return the traits that teacher and student must share: shapes, and settings that affect the weights' meaning.

    For a complete mixer also the views' shapes: rows of one shape may be split into groups and states differently.
    """
    views = {} if scope in _VIEWS else site.adapter.weights(site.module).named()
    traits = {name: tuple(weight.shape) for name, weight in {**views, **weights}.items()}
    settings = {} if scope == "bc" else site.adapter.settings(site.module)
    if scope == "ssm":
        settings = {name: settings[name] for name in _OF_SSM if name in settings}
    return traits | settings


def _shuffle(values: Float[Tensor, "entry"], numbers: torch.Generator) -> Float[Tensor, "entry"]:
    return values[torch.randperm(len(values), generator=numbers).to(values.device)]


def _noise_like(values: Float[Tensor, "entry"], numbers: torch.Generator) -> Float[Tensor, "entry"]:
    """Draw normal noise with exactly the values' mean and root mean square."""
    wide = values.double()
    noise = torch.randn(len(values), generator=numbers, dtype=torch.float64).to(values.device)
    noise -= noise.mean()
    spread = noise.square().mean().sqrt()
    if spread > 0:
        noise *= wide.var(correction=0).sqrt() / spread
    return (wide.mean() + noise).to(values.dtype)
