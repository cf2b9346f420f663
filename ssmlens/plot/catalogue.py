"""The figures of a layer by name, as `ssmlens figure` writes them: drawing, numbers, and when a layer has none."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from ssmlens.errors import UsageError
from ssmlens.plot import layer_figures as draw
from ssmlens.plot import signal_numbers as signals
from ssmlens.plot import weight_numbers as weights
from ssmlens.plot.lags import both_ways
from ssmlens.plot.matrix import ahead_energy, lag_energy, window
from ssmlens.plot.selection import KINDS, Drawable, Selection, Span, heads_of, kinds_of
from ssmlens.plot.theme import Spec
from ssmlens.plot.words import words

MOST_NUMBERS = 2048
"""Most tokens per side in the numbers of a matrix."""

_SQUARE, _LOW = (900, 860), (900, 460)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a layer.

    Attributes:
        title: Names what it shows.
        draw: Draws it.
        numbers: Returns the numbers in it.
        why_not: Says in a line why a layer has no such figure; "" if it has.
        size: Width and height in pixels.
    """

    title: Callable[[Selection], str]
    draw: Callable[[Selection], go.Figure | Spec]
    numbers: Callable[[Selection], xr.Dataset]
    why_not: Callable[[Drawable], str] = lambda _: ""
    size: tuple[int, int] = _LOW


def check(name: str, selection: Selection) -> None:
    """Raise UsageError if the layer lacks part of the selection; the message lists what it has."""
    layer, length = selection.layer, selection.length
    why_not = FIGURES[name].why_not(layer)
    if why_not:
        raise UsageError(why_not)
    if selection.kind == "channel" and not 0 <= selection.channel < heads_of(layer):
        raise UsageError(
            f"layer {layer.index} has {heads_of(layer)} channels: no {selection.channel}"
        )
    groups = max(1, weights.groups(layer))
    if not 0 <= selection.group < groups:
        raise UsageError(f"layer {layer.index} has {groups} groups: no {selection.group}")
    region = selection.region
    if region is not None and max(region.queries[1], region.keys[1]) > length:
        raise UsageError(f"the region {region} ends after the {length} tokens of the prompt")


def matrix_numbers(selection: Selection) -> xr.Dataset:
    """Return the matrix within the region at full resolution, at most `MOST_NUMBERS` tokens per side."""
    queries, keys = _at_most(selection.queries), _at_most(selection.keys)
    tokens = np.array(selection.tokens, dtype=str)
    return xr.Dataset(
        {"value": (("query", "key"), window(selection, queries, keys))},
        coords={
            "query": np.arange(*queries),
            "key": np.arange(*keys),
            "query_token": ("query", tokens[slice(*queries)]),
            "key_token": ("key", tokens[slice(*keys)]),
        },
        attrs={"title": f"Layer {selection.layer.index}: {draw.matrix_name(selection)}"},
    )


def signal_data(selection: Selection) -> xr.Dataset:
    """Return Δ by token and head, the norms of B and C, and each head's median half-life over the tokens shown.

    For a delta rule: β and α by token and head, and each head's median half-life.
    """
    first, end = selection.keys
    return xr.Dataset(
        {
            words(selection.layer).array: (("token", "head"), signals.steps(selection)[first:end]),
            "half_life": ("head", np.median(signals.half_lives(selection), axis=1)),
            **_lines(selection),
        },
        coords={
            "token": np.arange(first, end),
            "token_string": ("token", np.array(selection.tokens[first:end], dtype=str)),
        },
        attrs={"layer": selection.layer.index},
    )


def _lines(selection: Selection) -> dict[str, tuple[Any, np.ndarray]]:
    """Return the lines drawn below Δ or β."""
    first, end = selection.keys
    if "beta" in selection.layer:
        return {"alpha": (("token", "head"), signals.decay(selection)[first:end])}
    return {
        f"{n}_norm": ("token", signals.norm(selection, n)[first:end].mean(1)) for n in ("B", "C")
    }


def _of_layer(name: str) -> Callable[[Selection], str]:
    return lambda selection: f"Layer {selection.layer.index}: {name}"


def _of_prompt(name: str) -> Callable[[Selection], str]:
    return lambda selection: f"Layer {selection.layer.index}: {name} · prompt {selection.prompt}"


def _of_matrix(name: str) -> Callable[[Selection], str]:
    return lambda selection: _of_prompt(f"{draw.matrix_name(selection)}{name}")(selection)


def _no_matrix(kind: str) -> Callable[[Drawable], str]:
    def why_not(layer: Drawable) -> str:
        kinds = kinds_of(layer)
        return (
            "" if kind in kinds else f"layer {layer.index} has no {kind}; it has {', '.join(kinds)}"
        )

    return why_not


def _lags(selection: Selection) -> xr.Dataset:
    lags, energy = both_ways(lag_energy(selection), ahead_energy(selection))
    return xr.Dataset({"energy": ("lag", energy)}, {"lag": lags})


