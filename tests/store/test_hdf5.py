"""How arrays lie on the disk: what is compressed, what takes no room, what can be read alone."""

import h5py
import numpy as np
import pytest

from ssmlens.store import hdf5


@pytest.fixture
def image(tmp_path):
    """image(build): the bytes of the HDF5 file that `build` fills."""

    def make(build):
        hdf5.write_file(tmp_path / "x.h5", build)
        return (tmp_path / "x.h5").read_bytes()

    return make


@pytest.fixture
def stored(image):
    """stored(array, axes): the array as a dataset of a file in memory."""

    def make(array, axes, name="delta"):
        data = image(lambda file: hdf5.write_array(file, name, array, axes))
        return h5py.File.in_memory(data)[name]

    return make


def size(dataset):
    return dataset.id.get_storage_size()


def test_values_come_back_in_every_shape_of_chunks(stored):
    rng = np.random.default_rng(0)
    axes = ("prompt", "token", "head")
    for shape in ((1, 1, 1), (3, 512, 64), (2, 513, 65), (1, 1025, 130), (1, 7, 600)):
        array = rng.standard_normal(shape).astype(np.float32)
        dataset = stored(array, axes)
        np.testing.assert_array_equal(dataset[...], array)
        assert dataset.chunks[0] == 1
        assert dataset.chunks[2] <= 64


def test_bfloat16_shrinks_and_other_floats_are_left_alone(stored):
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((1, 512, 64)).astype(np.float32)
    rounded = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    axes = ("prompt", "token", "head")
    assert size(stored(rounded, axes)) < 0.55 * rounded.nbytes
    assert size(stored(exact, axes)) < 1.01 * exact.nbytes
    almost = rounded.copy()
    almost.view(np.uint32)[0, -1, -1] |= 1
    assert size(stored(almost, axes)) > 0.99 * almost.nbytes
    np.testing.assert_array_equal(stored(rounded, axes)[...], rounded)


def test_the_future_and_the_padding_take_no_room(stored):
    maps = np.tril(np.ones((2, 1024, 1024), np.float32) * 1.1)
    maps[1, 200:] = 0
    maps[1, :, 200:] = 0
    dataset = stored(maps, ("prompt", "query", "key"), "attention_map")
    assert dataset.chunks == (1, 256, 256)
    assert dataset.id.get_num_chunks() == 10 + 1
    np.testing.assert_array_equal(dataset[...], maps)


@pytest.mark.parametrize("value", [-0.0, np.nan, 1e-45])
def test_only_true_zeros_are_left_out(stored, value):
    array = np.zeros((1, 600, 3), np.float32)
    array[0, 550, 1] = value
    back = stored(array, ("prompt", "token", "head"))[...]
    assert back.tobytes() == array.tobytes()


def test_a_chunk_of_lost_zeros_is_not_taken_for_data(image):
    """Fletcher's checksum of zeros is zero; the deflate stream is what notices."""
    array = np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)
    data = image(lambda file: hdf5.write_array(file, "delta", array, ("prompt", "token", "head")))
    with h5py.File.in_memory(data) as file:
        chunk = file["delta"].id.get_chunk_info(0)
    lost = bytearray(data)
    lost[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    with h5py.File.in_memory(bytes(lost)) as file, pytest.raises(OSError, match="read data"):
        file["delta"][...]


def test_one_head_is_read_alone():
    array = np.ones((2, 2048, 2048), np.float32)
    chunks = hdf5.chunk_shape(("prompt", "token", "head"), array.shape, 4)
    assert np.prod(chunks) * 4 * (2048 // chunks[1]) <= 1 << 19


@pytest.mark.parametrize("shape", [(1, 16, 2048), (4, 128, 50_000), (8_000_000,), (3,)])
def test_chunks_of_weights_are_at_most_a_mebibyte(shape):
    chunks = hdf5.chunk_shape(("group", "state", "input")[: len(shape)], shape, 4)
    assert 0 < np.prod(chunks) * 4 <= 1 << 20
    assert all(c <= n for c, n in zip(chunks, shape, strict=True))


def test_text_is_utf8_of_fixed_length(image):
    data = image(lambda file: hdf5.write_attributes(file, {"a": "naïve\0\ud800", "b": 2, "c": 0.1}))
    with h5py.File.in_memory(data) as file:
        assert hdf5.read_attributes(file) == {"a": "naïve␀\\ud800", "b": 2, "c": 0.1}
        assert h5py.check_string_dtype(file.attrs.get_id("a").dtype).length is not None


def test_any_hdf5_since_1_10_reads_it(image):
    data = image(lambda file: file.create_group("x"))
    assert data[8] == 3  # version of the superblock; HDF5 2's own would be later
