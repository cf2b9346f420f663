"""Maps as small images: reduced by blocks, and transparent PNGs where a map has no entry."""

import base64
import functools
import struct
import zlib
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from ssmlens.plot.theme import Stop

Reduction = Literal["mean", "peak"]
_NOTHING = 255  # the palette's last entry, transparent: NaN

LEVELS = _NOTHING - 1
"""Steps of the palette from its first colour to its last."""


def causal(
    values: Float[np.ndarray, "query key"], first: int = 0
) -> Float[np.ndarray, "query key"]:
    """Set cells with a key after the query to NaN: they are empty, not zero.

    Args:
        values: A map, or a rectangle of it.
        first: Position of the first query minus position of the first key; 0 for a full map.
    """
    query, key = np.ogrid[: values.shape[0], : values.shape[1]]
    return np.where(key <= query + first, values, np.nan)


def block_reduce(
    values: Float[np.ndarray, "query key"], block: int, how: Reduction
) -> Float[np.ndarray, "query_block key_block"]:
    """Reduce each `block` × `block` square of tokens to one value; the last blocks may be smaller.

    Args:
        values: A map; NaN cells are ignored, and a block of only NaN is NaN.
        block: Tokens per side.
        how: "mean", or "peak": the value of largest magnitude with its sign, which keeps a one-token
            diagonal.
    """
    if block == 1:
        return values
    rows, columns = (-(-n // block) for n in values.shape)
    padded = np.full((rows * block, columns * block), np.nan, values.dtype)
    padded[: values.shape[0], : values.shape[1]] = values
    cells = padded.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(rows, columns, -1)
    known = ~np.isnan(cells)
    if how == "mean":
        total = np.where(known, cells, 0).sum(-1)
        count = known.sum(-1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(values.dtype)
    largest = np.where(known, np.abs(cells), -1).argmax(-1)[..., None]
    return np.take_along_axis(cells, largest, -1)[..., 0]


def palette_png(
    position: Float[np.ndarray, "row column"],
    stops: tuple[Stop, ...],
    *,
    signed: bool,
    pixels: int | tuple[int, int] = 1,
    level: int = 9,
) -> bytes:
    """Draw a PNG of colour positions, one palette index per pixel; NaN is transparent.

    Args:
        position: In [-1, 1] when signed, [0, 1] otherwise (`scales.coloured`); clipped to it.
        stops: The colour scale, from `theme`.
        signed: Whether position 0 lies in the middle of the scale.
        pixels: Side of a cell in pixels, or its height and width.
        level: zlib's level, 1 (fast) to 9 (small).
    """
    half = (_NOTHING - 1) / 2
    share = position * half + half if signed else position * (2 * half)
    np.clip(share, 0, 2 * half, out=share)
    index = np.rint(np.where(np.isfinite(share), share, _NOTHING)).astype(np.uint8)
    tall, wide = (pixels, pixels) if isinstance(pixels, int) else pixels
    if tall > 1 or wide > 1:
        index = index.repeat(tall, axis=0).repeat(wide, axis=1)
    return _png(index, palette_of(stops), level)


@functools.cache
def palette_of(stops: tuple[Stop, ...]) -> UInt8[np.ndarray, "256 rgba=4"]:
    """Return red, green, blue and opacity of each index; the last is for NaN."""
    palette = np.zeros((256, 4), np.uint8)
    places, colours = [p for p, _ in stops], np.array([c for _, c in stops]) * [1, 1, 1, 255]
    for channel in range(4):
        levels = np.interp(np.arange(_NOTHING) / (_NOTHING - 1), places, colours[:, channel])
        palette[:_NOTHING, channel] = np.rint(levels)
    return palette


def data_uri(png: bytes) -> str:
    """Encode a PNG as a `data:` URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(
    index: UInt8[np.ndarray, "row column"], palette: UInt8[np.ndarray, "256 rgba=4"], level: int
) -> bytes:
    height, width = index.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), index], axis=1)  # filter 0 before each
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), level)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
