"""The signals of a layer along a prompt (Δ, B, C and A; delta rule: β and the decay) and the half-lives of its states.

Where a layer has β, read β for Δ below: both say how strongly a token writes, one value per token and head.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from ssmlens.plot.cells import runs, shrink_means
from ssmlens.plot.scales import Scale, robust_limit
from ssmlens.plot.selection import Drawable, HeadOrder, Selection, Span
from ssmlens.plot.words import words
from ssmlens.scores.reading import is_softmax

COLUMNS, ROWS = 700, 350
"""Most cells of the image of Δ: about its pixels on a screen."""

POINTS = 2048
"""Most points of a line along the prompt."""

_BINS = 60
_SAMPLE = 250_000


def why_not(layer: Drawable) -> str:
    """Say in a line why a layer has no signals; "" if it has."""
    if is_softmax(layer):
        return f"Layer {layer.index} is softmax attention: it has no Δ, A, B or C, only a map."
    if words(layer).array not in layer or not ("A" in layer or "log_decay" in layer):
        return f"Layer {layer.index} is neither a selective scan nor a delta rule: it has no Δ and A, nor β."
    return ""


def steps(selection: Selection) -> Float[np.ndarray, "token head"]:
    """Read Δ, after softplus and clamp; cached."""
    name = words(selection.layer).array
    return selection.keep((*selection.key, name), lambda: _read(selection, name))


def mean_steps(selection: Selection) -> Float[np.ndarray, " head"]:
    """Average Δ of each head over the prompt, in float64."""
    return selection.keep(
        (*selection.key, "steps"), lambda: steps(selection).mean(0, dtype=np.float64)
    )


def half_lives(selection: Selection) -> Float[np.ndarray, "head state"]:
    """Return the tokens after which half of a state is left at the head's mean step: ln 2 / (|A| · mean Δ).

    If the decay depends on the data (Mamba-3, delta rules): ln 2 / mean(−log_decay), per head or per component of its
    keys; 0 if a token forgets everything.
    """

    def make() -> np.ndarray:
        with np.errstate(divide="ignore"):
            if "log_decay" in selection.layer:
                rate = -_read(selection, "log_decay").mean(0, dtype=np.float64)
                return math.log(2) / rate.reshape(len(rate), -1)
            return math.log(2) / (_rates_of_heads(selection.layer) * mean_steps(selection)[:, None])

    return selection.keep((*selection.key, "half-lives"), make)


def rates(selection: Selection) -> Float[np.ndarray, "..."]:
    """Return |A| by head and state, or −log_decay / Δ by token and head if the decay depends on the data.

    For a delta rule: −log_decay itself, by token and head, and by component if it has any.
    """
    if "beta" in selection.layer:
        return -_read(selection, "log_decay").astype(np.float64)
    if "log_decay" in selection.layer:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -_read(selection, "log_decay").astype(np.float64) / steps(selection)
    return _rates_of_heads(selection.layer)


def rate_counts(
    selection: Selection,
) -> tuple[Float[np.ndarray, " edge"], Int[np.ndarray, " bin"]]:
    """Count |A| in bins: edges in log10 |A|, and counts; 0 and values that are not finite are left out."""
    values = rates(selection)
    logs = np.log10(values[np.isfinite(values) & (values > 0)])
    counts, edges = np.histogram(logs, _BINS)
    return edges, counts


def counted(layer: Drawable) -> str:
    """Name what `rates` has one value for."""
    if "log_decay" in layer:
        return "token, head and state" if len(layer.shape("log_decay")) == 4 else "token and head"
    return "head and state" if len(layer.shape("A")) == 2 else "head"


def norm(selection: Selection, name: str) -> Float[np.ndarray, "token group"]:
    """Return ‖B_i‖ or ‖C_i‖ over the states of each group."""
    return selection.keep(
        (*selection.key, name), lambda: np.linalg.norm(_read(selection, name), axis=2)
    )


def decay(selection: Selection) -> Float[np.ndarray, "token head"]:
    """Return α of a delta rule, the share of the state that each token keeps: mean over the components of keys."""

    def make() -> np.ndarray:
        alpha = np.exp(_read(selection, "log_decay"))
        return alpha.reshape(*alpha.shape[:2], -1).mean(2)

    return selection.keep((*selection.key, "alpha"), make)


def lines(selection: Selection) -> dict[str, Float[np.ndarray, "token _"]]:
    """Return the lines along the prompt: ‖B_i‖ and ‖C_i‖ of each group, or α of each head."""
    if "beta" in selection.layer:
        return {"α": decay(selection)}
    return {f"‖{name}‖": norm(selection, name) for name in ("B", "C")}


def shown_lines(selection: Selection, span: Span) -> dict[str, Float[np.ndarray, "column _"]]:
    """Average `lines` over the `block_of` tokens of a column."""
    several = block_of(span, POINTS)
    return {
        name: shrink_means(values[slice(*span)], several, 1)
        for name, values in lines(selection).items()
    }


def head_order(selection: Selection, order: HeadOrder) -> Int[np.ndarray, " head"]:
    """Order the heads from the first row: by number, by falling mean step, or by falling half-life."""
    if order == "step":
        return np.argsort(-mean_steps(selection), kind="stable")
    if order == "half-life":
        return np.argsort(-np.median(half_lives(selection), axis=1), kind="stable")
    return np.arange(steps(selection).shape[1])


def step_cells(
    selection: Selection, span: Span, order: HeadOrder
) -> tuple[Float[np.ndarray, "row column"], list[str]]:
    """Average Δ into the cells of a screen, with a label per row.

    Args:
        selection: Layer and prompt.
        span: First token and one past the last.
        order: The order of the heads.
    """
    first, end = span
    columns = shrink_means(steps(selection)[first:end], block_of(span, COLUMNS), 1)
    heads = columns.shape[1]
    several = math.ceil(heads / ROWS)
    cells = shrink_means(columns[:, head_order(selection, order)], 1, several)
    if order == "index":
        return cells.T, runs(0, heads, several)
    if several == 1:
        return cells.T, [str(head) for head in head_order(selection, order)]
    return cells.T, [f"rank {run}" for run in runs(0, heads, several)]


def step_limit(selection: Selection, scale: Scale) -> float | None:
    """Return the value at the end of Δ's colours, from the full prompt: zooming does not change the colours."""
    if scale == "rank" or selection.limit is not None:
        return selection.limit

    def make() -> np.ndarray:
        values = steps(selection)
        if scale == "symlog":
            return np.array(values[np.isfinite(values)].max(initial=0.0) or 1.0)
        return np.array(robust_limit(values[:: max(1, values.size // _SAMPLE)]))

    return float(selection.keep((*selection.key, "limit", scale), make))


def block_of(span: Span, most: int) -> int:
    """Return the tokens per column for at most `most` columns."""
    return math.ceil((span[1] - span[0]) / most)


def _read(selection: Selection, name: str) -> np.ndarray:
    """Read one of the layer's arrays on the prompt's real tokens."""
    return selection.layer.read(name, selection.prompt)


def _rates_of_heads(layer: Drawable) -> Float[np.ndarray, "head state"]:
    A = np.abs(layer.read("A").astype(np.float64))
    return A if A.ndim == 2 else A[:, None]
