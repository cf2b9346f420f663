"""From values to colours: linear, symmetric-log and rank scales, with robust limits."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

Scale = Literal["linear", "symlog", "rank"]
SCALES: tuple[Scale, ...] = ("linear", "symlog", "rank")

DECADES = 3.0
"""Decades below its limit that a symmetric-log scale resolves."""


@dataclasses.dataclass(frozen=True)
class Coloured:
    """Values placed on a colour scale.

    Attributes:
        position: Position of each value: in [-1, 1] if signed, else in [0, 1]; beyond for a value above
            `limit`. NaN stays NaN.
        limit: The value at position 1.
        ticks: Positions and texts of the colour bar's ticks.
    """

    position: Float[np.ndarray, "query key"]
    limit: float
    ticks: tuple[tuple[float, ...], tuple[str, ...]]


def robust_limit(values: Float[np.ndarray, "..."]) -> float:
    """The 99th percentile of |value| over finite, non-zero values: what the end of a scale stands for.

    A copying diagonal is a few cells in a thousand, so it reaches the end of the scale; a single
    spike does not wash out all other cells. Returns 1.0 without such values.
    """
    magnitude = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.percentile(magnitude, 99)) if magnitude.size else 1.0


def coloured(
    values: Float[np.ndarray, "query key"],
    scale: Scale = "linear",
    *,
    signed: bool = True,
    limit: float | None = None,
) -> Coloured:
    """Place values on a colour scale, symmetric about 0 when `signed`.

    linear: v / limit. symlog: sign(v) · log(1 + |v|/θ) / log(1 + limit/θ) with θ = limit · 10^-3.
    rank: sign(v) times the share of non-zero |values| that are not larger.

    Args:
        values: The values; NaN for an empty cell.
        scale: "linear", "symlog" or "rank".
        signed: False for values in [0, limit], such as a mask.
        limit: The value at the end of the scale. Default: 1 for unsigned values, else the robust
            limit (linear) or the largest magnitude (symlog). A rank scale ignores it.
    """
    magnitude = np.abs(values)
    if scale == "rank":
        known = np.sort(_known(magnitude))
        share = np.searchsorted(known, magnitude, side="right") / max(known.size, 1)
        position = np.where(np.isnan(values), np.nan, np.sign(values) * share)
        return Coloured(position, 1.0, _ticks(signed, (0.5, 1.0), ("50 %", "100 %")))
    if limit is None:
        limit = 1.0 if not signed else _default_limit(values, scale)
    if scale == "linear":
        marks = _round_marks(limit)
        at, text = tuple(m / limit for m in marks), tuple(f"{m:g}" for m in marks)
        return Coloured(values / limit, limit, _ticks(signed, at, text))
    threshold = limit * 10.0**-DECADES
    position = np.sign(values) * _compress(magnitude, threshold, limit)
    top = int(np.floor(np.log10(limit)))
    marks = [10.0**k for k in range(top - 2, top + 1)]
    at = tuple(_compress(np.array(marks), threshold, limit).tolist())
    return Coloured(position, limit, _ticks(signed, at, tuple(f"{m:g}" for m in marks)))


def _compress(magnitude: np.ndarray, threshold: float, limit: float) -> np.ndarray:
    return np.log1p(magnitude / threshold) / np.log1p(limit / threshold)


def _known(magnitude: np.ndarray) -> np.ndarray:
    """Select the finite values that are not zero."""
    return magnitude[np.isfinite(magnitude) & (magnitude > 0)]


def _default_limit(values: np.ndarray, scale: Scale) -> float:
    if scale == "linear":
        return robust_limit(values)
    known = _known(np.abs(values))
    return float(known.max()) if known.size else 1.0


def _round_marks(limit: float) -> list[float]:
    """Return two to five round numbers up to the limit: multiples of 1, 2 or 5 times a power of ten."""
    decade = 10.0 ** np.floor(np.log10(limit / 2))
    step = max(m * decade for m in (1, 2, 5) if m * decade <= limit / 2)
    return [step * k for k in range(1, int(limit / step) + 1)]


def _ticks(
    signed: bool, at: tuple[float, ...], text: tuple[str, ...]
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    if not signed:
        return (0.0, *at), ("0", *text)
    below, minus = tuple(-p for p in reversed(at)), tuple(f"−{t}" for t in reversed(text))
    return (*below, 0.0, *at), (*minus, "0", *text)
