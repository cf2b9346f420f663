"""Figures of one layer, each from a `Selection`: its matrices, what drives its states, its weights."""

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
"""What each kind of matrix is called."""

_NO_KERNEL = "this layer has no convolution"


def matrix_name(what: Selection) -> str:
    """The matrix in words: "channel 5"."""
    name = MATRICES[what.kind]
    return f"{name} {what.channel}" if what.kind == "channel" else name


def matrix_spec(what: Selection, *, hover: Hover = None) -> Spec:
    """The matrix within the region, as `tiles.tile_spec` draws it."""
    return tile_spec(
        shown_tile(what, what.region),
        what.tokens,
        signed=what.signed,
        scale=what.scale,
        limit=colour_limit(what),
        query=what.query,
        hover=hover,
        theme=what.theme,
    )


def matrix_figure(what: Selection) -> go.Figure:
    """The matrix within the region, with its numbers under the pointer."""
    return go.Figure(matrix_spec(what, hover="tokens"))


def lags_spec(what: Selection) -> Spec:
    """Energy per sub-diagonal of the same matrix: what `diagonal_sharpness` reads."""
    energy, ahead = lag_energy(what), ahead_energy(what)
    spec = lag_profile_spec(energy, first_lag(what.layer), ahead, theme=what.theme)
    spec["layout"]["margin"] = {"l": 56, "r": 12, "t": 16, "b": 44}
    return spec


def first_lag(layer: Drawable) -> int:
    """Lags below it are the convolution's: d_conv, or 1."""
    if "d_conv" in layer.attributes:
        return max(1, int(layer.attributes["d_conv"]))
    return int(layer.shape("conv")[-1]) if "conv" in layer else 1


def orders(layer: Drawable) -> dict[HeadOrder, str]:
    """What orders the heads of a layer, in words."""
    strength = words(layer).strength
    return {"index": "by number", "step": f"by mean {strength}", "half-life": "by half-life"}


def steps(what: Selection) -> go.Figure:
    """Δ, of a delta rule β, over the tokens and all heads."""
    cells, heads = signals.step_cells(what, what.keys, what.sort)
    return steps_figure(
        cells,
        heads,
        "head" if what.sort == "index" else f"heads {orders(what.layer)[what.sort]}",
        Window(what.tokens, *what.keys, signals.block_of(what.keys, signals.COLUMNS)),
        symbol=words(what.layer).strength,
        scale=what.scale,
        limit=signals.step_limit(what, what.scale),
        theme=what.theme,
    )


def norms(what: Selection) -> go.Figure:
    """‖B‖ and ‖C‖ over the tokens; of a delta rule, whose q and k have unit length, the decay α."""
    window = Window(what.tokens, *what.keys, signals.block_of(what.keys, signals.POINTS))
    shown, title = signals.shown_lines(what, what.keys), words(what.layer).lines
    return lines_figure(shown, title, window, theme=what.theme)


def half_lives(what: Selection) -> go.Figure:
    """Half-lives in tokens, by state or by head."""
    return half_lives_figure(signals.half_lives(what), what.length, theme=what.theme)


def rates(what: Selection) -> go.Figure:
    """How often which |A|, of a delta rule which −log α, occurs."""
    edges, counts = signals.rate_counts(what)
    symbol = words(what.layer).rate
    return rates_figure(edges, counts, signals.counted(what.layer), symbol=symbol, theme=what.theme)


def input_product(what: Selection) -> go.Figure:
    """W_Cᵀ W_B (of a delta rule W_qᵀ W_k) of the group, with as many cells as a screen shows."""
    pair = weights.pair(what)
    cells, several = weights.product_cells(pair)
    look = {"scale": what.scale, "limit": what.limit, "theme": what.theme}
    return input_product_figure(cells, several, pair.W_B.shape[1], names=_names(what), **look)


def state_product(what: Selection) -> go.Figure:
    """W_B W_Cᵀ (of a delta rule W_k W_qᵀ) of the group."""
    product = weights.state_product(weights.pair(what))
    look = {"scale": what.scale, "limit": what.limit, "theme": what.theme}
    return state_product_figure(product, names=_names(what), **look)


def input_entries(what: Selection) -> go.Figure:
    """The diagonal of W_Cᵀ W_B against its other entries."""
    return _entries(weights.input_entries(weights.pair(what)), what)


def state_entries(what: Selection) -> go.Figure:
    """The diagonal of W_B W_Cᵀ against its other entries."""
    return _entries(weights.state_entries(weights.pair(what)), what)


def kernels(what: Selection) -> go.Figure:
    """The kernels that x, B and C (of a delta rule v, k and q) pass through."""
    found = weights.kernels(what.layer)
    return kernels_figure(found, theme=what.theme) if found else nothing(_NO_KERNEL, what.theme)


def taps(what: Selection) -> go.Figure:
    """How far back the kernels reach."""
    found = weights.kernels(what.layer)
    return tap_energy_figure(found, theme=what.theme) if found else nothing(_NO_KERNEL, what.theme)


def beta(what: Selection) -> go.Figure:
    """W_β of a delta rule: a row a head."""
    rows = weights.beta_rows(what.layer)
    return rows_figure(rows, scale=what.scale, limit=what.limit, theme=what.theme)


def _names(what: Selection) -> tuple[str, str]:
    """What writes, and what reads."""
    called = words(what.layer)
    return called.write, called.read


def _entries(entries: weights.Entries, what: Selection) -> go.Figure:
    edges, diagonal, others = entries.edges, entries.diagonal, entries.others
    return entries_figure(edges, diagonal, others, entries.others_rms, theme=what.theme)
