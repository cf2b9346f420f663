"""Random operands of full size for the timed layers, with three strengths of decay."""

import math

import torch

from ssmlens.scan.operators.decay_scan import ScanOperands

DECAYS = ("ordinary", "trained-like", "none")


def mamba1(
    tokens: int, decay: str = "ordinary", *, d_inner: int = 2048, d_state: int = 16
) -> ScanOperands:
    """A Mamba-1 layer: Δ for each token and channel, A for each channel and state.

    Args:
        tokens: Length of the one sequence.
        decay: "ordinary": mamba_ssm's initialisation, A_n = −n and Δ log-uniform in [.001, .1] over channels, with
            some variation over tokens. "trained-like": Δ over five decades, A spread around −n. "none": A ≈ 0, so
            that every token is seen from every later one and no product is smaller than any other.
        d_inner: Channels.
        d_state: States of a channel.
    """
    random = torch.Generator().manual_seed(0)
    n = torch.arange(1, d_state + 1, dtype=torch.float32).expand(d_inner, d_state)
    if decay == "ordinary":
        delta, A = _delta(random, tokens, d_inner, low=1e-3, high=1e-1, variation=0.5), -n
    elif decay == "trained-like":
        delta = _delta(random, tokens, d_inner, low=1e-4, high=10.0, variation=2.0)
        A = -n * torch.exp(0.5 * torch.randn(d_inner, d_state, generator=random))
    elif decay == "none":
        delta = _delta(random, tokens, d_inner, low=1e-3, high=1e-1, variation=0.5)
        A = torch.full((d_inner, d_state), -1e-6)
    else:
        raise ValueError(f"unknown decay {decay!r}; choose from {DECAYS}")
    B, C = (torch.randn(1, tokens, 1, d_state, generator=random) for _ in range(2))
    return ScanOperands(delta=delta, A=A, B=B, C=C)


def mamba2(tokens: int, *, heads: int, d_state: int = 128) -> ScanOperands:
    """A Mamba-2 layer as mamba_ssm initialises it: one A for each head, uniform in −[1, 16]; one group."""
    random = torch.Generator().manual_seed(0)
    delta = _delta(random, tokens, heads, low=1e-3, high=1e-1, variation=0.5)
    A = -(1 + 15 * torch.rand(heads, 1, generator=random))
    B, C = (torch.randn(1, tokens, 1, d_state, generator=random) for _ in range(2))
    return ScanOperands(delta=delta, A=A, B=B, C=C)


def _delta(
    random: torch.Generator, tokens: int, heads: int, *, low: float, high: float, variation: float
) -> torch.Tensor:
    """softplus(bias of the head + noise of the token), the bias such that softplus(bias) is log-uniform."""
    uniform = torch.rand(heads, generator=random)
    typical = torch.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
    bias = typical + torch.log(-torch.expm1(-typical))  # the inverse of softplus
    noise = variation * torch.randn(1, tokens, heads, generator=random)
    return torch.nn.functional.softplus(bias + noise)
