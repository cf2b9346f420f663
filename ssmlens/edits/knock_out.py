"""Knock out edges: entries of M."""

import dataclasses
import functools
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from ssmlens.edits.edit import Edit, Stage, register
from ssmlens.edits.selection import Chosen, Selection
from ssmlens.edits.set import Set
from ssmlens.errors import UsageError
from ssmlens.scan.edges import Edges


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class KnockOut(Edit):
    """Take entries of M out of what the layer computes: `KnockOut(layer=17, queries="64:", keys="0:64")`.

    The edges are those whose query, key and lag are all chosen; the skip D x stays. `lags="1:"` is no cross-talk: M off
    its diagonal. Several knock-outs of a layer take away the edges that are in any of them.

    Attributes:
        queries: Rows of M, counted from each prompt's first real token. None: all.
        keys: Columns of M. None: all.
        lags: How many tokens back, query − key; where tokens look ahead too, how many apart. None: all.
        heads: Whose M. None: all.
        mask: Which entries [query key] of what is chosen so far; on a GPU it is quickest there. None: all.
        taps: Whether the earlier taps of the convolution are set to 0 too, so that no token sees another.
    """

    queries: Chosen = None
    keys: Chosen = None
    lags: Chosen = None
    heads: Chosen = None
    mask: Bool[Tensor, "query key"] | None = None
    taps: bool = False
    kind: ClassVar[str] = "knock-out"

    def __post_init__(self):
        for name in ("queries", "keys", "lags", "heads"):
            object.__setattr__(self, name, Selection.of(getattr(self, name)))
        mask = self.mask
        if mask is not None and not (
            isinstance(mask, Tensor) and mask.ndim == 2 and mask.dtype == torch.bool
        ):
            raise UsageError(f"{self}: its mask is a boolean matrix [query key]")
        if self.lags is not None and self.lags.counts_back:
            raise UsageError(f"{self}: a lag is 0 or more tokens back")
        if not isinstance(self.taps, bool):
            raise UsageError(f"{self}: taps is true or false")

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return Stage.ENTRIES

    def parts(self) -> list[Edit]:
        """See `Edit.parts`."""
        if not self.taps:
            return [self]
        no_taps = Set(layer=self.layer, part=self.part, what="conv", taps="1:", value=0.0)
        return [no_taps, dataclasses.replace(self, taps=False)]

    def tokens_named(self) -> list[tuple[Selection, str]]:
        """See `Edit.tokens_named`."""
        named = ((self.queries, "query"), (self.keys, "key"))
        return [(selection, name) for selection, name in named if selection is not None]

    def edges(self, tokens: int, heads: int) -> Edges:
        """The edges of a prompt of so many tokens; what lies past its end is not there.

        Raises:
            UsageError: A head is out of range, or the mask is too small.
        """
        known = self._latest.get((tokens, heads))
        if known is None:
            self._latest.clear()
            known = self._latest[tokens, heads] = self._edges(tokens, heads)
        return known

    @functools.cached_property
    def _latest(self) -> dict[tuple[int, int], Edges]:
        """The edges that were asked for last: all layers, and all forwards of a prompt, ask for the same."""
        return {}

    def _edges(self, tokens: int, heads: int) -> Edges:
        chosen = {
            name: torch.ones(size, dtype=torch.bool)
            if (selection := getattr(self, name)) is None
            else selection.clipped(size, size)
            for name, size in (("queries", tokens), ("keys", tokens), ("lags", tokens))
        }
        try:
            of_heads = Selection(((None, None),)) if self.heads is None else self.heads
            chosen["heads"] = of_heads.mask(heads, "head")
        except UsageError as error:
            raise UsageError(f"{self}: {error}") from None
        mask = self.mask
        if mask is not None:
            if min(mask.shape) < tokens:
                raise UsageError(
                    f"{self}: its mask is {list(mask.shape)} and the prompt has {tokens} tokens"
                )
            mask = mask[:tokens, :tokens]
        return Edges(**chosen, mask=mask)
