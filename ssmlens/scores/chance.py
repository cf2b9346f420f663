"""What scores are by chance, as text that stands beside them."""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from ssmlens.scores.table import CHANCE, SCORE


def chance_text(levels: Iterable[float]) -> str:
    """One number, or the least and the most of them ("0.012–0.031"); "" where there is none."""
    ends = sorted(levels)
    return "–".join(dict.fromkeys(f"{level:.3f}" for level in (*ends[:1], *ends[-1:])))


def chance_levels(scores: xr.Dataset) -> dict[str, str]:
    """By score, what it is by chance on the layers that have it: the mean over prompts, as text.

    Args:
        scores: What `ssmlens.scores.compute` returned; without its coordinate `chance` nothing is known.

    Returns:
        Scores without such a level are left out.
    """
    if CHANCE not in scores.coords:
        return {}
    means = {
        str(name): scores[CHANCE].sel(score=name).mean("prompt") for name in scores[SCORE].values
    }
    texts = {
        name: chance_text(levels.values[np.isfinite(levels)]) for name, levels in means.items()
    }
    return {name: text for name, text in texts.items() if text}
