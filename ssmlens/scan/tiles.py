"""Any rectangle of a layer's maps, exact, without the rest of them."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ssmlens.scan.operator import Operator, Span
from ssmlens.scan.spans import check_spans


def map_tile(
    operands: Operator, kinds: Sequence[str], queries: Span, keys: Span
) -> Float[Tensor, "batch kind query key"]:
    """A rectangle of some of a layer's maps, exact, in memory of the rectangle's size, in the scan's precision.

    Args:
        operands: Operands of one layer; `x` is not needed.
        kinds: Some of `Operator.maps`.
        queries: First token and the token after the last.
        keys: Likewise.

    Raises:
        UsageError: A range does not lie in the sequence, or the operator has no such map.
    """
    check_spans(operands.tokens, queries, keys)
    operands.require(kinds)
    return operands.bare().means(kinds, queries, keys)
