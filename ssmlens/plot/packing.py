"""Numbers inside an HTML page: bfloat16, deflated, base64; about two bytes a cell."""

import base64
import json
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float


def pack(values: Float[np.ndarray, " cell"]) -> str:
    """Finite values as text that `unpack` in report.js reads back, each within 0.4 % of itself.

    bfloat16 (float32 without its lower half, rounded to nearest) keeps float32's range, which maps
    need: their entries span many decades. High bytes first, then low bytes: signs and exponents
        deflate well on their own.
    """
    half = _bfloat16(values)
    planes = (half >> 8).astype(np.uint8).tobytes() + (half & 0xFF).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(planes, 6)).decode("ascii")


def packed_values(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The values as whoever unpacks them has them; NaN stays NaN."""
    kept = (_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), kept)


def pack_exactly(values: Float[np.ndarray, " cell"]) -> str:
    """A few float32 values as text, little end first."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of the float32 values nearest to some."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(values: Float[np.ndarray, " cell"], digits: int = 4) -> list[float | None]:
    """Numbers as JSON has them, to so many significant digits; None for what is not finite."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0).astype(np.float64)
    magnitude = np.maximum(np.abs(known), 1e-300)
    places = np.minimum(digits - 1 - np.floor(np.log10(magnitude)), 300)
    power = 10.0 ** np.abs(
        places
    )  # exact up to 22, so that each is the number nearest to its digits
    with np.errstate(over="ignore"):  # in the one of the two that is not taken
        after, before = np.round(known * power) / power, np.round(known / power) * power
    short = np.where(places >= 0, after, before).tolist()
    if finite.all():
        return short
    return [value if there else None for value, there in zip(short, finite, strict=True)]


def lower_triangle(values: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " cell"]:
    """The cells with key ≤ query, row after row: all that a causal map holds."""
    return values[np.tril_indices(len(values))]


_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def script_json(value: Any) -> str:
    """JSON that can stand inside a <script> element: nothing in it can end it or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(str.maketrans(_ESCAPES))
