"""Compute any rectangle of a layer's maps exactly, without the rest of the maps."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import Operator, Span
from ssmlens.scan.spans import check_spans


def map_tile(
    operands: Operator, kinds: Sequence[str], queries: Span, keys: Span
) -> Float[Tensor, "batch kind query key"]:
    """Some of a layer's maps on a rectangle, exact, in the scan's precision. Uses memory of the rectangle's size.

    Args:
        operands: Operands of one layer; `x` is not needed.
        kinds: Some of `Operator.maps`.
        queries: The first query and the query after the last.
        keys: The first key and the key after the last.

    Raises:
        UsageError: A range does not lie in the sequence, or the operator has no such map.
    """
    check_spans(operands.tokens, queries, keys)
    operands.require(kinds)
    return operands.bare().means(kinds, queries, keys)
