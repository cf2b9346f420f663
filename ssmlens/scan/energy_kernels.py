"""Kernels of `decay_sums.energies`, in Triton: sums of M² of one head at a time, in blocks of tokens.

Inside a block every pair has its own exponentials. Between blocks only products of states by states are needed, so that
the work grows with the number of tokens, not with its square. The operands are those of `decay_kernels`.
"""

from typing import no_type_check

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from ssmlens.scan.decay_kernels import product


@triton.jit(do_not_specialize=("tokens",))
@no_type_check
def energies_within(
    running, rate, B, C, weight, out, of_queries, of_keys, tokens, heads, groups, states,
    SIZE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """For one head and SIZE tokens: the sum of M² over their pairs j < i, and for K states by K states PᵀP and QᵀQ.

    P are the tokens as queries, with the decay since the block's start, and Q as keys, with the decay until its end.
    """
    block, h, pair = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group = h // (heads // groups)
    token = block * SIZE + tl.arange(0, SIZE)
    place = tl.minimum(token, tokens - 1).to(tl.int64)
    end = tl.minimum((block + 1) * SIZE, tokens).to(tl.int64)
    sums = tl.load(running + (place + 1) * heads + h)
    since = (sums - tl.load(running + (block * SIZE).to(tl.int64) * heads + h)).to(tl.float32)
    until = (tl.load(running + end * heads + h) - sums).to(tl.float32)
    put = tl.load(weight + place * heads + h)
    vectors = (place * groups + group) * states
    parts = tl.cdiv(states, K)
    n, m = pair // parts * K + tl.arange(0, K), pair % parts * K + tl.arange(0, K)
    at = (h * tl.num_programs(0) + block).to(tl.int64) * tl.num_programs(2) + pair
    at_entry = at * K * K + tl.arange(0, K)[:, None] * K + tl.arange(0, K)[None, :]
    one = tl.full([SIZE], 1.0, tl.float32)
    P = _decayed(C, one, since, rate, vectors, n, h, heads, states, token < tokens)
    other = _decayed(C, one, since, rate, vectors, m, h, heads, states, token < tokens)
    tl.store(of_queries + at_entry, product(P, other))
    Q = _decayed(B, put, until, rate, vectors, n, h, heads, states, token < tokens)
    other = _decayed(B, put, until, rate, vectors, m, h, heads, states, token < tokens)
    tl.store(of_keys + at_entry, product(Q, other))
    if pair == 0:
        real = (token < tokens)[:, None] & (token[None, :] < token[:, None])
        between = tl.where(real, (sums[:, None] - sums[None, :]).to(tl.float32), 0.0)
        entries = tl.zeros([SIZE, SIZE], tl.float32)
        for state in range(states):
            read, write = tl.load(C + vectors + state), tl.load(B + vectors + state)
            decay = tl.exp2(between * tl.load(rate + state * heads + h))
            entries += read[:, None] * write[None, :] * decay
        entries = tl.where(real, entries * put[None, :], 0.0)
        total = tl.sum(tl.sum(entries * entries, 1), 0)
        tl.store(out + h * (tl.num_programs(0) + tl.num_programs(2)) + block, total)


@triton.jit
@no_type_check
def _decayed(vectors, put, between, rate, at, n, h, heads, states, real):
    """[state token]: the entries n of the tokens' vectors, weighted, with the decay over `between`."""
    of_n = n < states
    decays = tl.load(rate + n * heads + h, of_n, 0.0)[:, None]
    entries = tl.load(vectors + at[None, :] + n[:, None], of_n[:, None] & real[None, :], 0.0)
    return entries * put[None, :] * tl.exp2(between[None, :] * decays)


@triton.jit(do_not_specialize=("tokens", "blocks"))
@no_type_check
def energies_between(
    running, rate, of_queries, of_keys, out, tokens, heads, states, blocks, SIZE: tl.constexpr, K: tl.constexpr
):  # fmt: skip
    """The sum of M² over the pairs of different blocks, for one head and K states by K states.

    ‖P Qᵀ‖² = ⟨PᵀP, QᵀQ⟩, and QᵀQ of all earlier blocks decays from block to block.
    """
    h, pair = tl.program_id(0), tl.program_id(1)
    parts = tl.cdiv(states, K)
    n, m = pair // parts * K + tl.arange(0, K), pair % parts * K + tl.arange(0, K)
    rates_n = tl.load(rate + n * heads + h, n < states, 0.0)
    rates_m = tl.load(rate + m * heads + h, m < states, 0.0)
    of_entry = tl.arange(0, K)[:, None] * K + tl.arange(0, K)[None, :]
    before = tl.zeros([K, K], tl.float32)
    total = tl.zeros([K, K], tl.float32)
    then = tl.load(running + h)
    for block in range(0, blocks):
        at = ((h * blocks + block).to(tl.int64) * tl.num_programs(1) + pair) * K * K + of_entry
        total += tl.load(of_queries + at) * before
        end = tl.minimum((block + 1) * SIZE, tokens).to(tl.int64)
        now = tl.load(running + end * heads + h)
        across = (now - then).to(tl.float32)
        then = now
        before *= tl.exp2(across * rates_n)[:, None] * tl.exp2(across * rates_m)[None, :]
        before += tl.load(of_keys + at)
    tl.store(out + h * (blocks + tl.num_programs(1)) + blocks + pair, tl.sum(tl.sum(total, 1), 0))
