"""What a browser is sent: applied to what it had, it is what the view drew."""

import copy

import plotly.graph_objects as go
import pytest
from dash import Patch, no_update
from ssmlens_dashboard.changes import changes


def figure(**layout):
    return {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {"height": 30, **layout}}


def applied(had, sent):
    """As Dash's JavaScript does."""
    if sent is no_update:
        return had
    if not isinstance(sent, Patch):
        return sent
    got = copy.deepcopy(had)
    for step in sent.to_plotly_json()["operations"]:
        *path, last = step["location"]
        place = got
        for key in path:
            place = place[key]
        if step["operation"] == "Delete":
            del place[last]
        else:
            assert step["operation"] == "Assign"
            place[last] = step["params"]["value"]
    return got


@pytest.mark.parametrize(
    "after",
    [
        [figure(), "one"],
        [figure(shapes=[{"y0": 1}]), "two"],
        [figure(title="t", height=9), ["a", {"b": None}]],
        [{"data": [], "layout": {}}, None],
    ],
)
@pytest.mark.parametrize("before", [[figure(), "one"], [figure(shapes=[], images=[1]), 4]])
def test_the_browser_ends_with_what_was_drawn(before, after):
    had, told = changes(before, None)
    assert had == before
    sent, now = changes(after, told)
    assert [applied(one, other) for one, other in zip(had, sent, strict=True)] == after
    assert now == changes(after, None)[1]


def test_what_is_the_same_is_not_sent_and_of_a_figure_only_the_parts_that_changed():
    _, told = changes([figure(images=["x" * 999]), "same"], None)
    sent, told = changes([figure(images=["x" * 999], shapes=[1]), "same"], told)
    assert sent[1] is no_update
    (step,) = sent[0].to_plotly_json()["operations"]
    assert step["location"] == ["layout", "shapes"]
    assert changes([figure(images=["x" * 999], shapes=[1]), "same"], told)[0] == [no_update] * 2


def test_what_a_view_leaves_as_it_is_stays_known():
    _, told = changes([figure(), "a"], None)
    sent, now = changes([no_update, "b"], told)
    assert sent == [no_update, "b"]
    assert changes([figure(), "b"], now)[0] == [no_update, no_update]


def test_checked_figures_are_told_apart_too():
    _, told = changes([go.Figure(figure())], None)
    assert changes([go.Figure(figure())], told)[0] == [no_update]
    assert isinstance(changes([go.Figure(figure(width=70))], told)[0][0], Patch)


@pytest.mark.parametrize(
    "told", ["x", [], [1, 2, 3], {"0": "a"}, [None], [7], [{"": 3, "layout": []}]]
)
def test_whatever_a_browser_says_it_was_told_it_gets_an_answer(told):
    (sent,), _ = changes([figure()], told)
    assert applied(figure(), sent) == figure() or isinstance(sent, Patch)
