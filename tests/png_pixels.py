"""A PNG read by its specification."""

import struct
import zlib

import numpy as np


def decode_png(png):
    """Pixels [height, width, rgba] of an unfiltered palette PNG, by the PNG specification."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (size,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            kind + body
        )
        chunks[kind], at = body, at + 12 + size
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 3)
    lines = zlib.decompress(chunks[b"IDAT"])
    palette = [(*chunks[b"PLTE"][3 * i : 3 * i + 3], chunks[b"tRNS"][i]) for i in range(256)]
    pixels = np.zeros((height, width, 4), int)
    for row in range(height):
        line = lines[row * (width + 1) : (row + 1) * (width + 1)]
        assert line[0] == 0
        pixels[row] = [palette[i] for i in line[1:]]
    return pixels
