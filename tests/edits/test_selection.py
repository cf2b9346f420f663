"""Which numbers of an axis people mean."""

import pytest
import torch

from ssmlens.edits.selection import Selection
from ssmlens.errors import UsageError


def chosen(selection, length=6):
    return Selection.of(selection).mask(length, "token").nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (3, [3]),
        (-1, [5]),
        ("3", [3]),
        (" 1 , -2", [1, 4]),
        ("1:3", [1, 2]),
        (":2", [0, 1]),
        ("-2:", [4, 5]),
        (":", [0, 1, 2, 3, 4, 5]),
        ("0:2,5,4:", [0, 1, 4, 5]),
        ([0, 5], [0, 5]),
        (range(1, 4), [1, 2, 3]),
        (slice(2, None), [2, 3, 4, 5]),
        (slice(-3, -1), [3, 4]),
        (torch.tensor([1, 3]), [1, 3]),
        (torch.tensor([True, False, False, True, False, False]), [0, 3]),
        (4.0, [4]),
    ],
)
def test_what_is_selected(given, wanted):
    assert chosen(given) == wanted
    assert chosen(str(Selection.of(given))) == wanted


def test_none_selects_all_and_a_selection_stays():
    assert Selection.of(None) is None
    some = Selection.of("1:3")
    assert Selection.of(some) is some
    assert str(some) == "1:3"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a",
        "1:2:3",
        "1.5",
        "5:3",
        "3:3",
        "-1:-3",
        [],
        [1.5],
        True,
        slice(0, 4, 2),
        object(),
        torch.zeros(3, dtype=torch.bool),
    ],
)
def test_what_selects_nothing_is_refused(given):
    with pytest.raises(UsageError, match="selects nothing: write 3"):
        Selection.of(given)


@pytest.mark.parametrize("given", [6, -7, "0:7", "-7:", [0, 9]])
def test_what_is_not_on_the_axis_is_refused_by_its_name(given):
    with pytest.raises(UsageError, match=r"^token .* is out of range: there are 6$"):
        chosen(given)


@pytest.mark.parametrize(
    ("given", "end", "wanted"),
    [
        ("-2:", 4, [2, 3, 4, 5]),
        (-1, 4, [3]),
        ("-9:2", 4, [0, 1]),
        ("4:99,77", 6, [4, 5]),
        (-5, 4, []),
        (":-3", 2, []),
    ],
)
def test_what_is_there_of_a_selection(given, end, wanted):
    mask = Selection.of(given).clipped(6, end)
    assert mask.nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize(
    ("given", "back"), [(3, False), ("1:", False), (":-1", True), ("2,-4", True)]
)
def test_whether_a_number_counts_back(given, back):
    assert Selection.of(given).counts_back == back
