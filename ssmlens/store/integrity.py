"""Check that a capture is whole: its bytes, its numbers, and that its maps are those of its operands."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer

from ssmlens.errors import SsmlensError
from ssmlens.names import ARRAYS, EFFECT, MAP_ARRAYS
from ssmlens.store.attention_heads import head_problems
from ssmlens.store.layer import Layer
from ssmlens.store.reader import Capture, open_capture
from ssmlens.store.reduced import reduced_problems
from ssmlens.store.schema import is_softmax, looks_ahead
from ssmlens.store.separators import separators
from ssmlens.store.verdict import CLOSURE, MAP_CLOSURE, MAP_ROUNDING

# Largest difference from 1 of the sum of a query's softmax weights, if not 1e-3. Each weight is rounded to 2⁻⁹.
_SUM_TOLERANCE = {"bfloat16": 1e-2}

_CLOSURES = {CLOSURE: "closure error", MAP_CLOSURE: "map closure"}

TOLERANCE = 1e-5
"""Largest relative (Frobenius) difference between a stored map and the map of its operands."""


def verify(path: Path | str, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """List everything that is wrong with a capture, one line each; empty if nothing is.

    Checks

    - the structure, and the digests of every layer and of the capture;
    - that layers marked finite are finite;
    - that every stored map, mask and channel map follows from the stored operands (paper eq. 8); reduced maps are
      compared with a sample of exact blocks and rows;
    - that the closure error of each prompt is within the capture's `closure_tolerance`;
    - that the rows of softmax attention, which has no operands, are weights that sum to 1 over the tokens so far, and
      that the statistics of its heads agree with the mean map.

    Args:
        path: An HDF5 file or a folder.
        progress: Called with the number of layers checked, and of all layers.

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
        for number, index in enumerate(capture.layers, 1):
            try:
                problems += _layer_problems(capture, capture.layer(index))
            except SsmlensError as error:
                problems.append(str(error))
            if progress:
                progress(number, len(capture.layers))
    return problems


def _layer_problems(capture: Capture, layer: Layer) -> list[str]:
    problems = [f"{part}: not what was written" for part in layer.damages()]
    if layer.finite:
        # Not known of every mixer: the verdict judges what they say. An effect is NaN without a target,
        # and where another layer is not finite.
        unknown = [MAP_CLOSURE, MAP_ROUNDING, *ARRAYS[EFFECT]]
        unknown += ["closure_error"] if layer.attributes.get("closure_reason") else []
        read = [name for name in layer.names if name not in unknown]
        problems += [f"{n} is not finite" for n in read if not np.isfinite(layer.read(n)).all()]
        problems += _closure_problems(layer)
        if not problems:
            for prompt in range(capture.prompts):
                problems += _prompt_problems(capture, layer, prompt)
    return [f"layer {layer.index}: {problem}" for problem in problems]


def _closure_problems(layer: Layer) -> list[str]:
    failures = {  # one per prompt: one reason is enough
        failure.prompt: failure
        for failure in reversed(layer.verdict.failures)
        if failure.error_name in _CLOSURES
    }
    return [
        f"prompt {failure.prompt}: {_CLOSURES[failure.error_name]} {failure.error:.2g} is above "
        f"{failure.tolerance:g}: the verdict on its maps is no"
        for _, failure in sorted(failures.items())
    ]


def _prompt_problems(capture: Capture, layer: Layer, prompt: int) -> list[str]:
    softmax = "attention_map" if is_softmax(layer.attributes) else "softmax_attention_map"
    target = None if capture.target is None else capture.target[prompt, : layer.length(prompt)]
    separator = separators(capture.token_strings(prompt), capture.prompt_kinds[prompt])
    problems = []
    if softmax in layer:
        problems += _softmax_problems(capture, layer, softmax, prompt, target, separator)
    if layer.has_operands:
        problems += _map_problems(layer, prompt)
        if "attention_map_max" in layer:
            problems += reduced_problems(layer, prompt, target, separator)
    return problems


def _softmax_problems(
    capture: Capture,
    layer: Layer,
    name: str,
    prompt: int,
    target: Integer[np.ndarray, " token"] | None,
    separator: Bool[np.ndarray, " token"],
) -> list[str]:
    """Check that rows of softmax attention are weights that sum to 1 over the tokens so far; then check its heads."""
    shares = layer.read(name, prompt).astype(np.float64)
    if not looks_ahead(layer.attributes) and np.triu(shares, 1).any():
        return [f"prompt {prompt}: {name} reads later tokens"]
    tolerance = _SUM_TOLERANCE.get(str(capture.attributes.get("dtype")), 1e-3)
    apart = float(np.abs(shares.sum(1) - 1).max())
    if apart <= tolerance and (shares >= 0).all():
        return head_problems(layer, prompt, shares, target, separator, TOLERANCE)
    return [f"prompt {prompt}: rows of {name} are not weights that sum to 1 (off by {apart:.2g})"]


def _map_problems(layer: Layer, prompt: int) -> list[str]:
    problems = []
    kinds = [kind for kind in layer.maps if MAP_ARRAYS[kind] in layer]
    if kinds:
        tokens = 0, layer.length(prompt)
        maps = layer.map_tile(kinds, tokens, tokens, prompt)
        for kind, computed in zip(kinds, maps, strict=True):
            name = MAP_ARRAYS[kind]
            problems += _difference(name, layer.read(name, prompt), computed, prompt)
    if "channel_map" in layer:
        maps = layer.read("channel_map", prompt)
        for channel, stored_map in zip(layer.read("channel").tolist(), maps, strict=True):
            computed = layer.channel_map(channel, prompt)
            problems += _difference(f"the map of channel {channel}", stored_map, computed, prompt)
    return problems


def _difference(name: str, stored: np.ndarray, computed: np.ndarray, prompt: int) -> list[str]:
    apart = float(np.linalg.norm(stored.astype(np.float64) - computed))
    size = float(np.linalg.norm(computed.astype(np.float64)))
    if apart <= TOLERANCE * size:
        return []
    return [
        f"prompt {prompt}: {name} does not follow from the operands (difference {apart / size:.2g})"
        if size
        else f"prompt {prompt}: {name} should be zero"
    ]
