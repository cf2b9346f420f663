"""Whether a layer's maps may be believed: the errors stored with it, held to their tolerances."""

import dataclasses
import math

import numpy as np

from ssmlens.names import ATTENTION, FINITE
from ssmlens.plots.sources import ReportSource
from ssmlens.scores.reading import LayerLike, kind_of

ERRORS = ("closure_error", "map_error", "mask_error")
_CLOSURE = 1e-4  # of float32 kernels, where a capture does not say
_PRODUCT = 1e-5  # of a map or mask with a vector, in whatever precision the model runs


@dataclasses.dataclass(frozen=True)
class Proof:
    """What stands behind a layer's maps.

    Attributes:
        layer: Block index.
        kind: `names.MAMBA` or `names.ATTENTION`.
        errors: The worst over prompts of each of `ERRORS`; NaN where none is stored or one is NaN.
        worst_token: Position of the token that closes worst, in the prompt that does; None where
            none is stored.
        channel_agreement: Mean over prompts of ‖mean M‖² / mean ‖M_d‖²: what of the channels'
            energy their mean keeps.
        ok: Whether all errors are within tolerance and all numbers finite.
        problem: What is wrong, one line; "" when ok.
    """

    layer: int
    kind: str
    errors: dict[str, float]
    worst_token: int | None
    channel_agreement: float
    ok: bool
    problem: str


def tolerances(capture: ReportSource) -> dict[str, float]:
    """The largest error each of `ERRORS` may have: closure as the capture says, since dtypes differ in it."""
    closure = float(capture.attributes.get("closure_tolerance", _CLOSURE))
    return {"closure_error": closure, "map_error": _PRODUCT, "mask_error": _PRODUCT}


def proofs(capture: ReportSource) -> list[Proof]:
    """The proof of every layer of a capture, in the order of its layers.

    Softmax attention needs none: its maps are what the model itself returned. Of reduced maps only the closure is
    required, with what else is stored.
    """
    limits = tolerances(capture)
    return [_proof(capture.layer(index), limits) for index in capture.layers]


def _proof(layer: LayerLike, limits: dict[str, float]) -> Proof:
    errors = {name: _worst(layer, name) for name in ERRORS}
    # `not (error <= tolerance)`, so that NaN fails.
    beyond = [name for name in _required(layer) if not errors[name] <= limits[name]]
    problem = "; ".join(_beyond(name, errors[name], limits[name]) for name in beyond)
    if layer.finite != FINITE:
        problem = f"{layer.finite} not finite"
    agreement = _values(layer, "channel_agreement")
    return Proof(
        layer=layer.index,
        kind=kind_of(layer),
        errors=errors,
        worst_token=_worst_token(layer),
        channel_agreement=float(agreement.mean()) if agreement.size else math.nan,
        ok=not problem,
        problem=problem,
    )


def _required(layer: LayerLike) -> list[str]:
    if kind_of(layer) == ATTENTION:
        return []
    whole = "attention_map_max" not in layer
    return [name for name in ERRORS if whole or name == "closure_error" or name in layer]


def _beyond(name: str, error: float, limit: float) -> str:
    return f"no {name}" if math.isnan(error) else f"{name} {error:.1e} > {limit:.0e}"


def _values(layer: LayerLike, name: str) -> np.ndarray:
    return np.atleast_1d(layer.read(name)) if name in layer else np.empty(0)


def _worst(layer: LayerLike, name: str) -> float:
    values = _values(layer, name)
    return float(values.max()) if values.size else math.nan


def _worst_token(layer: LayerLike) -> int | None:
    tokens, errors = _values(layer, "closure_worst_token"), _values(layer, "closure_error")
    return int(tokens[errors.argmax()]) if tokens.size and errors.size else None
