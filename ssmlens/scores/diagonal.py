"""Whether the map is one sharp sub-diagonal, as in a layer that copies, and at which lag."""

import math

import numpy as np
from jaxtyping import Float

from ssmlens.scores.reading import NotApplicable, Reading
from ssmlens.scores.score import SCORES, Measured, Score


def without_longest(energy: Float[np.ndarray, " _lag"]) -> Float[np.ndarray, " lag"]:
    """The energies at 0 ≤ ℓ ≤ 3T/4, out of those of all T lags (`statistics.energy_by_lag`).

    Longer lags are left out: their sub-diagonals have few entries, so their means are noise.
    """
    return energy[: 3 * len(energy) // 4 + 1]


def diagonal_sharpness(
    energy: Float[np.ndarray, " lag"],
    first_lag: int = 1,
    ahead: Float[np.ndarray, " lag"] | None = None,
) -> float:
    """Share of the sharpest sub-diagonal (or diagonal above, if the layer looks ahead) in the map's energy by lag.

        max_{ℓ ≥ first_lag} e(ℓ) / Σ_ℓ e(ℓ),   e(ℓ) = mean_i map[i, i−ℓ]²,   0 ≤ ℓ ≤ 3T/4

    1 for a map that is one sub-diagonal, 4/3T for a uniform one; scaling the map changes nothing. A
    featureless recency map scores at most k^k/(k+1)^(k+1) with k = first_lag: .08 behind the usual
    convolution of 4 taps, but .25 at first_lag 1, which cannot distinguish "the token before" from
    "recent tokens". If the layer looks ahead, ℓ is also −3T/4 ≤ ℓ < 0 in the sum, and
    −3T/4 ≤ ℓ ≤ −first_lag in the maximum.

    Args:
        energy: e(ℓ) of all T lags (`statistics.energy_by_lag`). The map is the mean of M over channels (paper eq. 8).
        first_lag: Lags below it are recency, which the convolution explains: d_conv, or 1 without a
            convolution.
        ahead: The energy of the diagonals above the main one, where the layer looks ahead.

    Returns:
        A value in [0, 1]; NaN when T ≤ 2·first_lag, or when the map is zero.
    """
    sides = [without_longest(side) for side in (energy, ahead) if side is not None]
    total = sides[0].sum() + sum(side[1:].sum() for side in sides[1:])  # lag 0 once
    if len(energy) <= 2 * first_lag or total == 0:
        return math.nan
    return float(max(side[first_lag:].max() for side in sides) / total)


def sharpest_lag(
    energies: list[Float[np.ndarray, " _lag"]],
    first_lag: int = 1,
    ahead: list[Float[np.ndarray, " _lag"]] | None = None,
) -> float:
    """The lag ≥ first_lag of most energy, averaged over prompts; the shortest among equals.

    Args:
        energies: Of each prompt, `without_longest`. A lag longer than a prompt's lags counts as zero
            there.
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


def _measure(reading: Reading) -> Measured:
    energy, first_lag = reading.lag_energy, reading.first_lag
    if len(energy) <= 2 * first_lag:
        raise NotApplicable(f"{len(energy)} tokens are too few: more than 2·{first_lag} are needed")
    ahead = reading.ahead_energy
    detail = (without_longest(energy), first_lag, without_longest(ahead))
    return Measured(diagonal_sharpness(energy, first_lag, ahead), detail=detail)


def _chance(reading: Reading) -> float:
    """The score of a map of uniform rows: e(ℓ) = mean_{i ≥ ℓ} 1/(i + 1)²."""
    entry = 1 / np.square(
        reading.visible, dtype=np.float64
    )  # the square of each of query i's entries
    energy = np.cumsum(entry[::-1])[::-1] / np.arange(len(entry), 0, -1)
    ahead = energy if reading.looks_ahead else None
    return diagonal_sharpness(energy, reading.first_lag, ahead)


SCORES.register("diagonal_sharpness")(
    Score(
        description="share of the sharpest sub-diagonal in the map's energy by lag",
        measure=_measure,
        reads="maps",
        range=(0.0, 1.0),
        formula="mean square of the map along each sub-diagonal (lag): the largest beyond the convolution's reach, out "
        "of the sum over lags 0 to 3T/4",
        chance=_chance,
        chance_in_words="the score of uniform rows, whose lag ℓ has the mean of 1/(i+1)² over i ≥ ℓ",
        companions={
            "sharpest_lag": lambda details: sharpest_lag(
                [back for back, _, _ in details], details[0][1], [ahead for *_, ahead in details]
            )
        },
    )
)
