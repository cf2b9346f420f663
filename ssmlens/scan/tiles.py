"""Any rectangle of a layer's maps, exact, without the rest of them."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ssmlens.names import MAP, MASK
from ssmlens.scan.operator import Operator, Span
from ssmlens.scan.spans import check_spans


def attention_tile(
    operands: Operator, queries: Span, keys: Span
) -> tuple[Float[Tensor, "batch query key"], Float[Tensor, "batch query key"]]:
    """A rectangle of the attention map and of the average attention mask, exact, without the rest of either.

    It is `attention_map_and_mask(operands)` at queries[0] ≤ i < queries[1] and keys[0] ≤ j < keys[1], in memory of
    the rectangle's size.

    Args:
        operands: Operands of one layer; `x` is not needed.
        queries: First token and the token after the last.
        keys: Likewise.

    Raises:
        UsageError: A range does not lie in the sequence, or the operator has no mask.
    """
    means = map_tile(operands, (MAP, MASK), queries, keys)
    return means[:, 0], means[:, 1]


def map_tile(
    operands: Operator, kinds: Sequence[str], queries: Span, keys: Span
) -> Float[Tensor, "batch kind query key"]:
    """A rectangle of some of a layer's maps (`Operator.maps`), in the scan's precision.

    Raises:
        UsageError: A range does not lie in the sequence, or the operator has no such map.
    """
    check_spans(operands.tokens, queries, keys)
    operands.require(kinds)
    return operands.bare().means(kinds, queries, keys)
