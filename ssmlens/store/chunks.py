"""One chunk as HDF5 stores it: deflated, with its Fletcher-32 behind it; shuffled where deflate makes it smaller.

h5py holds the interpreter while HDF5 filters, so a chunk is made here and handed over as it is: in a fraction of the
time, and in as many threads as there are cores, since NumPy and isal let go of the interpreter.
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
_AHEAD = 16  # chunks that are made before the first of them is taken
_STORED = 0xFFFF  # bytes that a block of a deflate stream holds as they are


def encoded_all(
    array: np.ndarray,
    starts: Iterable[tuple[int, ...]],
    shape: tuple[int, ...],
    level: int,
    threads: ThreadPoolExecutor | None = None,
) -> Iterator[bytearray | None]:
    """The bytes of an array's chunks, in order. None where all values are zero: such a chunk takes no room.

    Args:
        array: The values.
        starts: Where each chunk begins.
        shape: The shape of all chunks; those at the edge are filled up with zeros.
        level: Of deflate, shuffled before; 0 stores the values as they are, in a valid stream.
        threads: What makes the chunks, a few ahead of the one asked for. None: this thread.
    """
    if threads is None:
        yield from (_encoded(array, start, shape, level) for start in starts)
        return
    ahead: deque[Future[bytearray | None]] = deque()
    for start in starts:
        ahead.append(threads.submit(_encoded, array, start, shape, level))
        if len(ahead) == _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def fletcher32(data: bytes | memoryview) -> int:
    """HDF5's Fletcher-32: two sums of big-endian 16-bit words modulo 65535, the second weighted by place.

    A sum that is a multiple of 65535 is 65535, and 0 only where every word is. Summed here in the words' little-endian
    reading: swapping the bytes of a word multiplies it by 256 modulo 65535, so that of a sum too.
    """
    given = np.frombuffer(data, np.uint8)
    words = -(-len(given) // 2)
    whole = len(given) // (2 * _ROW) * (2 * _ROW)
    last = np.zeros(2 * _ROW, np.uint8)
    last[: len(given) - whole] = given[whole:]
    total = weighted = 0
    for table, first in ((given[:whole], 0), (last, whole // 2)):
        rows_of = table.view("<u2").reshape(-1, _ROW)
        rows = rows_of.sum(1, dtype=np.uint32).astype(np.int64)
        columns = rows_of.sum(0, dtype=np.uint32).astype(np.int64)
        places = words - first - _ROW * np.arange(len(rows))
        weighted += int(rows @ places - columns @ np.arange(_ROW))
        total += int(rows.sum())
    return _swapped(weighted) << 16 | _swapped(total)


def _swapped(total: int) -> int:
    """A sum modulo 65535, its bytes swapped."""
    word = (total - 1) % 65535 + 1 if total else 0
    return word >> 8 | (word & 0xFF) << 8


def _encoded(
    array: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...], level: int
) -> bytearray | None:
    values = array[tuple(slice(i, i + n) for i, n in zip(start, shape, strict=True))]
    values = np.ascontiguousarray(values)
    if not values.reshape(-1).view(np.uint8).any():
        return None
    if values.shape != shape:
        values = np.pad(values, [(0, n - m) for n, m in zip(shape, values.shape, strict=True)])
    data = _deflated(_shuffled(values), level) if level else _stored(values)
    data[-4:] = fletcher32(memoryview(data)[:-4]).to_bytes(4, "little")
    return data


def _deflated(values: np.ndarray, level: int) -> bytearray:
    """Values as a deflate stream; four bytes are left behind it for the checksum."""
    return bytearray(isal_zlib.compress(values, level)) + bytes(4)


def _stored(values: np.ndarray) -> bytearray:
    """Values as they are in a deflate stream (RFC 1950, 1951), which zlib at level 0 takes several times as long for.

    Four bytes are left behind it for the checksum.
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


def _shuffled(values: np.ndarray) -> np.ndarray:
    """The values' first bytes, then their second bytes, and so on: HDF5's shuffle."""
    bytewise = values.reshape(-1).view(np.uint8)
    size = values.dtype.itemsize
    planes = np.empty((size, len(bytewise) // size), np.uint8)
    for place, plane in enumerate(planes):  # three times as fast as a transposition
        plane[:] = bytewise[place::size]
    return planes
