"""Format the shares in a table's cells, over the seeds of an arm."""

import numpy as np
from jaxtyping import Float


def spread(values: Float[np.ndarray, " seed"] | None) -> str:
    """Mean, least and most of the seeds; "-" without values."""
    if values is None or not len(values):
        return "-"
    return f"{values.mean():.2f} ({values.min():.2f}..{values.max():.2f})"


def mean(values: Float[np.ndarray, " seed"] | None) -> str:
    """The mean; "-" without values."""
    return "-" if values is None or not len(values) else f"{values.mean():.2f}"


def span(interval: tuple[float, float]) -> str:
    """An interval of a difference."""
    return f"{interval[0]:+.3f}..{interval[1]:+.3f}"
