import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmlens.plot.labels import block_labels, literal, token_labels, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("a", "a"),
        (" the", "·the"),
        ("\n", "↵"),
        ("\t", "⇥"),
        ("", ""),
        ("\x00", "\\u0000"),
        ("\u202eevil", "\\u202eevil"),  # would reorder the label
        ("\u200b", "\\u200b"),  # would be invisible
        ("x" * 30, "x" * 23 + "…"),
    ],
)
def test_every_character_of_a_token_can_be_seen(token, shown):
    assert visible(token) == shown


def test_equal_tokens_have_different_labels():
    assert token_labels(["a", "a", " "], first=8) == ["8 a", "9 a", "10 ·"]


def test_a_label_is_never_markup():
    label = token_labels(["<b>x</b>&lt;"])[0]
    assert "<" not in label
    assert html.unescape(label) == "0 <b>x</b>&lt;"


@given(st.text())
def test_literal_keeps_the_text_and_leaves_no_tag(text):
    assert html.unescape(literal(text)) == html.unescape(html.escape(text))
    assert not {"<", ">"} & set(literal(text))


def test_blocks_are_named_by_their_positions_and_text():
    labels = block_labels(["The", " cat", " sat", " on", " it"], 2)
    assert labels == ["0–1 The·cat", "2–3 ·sat·on", "4–4 ·it"]
    assert block_labels(["a", "b"], 1) == token_labels(["a", "b"])


@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 9))
def test_there_is_one_label_a_block_and_all_differ(tokens, block):
    labels = block_labels(tokens, block)
    assert len(labels) == -(-len(tokens) // block)
    assert len(set(labels)) == len(labels)
