"""Any rectangle of a layer's attention map and mask, and the tiles that cover those of a long prompt."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.scan.head_sums import add_head_sums
from ssmlens.scan.operands import ScanOperands

KINDS = ("map", "mask")
# Tokens a side of a tile. What it takes to make one is less than the tile: on a GPU, in float32, map and mask of a
# tile are 512 MiB; P and Q, their decay, the squares on the diagonal and a product, as counted, at most 384 MiB. (On
# a CPU 128 MiB and 120 MiB.)
TILE_TOKENS = {"cpu": 4096, "cuda": 8192}


def attention_tile(
    operands: ScanOperands, queries: tuple[int, int], keys: tuple[int, int]
) -> tuple[Float[Tensor, "batch query key"], Float[Tensor, "batch query key"]]:
    """A rectangle of the attention map and of the average attention mask, exact, without the rest of either.

    It is `attention_map_and_mask(operands)` at queries[0] ≤ i < queries[1] and keys[0] ≤ j < keys[1], in memory of
    the rectangle's size.

    Args:
        operands: Operands of one layer; `x` is not needed.
        queries: First token and the token after the last.
        keys: Likewise.

    Raises:
        UsageError: A range does not lie in the sequence.
    """
    means = head_means(operands, KINDS, queries, keys)
    return means[:, 0], means[:, 1]


def head_means(
    operands: ScanOperands, kinds: Sequence[str], queries: tuple[int, int], keys: tuple[int, int]
) -> Float[Tensor, "batch kind query key"]:
    """A rectangle of some of `KINDS`: the mean of M over heads, and the mean of the decay over heads and states."""
    for name, (first, end) in (("queries", queries), ("keys", keys)):
        if not 0 <= first <= end <= operands.tokens:
            raise UsageError(
                f"{name} from {first} to before {end} are out of range: there are {operands.tokens} tokens"
            )
    o = operands.only_maps()
    out = o.delta.new_zeros(o.batch, len(kinds), queries[1] - queries[0], keys[1] - keys[0])
    for rows, columns in _parts(queries, keys):
        i, j = (
            slice(at - first, end - first)
            for (at, end), (first, _) in ((rows, queries), (columns, keys))
        )
        for sequence in range(o.batch):
            add_head_sums(out[sequence, :, i, j], kinds, o.sequence(sequence), rows, columns)
    terms = {"map": o.heads, "mask": o.heads * o.decay[1].shape[1]}
    for n, kind in enumerate(kinds):
        out[:, n] /= terms[kind]
    return out


def _parts(
    queries: tuple[int, int], keys: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What of a rectangle is not above the diagonal: rectangles below it, and a square on it (queries = keys)."""
    first, end = max(queries[0], keys[0]), min(queries[1], keys[1])
    if keys[0] < min(keys[1], queries[0]) and queries[0] < queries[1]:
        yield queries, (keys[0], min(keys[1], queries[0]))
    if first < end:
        yield (first, end), (first, end)
        if end < queries[1]:
            yield (end, queries[1]), (first, end)


def tiles(
    operands: ScanOperands, block: int = 1
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges (queries, keys) of the tiles that hold every pair j ≤ i, row after row; none cuts a block of tokens."""
    size = TILE_TOKENS["cuda" if operands.delta.is_cuda else "cpu"]
    size = max(1, size // block) * block
    edges = [*range(0, operands.tokens, size), operands.tokens]
    spans = list(pairwise(edges))
    for n, queries in enumerate(spans):
        for keys in spans[: n + 1]:
            yield queries, keys
