"""Chunks as HDF5 stores them: deflated, shuffled first where deflate shrinks them, followed by a Fletcher-32.

h5py keeps the interpreter lock while HDF5 filters a chunk. So chunks are encoded here and written directly. This takes
a fraction of the time, beside the caller, because NumPy and isal release the lock. After each call a thread takes the
lock again, and so does a caller that launches work on a GPU. So all chunks along an axis, a row, are encoded together.

A large uncompressed chunk has no Fletcher-32, and its filter mask tells HDF5 so: the Adler-32 in its deflate stream
checks the same bytes as well. NumPy takes longer over a Fletcher-32 than isal over an Adler-32.
"""

import functools
import itertools
import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

# Words summed at once: sums of rows and, in chunks of up to 64 MiB, of columns fit 32 bits.
_ROW = 512
_COLUMNS = np.arange(_ROW)
_STORED = 0xFFFF  # most bytes of an uncompressed deflate block
# Bytes from which an Adler-32 alone checks a chunk. In a few hundred bytes its sums do not use all 32 bits.
_LARGE = 1 << 14
_NO_FLETCHER32 = 0b10  # the second filter of an uncompressed chunk, after deflate


class Chunk(NamedTuple):
    """A chunk to write with `write_direct_chunk`.

    Attributes:
        start: Where it begins.
        data: Its bytes.
        filter_mask: A bit for each of the dataset's filters that was skipped.
    """

    start: tuple[int, ...]
    data: np.ndarray
    filter_mask: int


