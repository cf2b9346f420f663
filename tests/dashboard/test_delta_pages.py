"""Every page on a capture of a delta-rule hybrid: one decay a head (Qwen3.5), and one a component of keys (Kimi)."""

import dataclasses
import math

import numpy as np
import pytest
from ssmlens_dashboard.library import Library
from ssmlens_dashboard.pages import compare, layers, maps, signals, weights
from ssmlens_dashboard.views.compare import difference_tile, sides
from ssmlens_dashboard.views.weights import scored_weights

from ssmlens.plot import signal_numbers, weight_numbers
from ssmlens.plot.number_files import as_csv
from ssmlens.plot.selection import compute_anew
from ssmlens.scores import compute
from ssmlens.store import open_capture

QWEN, KIMI = "transformers Qwen3_5GatedDeltaNet", "transformers KimiLinearDeltaAttention"
PROMPT_TOKENS = (14, 5, 1)


@pytest.fixture(scope="module", params=[QWEN, KIMI])
def path(request, family_capture):
    return family_capture(request.param)


@pytest.fixture
def at(path, scene_at):
    """at("maps", "layer=2"): what a page is given at that address."""
    return lambda page, search="": scene_at(path, search, page)


@pytest.fixture
def stored(path):
    with open_capture(path) as capture:
        yield capture.layer(2)


def test_maps_offers_erase_where_there_is_one(at):
    assert [value for value, _ in maps.options(at("maps", "layer=2"))] == [
        *("map", "mask", "erase", "channel")
    ]
    assert [value for value, _ in maps.options(at("maps", "layer=1"))] == ["map"]
    fallen_back = at("maps", "layer=1&view=erase")
    assert fallen_back.address.view == "map"
    assert fallen_back.notes == ("layer 1 has no erase; its map is shown",)


@pytest.mark.parametrize("prompt", [0, 1, 2])
@pytest.mark.parametrize("scale", ["linear", "symlog", "rank"])
def test_erase_is_drawn_with_its_row_and_numbers(at, stored, prompt, scale):
    scene = at("maps", f"layer=2&view=erase&prompt={prompt}&scale={scale}")
    spec, title, lags, row, *_ = maps.everything(scene)
    assert title == "Layer 2: erase map"
    assert spec["layout"]["images"]
    assert lags["data"]
    erase = stored.whole_map("erase", prompt)
    assert row["signed"]
    np.testing.assert_allclose(row["values"], erase[-1], rtol=1e-2, atol=1e-6)
    assert (maps.data(scene)["value"].values == erase).all()


@pytest.mark.parametrize("kind", ["map", "mask", "erase"])
def test_values_and_pictures_are_served(path, client_of, stored, kind):
    client = client_of(path)
    picture = client.get(f"/thumbnail.png?layer=2&view={kind}")
    assert (picture.status_code, picture.mimetype) == (200, "image/png")
    values = client.get(f"/values?layer=2&view={kind}&zoom=3-9,1-5")
    assert values.status_code == 200
    data = values.get_data()
    got = np.frombuffer(data, "<f4")
    assert np.array_equal(got, stored.whole_map(kind)[3:9, 1:5].ravel())


def test_compare_sets_what_two_layers_erase_side_by_side(path, at, stored):
    (entry,) = Library([path]).entries("capture")
    scene = at("compare", f"layer=0&view=erase&against={entry.id}.2.0")
    assert "'value': 'erase'" in str(compare.layout(scene))
    one, other = sides(scene)
    cells = difference_tile(one.drawn, other.drawn, None).cells
    erase = scene.layer.whole_map("erase") - stored.whole_map("erase")
    lower = np.tri(len(erase), dtype=bool)
    np.testing.assert_allclose(cells[lower], erase[lower], rtol=1e-5, atol=1e-7)
    figure, _, title = compare.drawn(scene)
    assert "rase" in title
    assert len(figure["layout"]["images"]) == 3
    beside_softmax = at("compare", f"layer=0&view=erase&against={entry.id}.1.0")
    assert "layer 1 has no erase; its map is shown" in sides(beside_softmax)[1].notes


def test_layers_names_the_blocks_and_ranks_them(at):
    scene = at("layers")
    assert [block["kind"] for block in layers.blocks(scene)] == [
        *("delta rule", "attention", "delta rule")
    ]
    assert list(layers.blocks(scene)[0]["views"]) == ["map", "mask", "erase"]
    _, _, rows, *_ = layers.ranked(scene, 1)
    assert {row["layer"]: row["kind"] for row in rows} == {
        **{0: "delta rule", 2: "delta rule"},
        1: "attention",
    }
    assert {row["layer"]: (row["closure"], row["passed"]) for row in rows} == {
        **{0: ("closes (≤ 1e-04)", True), 2: ("closes (≤ 1e-04)", True)},
        1: ("the model's own weights", True),
    }


