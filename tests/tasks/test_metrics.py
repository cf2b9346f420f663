"""Loss and accuracy, with models whose answers are known."""

import dataclasses
import math

import pytest
import torch

from ssmlens.tasks import metrics
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.metrics import accuracy, free_running, masked_loss, measure
from ssmlens.tasks.recall import Recall
from ssmlens.tasks.repeat import Repeat
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET
from ssmlens.tasks.sort import Sort
from ssmlens.tasks.stack import Stack

TASKS = [
    Copy(length=6, min_length=2, count=9),
    Stack(length=6, min_length=1, count=9),
    Sort(length=6, letters=8, count=9),
    Recall(length=4, min_length=2, letters=12, count=9),
    Repeat(length=5, count=9),
    Recall(length=4, letters=20, layout="zoology", context=24, count=9),
    Copy(length=6, min_length=1, packing=True, context=40, count=9),
]


def logits_of(ids, vocab_size):
    return torch.nn.functional.one_hot(ids.clamp(min=0), vocab_size).float()


def knowing(task, seed=0):
    """A model that says the labels of the task's rows by position, whatever it reads."""
    batch = task.build(seed)
    logits = logits_of(batch.labels, task.vocab_size)
    return batch, lambda tokens: logits[:, : tokens.shape[1]]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_knows_is_right(task):
    batch, model = knowing(task)
    told = measure(model, batch, freely=True)
    del told["loss"]
    assert told == dict.fromkeys(["char", "string", "char_free", "string_free"], 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_characters_and_strings_are_counted_without_the_end(task):
    batch, _ = knowing(task)
    said = batch.labels.clone()
    said[(batch.target == NO_TARGET) & (batch.labels != NO_LABEL)] += 1  # every end is wrong
    assert accuracy(said, batch).string == 1.0
    row, column = (batch.target != NO_TARGET).nonzero()[0].tolist()
    said[row, column] += 1
    asked = int((batch.target != NO_TARGET).sum())
    got = accuracy(said, batch)
    assert got.character == pytest.approx(1 - 1 / asked)
    assert got.string == pytest.approx(1 - 1 / 9)


def next_letter(tokens, letters=26):
    """Says the letter after the one it reads."""
    return logits_of(3 + (tokens - 3 + 1) % letters, 32)


def test_a_model_that_runs_freely_reads_its_own_answers():
    """One that only ever says the next letter counts up from the separator, on any row, not from the right answers."""
    batch = Copy(length=5, count=3).build(0)
    free = free_running(next_letter, batch)
    assert free[0, 5:11].tolist() == [28, 3, 4, 5, 6, 7]
    assert (free[:, :5] == NO_LABEL).all()


def test_rows_of_different_length_run_freely_each_from_its_own_separator():
    """Row by row, alone and unpadded, gives what the batch gives."""
    task = Copy(length=6, min_length=1, count=8)
    batch = task.build(2)
    free = free_running(next_letter, batch)
    for i in range(8):
        row = batch.tokens[i].tolist()
        n = row.index(1)
        said, token = [], 1
        for _ in range(n + 1):
            token = int(next_letter(torch.tensor([[token]]))[0, 0].argmax())
            said.append(token)
        assert free[i, n : 2 * n + 1].tolist() == said


def test_the_models_output_may_hold_its_logits():
    batch, model = knowing(TASKS[0])

    @dataclasses.dataclass
    class Output:
        logits: torch.Tensor

    assert measure(lambda t: Output(model(t)), batch)["string"] == 1.0


def test_loss_is_the_mean_over_labels():
    torch.manual_seed(0)
    batch = Copy(length=4, min_length=2, count=3).build(1)
    logits = torch.randn(3, batch.tokens.shape[1], 29)
    log_p = logits.double().log_softmax(-1)
    terms = [
        -log_p[i, j, batch.labels[i, j]].item()
        for i in range(3)
        for j in range(batch.tokens.shape[1])
        if batch.labels[i, j] >= 0
    ]
    assert float(masked_loss(logits, batch.labels)) == pytest.approx(sum(terms) / len(terms))
    assert masked_loss(logits.bfloat16(), batch.labels).dtype == torch.float32


def test_nothing_asked_is_no_number():
    batch = Copy(length=4).build()
    nothing = dataclasses.replace(batch, target=torch.full_like(batch.target, NO_TARGET))
    assert math.isnan(accuracy(batch.labels, nothing).character)


def test_what_is_measured_is_the_loss_and_both_accuracies():
    """Of a model that says the next letter: right where it is told so, by a count of its own."""
    batch = Copy(length=5, min_length=2, count=9).build(0)
    told = measure(next_letter, batch, freely=True)
    assert set(told) == {"loss", "char", "string", "char_free", "string_free"}
    asked = (batch.target != NO_TARGET).nonzero().tolist()
    right = [bool((batch.tokens[i, j] - 2) % 26 + 3 == batch.labels[i, j]) for i, j in asked]
    assert told["char"] == pytest.approx(sum(right) / len(right))
    free = accuracy(free_running(next_letter, batch), batch)
    assert (told["char_free"], told["string_free"]) == (free.character, free.string)
    assert told["loss"] == float(masked_loss(next_letter(batch.tokens), batch.labels))
    batch, model = knowing(TASKS[-1])
    told = measure(model, batch)
    assert (told["char"], told["string"]) == (1.0, 1.0)
    assert set(told) == {"loss", "char", "string"}


def test_an_entry_is_all_that_a_new_measure_takes(monkeypatch):
    """Asked of what is said with every earlier answer given, and running freely."""
    monkeypatch.setitem(metrics.MEASURES, "first", lambda said, batch: float(said[0, 3]))
    batch, model = knowing(Copy(length=3, count=2))
    told = measure(model, batch, freely=True)
    expected = float(batch.labels[0, 3])
    assert (told["first"], told["first_free"]) == (expected, expected)
    assert list(told) == [
        "loss",
        "char",
        "string",
        "first",
        "char_free",
        "string_free",
        "first_free",
    ]
