"""Facts about the running forward that edits need: the positions of its tokens, and whether it is a cached step."""

from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.adapters.adapter import arguments
from ssmlens.adapters.find import MixerSite
from ssmlens.edits.positions import Positions
from ssmlens.edits.value import STREAM_AXES, Place


class Forward:
    """The running forward.

    Attributes:
        called: Whether the model has been called.
        cached_step: Whether the forward continues from the state of earlier tokens, as in `generate`.
        longest: Real tokens of the longest prompt so far.
    """

    def __init__(self, mixers: list[MixerSite]):
        self.called = False
        self.cached_step = False
        self.longest = 0
        self._mixers = mixers
        self._mask: Tensor | None = None
        self._before, self._seen = 0, 0
        self._prefill: Tensor | None = None
        self._cache: dict[tuple[int, int, int], tuple[Tensor | None, Positions]] = {}
        self._places: dict[tuple[str, torch.Size], Place] = {}
        self._prefill_mask: Tensor | None = None  # some models get no mask in cached steps

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the model runs: read its attention mask and its cache."""
        self.called = True
        given = arguments(model, args, kwargs)
        mask = given.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        self.cached_step = any(site.adapter.cached_by(site.module, given) for site in self._mixers)
        self._before = self._seen if self.cached_step else 0
        if not self.cached_step:
            self._prefill, self._prefill_mask = None, self._mask
        self._cache.clear()
        self._places.clear()

    def place(self, what: str, hidden: Tensor) -> Place:
        """The place of a hidden state [batch token d_model] of this forward. `what` is its name in edits."""
        place = self._places.get((what, hidden.shape))
        if place is None:
            place = Place(what, STREAM_AXES, self.positions(hidden))
            self._places[what, hidden.shape] = place
        return place

    def positions(self, hidden: Tensor, mask: Tensor | None = None) -> Positions:
        """The positions of the tokens of a hidden state [batch token d_model] of this forward.

        Args:
            hidden: The hidden state.
            mask: The mask that the module received, 1 at real tokens. Used if the model received none.
        """
        batch, tokens = hidden.shape[:2]
        mask = mask if self._mask is None else self._mask
        # Reads a mask on a GPU once a forward, not once a layer.
        cached_mask, cached = self._cache.get((batch, tokens, id(mask)), (None, None))
        if cached is not None and cached_mask is mask:
            return cached
        positions = self._positions(batch, tokens, mask)
        self._cache[batch, tokens, id(mask)] = (mask, positions)
        return positions

    def _positions(self, batch: int, tokens: int, mask: Tensor | None) -> Positions:
        if mask is None and self.cached_step and self._prefill_mask is not None:
            later = self._before + tokens - self._prefill_mask.shape[1]
            mask = torch.nn.functional.pad(self._prefill_mask, (0, later), value=1)
        if mask is not None and (len(mask) != batch or mask.shape[1] < tokens):
            mask = None
        positions = Positions.of(batch, tokens, mask, self._before, self._prefill)
        if self._prefill is None or not self.cached_step:
            self._prefill = positions.length
        self._seen = self._before + tokens
        self.longest = max(self.longest, positions.longest)
        return positions
