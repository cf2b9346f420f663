"""One chunk as HDF5 stores it: shuffled, deflated, with its Fletcher-32 behind it.

h5py holds the interpreter while HDF5 filters, so a chunk is made here and handed over as it is: in a third of the
time, and in as many threads as there are cores, since NumPy and zlib let go of the interpreter.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

_ROW = (
    512  # words summed at once: sums of rows and, in chunks of up to 64 MiB, of columns fit 32 bits
)
_AHEAD = 64  # chunks that are made before the first of them is taken
_STORED = 0xFFFF  # bytes that a block of a deflate stream holds as they are


def encoded_all(
    array: np.ndarray,
    starts: Iterable[tuple[int, ...]],
    shape: tuple[int, ...],
    level: int,
    threads: ThreadPoolExecutor | None = None,
) -> Iterator[bytes | None]:
    """The bytes of an array's chunks, in order. None where all values are zero: such a chunk takes no room.

    Args:
        array: The values.
        starts: Where each chunk begins.
        shape: The shape of all chunks; those at the edge are filled up with zeros.
        level: Of deflate.
        threads: What makes the chunks, a few ahead of the one asked for. None: this thread.
    """
    if threads is None:
        yield from (_encoded(array, start, shape, level) for start in starts)
        return
    ahead: deque[Future[bytes | None]] = deque()
    for start in starts:
        ahead.append(threads.submit(_encoded, array, start, shape, level))
        if len(ahead) == _AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def fletcher32(data: bytes) -> int:
    """HDF5's Fletcher-32: two sums of big-endian 16-bit words modulo 65535, the second weighted by place.

    A sum that is a multiple of 65535 is 65535, and 0 only where every word is. Summed here in the words' little-endian
    reading: swapping the bytes of a word multiplies it by 256 modulo 65535, so that of a sum too.
    """
    words = np.frombuffer(data + bytes(len(data) % 2), dtype="<u2")
    table = np.zeros((-(-len(words) // _ROW), _ROW), np.uint32)
    table.reshape(-1)[: len(words)] = words
    rows = table.sum(1, dtype=np.uint32).astype(np.int64)
    columns = table.sum(0, dtype=np.uint32).astype(np.int64)
    weighted = rows @ (len(words) - _ROW * np.arange(len(rows))) - columns @ np.arange(_ROW)
    return _swapped(int(weighted)) << 16 | _swapped(int(rows.sum()))


def _swapped(total: int) -> int:
    """A sum modulo 65535, its bytes swapped."""
    word = (total - 1) % 65535 + 1 if total else 0
    return word >> 8 | (word & 0xFF) << 8


def _encoded(
    array: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...], level: int
) -> bytes | None:
    values = array[tuple(slice(i, i + n) for i, n in zip(start, shape, strict=True))]
    values = np.ascontiguousarray(values)
    if not values.reshape(-1).view(np.uint8).any():
        return None
    if values.shape != shape:
        values = np.pad(values, [(0, n - m) for n, m in zip(shape, values.shape, strict=True)])
    shuffled = _shuffled(values).data.cast("B")
    data = zlib.compress(shuffled, level) if level else _stored(shuffled)
    return data + fletcher32(data).to_bytes(4, "little")


def _stored(raw: memoryview) -> bytes:
    """Bytes as they are in a deflate stream (RFC 1950, 1951), which zlib at level 0 takes several times as long for."""
    pieces: list[bytes | memoryview] = [b"\x78\x01"]
    for first in range(0, len(raw), _STORED):
        block = raw[first : first + _STORED]
        size = len(block).to_bytes(2, "little")
        last = bytes([first + len(block) == len(raw)])
        pieces += [last, size, bytes(byte ^ 0xFF for byte in size), block]
    return b"".join([*pieces, zlib.adler32(raw).to_bytes(4, "big")])


def _shuffled(values: np.ndarray) -> np.ndarray:
    """The values' first bytes, then their second bytes, and so on: HDF5's shuffle."""
    bytewise = values.reshape(-1).view(np.uint8)
    size = values.dtype.itemsize
    planes = np.empty((size, len(bytewise) // size), np.uint8)
    for place, plane in enumerate(planes):  # three times as fast as a transposition
        plane[:] = bytewise[place::size]
    return planes