def _half_lives(selection: Selection) -> xr.Dataset:
    return xr.Dataset({"half_life": (("head", "state"), signals.half_lives(selection))})


def _rates(selection: Selection) -> xr.Dataset:
    edges, counts = signals.rate_counts(selection)
    bins = {"low": ("bin", 10.0 ** edges[:-1]), "high": ("bin", 10.0 ** edges[1:])}
    return xr.Dataset({"count": ("bin", counts)}, bins)


def _input_product(selection: Selection) -> xr.Dataset:
    cells, several = weights.product_cells(weights.pair(selection))
    first = np.arange(len(cells)) * several
    coordinates = {"first_input_of_W_C": ("read", first), "first_input_of_W_B": ("write", first)}
    return xr.Dataset({"product": (("read", "write"), cells)}, coordinates)


def _state_product(selection: Selection) -> xr.Dataset:
    product = weights.state_product(weights.pair(selection))
    return xr.Dataset({"product": (("write", "read"), product)})


def _entries(entries: weights.Entries) -> xr.Dataset:
    edges = {"low": ("bin", entries.edges[:-1]), "high": ("bin", entries.edges[1:])}
    shares = {"diagonal": ("bin", entries.diagonal), "others": ("bin", entries.others)}
    means = {"mean": entries.mean, "others_mean": entries.others_mean}
    return xr.Dataset(shares, edges, means | {"others_rms": entries.others_rms})


def _kernels(selection: Selection) -> xr.Dataset:
    kernels = weights.kernels(selection.layer)
    taps = np.concatenate(list(kernels.values()))
    parts = np.repeat(list(kernels), [len(k) for k in kernels.values()])
    return xr.Dataset({"weight": (("channel", "back"), taps)}, {"part": ("channel", parts)})


def _beta(selection: Selection) -> xr.Dataset:
    return xr.Dataset({"W_beta": (("head", "input"), weights.beta_rows(selection.layer))})


def _no_kernels(layer: Drawable) -> str:
    return "" if weights.kernels(layer) else f"layer {layer.index} has no convolution"


def _at_most(tokens: Span) -> Span:
    return tokens[0], min(tokens[1], tokens[0] + MOST_NUMBERS)


def _signal(
    name: str,
    drawing: Callable[[Selection], go.Figure],
    numbers: Callable[[Selection], xr.Dataset],
    size: tuple[int, int] = _LOW,
) -> Figure:
    def title(selection: Selection) -> str:
        return _of_prompt(words(selection.layer).signals[name])(selection)

    return Figure(title, drawing, numbers, signals.why_not, size)


def _weight(
    name: str,
    drawing: Callable[[Selection], go.Figure],
    numbers: Callable[[Selection], xr.Dataset],
    why_not: Callable[[Drawable], str] = weights.why_not,
    size: tuple[int, int] = _LOW,
) -> Figure:
    def title(selection: Selection) -> str:
        return _of_layer(words(selection.layer).weights[name])(selection)

    return Figure(title, drawing, numbers, why_not, size)


MATRIX_FIGURES: dict[str, Figure] = {
    kind: Figure(_of_matrix(""), draw.matrix_figure, matrix_numbers, _no_matrix(kind), _SQUARE)
    for kind in KINDS
}
SIGNAL_FIGURES: dict[str, Figure] = {
    "steps": _signal(
        "steps",
        draw.steps,
        lambda w: signal_data(w)[[words(w.layer).array]],
        (900, 600),
    ),
    "norms": _signal("norms", draw.norms, lambda w: signal_data(w)[list(_lines(w))]),
    "half-lives": _signal("half-lives", draw.half_lives, _half_lives),
    "rates": _signal("rates", draw.rates, _rates),
}
WEIGHT_FIGURES: dict[str, Figure] = {
    "input-product": _weight("input-product", draw.input_product, _input_product, size=_SQUARE),
    "state-product": _weight("state-product", draw.state_product, _state_product, size=_SQUARE),
    "input-entries": _weight(
        "input-entries",
        draw.input_entries,
        lambda selection: _entries(weights.input_entries(weights.pair(selection))),
    ),
    "state-entries": _weight(
        "state-entries",
        draw.state_entries,
        lambda selection: _entries(weights.state_entries(weights.pair(selection))),
    ),
    "kernels": _weight("kernels", draw.kernels, _kernels, _no_kernels, _SQUARE),
    "taps": _weight("taps", draw.taps, _kernels, _no_kernels),
    "beta": _weight("beta", draw.beta, _beta, weights.why_no_beta),
}
FIGURES: dict[str, Figure] = {
    **MATRIX_FIGURES,
    "lags": Figure(_of_matrix(", energy by lag"), draw.lags_spec, _lags),
    **SIGNAL_FIGURES,
    **WEIGHT_FIGURES,
}
