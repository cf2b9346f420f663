"""From continuous to discrete time: Ā and B̄."""

import torch
from jaxtyping import Float
from torch import Tensor


def discretize_A(
    delta: Float[Tensor, "*batch token head"], A: Float[Tensor, "head A_state"]
) -> Float[Tensor, "*batch token head A_state"]:
    """Decay of every state at every token: Ā = exp(Δ A) (paper eq. 3), in (0, 1].

    Args:
        delta: Δ, after softplus and clamp.
        A: Continuous-time decay, negative; one column in Mamba-2.
    """
    return torch.exp(delta.unsqueeze(-1) * A)


def discretize_B(
    delta: Float[Tensor, "*batch token head"], B: Float[Tensor, "*batch token group state"]
) -> Float[Tensor, "*batch token head state"]:
    """Write vector of every head at every token: B̄ = Δ B (paper eq. 3).

    This is the Euler step, which Mamba's code uses for B. Mamba's paper gives the zero-order hold (Ā − 1) A⁻¹ B, which
    its code does not compute.

    Args:
        delta: Δ, after softplus and clamp.
        B: Write vectors of each group; heads are split evenly and in order over the groups.
    """
    per_head = B.repeat_interleave(delta.shape[-1] // B.shape[-2], dim=-2)
    return delta.unsqueeze(-1) * per_head
