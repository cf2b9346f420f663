import pytest
import torch

from ssmlens.scan.operators.decay_scan import ScanOperands


@pytest.fixture(scope="session")
def random_operands():
    """random_operands(batch, tokens, heads, A_state, groups, state): what a scan reads, at random."""

    def make(
        batch, tokens, heads, A_state, groups, state, *, seed=0, scale=1.0, headdim=2
    ) -> ScanOperands:
        """Operands whose Δ spans five decades, so that some states forget at once and others never."""
        g = torch.Generator().manual_seed(seed)
        delta = torch.exp(torch.empty(batch, tokens, heads).uniform_(-9, 2, generator=g)) * scale
        B, C = (torch.randn(batch, tokens, groups, state, generator=g) for _ in range(2))
        x = torch.randn(batch, tokens, heads, headdim, generator=g)
        D = torch.randn(heads, 1, generator=g)
        if A_state:
            A = -torch.exp(torch.empty(heads, A_state).uniform_(-2, 3, generator=g))
            return ScanOperands(delta=delta, A=A, B=B, C=C, x=x, D=D)
        rate, write, write_now = (torch.rand(batch, tokens, heads, generator=g) for _ in range(3))
        return ScanOperands(
            delta=delta,
            A=None,
            B=B,
            C=C,
            x=x,
            D=D,
            log_decay=-delta * rate * 5,
            write=write,
            write_now=write_now,
        )

    return make
