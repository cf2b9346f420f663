"""Chunks made here are those HDF5 makes: its checksum byte for byte, its shuffle and deflate as it reads them."""

import itertools
import zlib

import h5py
import numpy as np
import pytest

from ssmlens.store import hdf5
from ssmlens.store.chunks import encode_rows, fletcher32


@pytest.fixture
def stored_by_hdf5():
    """stored_by_hdf5(array): what HDF5 itself makes of it as one chunk with nothing but its checksum."""

    def make(array):
        with h5py.File(f"{id(array)}", "w", driver="core", backing_store=False) as file:
            dataset = file.create_dataset("x", data=array, chunks=array.shape, fletcher32=True)
            return dataset.id.read_direct_chunk((0,) * array.ndim)[1]

    return make


@pytest.mark.parametrize("size", [1, 2, 3, 720, 721, 1023, 1024, 1025, 65_537, 300_001])
@pytest.mark.parametrize("fill", ["random", "ff", "zero", "sum 65535", "one at the end"])
def test_fletcher32_is_hdf5s(stored_by_hdf5, size, fill):
    """Sums that are a multiple of 65535 are 65535 there, not 0, unless all is zero."""
    data = {
        "random": np.random.default_rng(size).integers(0, 256, size),
        "ff": np.full(size, 255),
        "zero": np.zeros(size),
        "sum 65535": np.resize([255, 254, 0, 1], size),
        "one at the end": np.arange(size) == size - 1,
    }[fill].astype(np.uint8)
    stored = stored_by_hdf5(data)
    assert stored[:-4] == data.tobytes()
    assert int.from_bytes(stored[-4:], "little") == fletcher32(data.tobytes())


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "S1", "S7"])
def test_hdf5_reads_every_dtype_and_edge(tmp_path, monkeypatch, dtype, level):
    monkeypatch.setattr(hdf5, "deflate_level", lambda _: level)
    monkeypatch.setattr(hdf5, "_LARGEST", {"prompt": 1, "token": 4, "head": 3})
    array = np.random.default_rng(0).integers(-9, 9, (2, 11, 7)).astype(dtype)
    hdf5.write_file(
        tmp_path / "x.h5",
        lambda file: hdf5.write_array(file, "x", array, ("prompt", "token", "head")),
    )
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["x"].chunks == (1, 4, 3)
        np.testing.assert_array_equal(file["x"][...], array)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("size", [1, 4000, 16_383, 16_384, 40_000])
def test_a_chunk_is_one_deflate_stream_and_its_checksum(level, size):
    """Stored blocks hold 65,535 bytes at most; HDF5 would read on past bytes that do not belong there."""
    array = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    ((chunk,),) = encode_rows(array, (size,), level)
    data, alone = bytes(chunk.data), level == 0 and size > 4000
    assert chunk.filter_mask == (0b10 if alone else 0)
    end = len(data) if alone else len(data) - 4
    stream = zlib.decompressobj()
    values = stream.decompress(data[:end])
    assert stream.eof
    assert stream.unused_data == b""
    planes = np.frombuffer(values, np.uint8)
    values = planes.reshape(4, size).T.tobytes() if level else values
    assert values == array.tobytes()
    assert alone or int.from_bytes(data[-4:], "little") == fletcher32(data[:-4])


@pytest.mark.parametrize("level", [0, 1])
def test_only_a_chunk_of_zeros_is_left_out(level):
    array = np.zeros((1, 999, 70), np.float32)
    array[0, 100:200] = np.random.default_rng(0).standard_normal((100, 70))
    array[0, 509, 39] = 1e-45  # the last value of its chunk
    array[0, 600, 69] = -0.0
    expected = [(0, i, j) for i in range(100, 200, 10) for j in (0, 40)] + [
        (0, 500, 0),
        (0, 600, 40),
    ]
    assert [c.start for row in encode_rows(array, (1, 10, 40), level) for c in row] == expected


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 5, 2, 3), (2, 7, 4, 3), (1, 3, 4, 2), (2, 2, 1, 3)]
)
@pytest.mark.parametrize("axes", list(itertools.permutations(range(4)))[::5])
def test_chunks_along_any_axis(tmp_path, shape, axes):
    """HDF5 reads what was written, whichever axes have several chunks, and however the array lies in memory."""
    array = np.random.default_rng(0).standard_normal((2, 7, 4, 3)).transpose(axes)
    array[array < 0] = 0
    chunks = tuple(shape[axis] for axis in axes)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        options = {"compression": "gzip", "compression_opts": 0, "fletcher32": True}
        dataset = file.create_dataset("x", array.shape, array.dtype, chunks=chunks, **options)
        for row in encode_rows(array, chunks, 0):
            for start, data, mask in row:
                dataset.id.write_direct_chunk(start, data, filter_mask=mask)
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["x"][...], array)


@pytest.mark.parametrize("place", [0, 1, 2, 7, 65_536, -5, -4, -1])
def test_hdf5_notices_a_changed_byte_of_a_chunk_without_fletcher32(tmp_path, place):
    """HDF5 compares the Adler-32 of the deflate stream."""
    array = np.random.default_rng(0).standard_normal((1, 300, 100)).astype(np.float32)
    file = tmp_path / "x.h5"
    hdf5.write_file(file, lambda f: hdf5.write_array(f, "x", array, ("prompt", "token", "head")))
    with h5py.File(file) as opened:
        chunk = opened["x"].id.get_chunk_info(0)
        assert chunk.filter_mask == 0b10
    octets = bytearray(file.read_bytes())
    octets[chunk.byte_offset + place % chunk.size] ^= 0x55
    file.write_bytes(octets)
    with h5py.File(file) as opened, pytest.raises(OSError, match="filter"):
        opened["x"][...]
