"""Targets, checked by their meaning: the token at a query's target is the token that comes next."""

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.repeat import Repeat
from ssmlens.tasks.task import NO_TARGET, tasks


@pytest.mark.parametrize(
    "task", [Copy(length=7, count=3), Copy(length=1, count=1), Repeat(5, 2), Repeat(2, 1)]
)
def test_what_stands_at_the_target_is_what_comes_next(task):
    batch = task.build(seed=3)
    rows, queries = (batch.target != NO_TARGET).nonzero(as_tuple=True)
    assert len(rows) == len(batch.tokens) * (
        task.length if isinstance(task, Copy) else task.length - 1
    )
    target = batch.target[rows, queries]
    assert (target <= queries).all()
    assert torch.equal(batch.tokens[rows, target], batch.tokens[rows, queries + 1])


def test_a_copy_row_is_string_separator_string_end():
    (row,) = Copy(length=4, count=1).build().tokens.tolist()
    assert row[4] == 1
    assert row[9] == 2
    assert row[:4] == row[5:9]
    assert all(3 <= token <= 28 for token in row[:4])


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    a, b, c = (Copy().build(seed).tokens for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Copy, {"length": 0}),
        (Copy, {"count": 0}),
        (Repeat, {"length": 1}),
        (Repeat, {"vocab_size": 1}),
    ],
)
def test_impossible_options_are_refused(task, options):
    with pytest.raises(UsageError, match="needs"):
        task(**options)


def test_tasks_are_found_by_name():
    assert set(tasks) >= {"copy", "repeat"}
    with pytest.raises(UsageError, match="did you mean 'copy'"):
        tasks["coppy"]
