"""The figures of a layer or a record.

>>> cap = ssmlens.open_capture("run.h5")
>>> ssmlens.plot.map(cap.layer(3))
>>> with ssmlens.recording(model) as rec:
...     model(ids)
>>> ssmlens.plot.map(rec[3], tokens=[["a", "b", "c"]])
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args

import plotly.graph_objects as go

from ssmlens.errors import UsageError
from ssmlens.names import ERASE, MASK
from ssmlens.plot.catalogue import FIGURES, check
from ssmlens.plot.finish import DEFAULT, Length, finished
from ssmlens.plot.labels import visible
from ssmlens.plot.layer_figures import matrix_spec
from ssmlens.plot.matrix import colour_limit
from ssmlens.plot.recorded import Record, RecordedLayer
from ssmlens.plot.scales import Scale
from ssmlens.plot.selection import (
    HeadOrder,
    Kind,
    Region,
    Selection,
    Span,
    kinds_of,
)
from ssmlens.plot.side_by_side import Panel, side_by_side
from ssmlens.plot.theme import DARK, LIGHT, Theme
from ssmlens.store import Layer

AnyLayer = Layer | Record | RecordedLayer
"""A layer of a capture (`cap.layer(3)`), or a record (`rec[3]`)."""

ThemeName = Literal["light", "dark"]
Rectangle = Region | tuple[Span, Span] | str
"""Queries and keys, each first and one past the last: ((0, 64), (16, 80)) or "0-64,16-80"."""

Signal = Literal["steps", "norms", "half-lives", "rates"]
Weight = Literal[
    "input-product", "state-product", "input-entries", "state-entries", "kernels", "taps", "beta"
]


class MapOptions(TypedDict, total=False):
    """The options of `map`, shared by every figure of a matrix."""

    tokens: Sequence[Sequence[str]] | None
    region: Rectangle | None
    scale: Scale
    limit: float | None
    query: int | None
    title: str | None
    size: tuple[Length | None, Length | None]
    theme: ThemeName


def map(
    layer: AnyLayer,
    prompt: int = 0,
    *,
    kind: Kind = "map",
    channel: int = 0,
    tokens: Sequence[Sequence[str]] | None = None,
    region: Rectangle | None = None,
    scale: Scale = "linear",
    limit: float | None = None,
    query: int | None = None,
    title: str | None = DEFAULT,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw what a layer attends to: queries down, keys to the right, tokens and values under the pointer.

    Args:
        layer: A layer of a capture, or a record of `recording`.
        prompt: Number of the prompt; for a record, of the sequence in its batch.
        kind: The matrix to draw: "map", "mask", "erase", "channel" or "softmax".
        channel: The head that kind "channel" draws.
        tokens: The tokens of each sequence as text, for a record; positions by default.
        region: The rectangle drawn; None: all.
        scale: "linear", "symlog" (symmetric logarithm) or "rank".
        limit: The value at the end of the colours, to compare figures; None: from this matrix.
        query: A query to mark.
        title: The title; "default" names layer, matrix and prompt, None leaves it out.
        size: Width and height: pixels, or with a unit such as "9cm"; None: 900 × 860 pixels.
        theme: "light" or "dark".

    Raises:
        UsageError: The layer, prompt, kind, channel or region does not exist; the message lists those that do.
    """
    selection = _selection(
        layer,
        tokens,
        theme,
        region=_region(region),
        prompt=prompt,
        kind=kind,
        channel=channel,
        scale=scale,
        limit=limit,
        query=query,
    )
    return figure_of(kind, selection, title, size)


def mask(layer: AnyLayer, prompt: int = 0, **options: Unpack[MapOptions]) -> go.Figure:
    """Draw what a layer could still remember: the mean decay from key to query, in 0..1. Options as of `map`."""
    return map(layer, prompt, kind=MASK, **options)


def erase(layer: AnyLayer, prompt: int = 0, **options: Unpack[MapOptions]) -> go.Figure:
    """Draw what a delta rule erases. Options as of `map`."""
    return map(layer, prompt, kind=ERASE, **options)


def softmax(layer: AnyLayer, prompt: int = 0, **options: Unpack[MapOptions]) -> go.Figure:
    """Draw the softmax attention beside a mixer in its block. Options as of `map`."""
    return map(layer, prompt, kind="softmax", **options)