@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_signals_are_beta_decay_and_half_lives(at, stored, prompt):
    what = at("signals", f"layer=2&prompt={prompt}").selection
    tokens = PROMPT_TOKENS[prompt]
    log_decay = stored.read("log_decay", prompt).astype(np.float64)
    assert np.array_equal(signal_numbers.steps(what), stored.read("beta", prompt))
    per_head = log_decay.reshape(tokens, stored.heads, -1)
    (alpha,) = signal_numbers.lines(what).values()
    np.testing.assert_allclose(alpha, np.exp(per_head).mean(2), rtol=1e-5)
    lives = signal_numbers.half_lives(what)
    assert lives.shape == per_head.shape[1:]
    np.testing.assert_allclose(np.exp(per_head.mean(0) * lives), 0.5, rtol=1e-6)
    _, counts = signal_numbers.rate_counts(what)
    assert counts.sum() == (log_decay < 0).sum()


@pytest.mark.parametrize("search", ["", "prompt=2", "zoom=0-3,4-9", "sort=step", "sort=half-life"])
def test_signals_are_drawn_under_their_own_names(at, search):
    scene = at("signals", f"layer=0&{search}")
    *figures, hidden, told = signals.everything(scene)[:6]
    assert all(figure.data for figure in figures)
    assert hidden is False
    assert "mean β" in told
    assert signals.titles(scene) == [
        "β by token and head",
        "Decay α by token",
        "Half-lives at the mean log α",
        "Rates of decay −log α",
    ]
    data = signals.data(scene)
    assert {*data.data_vars} == {"beta", "alpha", "half_life"}
    assert len(as_csv(data).splitlines()) > 1


def test_where_a_token_forgets_everything_its_heads_have_no_half_life(at, monkeypatch):
    what = dataclasses.replace(at("signals", "layer=0").selection, keep=compute_anew)
    real = type(what.layer).read

    def read(layer, name, prompt=None):
        array = real(layer, name, prompt)
        if name == "log_decay":
            array = array.copy()
            array[3, 0] = -np.inf
        return array

    monkeypatch.setattr(type(what.layer), "read", read)
    assert (signal_numbers.half_lives(what)[0] == 0).all()
    assert (signal_numbers.half_lives(what)[1:] > 0).all()
    assert (signal_numbers.decay(what)[3, 0] == 0).all()
    assert signals.half_lives(what).data


def test_weights_compare_keys_with_queries(at, stored):
    scene = at("weights", "layer=2&group=1")
    *figures, hidden, numbers, told = weights.everything(scene)[:9]
    assert hidden is False
    assert all(figure.data for figure in figures)
    assert "group 1 of 3" in told
    pair = weight_numbers.pair(scene.selection)
    assert np.array_equal(pair.W_B, stored.read("W_B")[1])
    assert weights.titles(scene)[:2] == ["W_qᵀ W_k", "W_k W_qᵀ"]
    assert figures[0].layout.yaxis.title.text == "input of W_q"
    assert len(numbers) == 5
    table = compute(scene.capture, ["bc_correlation", "bc_effective", "bc_identity"]).sel(layer=2)
    for number in scored_weights(scene.capture, scene.layer):
        assert math.isfinite(number.value)
        assert float(table[number.name]) == pytest.approx(number.value)


def test_kernels_are_those_of_values_keys_and_queries(at, stored):
    found = weight_numbers.kernels(at("weights", "layer=2").layer)
    conv = stored.read("conv")[:, ::-1]
    keys = stored.read("conv_B").shape[0] * stored.read("conv_B").shape[1]
    assert list(found) == ["v", "k", "q"]
    assert np.array_equal(found["q"], conv[:keys])
    assert np.array_equal(found["k"], conv[keys : 2 * keys])
    assert np.array_equal(found["v"], conv[2 * keys :])


def test_what_makes_beta_is_drawn_where_it_is_stored(at, stored):
    figure, hidden = weights.everything(at("weights", "layer=2"))[-2:]
    assert hidden is False
    assert np.array_equal(figure.data[0].customdata, stored.read("W_beta"))
    *_, hidden = weights.everything(at("weights", "layer=1"))
    assert hidden is True
