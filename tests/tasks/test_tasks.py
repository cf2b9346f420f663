"""Rows, labels and targets of every task, checked by their meaning and against rows built letter by letter."""

import string as ascii_letters

import pytest
import torch

from ssmlens.errors import UsageError
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.draws import Draws
from ssmlens.tasks.duplicates import Duplicates
from ssmlens.tasks.ngram import Ngram
from ssmlens.tasks.recall import Recall
from ssmlens.tasks.repeat import Repeat
from ssmlens.tasks.rows import NO_LABEL, NO_TARGET
from ssmlens.tasks.sort import Sort
from ssmlens.tasks.stack import Stack
from ssmlens.tasks.task import tasks

NONE = -9  # neither a label nor a target

VARIANTS = [
    task
    for lengths in ({"length": 7}, {"length": 9, "min_length": 4}, {"length": 4, "count": 1})
    for task in (
        Copy(**lengths),
        Copy(**lengths, layout="jelassi", packing=False),
        Copy(**lengths, letters=1),
        Stack(**lengths),
        Stack(**lengths, layout="jelassi", packing=False),
        Sort(**lengths, letters=9),
        Sort(**lengths, layout="jelassi", packing=False),
        Recall(**lengths, letters=19),
        Repeat(**lengths),
        Ngram(**lengths),
        Ngram(**lengths, n=2, answer=2, letters=3),
        Ngram(**lengths, cue="prefix", letters=2),
        Ngram(**lengths, cue="prefix", layout="jelassi", packing=False, n=1),
    )
] + [
    Copy(length=1),
    Stack(length=1),
    Sort(length=1, letters=1),
    Recall(length=1, letters=2),
    Repeat(length=2),
]
PACKED = [
    Copy(length=20, min_length=5, layout="jelassi", count=5),
    Copy(length=3, packing=True, context=8, count=40),
    Stack(length=20, min_length=1, packing=True, context=50),
    Sort(length=20, min_length=5, layout="jelassi"),
    Ngram(length=30, min_length=5, cue="prefix", layout="jelassi"),
    Duplicates(length=30, min_length=12, packing=True, context=70),
    Recall(length=5, min_length=1, packing=True, context=61),
    Repeat(length=9, min_length=2, packing=True, context=40),
]


def row_of(task, batch, i):
    return tuple(part[i].tolist() for part in (batch.tokens, batch.labels, batch.target))


@pytest.mark.parametrize("task", VARIANTS + PACKED)
def test_what_stands_at_the_target_is_the_label_and_comes_next(task):
    batch = task.build(seed=3)
    assert batch.tokens.shape == (task.count, task.width)
    assert 0 <= batch.tokens.min() <= batch.tokens.max() < task.vocab_size
    rows, queries = (batch.target != NO_TARGET).nonzero(as_tuple=True)
    assert len(rows)
    target = batch.target[rows, queries]
    assert (target <= queries).all()
    assert torch.equal(batch.tokens[rows, target], batch.tokens[rows, queries + 1])
    rows, queries = (batch.labels != NO_LABEL).nonzero(as_tuple=True)
    assert torch.equal(batch.labels[rows, queries], batch.tokens[rows, queries + 1])


def expected(task, tokens):
    """(row, labels, targets) of a row of the task, from its string or pairs alone, in plain Python."""
    jelassi = getattr(task, "layout", "") == "jelassi"
    n = getattr(task, "letters", 0)
    separator, end, pad = (n + 1, n + 2, n + 3) if jelassi else (1, 2, 0)
    head = [n] if jelassi else []
    if isinstance(task, Ngram) and task.cue == "prefix":
        cue, rest = tokens[len(head) :][: task.n], tokens[len(head) + task.n + 1 :]
        string = rest[: rest.index(separator)]
        head = [*head, *cue, separator]
        row = [*head, *string, separator]
    else:
        string = tokens[len(head) :]
        string = string[: string.index(separator)]
        row = [*head, *string, separator]
    if isinstance(task, Ngram):
        if task.cue == "suffix":
            cue = tokens[len(row) :][: task.n]
            row += cue
        at = next(i for i in range(len(string)) if string[i : i + task.n] == cue)
        order = list(range(at + task.n, len(string)))[: task.answer or None]
    elif isinstance(task, Sort):
        order = sorted(range(len(string)), key=string.__getitem__)
    else:
        order = list(range(len(string)))[:: -1 if isinstance(task, Stack) else 1]
    labels, target = [NO_LABEL] * (len(row) - 1), [NO_TARGET] * (len(row) - 1)
    labels += [*(string[k] for k in order), end, NO_LABEL]
    target += [*(len(head) + k for k in order), NO_TARGET, NO_TARGET]
    row += [*(string[k] for k in order), end]
    fill = task.width - len(row)
    return (
        row + [pad] * fill,
        labels + [NO_LABEL] * fill,
        target + [NO_TARGET] * fill,
        len(string),
    )


