"""Delta rules at random, and their rows by the backward recurrence, written out in float64."""

import numpy as np
import torch
from torch.nn.functional import normalize

from ssmlens.scan.operators.delta_rule import DeltaRule


def random_delta_rule(
    batch, tokens, heads, groups, state, *, vector=False, strongest=1.0, headdim=2, seed=0
):
    """In float64, with keys that overlap and decays from none to almost all; β up to `strongest`."""
    g = torch.Generator().manual_seed(seed)
    f64 = {"generator": g, "dtype": torch.double}
    q, k = (normalize(torch.randn(batch, tokens, groups, state, **f64) + 0.5, dim=3) for _ in "qk")
    components = state if vector else 1
    spread = torch.empty(batch, tokens, heads, components, dtype=torch.double).uniform_(
        -9, 2, generator=g
    )
    return DeltaRule(
        q * state**-0.5,
        k,
        torch.rand(batch, tokens, heads, **f64) * strongest,
        -spread.exp(),
        x=torch.randn(batch, tokens, heads, headdim, **f64),
    )


def row_by_definition(operator, sequence, head, i):
    """Row i of M, of the erase and of L (averaged over components) of one head, carried back token by token."""
    group = head * operator.groups // operator.heads
    q, k, beta, log_decay = (
        np.asarray(x[sequence].double())
        for x in (
            operator.q[:, :, group],
            operator.k[:, :, group],
            operator.beta[:, :, head],
            operator.log_decay[:, :, head],
        )
    )
    alpha = np.exp(log_decay)
    M, erase, mask = np.zeros((3, operator.tokens))
    reader, passed = q[i], np.ones(alpha.shape[1])
    eraser = np.zeros_like(reader)
    for j in range(i, -1, -1):
        M[j], erase[j], mask[j] = beta[j] * reader @ k[j], eraser @ k[j], passed.mean()
        reader = alpha[j] * (reader - M[j] * k[j])
        eraser = alpha[j] * (eraser - beta[j] * erase[j] * k[j])
        if j == i:
            eraser = -beta[i] * alpha[i] * k[i]
        passed = alpha[j] * passed
    return M, erase, mask
