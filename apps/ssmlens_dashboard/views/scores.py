"""Scores of a capture, computed once, layer by layer, so that a page shows what there is so far."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ssmlens.names import LAYER
from ssmlens.scores import compute
from ssmlens.store import Capture
from ssmlens.store.layer_like import LayerLike
from ssmlens_dashboard.views.cache import CACHE


@dataclasses.dataclass(frozen=True)
class _One:
    """A capture of which one layer is looked at."""

    capture: Capture
    index: int

    @property
    def layers(self) -> Sequence[int]:
        return (self.index,)

    @property
    def length(self) -> np.ndarray:
        return self.capture.length

    @property
    def target(self) -> np.ndarray | None:
        return self.capture.target

    @property
    def prompt_kinds(self) -> Sequence[str]:
        return self.capture.prompt_kinds

    def token_strings(self, prompt: int, /) -> Sequence[str]:
        return self.capture.token_strings(prompt)

    @property
    def closure_tolerance(self) -> float:
        return self.capture.closure_tolerance

    def layer(self, index: int, /) -> LayerLike:
        return self.capture.layer(index)


def layer_scores(capture: Capture, index: int) -> xr.Dataset:
    """What `ssmlens.scores.compute` returns, of one layer; kept."""
    return CACHE.get(_key(capture, index), lambda: compute(_One(capture, index)))


def scores(capture: Capture, seconds: float) -> xr.Dataset:
    """All scores of the layers that are scored already, and of those that can be within `seconds`.

    Returns:
        What `ssmlens.scores.compute` returns, for at least one layer; complete when it has all layers of the capture.
    """
    until = time.monotonic() + seconds
    done = []
    for index in capture.layers:
        if done and time.monotonic() > until and _key(capture, index) not in CACHE:
            continue
        done.append(layer_scores(capture, index))
    joined = xr.concat(done, LAYER, data_vars="minimal", coords="minimal", compat="override")
    assert isinstance(joined, xr.Dataset)  # as its parts are
    return joined


def _key(capture: Capture, index: int) -> tuple[str, str, int]:
    return "scores", capture.digest, index
