import runpy
from pathlib import Path

import numpy as np
import pytest
from ssmlens_dashboard.pages import weights as page
from ssmlens_dashboard.views.weights import scored_weights

from ssmlens.plot import layer_figures as figures
from ssmlens.plot import weight_numbers as weights
from ssmlens.plot.number_files import as_csv
from ssmlens.scores import compute

MIXED = runpy.run_path(str(Path(__file__).with_name("mixed_layers.py")))


@pytest.fixture(scope="module")
def at(tmp_path_factory, scene_at):
    path = MIXED["write_mixed"](tmp_path_factory.mktemp("mixed") / "mixed.h5")
    return lambda search="": scene_at(path, search, "weights")


@pytest.fixture(scope="module")
def arrays():
    return MIXED["layers"]()


@pytest.mark.parametrize("side", [1, 2, 4, 5, 10, 11, 50])
@pytest.mark.parametrize("group", [0, 1])
def test_cells_are_means_of_squares_of_the_product(monkeypatch, at, arrays, side, group):
    monkeypatch.setattr(weights, "SIDE", side)
    pair = weights.pair(at(f"layer=1&group={group}").selection)
    B, C = (arrays[1][name][group].astype(np.float64) for name in ("W_B", "W_C"))
    whole = C.T @ B
    cells, several = weights.product_cells(pair)
    assert len(cells) <= side
    expected = [
        [whole[i : i + several, j : j + several].mean() for j in range(0, 11, several)]
        for i in range(0, 11, several)
    ]
    assert np.allclose(cells, expected, atol=1e-6)


def test_the_states_product(at, arrays):
    B, C = (arrays[0][name][1].astype(np.float64) for name in ("W_B", "W_C"))
    assert np.allclose(
        weights.state_product(weights.pair(at("layer=0&group=1").selection)), B @ C.T, atol=1e-6
    )


def check_entries(found, product):
    off = product[~np.eye(len(product), dtype=bool)]
    assert np.isclose(found.mean, np.diag(product).mean())
    assert np.isclose(found.others_mean, off.mean())
    assert np.isclose(found.others_rms, np.sqrt((off**2).mean()))
    for shares, values in ((found.diagonal, np.diag(product)), (found.others, off)):
        assert np.isclose(shares.sum(), 1)
        middles = (found.edges[1:] + found.edges[:-1]) / 2
        assert abs((shares * middles).sum() - values.mean()) < np.diff(found.edges)[0]


def test_entries_on_the_diagonal_and_off_it(at, arrays):
    pair = weights.pair(at("layer=0").selection)
    B, C = (arrays[0][name][0].astype(np.float64) for name in ("W_B", "W_C"))
    check_entries(weights.input_entries(pair), C.T @ B)
    check_entries(weights.state_entries(pair), B @ C.T)


def test_exact_means_where_rows_are_sampled(monkeypatch):
    rng = np.random.default_rng(0)
    B, C = rng.standard_normal((2, 4, 400)).astype(np.float32)
    found = weights.input_entries(weights.Pair(B, C + B, 0, 1))
    check_entries(found, (C + B).astype(np.float64).T @ B.astype(np.float64))


def test_one_input_and_one_state():
    pair = weights.Pair(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), 0, 1)
    for found in (weights.input_entries(pair), weights.state_entries(pair)):
        assert found.mean == 1
        assert np.isnan(found.others_rms)
        assert found.others.sum() == 0


def test_kernels_start_with_the_current_token_and_end_with_c(at, arrays):
    found = weights.kernels(at("layer=1").layer)
    conv = arrays[1]["conv"]
    assert np.array_equal(found["x"], conv[:6, ::-1])
    assert np.array_equal(found["B"].reshape(2, 3, 3), arrays[1]["conv_B"][..., ::-1])
    assert np.array_equal(found["C"].reshape(2, 3, 3), arrays[1]["conv_C"][..., ::-1])
    assert list(weights.kernels(at("layer=0").layer)) == ["x"]
    assert weights.kernels(at("layer=2").layer) == {}


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_numbers_are_the_scores_of_the_ranking(at, layer):
    scene = at(f"layer={layer}")
    table = compute(scene.capture, ["bc_correlation", "bc_effective", "bc_identity"]).sel(
        layer=layer
    )
    found = {number.name: number.value for number in scored_weights(scene.capture, scene.layer)}
    assert set(found) == {"bc_correlation", "bc_z", "bc_effective", "bc_shift", "bc_identity"}
    for name, value in found.items():
        assert np.isclose(float(table[name]), value)
    told = {number.name: number.text for number in scored_weights(scene.capture, scene.layer)}
    level = float(table["chance"].sel(score="bc_effective").mean())
    assert told["bc_correlation"].endswith("; by chance 0.000")
    assert told["bc_effective"].endswith(f"; by chance {level:.3f}")


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("search", ["", "scale=symlog&theme=dark", "scale=rank&group=1"])
def test_every_kind_of_layer_at_every_address(at, layer, search):
    *figures, hidden, numbers, told = page.everything(at(f"layer={layer}&{search}"))[:9]
    assert hidden is False
    assert len(numbers) == 5
    assert "of 2, 3 states, 11 inputs" in told
    assert sum(len(figure.to_json()) for figure in figures) < 3_000_000
    assert bool(figures[-1].data) == (layer != 2)


def test_a_group_too_many_is_the_last(at):
    assert "group 1 of 2" in page.summary(at("layer=0&group=7"))


@pytest.mark.parametrize(
    ("layer", "why"), [(3, "softmax attention"), (4, "not finite"), (5, "stores no W_B and W_C")]
)
def test_layers_without_say_why(at, layer, why):
    *_, hidden, numbers, told = page.everything(at(f"layer={layer}"))[:9]
    assert (hidden, numbers) == (True, [])
    assert why in told


def test_numbers_say_why_they_are_not_there(at):
    scene = at("layer=5")
    told = scored_weights(scene.capture, scene.layer)
    assert all(np.isnan(number.value) and "no W_B" in number.text for number in told)


def test_numbers_for_a_download(at, arrays):
    data = page.data(at("layer=1&group=1"))
    assert np.array_equal(data["W_C"], arrays[1]["W_C"][1])
    assert len(as_csv(data).splitlines()) == 1 + 3 * 11


def test_a_shipped_model(copies, scene_at):
    scene = scene_at(copies("copy-mamba2-mimetic", 17), "layer=3", "weights")
    found = {number.name: number.value for number in scored_weights(scene.capture, scene.layer)}
    assert round(found["bc_correlation"], 2) == -0.32
    assert round(found["bc_effective"], 2) == 0.32
    assert len(figures.kernels(scene.selection).layout.images) == 3
