"""How well a model does a task: the loss on its answers, and the share of characters and strings it gets right."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.tasks.rows import NO_LABEL, NO_TARGET, TaskBatch

# Token ids [example token] to logits [example token vocabulary], or to something whose `logits` they are.
Model = Callable[[Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1]; NaN where nothing was asked. Marks that end an answer do not count.

    Attributes:
        character: Share of the answers' characters that are right, over all rows.
        string: Share of the rows in which every character is.
    """

    character: float
    string: float


MEASURES: dict[str, Callable[[Int[Tensor, "example token"], TaskBatch], float]] = {
    "char": lambda said, batch: accuracy(said, batch).character,
    "string": lambda said, batch: accuracy(said, batch).string,
}
"""What is measured of what a model says at each position. An entry here is all that a new measure takes: it is written
to metrics.jsonl under its name (and, running freely, with _free after it), and tables, curves and `compare` have it;
`runs.measures.WORDS` may give it words."""


def masked_loss(
    logits: Float[Tensor, "example token vocabulary"], labels: Int[Tensor, "example token"]
) -> Float[Tensor, ""]:
    """Mean cross entropy over the positions that have a label, ends included; in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)


def accuracy(said: Int[Tensor, "example token"], batch: TaskBatch) -> Accuracy:
    """How much of what a model said at each position is what the batch's labels ask for."""
    asked = batch.target != NO_TARGET
    right = (said == batch.labels) & asked
    rows = asked.any(dim=1)
    whole = (right == asked).all(dim=1)
    return Accuracy(_share(right[asked]), _share(whole[rows]))


@torch.no_grad()
def measure(model: Model, batch: TaskBatch, *, freely: bool = False) -> dict[str, float]:
    """Loss and accuracy of a model on a batch: numbers called as in metrics.jsonl.

    Args:
        model: In eval mode.
        batch: What it is asked; `Task.at_length` and `draws.batch_seed` make rows that no training batch has.
        freely: Measure accuracy also where the model reads its own answers (`free_running`).

    Returns:
        "loss", see `masked_loss`; `MEASURES`, every earlier answer being given; with `freely` the same, "_free" after
        their names.
    """
    logits = _logits(model, batch.tokens)
    values = {"loss": float(masked_loss(logits, batch.labels))}
    said = logits.argmax(dim=-1)
    values |= {name: of(said, batch) for name, of in MEASURES.items()}
    if freely:
        free = free_running(model, batch)
        values |= {f"{name}_free": of(free, batch) for name, of in MEASURES.items()}
    return values


@torch.no_grad()
def free_running(model: Model, batch: TaskBatch) -> Int[Tensor, "example token"]:
    """What the model says at each asked position, reading its own earlier answers; NO_LABEL elsewhere.

    One forward over the row so far for each column that is asked in any row; one in all where the layout feeds no
    answer back (zoology's).
    """
    asked = batch.labels != NO_LABEL
    if not batch.fed_back:
        return _logits(model, batch.tokens).argmax(dim=-1).masked_fill(~asked, NO_LABEL)
    tokens, said = batch.tokens.clone(), torch.full_like(batch.tokens, NO_LABEL)
    for column in asked.any(dim=0).nonzero().flatten().tolist():
        pick = _logits(model, tokens[:, : column + 1])[:, -1].argmax(dim=-1)
        here = asked[:, column]
        said[:, column] = torch.where(here, pick, NO_LABEL)
        if column + 1 < tokens.shape[1]:
            tokens[:, column + 1] = torch.where(here, pick, tokens[:, column + 1])
    return said


def _logits(
    model: Model, tokens: Int[Tensor, "example token"]
) -> Float[Tensor, "example token vocabulary"]:
    out = model(tokens)
    return getattr(out, "logits", out)


def _share(right: Tensor) -> float:
    return float(right.double().mean()) if right.numel() else float("nan")
