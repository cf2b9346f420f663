"""What tests hold the package against: definitions written out in float64, sharing no code with it."""

import numpy as np
from reference_delta import reference_delta_rule
from reference_scan import reference_scan

from ssmlens.scan.operators.delta_rule import DeltaRule
from ssmlens.scan.operators.gated_convolution import GatedConvolution
from ssmlens.scan.operators.two_way import TwoWayScan
from ssmlens.scan.operators.vector_decay_scan import VectorDecayScan


def relative(got, wanted):
    """‖got − wanted‖ / ‖wanted‖, of tensors or arrays."""
    got, wanted = (np.asarray(_plain(x), dtype=np.float64) for x in (got, wanted))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def mixed_by_definition(operands):
    """M x + D x of operands of any family, token by token in float64."""
    if isinstance(operands, DeltaRule):
        return reference_delta_rule(operands, operands.x.double())
    if isinstance(operands, TwoWayScan):
        return two_way_by_definition(operands)
    if isinstance(operands, GatedConvolution):
        return _convolved(operands)
    if isinstance(operands, VectorDecayScan):
        return _decayed_by_state(operands)
    return reference_scan(operands)


def two_way_by_definition(o):
    """M x + D x of a two-way scan, token by token from the first one on and from the last one on, in float64."""
    x = o.x.detach().double()
    total = x * (0 if o.D is None else o.D.detach().double())
    for end, order in (("", slice(None)), ("_back", slice(None, None, -1))):
        arrays = {name: getattr(o, name + end) for name in ("delta", "A", "B", "C")}
        arrays = {name: getattr(o, name) if own is None else own for name, own in arrays.items()}
        delta, A, B, C = (array.detach().double() for array in arrays.values())
        B, C = (np.repeat(_plain(a), o.heads // a.shape[2], axis=2) for a in (B, C))
        delta, A, x_, y = _plain(delta), _plain(A), _plain(x), np.zeros(x.shape)
        state = np.zeros((*x_[:, 0].shape, B.shape[3]))
        for t in range(o.tokens)[order]:
            step = delta[:, t, :, None, None]
            state = np.exp(step * A[:, None]) * state
            state = state + step * x_[:, t, ..., None] * B[:, t, :, None]
            y[:, t] = (state * C[:, t, :, None]).sum(3)
        total = total + total.new_tensor(y)
    return total


def _convolved(o):
    """y[i] = C[i] Σ_k κ[k] B[i − k] x[i − k], token by token."""
    B, C, x, taps = (v.double() for v in (o.B, o.C, o.x, o.taps))
    y = x.new_zeros(x.shape)
    for i in range(x.shape[1]):
        for lag in range(min(i + 1, taps.shape[1])):
            tap = taps[:, taps.shape[1] - 1 - lag, None]
            y[:, i] += C[:, i] * tap * B[:, i - lag] * x[:, i - lag]
    return y


def _decayed_by_state(o):
    """S_t = S_{t−1} diag(α_t) + x_t B_tᵀ, y_t = S_t C_t, token by token."""
    B, C, x, log_decay = (v.double() for v in (o.B, o.C, o.x, o.log_decay))
    B, C = (v.repeat_interleave(o.heads // o.groups, dim=2) for v in (B, C))
    S, y = x.new_zeros(*x[:, 0].shape, B.shape[3]), x.new_zeros(x.shape)
    for t in range(x.shape[1]):
        S = S * log_decay[:, t, :, None].exp() + x[:, t, ..., None] * B[:, t, :, None]
        y[:, t] = (S * C[:, t, :, None]).sum(3)
    return y


def maps_by_definition(delta, A, B, C, log_decay=None, write=None, write_now=None):
    """Every head's M [head query key] and the mask [query key] of one sequence, row by row.

    M[h,i,j] = Σ_n C[i,n] exp(A (S_i − S_j)) B[j,n] Δ[j]; Mamba-3 gives the decay (`log_decay`, A None), and what weighs
    a token's write for later tokens and for itself.
    """
    arrays = (delta, A, B, C, log_decay, write, write_now)
    delta, A, B, C, log_decay, write, write_now = (
        None if x is None else np.asarray(_plain(x), dtype=np.float64) for x in arrays
    )
    tokens, heads = delta.shape
    steps = delta[:, :, None] * A.reshape(heads, -1) if log_decay is None else log_decay[..., None]
    write = delta if write is None else write
    write_now = delta if write_now is None else write_now
    group = np.arange(heads) * B.shape[1] // heads
    summed = np.cumsum(steps, axis=0)  # token head A_state
    maps, mask = np.zeros((heads, tokens, tokens)), np.zeros((tokens, tokens))
    for i in range(tokens):
        passed = np.exp(summed[i] - summed[: i + 1])  # key head A_state
        weight = np.concatenate([write[:i], write_now[i : i + 1]])
        maps[:, i, : i + 1] = ((C[i][group] * passed * B[: i + 1][:, group]).sum(2) * weight).T
        mask[i, : i + 1] = passed.mean((1, 2))
    return maps, mask


def blocks_by_definition(whole, block, causal=True):
    """Mean, and entry of largest magnitude, in each block of a map [query key], pair by pair: of j ≤ i where causal."""
    tokens = len(whole)
    count = -(-tokens // block)
    mean, largest = np.zeros((2, count, count))
    for r in range(count):
        for c in range(r + 1 if causal else count):
            pairs = [
                float(whole[i, j])
                for i in range(r * block, min((r + 1) * block, tokens))
                for j in range(c * block, min((c + 1) * block, i + 1 if causal else tokens))
            ]
            mean[r, c], largest[r, c] = np.mean(pairs), max(pairs, key=abs)
    return mean, largest


def _plain(x):
    return x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
