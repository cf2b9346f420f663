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

# Largest difference from 1 of the sum of a query's softmax weights, where not 1e-3: 2⁻⁹ a weight, rounded apart.
_SUM_TOLERANCE = {"bfloat16": 1e-2}

_CLOSURES = {CLOSURE: "closure error", MAP_CLOSURE: "map closure"}

TOLERANCE = 1e-5
"""Largest relative (Frobenius) difference between a stored map and the one its operands give."""


def verify(path: Path | str, *, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Everything that is wrong with a capture, one line each; empty when it is good.

    Checks the structure, the digests of every layer and of the whole, that layers said to be finite are, that every
    stored map, mask and channel map is the one that the stored operands give (paper eq. 8), reduced maps by a sample
    of exact pieces, that the closure error of each prompt is within the capture's `closure_tolerance`, and that
    softmax attention, which has no operands, shares out what each query gives to the tokens before it, and that what is
    kept of its heads has the mean map's means.

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
    if layer.finite:
        # Not known of every mixer: the verdict judges what they say. An effect is NaN without a target,
        # and where another layer is not finite.
        unknown = [MAP_CLOSURE, MAP_ROUNDING, *ARRAYS[EFFECT]]
        unknown += ["closure_error"] if layer.attributes.get("closure_reason") else []
        read = [name for name in layer.names if name not in unknown]
        found += [f"{n} is not finite" for n in read if not np.isfinite(layer.read(n)).all()]
        found += _closure_problems(layer)
        if not found:
            for prompt in range(capture.prompts):
                found += _prompt_problems(capture, layer, prompt)
    return [f"layer {layer.index}: {problem}" for problem in found]


def _closure_problems(layer: Layer) -> list[str]:
    failures = {  # one of each prompt: a layer that does not close needs no second reason
        failure.prompt: failure
        for failure in reversed(layer.verdict.failures)
        if failure.error_name in _CLOSURES
    }
    return [
        f"prompt {failure.prompt}: {_CLOSURES[failure.error_name]} {failure.error:.2g} is above "
        f"{failure.tolerance:g}: do not believe its maps"
        for _, failure in sorted(failures.items())
    ]


def _prompt_problems(capture: Capture, layer: Layer, prompt: int) -> list[str]:
    softmax = "attention_map" if is_softmax(layer.attributes) else "softmax_attention_map"
    target = None if capture.target is None else capture.target[prompt, : layer.length(prompt)]
    parts = separators(capture.token_strings(prompt), capture.prompt_kinds[prompt])
    found = []
    if softmax in layer:
        found += _softmax_problems(capture, layer, softmax, prompt, target, parts)
    if layer.has_operands:
        found += _map_problems(layer, prompt)
        if "attention_map_max" in layer:
            found += reduced_problems(layer, prompt, target, parts)
    return found


def _softmax_problems(
    capture: Capture,
    layer: Layer,
    name: str,
    prompt: int,
    target: Integer[np.ndarray, " token"] | None,
    separator: Bool[np.ndarray, " token"],
) -> list[str]:
    """Rows of softmax attention are shares of the tokens so far, and so are those of its heads."""
    shares = layer.read(name, prompt).astype(np.float64)
    if not looks_ahead(layer.attributes) and np.triu(shares, 1).any():
        return [f"prompt {prompt}: {name} looks at tokens that come later"]
    tolerance = _SUM_TOLERANCE.get(str(capture.attributes.get("dtype")), 1e-3)
    apart = float(np.abs(shares.sum(1) - 1).max())
    if apart <= tolerance and (shares >= 0).all():
        return head_problems(layer, prompt, shares, target, separator, TOLERANCE)
    return [f"prompt {prompt}: rows of {name} are not shares that add up to 1 (off by {apart:.2g})"]


def _map_problems(layer: Layer, prompt: int) -> list[str]:
    found = []
    kinds = [kind for kind in layer.maps if MAP_ARRAYS[kind] in layer]
    if kinds:
        whole = 0, layer.length(prompt)
        for kind, computed in zip(kinds, layer.map_tile(kinds, whole, whole, prompt), strict=True):
            name = MAP_ARRAYS[kind]
            found += _difference(name, layer.read(name, prompt), computed, prompt)
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
