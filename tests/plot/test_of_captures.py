"""`ssmlens.plot.scores` and `.closure`, against the scores and errors themselves."""

import numpy as np
import pytest
import xarray as xr

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.scores import compute, rank_layers


@pytest.fixture(scope="module")
def capture(make_capture):
    return make_capture()


def table(figure):
    """The numbers written in the cells, by score."""
    trace = figure.data[0]
    return {name: list(row) for name, row in zip(trace.y, trace.text, strict=True)}


def test_scores_of_a_capture_of_their_dataset_and_of_a_ranking(capture):
    scores = compute(capture)
    figure = ssmlens.plot.scores(capture)
    assert table(figure) == table(ssmlens.plot.scores(scores))
    assert list(figure.data[0].x) == ["0", "1", "2", "3"]
    mean = scores["copy_score"].mean("prompt").values
    assert table(figure)["copy_score"][1] == f"{mean[1]:.3g}"
    ranking = rank_layers(capture)
    of_ranking = ssmlens.plot.scores(ranking, title="mine", theme="dark")
    assert list(of_ranking.data[0].x) == ["0", "1", "2", "3"], "by depth, not by rank"
    assert table(of_ranking)["copy_score"] == table(figure)["copy_score"]
    assert of_ranking.layout.title.text == "mine"


def test_closure(capture):
    figure = ssmlens.plot.closure(capture)
    (closure, *_) = figure.data
    assert closure.name == "closure_error"
    assert list(closure.x) == [0, 1, 2, 3]
    assert list(closure.marker.symbol) == ["circle", "circle", "x", "circle"], "layer 2 is NaN"


def test_nothing_to_draw():
    empty = xr.Dataset(
        {"copy_score": (("layer", "prompt"), np.full((2, 1), np.nan))},
        {"layer": [0, 1], "score": ["copy_score"]},
    )
    with pytest.raises(UsageError, match="no layer has a score"):
        ssmlens.plot.scores(empty)
