"""A run measures what its model says when it reads its own answers, where the config asks for it."""

import math

import pytest
import torch

from ssmlens.adapters.load import load_model
from ssmlens.tasks.draws import batch_seed
from ssmlens.training.config import TrainConfig
from ssmlens.training.loop import train
from ssmlens.training.plan import check
from ssmlens.training.trainee import Trainee


@torch.no_grad()
def read_on(model, row, asked):
    """The labels' places of one row, said one after the other, alone and unbatched."""
    row, said = row.clone(), {}
    for place in asked:
        said[place] = int(model(row[None, : place + 1]).logits[0, -1].argmax())
        if place + 1 < len(row):
            row[place + 1] = said[place]
    return said


def test_it_is_what_the_checkpoint_says_row_by_row(tiny, tmp_path):
    config = tiny(free_running=True, steps=40, eval_every=40, eval_count=32, eval_lengths=(8,))
    run = train(config, tmp_path / "run", device="cpu")
    model = load_model(str(tmp_path / "run" / "checkpoints" / "last"), device="cpu")
    task = check(config).task.at_length(8)
    batch = type(task)(**{**vars(task), "count": 32}).build(batch_seed(0, 8, held_out=True))
    right = []
    for row, labels, target in zip(batch.tokens, batch.labels, batch.target, strict=True):
        said = read_on(model, row, (labels >= 0).nonzero().flatten().tolist())
        right.append([said[at] == labels[at] for at in (target >= 0).nonzero().flatten().tolist()])
    flat = [float(it) for row in right for it in row]
    assert run.metrics.final("char_free", 8) == pytest.approx(sum(flat) / len(flat))
    assert run.metrics.final("char_free", 8) != run.metrics.final("char", 8), "this shows nothing"
    whole = [float(all(row)) for row in right]
    assert run.metrics.final("string_free", 8) == pytest.approx(sum(whole) / len(whole))


def test_only_where_it_is_asked_for(tiny):
    asked = Trainee(check(tiny(free_running=True)), torch.device("cpu")).evaluate(4)
    plain = Trainee(check(tiny()), torch.device("cpu")).evaluate(4)
    assert set(asked) - set(plain) == {"char_free", "string_free"}
    assert {name: asked[name] for name in plain} == plain
    assert all(math.isfinite(value) for value in asked.values())
    assert TrainConfig().free_running is False


def test_an_untrained_run_that_does_not_measure_it_has_none(tiny, tmp_path):
    run = train(tiny(steps=1, eval_lengths=(4,)), tmp_path / "run", device="cpu")
    assert math.isnan(run.metrics.final("char_free", 4))
