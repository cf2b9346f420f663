"""Kernel of `edge_sums`, in Triton: a program sums the selected edges of one query, for some heads.

It walks through the keys before its query, loads blocks of `edges` and skips empty ones. Sums are taken in the keys'
order: the same operands give the same bits.
"""

from typing import no_type_check

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
@no_type_check
def sum_row(
    edges, summed, rate, B, C, write, write_now, x, y,
    first, tokens, heads, groups, states, headdim,
    H: tl.constexpr, N: tl.constexpr, P: tl.constexpr, K: tl.constexpr, SCALAR: tl.constexpr,
):  # fmt: skip
    """y[i] = Σ_j M[i, j] x[j] over the selected keys j ≤ i of query i = first + row, for H heads."""
    row, block, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i = first + row
    h = block * H + tl.arange(0, H)
    n = tl.arange(0, N)
    p = tl.arange(0, P)
    of_h, of_n, of_p = h < heads, n < states, p < headdim
    of_hn = of_h[:, None] & of_n[None, :]
    of_hp = of_h[:, None] & of_p[None, :]
    group = h // (heads // groups)
    at_hn = group[:, None] * states + n[None, :]
    at_hp = h[:, None] * headdim + p[None, :]
    start = (batch * tokens).to(tl.int64)
    query = start + i
    read = tl.load(C + query * groups * states + at_hn, of_hn, 0.0)
    until = tl.load(summed + query * heads + h, of_h, 0.0)
    if SCALAR:  # noqa: SIM108
        decays = tl.load(rate + h, of_h, 0.0)
    else:
        decays = tl.load(rate + h[:, None] * states + n[None, :], of_hn, 0.0)
    total = tl.zeros([H, P], tl.float32)
    edge_row = edges + row.to(tl.int64) * tokens
    for key in range(0, i, K):
        k = key + tl.arange(0, K)
        some = tl.load(edge_row + k, k < i, 0).to(tl.int32)
        if tl.sum(some) > 0:
            for j in range(key, tl.minimum(key + K, i)):
                if tl.load(edge_row + j) != 0:
                    source = start + j
                    since = tl.load(summed + source * heads + h, of_h, 0.0)
                    # The difference of float64 sums: float32 sums would lose its digits.
                    apart = (until - since).to(tl.float32)
                    put = tl.load(B + source * groups * states + at_hn, of_hn, 0.0)
                    weight = tl.load(write + source * heads + h, of_h, 0.0)
                    if SCALAR:
                        entry = tl.sum(read * put, 1) * tl.exp(apart * decays)
                    else:
                        entry = tl.sum(read * put * tl.exp(apart[:, None] * decays), 1)
                    mixed = tl.load(x + source * heads * headdim + at_hp, of_hp, 0.0)
                    total += (entry * weight)[:, None] * mixed
    if tl.load(edge_row + i) != 0:
        put = tl.load(B + query * groups * states + at_hn, of_hn, 0.0)
        weight = tl.load(write_now + query * heads + h, of_h, 0.0)
        entry = tl.sum(read * put, 1) * weight
        total += entry[:, None] * tl.load(x + query * heads * headdim + at_hp, of_hp, 0.0)
    rows = tl.num_programs(0)
    out = (batch * rows + row).to(tl.int64) * heads * headdim
    tl.store(y + out + at_hp, total, of_hp)
