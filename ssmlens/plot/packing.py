"""Numbers inside an HTML page: bfloat16, deflated, base64; about two bytes per cell."""

import base64
import json
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float


def pack(values: Float[np.ndarray, " cell"]) -> str:
    """Encode finite values as text that `unpack` in report.js decodes, each within 0.4 %.

    bfloat16 (float32 without its lower half, rounded to nearest) keeps float32's range, which maps
    need: their entries span many decades. High bytes come first, then low bytes: signs and exponents deflate well
    by themselves.
    """
    half = _bfloat16(values)
    planes = (half >> 8).astype(np.uint8).tobytes() + (half & 0xFF).astype(np.uint8).tobytes()
    return base64.b64encode(zlib.compress(planes, 6)).decode("ascii")


def packed_values(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return the values after packing and unpacking; NaN stays NaN."""
    unpacked = (_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), unpacked)


def pack_exactly(values: Float[np.ndarray, " cell"]) -> str:
    """Encode float32 values as text without loss, little end first."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Round values to bfloat16; return the upper halves of float32."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded(values: Float[np.ndarray, " cell"], digits: int = 4) -> list[float | None]:
    """Round numbers for JSON to some significant digits; None if not finite."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0).astype(np.float64)
    magnitude = np.maximum(np.abs(known), 1e-300)
    places = np.minimum(digits - 1 - np.floor(np.log10(magnitude)), 300)
    power = 10.0 ** np.abs(
        places
    )  # exact up to 22, so that each is the number nearest to its digits
    with np.errstate(over="ignore"):  # in the branch that is not used
        after, before = np.round(known * power) / power, np.round(known / power) * power
    short = np.where(places >= 0, after, before).tolist()
    if finite.all():
        return short
    return [value if is_finite else None for value, is_finite in zip(short, finite, strict=True)]


def lower_triangle(values: Float[np.ndarray, "query key"]) -> Float[np.ndarray, " cell"]:
    """Return the cells with key ≤ query, row by row: all cells of a causal map."""
    return values[np.tril_indices(len(values))]


_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def script_json(value: Any) -> str:
    """Encode JSON for a <script> element: nothing in it can close the element or open a new one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(str.maketrans(_ESCAPES))
