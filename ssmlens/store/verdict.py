"""The verdict on a layer's maps, from its stored errors: every page and command uses this one."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from ssmlens.names import AGREEMENTS, FINITE, MAP, MAP_ARRAYS, MAP_ERRORS, MAPS
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.schema import is_softmax

Answer = Literal["yes", "no", "not resolved"]

CLOSURE = "closure_error"
MAP_CLOSURE, MAP_ROUNDING = "map_closure", "map_rounding"
UNSEEN_HEADS = "unseen_heads"
"""The attribute of a layer with heads that do not reach its output, so that closure says nothing of their maps."""

CLOSURE_TOLERANCE = 1e-4
"""Largest closure error of float32 kernels: the default if a capture has no `closure_tolerance`."""

ROUNDINGS = 8.0
"""How often the rounding of one output recomputing it may round: a map_closure of no more may be rounding alone."""

MAP_TOLERANCE = 1e-5
"""Largest error of a stored map times a vector, for any precision of the model."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error above its tolerance.

    Attributes:
        error_name: "closure_error", "map_error", ...
        prompt: Number of the prompt.
        error: The error; NaN fails.
        tolerance: The largest it may be.
    """

    error_name: str
    prompt: int
    error: float
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a layer's maps are right, as far as its stored errors say.

    Attributes:
        answer: "yes"; "no" where its numbers are not finite or an error is not within tolerance; "not resolved" where
            nothing is wrong, but an error is not known.
        reason: Why, in one line; "" for a plain yes.
        errors: The largest of each error over prompts, by name; NaN if none is stored or one is NaN.
        tolerances: The largest allowed value of each.
        failures: Every error above its tolerance.
        worst_token: Position of the token with the largest closure error, in the prompt with the largest; None if it is
            not stored, or closure is unknown.
        agreement: Mean over prompts of ‖mean M‖² / mean ‖M_d‖²: the share of the heads' energy that the map keeps.
    """

    answer: Answer
    reason: str
    errors: dict[str, float]
    tolerances: dict[str, float]
    failures: tuple[Failure, ...]
    worst_token: int | None
    agreement: float

    @property
    def believed(self) -> bool:
        """Whether the answer is yes."""
        return self.answer == "yes"


def judge(layer: LayerLike, closure_tolerance: float | None = None) -> Verdict:
    """The verdict on a layer (`Layer.verdict`).

    The closure error and the error of each whole map are required. Other errors are judged if they are stored.

    Required are the closure error, and the error of each map that is stored whole; what else is stored must hold too.
    Softmax attention needs no error of its map, which is the model's own weights; it has no closure error where its
    values cannot be read. Where the capture says that the output cannot be computed again (`closure_reason`), closure
    is not resolved.

    Args:
        layer: The layer.
        closure_tolerance: The capture's largest closure error; it depends on dtype and kernels.
    """
    closure = CLOSURE_TOLERANCE if closure_tolerance is None else float(closure_tolerance)
    tolerances = {CLOSURE: closure} | dict.fromkeys(MAP_ERRORS.values(), MAP_TOLERANCE)
    softmax = is_softmax(layer.attributes)
    unknown = str(layer.attributes.get("closure_reason", ""))
    required = [] if softmax else [CLOSURE, *(MAP_ERRORS[kind] for kind in whole_maps(layer))]
    named = [name for name in tolerances if name in layer or name in required]
    if softmax and unknown:  # then NaN is stored: nothing is wrong, and nothing is shown by it
        named = [name for name in named if name != CLOSURE]
    judged = [name for name in named if name in layer and not (name == CLOSURE and unknown)]
    failures = tuple(
        Failure(name, prompt, float(error), tolerances[name])
        for name in judged
        for prompt, error in enumerate(_values(layer, name))
        if not error <= tolerances[name]  # so that NaN fails
    )
    hidden, wrong = _of_map(layer, closure, unknown)
    failures += wrong
    if MAP_CLOSURE in layer and not unknown and not np.isnan(_values(layer, MAP_CLOSURE)).all():
        named.append(MAP_CLOSURE)
        tolerances[MAP_CLOSURE] = closure
    errors = {name: worst(layer, name) for name in named}
    missing = [f"no {name} is stored" for name in required if name not in layer]
    missing += [unknown] if unknown and not softmax else []
    missing += [why for why in (hidden, _unseen(layer)) if why]
    answer, reason = _answer(layer, failures, errors, missing)
    tokens, closures = _values(layer, "closure_worst_token"), _values(layer, CLOSURE)
    tokens = tokens[:0] if unknown else tokens
    agreements = _values(layer, AGREEMENTS[MAP])
    return Verdict(
        answer=answer,
        reason="the model's own weights" if answer == "yes" and softmax else reason,
        errors=errors,
        tolerances={name: tolerances[name] for name in named},
        failures=failures,
        worst_token=int(tokens[closures.argmax()]) if tokens.size and closures.size else None,
        agreement=float(agreements.mean()) if agreements.size else math.nan,
    )


