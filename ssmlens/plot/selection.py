"""The selection of a figure: a matrix or signal of a layer on a prompt, and how to draw it."""

import dataclasses
import re
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple, TypeVar, get_args

from ssmlens.names import ERASE, MAP, MASK
from ssmlens.plot.raster import Reduction
from ssmlens.plot.recorded import RecordedLayer
from ssmlens.plot.scales import Scale
from ssmlens.plot.theme import LIGHT, Theme
from ssmlens.store import Layer
from ssmlens.store.schema import looks_ahead

T = TypeVar("T")
Drawable = Layer | RecordedLayer
"""A layer of a file, or a record of `recording`."""

Kind = Literal["map", "mask", "erase", "channel", "softmax"]
"""A matrix of a layer: one of its maps (`names.MAPS`), one head's M, or the softmax attention beside a mixer."""

KINDS: tuple[Kind, ...] = get_args(Kind)
HeadOrder = Literal["index", "step", "half-life"]
HEAD_ORDERS: tuple[HeadOrder, ...] = get_args(HeadOrder)
Keep = Callable[[Hashable, Callable[[], T]], T]
"""keep(key, compute): returns `compute()`, or its earlier result from a cache."""

Span = tuple[int, int]
"""A range of tokens: the first, and one past the last."""

_REGION = re.compile(r"([0-9]{1,9})-([0-9]{1,9}),([0-9]{1,9})-([0-9]{1,9})")


class Region(NamedTuple):
    """A rectangle of a map: queries and keys, each first and one past the last. Written "0-64,16-80"."""

    queries: Span
    keys: Span

    @classmethod
    def parse(cls, text: str) -> "Region":
        """Read a rectangle from text. Raises ValueError if the text is not a rectangle."""
        match = _REGION.fullmatch(text)
        if match is None:
            raise ValueError(text)
        first, end, first_key, end_key = map(int, match.groups())
        if first >= end or first_key >= end_key:
            raise ValueError(text)
        return cls((first, end), (first_key, end_key))

    def __str__(self) -> str:
        return "{}-{},{}-{}".format(*self.queries, *self.keys)


def compute_anew(key: Hashable, compute: Callable[[], T]) -> T:
    """Compute without a cache, as a `Keep`."""
    return compute()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The part of a layer to draw.

    Attributes:
        layer: The layer.
        prompt: Number of the prompt.
        kind: The matrix.
        channel: The head, for kind "channel".
        region: The rectangle drawn; None: all. Signals take its keys.
        scale: Colour scale.
        limit: The value at the end of the colour scale; None: from the full matrix, so that a region keeps its colours.
        query: A query to mark.
        sort: Order of the heads of Δ.
        group: The group of W_B and W_C.
        theme: Colours.
        keep: A cache, for a program that draws the same layer again.
    """

    layer: Drawable
    prompt: int = 0
    kind: Kind = "map"
    channel: int = 0
    region: Region | None = None
    scale: Scale = "linear"
    limit: float | None = None
    query: int | None = None
    sort: HeadOrder = "index"
    group: int = 0
    theme: Theme = LIGHT
    keep: Keep = compute_anew

    @property
    def length(self) -> int:
        """Real tokens of the prompt."""
        return self.layer.length(self.prompt)

    @property
    def tokens(self) -> list[str]:
        """The prompt's tokens as text."""
        return self.layer.token_strings(self.prompt)

    @property
    def queries(self) -> Span:
        """The queries drawn."""
        return (0, self.length) if self.region is None else self.region.queries

    @property
    def keys(self) -> Span:
        """The keys drawn; for signals, the tokens."""
        return (0, self.length) if self.region is None else self.region.keys

    @property
    def causal(self) -> bool:
        """Whether no query sees a later key, so that the matrices are lower triangles."""
        return not looks_ahead(self.layer.attributes)

    @property
    def signed(self) -> bool:
        """Whether the matrix has signs; otherwise its values lie in 0..1."""
        return self.kind in (MAP, ERASE, "channel")

    @property
    def reduction(self) -> Reduction:
        """How several entries become one pixel: the mean for masks, else the largest in magnitude."""
        return "mean" if self.kind == MASK else "peak"

    @property
    def key(self) -> tuple[str, int]:
        """Key of layer and prompt for `keep`."""
        return self.layer.digest, self.prompt

    @property
    def matrix_key(self) -> tuple[str, int, str, int]:
        """Key of the matrix for `keep`."""
        return (*self.key, self.kind, self.channel if self.kind == "channel" else 0)


def kinds_of(layer: Drawable) -> tuple[Kind, ...]:
    """List a layer's matrices in the order of `KINDS`."""
    kinds = {*layer.maps}
    kinds |= {"channel"} if heads_of(layer) else set()
    kinds |= {"softmax"} if "softmax_attention_map" in layer else set()
    return tuple(kind for kind in KINDS if kind in kinds)


def maps_of(layer: Drawable) -> list[Kind]:
    """List a layer's matrices that are means over all of its heads."""
    return [kind for kind in KINDS if kind in layer.maps]


def heads_of(layer: Drawable) -> int:
    """Count the heads with a map of their own; 0 if a file stores no operands."""
    return layer.heads
