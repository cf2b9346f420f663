"""What counts as a separator, token by token, and in whole prompts."""

import pytest
import torch

from ssmlens.models.tokenizers import ByteTokenizer
from ssmlens.store.separators import is_separator, separators
from ssmlens.tasks.copy import Copy
from ssmlens.tasks.recall import Recall


@pytest.mark.parametrize(
    "string",
    [
        *(
            ".",
            ",",
            " ,",
            ":",
            "?!",
            "...",
            ' "',
            "(",
            ")]",
            "—",
            "-",
            "。",
            "|",
            " | ",
            ".\n",
            "*",
        ),
        *("\n", "\n\n", " \n", "\r\n", "\t\n  ", "\u2028"),
        *("<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<bos>", "<EOS>", "[CLS]", "[SEP]"),
        *("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<0a>", "<0d>"),
    ],
)
def test_separators(string):
    assert is_separator(string)


@pytest.mark.parametrize(
    "string",
    [
        *("", " ", "\t", "  ", "a", " the", "don't", "e.g", ".5", "x:", "7", "+", "<", "=", "$"),
        *("<0b>", "<e2>", "<17>", "<div>", "end", "begin", "<||>", "·pad", "<s", "[7]"),
    ],
)
def test_what_separates_nothing(string):
    assert not is_separator(string)


def test_a_prompt_of_text():
    strings = ["<s>", "To", " end", ",", " begin", ".", "\n", "7", "end"]
    wanted = [True, False, False, True, False, True, True, False, False]
    assert separators(strings).tolist() == wanted
    assert separators(strings, "ioi").tolist() == wanted
    assert not separators(strings, "repeat").any()
    assert separators([]).shape == (0,)


def test_bytes():
    strings = ByteTokenizer().token_strings(b"a, b\nend\xe2")
    assert [s for s, it in zip(strings, separators(strings), strict=True) if it] == [",", "<0a>"]


@pytest.mark.parametrize("layout", ["default", "jelassi"])
def test_the_marks_of_tasks_on_letters(layout):
    task = Copy(length=5, count=3, layout=layout, packing=False)
    names, ids = task.token_strings, task.alphabet
    assert names is not None
    for row in task.build(0).tokens:
        found = torch.from_numpy(separators([names[i] for i in row], "copy"))
        marks = [i for i in (ids.begin, ids.separator, ids.end) if i is not None]
        assert torch.equal(found, torch.isin(row, torch.tensor(marks)))
        assert int(found.sum()) == len(marks)


def test_recall_and_tokens_of_a_letter_model():
    task = Recall(length=3, count=1, letters=20)
    names = task.token_strings
    assert names is not None
    strings = [names[i] for i in task.build(0).tokens[0]]
    for kind in ("recall", "tokens"):
        assert [strings[i] for i in separators(strings, kind).nonzero()[0]] == ["|", "end"]


def test_tokens_without_text_have_none():
    assert not separators(["17", "3", "204"], "tokens").any()


def test_of_a_header_padding_is_none(sample):
    """Commas stand at 0, 3 and 6 of each prompt; the shortest has one token."""
    found = sample.header().separator()
    wanted = [[i in (0, 3, 6) and i < n for i in range(found.shape[1])] for n in sample.LENGTHS]
    assert found.tolist() == wanted
    assert not sample.header(token_strings=None).separator().any()
    assert not sample.header(prompt_kinds=["repeat"] * len(found)).separator().any()
