"""Chunks move from one dataset to another, whatever filters they passed."""

import h5py
import numpy as np
import pytest

from ssmlens.store import hdf5

AXES = ("prompt", "token", "head")


def array_of(kind, prompts, tokens=1030, heads=70):
    """Values that deflate makes smaller ("small": shuffled), or not ("full": as they are), some of them zero or NaN."""
    array = np.random.default_rng(prompts).standard_normal((prompts, tokens, heads))
    array = array.astype(np.float32)
    array[0, :, 64:] = 0
    array[-1, 3, 5] = np.nan
    if kind == "small":
        array = (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return array


@pytest.mark.parametrize("first", ["small", "full"])
@pytest.mark.parametrize("second", ["small", "full"])
def test_batches_of_either_kind_merge(tmp_path, first, second):
    one, other = array_of(first, 2), array_of(second, 1)
    for name, array in (("one", one), ("other", other)):
        hdf5.write_file(
            tmp_path / name, lambda file, a=array: hdf5.write_array(file, "delta", a, AXES)
        )
    with h5py.File(tmp_path / "one") as a, h5py.File(tmp_path / "other") as b:
        assert (a["delta"].shuffle, b["delta"].shuffle) == (first == "small", second == "small")

        def build(file):
            target = hdf5.create_like(file, a["delta"], (3, 1030, 70), AXES)
            hdf5.move_chunks(a["delta"], target, 0)
            hdf5.move_chunks(b["delta"], target, 2)

        hdf5.write_file(tmp_path / "merged", build)
    with h5py.File(tmp_path / "merged") as file:
        merged = file["delta"]
        assert merged[...].tobytes() == np.concatenate([one, other]).tobytes()
        assert merged.shuffle == (first == "small")
        assert merged.fletcher32


def test_chunks_of_an_older_file_move_shuffled(tmp_path):
    """Until now values were shuffled also where nothing made them smaller."""
    array = array_of("full", 2)
    with h5py.File(tmp_path / "old", "w") as file:
        options = {"shuffle": True, "compression": "gzip", "compression_opts": 0}
        file.create_dataset("delta", data=array, chunks=(1, 512, 64), fletcher32=True, **options)
    with h5py.File(tmp_path / "old") as old:

        def build(file):
            target = hdf5.create_like(file, old["delta"], array.shape, AXES)
            hdf5.move_chunks(old["delta"], target, 0)

        hdf5.write_file(tmp_path / "new", build)
    with h5py.File(tmp_path / "new") as file:
        assert file["delta"][...].tobytes() == array.tobytes()


def test_a_batch_of_an_older_version_has_other_chunks(tmp_path):
    arrays = [array_of("full", 2), array_of("full", 1) * 2]
    parts = []
    for number, (array, heads) in enumerate(zip(arrays, (64, 32), strict=True)):
        parts.append(h5py.File(tmp_path / f"{number}", "w"))
        options = {"compression": "gzip", "compression_opts": 0, "fletcher32": True}
        parts[-1].create_dataset("delta", data=array, chunks=(1, 100, heads), **options)
    whole = np.concatenate(arrays)

    def build(file):
        target = hdf5.create_like(file, parts[0]["delta"], whole.shape, AXES)
        hdf5.move_chunks(parts[0]["delta"], target, 0)
        hdf5.move_chunks(parts[1]["delta"], target, 2)

    hdf5.write_file(tmp_path / "new", build)
    with h5py.File(tmp_path / "new") as file:
        assert file["delta"].chunks == (1, 100, 64)
        assert file["delta"][...].tobytes() == whole.tobytes()
