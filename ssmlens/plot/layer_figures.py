"""Draw the figures of one layer from a `Selection`: its matrices, signals and weights."""

from collections.abc import Callable

import plotly.graph_objects as go

from ssmlens.names import ERASE, MAP, MASK
from ssmlens.plot import signal_numbers as signals
from ssmlens.plot import weight_numbers as weights
from ssmlens.plot.cells import nothing
from ssmlens.plot.lags import lag_profile_spec
from ssmlens.plot.matrix import ahead_energy, colour_limit, lag_energy, shown_tile
from ssmlens.plot.selection import Drawable, HeadOrder, Selection
from ssmlens.plot.signals_decay import half_lives_figure, rates_figure
from ssmlens.plot.signals_tokens import Window, lines_figure, steps_figure
from ssmlens.plot.theme import Spec
from ssmlens.plot.tiles import Hover, tile_spec
from ssmlens.plot.weights_kernels import kernels_figure, tap_energy_figure
from ssmlens.plot.weights_products import (
    entries_figure,
    input_product_figure,
    rows_figure,
    state_product_figure,
)
from ssmlens.plot.words import words

MATRICES = {
    MAP: "attention map",
    MASK: "attention mask",
    ERASE: "erase map",
    "channel": "channel",
    "softmax": "softmax attention",
}
"""The name of each kind of matrix."""


def matrix_name(selection: Selection) -> str:
    """Name the matrix: "channel 5"."""
    name = MATRICES[selection.kind]
    return f"{name} {selection.channel}" if selection.kind == "channel" else name


def matrix_spec(selection: Selection, *, hover: Hover = None) -> Spec:
    """Draw the matrix within the region with `tiles.tile_spec`."""
    return tile_spec(
        shown_tile(selection, selection.region),
        selection.tokens,
        signed=selection.signed,
        scale=selection.scale,
        limit=colour_limit(selection),
        query=selection.query,
        hover=hover,
        theme=selection.theme,
    )


def matrix_figure(selection: Selection) -> go.Figure:
    """Draw the matrix within the region, with values under the pointer."""
    return go.Figure(matrix_spec(selection, hover="tokens"))


def lags_spec(selection: Selection) -> Spec:
    """Draw the energy per sub-diagonal of the matrix, which `diagonal_sharpness` measures."""
    energy, ahead = lag_energy(selection), ahead_energy(selection)
    spec = lag_profile_spec(energy, first_lag(selection.layer), ahead, theme=selection.theme)
    spec["layout"]["margin"] = {"l": 56, "r": 12, "t": 16, "b": 44}
    return spec


def first_lag(layer: Drawable) -> int:
    """Return the first lag beyond the convolution: d_conv, or 1 without one."""
    if "d_conv" in layer.attributes:
        return max(1, int(layer.attributes["d_conv"]))
    return int(layer.shape("conv")[-1]) if "conv" in layer else 1


def orders(layer: Drawable) -> dict[HeadOrder, str]:
    """Map each order of the heads to its name."""
    strength = words(layer).strength
    return {"index": "by number", "step": f"by mean {strength}", "half-life": "by half-life"}


def steps(selection: Selection) -> go.Figure:
    """Draw Δ (delta rule: β) over the tokens and all heads."""
    cells, heads = signals.step_cells(selection, selection.keys, selection.sort)
    return steps_figure(
        cells,
        heads,
        "head" if selection.sort == "index" else f"heads {orders(selection.layer)[selection.sort]}",
        Window(
            selection.tokens, *selection.keys, signals.block_of(selection.keys, signals.COLUMNS)
        ),
        symbol=words(selection.layer).strength,
        scale=selection.scale,
        limit=signals.step_limit(selection, selection.scale),
        theme=selection.theme,
    )


def norms(selection: Selection) -> go.Figure:
    """Draw ‖B‖ and ‖C‖ over the tokens; for a delta rule, whose q and k have unit length, the decay α."""
    window = Window(
        selection.tokens, *selection.keys, signals.block_of(selection.keys, signals.POINTS)
    )
    values, title = signals.shown_lines(selection, selection.keys), words(selection.layer).lines
    return lines_figure(values, title, window, theme=selection.theme)


def half_lives(selection: Selection) -> go.Figure:
    """Draw half-lives in tokens, by state or by head."""
    return half_lives_figure(signals.half_lives(selection), selection.length, theme=selection.theme)


def rates(selection: Selection) -> go.Figure:
    """Draw the histogram of |A| (delta rule: −log α)."""
    edges, counts = signals.rate_counts(selection)
    symbol = words(selection.layer).rate
    return rates_figure(
        edges, counts, signals.counted(selection.layer), symbol=symbol, theme=selection.theme
    )


def input_product(selection: Selection) -> go.Figure:
    """Draw W_Cᵀ W_B (delta rule: W_qᵀ W_k) of the group, reduced to the cells of a screen."""
    pair = weights.pair(selection)
    cells, several = weights.product_cells(pair)
    look = {"scale": selection.scale, "limit": selection.limit, "theme": selection.theme}
    return input_product_figure(cells, several, pair.W_B.shape[1], names=_names(selection), **look)


def state_product(selection: Selection) -> go.Figure:
    """Draw W_B W_Cᵀ (delta rule: W_k W_qᵀ) of the group."""
    product = weights.state_product(weights.pair(selection))
    look = {"scale": selection.scale, "limit": selection.limit, "theme": selection.theme}
    return state_product_figure(product, names=_names(selection), **look)


def input_entries(selection: Selection) -> go.Figure:
    """Draw the diagonal of W_Cᵀ W_B against its other entries."""
    return _entries(weights.input_entries(weights.pair(selection)), selection)


def state_entries(selection: Selection) -> go.Figure:
    """Draw the diagonal of W_B W_Cᵀ against its other entries."""
    return _entries(weights.state_entries(weights.pair(selection)), selection)


def kernels(selection: Selection) -> go.Figure:
    """Draw the convolution kernels of x, B and C (delta rule: v, k and q)."""
    return _of_kernels(kernels_figure, selection)


def taps(selection: Selection) -> go.Figure:
    """Draw the energy of the kernels by tap."""
    return _of_kernels(tap_energy_figure, selection)


def beta(selection: Selection) -> go.Figure:
    """Draw W_β of a delta rule, one row per head."""
    rows = weights.beta_rows(selection.layer)
    return rows_figure(rows, scale=selection.scale, limit=selection.limit, theme=selection.theme)


def _of_kernels(figure: Callable[..., go.Figure], selection: Selection) -> go.Figure:
    """Draw a figure of the layer's kernels, or say that it has none."""
    parts, theme = weights.kernels(selection.layer), selection.theme
    return figure(parts, theme=theme) if parts else nothing("this layer has no convolution", theme)


def _names(selection: Selection) -> tuple[str, str]:
    """Name the weights that write and those that read."""
    names = words(selection.layer)
    return names.write, names.read


def _entries(entries: weights.Entries, selection: Selection) -> go.Figure:
    edges, diagonal, others = entries.edges, entries.diagonal, entries.others
    return entries_figure(edges, diagonal, others, entries.others_rms, theme=selection.theme)
