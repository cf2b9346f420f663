"""Which token of its prompt every token of a call is."""

import pytest
import torch

from ssmlens.edits.positions import Positions
from ssmlens.edits.selection import Selection
from ssmlens.errors import UsageError

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])


def rows(mask):
    return [row.nonzero().flatten().tolist() for row in mask]


def test_without_a_mask_all_tokens_are_real():
    positions = Positions.of(2, 3)
    assert positions.here.tolist() == [[0, 1, 2]] * 2
    assert positions.real.all()
    assert positions.longest == 3


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float])
def test_tokens_count_from_the_first_real_one(dtype):
    positions = Positions.of(3, 5, LEFT.to(dtype))
    assert positions.here.tolist() == [[-2, -1, 0, 1, 2], [0, 1, 2, 3, 4], [-4, -3, -2, -1, 0]]
    assert torch.equal(positions.real, LEFT.bool())
    assert rows(positions.chosen(Selection.of("1:"))) == [[3, 4], [1, 2, 3, 4], []]
    assert rows(positions.chosen(Selection.of("-1,0"))) == [[2, 4], [0, 4], [4]]
    assert torch.equal(positions.chosen(None), LEFT.bool())


def test_padding_on_the_right_is_not_real():
    positions = Positions.of(3, 5, LEFT.flip(1))
    assert positions.here.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert torch.equal(positions.real, LEFT.flip(1).bool())
    assert rows(positions.chosen(Selection.of("-1"))) == [[2], [4], [0]]


def test_a_prompt_without_real_tokens_and_a_batch_without_prompts():
    positions = Positions.of(2, 3, torch.tensor([[0, 0, 0], [0, 1, 1]]))
    assert rows(positions.real) == [[], [1, 2]]
    assert list(positions.groups()) == [([1], 1, 3)]
    none = Positions.of(0, 3)
    assert none.longest == 0
    assert none.chosen(Selection.of("0")).shape == (0, 3)
    assert list(none.groups()) == []


def test_a_cached_step_goes_on_where_the_prefill_ended():
    mask = torch.cat([LEFT, torch.ones(3, 1, dtype=torch.long)], dim=1)
    prefill = torch.tensor([3, 5, 1])
    step = Positions.of(3, 1, mask, prefill=prefill)
    assert step.here.tolist() == [[3], [5], [1]]
    assert step.chosen(Selection.of("3:")).tolist() == [[True], [True], [False]]
    assert not step.chosen(Selection.of("-1")).any()  # counts back from the end of the prefill
    assert Positions.of(1, 1, before=4).here.tolist() == [[4]]


def test_prompts_that_begin_together_are_grouped():
    positions = Positions.of(3, 5, LEFT)
    assert list(positions.groups()) == [([1], 0, 5), ([0], 2, 5), ([2], 4, 5)]
    right = Positions.of(3, 5, LEFT.flip(1))
    assert list(right.groups()) == [([0, 1, 2], 0, 5)]
    assert list(right.groups(by_length=True)) == [([2], 0, 1), ([0], 0, 3), ([1], 0, 5)]


def test_a_selection_past_the_longest_prompt_is_refused():
    positions = Positions.of(3, 5, LEFT)
    positions.check(Selection.of("-5:,4"), "token")
    with pytest.raises(UsageError, match=r"^query 5 is past the prompt, which has 5 tokens$"):
        positions.check(Selection.of(5), "query")
