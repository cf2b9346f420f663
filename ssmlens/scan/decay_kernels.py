"""Kernels of `decay_sums`, in Triton: they make decays in registers and multiply them at once.

`running[e, h]` is the sum of the steps of head h before token e, in float64; differences are taken in float64 and then
rounded. `rate` is in powers of two. Heads come in slices of K, none of which has heads of two groups. A program adds up
a share of the slices in their order and has its own part of the result: the same operands give the same bits.
"""

from typing import no_type_check

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

# A step so long that its decay is 0: for the places of a slice that have no head.
_FOREVER = tl.constexpr(1e30)
# Sizes that differ from prompt to prompt: one compiled kernel serves them all.
_ANY = ("queries", "keys", "query_end", "key_end", "split", "row_stride")


@triton.jit(do_not_specialize=("tokens",))
@no_type_check
def running_sums(steps, out, tokens, heads, TOKENS: tl.constexpr, HEADS: tl.constexpr):
    """The sum of the steps before every token and at the end, in float64."""
    h = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    of_h = h < heads
    total = tl.zeros([HEADS], tl.float64)
    tl.store(out + h, total, of_h)
    for first in range(0, tokens, TOKENS):
        token = first + tl.arange(0, TOKENS)
        at = token.to(tl.int64)[:, None] * heads + h[None, :]
        real = (token < tokens)[:, None] & of_h[None, :]
        some = tl.load(steps + at, real, 0.0).to(tl.float64)
        tl.store(out + heads + at, tl.cumsum(some, 0) + total[None, :], real)
        total += tl.sum(some, 0)


