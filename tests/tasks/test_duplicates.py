"""Strings with n-grams that stand twice, read letter by letter in plain Python."""

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.duplicates import Duplicates, other_continuation
from ssmlens.tasks.metrics import accuracy
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET

TASKS = [
    Duplicates(length=12, count=30),
    Duplicates(length=50, count=9),
    Duplicates(length=51, min_length=13, count=60),
    Duplicates(length=41, n=3, letters=2, count=20),
    Duplicates(length=8, n=2, count=1),
    Duplicates(length=30, n=8, count=20),
    Duplicates(length=26, layout="jelassi", packing=False, count=5),
]


def strings(task, batch):
    """Each row's string, the column it begins at, and its separator's."""
    first = 1 if task.layout == "jelassi" else 0
    for row in batch.tokens.tolist():
        end = row.index(task.alphabet.separator)
        yield row[first:end], first, end


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_rows_are_those_of_copying(task):
    batch = task.build(5)
    for i, (string, first, end) in enumerate(strings(task, batch)):
        row, labels = batch.tokens[i].tolist(), batch.labels[i].tolist()
        n = len(string)
        assert (task.min_length or task.length) <= n <= task.length
        assert row[end + 1 : end + n + 2] == [*string, task.alphabet.end]
        assert labels[end : end + n + 1] == [*string, task.alphabet.end]
        assert set(labels[:end] + labels[end + n + 1 :]) <= {NO_LABEL}
        assert first in (0, 1)
    low, high = task.alphabet.first_letter, task.alphabet.first_letter + task.letters
    assert all(low <= letter < high for string, *_ in strings(task, batch) for letter in string)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_what_is_asked_follows_an_ngram_that_stands_twice(task):
    batch, n = task.build(7), task.n
    turned = other_continuation(batch, n)
    for i, (string, first, end) in enumerate(strings(task, batch)):
        asked = (batch.target[i] != NO_TARGET).nonzero().flatten().tolist()
        assert len(asked) == len(string) // (n + 2) // 2 * 2
        places = [int(batch.target[i, at]) - first for at in asked]
        assert places == [at - end for at in asked], "the k-th letter of the answer is the k-th"
        for at, k in zip(asked, places, strict=True):
            assert int(batch.labels[i, at]) == string[k]
            there = int(turned.target[i, at]) - first
            assert there != k
            assert string[there - n : there] == string[k - n : k]
            assert int(turned.labels[i, at]) == string[there]
            if task.letters > 2:  # of two letters many n-grams stand more often
                assert there in places
                assert string[there] != string[k]
                assert string[there - n - 1] != string[k - n - 1]


def test_content_is_right_half_of_the_time_and_position_always():
    """Two ideal copiers: one looks up the last four letters, one knows where it is."""
    task = Duplicates(length=100, count=200)
    batch = task.build(1)
    by_place = torch.full_like(batch.tokens, NO_LABEL)
    by_content = by_place.clone()
    for i, (string, _, end) in enumerate(strings(task, batch)):
        for k in range(len(string)):
            by_place[i, end + k] = string[k]
            gram = string[max(k - 4, 0) : k]
            at = next(j for j in range(len(string)) if string[max(j - 4, 0) : j] == gram)
            by_content[i, end + k] = string[at]
    turned = other_continuation(batch, 4)
    assert accuracy(by_place, batch).character == 1
    assert accuracy(by_place, turned).character == 0
    assert accuracy(by_content, batch).character == pytest.approx(0.5, abs=0.01)
    assert accuracy(by_content, turned).character == pytest.approx(0.5, abs=0.01)
    plain = Copy(length=100, count=200).build(1)
    assert (plain.target != NO_TARGET).sum() > 4 * (batch.target != NO_TARGET).sum()


def test_pairs_and_letters_are_uniform():
    task = Duplicates(length=24, count=6000)  # four blocks, each paired with each
    batch = task.build(3)
    turned = other_continuation(batch, task.n)
    partner = turned.target[:, 24 + 5] // 6  # of the first block
    counts = torch.bincount(partner, minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 2000).abs().max() < 200
    letters = torch.bincount(batch.tokens[:, :24].flatten(), minlength=29)[3:]
    assert (letters / letters.sum() - 1 / 26).abs().max() < 0.003


def test_the_same_seed_gives_the_same_rows():
    a, b, c = (Duplicates(length=20).build(seed).tokens for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": 11}, "the duplicates task needs `length` of at least 12, two n-grams, not 11"),
        ({"length": 20, "min_length": 11}, "`min_length` of at least 12"),
        ({"n": 0}, "`n` of at least 1, not 0"),
        ({"letters": 1}, "`letters` of at least 2, not 1"),
        ({"length": 50, "n": 24}, "`length` of at least 52"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises(UsageError, match=told):
        Duplicates(**options)
