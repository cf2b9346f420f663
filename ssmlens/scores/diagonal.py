"""Whether the map is one sharp sub-diagonal, as in a layer that copies, and at which lag."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score
from ssmlens.scores.statistics import energy_by_lag


def lag_energy(
    attention_map: Float[np.ndarray, "query key"],
) -> Float[np.ndarray, " lag"]:
    """Mean square of the map along each sub-diagonal: e(ℓ) = mean_i map[i, i−ℓ]² for 0 ≤ ℓ ≤ 3T/4.

    Longer lags are left out: their sub-diagonals have few entries, so their means are noise.
    """
    return drop_longest(energy_by_lag(attention_map))


def drop_longest(energy: Float[np.ndarray, " _lag"]) -> Float[np.ndarray, " lag"]:
    """Cut the energies of all T lags, as captures store them, to those of `lag_energy`, 0 ≤ ℓ ≤ 3T/4."""
    return energy[: 3 * len(energy) // 4 + 1]


def diagonal_sharpness(
    attention_map: Float[np.ndarray, "query key"], first_lag: int = 1, looks_ahead: bool = False
) -> float:
    """Share of the sharpest sub-diagonal (or diagonal above, if the layer looks ahead) in the map's energy by lag.

        max_{ℓ ≥ first_lag} e(ℓ) / Σ_ℓ e(ℓ),   e(ℓ) = mean_i map[i, i−ℓ]²,   0 ≤ ℓ ≤ 3T/4

    1 for a map that is one sub-diagonal, 4/3T for a uniform one; scaling the map changes nothing. A
    featureless recency map scores at most k^k/(k+1)^(k+1) with k = first_lag: .08 behind the usual
    convolution of 4 taps, but .25 at first_lag 1, which cannot distinguish "the token before" from
    "recent tokens". If the layer looks ahead, ℓ is also −3T/4 ≤ ℓ < 0 in the sum, and
    −3T/4 ≤ ℓ ≤ −first_lag in the maximum.

    Args:
        attention_map: Mean of M over channels (paper eq. 8).
        first_lag: Lags below it are recency, which the convolution explains: d_conv, or 1 without a
            convolution.
        looks_ahead: Whether entries above the diagonal count.

    Returns:
        A value in [0, 1]; NaN when T ≤ 2·first_lag, or when the map is zero.
    """
    ahead = lag_energy(attention_map.T) if looks_ahead else None
    return _largest_share(lag_energy(attention_map), len(attention_map), first_lag, ahead)


def sharpest_lag(
    energies: list[Float[np.ndarray, " _lag"]],
    first_lag: int = 1,
    ahead: list[Float[np.ndarray, " _lag"]] | None = None,
) -> float:
    """The lag ≥ first_lag of most energy, averaged over prompts; the shortest among equals.

    Args:
        energies: `lag_energy` of each prompt. Lags that a prompt lacks count as zero there.
        first_lag: As in `diagonal_sharpness`.
        ahead: The energies of each prompt's diagonals above the main one, if the layer looks ahead.

    Returns:
        Tokens back; negative: ahead.
    """
    back, other = _sum_prompts(energies), _sum_prompts(ahead or [])
    lag, lead = (
        first_lag + np.argmax(e[first_lag:]) if len(e) > first_lag else 0 for e in (back, other)
    )
    return float(-lead if lead and other[lead] > back[lag] else lag)


def _sum_prompts(energies: list[Float[np.ndarray, " _lag"]]) -> Float[np.ndarray, " lag"]:
    total = np.zeros(max(map(len, energies), default=0))
    for energy in energies:
        total[: len(energy)] += energy
    return total


def _largest_share(
    energy: Float[np.ndarray, " lag"],
    tokens: int,
    first_lag: int,
    ahead: Float[np.ndarray, " lag"] | None = None,
) -> float:
    sides = [energy] if ahead is None else [energy, ahead]
    total = energy.sum() + (0 if ahead is None else ahead[1:].sum())  # lag 0 once
    if tokens <= 2 * first_lag or total == 0:
        return math.nan
    return float(max(side[first_lag:].max() for side in sides) / total)


def _measure(reading: Reading) -> Measured:
    energy, first_lag = reading.lag_energy, reading.first_lag
    if len(energy) <= 2 * first_lag:
        raise NotApplicable(f"{len(energy)} tokens are too few: more than 2·{first_lag} are needed")
    back, ahead = drop_longest(energy), drop_longest(reading.ahead_energy)
    return Measured(
        _largest_share(back, len(energy), first_lag, ahead), detail=(back, first_lag, ahead)
    )


SCORES.register("diagonal_sharpness")(
    Score(
        description="share of the sharpest sub-diagonal in the map's energy by lag",
        measure=_measure,
        reads="maps",
        range=(0.0, 1.0),
        companions={
            "sharpest_lag": lambda details: sharpest_lag(
                [back for back, _, _ in details], details[0][1], [ahead for *_, ahead in details]
            )
        },
    )
)