@pytest.mark.parametrize("task", [t for t in VARIANTS if not isinstance(t, Recall | Repeat)])
def test_rows_of_letters_are_what_their_docstrings_say(task):
    for seed in range(5):
        batch = task.build(seed)
        for i in range(task.count):
            row, labels, target = row_of(task, batch, i)
            *wanted, length = expected(task, row)
            assert [row, labels, target] == wanted
            assert (task.min_length or task.length) <= length <= task.length
            if isinstance(task, Sort):
                assert len({*row}) >= length


def test_rows_of_repeat_are_what_its_docstring_says():
    task = Repeat(length=6, min_length=2, vocab_size=9, first_token=4, count=300)
    tokens, labels, target = _parts(task.build(1))
    lengths = set()
    for row in range(task.count):
        asked = (target[row] != NO_TARGET).nonzero().flatten().tolist()
        n = asked[-1] - asked[0] + 2  # all of the repetition but its first token
        lengths.add(n)
        once = tokens[row, :n].tolist()
        assert tokens[row, : 2 * n].tolist() == once * 2
        wanted = [NO_LABEL] * n + once[1:] + [NO_LABEL] * (task.width - 2 * n + 1)
        assert labels[row].tolist() == wanted
        wanted = [NO_TARGET] * n + [*range(1, n)] + [NO_TARGET] * (task.width - 2 * n + 1)
        assert target[row].tolist() == wanted
    assert lengths == {2, 3, 4, 5, 6}
    drawn = torch.bincount(tokens[:, :2].flatten(), minlength=9)
    assert drawn[:4].tolist() == [0] * 4
    assert (drawn[4:] - 120).abs().max() < 50
    assert len(drawn) == 9


@pytest.mark.parametrize("cue", ["suffix", "prefix"])
@pytest.mark.parametrize("layout", ["default", "jelassi"])
@pytest.mark.parametrize("answer", [0, 1, 3])
def test_rows_of_ngram_are_as_long_as_it_says(cue, layout, answer):
    """With every letter its own, all places with room for the answer are drawn alike, both ends among them."""
    options = {"letters": 200_000, "layout": layout, "packing": False, "count": 600}
    task = Ngram(length=9, n=3, answer=answer, cue=cue, **options)
    examples = task.examples(Draws(2), torch.full((600,), 9))
    places = 9 - 3 - max(answer, 1) + 1
    marks = 2 + (cue == "prefix") + (layout == "jelassi")
    answers = examples.length - 9 - 3 - marks
    if answer:
        assert answers.tolist() == [answer] * 600
        target = examples.batch.target
        answers = torch.where(target < 0, 99, target).amin(1)  # where it stands, so where g does
    counts = torch.bincount(answers - answers.min())
    assert len(counts) == places
    assert (counts - 600 / places).abs().max() < 5 * (600 / places) ** 0.5
    assert task.row_tokens(9) == int(examples.length.max()) == task.width
    assert task.least_row_tokens(9) == int(examples.length.min())


def test_lengths_are_uniform_with_both_ends():
    batch = Copy(length=8, min_length=5, count=4000).build(1)
    lengths = (batch.tokens == 1).int().argmax(1)
    counts = torch.bincount(lengths, minlength=9)
    assert counts[:5].sum() == 0
    assert (counts[5:] - 1000).abs().max() < 150


def test_letters_are_uniform_and_every_one_is_drawn():
    tokens = Copy(length=50, count=1000, letters=5).build(2).tokens[:, :50]
    assert (torch.bincount(tokens.flatten())[3:] - 10_000).abs().max() < 500


def test_recall_rows():
    task = Recall(length=5, min_length=1, letters=19, count=40)
    batch = task.build(4)
    seen = set()
    for i in range(task.count):
        row, labels, target = row_of(task, batch, i)
        n = row.index(1) // 2
        seen.add(n)
        pairs = dict(zip(row[: 2 * n : 2], row[1 : 2 * n : 2], strict=True))
        assert len(pairs) == n
        assert all(3 <= key < 3 + 9 for key in pairs)
        assert all(3 + 9 <= value < 3 + 19 for value in pairs.values())
        asked = row[2 * n + 1 : 4 * n + 1 : 2]
        assert sorted(asked) == sorted(pairs)
        assert row[4 * n + 1 :] == [2] + [0] * (task.width - 4 * n - 2)
        for column in range(task.width):
            query = 2 * n < column < 4 * n + 1 and column % 2
            assert labels[column] == (pairs[row[column]] if query else NO_LABEL)
            where = row.index(row[column]) + 1 if query else NO_TARGET
            assert target[column] == where
    assert seen == {1, 2, 3, 4, 5}


