"""Files of a later version: what is not known is passed over, and only what the file needs is asked for."""

import h5py
import numpy as np
import pytest

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.store import open_capture, verify
from ssmlens.store.hdf5 import read_attributes, write_array, write_attributes
from ssmlens.store.layer_file import damages


@pytest.fixture
def path(sample, tmp_path):
    return sample.write_capture(tmp_path / "run.h5")


def later(path, change):
    """The file as a later release might have written it."""
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 7
        change(file)
    return path


def test_an_array_of_a_later_version_is_passed_over(path):
    with h5py.File(path) as file:
        group = next(iter(file["layers"].values()))
        shape = group["delta"].shape

    def add(file):
        for group in file["layers"].values():
            write_array(group, "saliency", np.ones(shape, np.float32), ("prompt", "token", "head"))
            write_attributes(group["saliency"], {"role": "effect"})
            write_array(group, "probe", np.ones((2, 3), np.float32), ("feature", "probe_class"))

    with open_capture(later(path, add)) as capture:
        assert capture.schema_version == 7
        layer = capture.layer(capture.layers[0])
        assert "saliency" not in layer.names
        assert np.isfinite(layer.attention_map(0)).all()
        with pytest.raises(UsageError, match="no array 'saliency'"):
            layer.read("saliency")
    with h5py.File(path) as file:
        (index, group), *_ = file["layers"].items()
        assert damages(group, int(index))  # its writer would have counted it in the digests


def test_an_array_that_disagrees_with_its_neighbours_is_refused_all_the_same(path):
    def add(file):
        group = next(iter(file["layers"].values()))
        group.create_dataset("saliency", data=np.ones((1, 1), np.float32), **FILTERS)
        write_attributes(group["saliency"], {"axes": "prompt token", "role": "effect"})

    with pytest.raises(CaptureFileError, match="saliency has 1 along prompt"):
        open_capture(later(path, add))


def test_an_array_that_lies_about_its_axes_is_refused(path):
    def lie(file):
        group = next(iter(file["layers"].values()))
        write_attributes(group["delta"], {"axes": "prompt head token"})

    with pytest.raises(CaptureFileError, match="delta declares axes prompt head token"):
        open_capture(later(path, lie))


def test_what_a_file_needs_is_named(path):
    later(path, lambda file: write_attributes(file, {"needs": "packed-maps half-floats"}))
    with pytest.raises(CaptureFileError, match="needs packed-maps, half-floats to be read"):
        open_capture(path)


def test_an_operator_of_a_later_version_has_maps_but_no_operands_here(path):
    def change(file):
        for group in file["layers"].values():
            write_attributes(group, {"operator": "wormhole"})

    with open_capture(later(path, change)) as capture:
        layer = capture.layer(capture.layers[0])
        assert (layer.operator, layer.has_operands) == ("wormhole", False)
        assert np.isfinite(layer.attention_map(0)).all()
        with pytest.raises(UsageError, match="'wormhole' is unknown"):
            layer.operands(0)
    assert any("its attributes" in problem for problem in verify(path))


def test_every_dataset_carries_its_axes_and_its_role(path):
    roles = {}
    with h5py.File(path) as file:
        assert read_attributes(file)["schema_version"] == 3
        assert read_attributes(file)["needs"] == ""
        for group in (file, *file["layers"].values()):
            for name, dataset in group.items():
                attributes = {} if isinstance(dataset, h5py.Group) else read_attributes(dataset)
                if "role" in attributes:
                    assert len(attributes["axes"].split()) == dataset.ndim
                    roles[name] = attributes["role"]
    assert roles["tokens"] == "prompts"
    assert (roles["delta"], roles["attention_map"]) == ("operand", "map")
    assert (roles["W_B"], roles["closure_error"]) == ("weight", "check")


FILTERS = {
    "chunks": True,
    "shuffle": True,
    "compression": "gzip",
    "compression_opts": 0,
    "fletcher32": True,
}
