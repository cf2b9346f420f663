"""A figure as the bytes of a file."""

import builtins

import plotly.graph_objects as go
import pytest

from ssmlens.errors import UsageError
from ssmlens.plot.image import FIGURE_FILES, figure_file


@pytest.fixture
def figure():
    return go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), {"width": 310, "height": 200})


def test_images_are_as_large_as_the_figure(figure):
    assert b'width="310" height="200"' in figure_file(figure, ".svg")
    png = figure_file(figure, ".png")
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (620, 400), "two pixels to each"


def test_a_page_needs_neither_exporter_nor_network(figure, monkeypatch):
    there = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("kaleido"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for form in FIGURE_FILES:
        if form == ".html":
            page = figure_file(figure, form)
            assert page.startswith(b"<!doctype html>")
            assert b"<script src=" not in page
        else:
            with pytest.raises(UsageError, match=rf"\{form} needs kaleido: pip install"):
                figure_file(figure, form)
