"""The views of each layer in the report: thumbnails, and values within a budget of cells."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ssmlens.names import FINITE, MAP_ARRAYS
from ssmlens.plot.packing import lower_triangle, pack, pack_exactly, packed_values
from ssmlens.plot.picture import colour_edges, stamp
from ssmlens.plot.raster import Reduction, block_reduce, causal, data_uri
from ssmlens.plot.scales import SCALES, coloured
from ssmlens.plot.sources import ReportLayer, ReportSource
from ssmlens.scores.diagonal import without_longest
from ssmlens.scores.reading import is_softmax
from ssmlens.scores.statistics import energy_by_lag
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.schema import looks_ahead

THUMBNAIL = 96
"""Most pixels per side of a thumbnail."""

TOP_CELLS = 3_200_000
"""Most cells for the maps of the best-ranked layers; a cell takes up to 1.8 bytes."""

OTHER_CELLS = 2_400_000
"""Most cells for the maps of all other layers, and for channels."""

PROMPTS = 4
"""Most prompts shown."""

_LEAST_SIDE = 128  # show fewer prompts rather than coarser maps


@dataclasses.dataclass(frozen=True)
class Plan:
    """The resolution of each layer's views.

    Attributes:
        prompts: Number of prompts shown, the first ones of the capture.
        top: Layers with the finest views and their stored channels.
        top_cells: Most cells of a top layer's map.
        other_cells: Most cells of any other map.
    """

    prompts: int
    top: frozenset[int]
    top_cells: int
    other_cells: int

    def block(self, layer: int, name: str, tokens: int) -> int:
        """Return the tokens per side of a cell; 1 shows every entry."""
        finest = layer in self.top and name != "channel_map"
        cells = self.top_cells if finest else self.other_cells
        return max(1, math.ceil(tokens / math.isqrt(2 * cells)))


def plan(capture: ReportSource, best: Sequence[int]) -> Plan:
    """Share the cells of the page among the maps of a capture.

    Args:
        capture: The capture to show.
        best: Layers to show most finely.
    """
    lengths = [int(n) for n in capture.length]
    counts = {
        index: sum(1 for _ in _maps(capture.layer(index), with_channels=False))
        for index in capture.layers
    }
    channels = sum(len(_channels(capture.layer(index))) for index in best)
    finest = sum(counts[index] for index in best)
    others = max(1, sum(counts.values()) - finest + channels)
    side = min(max(lengths), _LEAST_SIDE)
    prompts = min(len(lengths), PROMPTS, max(1, 2 * OTHER_CELLS // (others * side**2)))
    return Plan(
        prompts=prompts,
        top=frozenset(best),
        top_cells=TOP_CELLS // (max(1, finest) * prompts),
        other_cells=OTHER_CELLS // (others * prompts),
    )


def layer_views(capture: ReportSource, index: int, page_plan: Plan) -> list[dict[str, Any]]:
    """Build the views of a layer for each prompt shown: thumbnail and values, or a note that says why not.

    Args:
        capture: The capture.
        index: Number of the layer.
        page_plan: The plan of the page.

    Returns:
        Dicts of plain values for report.js.
    """
    layer = capture.layer(index)
    return [
        _view(capture, layer, prompt, name, channel, page_plan)
        for prompt in range(page_plan.prompts)
        for name, channel in _maps(layer, with_channels=index in page_plan.top)
    ]


def _maps(layer: ReportLayer, *, with_channels: bool) -> Iterator[tuple[str, int | None]]:
    for kind in layer.maps:
        yield MAP_ARRAYS[kind], None
    if "softmax_attention_map" in layer:
        yield "softmax_attention_map", None
    for place in range(len(_channels(layer)) if with_channels else 0):
        yield "channel_map", place


def _view(
    capture: ReportSource,
    layer: ReportLayer,
    prompt: int,
    name: str,
    place: int | None,
    page_plan: Plan,
) -> dict[str, Any]:
    signed = name != "attention_mask"
    how: Reduction = "peak" if signed else "mean"
    view = {"prompt": prompt, "name": name, "title": _title(layer, name, place), "signed": signed}
    stored = f"{name}_max" if signed else f"{name}_mean"
    reduced = name not in layer and stored in layer
    if name not in layer and not reduced:
        return view | {"note": f"This capture has no {name.replace('_', ' ')} of the layer."}
    values = layer.read(stored if reduced else name, prompt)
    values = (values if place is None else values[place]).astype(np.float32)
    if not np.isfinite(values).all():
        return view | {"note": _reason(layer.state, layer.attributes)}
    tokens = int(capture.length[prompt])
    stride = int(layer.attributes["block_tokens"]) if reduced else 1
    several = math.ceil(page_plan.block(layer.index, name, tokens) / stride)
    ahead = looks_ahead(layer.attributes)
    entries = values if ahead else causal(values)
    cells = _coarser(
        entries, several, how, np.minimum(stride, tokens - stride * np.arange(len(entries)))
    )
    packed = pack(cells.ravel() if ahead else lower_triangle(cells))
    view |= {"block": several * stride, "side": len(cells), "values": packed, "square": ahead}
    view["scales"] = _scales(packed_values(cells), signed=signed)
    if name == "attention_map":
        energy = layer.read("lag_energy", prompt) if reduced else energy_by_lag(values)
        view["lags"] = pack(without_longest(energy).astype(np.float32))
        if ahead:
            energy = layer.read("ahead_energy", prompt) if reduced else energy_by_lag(values.T)
            view["ahead"] = pack(without_longest(energy).astype(np.float32))
    if place is None:
        view["thumbnail"] = thumbnail(entries, signed=signed)
    return view


def _coarser(
    values: Float[np.ndarray, "block block"],
    several: int,
    how: Reduction,
    tokens: Int[np.ndarray, " block"],
) -> Float[np.ndarray, "query_block key_block"]:
    """Apply `block_reduce` to values of blocks of `tokens` tokens: a mean weights each by its pairs of tokens."""
    if how == "peak" or several == 1:
        return block_reduce(values, several, how)
    pairs = np.outer(tokens, tokens).astype(np.float64)
    if np.isnan(values).any():  # a lower triangle: on its diagonal only the pairs j ≤ i
        np.fill_diagonal(pairs, tokens * (tokens + 1) / 2)
    pairs[np.isnan(values)] = np.nan
    total, count = (block_reduce(a, several, "mean") for a in (values * pairs, pairs))
    return (total / count).astype(np.float32)


def thumbnail(values: Float[np.ndarray, "query key"], *, signed: bool) -> str:
    """Draw a map as a small PNG `data:` URI; a cell is the peak (maps) or mean (masks) of its entries."""
    how: Reduction = "peak" if signed else "mean"
    small = block_reduce(values, math.ceil(len(values) / THUMBNAIL), how)
    return data_uri(stamp(small, signed=signed))


def _scales(values: Float[np.ndarray, "query key"], *, signed: bool) -> dict[str, Any]:
    """Return, for each colour scale, the |value| at which colours change and the ticks of the colour bar."""
    drawn = {}
    for scale in SCALES:
        places, texts = coloured(values, scale, signed=signed).ticks
        edges = pack_exactly(colour_edges(values, scale, signed=signed))
        drawn[scale] = {"edges": edges, "tickvals": places, "ticktext": texts}
    return drawn


def _channels(layer: LayerLike) -> list[int]:
    return [int(c) for c in layer.read("channel")] if "channel_map" in layer else []


def _title(layer: LayerLike, name: str, place: int | None) -> str:
    if place is not None:
        return f"Channel {_channels(layer)[place]}"
    if name == "softmax_attention_map" or is_softmax(layer):
        return "Softmax attention map"
    return name.replace("_", " ").capitalize()


def _reason(state: str, attributes: Mapping[str, Any]) -> str:
    where = {
        FINITE: "This map has values that are not finite.",
        "weights": "No map: the layer's weights are not finite.",
        "input": "No map: the layer's input is not finite. Look at the layers before it.",
        "output": "No map: the layer's own computation is not finite.",
    }
    return " ".join(filter(None, (where.get(state, state), str(attributes.get("reason", "")))))