def test_recall_in_zoologys_layout():
    task = Recall(length=4, letters=300, layout="zoology", context=32, count=3000)
    batch = task.build(1)
    keys, values = batch.tokens[:, :8:2], batch.tokens[:, 1:8:2]
    assert (keys.min(), keys.max()) == (1, 149), "every key is drawn"
    assert (values.min(), values.max()) == (150, 299)
    assert all(len({*row}) == 4 for row in keys.tolist() + values.tolist())
    rows, queries = (batch.labels != NO_LABEL).nonzero(as_tuple=True)
    assert torch.equal(torch.bincount(rows), torch.full((3000,), 4))
    assert (queries % 2 == 0).all()
    assert (queries >= 8).all()
    target = batch.target[rows, queries]
    assert torch.equal(batch.tokens[rows, target - 1], batch.tokens[rows, queries])
    assert torch.equal(batch.tokens[rows, target], batch.labels[rows, queries])
    assert torch.equal(batch.target == NO_TARGET, batch.labels == NO_LABEL)
    assert not batch.fed_back
    # Each row's first pair is a draw with probability ∝ gap^(power - 1).
    gap = (queries.view(3000, 4)[torch.arange(3000), target.view(3000, 4).argmin(1)] - 8) // 2
    counts = torch.bincount(gap, minlength=12).double()
    assert counts[0] > counts[1] > counts[4] > counts[11] > 0


