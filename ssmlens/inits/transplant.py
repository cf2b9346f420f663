"""Transplants: every layer of a student starts as a copy of one layer of a trained teacher (paper section 6)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.inits.init import Init, choose_mixers, generator, inits, layers_option, mark
from ssmlens.options import option

SCOPES = ("block", "mixer", "ssm", "bc")
# The views that a part of a mixer is made of.
_VIEWS = {
    "ssm": ("A_log", "dt_bias", "W_dt", "dt_proj", "W_B", "W_C", "W_beta", "conv", "conv_bias"),
    "bc": ("W_B", "W_C"),
}
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
    seed: int = 0,
) -> None:
    """Start the student's layers as copies of one of the teacher's, in place; see `Transplant`.

    >>> ssmlens.transplant_(student, "state-spaces/mamba-370m", layer=31)
    """
    options = {"scope": scope, "student_layers": student_layers, "shuffled": shuffled}
    Transplant(teacher, layer, **options).apply_(student, seed)


@inits.register("transplant")
@dataclasses.dataclass(frozen=True)
class Transplant(Init):
    """Each chosen layer S_j of a student starts as an independent, trainable copy of the teacher's layer T_i.

    Embeddings, final norm and head stay the student's. Teacher and student may be models of different libraries:
    weights are matched by name within a block or mixer, and by view in the scopes ssm and bc.

    Attributes:
        teacher: A model, or what `load_model` takes.
        layer: Index i of its block.
        scope: "block": all of it, norm and MLP included. "mixer". "ssm": A_log, what makes Δ, B and C (in a delta rule
            the decay, k, q and β), and the convolution. "bc": W_B and W_C.
        student_layers: The student's blocks j; None: all with a mixer.
        shuffled: The control: the entries of each weight are permuted (by the seed; in all layers alike), so that the
            values stay and their structure goes.

    Raises:
        UsageError: There is no such layer or it has no mixer, or teacher and student do not fit; names both shapes. The
            student is then as it was.
    """

    teacher: nn.Module | str | os.PathLike[str] = option(kind=str, in_arm=None)
    layer: int = option(name="teacher_layer", in_arm=None)
    scope: str = "block"
    student_layers: tuple[int, ...] | None = layers_option()
    shuffled: bool = option(False, in_arm=None)

    @classmethod
    def arm(cls, name: str, given: Mapping[str, Any]) -> str:
        """See `Init.arm`: "transplant 3" or, of the control, "shuffled 3"."""
        kind = "shuffled" if given.get("shuffled") else name
        return f"{kind} {given['layer']}" if "layer" in given else name

    def __post_init__(self):
        if self.scope not in SCOPES:
            raise UsageError(f"transplant: scope must be one of {SCOPES}, not {self.scope!r}")

    @torch.no_grad()
    def apply_(self, model: nn.Module, seed: int = 0) -> None:
        """See `Init.apply_`. The seed is that of the shuffling."""
        teacher: Any = self.teacher
        if not isinstance(teacher, nn.Module):
            teacher = load_model(teacher)
        try:
            (source,) = choose_mixers(teacher, (self.layer,))
        except UsageError as error:
            raise UsageError(f"teacher: {error}") from None
        given = _parts(teacher, source, self.scope)
        sites = choose_mixers(model, self.student_layers)
        taking = [_parts(model, site, self.scope) for site in sites]
        for site, taken in zip(sites, taking, strict=True):
            _require_fit(source, given, site, taken, self.scope)
        numbers = generator(seed)
        if self.shuffled:
            given = {name: _shuffle(weight, numbers) for name, weight in given.items()}
        for site, taken in zip(sites, taking, strict=True):
            for name, weight in taken.items():
                weight.copy_(given[name])
            mark(site, f"{self.scope} of a teacher's layer {self.layer}")


def _parts(model: nn.Module, site: MixerSite, scope: str) -> dict[str, Tensor]:
    """The weights that the scope takes of a block, by name."""
    if scope in _VIEWS:
        views = site.adapter.weights(site.module).named()
        if missing := sorted(_NEEDED[scope] - views.keys()):
            raise UsageError(
                f"layer {site.layer} is {site.adapter.family}, which has no {missing[0]} of its "
                f"own for scope {scope!r}; use 'mixer' or 'block'"
            )
        return {name: views[name] for name in _VIEWS[scope] if name in views}
    module = site.module
    if scope == "block":
        module = next(block.module for block in find_blocks(model) if block.layer == site.layer)
    return dict(module.named_parameters())


def _require_fit(
    source: MixerSite,
    given: Mapping[str, Tensor],
    site: MixerSite,
    taken: Mapping[str, Tensor],
    scope: str,
) -> None:
    """Raise UsageError unless the teacher's weights have the names, shapes and meaning of the student's."""
    theirs, ours = _traits(source, given, scope), _traits(site, taken, scope)
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            raise UsageError(
                f"teacher layer {source.layer} ({source.adapter.family}) does not fit student "
                f"layer {site.layer} ({site.adapter.family}): its {name} is "
                f"{theirs.get(name, 'missing')}, the student's {ours.get(name, 'missing')}"
            )


def _traits(site: MixerSite, weights: Mapping[str, Tensor], scope: str) -> dict[str, Any]:
    """What must be equal in teacher and student: shapes, and settings that decide what the weights mean.

    Of a whole mixer the views' shapes, too: rows of one shape may be cut into groups and states differently.
    """
    views = {} if scope in _VIEWS else site.adapter.weights(site.module).named()
    traits = {name: tuple(weight.shape) for name, weight in {**views, **weights}.items()}
    settings = {} if scope == "bc" else site.adapter.settings(site.module)
    if scope == "ssm":
        settings = {name: settings[name] for name in _OF_SSM if name in settings}
    return traits | settings


def _shuffle(weight: Tensor, numbers: torch.Generator) -> Tensor:
    order = torch.randperm(weight.numel(), generator=numbers).to(weight.device)
    return weight.flatten()[order].view(weight.shape)
