"""Dimension scales: one for all layers, its own where a layer differs, found before the layers are searched."""

import h5py
import numpy as np
import pytest
import xarray as xr
from h5py import h5

from ssmlens.errors import CaptureFileError
from ssmlens.names import LAYER_ARRAYS
from ssmlens.store import open_capture


def narrow(sample):
    """Layers of which the second has fewer inputs."""
    arrays = sample.samples()
    arrays[2]["W_B"] = arrays[2]["W_B"][..., :7]
    return arrays


@pytest.mark.parametrize("batches", [1, 3])
def test_a_layer_of_other_sizes_has_scales_of_its_own(sample, tmp_path, batches):
    arrays = narrow(sample)
    path = sample.write_capture(tmp_path / "run.h5", batches, arrays=arrays)
    with h5py.File(path) as file:
        assert set(file["layers/000"]) - set(LAYER_ARRAYS) == {"prompt_digest"}
        assert set(file["layers/002"]) - set(LAYER_ARRAYS) == {"prompt_digest", "input"}
        assert file["layers/002/W_B"].dims[2][0] == file["layers/002/input"]
        assert file["layers/000/W_B"].dims[2][0] == file["input"]
        for layer, held in arrays.items():
            for name, array in held.items():
                if name != "channel":
                    scales = [dim[0] for dim in file[f"layers/{layer:03d}/{name}"].dims]
                    assert tuple(len(scale) for scale in scales) == array.shape
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        for layer, held in arrays.items():
            stored = tree[f"layers/{layer:03d}/W_B"]
            assert stored.dims == ("group", "state", "input")
            np.testing.assert_array_equal(stored.values, held["W_B"])


def test_the_name_of_a_shared_scale_is_found_before_the_layers(sample, tmp_path):
    """HDF5 searches the file for it, once an axis: through all layers, opening a large capture took 10 s."""
    path = sample.write_capture(tmp_path / "run.h5")
    with h5py.File(path) as file:
        met = []
        file.id.links.iterate(met.append, idx_type=h5.INDEX_NAME, order=h5.ITER_NATIVE)
        before = [name.decode() for name in met[: met.index(b"layers")]]
        for group in file["layers"].values():
            for name in set(LAYER_ARRAYS) & set(group) - {"channel"}:
                for axis, dim in zip(LAYER_ARRAYS[name], group[name].dims, strict=False):
                    if axis != "channel":
                        assert dim[0].name.split("/")[1] in before
                        assert dim[0] == file[axis]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: f["dimensions"].update({"extra": f["prompt"]}), "dimensions/extra is not part"),
        (
            lambda f: f["dimensions"].update({"tap": f["tokens"]}),
            "dimensions/tap holds values of a kind",
        ),
        (lambda f: f["dimensions"].update({"tap": h5py.SoftLink("/prompt")}), "is a soft link"),
        (lambda f: f.move("dimensions", "tap"), "tap is not a dataset"),
        (
            lambda f: (f.pop("dimensions"), f.update({"dimensions": f["prompt"]})),
            "dimensions is not a group",
        ),
        (lambda f: (f.move("head", "tap"), f.move("state", "head")), "has 6 along head"),
    ],
)
def test_what_is_no_dimension_is_refused(sample, tmp_path, harm, told):
    path = sample.write_capture(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(CaptureFileError, match=told):
        open_capture(path)


def test_captures_without_shared_scales_still_open(sample, tmp_path):
    """Files written before there were any: each layer had all scales of its own."""
    path = sample.write_capture(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        for axis in file["dimensions"]:
            for group in file["layers"].values():
                group[axis] = file[axis]
            if axis not in ("prompt", "token"):
                del file[axis]
        del file["dimensions"]
    with open_capture(path) as capture:
        np.testing.assert_array_equal(capture.layer(2).read("B"), sample.samples()[2]["B"])
