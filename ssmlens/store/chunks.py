"""One chunk as HDF5 stores it: deflated, followed by its Fletcher-32; shuffled first where deflate shrinks it.

h5py keeps the interpreter lock while HDF5 filters a chunk. So chunks are encoded here and written directly. This takes
a fraction of the time, beside the caller, because NumPy and isal release the lock. After each call a thread takes the
lock again, and so does a caller that launches work on a GPU. So a chunk takes few calls.
"""

import struct

import numpy as np
from isal import isal_zlib

# Words summed at once: sums of rows and, in chunks of up to 64 MiB, of columns fit 32 bits.
_ROW = 512
_COLUMNS = np.arange(_ROW)
_FIRST = 256  # bytes: nearly every chunk that is not zero has a value in them
_STORED = 0xFFFF  # most bytes of an uncompressed deflate block


def encode_chunk(
    array: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...], level: int
) -> np.ndarray | None:
    """The bytes of a chunk; None where all values are zero: such a chunk is not stored.

    Args:
        array: The values.
        start: Where the chunk begins.
        shape: The shape of all chunks; those at the edge are padded with zeros.
        level: Deflate level, after a shuffle; 0 stores the values uncompressed and unshuffled, in a valid stream.
    """
    values = array[tuple(slice(i, i + n) for i, n in zip(start, shape, strict=True))]
    values = np.ascontiguousarray(values)
    octets = values.reshape(-1).view(np.uint8)
    if not octets[:_FIRST].any() and not octets.any():
        return None
    if values.shape != shape:
        values = np.pad(values, [(0, n - m) for n, m in zip(shape, values.shape, strict=True)])
    data = _deflate(_shuffle(values), level) if level else _wrap_uncompressed(values)
    data[-4:].view("<u4")[:] = fletcher32(data[:-4])
    return data


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
    """Deflate the values; leave four bytes at the end for the checksum."""
    stream = np.frombuffer(isal_zlib.compress(values, level), np.uint8)
    data = np.empty(len(stream) + 4, np.uint8)
    data[:-4] = stream
    return data


def _wrap_uncompressed(values: np.ndarray) -> np.ndarray:
    """Wrap the values, uncompressed, in a deflate stream (RFC 1950, 1951).

    zlib at level 0 does the same in several times the time. Four bytes are left at the end for the checksum.
    """
    raw = values.reshape(-1).view(np.uint8)
    full = (len(raw) - 1) // _STORED  # blocks before the last
    data = np.empty(2 + len(raw) + 5 * (full + 1) + 4 + 4, np.uint8)
    data[:2] = (0x78, 0x01)
    blocks, rest = np.split(data[2:-8], [full * (5 + _STORED)])
    blocks, inside = blocks.reshape(full, 5 + _STORED), full * _STORED
    blocks[:, :5] = _block_header(_STORED, last=False)
    blocks[:, 5:] = raw[:inside].reshape(full, _STORED)
    rest[:5] = _block_header(len(raw) - inside, last=True)
    rest[5:] = raw[inside:]
    data[-8:-4].view(">u4")[:] = isal_zlib.adler32(raw)
    return data


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