@triton.jit(do_not_specialize=_ANY)
@no_type_check
def rectangle_sums(
    running, rate, B, C, weight, of_map, of_mask,
    queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
    SIZE: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr, LEAF_K: tl.constexpr,
    MAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Sums over a share of the heads for a tile of a rectangle whose keys are before its queries."""
    columns = tl.cdiv(key_end - keys, SIZE)
    boundary = queries + tl.program_id(0) // columns * SIZE
    first_key = keys + tl.program_id(0) % columns * SIZE
    _tile(
        running, rate, B, C, weight, of_map, of_mask, boundary, first_key,
        queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
        SIZE, K, MAP, MASK,
    )  # fmt: skip


@triton.jit(do_not_specialize=_ANY)
@no_type_check
def square_sums(
    running, rate, B, C, weight, of_map, of_mask,
    queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
    SIZE: tl.constexpr, K: tl.constexpr, LEVELS: tl.constexpr, LEAF_K: tl.constexpr,
    MAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """Sums over a share of the heads for a part of a square whose keys are its queries.

    The parts are all tiles of SIZE (those on the diagonal or above it are left out), then the left lower quarters of
    the tiles on the diagonal, the quarters of what these leave, and so on, and at last the leaves.
    """
    tokens = query_end - queries
    part, count = tl.program_id(0), tl.cdiv(tokens, SIZE)
    row, column = part // count, part % count
    if (row < count) & (column < row):
        _tile(
            running, rate, B, C, weight, of_map, of_mask, queries + row * SIZE, keys + column * SIZE,
            queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
            SIZE, K, MAP, MASK,
        )  # fmt: skip
    part -= count * count
    for level in tl.static_range(1, LEVELS + 1):
        pairs = tl.cdiv(tokens, SIZE >> level) // 2
        if (part >= 0) & (part < pairs):
            first = queries + 2 * part * (SIZE >> level)
            _tile(
                running, rate, B, C, weight, of_map, of_mask, first + (SIZE >> level), first,
                queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
                SIZE >> level, K, MAP, MASK,
            )  # fmt: skip
        part -= pairs
    if part >= 0:
        _leaf(
            running, rate, B, C, weight, of_map, of_mask, queries + part * (SIZE >> LEVELS),
            queries, query_end, heads, groups, states, split, row_stride,
            SIZE >> LEVELS, LEAF_K, MAP, MASK,
        )  # fmt: skip


@triton.jit
@no_type_check
def _tile(
    running, rate, B, C, weight, of_map, of_mask, boundary, first_key,
    queries, keys, query_end, key_end, heads, groups, states, split, row_stride,
    SIZE: tl.constexpr, K: tl.constexpr, MAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """SIZE queries from a boundary on, and SIZE keys before it: a product for each slice of heads and each state."""
    share, shares = tl.program_id(1), tl.num_programs(1)
    wide = heads // groups
    per_group = tl.cdiv(wide, K)
    slices = groups * per_group
    i, j = boundary + tl.arange(0, SIZE), first_key + tl.arange(0, SIZE)
    # Places past the end have the last token's numbers, and are not stored.
    query, key = tl.minimum(i, query_end - 1).to(tl.int64), tl.minimum(j, key_end - 1).to(tl.int64)
    sum_map = tl.zeros([SIZE, SIZE], tl.float32)
    sum_mask = tl.zeros([SIZE, SIZE], tl.float32)
    for part in range(share * slices // shares, (share + 1) * slices // shares):
        group = part // per_group
        h = group * wide + part % per_group * K + tl.arange(0, K)
        of_h = (h < (group + 1) * wide)[None, :]
        row_i, row_j = query[:, None] * heads + h[None, :], key[:, None] * heads + h[None, :]
        start = tl.load(running + boundary.to(tl.int64) * heads + h[None, :], of_h, 0.0)
        since = (tl.load(running + heads + row_i, of_h, 0.0) - start).to(tl.float32)
        until = (start - tl.load(running + heads + row_j, of_h, 0.0)).to(tl.float32)
        since = tl.where(of_h, since, _FOREVER)
        if MAP:
            put = tl.load(weight + row_j, of_h, 0.0)
        for n in range(states):
            decays = tl.load(rate + n * heads + h[None, :], of_h, -1.0)
            P, Q = tl.exp2(since * decays), tl.exp2(until * decays)
            if MAP:
                read = tl.load(C + (query * groups + group) * states + n)
                write = tl.load(B + (key * groups + group) * states + n)
                Q_map = Q * (put * write[:, None])
            if MAP and MASK:
                both = tl.reshape(tl.permute(tl.join(Q_map, Q), (2, 0, 1)), [2 * SIZE, K])
                sums = tl.permute(tl.reshape(product(P, both), [SIZE, 2, SIZE]), (0, 2, 1))
                add_map, add_mask = tl.split(sums)
                sum_map += read[:, None] * add_map
                sum_mask += add_mask
            elif MAP:
                sum_map += read[:, None] * product(P, Q_map)
            else:
                sum_mask += product(P, Q)
    real = (i < query_end)[:, None] & (j < key_end)[None, :]
    at = share * split + (i - queries).to(tl.int64)[:, None] * row_stride + (j - keys)[None, :]
    if MAP:
        tl.store(of_map + at, sum_map, real)
    if MASK:
        tl.store(of_mask + at, sum_mask, real)


@triton.jit
@no_type_check
def _leaf(
    running, rate, B, C, weight, of_map, of_mask, start,
    first, end, heads, groups, states, split, row_stride,
    SIZE: tl.constexpr, K: tl.constexpr, MAP: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """The pairs j < i of SIZE tokens, each with its own exponential."""
    share, shares = tl.program_id(1), tl.num_programs(1)
    wide = heads // groups
    per_group = tl.cdiv(wide, K)
    slices = groups * per_group
    pair = tl.arange(0, SIZE * SIZE // 2)  # (i, j): (1, 0), (2, 0), (2, 1), (3, 0), ...
    i = tl.zeros_like(pair)
    for row in tl.static_range(1, SIZE):
        i += (pair >= row * (row - 1) // 2).to(tl.int32)
    j = pair - i * (i - 1) // 2
    real = (j < i) & (start + i < end)
    query = tl.where(real, start + i, start).to(tl.int64)
    key = tl.where(real, start + j, start).to(tl.int64)
    sum_map = tl.zeros([SIZE * SIZE // 2, K], tl.float32)
    sum_mask = tl.zeros([SIZE * SIZE // 2, K], tl.float32)
    for part in range(share * slices // shares, (share + 1) * slices // shares):
        group = part // per_group
        h = group * wide + part % per_group * K + tl.arange(0, K)
        of_h = (h < (group + 1) * wide)[None, :]
        row_i, row_j = query[:, None] * heads + h[None, :], key[:, None] * heads + h[None, :]
        until = tl.load(running + heads + row_i, of_h, 0.0)
        between = (until - tl.load(running + heads + row_j, of_h, 0.0)).to(tl.float32)
        between = tl.where(of_h, between, _FOREVER)
        entries = tl.zeros([SIZE * SIZE // 2, K], tl.float32)
        for n in range(states):
            decay = tl.exp2(between * tl.load(rate + n * heads + h[None, :], of_h, -1.0))
            if MASK:
                sum_mask += decay
            if MAP:
                read = tl.load(C + (query * groups + group) * states + n)
                write = tl.load(B + (key * groups + group) * states + n)
                entries += (read * write)[:, None] * decay
        if MAP:
            sum_map += entries * tl.load(weight + row_j, of_h, 0.0)
    at = share * split + (query - first) * row_stride + (key - first)
    if MAP:
        tl.store(of_map + at, tl.sum(sum_map, 1), real)
    if MASK:
        tl.store(of_mask + at, tl.sum(sum_mask, 1), real)


@triton.jit(do_not_specialize=("kind_stride", "row_stride", "rows", "columns", "shares"))
@no_type_check
def sum_shares(
    parts, out, kind_stride, row_stride, rows, columns, shares, SQUARE: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Sum up the shares of every entry, in their order; in a square only below the diagonal."""
    row, kind = tl.program_id(0).to(tl.int64), tl.program_id(2)
    j = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    some = j < (row if SQUARE else columns)
    total = tl.zeros([SIZE], tl.float32)
    for share in range(shares):
        at = ((kind * shares + share) * rows + row) * columns + j
        total += tl.load(parts + at, some, 0.0)
    tl.store(out + kind * kind_stride + row * row_stride + j, total, some)


@triton.jit
@no_type_check
def product(P, Q):
    """P Qᵀ to float32's accuracy by tensor cores, which keep 11 bits of a factor: every factor is cut in two.

    Only one slice is summed up there, since those sums are rounded towards zero.
    """
    P_high, Q_high = _high(P), tl.trans(_high(Q))
    P_low, Q_low = P - P_high, tl.trans(Q) - Q_high
    sums = tl.dot(P_low, Q_high, input_precision="tf32")
    sums = tl.dot(P_high, Q_low, sums, input_precision="tf32")
    return tl.dot(P_high, Q_high, sums, input_precision="tf32")


@triton.jit
@no_type_check
def _high(x):
    """The first 11 bits of each number, rounded."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
