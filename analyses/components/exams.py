"""The extra exams of a finished run: free running, and n-grams that occur twice.

An exam is a split of metrics.jsonl at the run's last step, `char` and `string` at each length:

    free                the rows of "eval"; the model reads its own answers
    duplicates-4, -8    letters after n-grams that occur twice (`tasks.duplicates`), n = 4 and 8; it reads right answers
    other-4, -8         the share of the same letters at which it answers what follows the n-gram's other place
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from analyses.components.one_by_one import run_freely
from ssmlens.adapters.load import load_model
from ssmlens.runs.run import Run, open_run
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.duplicates import Duplicates, other_continuation
from ssmlens.tasks.metrics import accuracy
from ssmlens.tasks.rows import TaskBatch
from ssmlens.training.config import TrainConfig
from ssmlens.training.plan import check
from ssmlens.training.run_folder import RunFolder

FREE = "free"
NGRAMS = (4, 8)
"""4 are the taps of the convolution; 8 letters are about the reach of two convolutions."""

DUPLICATES, OTHER = "duplicates-{}", "other-{}"
# As in `Trainee.evaluate`: the same exam for all runs, with rows that no training batch contains.
_EXAM_SEED = 0


def is_examined(run: Run) -> bool:
    """Return whether a run that has ended needs no exam: it failed, was examined, or its exam failed."""
    failed = run.status.state == "failed" or bool(run.status.error)
    return failed or FREE in run.metrics.splits


def examine(path: Path, config: TrainConfig, device: torch.device | str) -> None:
    """Run all exams on a finished run's model and write the results to its metrics.jsonl."""
    model = load_model(path / "checkpoints" / "last", device=device)
    where = torch.device(device)
    with torch.autocast(where.type, torch.bfloat16, enabled=config.precision == "bf16"):
        measured = list(_measure(model, config, where))
    with RunFolder(path, config) as folder:
        for split, length, values in measured:
            folder.measure(config.steps, split, length, **values)


def give_up(path: Path, config: TrainConfig, why: str) -> None:
    """Write into status.json why a finished run could not be examined."""
    status, message = open_run(path).status, " ".join(f"exam: {why}".split())[:1000]
    with RunFolder(path, config) as folder:
        folder.write_status("done", status.step, config.steps, status.seconds, message)


@torch.no_grad()
def _measure(
    model: Any, config: TrainConfig, device: torch.device
) -> Iterator[tuple[str, int, dict[str, float]]]:
    task = check(config).task
    assert isinstance(task, Copy)
    plain = [_rows(task.at_length(n), n, config, device) for n in config.lengths]
    free = run_freely(model, plain)
    for length, batch, answers in zip(config.lengths, plain, free, strict=True):
        yield FREE, length, _shares(answers, batch)
    for n in NGRAMS:
        for length in config.lengths:
            batch = _rows(_with_duplicates(task, length, n), length, config, device)
            answers = model(batch.tokens).logits.argmax(-1)
            yield DUPLICATES.format(n), length, _shares(answers, batch)
            other = other_continuation(batch, n)
            yield OTHER.format(n), length, _shares(answers, other)


def _with_duplicates(task: Copy, length: int, n: int) -> Duplicates:
    return Duplicates(length=length, n=n, letters=task.letters, layout=task.layout, packing=False)


def _rows(task: Any, length: int, config: TrainConfig, device: torch.device) -> TaskBatch:
    exam = dataclasses.replace(task, count=config.eval_count)
    return exam.build(batch_seed(_EXAM_SEED, length, held_out=True), device)


def _shares(answers: torch.Tensor, batch: TaskBatch) -> dict[str, float]:
    right = accuracy(answers, batch)
    return {"char": right.character, "string": right.string}
