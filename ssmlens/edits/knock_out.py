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
    """Set entries of M to 0: `KnockOut(layer=17, queries="64:", keys="0:64")`.

    It removes every edge whose query, key and lag are all selected. The skip D x stays. `lags="1:"` removes all of M
    but its diagonal, so that the scan mixes no tokens. Several knock-outs of a layer remove the union of their edges.

    Attributes:
        queries: Rows of M, counted from each prompt's first real token. None: all.
        keys: Columns of M. None: all.
        lags: Distances query − key in tokens; |query − key| if the mixer also looks ahead. None: all.
        heads: Heads whose M changes. None: all.
        mask: Which of the edges selected so far to remove, [query key]. Fastest on the model's GPU. None: all.
        taps: Whether to set the earlier taps of the convolution to 0 too, so that no token sees another.
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
            raise UsageError(f"{self}: mask must be a boolean matrix [query key]")
        if self.lags is not None and self.lags.counts_back:
            raise UsageError(f"{self}: a lag is a number of tokens, 0 or more")
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
        """The edges in a prompt of this many tokens. Selected tokens past its end are ignored.

        Raises:
            UsageError: A head is out of range, or the mask is too small.
        """
        edges = self._latest.get((tokens, heads))
        if edges is None:
            self._latest.clear()
            edges = self._latest[tokens, heads] = self._edges(tokens, heads)
        return edges

    @functools.cached_property
    def _latest(self) -> dict[tuple[int, int], Edges]:
        """Cache of the last edges, by (tokens, heads): all forwards of one prompt need the same."""
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
                    f"{self}: its mask is {list(mask.shape)}, but the prompt has {tokens} tokens"
                )
            mask = mask[:tokens, :tokens]
        return Edges(**chosen, mask=mask)
