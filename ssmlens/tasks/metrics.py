"""The performance of a model on a task: the loss on its answers, and the share of characters and strings right."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.tasks.rows import NO_LABEL, NO_TARGET, TaskBatch

# From token ids [example token] to logits [example token vocabulary], or to an object with these `logits`.
Model = Callable[[Tensor], Any]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1]; NaN without targets. Marks that end an answer do not count.

    Attributes:
        character: Share of the answers' characters that are right, over all rows.
        string: Share of the rows in which every character is right.
    """

    character: float
    string: float


MEASURES: dict[str, Callable[[Int[Tensor, "example token"], TaskBatch], float]] = {
    "char": lambda answer, batch: accuracy(answer, batch).character,
    "string": lambda answer, batch: accuracy(answer, batch).string,
}
"""Measures of a model's answers. An entry here is all that a new measure needs: it is written to metrics.jsonl under
its name (free-running: with the suffix _free), and appears in tables, curves and `compare`; `runs.measures.WORDS` may
describe it."""


def masked_loss(
    logits: Float[Tensor, "example token vocabulary"], labels: Int[Tensor, "example token"]
) -> Float[Tensor, ""]:
    """Return the mean cross entropy over the positions with a label, ends included; in float32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)


def accuracy(answer: Int[Tensor, "example token"], batch: TaskBatch) -> Accuracy:
    """Return the share of a model's answers that equal the batch's labels, over positions with a target."""
    has_target = batch.target != NO_TARGET
    right = (answer == batch.labels) & has_target
    rows = has_target.any(dim=1)
    all_right = (right == has_target).all(dim=1)
    return Accuracy(_share(right[has_target]), _share(all_right[rows]))


@torch.no_grad()
def measure(model: Model, batch: TaskBatch, *, freely: bool = False) -> dict[str, float]:
    """Measure loss and accuracy of a model on a batch, with the names of metrics.jsonl.

    Args:
        model: The model, in eval mode.
        batch: The rows; `Task.at_length` and `draws.batch_seed` make rows that no training batch has.
        freely: Also measure accuracy while the model reads its own answers (`free_running`).

    Returns:
        "loss", see `masked_loss`; `MEASURES` with the right earlier answers as input; with `freely` also with the
        model's own answers, under names with the suffix "_free".
    """
    logits = _logits(model, batch.tokens)
    values = {"loss": float(masked_loss(logits, batch.labels))}
    answer = logits.argmax(dim=-1)
    values |= {name: measure_of(answer, batch) for name, measure_of in MEASURES.items()}
    if freely:
        free = free_running(model, batch)
        values |= {f"{name}_free": measure_of(free, batch) for name, measure_of in MEASURES.items()}
    return values


@torch.no_grad()
def free_running(model: Model, batch: TaskBatch) -> Int[Tensor, "example token"]:
    """Return the model's answer at each position with a label, reading its own earlier answers; NO_LABEL elsewhere.

    One forward pass over the row so far for each column with a label in any row; a single one if the layout feeds no
    answer back (zoology's).
    """
    has_label = batch.labels != NO_LABEL
    if not batch.fed_back:
        return _logits(model, batch.tokens).argmax(dim=-1).masked_fill(~has_label, NO_LABEL)
    tokens, answer = batch.tokens.clone(), torch.full_like(batch.tokens, NO_LABEL)
    for column in has_label.any(dim=0).nonzero().flatten().tolist():
        pick = _logits(model, tokens[:, : column + 1])[:, -1].argmax(dim=-1)
        asked_rows = has_label[:, column]
        answer[:, column] = torch.where(asked_rows, pick, NO_LABEL)
        if column + 1 < tokens.shape[1]:
            tokens[:, column + 1] = torch.where(asked_rows, pick, tokens[:, column + 1])
    return answer


def _logits(
    model: Model, tokens: Int[Tensor, "example token"]
) -> Float[Tensor, "example token vocabulary"]:
    out = model(tokens)
    return getattr(out, "logits", out)


def _share(right: Tensor) -> float:
    return float(right.double().mean()) if right.numel() else float("nan")
