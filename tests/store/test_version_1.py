"""A capture that the first schema's code wrote is still read, verified and packed up with the numbers it holds."""

from pathlib import Path

import numpy as np
import pytest

from ssmlens.store import open_capture, verify

# `sample_capture.write_capture`, run with the code as it was before version 2.
FILE = Path(__file__).parents[1] / "fixtures" / "captures" / "version-1.h5"


@pytest.fixture
def capture():
    with open_capture(FILE) as capture:
        yield capture


def test_its_arrays_are_those_it_was_made_of(capture, sample):
    for index, arrays in sample.samples().items():
        layer = capture.layer(index)
        assert set(layer.names) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(layer.read(name), array)


def test_it_verifies():
    assert verify(FILE) == []


def test_its_layers_are_mamba_and_of_its_other_blocks_nothing_is_known(capture):
    assert [capture.layer(index).kind for index in capture.layers] == ["mamba", "mamba"]
    assert capture.block_kinds == ["mamba", "other", "mamba", "other"]
    assert "block_kinds" not in capture.to_xarray()


def test_maps_on_demand(capture, sample):
    arrays = sample.samples()[0]
    np.testing.assert_allclose(
        capture.layer(0).channel_map(1, 1), arrays["channel_map"][1, 0, :5, :5], atol=1e-6
    )
