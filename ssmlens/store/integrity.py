"""Prove that a capture is whole: its bytes, its numbers, and that its maps are those of its operands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssmlens.errors import SsmlensError
from ssmlens.names import FINITE
from ssmlens.scan import hidden_attention
from ssmlens.store.layer import Layer
from ssmlens.store.reader import Capture, open_capture

TOLERANCE = 1e-5
"""Largest relative (Frobenius) difference between a stored map and the one its operands give."""


def verify(path: Path | str, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Everything that is wrong with a capture, one line each; empty when it is good.

    Checks the structure, the digests of every layer and of the whole, that layers said to be finite are, that every
    stored map, mask and channel map is the one that the stored operands give (paper eq. 8), and that the closure
    error of each prompt is within the capture's `closure_tolerance`.

    Args:
        path: An HDF5 file or a folder.
        progress: Called with the number of layers done, and of all.

    Raises:
        UsageError: There is no such capture.
    """
    path = Path(path)
    try:
        capture = open_capture(path)
    except SsmlensError as error:
        if not path.exists():
            raise
        return [str(error)]
    problems = []
    with capture:
        for done, index in enumerate(capture.layers):
            try:
                problems += _layer_problems(capture, capture.layer(index))
            except SsmlensError as error:
                problems.append(str(error))
            if progress:
                progress(done + 1, len(capture.layers))
    return problems


def _layer_problems(capture: Capture, layer: Layer) -> list[str]:
    found = [f"{what}: not what was written" for what in layer.damages()]
    if layer.finite == FINITE:
        found += [f"{n} is not finite" for n in layer.names if not np.isfinite(layer.read(n)).all()]
        found += _closure_problems(capture, layer)
        if not found:
            for prompt in range(capture.prompts):
                found += _map_problems(layer, prompt)
    return [f"layer {layer.index}: {problem}" for problem in found]


def _closure_problems(capture: Capture, layer: Layer) -> list[str]:
    tolerance = capture.attributes.get("closure_tolerance")
    if tolerance is None or "closure_error" not in layer:
        return []
    return [
        f"prompt {prompt}: closure error {error:.2g} is above {tolerance:g}: do not believe its maps"
        for prompt, error in enumerate(layer.read("closure_error"))
        if not error <= tolerance
    ]


def _map_problems(layer: Layer, prompt: int) -> list[str]:
    found = []
    stored = [name for name in ("attention_map", "attention_mask") if name in layer]
    if stored:
        both = hidden_attention.attention_map_and_mask(layer.operands(prompt))
        for name, computed in zip(("attention_map", "attention_mask"), both, strict=True):
            if name in stored:
                found += _difference(name, layer.read(name, prompt), computed[0].numpy(), prompt)
    if "channel_map" in layer:
        maps = layer.read("channel_map", prompt)
        for channel, stored_map in zip(layer.read("channel").tolist(), maps, strict=True):
            computed = layer.channel_map(channel, prompt)
            found += _difference(f"the map of channel {channel}", stored_map, computed, prompt)
    return found


def _difference(what: str, stored: np.ndarray, computed: np.ndarray, prompt: int) -> list[str]:
    apart = float(np.linalg.norm(stored.astype(np.float64) - computed))
    size = float(np.linalg.norm(computed.astype(np.float64)))
    if apart <= TOLERANCE * size:
        return []
    return [
        f"prompt {prompt}: {what} is not what the operands give (difference {apart / size:.2g})"
        if size
        else f"prompt {prompt}: {what} should be zero"
    ]