@pytest.mark.parametrize("gaps", [10, 11])
def test_one_pair_in_zoologys_layout_has_the_power_law_of_gaps(gaps):
    context = 2 + 2 * gaps
    task = Recall(length=1, letters=300, layout="zoology", context=context, count=20_000, power=0.2)
    _, queries = (task.build(1).labels != NO_LABEL).nonzero(as_tuple=True)
    counts = torch.bincount((queries - 2) // 2, minlength=gaps).double()
    gap = torch.arange(1, gaps + 1).double()
    wanted = gap**-0.8 / (gap**-0.8).sum()
    assert (counts / 20_000 - wanted).abs().max() < 0.012


@pytest.mark.parametrize("task", PACKED)
def test_packed_rows_are_examples_end_to_end_and_the_last_is_cut_off(task):
    """Every example is one that the task makes alone; what is cut off asks nothing."""
    batch = task.build(7)
    draws = Draws(7)
    least, shortest = task.least_row_tokens, task.min_length or task.length
    share = -(-task.context // least(shortest))
    drawn = shortest + draws.integers(task.length - shortest + 1, (task.count, share))
    share = max(
        sum(sum(map(least, row[:k])) < task.context for k in range(share)) for row in drawn.tolist()
    )
    alone = task.examples(draws, drawn[:, :share].flatten())
    for i in range(task.count):
        row, labels, target = [], [], []
        for k in range(i * share, (i + 1) * share):
            size = int(alone.length[k])
            start, fits = len(row), len(row) + size <= task.context
            parts = (part[k, :size].tolist() for part in _parts(alone.batch))
            tokens, asked, places = parts
            row += tokens
            labels += asked if fits else [NO_LABEL] * size
            target += [p + start if fits and p >= 0 else NO_TARGET for p in places]
        assert len(row) >= task.context
        wanted = (row[: task.context], labels[: task.context], target[: task.context])
        assert row_of(task, batch, i) == wanted


def _parts(batch):
    return batch.tokens, batch.labels, batch.target


def test_packing_long_and_short_strings_takes_little_memory():
    """Space for as many rows as begin, not for as many of the longest as there could be of the shortest."""
    task = Copy(length=2000, min_length=1, packing=True, context=4100, count=4)
    sizes = []
    draw = Draws.integers

    def watched(self, beyond, shape):
        sizes.append(torch.Size(shape).numel())
        return draw(self, beyond, shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draws, "integers", watched)
        batch = task.build(0)
    assert max(sizes) < 4 * 60 * 2000
    assert batch.tokens.shape == (4, 4100)
    assert batch.tokens.min() >= 1


def test_the_jelassi_layout_is_that_pipelines():
    """Ids and packing of its tokenizer: letters, then $ | . *; 220 tokens a row."""
    task = Copy(length=20, min_length=5, layout="jelassi", count=3)
    batch = task.build(0)
    assert (task.width, task.vocab_size) == (220, 30)
    assert (batch.tokens[:, 0] == 26).all()
    assert (batch.tokens != 29).all()
    text = "".join("abcdefghijklmnopqrstuvwxyz$|.*"[i] for i in batch.tokens[0].tolist())
    whole = text.split("$")[1:-1]
    for example in whole:
        string, copy = example.split("|")
        assert copy == string + "."
        assert 5 <= len(string) <= 20
    loss = (batch.labels[0] != NO_LABEL).sum()
    last = text.split("$")[-1]
    complete = last.endswith(".")
    assert loss == sum(len(e) // 2 for e in whole) + (len(last) // 2 if complete else 0)


def test_tokens_are_called_by_their_letters():
    names = list(ascii_letters.ascii_lowercase + ascii_letters.ascii_uppercase)
    assert Copy(letters=52).token_strings == ["·pad", "|", "end", *names]
    assert Copy(letters=3, layout="jelassi").token_strings == [
        *"abc",
        "begin",
        "|",
        "end",
        "·pad",
    ]
    assert Recall(letters=52).token_strings == ["·pad", "|", "end", *names]
    assert Recall(letters=52, layout="zoology").token_strings is None
    many = Copy(letters=562).token_strings
    assert len(set(many)) == 565
    assert all(name.isalpha() and len(name) == 1 for name in many[3:])
    assert Copy(letters=563).token_strings is None
    for task in (Copy(letters=7), Copy(letters=7, layout="jelassi"), Recall(letters=32)):
        assert len(task.token_strings) == task.vocab_size


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    a, b, c = (Copy().build(seed).tokens for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(Copy().build(0).tokens, Copy().build(2**32).tokens)


def test_at_length_is_that_length_unpacked():
    task = Copy(length=20, min_length=5, layout="jelassi", count=2).at_length(33)
    assert task.width == 2 * 33 + 3
    assert ((task.build(0).labels != NO_LABEL).sum(1) == 34).all()


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        (Copy, {"length": 0}, "the copy task needs `length` of at least 1, not 0"),
        (Copy, {"count": 0}, "`count` of at least 1, not 0"),
        (Copy, {"min_length": 0}, r"`min_length` in 1..40 \(`length`\), not 0"),
        (Copy, {"min_length": 41}, "`min_length` in 1..40"),
        (Copy, {"letters": 0}, "`letters` of at least 1, not 0"),
        (Copy, {"layout": "jelasi"}, "`layout` among .*'jelassi'.*, not 'jelasi'"),
        (Copy, {"length": 110, "layout": "jelassi"}, "`context` of at least 223, .*, not 220"),
        (Stack, {"length": -1}, "the stack task needs `length`"),
        (Sort, {"length": 50, "letters": 49}, "the sort task needs `letters` of at least 50"),
        (Repeat, {"length": 1}, "`length` of at least 2"),
        (Repeat, {"vocab_size": 1}, "`vocab_size` of at least 2"),
        (Repeat, {"first_token": -1}, "`first_token` of at least 0"),
        (Ngram, {"n": 0}, "`n` of at least 1"),
        (Ngram, {"answer": -1}, "`answer` of at least 0"),
        (Ngram, {"cue": "infix"}, "`cue` among"),
        (Ngram, {"length": 3}, "the ngram task needs `length` of at least 4, .*, not 3"),
        (Ngram, {"min_length": 3}, "`min_length` of at least 4"),
        (Ngram, {"length": 4, "answer": 2}, "`length` of at least 5"),
        (Recall, {"letters": 31}, "the recall task needs `letters` of at least 32"),
        (Recall, {"layout": "jelassi"}, "`layout` among .*'zoology'"),
        (Recall, {"layout": "zoology", "letters": 33}, "`letters` of at least 34"),
        (Recall, {"layout": "zoology", "context": 63}, "`context` even and of at least 64"),
        (Recall, {"layout": "zoology", "context": 62}, "`context` even and of at least 64"),
        (Recall, {"layout": "zoology", "min_length": 2}, "`min_length` left out"),
        (Recall, {"layout": "zoology", "packing": True}, "`packing` left out"),
    ],
)
def test_impossible_options_are_refused(task, options, told):
    with pytest.raises(UsageError, match=told) as caught:
        task(**options)
    assert "\n" not in str(caught.value)


def test_tasks_are_found_by_name():
    assert set(tasks) == {
        "bytes",
        "copy",
        "duplicates",
        "ngram",
        "recall",
        "repeat",
        "sort",
        "stack",
    }
    with pytest.raises(UsageError, match="did you mean 'copy'"):
        tasks["coppy"]


@pytest.mark.gpu
@pytest.mark.parametrize("task", VARIANTS + PACKED)
def test_a_gpu_makes_the_same_rows(task):
    there, here = task.build(5, "cuda"), task.build(5)
    for a, b in zip(_parts(there), _parts(here), strict=True):
        assert a.device.type == "cuda"
        assert torch.equal(a.cpu(), b)
