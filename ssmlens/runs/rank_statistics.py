"""How far two orders of a teacher's layers agree: rank correlations, pooled, with intervals and tests along depth."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Values = Float[np.ndarray, " layer"]
Rows = Float[np.ndarray, "sample layer"]

_BLOCK = 3
_SAMPLES = 10_000
# Fisher's z of a perfect correlation is infinite.
_MOST = 0.999


def correlation(a: Values, b: Values) -> float:
    """Return Spearman's rank correlation over the finite pairs; ties share their mean rank.

    NaN for fewer than three pairs, and if one of the two does not vary.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return math.nan
    result: Any = stats.spearmanr(a[both], b[both])
    return float(result.statistic)


def row_correlations(a: Rows, b: Rows) -> Float[np.ndarray, " sample"]:
    """Return Spearman's rank correlation of each row of `a` with that of `b`, all finite; NaN if one does not vary."""
    return _pearson(stats.rankdata(a, axis=1), stats.rankdata(b, axis=1))


def partial_correlations(
    a: Rows, b: Rows, covariates: Float[np.ndarray, "covariate sample layer"]
) -> Float[np.ndarray, " sample"]:
    """Return Spearman's partial correlation of the rows of `a` and `b` given those of the covariates.

    The correlation of the residuals of their ranks after a least-squares fit on the covariates' ranks and a constant;
    NaN if one residual vanishes.
    """
    ranks = stats.rankdata(covariates, axis=2)
    explained_by = np.concatenate([np.ones((1, *a.shape)), ranks]).transpose(1, 2, 0)
    inverse = np.linalg.pinv(explained_by)
    left = []
    for values in (a, b):
        rank = stats.rankdata(values, axis=1)
        fitted = (explained_by @ (inverse @ rank[:, :, None]))[:, :, 0]
        residual = rank - fitted
        nothing = np.square(residual).sum(1) < 1e-9 * np.square(
            rank - rank.mean(1, keepdims=True)
        ).sum(1)
        left.append(np.where(nothing[:, None], 0.0, residual))
    return _pearson(*left)


def pooled(correlations: Sequence[float]) -> float:
    """Return the correlation whose Fisher z is the mean of theirs; NaN if one is NaN, or there is none."""
    return math.tanh(float(np.mean(_z(np.array(correlations))))) if correlations else math.nan


def depth_interval(
    teachers: Sequence[tuple[Values, ...]],
    statistic: Callable[..., Float[np.ndarray, " sample"]],
    *,
    samples: int = _SAMPLES,
    block: int = _BLOCK,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of a pooled correlation, by bootstrap over teachers and over stretches of depth in each.

    Teachers are drawn with replacement, where there are several, and of each one drawn stretches of `block`
    neighbouring layers until there are as many layers as it has. Samples in which a correlation is not defined are left
    aside; NaN where they are more than half.

    Args:
        teachers: For each teacher the arguments of the statistic, one number per layer, all finite.
        statistic: From their samples to the correlation in each sample.
        samples: Number of samples.
        block: Layers per stretch.
        seed: Seed of the draws.
    """
    numbers, many = np.random.default_rng(seed), len(teachers)
    drawn = numbers.integers(many, size=(samples, many))
    total = np.zeros(samples)
    for slot in range(many):
        for number, values in enumerate(teachers):
            slots = np.flatnonzero(drawn[:, slot] == number)
            places = _stretches(numbers, len(slots), len(values[0]), block)
            total[slots] += _z(statistic(*(value[places] for value in values)))
    pooled_values = np.tanh(total / many)
    pooled_values = pooled_values[np.isfinite(pooled_values)]
    if len(pooled_values) < samples / 2:
        return math.nan, math.nan
    low, high = np.quantile(pooled_values, [0.025, 0.975])
    return float(low), float(high)


def shift_test(teachers: Sequence[tuple[Values, Values]]) -> float:
    """Return the two-sided p of a pooled rank correlation: the share of circular shifts along depth as far from 0.

    Scores and outcomes are smooth in depth, so freely shuffled layers would give too many findings. Each teacher's
    first values are shifted by every amount (0 included), independently of the other teachers: for n teachers of L
    layers, p is at least L⁻ⁿ.
    """
    sums = np.zeros(1)
    for score, outcome in teachers:
        shifts = np.stack([np.roll(score, k) for k in range(len(score))])
        z = _z(row_correlations(shifts, np.broadcast_to(outcome, shifts.shape)))
        sums = np.add.outer(sums, z).ravel()
    # The first is that of no shift.
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - 1e-12)) if sums[0] == sums[0] else math.nan


def top_regret(score: Values, outcome: Values, count: int = 3) -> float:
    """Return the regret of training students only of the `count` layers that score highest, and keeping the best.

    The best outcome of all layers minus the best of those, divided by the expectation of the same for as many random
    layers. 0: nothing is missed; 1: as much as by chance. Of equal scores the earlier layer comes first. NaN if all
    outcomes are equal.
    """
    best, layers = float(outcome.max()), len(outcome)
    count = min(count, layers)
    selected = np.argsort(-score, kind="stable")[:count]
    # The largest of `count` at random is the i-th smallest of all, i from 1, in C(i − 1, count − 1) of the ways.
    ways = np.array([math.comb(below, count - 1) for below in range(layers)], dtype=float)
    by_chance = float((np.sort(outcome) * ways).sum() / ways.sum())
    if best - by_chance < 1e-12:
        return math.nan
    return (best - float(outcome[selected].max())) / (best - by_chance)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests by Holm's method; NaN stays NaN and does not count."""
    adjusted, highest = [math.nan] * len(values), 0.0
    order = sorted((p, place) for place, p in enumerate(values) if not math.isnan(p))
    for rank_before, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank_before) * p))
        adjusted[place] = highest
    return adjusted


def split_half(by_seed: Float[np.ndarray, "layer seed"]) -> float:
    """Return the reliability of the mean over seeds, by Spearman and Brown's n r / (1 + (n − 1) r).

    r is the mean Pearson correlation over layers of each pair of seeds. NaN for one seed.
    """
    seeds = by_seed.shape[1]
    pairs = [
        float(_pearson(by_seed[None, :, i], by_seed[None, :, j])[0])
        for i, j in itertools.combinations(range(seeds), 2)
    ]
    if not pairs:
        return math.nan
    r = float(np.mean(pairs))
    return seeds * r / (1 + (seeds - 1) * r)


def _z(correlations: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(correlations, -_MOST, _MOST))


def _pearson(a: Rows, b: Rows) -> Float[np.ndarray, " sample"]:
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def _stretches(
    numbers: np.random.Generator, samples: int, layers: int, block: int
) -> Int[np.ndarray, "{samples} {layers}"]:
    """Draw places of layers, in stretches of neighbours with random starts."""
    block = min(block, layers)
    begin = numbers.integers(layers - block + 1, size=(samples, -(-layers // block)))
    return (begin[:, :, None] + np.arange(block)).reshape(samples, -1)[:, :layers]
