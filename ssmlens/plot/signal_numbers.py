"""What drives a layer's states along a prompt, and how long they last: Δ, B, C and A; of a delta rule β and the decay.

What is said of Δ below is said of β where a layer has it: both are how strongly a token writes, one a token and head.
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
"""Most cells of the image of Δ: about the pixels that it gets on a screen."""

POINTS = 2048
"""Most points of a line along the prompt."""

_BINS = 60
_SAMPLE = 250_000


def why_not(layer: Drawable) -> str:
    """Why a layer has no signals to show, in a line; "" where it has."""
    if is_softmax(layer):
        return f"Layer {layer.index} is softmax attention: it has no Δ, A, B or C, only a map."
    if words(layer).array not in layer or not ("A" in layer or "log_decay" in layer):
        return f"Layer {layer.index} is neither a selective scan nor a delta rule: it has no Δ and A, nor β."
    return ""


def steps(selection: Selection) -> Float[np.ndarray, "token head"]:
    """Δ, after softplus and clamp; kept."""
    name = words(selection.layer).array
    return selection.keep((*selection.key, name), lambda: _read(selection, name))


def mean_steps(selection: Selection) -> Float[np.ndarray, " head"]:
    """Mean Δ of each head over the prompt, in float64."""
    return selection.keep(
        (*selection.key, "steps"), lambda: steps(selection).mean(0, dtype=np.float64)
    )


def half_lives(selection: Selection) -> Float[np.ndarray, "head state"]:
    """Tokens after which half of a state is left at the head's mean step: ln 2 / (|A| · mean Δ).

    Where the decay depends on the data (Mamba-3, delta rules) ln 2 over the mean of −log_decay, one a head or one a
    component of its keys; 0 where a token forgets everything.
    """

    def make() -> np.ndarray:
        with np.errstate(divide="ignore"):
            if "log_decay" in selection.layer:
                rate = -_read(selection, "log_decay").mean(0, dtype=np.float64)
                return math.log(2) / rate.reshape(len(rate), -1)
            return math.log(2) / (_rates_of_heads(selection.layer) * mean_steps(selection)[:, None])

    return selection.keep((*selection.key, "half-lives"), make)


def rates(selection: Selection) -> Float[np.ndarray, "..."]:
    """|A| of heads and states; of tokens and heads, −log_decay / Δ, where it depends on the data.

    Of a delta rule −log_decay itself, of tokens and heads, or their components too.
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
    """How often which |A| occurs: edges in log10 |A|, and counts; what is 0 or not finite is left out."""
    values = rates(selection)
    logs = np.log10(values[np.isfinite(values) & (values > 0)])
    counts, edges = np.histogram(logs, _BINS)
    return edges, counts


def counted(layer: Drawable) -> str:
    """What `rates` has a value for."""
    if "log_decay" in layer:
        return "token, head and state" if len(layer.shape("log_decay")) == 4 else "token and head"
    return "head and state" if len(layer.shape("A")) == 2 else "head"


def norm(selection: Selection, name: str) -> Float[np.ndarray, "token group"]:
    """‖B_i‖ or ‖C_i‖ over the states of each group."""
    return selection.keep(
        (*selection.key, name), lambda: np.linalg.norm(_read(selection, name), axis=2)
    )


def decay(selection: Selection) -> Float[np.ndarray, "token head"]:
    """α of a delta rule: how much of its state each token leaves, mean over the components of keys."""

    def make() -> np.ndarray:
        alpha = np.exp(_read(selection, "log_decay"))
        return alpha.reshape(*alpha.shape[:2], -1).mean(2)

    return selection.keep((*selection.key, "alpha"), make)


def lines(selection: Selection) -> dict[str, Float[np.ndarray, "token _"]]:
    """What is drawn along the prompt: ‖B_i‖ and ‖C_i‖ of each group, or α of each head."""
    if "beta" in selection.layer:
        return {"α": decay(selection)}
    return {f"‖{name}‖": norm(selection, name) for name in ("B", "C")}


def shown_lines(selection: Selection, shown: Span) -> dict[str, Float[np.ndarray, "column _"]]:
    """`lines` as means over `block_of` tokens a column."""
    several = block_of(shown, POINTS)
    return {
        name: shrink_means(values[slice(*shown)], several, 1)
        for name, values in lines(selection).items()
    }


def head_order(selection: Selection, order: HeadOrder) -> Int[np.ndarray, " head"]:
    """Heads from the first row to the last: by number, from the largest mean step, from the longest half-life."""
    if order == "step":
        return np.argsort(-mean_steps(selection), kind="stable")
    if order == "half-life":
        return np.argsort(-np.median(half_lives(selection), axis=1), kind="stable")
    return np.arange(steps(selection).shape[1])


def step_cells(
    selection: Selection, shown: Span, order: HeadOrder
) -> tuple[Float[np.ndarray, "row column"], list[str]]:
    """Mean Δ in as many cells as a screen shows, and a label a row.

    Args:
        what: Layer and prompt.
        shown: First token and the one after the last.
        order: The order of the heads.
    """
    first, end = shown
    columns = shrink_means(steps(selection)[first:end], block_of(shown, COLUMNS), 1)
    heads = columns.shape[1]
    several = math.ceil(heads / ROWS)
    cells = shrink_means(columns[:, head_order(selection, order)], 1, several)
    if order == "index":
        return cells.T, runs(0, heads, several)
    if several == 1:
        return cells.T, [str(head) for head in head_order(selection, order)]
    return cells.T, [f"rank {run}" for run in runs(0, heads, several)]


def step_limit(selection: Selection, scale: Scale) -> float | None:
    """The value at the end of Δ's colours: of the whole prompt, so that zooming leaves them alone."""
    if scale == "rank" or selection.limit is not None:
        return selection.limit

    def make() -> np.ndarray:
        values = steps(selection)
        if scale == "symlog":
            return np.array(values[np.isfinite(values)].max(initial=0.0) or 1.0)
        return np.array(robust_limit(values[:: max(1, values.size // _SAMPLE)]))

    return float(selection.keep((*selection.key, "limit", scale), make))


def block_of(shown: Span, most: int) -> int:
    """Tokens that share a column of at most `most`."""
    return math.ceil((shown[1] - shown[0]) / most)


def _read(selection: Selection, name: str) -> np.ndarray:
    """One of the layer's arrays, of the prompt's real tokens."""
    return selection.layer.read(name, selection.prompt)


def _rates_of_heads(layer: Drawable) -> Float[np.ndarray, "head state"]:
    A = np.abs(layer.read("A").astype(np.float64))
    return A if A.ndim == 2 else A[:, None]
