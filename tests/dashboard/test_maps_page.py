import numpy as np
import plotly.graph_objects as go
import pytest
from oracles import maps_by_definition
from ssmlens_dashboard.address import Address
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import maps as page
from ssmlens_dashboard.scene import resolve

from ssmlens.plot import matrix


@pytest.fixture
def at(copying, scene_at):
    return lambda search="": scene_at(copying, search)


@pytest.fixture(scope="module")
def exact(copying):
    """Every head's M and the mask of layer 3, prompt 0, from the stored operands by definition."""
    import ssmlens

    with ssmlens.open_capture(copying) as capture:
        layer = capture.layer(3)
        return maps_by_definition(*(layer.read(n, 0) for n in ("delta", "A", "B", "C")))


def test_windows_are_the_matrix_of_the_definition(at, exact):
    whole, mask = exact
    views = {"view=map": whole.mean(0), "view=mask": mask, "view=channel&channel=5": whole[5]}
    for search, expected in views.items():
        what = at(f"layer=3&{search}").selection
        found = matrix.window(what, (7, 20), (2, 11))
        assert np.allclose(found, expected[7:20, 2:11], atol=2e-6 * np.abs(expected).max())


def test_the_row_is_the_querys_and_ends_at_it(at, exact):
    row = page.row(at("layer=3&query=20"))
    assert len(row["values"]) == 21
    assert np.allclose(row["values"], exact[0].mean(0)[20, :21], rtol=1e-3, atol=1e-6)
    assert page.row(at("layer=3"))["query"] == len(at().tokens) - 1


def test_colours_do_not_change_with_the_zoom(at):
    for scale in ("linear", "symlog"):
        whole, part = (
            matrix.colour_limit(scene.selection, scale)
            for scene in (at("layer=3"), at("layer=3&zoom=3-9,0-5"))
        )
        assert whole == part


def test_figures_of_every_view_and_scale(at):
    for search in (
        "",
        "view=mask",
        "view=channel&channel=3",
        "scale=rank",
        "scale=symlog",
        "zoom=4-9,0-9",
    ):
        figure = go.Figure(page.map_figure(at(f"layer=3&{search}")))
        assert figure.layout.images[0].source.startswith("data:image/png;base64,")
    assert tuple(figure.layout.yaxis.range) == (8.5, 3.5)


def test_the_lag_profile_finds_the_copying_lag(at):
    (trace,) = go.Figure(page.lags_figure(at("layer=3"))).data
    assert np.argmax(trace.y[4:]) + 4 == 17


def test_data_are_the_rectangle_at_full_resolution(at, exact):
    dataset = page.data(at("layer=3&zoom=4-9,1-8"))
    assert dataset["value"].shape == (5, 7)
    assert np.allclose(dataset["value"], exact[0].mean(0)[4:9, 1:8], atol=1e-5)
    assert dataset["query"].values.tolist() == [4, 5, 6, 7, 8]
    assert dataset["key_token"].values.tolist() == at().tokens[1:8]


def test_everything_answers_all_outputs(at):
    (view,) = page.PAGE.views
    assert len(page.everything(at("layer=3&view=channel"))) == len(view.outputs)
    assert len(page.everything(at("layer=3"))) == len(view.outputs)


def test_the_pointer_is_given_small_rectangles_and_whole_rows(client_of, tmp_path, write_capture):
    client = client_of(write_capture(tmp_path / "run.h5", layers=1, tokens=90))
    whole = matrix.matrix(resolve(Address(page="maps"), Library([tmp_path])).selection)
    for zoom, (queries, keys) in {
        "80-81,0-81": (slice(80, 81), slice(0, 81)),
        "3-67,1-65": (slice(3, 67), slice(1, 65)),
    }.items():
        answer = client.get(f"/values?zoom={zoom}")
        expected = whole[queries, keys]
        assert answer.headers["X-Shape"] == "{},{}".format(*expected.shape)
        found = np.frombuffer(answer.data, "<f4").reshape(expected.shape)
        assert np.allclose(found, expected, rtol=1e-6)
    for zoom in ("", "3-5,1-66", "3-68,1-2"):
        assert client.get(f"/values?zoom={zoom}").status_code == 400
