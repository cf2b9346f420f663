"""Panels of one figure: every map in its own place, all on the same tokens, text only ever text."""

import numpy as np
import plotly.graph_objects as go

from ssmlens.plot.side_by_side import MOST_LABELS, Panel, side_by_side
from ssmlens.plot.theme import DARK
from ssmlens.plot.tiles import tile, tile_spec


def joined(rows, **options):
    """The figure as plotly takes it: it refuses what it does not know."""
    return go.Figure(side_by_side(rows, **options))


def panel(title, tokens, queries=None, word="w"):
    queries = queries or (0, tokens)
    values = np.tril(np.ones((tokens, tokens)))[slice(*queries), :][:, slice(*queries)]
    words = [f"{word}{i}" for i in range(tokens)]
    return Panel(title, tile_spec(tile(values, queries, queries, "peak"), words))


def test_panels_share_their_tokens_and_keep_their_places():
    figure = joined(
        [[panel("one", 9), panel("two", 5), None], [None, Panel("three", None, "not here")]]
    )
    layout = figure.layout
    assert layout.xaxis2.matches == "x"
    assert layout.yaxis2.matches == "y"
    for axis in (layout.xaxis, layout.xaxis2):
        assert tuple(axis.range) == (-0.5, 8.5)
    for axis in (layout.yaxis, layout.yaxis2):
        assert tuple(axis.range) == (8.5, -0.5)
    assert [(image.xref, image.yref, image.sizex) for image in layout.images] == [
        ("x", "y", 9),
        ("x2", "y2", 5),
    ]
    assert [trace.xaxis for trace in figure.data] == ["x", "x2"]
    (left, end), (start, right) = layout.xaxis.domain, layout.xaxis2.domain
    assert 0 <= left < end < start < right <= 1
    texts = [note.text for note in layout.annotations]
    assert texts == ["<b>one</b>", "<b>two</b>", "<b>three</b>", "not here"]


def test_rows_do_not_overlap():
    maps = [panel(name, 7) for name in "abcd"]
    figure = joined([maps[:2], maps[2:]], side=100)
    upper, lower = figure.layout.yaxis.domain, figure.layout.yaxis3.domain
    assert 0 < lower[0] < lower[1] < upper[0] < upper[1] < 1
    pixels = figure.layout.height * (upper[1] - upper[0])
    assert abs(pixels - 100) < 1e-6
    across, margin = figure.layout.xaxis.domain, figure.layout.margin
    pixels = (figure.layout.width - margin.l - margin.r) * (across[1] - across[0])
    assert abs(pixels - 100) < 1, "square"


def test_labels_are_thinned_and_stand_once_where_they_are_the_same():
    figure = joined([[panel("a", 100), panel("b", 100)]], same_queries=True)
    assert figure.layout.yaxis.showticklabels
    assert not figure.layout.yaxis2.showticklabels
    assert figure.layout.xaxis2.showticklabels
    assert 10 < len(figure.layout.xaxis.tickvals) <= MOST_LABELS
    assert len(figure.layout.xaxis.tickvals) == len(figure.layout.xaxis.ticktext)


def test_text_is_only_text():
    figure = joined([[panel("<a href='x'>", 3, word="<b>"), Panel("<i>", None, "<u>")]], theme=DARK)
    assert [note.text for note in figure.layout.annotations] == [
        "<b>&lt;a href='x'&gt;</b>",
        "<b>&lt;i&gt;</b>",
        "&lt;u&gt;",
    ]
    assert "<b>" not in "".join(figure.layout.xaxis.ticktext)


def test_nothing_to_draw_at_all():
    figure = joined([[Panel("a", None, "gone"), None]])
    assert [note.text for note in figure.layout.annotations] == ["<b>a</b>", "gone"]
