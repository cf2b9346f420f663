"""Ā and B̄ as views: any part of them equals the whole, and only the part is computed."""

import numpy as np
import pytest

from ssmlens.store import open_capture

PARTS = [
    {},
    {"prompt": 1},
    {"prompt": 1, "token": 3},
    {"head": 4},
    {"head": slice(5, 1, -2), "token": slice(2, 7)},
    {"prompt": [2, 0], "head": [1, 1, 5]},
    {"prompt": 0, "token": 0, "head": 0},
    {"token": slice(4, 4)},
]


@pytest.fixture(scope="module")
def capture(sample, tmp_path_factory):
    with open_capture(sample.write_capture(tmp_path_factory.mktemp("capture") / "run")) as capture:
        yield capture


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_A_bar_and_B_bar(capture, sample, index, part):
    arrays = {k: v.astype(np.float64) for k, v in sample.samples()[index].items()}
    delta = arrays["delta"]
    decay = delta[..., None] * arrays["A"] if index == 0 else delta * arrays["A"]
    A_bar = capture.layer(index).A_bar
    assert A_bar.dims == ("prompt", "token", "head", "state")[: decay.ndim]
    B_of_head = np.repeat(arrays["B"], sample.HEADS // sample.GROUPS, axis=2)
    for view, expected in (
        (A_bar, np.exp(decay)),
        (capture.layer(index).B_bar, delta[..., None] * B_of_head),
    ):
        whole = view.copy(data=expected)
        looked_at, right = view.isel(part), whole.isel(part)
        assert not looked_at.variable._in_memory
        assert looked_at.dtype == np.float32
        np.testing.assert_allclose(looked_at.values, right.values, rtol=1e-6)


@pytest.mark.parametrize("state", [0, slice(None, None, 2), [2, 0]], ids=str)
def test_states(capture, sample, state):
    arrays = sample.samples()[0]
    expected = np.exp(arrays["delta"][1, :, 2:4, None] * arrays["A"][2:4])[..., state]
    view = capture.layer(0).A_bar.isel(prompt=1, head=slice(2, 4), state=state)
    np.testing.assert_allclose(view.values, expected, rtol=1e-6)
    B_of_head = np.repeat(arrays["B"], 3, axis=2)
    expected = (arrays["delta"][1, :, 2:4, None] * B_of_head[1, :, 2:4])[..., state]
    view = capture.layer(0).B_bar.isel(prompt=1, head=slice(2, 4), state=state)
    np.testing.assert_allclose(view.values, expected, rtol=1e-6)


def test_only_what_is_looked_at_is_read(capture, monkeypatch):
    layer = capture.layer(0)
    view = layer.A_bar
    read = []
    values = type(layer)._values
    monkeypatch.setattr(
        type(layer), "_values", lambda self, *a: read.append(values(self, *a)) or read[-1]
    )
    view = layer.A_bar
    view.isel(prompt=0, token=slice(2, 5), head=1).values  # noqa: B018
    assert sorted(array.size for array in read) == [3, 18]  # three steps of Δ, and A


def test_stored_discretisation_is_preferred(sample, tmp_path):
    arrays = sample.samples()
    for index, held in arrays.items():
        rank = 4 if index == 0 else 3
        held["A_bar"] = np.full((4, 9, 6, 3)[:rank], 0.25, np.float32)
        held["B_bar"] = np.full((4, 9, 6, 3), 0.5, np.float32)
    with open_capture(sample.write_capture(tmp_path / "run.h5", arrays=arrays)) as capture:
        for index in arrays:
            assert (capture.layer(index).A_bar == 0.25).all()
            assert (capture.layer(index).B_bar == 0.5).all()
