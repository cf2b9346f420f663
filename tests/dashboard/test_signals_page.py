import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from ssmlens_dashboard.pages import signals as page

from ssmlens.plot import signal_numbers as signals
from ssmlens.plot.number_files import as_csv, as_netcdf

MIXED = runpy.run_path(str(Path(__file__).with_name("mixed_layers.py")))
HEADS = 6


@pytest.fixture(scope="module")
def at(tmp_path_factory, scene_at):
    """at("layer=1"): the Signals page at that address of a capture with a layer of every kind."""
    path = MIXED["write_mixed"](tmp_path_factory.mktemp("mixed") / "mixed.h5")
    return lambda search="": scene_at(path, search, "signals")


@pytest.fixture(scope="module")
def arrays():
    return MIXED["layers"]()


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_half_lives_halve_what_is_held(at, arrays, layer, prompt):
    what = at(f"layer={layer}&prompt={prompt}").selection
    delta = arrays[layer]["delta"][prompt, : MIXED["LENGTHS"][prompt]].astype(np.float64)
    A = arrays[layer]["A"].astype(np.float64).reshape(HEADS, -1)
    lives = signals.half_lives(what)
    assert lives.shape == A.shape
    assert np.allclose(np.exp(A * delta.mean(0)[:, None] * lives), 0.5)


def test_half_lives_where_the_decay_depends_on_the_data(at, arrays):
    what = at("layer=2&prompt=1").selection
    mean = arrays[2]["log_decay"][1, :5].astype(np.float64).mean(0)
    assert np.allclose(np.exp(mean[:, None] * signals.half_lives(what)), 0.5)
    rates = signals.rates(what)
    assert np.allclose(rates * signals.steps(what), -arrays[2]["log_decay"][1, :5], rtol=1e-5)
    assert signals.counted(what.layer) == "token and head"


def test_a_rate_of_zero_never_decays_and_is_not_counted(at, monkeypatch):
    what = at("layer=0").selection
    rates = np.array([[0.0, 1, 10], [1, 1, 0.1]])
    monkeypatch.setattr(signals, "rates", lambda _: rates)
    edges, counts = signals.rate_counts(what)
    assert counts.sum() == 5
    assert np.allclose(edges[[0, -1]], [-1, 1])
    assert counts[len(counts) // 2] == 3


def test_norms_are_those_of_each_group(at, arrays):
    what = at("layer=1&prompt=1").selection
    B = arrays[1]["B"][1, :5].astype(np.float64)
    assert np.allclose(signals.norm(what, "B"), np.sqrt((B**2).sum(2)), rtol=1e-6)
    few = signals.shown_lines(what, (1, 4))
    assert few["‖C‖"].shape == (3, 2)


@pytest.fixture
def coarse(monkeypatch):
    """So few cells that tokens and heads share them."""
    monkeypatch.setattr(signals, "COLUMNS", 4)
    monkeypatch.setattr(signals, "ROWS", 4)


@pytest.mark.parametrize("order", ["index", "step", "half-life"])
def test_cells_are_means_of_tokens_and_of_heads_in_their_order(at, arrays, coarse, order):
    what = at("layer=0").selection
    delta = arrays[0]["delta"][0].astype(np.float64)
    A = arrays[0]["A"].astype(np.float64)
    lives = np.median(math.log(2) / (np.abs(A) * delta.mean(0)[:, None]), axis=1)
    first = {"index": np.arange(HEADS), "step": -delta.mean(0), "half-life": -lives}[order]
    heads = sorted(range(HEADS), key=lambda h: first[h])
    cells, labels = signals.step_cells(what, (1, 8), order)
    expected = [
        [delta[t : min(t + 2, 8), heads[h : h + 2]].mean() for t in range(1, 8, 2)]
        for h in range(0, HEADS, 2)
    ]
    assert np.allclose(cells, expected, rtol=1e-6)
    assert labels[0] == ("0–1" if order == "index" else "rank 0–1")


def test_rows_of_single_heads_bear_their_numbers(at, arrays):
    cells, labels = signals.step_cells(at("layer=0").selection, (0, 9), "step")
    delta = arrays[0]["delta"][0]
    assert sorted(labels) == [str(h) for h in range(HEADS)]
    assert np.allclose(cells[0], delta[:, int(labels[0])])
    assert (np.diff(cells.mean(1)) <= 0).all()


def test_colours_do_not_change_with_the_zoom(at):
    for scale in ("linear", "symlog"):
        limits = {
            signals.step_limit(at(f"layer=0{zoom}").selection, scale)
            for zoom in ("", "&zoom=2-4,1-3")
        }
        assert len(limits) == 1
    assert signals.step_limit(at("layer=0").selection, "rank") is None


@pytest.mark.parametrize("layer", [0, 1, 2, 5])
@pytest.mark.parametrize(
    "search",
    [
        "",
        "prompt=2",
        "zoom=0-3,4-9",
        "scale=symlog&sort=step&theme=dark",
        "scale=rank&sort=half-life",
    ],
)
def test_every_kind_of_layer_at_every_address(at, layer, search):
    scene = at(f"layer={layer}&{search}")
    *figures, hidden, told = page.everything(scene)[:6]
    assert all(figure.data for figure in figures)
    assert hidden is False
    assert told.startswith(f"layer {layer}: 6 heads")
    assert sum(len(figure.to_json()) for figure in figures) < 3_000_000


def test_a_zoom_shows_the_tokens_of_its_keys(at):
    scene = at("layer=0&zoom=0-3,4-9")
    steps, norms = page.steps(scene.selection), page.norms(scene.selection)
    assert steps.layout.meta == norms.layout.meta == {"first": 4, "end": 9, "block": 1}
    assert steps.data[0].customdata.shape == (HEADS, 5)
    assert [label.split()[0] for label in steps.layout.xaxis.categoryarray] == list("45678")


def test_softmax_attention_has_none_and_says_so(at):
    *figures, hidden, told = page.everything(at("layer=3"))[:6]
    assert hidden is True
    assert not any(hasattr(figure, "data") for figure in figures)
    assert "softmax attention" in told


def test_what_is_not_finite_is_shown_with_holes_and_its_reason(at):
    *figures, hidden, told = page.everything(at("layer=4&scale=symlog&sort=step"))[:6]
    assert hidden is False
    assert told == "layer 4: weights not finite: W_B holds NaN"
    assert np.isnan(figures[0].data[0].customdata[:, 2:]).all()
    assert np.isfinite(figures[0].data[0].customdata[:, :2]).all()


def test_numbers_for_a_download(at, arrays):
    data = page.data(at("layer=1&zoom=2-5,2-5"))
    assert np.array_equal(data["delta"], arrays[1]["delta"][0, 2:5])
    assert data["token"].values.tolist() == [2, 3, 4]
    assert len(as_csv(data).splitlines()) == 1 + 3 * HEADS
    assert as_netcdf(data)[:4] == b"\x89HDF"


def test_a_shipped_model(copying, scene_at):
    scene = scene_at(copying, "layer=3", "signals")
    assert page.half_lives(scene.selection).data[-1].x.size == 32
    assert "384 heads" in page.summary(scene)
