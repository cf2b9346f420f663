"""Layers that begin as copies of a skeleton are those that HDF5 makes dataset by dataset."""

import h5py
import numpy as np
import pytest

from ssmlens.files.sink import Sink
from ssmlens.store import hdf5
from ssmlens.store.schema import layer_axes
from ssmlens.store.skeleton import add_layer, plan, rename_layer, skeleton


def arrays(prompts=2, tokens=9):
    rng = np.random.default_rng(0)
    return {
        "delta": rng.standard_normal((prompts, tokens, 6)).astype(np.float32),
        "attention_map": np.tril(rng.standard_normal((prompts, tokens, tokens))).astype("f4"),
        "channel": np.array([1, 4]),
        "D": np.ones(6, np.float32),
    }


def described(group):
    """Names, types, filters, dimensions and attributes of a group's datasets."""
    return {
        name: (
            *(dataset.shape, dataset.dtype, dataset.chunks, dataset.compression_opts),
            *(dataset.shuffle, dataset.fletcher32, [d.label for d in dataset.dims]),
            [[scale.name for scale in d.values()] for d in dataset.dims],
            {k: str(v) for k, v in dataset.attrs.items() if "LIST" not in k},
        )
        for name, dataset in sorted(group.items())
    }


def referring(group):
    """For each dimension scale of a group: the datasets that it says use it, and as which axis."""
    return {
        name: sorted((group.file[use["dataset"]].name, int(use["dimension"])) for use in uses)
        for name, dataset in group.items()
        if (uses := dataset.attrs.get("REFERENCE_LIST")) is not None
    }


@pytest.mark.parametrize("how", ["alone", "renamed", "beside others"])
def test_a_copy_is_what_hdf5_makes(tmp_path, how):
    given, layer = arrays(), "000" if how == "alone" else "017"
    datasets = plan(given)
    image = skeleton(datasets)
    with Sink(tmp_path / "copy") as sink:
        with hdf5.NewFile(sink, b"" if how == "beside others" else image) as file:
            if how == "beside others":
                file.create_group("layers")
                add_layer(file, 3, datasets)
                add_layer(file, 17, datasets)
                add_layer(file, 21, plan(arrays(tokens=8)))
            else:
                rename_layer(file, int(layer))
            for planned in datasets[:-1]:
                dataset = hdf5.stored_array(file[f"layers/{layer}"], planned.name)
                values = given[planned.name]
                hdf5.write_chunks(dataset, values, planned.axes, planned.level, file.sink)
        sink.sync()
    with h5py.File(tmp_path / "made", "w", libver=hdf5.LIBVER) as file:
        group = file.create_group(f"layers/{layer}")
        for name in ("channel", "delta", "attention_map", "D"):
            hdf5.write_array(group, name, given[name], layer_axes(name, given[name].ndim))
        hdf5.write_array(
            group, "prompt_digest", np.ones((2, 32), np.uint8), layer_axes("prompt_digest", 2)
        )
    with h5py.File(tmp_path / "copy") as copy, h5py.File(tmp_path / "made") as made:
        one, other = copy[f"layers/{layer}"], made[f"layers/{layer}"]
        assert described(one) == described(other)
        assert referring(one) == referring(other)
        assert "token" in referring(one)
        for name, values in given.items():
            np.testing.assert_array_equal(one[name][...], values)


def test_layers_of_one_shape_share_a_skeleton():
    """Another shape, dtype, level or array is another skeleton."""
    first = arrays()
    small = first | {"delta": np.ones_like(first["delta"])}  # values that deflate
    plans = [plan(first), plan(arrays()), plan(arrays(tokens=8)), plan(small)]
    assert plans[0] == plans[1]
    assert len({skeleton(p) for p in plans}) == 3
    assert skeleton(plans[0]) is skeleton(plans[1])
