"""Kernels of `short_scan`, in Gluon: a warp goes through the tokens of a few channels with their states in registers.

A tile is [state channel]; L threads of the warp share the states of a channel. Warps share nothing, so none waits for
another. The inputs of a step are loaded one step ahead.
"""

from typing import no_type_check

from triton.experimental import gluon  # pyright: ignore[reportMissingImports]
from triton.experimental.gluon import language as gl  # pyright: ignore[reportMissingImports]

_LOG2E = gl.constexpr(1.4426950408889634)
_LN2 = gl.constexpr(0.6931471805599453)


@gluon.jit
@no_type_check
def _exp2(x):
    """2^x in one instruction, with error 2⁻²²; results below 2⁻¹²⁶ become 0."""
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
@no_type_check
def _sigmoid(x):
    e = 1 + _exp2(-_LOG2E * x)
    return gl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [e], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
@no_type_check
def _softplus(x):
    """log(1 + exp(x)); v / (s − 1) corrects the rounding of 1 + v."""
    v = _exp2(-_LOG2E * gl.abs(x))
    s = 1 + v
    return gl.maximum(x, 0) + gl.where(s == 1, v, gl.log(s) * (v / (s - 1)))


@gluon.jit
@no_type_check
def _both(a, b, c, d):
    return a + c, b + d


@gluon.jit
@no_type_check
def _load(x, row, stride, index):
    return gl.load(x + row.to(gl.int64) * stride + index)


