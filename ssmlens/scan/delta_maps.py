"""M, the erase and the mask of a delta rule on rectangles of queries and keys."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ssmlens.names import ERASE, MAP
from ssmlens.scan.block_recursion import DecayedPairs, add_rectangle, add_square
from ssmlens.scan.delta_blocks import FORGOTTEN, Blocks, Operands, leaves
from ssmlens.scan.operator import Span
from ssmlens.scan.spans import causal_parts, place

READERS = (MAP, ERASE)
# Entries [token term] of the mask's factors in memory at once.
_MASK_ENTRIES = {"cpu": 2**20, "cuda": 2**25}


@dataclass(frozen=True)
class Square:
    """A square of every head on the diagonal.

    Attributes:
        rows: The first query and the query after the last. The keys are the same tokens.
        entries: Entries of M without its β_j, and of the erase.
        beta: β of the keys.
    """

    rows: Span
    entries: Float[Tensor, "head reader query key"]
    beta: Float[Tensor, "head key"]

    @property
    def columns(self) -> Span:
        """First key and the key after the last."""
        return self.rows

    def by_head(self, kind: str) -> Float[Tensor, "head query key"]:
        """The entries of every head."""
        entries = self.entries[:, READERS.index(kind)]
        return entries * self.beta.unsqueeze(1) if kind == MAP else entries

    def summed(self, kind: str) -> Float[Tensor, "query key"]:
        """Their sum over heads."""
        return self.by_head(kind).sum(0)


@dataclass(frozen=True)
class Product:
    """A rectangle of every head below the diagonal, as a product.

    Attributes:
        rows: The first query and the query after the last.
        columns: The first key and the key after the last.
        readers: Readers of queries and of erases, carried back to a token between keys and queries.
        writers: Writers of the keys, carried on to that token, without β.
        beta: β of the keys.
    """

    rows: Span
    columns: Span
    readers: Float[Tensor, "head reader query state"]
    writers: Float[Tensor, "head key state"]
    beta: Float[Tensor, "head key"]

    def by_head(self, kind: str) -> Float[Tensor, "head query key"]:
        """The entries of every head."""
        return self.readers[:, READERS.index(kind)] @ self._writers(kind).mT

    def summed(self, kind: str) -> Float[Tensor, "query key"]:
        """Their sum over heads."""
        readers, writers = self.readers[:, READERS.index(kind)], self._writers(kind)
        readers, writers = (x.transpose(0, 1).flatten(1) for x in (readers, writers))
        return readers @ writers.mT

    def _writers(self, kind: str) -> Float[Tensor, "head key state"]:
        return self.writers * self.beta.unsqueeze(2) if kind == MAP else self.writers


def parts(o: Operands, queries: Span, keys: Span) -> Iterator[Square | Product]:
    """Split a rectangle into parts, so that each causal entry is in exactly one of them."""
    for rows, columns in causal_parts(queries, keys):
        if rows == columns:
            yield from _parts_of_square(o, rows)
            continue
        readers = _one_block(o, rows).readers[:, 0, :, : rows[1] - rows[0]]
        writers = _one_block(o, columns).writers[:, 0, : columns[1] - columns[0]]
        if columns[1] < rows[0]:
            writers = writers @ _one_block(o, (columns[1], rows[0])).across[:, 0]
        yield Product(rows, columns, readers, writers, o.between(columns).beta)


def _one_block(o: Operands, span: Span) -> Blocks:
    return leaves(o.between(span)).blocks.merged()


def _parts_of_square(o: Operands, span: Span) -> Iterator[Square | Product]:
    first, end = span
    of_span = leaves(o.between(span))
    size = of_span.squares.shape[-1]
    for n, start in enumerate(range(first, end, size)):
        rows = (start, min(start + size, end))
        length = rows[1] - start
        entries = of_span.squares[:, n, :, :length, :length]
        yield Square(rows, entries, o.between(rows).beta)
    blocks = of_span.blocks
    while first + size < end:
        for n, start in enumerate(range(first, end - size, 2 * size)):
            columns, rows = (start, start + size), (start + size, min(start + 2 * size, end))
            readers = blocks.readers[:, 2 * n + 1, :, : rows[1] - rows[0]]
            beta = o.between(columns).beta
            yield Product(rows, columns, readers, blocks.writers[:, 2 * n], beta)
        size *= 2
        if first + size < end:
            blocks = blocks.double()


def add_mask(
    out: Float[Tensor, "query key"],
    log_decay: Float[Tensor, "token term"],
    queries: Span,
    keys: Span,
) -> None:
    """Add the sum over terms of the decay from each key to each query to `out`."""
    causal = list(causal_parts(queries, keys))
    terms = max(1, _MASK_ENTRIES["cuda" if out.is_cuda else "cpu"] // max(1, len(log_decay)))
    for steps in log_decay.clamp(min=FORGOTTEN).split(terms, dim=1):
        one = steps.new_ones(1, 1, len(steps), 1)
        rate = steps.new_ones(1, steps.shape[1], 1)
        pairs = DecayedPairs(
            steps[None], rate, one, one, one[..., 0, None].expand_as(steps[None, None])
        )
        for rows, columns in causal:
            i, j = place(rows, columns, queries, keys)
            if rows == columns:
                add_square(out[None, None, i, j], pairs.tokens(*rows))
                out[i, j].diagonal().add_(steps.shape[1])
            else:
                add_rectangle(out[None, i, j], pairs, rows, columns)