def _of_map(layer: LayerLike, tolerance: float, unknown: str) -> tuple[str, tuple[Failure, ...]]:
    """Why map_closure says nothing, or ""; and where it is too large to be rounding."""
    if unknown or MAP_CLOSURE not in layer or MAP_ROUNDING not in layer:
        return "", ()
    errors, rounding = _values(layer, MAP_CLOSURE), _values(layer, MAP_ROUNDING)
    known = ~np.isnan(errors)
    wrong = known & (errors > tolerance) & (errors > ROUNDINGS * rounding)
    hidden = known & ~wrong & ((rounding > tolerance) | (errors > tolerance))
    failures = tuple(
        Failure(MAP_CLOSURE, int(prompt), float(errors[prompt]), tolerance)
        for prompt in np.flatnonzero(wrong)
    )
    if not hidden.any():
        return "", failures
    return (
        f"its map contributes so little to the output that rounding hides it (map_closure "
        f"{errors[hidden].max():.1e}, rounding alone {rounding[hidden].max():.1e} > {tolerance:.0e})",
        failures,
    )


def why_open(layer: LayerLike, closure_tolerance: float | None = None) -> str:
    """Why a layer does not close, or "" if it does.

    The closure error or map_closure is above the tolerance, rounding hides the map, or heads do not reach the output.

    Args:
        layer: The layer.
        closure_tolerance: As for `judge`.
    """
    limit = CLOSURE_TOLERANCE if closure_tolerance is None else float(closure_tolerance)
    unknown = str(layer.attributes.get("closure_reason", ""))
    closures = np.empty(0) if unknown else _values(layer, CLOSURE)
    hidden, wrong = _of_map(layer, limit, unknown)
    above = [CLOSURE] * (not (closures <= limit).all()) + [MAP_CLOSURE] * bool(wrong)
    if above:
        return "; ".join(f"{name} {worst(layer, name):.1e} > {limit:.0e}" for name in above)
    return "; ".join(filter(None, (hidden, _unseen(layer))))


def _unseen(layer: LayerLike) -> str:
    unseen = layer.attributes.get(UNSEEN_HEADS)
    return (
        f"{unseen} heads do not reach the output, so closure says nothing of their maps"
        if unseen
        else ""
    )


def worst(layer: LayerLike, name: str) -> float:
    """The largest of an error over prompts; NaN if one is NaN or none is stored."""
    values = _values(layer, name)
    return (
        float(values.max()) if values.size else math.nan
    )  # numpy's max keeps a NaN, Python's may not


def whole_maps(layer: LayerLike) -> list[str]:
    """Which of `names.MAPS` the layer stores whole."""
    return [kind for kind in MAPS if MAP_ARRAYS[kind] in layer]


def _answer(
    layer: LayerLike,
    failures: tuple[Failure, ...],
    errors: Mapping[str, float],
    missing: list[str],
) -> tuple[Answer, str]:
    if layer.state != FINITE:
        why = str(layer.attributes.get("reason", ""))
        return "no", f"{layer.state} not finite" + (f": {why}" if why else "")
    if failures:
        limits = {failure.error_name: failure.tolerance for failure in failures}
        return "no", "; ".join(f"{n} {errors[n]:.1e} > {limit:.0e}" for n, limit in limits.items())
    if missing:
        return "not resolved", "; ".join(missing)
    return "yes", ""


def _values(layer: LayerLike, name: str) -> np.ndarray:
    return np.atleast_1d(layer.read(name)) if name in layer else np.empty(0)
