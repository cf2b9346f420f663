"""Run a Mamba model freely, one token at a time. The cost of a token does not grow with the tokens before it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from analyses.components.recurrence import Recurrence, recurrence_of
from ssmlens.tasks.rows import NO_LABEL, TaskBatch


@torch.no_grad()
def run_freely(model: Any, batches: Sequence[TaskBatch]) -> list[Int[Tensor, "example token"]]:
    """`tasks.metrics.free_running` of several batches at once, by recurrence.

    Every token costs the same. The rows of all batches run together; each leaves when it ends.

    Args:
        model: A language model of Mamba-1 or Mamba-2 layers, mamba_ssm's or `MambaLM`, in eval mode.
        batches: Rows whose labels are the next token (`TaskBatch.fed_back`), of any lengths.
    """
    widths = [batch.tokens.shape[1] for batch in batches]
    longest_first = sorted(range(len(batches)), key=lambda number: -widths[number])
    ordered, width = [batches[number] for number in longest_first], max(widths)
    tokens = torch.cat([_widen(b.tokens, width, 0) for b in ordered])
    is_answer = torch.cat([_widen(b.labels, width, NO_LABEL) for b in ordered]) != NO_LABEL
    answers = torch.full_like(tokens, NO_LABEL)
    with _recurrent(model) as recurrences:
        for column in range(width - 1):
            rows = sum(len(b.tokens) for b in ordered if b.tokens.shape[1] - 1 > column)
            for recurrence in recurrences:
                recurrence.keep(rows)
            pick = model(tokens[:rows, column : column + 1]).logits[:, -1].argmax(-1)
            here = is_answer[:rows, column]
            answers[:rows, column] = torch.where(here, pick, NO_LABEL)
            tokens[:rows, column + 1] = torch.where(here, pick, tokens[:rows, column + 1])
    parts = answers.split([len(batch.tokens) for batch in ordered])
    by_number = dict(zip(longest_first, parts, strict=True))
    return [by_number[number][:, :width] for number, width in enumerate(widths)]


@contextmanager
def _recurrent(model: nn.Module) -> Iterator[list[Recurrence]]:
    """Replace the mixers' forwards, so that each call reads the next token of every row and keeps the rows' states."""
    mixers: list[Any] = [block.mixer for block in getattr(model, "backbone").layers]  # noqa: B009
    before = [mixer.__dict__.get("forward") for mixer in mixers]
    try:
        for mixer in mixers:
            mixer.forward = recurrence_of(mixer)
        yield [mixer.forward for mixer in mixers]
    finally:
        for mixer, own in zip(mixers, before, strict=True):
            del mixer.forward
            if own is not None:
                mixer.forward = own


def _widen(rows: Int[Tensor, "example token"], width: int, fill: int) -> Int[Tensor, "example _"]:
    return F.pad(rows, (0, width - rows.shape[1]), value=fill)
