"""The teacher of a transplant: the requested layers, their scores, and the shape for its students."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter
from ssmlens.errors import SsmlensError, UsageError
from ssmlens.inits.init import choose_mixers
from ssmlens.inits.pieces import log_scale
from ssmlens.recorder.capture import capture
from ssmlens.runs.validation import LOG_SCALE
from ssmlens.scores.order import rank
from ssmlens.scores.ranking import Ranking
from ssmlens.scores.table import compute, summary
from ssmlens.store.reader import Capture, open_capture
from ssmlens.training.config import TrainConfig

_TOP = re.compile(r"top:(\d+)")


@dataclasses.dataclass(frozen=True)
class LayerRequest:
    """The requested layers of a teacher: at most `top` of the layers in `allowed`, the best first."""

    top: int
    allowed: frozenset[int]

    @classmethod
    def parse(cls, words: Sequence[str], available: Sequence[int]) -> "LayerRequest":
        """Parse "all", "top:K" or indices; raises UsageError for anything else."""
        if list(words) == ["all"]:
            return cls(len(available), frozenset(available))
        top = _TOP.fullmatch(words[0]) if len(words) == 1 else None
        if top and 1 <= int(top[1]) <= len(available):
            return cls(int(top[1]), frozenset(available))
        if not words or not all(word.isdecimal() for word in words):
            raise UsageError(
                f"`layers` {' '.join(words)}: give all, top:K (K in 1..{len(available)}), or indices"
            )
        allowed = frozenset(map(int, words))
        for layer in sorted(allowed - set(available)):
            raise UsageError(
                f"`layers` {layer}: the teacher has Mamba mixers in {', '.join(map(str, available))}"
            )
        return cls(len(allowed), allowed)

    def choose(self, ranked: Sequence[int]) -> list[int]:
        """Select the requested layers from all layers, which come best first."""
        return [layer for layer in ranked if layer in self.allowed][: self.top]


def score_layers(
    model: Any, file: Path, progress: Callable[[int, int, str], None] | None
) -> tuple[Ranking, dict[int, dict[str, float]]]:
    """Return the ranking of the teacher's Mamba layers and all scores of each, from a capture in `file`.

    Captures the teacher if the file lacks it, with the default prompts of `capture`: the copy task for the shipped
    models, text and repeated tokens for others. The scores include `log_scale`, the size of the layer's weights: a
    score must predict more than it does.
    """
    mixers = [site.layer for site in choose_mixers(model)]
    captured = _captured(model, file)
    if captured is None:
        captured = capture(model, None, file, layers=mixers, overwrite=True, progress=progress)
    with captured:
        table = compute(captured)
    means = summary(table).sel(statistic="mean")
    scale = {site.layer: log_scale(site) for site in choose_mixers(model)}
    scores = {
        layer: {name: _plain(means[name].sel(layer=layer)) for name in map(str, means)}
        | {LOG_SCALE: scale[layer]}
        for layer in mixers
    }
    return rank(table), scores


def _plain(value: Any) -> float:
    return float(value) if value.size == 1 else math.nan


def _captured(model: Any, file: Path) -> Capture | None:
    """Open the capture of this model that an earlier session left, if any."""
    try:
        captured = open_capture(file)
    except SsmlensError:
        return None
    if captured.attributes["model_digest"] == model.source.digest:
        return captured
    captured.close()
    return None


def like_teacher(student: TrainConfig, site: MixerSite) -> TrainConfig:
    """Return the student's config with the shape of the teacher's mixer, in fields that still have their default.

    Raises:
        UsageError: The mixer is neither Mamba-1 nor Mamba-2, or a field has another value than the teacher.
    """
    shape = _shape(site)
    adopted = {n: shape[n] for n in shape if getattr(student, n) == getattr(TrainConfig, n)}
    for name, value in shape.items():
        if name not in adopted and getattr(student, name) != value:
            raise UsageError(
                f"`{name}` {getattr(student, name)} does not fit the teacher, whose layer "
                f"{site.layer} has {value}; leave it out"
            )
    return dataclasses.replace(student, **adopted)


def _shape(site: MixerSite) -> dict[str, Any]:
    adapter, module = site.adapter, site.module
    if isinstance(adapter, Mamba2Adapter):
        two = adapter.named_weights(module)
        d_model, d_inner = two.out_proj_weight.shape
        kind = {"mixer": "Mamba2", "headdim": two.headdim, "ngroups": two.ngroups}
        conv, d_state = two.conv_weight, two.d_state
    elif isinstance(adapter, Mamba1Adapter):
        one = adapter.named_weights(module)
        d_model, d_inner = one.out_proj_weight.shape
        kind, conv, d_state = {"mixer": "Mamba1"}, one.conv_weight, one.A_log.shape[1]
    else:
        raise UsageError(
            f"teacher layer {site.layer} is {adapter.family}; students are Mamba-1 or Mamba-2"
        )
    sizes = {"d_model": d_model, "expand": d_inner // d_model, "d_state": d_state}
    return {**kind, **sizes, "d_conv": conv.shape[1]}
