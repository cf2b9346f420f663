"""Ranges of queries and keys: which are valid, what of a rectangle is causal, the tiles of a long prompt."""

from collections.abc import Iterator
from itertools import pairwise

from ssmlens.errors import UsageError
from ssmlens.scan.operator import Operator, Span

# Tokens a side of a tile. What it takes to make one is less than the tile: on a GPU, in float32, map and mask of a
# tile are 512 MiB; P and Q, their decay, the squares on the diagonal and a product, as counted, at most 384 MiB. (On
# a CPU 128 MiB and 120 MiB.)
TILE_TOKENS = {"cpu": 4096, "cuda": 8192}


def check_spans(tokens: int, queries: Span, keys: Span) -> None:
    """Raise UsageError unless both ranges lie in a sequence of so many tokens."""
    for name, (first, end) in (("queries", queries), ("keys", keys)):
        if not 0 <= first <= end <= tokens:
            raise UsageError(
                f"{name} from {first} to before {end} are out of range: there are {tokens} tokens"
            )


def causal_parts(queries: Span, keys: Span) -> Iterator[tuple[Span, Span]]:
    """What of a rectangle is not above the diagonal: rectangles below it, and a square on it (queries = keys)."""
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
    """Ranges (queries, keys) of the tiles that hold all of M, row after row; none cuts a block of tokens.

    That is every pair j ≤ i where the operator is causal, else every pair.
    """
    size = TILE_TOKENS["cuda" if operator.like.is_cuda else "cpu"]
    size = max(1, size // block) * block
    edges = [*range(0, operator.tokens, size), operator.tokens]
    spans = list(pairwise(edges))
    for n, queries in enumerate(spans):
        for keys in spans[: n + 1] if operator.is_causal else spans:
            yield queries, keys
