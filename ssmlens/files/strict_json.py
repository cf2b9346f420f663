"""Values for JSON as its standard has them: it knows neither NaN nor infinities."""

import math
from typing import Any


def without_nan(value: Any) -> Any:
    """The same values as plain ones that JSON can hold: arrays and tuples as lists, NaN and infinities as None."""
    if hasattr(value, "tolist"):  # arrays, and single numbers, of numpy and torch
        value = value.tolist()
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