@gluon.jit(do_not_specialize=("tokens",))
@no_type_check
def scan_forward(
    u, dt, A, B, C, D, z, bias, out, y, steps, saved,
    tokens, u_row, dt_row, B_row, C_row, z_row,
    channels: gl.constexpr, M: gl.constexpr, N: gl.constexpr, K: gl.constexpr, L: gl.constexpr,
):  # fmt: skip
    """Scan M channels of a sequence; store y before its gate, Δ, and the states before every K-th token."""
    batch, block = gl.program_id(0), gl.program_id(1)
    tile: gl.constexpr = gl.BlockedLayout([N // L, M * L // 32], [L, 32 // L], [1, 1], [1, 0])
    n = gl.arange(0, N, gl.SliceLayout(1, tile))
    d = block * M + gl.arange(0, M, gl.SliceLayout(0, tile))
    at_tile = n[:, None] * channels + d[None, :]
    rate = gl.load(A + at_tile) * _LOG2E
    skip = gl.load(D + d)
    shift = gl.load(bias + d)
    h = gl.zeros([N, M], gl.float32, tile)
    chunks = gl.cdiv(tokens, K)
    row = batch * tokens
    next_u, next_dt = _load(u, row, u_row, d), _load(dt, row, dt_row, d)
    next_B, next_C = _load(B, row, B_row, n), _load(C, row, C_row, n)
    next_z = _load(z, row, z_row, d)
    for t in range(tokens):
        now, raw, gate = next_u.to(gl.float32), next_dt.to(gl.float32), next_z.to(gl.float32)
        write, read = next_B.to(gl.float32), next_C.to(gl.float32)
        row = batch * tokens + t
        after = batch * tokens + gl.minimum(t + 1, tokens - 1)
        next_u, next_dt = _load(u, after, u_row, d), _load(dt, after, dt_row, d)
        next_B, next_C = _load(B, after, B_row, n), _load(C, after, C_row, n)
        next_z = _load(z, after, z_row, d)
        if t % K == 0:
            gl.store(saved + (batch * chunks + t // K).to(gl.int64) * N * channels + at_tile, h)
        step = _softplus(raw + shift)
        h = _exp2(step[None, :] * rate) * h + (step * now)[None, :] * write[:, None]
        seen = gl.sum(h * read[:, None], 0) + skip * now
        at = row.to(gl.int64) * channels + d
        gl.store(y + at, seen)
        gl.store(steps + at, step)
        gl.store(out + at, seen * gate * _sigmoid(gate))


@gluon.jit
@no_type_check
def _load_or_0(x, row, stride, index, mask):
    return gl.load(x + row.to(gl.int64) * stride + index, mask=mask, other=0).to(gl.float32)


@gluon.jit(do_not_specialize=("batches", "tokens"))
@no_type_check
def scan_backward(
    u, dt, A, B, C, D, z, bias, y, steps, saved, dout,
    du, ddt, dz, dA, dBC, dD_dbias,
    batches, tokens, u_row, dt_row, B_row, C_row, z_row,
    channels: gl.constexpr, M: gl.constexpr, N: gl.constexpr, K: gl.constexpr, L: gl.constexpr,
):  # fmt: skip
    """Compute gradients, K tokens at a time from last to first; recompute their states from the saved ones.

    A program writes its sequence's part of dA, dD and dbias, and its channels' part of dB and dC. Tokens beyond the
    last are zeros: no step, no gradient.
    """
    batch, block = gl.program_id(0), gl.program_id(1)
    tile: gl.constexpr = gl.BlockedLayout([N // L, M * L // 32], [L, 32 // L], [1, 1], [1, 0])
    n = gl.arange(0, N, gl.SliceLayout(1, tile))
    d = block * M + gl.arange(0, M, gl.SliceLayout(0, tile))
    at_tile = n[:, None] * channels + d[None, :]
    rate = gl.load(A + at_tile) * _LOG2E
    skip = gl.load(D + d)
    shift = gl.load(bias + d)
    grad = gl.zeros([N, M], gl.float32, tile)
    grad_A = gl.zeros([N, M], gl.float32, tile)
    grad_D = gl.zeros([M], gl.float32, gl.SliceLayout(0, tile))
    grad_bias = gl.zeros([M], gl.float32, gl.SliceLayout(0, tile))
    chunks = gl.cdiv(tokens, K)
    blocks = gl.num_programs(1)
    rows = batches * tokens
    for back in range(chunks):
        chunk = chunks - 1 - back
        h = gl.load(saved + (batch * chunks + chunk).to(gl.int64) * N * channels + at_tile)
        nows, moves, writes, reads = (), (), (), ()
        raws, gates, seens, grad_outs = (), (), (), ()
        for k in gl.static_range(K):
            t = chunk * K + k
            row = batch * tokens + t
            of_d, of_n = (d >= 0) & (t < tokens), (n >= 0) & (t < tokens)
            nows = nows + (_load_or_0(u, row, u_row, d, of_d),)  # noqa: RUF005
            moves = moves + (_load_or_0(steps, row, channels, d, of_d),)  # noqa: RUF005
            writes = writes + (_load_or_0(B, row, B_row, n, of_n),)  # noqa: RUF005
            reads = reads + (_load_or_0(C, row, C_row, n, of_n),)  # noqa: RUF005
            gates = gates + (_load_or_0(z, row, z_row, d, of_d),)  # noqa: RUF005
            seens = seens + (_load_or_0(y, row, channels, d, of_d),)  # noqa: RUF005
            grad_outs = grad_outs + (_load_or_0(dout, row, channels, d, of_d),)  # noqa: RUF005
            raws = raws + (_load_or_0(dt, row, dt_row, d, of_d),)  # noqa: RUF005
        before = ()
        for k in gl.static_range(K):
            before = before + (h,)  # noqa: RUF005
            if k < K - 1:
                put = moves[k] * nows[k]
                h = _exp2(moves[k][None, :] * rate) * h + put[None, :] * writes[k][:, None]
        for j in gl.static_range(K):
            t = chunk * K + K - 1 - j
            row = batch * tokens + t
            of_d, of_n = (d >= 0) & (t < tokens), (n >= 0) & (t < tokens)
            at = row.to(gl.int64) * channels + d
            now, step, gate, grad_out = (
                nows[K - 1 - j],
                moves[K - 1 - j],
                gates[K - 1 - j],
                grad_outs[K - 1 - j],
            )
            write, read = writes[K - 1 - j], reads[K - 1 - j]
            opened = _sigmoid(gate)
            gl.store(
                dz + at, grad_out * seens[K - 1 - j] * opened * (1 + gate * (1 - opened)), of_d
            )
            grad_y = grad_out * gate * opened
            decay = _exp2(step[None, :] * rate)
            old = decay * before[K - 1 - j]
            put = step * now
            grad += grad_y[None, :] * read[:, None]
            changed = grad * old
            grad_A += step[None, :] * changed
            grad_put, grad_step = gl.reduce((grad * write[:, None], changed * rate), 0, _both)
            grad_step = grad_step * _LN2 + grad_put * now
            grad_raw = grad_step * _sigmoid(raws[K - 1 - j] + shift)
            gl.store(du + at, step * grad_put + skip * grad_y, of_d)
            gl.store(ddt + at, grad_raw, of_d)
            grad_D += grad_y * now
            grad_bias += grad_raw
            h = old + put[None, :] * write[:, None]
            grad_B = gl.sum(grad * put[None, :], 1)
            grad_C = gl.sum(grad_y[None, :] * h, 1)
            to = (block * rows + row).to(gl.int64) * N + n
            gl.store(dBC + to, grad_B, of_n)
            gl.store(dBC + blocks.to(gl.int64) * rows * N + to, grad_C, of_n)
            grad *= decay
    gl.store(dA + batch.to(gl.int64) * N * channels + at_tile, grad_A)
    gl.store(dD_dbias + batch * channels + d, grad_D)
    gl.store(dD_dbias + (batches + batch) * channels + d, grad_bias)
