"""How well a model does a task: the loss on its answers, and the share of characters and strings it gets right."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET, TaskBatch
from ssmlens.tasks.task import Task

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
def teacher_forced(model: Model, batch: TaskBatch) -> Int[Tensor, "example token"]:
    """The most probable next token at each position, every earlier answer being given."""
    return _logits(model, batch.tokens).argmax(dim=-1)


@torch.no_grad()
def free_running(model: Model, batch: TaskBatch) -> Int[Tensor, "example token"]:
    """What the model says at each asked position, reading its own earlier answers; NO_LABEL elsewhere.

    One forward over the row so far for each column that is asked in any row. Where the layout feeds no answer back
    (zoology's) it is what `teacher_forced` says.
    """
    asked = batch.labels != NO_LABEL
    if not batch.fed_back:
        return teacher_forced(model, batch).masked_fill(~asked, NO_LABEL)
    tokens, said = batch.tokens.clone(), torch.full_like(batch.tokens, NO_LABEL)
    for column in asked.any(dim=0).nonzero().flatten().tolist():
        pick = _logits(model, tokens[:, : column + 1])[:, -1].argmax(dim=-1)
        here = asked[:, column]
        said[:, column] = torch.where(here, pick, NO_LABEL)
        if column + 1 < tokens.shape[1]:
            tokens[:, column + 1] = torch.where(here, pick, tokens[:, column + 1])
    return said


def accuracy_by_length(
    model: Model,
    task: Task,
    lengths: Iterable[int],
    *,
    count: int = 128,
    seed: int = 0,
    freely: bool = False,
    device: torch.device | str = "cpu",
) -> dict[int, Accuracy]:
    """Accuracy on `count` held-out examples of each length, exactly that long, none of which any training batch drew.

    Args:
        model: In eval mode, on `device`.
        task: What it learned; its own lengths, count and packing do not matter here.
        lengths: Which lengths; beyond those of training, too.
        count: Examples of each.
        seed: Which examples.
        freely: Let the model read its own answers (`free_running`), not the right ones.
        device: Where to make the examples.

    Raises:
        UsageError: The task has no examples of such a length.
    """
    say = free_running if freely else teacher_forced
    result: dict[int, Accuracy] = {}
    for length in lengths:
        exam = dataclasses.replace(task.at_length(length), count=count)
        batch = exam.build(batch_seed(seed, length, held_out=True), device)
        result[length] = accuracy(say(model, batch), batch)
    return result


def _logits(
    model: Model, tokens: Int[Tensor, "example token"]
) -> Float[Tensor, "example token vocabulary"]:
    out = model(tokens)
    return getattr(out, "logits", out)


def _share(right: Tensor) -> float:
    return float(right.double().mean()) if right.numel() else float("nan")
