"""What tests hold the package against: definitions written out in float64, sharing no code with it."""

import numpy as np

from ssmlens.scan.operators.delta_rule import DeltaRule
from ssmlens.scan.operators.gated_convolution import GatedConvolution
from ssmlens.scan.reference import reference_scan
from ssmlens.scan.reference_delta import reference_delta_rule


def relative(got, wanted):
    """‖got − wanted‖ / ‖wanted‖, of tensors or arrays."""
    got, wanted = (np.asarray(_plain(x), dtype=np.float64) for x in (got, wanted))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def mixed_by_definition(operands):
    """M x + D x of operands of any family, token by token in float64."""
    if isinstance(operands, DeltaRule):
        return reference_delta_rule(operands, operands.x.double())
    if isinstance(operands, GatedConvolution):
        return _convolved(operands)
    return reference_scan(operands)


def _convolved(o):
    """y[i] = C[i] Σ_k κ[k] B[i − k] x[i − k], token by token."""
    B, C, x, taps = (v.double() for v in (o.B, o.C, o.x, o.taps))
    y = x.new_zeros(x.shape)
    for i in range(x.shape[1]):
        for lag in range(min(i + 1, taps.shape[1])):
            tap = taps[:, taps.shape[1] - 1 - lag, None]
            y[:, i] += C[:, i] * tap * B[:, i - lag] * x[:, i - lag]
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


def blocks_by_definition(whole, block):
    """Mean, and entry of largest magnitude, of the pairs j ≤ i in each block of a map [query key], pair by pair."""
    tokens = len(whole)
    count = -(-tokens // block)
    mean, largest = np.zeros((2, count, count))
    for r in range(count):
        for c in range(r + 1):
            pairs = [
                float(whole[i, j])
                for i in range(r * block, min((r + 1) * block, tokens))
                for j in range(c * block, min((c + 1) * block, i + 1))
            ]
            mean[r, c], largest[r, c] = np.mean(pairs), max(pairs, key=abs)
    return mean, largest


def _plain(x):
    return x.detach().cpu().double().numpy() if hasattr(x, "detach") else x