def channel(
    layer: AnyLayer, channel: int, prompt: int = 0, **options: Unpack[MapOptions]
) -> go.Figure:
    """Draw the matrix M of one head. Options as of `map`."""
    return map(layer, prompt, kind="channel", channel=channel, **options)


def maps(
    layers: Sequence[AnyLayer],
    prompt: int = 0,
    *,
    kind: Kind = "map",
    channels: Sequence[int] = (),
    tokens: Sequence[Sequence[str]] | None = None,
    region: Rectangle | None = None,
    scale: Scale = "linear",
    limit: float | None = None,
    columns: int = 4,
    side: int = 260,
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw small maps side by side with shared colours and linked axes.

    Args:
        layers: Layers of captures, or records. A single layer is drawn once per channel in `channels`.
        prompt: Number of the prompt.
        kind: The matrix to draw.
        channels: The heads to draw with kind "channel": one for each layer, or several of a single layer.
        tokens: The tokens of each sequence as text, for records.
        region: The rectangle drawn; None: all.
        scale: Colour scale.
        limit: The value at the end of the colours; None: the largest limit of the panels.
        columns: Panels per row.
        side: Width and height of a panel's map in pixels.
        theme: "light" or "dark".

    Raises:
        UsageError: As for `map`; or `layers` is empty.
    """
    kind = "channel" if channels else kind
    options: dict[str, Any] = {"prompt": prompt, "kind": kind, "scale": scale, "limit": limit}
    selections = [
        _selection(layer, tokens, theme, region=_region(region), channel=head, **options)
        for layer, head in _with_heads(layers, channels)
    ]
    for selection in selections:
        check(kind, selection)
    limits = [end for selection in selections if (end := colour_limit(selection)) is not None]
    common = max(limits, default=None)
    panels = [
        Panel(
            _panel_title(selection),
            matrix_spec(dataclasses.replace(selection, limit=common), hover="positions"),
        )
        for selection in selections
    ]
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    texts = {tuple(selection.tokens) for selection in selections}
    joined = side_by_side(rows, side=side, same_queries=len(texts) == 1, theme=theme_of(theme))
    return go.Figure(joined).update_layout(paper_bgcolor=theme_of(theme).surface)


def _with_heads(layers: Sequence[AnyLayer], channels: Sequence[int]) -> list[tuple[AnyLayer, int]]:
    """Pair each layer with its head; pair a single layer with every head."""
    if not layers:
        raise UsageError("give at least one layer to draw")
    if not channels:
        return [(layer, 0) for layer in layers]
    if len(layers) == 1:
        return [(layers[0], head) for head in channels]
    if len(channels) != len(layers):
        raise UsageError(f"{len(channels)} channels for {len(layers)} layers: give one for each")
    return list(zip(layers, channels, strict=True))


def lag_profile(
    layer: AnyLayer,
    prompt: int = 0,
    *,
    kind: Kind = "map",
    channel: int = 0,
    title: str | None = DEFAULT,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the energy by lag, e(ℓ) = mean_i M[i, i−ℓ]², as shares; `diagonal_sharpness` measures it.

    For a layer that looks ahead, mean_i M[i, i+ℓ]² is drawn too, at negative lags.

    Args:
        layer: A layer of a capture, or a record.
        prompt: Number of the prompt.
        kind: The matrix.
        channel: The head, for kind "channel".
        title: The title; None for none.
        size: Width and height; None: 900 × 460 pixels.
        theme: "light" or "dark".

    Raises:
        UsageError: As for `map`.
    """
    selection = _selection(layer, None, theme, prompt=prompt, kind=kind, channel=channel)
    check(kind, selection)
    return figure_of("lags", selection, title, size)


def signals(
    layer: AnyLayer,
    prompt: int = 0,
    *,
    show: Signal = "steps",
    tokens: Sequence[Sequence[str]] | None = None,
    region: Rectangle | None = None,
    sort: HeadOrder = "index",
    scale: Scale = "linear",
    limit: float | None = None,
    title: str | None = DEFAULT,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw the signals that drive a layer's states along a prompt.

    Args:
        layer: A layer of a capture, or a record.
        prompt: Number of the prompt.
        show: "steps": Δ (delta rule: β) by token and head; "norms": ‖B‖ and ‖C‖ (delta rule: the decay α) by token;
            "half-lives": of the states, at the mean Δ (mean log α); "rates": the histogram of |A| (−log α).
        tokens: The tokens of each sequence as text, for a record.
        region: Its keys select the tokens; None: all.
        sort: Order of the heads of "steps".
        scale: Colour scale of "steps".
        limit: The value at the end of its colours.
        title: The title; None for none.
        size: Width and height.
        theme: "light" or "dark".

    Raises:
        UsageError: The layer has no such signals; the message says why.
    """
    _check_one_of("show", show, get_args(Signal))
    options: dict[str, Any] = {"prompt": prompt, "sort": sort, "scale": scale, "limit": limit}
    selection = _selection(layer, tokens, theme, region=_region(region), **options)
    return figure_of(show, selection, title, size)


def weights(
    layer: AnyLayer,
    *,
    show: Weight = "input-product",
    group: int = 0,
    scale: Scale = "linear",
    limit: float | None = None,
    title: str | None = DEFAULT,
    size: tuple[Length | None, Length | None] = (None, None),
    theme: ThemeName = "light",
) -> go.Figure:
    """Draw how well queries match keys in the weights, and the kernels of the convolution.

    Args:
        layer: A layer of a capture, or a record.
        show: "input-product": W_Cᵀ W_B; "state-product": W_B W_Cᵀ; "input-entries", "state-entries": their diagonals
            against the other entries; "kernels": of the convolution; "taps": the kernels' energy by tap; "beta": the
            weights of a delta rule's β.
        group: The group of W_B and W_C.
        scale: Colour scale of the products.
        limit: The value at the end of their colours.
        title: The title; None for none.
        size: Width and height.
        theme: "light" or "dark".

    Raises:
        UsageError: The layer has no such weights; the message says why.
    """
    _check_one_of("show", show, get_args(Weight))
    selection = _selection(layer, None, theme, group=group, scale=scale, limit=limit)
    return figure_of(show, selection, title, size)


def figure_of(
    name: str,
    selection: Selection,
    title: str | None,
    size: tuple[Length | None, Length | None],
    model: str = "",
) -> go.Figure:
    """Draw a figure of `catalogue.FIGURES` with title and size.

    Args:
        name: Its name.
        selection: The part of the layer to draw.
        title: The title; None for none.
        size: Width and height; None: the default.
        model: Name of the model, for the default title.

    Raises:
        UsageError: The layer lacks part of the selection.
    """
    check(name, selection)
    entry = FIGURES[name]
    if title == DEFAULT:
        title = entry.title(selection) + f" · {visible(model, longest=80)}" * bool(model)
    return finished(entry.draw(selection), title, size, entry.size, selection.theme)


def layer_of(
    layer: AnyLayer, tokens: Sequence[Sequence[str]] | None = None
) -> Layer | RecordedLayer:
    """Return the layer that figures read. Raises UsageError if it is not a layer."""
    if isinstance(layer, Layer | RecordedLayer):
        return layer
    if hasattr(layer, "call") and hasattr(layer, "layer"):
        return RecordedLayer(layer, tokens)
    raise UsageError(
        f"give a layer of a capture, cap.layer(3), or a record, rec[3], not {type(layer).__name__}"
    )


def theme_of(name: ThemeName) -> Theme:
    """Return the theme of a name. Raises UsageError if there is none."""
    _check_one_of("theme", name, get_args(ThemeName))
    return DARK if name == "dark" else LIGHT


def _selection(
    layer: AnyLayer, tokens: Sequence[Sequence[str]] | None, theme: ThemeName, **options: Any
) -> Selection:
    kind = options.get("kind", "map")
    known = layer_of(layer, tokens)
    if kind not in kinds_of(known):
        kinds = ", ".join(kinds_of(known))
        raise UsageError(f"layer {known.index} has no {kind}; it has {kinds}")
    return Selection(layer=known, theme=theme_of(theme), **options)


def _region(region: Rectangle | None) -> Region | None:
    if region is None or isinstance(region, Region):
        return region
    try:
        text = region if isinstance(region, str) else "{}-{},{}-{}".format(*region[0], *region[1])
        return Region.parse(text)
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"region {region!r} is not a rectangle of queries and keys such as 0-64,16-80"
        ) from error


def _check_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}; choose from: {', '.join(known)}")


def _panel_title(selection: Selection) -> str:
    head = f", channel {selection.channel}" if selection.kind == "channel" else ""
    return f"layer {selection.layer.index}{head}"
