"""Small samples: confidence intervals and a test of two means, by scipy."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a mean by Student's t, mean ± t·s/√n, cut to 0..1; NaN for one value."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * np.std(values, ddof=1) / math.sqrt(n)
    middle = float(np.mean(values))
    return max(0.0, middle - float(half)), min(1.0, middle + float(half))


def is_above(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether the mean of one sample is above the other's at 5 %, by Welch's t-test (two-sided).

    Two samples that do not scatter at all are compared by their means.
    """
    samples = [(float(np.mean(v)), float(np.std(v, ddof=1)), len(v)) for v in (one, other)]
    if samples[0][0] <= samples[1][0]:
        return False
    if samples[0][1] == samples[1][1] == 0:
        return True
    test = stats.ttest_ind_from_stats(*samples[0], *samples[1], equal_var=False)
    return bool(test.pvalue < 1 - _LEVEL)