def encode_rows(array: np.ndarray, shape: tuple[int, ...], level: int) -> Iterator[list[Chunk]]:
    """Encode an array's chunks, row by row along an axis, except those whose values are all zero.

    The rows share their memory: use the chunks of one before the next.

    Args:
        array: The values.
        shape: The shape of all chunks; those at the edge are padded with zeros.
        level: Deflate level, after a shuffle; 0 stores the values uncompressed and unshuffled, in a valid stream.
    """
    several = [n > size for n, size in zip(array.shape, shape, strict=True)]
    axis = max((k for k, more in enumerate(several) if more), default=len(shape) - 1)
    others = [
        range(0, n, size) if k != axis else (0,)
        for k, (n, size) in enumerate(zip(array.shape, shape, strict=True))
    ]
    memory = _Memory(-(-array.shape[axis] // shape[axis]), math.prod(shape) * array.dtype.itemsize)
    for start in itertools.product(*others):
        here = tuple(
            slice(None) if k == axis else slice(first, first + size)
            for k, (first, size) in enumerate(zip(start, shape, strict=True))
        )
        row = _padded(array[here], shape, axis)
        yield [
            Chunk((*start[:axis], number * shape[axis], *start[axis + 1 :]), data, mask)
            for number, data, mask in _encode_row(row, shape, axis, level, memory)
        ]


class _Memory:
    """Memory for a row of chunks and their streams. It takes longer to get from the system than to fill."""

    def __init__(self, count: int, size: int):
        self._shape = count, size

    @functools.cached_property
    def chunks(self) -> np.ndarray:
        """[chunk byte]"""
        return np.empty(self._shape, np.uint8)

    @functools.cached_property
    def streams(self) -> np.ndarray:
        """[chunk byte] with the headers of uncompressed blocks, which do not change, and room for an Adler-32."""
        count, size = self._shape
        full = (size - 1) // _STORED  # blocks before the last
        streams = np.empty((count, 2 + size + 5 * (full + 1) + 4), np.uint8)
        streams[:, :2] = (0x78, 0x01)
        blocks, rest = _blocks(streams)
        blocks[:, :, :5] = _block_header(_STORED, last=False)
        rest[:, :5] = _block_header(size - full * _STORED, last=True)
        return streams


def _padded(values: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Pad a row of chunks along an axis to whole chunks."""
    whole = [-(-n // size) * size for n, size in zip(values.shape, shape, strict=True)]
    if tuple(whole) == values.shape:
        return values
    return np.pad(values, [(0, n - m) for n, m in zip(whole, values.shape, strict=True)])


def _encode_row(
    row: np.ndarray, shape: tuple[int, ...], axis: int, level: int, memory: _Memory
) -> list[tuple[int, np.ndarray, int]]:
    """Encode the chunks of a row that are not zero, as (number, bytes, filter mask)."""
    before, after = math.prod(shape[:axis]), math.prod(shape[axis:]) * row.dtype.itemsize
    # As bytes: −0.0 is not zero, and text has no other form.
    octets = np.ascontiguousarray(row).reshape(-1).view(np.uint8).reshape(before, -1, after)
    nonzero = octets[0].any(1)  # nearly every chunk that is not zero has a value there
    for number in np.flatnonzero(~nonzero).tolist():
        nonzero[number] = octets[:, number].any()
    chosen = np.flatnonzero(nonzero).tolist()
    if not chosen:
        return []
    count = chosen[-1] + 1
    chunks = memory.chunks[:count]
    np.copyto(chunks.reshape(count, before, -1), octets[:, :count].transpose(1, 0, 2))
    if level:
        shuffled = ((number, _shuffle(chunks[number].view(row.dtype))) for number in chosen)
        return [(number, _add_fletcher32(_deflate(data, level)), 0) for number, data in shuffled]
    streams = memory.streams[:count]
    _wrap_uncompressed(chunks, streams)
    for number in chosen:
        streams[number, -4:].view(">u4")[:] = isal_zlib.adler32(chunks[number])
    if chunks.shape[1] >= _LARGE:
        return [(number, streams[number], _NO_FLETCHER32) for number in chosen]
    return [(number, _add_fletcher32(streams[number]), 0) for number in chosen]


def _add_fletcher32(data: np.ndarray) -> np.ndarray:
    return np.append(data, np.array([fletcher32(data)], "<u4").view(np.uint8))


def fletcher32(data: bytes | memoryview | np.ndarray) -> int:
    """HDF5's Fletcher-32: two sums of big-endian 16-bit words modulo 65535, the second weighted by place.

    A sum that is a multiple of 65535 is stored as 65535, or as 0 if every word is 0. The words are read here as
    little-endian: swapping the bytes of a word multiplies it by 256 modulo 65535, and so it does to a sum.
    """
    octets = np.frombuffer(data, np.uint8)
    words = -(-len(octets) // 2)
    full = len(octets) // (2 * _ROW) * (2 * _ROW)  # bytes in complete rows
    last = np.zeros(2 * _ROW, np.uint8)
    last[: len(octets) - full] = octets[full:]
    total = weighted = 0
    for table, first in ((octets[:full], 0), (last, full // 2)):
        grid = table.view("<u2").reshape(-1, _ROW)
        rows = grid.sum(1, dtype=np.uint32).astype(np.int64)
        columns = grid.sum(0, dtype=np.uint32).astype(np.int64)
        places = words - first - _ROW * np.arange(len(rows))
        weighted += int(rows @ places - columns @ _COLUMNS)
        total += int(rows.sum())
    return _swap_bytes(weighted) << 16 | _swap_bytes(total)


def _swap_bytes(total: int) -> int:
    """Reduce a sum modulo 65535 and swap its bytes."""
    word = (total - 1) % 65535 + 1 if total else 0
    return word >> 8 | (word & 0xFF) << 8


def _deflate(values: np.ndarray, level: int) -> np.ndarray:
    return np.frombuffer(isal_zlib.compress(values, level), np.uint8)


def _wrap_uncompressed(chunks: np.ndarray, streams: np.ndarray) -> None:
    """Wrap chunks [chunk byte], uncompressed, in deflate streams (RFC 1950, 1951) without their Adler-32.

    zlib at level 0 does the same in several times the time.
    """
    blocks, rest = _blocks(streams)
    inside = blocks.shape[1] * _STORED
    blocks[:, :, 5:] = chunks[:, :inside].reshape(blocks.shape[0], blocks.shape[1], _STORED)
    rest[:, 5:] = chunks[:, inside:]


def _blocks(streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The full blocks of streams, [chunk block byte], and their last ones, [chunk byte], with their headers."""
    count, size = streams.shape
    full = (size - 2 - 4 - 5 - 1) // (5 + _STORED)
    edge = 2 + full * (5 + _STORED)
    return streams[:, 2:edge].reshape(count, full, 5 + _STORED), streams[:, edge:-4]


def _block_header(size: int, *, last: bool) -> np.ndarray:
    return np.frombuffer(struct.pack("<BHH", last, size, size ^ _STORED), np.uint8)


def _shuffle(values: np.ndarray) -> np.ndarray:
    """Apply HDF5's shuffle: the values' first bytes, then their second bytes, and so on."""
    bytewise = values.reshape(-1).view(np.uint8)
    size = values.dtype.itemsize
    planes = np.empty((size, len(bytewise) // size), np.uint8)
    for place, plane in enumerate(planes):  # three times as fast as a transposition
        plane[:] = bytewise[place::size]
    return planes
