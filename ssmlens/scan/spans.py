"""Ranges of queries and keys: check them, find the causal parts of a rectangle, split a long prompt into tiles."""

from collections.abc import Iterator
from itertools import pairwise

from ssmlens.errors import UsageError
from ssmlens.scan.operator import Operator, Span

# Tokens on a side of a tile. Computing a tile takes less memory than the tile. On a GPU, in float32, map and mask of a
# tile take 512 MiB; P and Q, their decay, the squares on the diagonal and a product take at most 384 MiB, as counted.
# On a CPU these are 128 MiB and 120 MiB.
TILE_TOKENS = {"cpu": 4096, "cuda": 8192}


def check_spans(tokens: int, queries: Span, keys: Span) -> None:
    """Raise UsageError unless both ranges lie in a sequence of this many tokens."""
    for name, (first, end) in (("queries", queries), ("keys", keys)):
        if not 0 <= first <= end <= tokens:
            raise UsageError(
                f"{name} from {first} to before {end} are out of range: there are {tokens} tokens"
            )


def causal_parts(queries: Span, keys: Span) -> Iterator[tuple[Span, Span]]:
    """Split the causal part of a rectangle into rectangles below the diagonal and a square on it (queries = keys)."""
    first, end = max(queries[0], keys[0]), min(queries[1], keys[1])
    if keys[0] < min(keys[1], queries[0]) and queries[0] < queries[1]:
        yield queries, (keys[0], min(keys[1], queries[0]))
    if first < end:
        yield (first, end), (first, end)
        if end < queries[1]:
            yield (end, queries[1]), (first, end)


def place(rows: Span, columns: Span, queries: Span, keys: Span) -> tuple[slice, slice]:
    """Where a part (rows, columns) lies in its rectangle of queries and keys."""
    return (
        slice(rows[0] - queries[0], rows[1] - queries[0]),
        slice(columns[0] - keys[0], columns[1] - keys[0]),
    )


def tiles(operator: Operator, block: int = 1) -> Iterator[tuple[Span, Span]]:
    """Ranges (queries, keys) of the tiles of M, row by row. No tile cuts a block of tokens.

    Together they cover every pair j ≤ i if the operator is causal, else every pair.
    """
    size = TILE_TOKENS["cuda" if operator.like.is_cuda else "cpu"]
    size = max(1, size // block) * block
    edges = [*range(0, operator.tokens, size), operator.tokens]
    spans = list(pairwise(edges))
    for n, queries in enumerate(spans):
        for keys in spans[: n + 1] if operator.is_causal else spans:
            yield queries, keys
