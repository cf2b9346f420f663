"""The numbers of a layer's weights: W_B, W_C and their products, the convolution's kernels, W_β."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ssmlens.plot.cells import shrink_means
from ssmlens.plot.selection import Drawable, Selection
from ssmlens.plot.words import words
from ssmlens.scores.reading import is_softmax

SIDE = 300
"""Most cells per side of W_Cᵀ W_B."""

_BINS = 80
_SAMPLED = 256  # rows of W_Cᵀ W_B in the histogram


@dataclasses.dataclass(frozen=True)
class Pair:
    """The weights that one group writes and reads with.

    Attributes:
        W_B: Write weights.
        W_C: Read weights.
        group: Number of the group.
        groups: Number of groups.
    """

    W_B: Float[np.ndarray, "state input"]
    W_C: Float[np.ndarray, "state input"]
    group: int
    groups: int


class Entries(NamedTuple):
    """Statistics of a square product's entries, on its diagonal and off it.

    Attributes:
        edges: Edges of bins of values.
        diagonal: Share of the diagonal's entries in each bin.
        others: Share of the other entries in each bin.
        mean: Mean of the diagonal, exact.
        others_mean: Mean of the others, exact.
        others_rms: Root mean square of the others, exact.
    """

    edges: Float[np.ndarray, " edge"]
    diagonal: Float[np.ndarray, " bin"]
    others: Float[np.ndarray, " bin"]
    mean: float
    others_mean: float
    others_rms: float


def why_not(layer: Drawable) -> str:
    """Say in a line why a layer has no W_B and W_C; "" if it has."""
    if is_softmax(layer):
        return f"Layer {layer.index} is softmax attention: it has no W_B and W_C, only a map."
    if "W_B" not in layer or "W_C" not in layer:
        return f"Layer {layer.index} stores no W_B and W_C: its adapter names none."
    if not all(np.isfinite(layer.read(name)).all() for name in ("W_B", "W_C")):
        return f"Layer {layer.index}: W_B or W_C is not finite."
    if layer.shape("W_B") != layer.shape("W_C"):
        return f"Layer {layer.index}: W_B and W_C differ in shape."
    return ""


def groups(layer: Drawable) -> int:
    """Count the groups of W_B and W_C; 0 without any."""
    return int(layer.shape("W_B")[0]) if "W_B" in layer else 0


def pair(selection: Selection) -> Pair:
    """Return W_B and W_C of the selected group, or of the last one if there are fewer."""
    W_B, W_C = (_cached(selection, name) for name in ("W_B", "W_C"))
    group = min(selection.group, len(W_B) - 1)
    return Pair(W_B[group], W_C[group], group, len(W_B))


def product_cells(weights: Pair) -> tuple[Float[np.ndarray, "read write"], int]:
    """W_Cᵀ W_B in at most `SIDE` cells a side: entry or exact mean of each square, and how many inputs a cell spans.

    The mean of a square of a product is the product of the factors' means, so the full product is never computed.
    """
    several = math.ceil(weights.W_B.shape[1] / SIDE)
    read, write = (shrink_means(W, 1, several) for W in (weights.W_C, weights.W_B))
    return read.T @ write, several


def state_product(weights: Pair) -> Float[np.ndarray, "write read"]:
    """Return W_B W_Cᵀ: the similarity of what state n writes and what state m reads."""
    return weights.W_B @ weights.W_C.T


def input_entries(weights: Pair) -> Entries:
    """Measure the entries of W_Cᵀ W_B. Means and RMS are exact; the histogram is of evenly spaced rows.

    ‖W_Cᵀ W_B‖² = ⟨W_B W_Bᵀ, W_C W_Cᵀ⟩, and its entries sum to ⟨Σ W_C, Σ W_B⟩.
    """
    B, C = weights.W_B.astype(np.float64), weights.W_C.astype(np.float64)
    inputs = B.shape[1]
    rows = np.unique(np.linspace(0, inputs - 1, min(inputs, _SAMPLED)).round().astype(int))
    sample = C[:, rows].T @ B
    return _entries(
        (B * C).sum(0),
        sample[np.arange(inputs) != rows[:, None]],
        total=float(B.sum(1) @ C.sum(1)),
        energy=float(((B @ B.T) * (C @ C.T)).sum()),
    )


def state_entries(weights: Pair) -> Entries:
    """Measure all entries of W_B W_Cᵀ."""
    product = state_product(weights).astype(np.float64)
    off = ~np.eye(len(product), dtype=bool)
    return _entries(
        product.diagonal(),
        product[off],
        total=float(product.sum()),
        energy=float(np.square(product).sum()),
    )


def kernels(layer: Drawable) -> dict[str, Float[np.ndarray, "channel tap"]]:
    """The taps that x, B and C pass through (v, k, q), the current token's first; empty without a convolution."""
    if "conv" not in layer and "conv_x" not in layer:
        return {}
    name = "conv" if "conv" in layer else "conv_x"
    conv = layer.read(name)[:, ::-1]
    if "conv_B" not in layer:
        return {words(layer).convolved[0]: conv}
    B, C = (layer.read(part) for part in ("conv_B", "conv_C"))
    taps = conv.shape[1]
    mixed = conv
    if name == "conv":  # the channels of all three
        own = len(conv) - (B.size + C.size) // taps
        mixed = conv[:own] if words(layer).mixed_first else conv[-own:]
    parts = (mixed, *(kernel.reshape(-1, taps)[:, ::-1] for kernel in (B, C)))
    return dict(zip(words(layer).convolved, parts, strict=True))


def why_no_beta(layer: Drawable) -> str:
    """Say in a line why a layer has no weights of β; "" if it has."""
    return "" if "W_beta" in layer else f"Layer {layer.index} stores no W_beta, the weights of β."


def beta_rows(layer: Drawable) -> Float[np.ndarray, "head input"]:
    """Return the weights of β, the write strength of a delta rule, one row per head."""
    return layer.read("W_beta")


def _entries(diagonal: np.ndarray, others: np.ndarray, *, total: float, energy: float) -> Entries:
    count = len(diagonal) * (len(diagonal) - 1)
    largest = max(np.abs(diagonal).max(initial=0), np.abs(others).max(initial=0)) or 1.0
    edges = np.linspace(-largest, largest, _BINS + 1)
    shares = [np.histogram(values, edges)[0] / max(1, values.size) for values in (diagonal, others)]
    off = energy - float(np.square(diagonal).sum())
    return Entries(
        edges,
        *shares,
        mean=float(diagonal.mean()),
        others_mean=(total - float(diagonal.sum())) / count if count else math.nan,
        others_rms=math.sqrt(max(0.0, off) / count) if count else math.nan,
    )


def _cached(selection: Selection, name: str) -> np.ndarray:
    return selection.keep((selection.layer.digest, name), lambda: selection.layer.read(name))
