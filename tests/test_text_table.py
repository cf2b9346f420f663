"""The one table of text, column by column."""

import pytest

from ssmlens.text_table import text_table

ROWS = [["arm", "at 17", "why"], ["default", "0.5", ""], ["mimetic 3", "10.25", "a|b"]]


def test_the_first_column_stands_left_and_numbers_right():
    assert text_table(ROWS).splitlines() == [
        "arm          at 17    why",
        "default        0.5",
        "mimetic 3    10.25    a|b",
    ]


@pytest.mark.parametrize("left", [(-1,), (2,)])
def test_other_columns_can(left):
    lines = text_table(ROWS, left=left).splitlines()
    assert lines[1].index("0.5") == lines[2].index("10.25") + 2
    assert lines[1].startswith("  default")
    assert lines[2].index("a|b") == lines[0].index("why")


def test_markdown_has_its_rule_and_escapes_bars():
    header, rule, *rows = text_table(ROWS, form="markdown").splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ROWS[0]
    assert [cell.strip("-") for cell in rule.strip("|").split("|")] == [":", ":", ":"]
    assert rule.split("|")[1].startswith(":")
    assert rule.split("|")[2].endswith(":")
    assert r"a\|b" in rows[1]


def test_numbers_are_text_and_a_table_may_be_empty():
    assert text_table([["a"], ["1e5"], ["007"]]).split() == ["a", "1e5", "007"]
    assert text_table([["a", "b"]]).split() == ["a", "b"]
