"""One chunk as HDF5 stores it: deflated, followed by its Fletcher-32; shuffled first where deflate shrinks it.

h5py keeps the interpreter lock while HDF5 filters a chunk. So chunks are encoded here and written directly. This takes
a fraction of the time and runs in several threads, because NumPy and isal release the lock.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from isal import isal_zlib

_ROW = (
    512  # words summed at once: sums of rows and, in chunks of up to 64 MiB, of columns fit 32 bits
)
_AHEAD = 16  # chunks encoded ahead of the one that is written
_STORED = 0xFFFF  # most bytes of an uncompressed deflate block


def encode_chunks(
    array: np.ndarray,
    starts: Iterable[tuple[int, ...]],
    shape: tuple[int, ...],
    level: int,
    threads: ThreadPoolExecutor | None = None,
) -> Iterator[bytearray | None]:
    """Yield the bytes of an array's chunks, in order. None where all values are zero: such a chunk is not stored.

    Args:
        array: The values.
        starts: Where each chunk begins.
        shape: The shape of all chunks; those at the edge are padded with zeros.
        level: Deflate level, after a shuffle; 0 stores the values uncompressed and unshuffled, in a valid stream.
        threads: The pool that encodes the chunks, a few ahead. None: this thread.
    """
    if threads is None:
        yield from (_encode(array, start, shape, level) for start in starts)
        return
    ahead: deque[Future[bytearray | None]] = deque()
    for start in starts:
        ahead.append(threads.submit(_encode, array, start, shape, level))
        if len(ahead) == _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def fletcher32(data: bytes | memoryview) -> int:
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
        weighted += int(rows @ places - columns @ np.arange(_ROW))
        total += int(rows.sum())
    return _swap_bytes(weighted) << 16 | _swap_bytes(total)


def _swap_bytes(total: int) -> int:
    """Reduce a sum modulo 65535 and swap its bytes."""
    word = (total - 1) % 65535 + 1 if total else 0
    return word >> 8 | (word & 0xFF) << 8


def _encode(
    array: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...], level: int
) -> bytearray | None:
    values = array[tuple(slice(i, i + n) for i, n in zip(start, shape, strict=True))]
    values = np.ascontiguousarray(values)
    if not values.reshape(-1).view(np.uint8).any():
        return None
    if values.shape != shape:
        values = np.pad(values, [(0, n - m) for n, m in zip(shape, values.shape, strict=True)])
    data = _deflate(_shuffle(values), level) if level else _wrap_uncompressed(values)
    data[-4:] = fletcher32(memoryview(data)[:-4]).to_bytes(4, "little")
    return data


def _deflate(values: np.ndarray, level: int) -> bytearray:
    """Deflate the values; leave four bytes at the end for the checksum."""
    return bytearray(isal_zlib.compress(values, level)) + bytes(4)


def _wrap_uncompressed(values: np.ndarray) -> bytearray:
    """Wrap the values, uncompressed, in a deflate stream (RFC 1950, 1951).

    zlib at level 0 does the same in several times the time. Four bytes are left at the end for the checksum.
    """
    raw = values.reshape(-1).view(np.uint8).data
    data = bytearray(2 + len(raw) + 5 * -(-len(raw) // _STORED) + 4 + 4)
    data[:2], place = b"\x78\x01", 2
    for first in range(0, len(raw), _STORED):
        block = raw[first : first + _STORED]
        size = len(block)
        last = first + size == len(raw)
        data[place : place + 5] = struct.pack("<BHH", last, size, size ^ 0xFFFF)
        data[place + 5 : place + 5 + size] = block
        place += 5 + size
    data[place : place + 4] = isal_zlib.adler32(raw).to_bytes(4, "big")
    return data


def _shuffle(values: np.ndarray) -> np.ndarray:
    """Apply HDF5's shuffle: the values' first bytes, then their second bytes, and so on."""
    bytewise = values.reshape(-1).view(np.uint8)
    size = values.dtype.itemsize
    planes = np.empty((size, len(bytewise) // size), np.uint8)
    for place, plane in enumerate(planes):  # three times as fast as a transposition
        plane[:] = bytewise[place::size]
    return planes
