"""Score a teacher's layers before any student: map scores, ablation, and the scale of weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmlens.inits.init import choose_mixers
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.metrics import measure
from ssmlens.tasks.repeat import PRINTABLE, Repeat
from ssmlens.training.teacher import score_layers

_LETTERS = 64
_COUNT = 128
# A separate exam: not the seed of the exams during training.
_SEED = 1


def score(
    model: Any, file: Path, progress: Callable[[int, int, str], None]
) -> tuple[list[int], dict[int, dict[str, float]]]:
    """The teacher's layers, best first, and the scores of each by name, `ablation` among them.

    Args:
        model: The teacher.
        file: Of its capture.
        progress: As in `capture`.
    """
    ranking, scores = score_layers(model, file, progress)
    lost = ablation(model)
    return [row.layer for row in ranking], {
        layer: {**of_layer, "ablation": lost[layer]} for layer, of_layer in scores.items()
    }


def ablation(model: nn.Module, count: int = _COUNT, letters: int = _LETTERS) -> dict[int, float]:
    """By layer: the share of repeated letters right that is lost when its mixer returns zeros."""
    device = next(model.parameters()).device
    exam = Repeat(letters, count, vocab_size=PRINTABLE.stop, first_token=PRINTABLE.start)
    batch = exam.build(batch_seed(_SEED, letters, held_out=True), device)
    model.eval()
    whole = measure(model, batch)["char"]
    lost = {}
    for site in choose_mixers(model):
        with _silent(site.module):
            lost[site.layer] = whole - measure(model, batch)["char"]
    return lost


@contextmanager
def _silent(mixer: nn.Module) -> Iterator[None]:
    """Replace the mixer's output by zeros."""

    def silence(_: nn.Module, given: Any, out: Any) -> torch.Tensor:
        return torch.zeros_like(out)

    hook = mixer.register_forward_hook(silence)
    try:
        yield
    finally:
        hook.remove()
